//! Another configuration while tasks run.

use std::sync::Arc;

use super::state::{Engine, Given, TaskState};
use crate::{
    books::Tables,
    budget::AccountId,
    config::Config,
    task::{AccountName, USER_TENANT},
};

impl Engine {
    /// What a valid configuration says holds from now on: for accounts that are open, too, as far as nobody has said otherwise of them.
    pub fn configure(&mut self, config: &Config) {
        self.budget = config.budget.clone();
        self.configured = config.account.iter().map(|account| (account.name.clone(), account.budget.clone())).collect();
        self.users = config.users.budget.clone();
        self.tools = Arc::new(config.tools());
        self.prices = Tables::of(config.state_dir()).book(&config.price);
        self.rules = config.rules();
        self.watcher.defaults = config.signals.clone();
        for account in self.settings.keys().copied().collect::<Vec<_>>() {
            self.watch(account);
        }
        self.coverage.configure(config.coverage_settings());
        let open: Vec<(AccountId, AccountName)> =
            self.by_account.iter().map(|(account, name)| (*account, name.clone())).collect();
        for (account, name) in open {
            // Those of tasks were told when they were started; accounts of tenants and workflows are the configuration's.
            let is_users = matches!(&name, AccountName::Tenant(tenant) if tenant.as_str().starts_with(USER_TENANT));
            if !is_users && !self.configured.contains_key(&name) {
                continue;
            }
            let settings = self.settings_of(&name);
            if let Err(error) = self.set_budget(account, &settings) {
                tracing::error!("{name}: {error}");
            }
        }
        self.configure_rules();
        self.label_all();
        self.act_on_decisions();
        self.touched.extend(self.tasks.keys());
    }

    /// Budgets that rules give.
    fn configure_rules(&mut self) {
        let by_rule = self.tasks.values_mut().filter(|task| task.state == TaskState::Running);
        let mut changed = Vec::new();
        for task in by_rule.filter(|task| matches!(task.given, Some(Given::Rule(_)))) {
            let found = self.rules.find(&self.hierarchy.path(&task.cgroup));
            if let Some((number, said)) = found.filter(|(_, said)| said.task == task.id) {
                task.given = Some(Given::Rule(number));
                changed.push((task.account, said.budget));
            }
        }
        for (account, budget) in changed {
            if let Err(error) = self.set_budget(account, &budget) {
                tracing::error!("{error}");
            }
        }
    }
}
