//! The accounts of tasks, workflows and tenants: how they are opened, and what is known of them.

use jiff::Timestamp;

use super::{
    command::{AccountStatus, CommandError, Order, Past},
    state::Engine,
};
use crate::{
    budget::{AccountId, Action, Approval, Budget, Charge, InvalidBudget, Onto, Reason, Settings, Window},
    ledger::{PastCharge, PastOrder},
    probe::Slot,
    task::{AccountName, Labels, USER_TENANT},
};

/// Workflows and tenants outlive their tasks: a kill ends these, and lasts as long as the limit demands it.
fn budget_of(name: &AccountName, settings: &Settings) -> Result<Budget, InvalidBudget> {
    Ok(Budget { kill_is_final: matches!(name, AccountName::Task(_)), ..settings.budget()? })
}

impl Engine {
    pub fn account(&self, name: &AccountName) -> Option<AccountId> {
        match name {
            AccountName::Task(task) => {
                self.slots.get(task).and_then(|slot| self.tasks.get(slot)).map(|task| task.account)
            }
            _ => self.above.get(name).copied(),
        }
    }

    /// What holds for an account where nobody says otherwise.
    pub fn settings_of(&self, name: &AccountName) -> Settings {
        let own = self.configured.get(name).cloned().unwrap_or_default();
        match name {
            AccountName::Task(_) => own.over(&self.budget),
            AccountName::Tenant(tenant) if tenant.as_str().starts_with(USER_TENANT) => own.over(&self.users),
            _ => own,
        }
    }

    /// Opens the accounts that a task with these labels is below, as far as they are not open; returns the nearest.
    pub fn open_above(&mut self, labels: &Labels, past: &[Past]) -> Result<Option<AccountId>, CommandError> {
        let mut nearest = None;
        for name in labels.above() {
            if let Some(open) = self.account(&name) {
                nearest = Some(open);
                continue;
            }
            if let AccountName::Task(task) = name {
                return Err(CommandError::NoTask(task));
            }
            let settings = self.settings_of(&name);
            let past = past.iter().find(|past| past.account == name);
            let (charges, orders) =
                past.map_or((&[][..], &[][..]), |past| (past.charges.as_slice(), past.orders.as_slice()));
            let account = self.open_account(name, nearest, settings, charges, orders)?;
            if let Some(past) = past {
                past.tasks.iter().for_each(|cost| self.watcher.signals.task_ended(account, *cost));
                past.trouble.iter().for_each(|trouble| self.trouble_again(account, trouble));
            }
            nearest = Some(account);
        }
        Ok(nearest)
    }

    /// Opens an account with what it has spent, and with what people have decided about it since it was last started.
    pub fn open_account(
        &mut self,
        name: AccountName,
        parent: Option<AccountId>,
        settings: Settings,
        charges: &[PastCharge],
        orders: &[PastOrder],
    ) -> Result<AccountId, CommandError> {
        let failed =
            |error: &dyn std::fmt::Display| CommandError::Failed(format!("cannot open account {name}: {error}"));
        let account = self.accounts.open(parent, budget_of(&name, &settings)?).map_err(|error| failed(&error))?;
        self.settings.insert(account, settings);
        self.by_account.insert(account, name.clone());
        if !matches!(name, AccountName::Task(_)) {
            self.above.insert(name, account);
        }
        self.watch(account);
        self.restore(account, charges);
        for past in orders {
            match serde_json::from_str::<Order>(&past.what) {
                Ok(order) => self.order_again(account, order, past.at),
                Err(error) => tracing::error!("an order in the ledger cannot be read: {error}"),
            }
        }
        Ok(account)
    }

    pub fn restore(&mut self, account: AccountId, charges: &[PastCharge]) {
        for PastCharge { at, model, tokens, cost, unpriced, is_typical, is_tool } in charges {
            let charge = Charge {
                cost: *cost,
                unpriced: *unpriced,
                model: model.as_deref(),
                tokens: *tokens,
                is_typical: *is_typical,
                is_tool: *is_tool,
                at: *at,
            };
            // Those above have their own charges in the ledger, these among them.
            self.accounts.restore(account, &charge, Onto::Account);
        }
    }

    /// An order that was carried out before this start.
    fn order_again(&mut self, account: AccountId, order: Order, at: Timestamp) {
        let now = Timestamp::now();
        let done = match order {
            Order::Add { usd } => self.accounts.approve_again(account, Approval::Add(usd), at),
            Order::Until { time } => self.accounts.approve_again(account, Approval::Until(time), at),
            Order::Resume => self.accounts.approve(account, Approval::Add(Default::default()), now),
            Order::Budget { settings } => self
                .set_budget(account, &settings)
                .map_err(|error| {
                    tracing::error!("a budget in the ledger cannot be used: {error}");
                })
                .or(Ok(())),
            Order::Pause => {
                self.accounts.impose(account, Action::Pause, Reason::Ordered, now);
                Ok(())
            }
            // A task that was killed is started again by somebody who may.
            Order::Kill | Order::Approve | Order::Deny => Ok(()),
        };
        if let Err(error) = done {
            tracing::error!("an order in the ledger cannot be carried out: {error}");
        }
    }

    /// What these settings say from now on, else as before.
    pub fn set_budget(&mut self, account: AccountId, settings: &Settings) -> Result<(), CommandError> {
        let settings = settings.over(&self.settings.get(&account).cloned().unwrap_or_default());
        let Some(name) = self.by_account.get(&account) else { return Ok(()) };
        let set = self.accounts.set_budget(account, budget_of(name, &settings)?, Timestamp::now());
        set.map_err(|error| CommandError::Failed(error.to_string()))?;
        self.settings.insert(account, settings);
        self.watch(account);
        for slot in self.slots_within(account) {
            self.apply_uncovered(slot);
        }
        Ok(())
    }

    /// What a task's budget is: what was said when it was started, else what the configuration says of it, else of all tasks.
    pub fn task_settings(&self, name: &AccountName, said: &Settings) -> Settings {
        said.over(&self.settings_of(name))
    }

    /// Tasks of this account and of all below it that have not ended.
    pub fn slots_within(&self, account: AccountId) -> Vec<Slot> {
        let within =
            |task: &super::state::Task| !task.state.is_over() && self.accounts.is_within(task.account, account);
        self.tasks.iter().filter(|(_, task)| within(task)).map(|(slot, _)| *slot).collect()
    }

    pub fn account_status(&self, account: AccountId) -> Option<AccountStatus> {
        let name = self.by_account.get(&account)?.clone();
        let capped =
            || Window::ALL.into_iter().filter_map(|window| Some((window, self.accounts.cap(account, window)?)));
        let unpriced = self.accounts.unpriced(account);
        let standing = self.accounts.standing(account);
        Some(AccountStatus {
            account: name,
            spent_usd: self.accounts.spent(account) - unpriced,
            ceilings_usd: unpriced,
            held_usd: self.accounts.held(account),
            caps_usd: capped().map(|(window, cap)| (window.name().to_owned(), cap)).collect(),
            windows_usd: capped()
                .map(|(window, _)| (window.name().to_owned(), self.accounts.spent_in(account, window)))
                .collect(),
            action: standing.map(|(_, action, _)| action.name().to_owned()),
            reason: standing.map(|(_, _, reason)| reason.to_string()),
        })
    }
}
