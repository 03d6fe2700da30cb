//! What people decide: approve, deny, pause, resume, kill, another budget.

use jiff::Timestamp;

use super::{
    asker::Asker,
    command::{AccountStatus, CommandError, Order},
    state::Engine,
};
use crate::{
    alert::Kind,
    budget::{AccountError, AccountId, Action, Approval, Consent, Reason},
    ledger::Entry,
    price::Money,
    probe::Pid,
    task::AccountName,
};

impl Engine {
    /// Carries out an order: it is written to the ledger before anything comes of it.
    pub fn order(
        &mut self,
        peer: &Asker,
        actor: &str,
        name: &AccountName,
        order: Order,
    ) -> Result<AccountStatus, CommandError> {
        self.refuse_insiders(peer)?;
        let account = self.account(name).ok_or_else(|| match name {
            AccountName::Task(task) => CommandError::NoTask(task.clone()),
            other => CommandError::NoAccount(other.clone()),
        })?;
        if let Order::Budget { settings } = &order {
            settings.over(&self.settings.get(&account).cloned().unwrap_or_default()).budget()?;
        }
        let now = Timestamp::now();
        let what = serde_json::to_string(&order).unwrap_or_default();
        self.ledger.put(Entry::Ordered { account: name.clone(), what, actor: actor.to_owned(), at: now });
        let said = self.carry_out(account, order, now).map_err(|error| match error {
            AccountError::Killed => CommandError::Killed(name.clone()),
            other => CommandError::Failed(other.to_string()),
        })?;
        self.decide_on(name, Kind::Order, said, Some(actor));
        self.act_on_decisions();
        for slot in self.slots_within(account) {
            self.touched.insert(slot);
        }
        self.account_status(account).ok_or_else(|| CommandError::NoAccount(name.clone()))
    }

    fn carry_out(&mut self, account: AccountId, order: Order, now: Timestamp) -> Result<String, AccountError> {
        if matches!(order, Order::Add { .. } | Order::Until { .. } | Order::Resume) {
            self.forgive_trouble(account);
        }
        Ok(match order {
            Order::Add { usd } => {
                self.accounts.approve(account, Approval::Add(usd), now)?;
                format!("${usd} more may be spent")
            }
            Order::Until { time } => {
                self.accounts.approve(account, Approval::Until(time), now)?;
                format!("limits do not count before {time}")
            }
            Order::Approve => format!("{} waiting calls may go", self.consent(account)),
            Order::Deny => match self.dissent(account) {
                0 => {
                    self.accounts.deny(account, now);
                    "denied: it is killed".to_owned()
                }
                calls => format!("{calls} waiting calls are refused"),
            },
            Order::Pause => {
                self.accounts.impose(account, Action::Pause, Reason::Ordered, now);
                "paused".to_owned()
            }
            Order::Resume => {
                self.accounts.approve(account, Approval::Add(Money::ZERO), now)?;
                "may go on, as far as its limits let it".to_owned()
            }
            Order::Kill => {
                self.accounts.impose(account, Action::Kill, Reason::Ordered, now);
                "killed".to_owned()
            }
            Order::Budget { settings } => {
                let said = serde_json::to_string(&settings).unwrap_or_default();
                if let Err(error) = self.set_budget(account, &settings) {
                    // It was looked at before.
                    tracing::error!("{error}");
                }
                format!("another budget: {said}")
            }
        })
    }

    /// Calls of the account that wait for a yes have it. Returns how many.
    fn consent(&mut self, account: AccountId) -> usize {
        let slots = self.slots_within(account);
        let mut count = 0;
        for process in self.held.values_mut().filter(|process| slots.contains(&process.slot)) {
            for request in process.requests.iter_mut().filter(|request| request.awaits.is_some()) {
                (request.consent, request.awaits) = (Consent::Given, None);
                count += 1;
            }
        }
        count
    }

    /// Calls of the account that wait for a yes are refused. Returns how many.
    fn dissent(&mut self, account: AccountId) -> usize {
        let slots = self.slots_within(account);
        let waits = |process: &super::held::HeldProcess| {
            slots.contains(&process.slot) && process.requests.iter().any(|request| request.awaits.is_some())
        };
        let pids: Vec<Pid> = self.held.iter().filter(|(_, process)| waits(process)).map(|(pid, _)| *pid).collect();
        for &pid in &pids {
            self.refuse(pid, &Reason::Denied);
        }
        pids.len()
    }
}
