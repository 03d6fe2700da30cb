//! Tasks whose cgroups are made by others: by a label on the cgroup, or by a rule that recognises it.
//!
//! Such a task lasts as long as its cgroup, populated or not. A cgroup is labelled in the kernel as soon as it is heard of, which is before what is
//! started in it has executed its program; and a process in a cgroup below a labelled one belongs to that task from the beginning.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use monitor_common::CGROUP_PATH;

use super::{
    asker::Asker,
    clock::boot_nanoseconds,
    command::{CommandError, LabelStatus, Past},
    state::{Engine, Given, Task, TaskState},
};
use crate::{
    alert::Kind,
    budget::Settings,
    enforce::{Cgroup, Held, held_state, label_of, stop, write_label},
    label::Said,
    ledger::{Entry, LedgerError, Reader},
    probe::{Mapping, Pid, Slot},
    task::{AccountName, Labels, TaskId},
};

/// How long the ledger may take to write what it has.
const FLUSH: Duration = Duration::from_secs(1);
/// cgroups that are kept for another attempt.
const LATER: usize = 1024;
/// Parts of one task by different cgroups that are told apart.
const PARTS: u32 = 1000;

/// Whether `path` is `above` or below it.
fn is_within(path: &str, above: &str) -> bool {
    Path::new(path).starts_with(above)
}

impl Engine {
    /// A cgroup was made somewhere.
    pub fn on_cgroup_made(&mut self, path: &[u8]) {
        // One byte is for the end of the text.
        if path.len() >= CGROUP_PATH - 1 {
            return self.label_all();
        }
        if let Ok(path) = std::str::from_utf8(path) {
            self.consider(path);
        }
    }

    /// Labels every cgroup that has a label or a rule and is no task yet.
    pub fn label_all(&mut self) {
        for path in self.hierarchy.all() {
            self.consider(&path);
        }
    }

    /// Tries again what could not be done before.
    pub fn label_later(&mut self) {
        for path in std::mem::take(&mut self.unlabelled) {
            self.consider(&path);
        }
    }

    /// Makes the cgroup a task if a label or a rule says so.
    fn consider(&mut self, path: &str) {
        if self.hierarchy.is_own_path(path) {
            return;
        }
        let directory = self.hierarchy.directory(path);
        let found = match label_of(&directory) {
            Ok(Some(said)) => Some((said, Given::Label)),
            Ok(None) => self.rules.find(path).map(|(number, said)| (said, Given::Rule(number))),
            Err(error) => {
                self.alert(Kind::EffectFailed, None, format!("the cgroup {path} is not a task: {error}"));
                None
            }
        };
        let Some((said, given)) = found else { return };
        match self.give(path, said, given) {
            // Gone already.
            Ok(_) | Err(CommandError::NoCgroup(_)) => {}
            Err(CommandError::Stopping(_)) if self.unlabelled.len() < LATER => self.unlabelled.push(path.to_owned()),
            Err(error) => {
                self.alert(Kind::EffectFailed, None, format!("the cgroup {path} could not be made a task: {error}"));
            }
        }
    }

    /// A person labels a cgroup.
    pub fn label(&mut self, peer: &Asker, actor: &str, path: &str, said: &Said) -> Result<LabelStatus, CommandError> {
        self.refuse_insiders(peer)?;
        said.budget.budget()?;
        let directory = self.hierarchy.directory(path);
        let before = label_of(&directory).ok().flatten();
        let slot = self.give(path, said.clone(), Given::Label)?;
        if let Err(error) = write_label(&directory, Some(said)) {
            // It holds now and would not after a restart: that is no label.
            write_label(&directory, before.as_ref()).ok();
            self.take(slot);
            return Err(CommandError::Failed(error.to_string()));
        }
        let task = self.tasks.get(&slot).ok_or_else(|| CommandError::NoCgroup(path.into()))?;
        let name = AccountName::Task(task.id.clone());
        self.decide_on(&name, Kind::Order, format!("the cgroup {path} is labelled"), Some(actor));
        self.label_status(slot).ok_or_else(|| CommandError::NoCgroup(path.into()))
    }

    /// A person takes a label away. What runs in the cgroup is no task any longer, but part of the one that it lies in.
    pub fn unlabel(&mut self, peer: &Asker, actor: &str, path: &str) -> Result<LabelStatus, CommandError> {
        self.refuse_insiders(peer)?;
        let directory = self.hierarchy.directory(path);
        let slot = self.task_at(path).ok_or_else(|| CommandError::NoLabel(path.into()))?;
        let status = self.label_status(slot).ok_or_else(|| CommandError::NoLabel(path.into()))?;
        match self.tasks.get(&slot).and_then(|task| task.given) {
            Some(Given::Label) => {}
            Some(Given::Rule(number)) => return Err(CommandError::ByRule { cgroup: path.into(), number }),
            None => return Err(CommandError::NoLabel(path.into())),
        }
        write_label(&directory, None).map_err(|error| CommandError::Failed(error.to_string()))?;
        let name = AccountName::Task(status.task.clone());
        self.decide_on(&name, Kind::Order, format!("the cgroup {path} is no longer labelled"), Some(actor));
        self.take(slot);
        self.consider(path);
        Ok(status)
    }

    /// Every cgroup that is a task by a label or a rule.
    pub fn labels(&self) -> Vec<LabelStatus> {
        let mut labels: Vec<_> = self.tasks.keys().filter_map(|slot| self.label_status(*slot)).collect();
        labels.sort_by(|a, b| a.cgroup.cmp(&b.cgroup));
        labels
    }

    fn label_status(&self, slot: Slot) -> Option<LabelStatus> {
        let task = self.tasks.get(&slot).filter(|task| task.state == TaskState::Running || task.cgroup.exists())?;
        let by = match task.given? {
            Given::Label => "label".to_owned(),
            Given::Rule(number) => format!("rule {number}"),
        };
        Some(LabelStatus {
            cgroup: self.hierarchy.path(&task.cgroup),
            task: task.id.clone(),
            labels: task.labels.clone(),
            budget: self.settings.get(&task.account).cloned().unwrap_or_default(),
            state: task.state_name().into(),
            by,
        })
    }

    /// The cgroup at this path, for a task that it was made for. In the cgroup of a task, it becomes a part of that.
    pub fn made_for(&self, path: &str, labels: &mut Labels) -> Result<Cgroup, CommandError> {
        let cgroup = Cgroup::open(self.hierarchy.directory(path)).map_err(|_| CommandError::NoCgroup(path.into()))?;
        self.refuse_own_cgroup(path)?;
        let outer = self.task_above(path).and_then(|slot| self.tasks.get(&slot));
        if let Some(outer) = outer {
            if outer.cgroup.id() == cgroup.id() {
                return Err(CommandError::Failed(format!("the cgroup {path} is task {} already", outer.id)));
            }
            if *labels != Labels::default() && labels.parent.as_ref() != Some(&outer.id) {
                return Err(CommandError::Failed(format!(
                    "the cgroup {path} lies in that of task {}, which pays for it: it cannot have another tenant, workflow or parent",
                    outer.id
                )));
            }
            *labels = Labels { parent: Some(outer.id.clone()), ..Labels::default() };
        }
        if let Some(inner) = self.task_below(path) {
            return Err(CommandError::Failed(format!("{inner}, in a cgroup below {path}, is a task already")));
        }
        Ok(cgroup)
    }

    fn refuse_own_cgroup(&self, path: &str) -> Result<(), CommandError> {
        if self.hierarchy.path_of(std::process::id()).is_some_and(|own| is_within(&own, path)) {
            return Err(CommandError::Failed(format!("the daemon itself runs in {path}: it cannot be a task")));
        }
        Ok(())
    }

    /// Makes the cgroup at this path the task that was said, or changes the budget of the task that it is.
    fn give(&mut self, path: &str, said: Said, given: Given) -> Result<Slot, CommandError> {
        let cgroup = Cgroup::open(self.hierarchy.directory(path)).map_err(|_| CommandError::NoCgroup(path.into()))?;
        self.refuse_own_cgroup(path)?;
        if let Some(slot) = self.task_at(path) {
            return self.give_again(slot, said, given);
        }
        if let Some(inner) = self.task_below(path) {
            return Err(CommandError::Failed(format!(
                "{inner}, in a cgroup below {path}, is a task already, and would not be part of this one: unlabel it first"
            )));
        }
        let outer = self.task_above(path).and_then(|slot| self.tasks.get(&slot)).map(|task| task.id.clone());
        let Said { task: mut id, tenant, workflow, mut budget } = said;
        let mut labels = Labels { tenant, workflow, parent: None };
        let elsewhere = |task: &Task| task.given.is_some() && task.cgroup.id() != cgroup.id() && task.cgroup.exists();
        let known = |engine: &Self, id: &TaskId| engine.slots.get(id).copied();
        if let Some(slot) = known(self, &id)
            && self.tasks.get(&slot).is_some_and(|task| task.state == TaskState::Running && elsewhere(task))
        {
            // Another cgroup is this task: this one is a part of it.
            labels = Labels { parent: Some(id.clone()), ..Labels::default() };
            id = self.part_of(&id, path)?;
            budget = Settings::default();
        }
        if let Some(outer) = outer {
            labels = Labels { parent: Some(outer), ..Labels::default() };
        }
        match known(self, &id).and_then(|slot| self.tasks.get(&slot).map(|task| (slot, task.state))) {
            Some((slot, TaskState::Stopping)) => {
                // Its gate is shut, which is right until it is known what the cgroup may still spend.
                self.memberships.label_cgroup(cgroup.id(), slot).ok();
                return Err(CommandError::Stopping(id));
            }
            Some((_, TaskState::Running)) => {
                return Err(CommandError::Failed(format!("a task {id} runs already, elsewhere")));
            }
            Some((slot, _)) => self.forget_task(slot),
            None => {}
        }
        self.open_given(&id, labels, cgroup, &budget, given)
    }

    fn open_given(
        &mut self,
        id: &TaskId,
        labels: Labels,
        cgroup: Cgroup,
        budget: &Settings,
        given: Given,
    ) -> Result<Slot, CommandError> {
        let name = AccountName::Task(id.clone());
        let settings = self.task_settings(&name, budget);
        let cap = settings.budget()?.limits.money.total;
        let (past, above) = self.past(&name, &labels).map_err(|error| CommandError::Failed(error.to_string()))?;
        let parent = self.open_above(&labels, &above)?;
        self.ledger.put(Entry::TaskStarted {
            task: id.clone(),
            cgroup: cgroup.path().display().to_string(),
            cap,
            labels: labels.clone(),
            budget: serde_json::to_string(&settings).unwrap_or_default(),
            at: Timestamp::now(),
        });
        let slot = self.open_task(id, labels, cgroup, parent, settings, &past)?;
        if let Some(task) = self.tasks.get_mut(&slot) {
            task.given = Some(given);
        }
        self.find_newcomers_of(slot);
        // A cap that was reached before takes effect now.
        self.act_on_decisions();
        Ok(slot)
    }

    /// The cgroup is a task already.
    fn give_again(&mut self, slot: Slot, said: Said, given: Given) -> Result<Slot, CommandError> {
        let Some(task) = self.tasks.get(&slot) else { return Err(CommandError::NoTask(said.task)) };
        let is_same = task.id == said.task || task.labels.parent.as_ref() == Some(&said.task);
        if !is_same {
            return match given {
                // A label, or another rule, was first.
                Given::Rule(_) => Ok(slot),
                Given::Label => Err(CommandError::Failed(format!(
                    "the cgroup is task {} already: `tollgate unlabel` it first, or change the rule",
                    task.id
                ))),
            };
        }
        if task.state.is_over() {
            // Killed at its cap, and its cgroup is still there: it goes on if the budget allows it.
            let (id, cgroup) = (task.id.clone(), task.cgroup.clone());
            if given != Given::Label {
                return Ok(slot);
            }
            let labels = Labels { tenant: said.tenant, workflow: said.workflow, parent: task.labels.parent.clone() };
            self.forget_task(slot);
            return self.open_given(&id, labels, cgroup, &said.budget, given);
        }
        let (account, id) = (task.account, task.id.clone());
        let labels = if task.labels.parent.is_some() {
            task.labels.clone()
        } else {
            Labels { tenant: said.tenant, workflow: said.workflow, parent: None }
        };
        if labels != task.labels {
            return match given {
                Given::Label => Err(CommandError::OtherLabels { task: id }),
                Given::Rule(_) => Ok(slot),
            };
        }
        if id == said.task {
            self.set_budget(account, &said.budget)?;
        }
        if let Some(task) = self.tasks.get_mut(&slot) {
            // A label goes before a rule.
            task.given = if task.given == Some(Given::Label) { task.given } else { Some(given) };
        }
        self.touched.insert(slot);
        self.act_on_decisions();
        Ok(slot)
    }

    /// The cgroup is no task any longer; what runs in it goes on.
    fn take(&mut self, slot: Slot) {
        let members = self.memberships.members(slot);
        // Of those that are on their way to a standstill, too.
        let held: HashSet<Pid> = self.held.keys().copied().collect();
        for &pid in &members {
            self.on_gone(pid, slot);
        }
        if let Some(task) = self.tasks.get_mut(&slot) {
            task.given = None;
        }
        if self.is_running(slot) {
            self.finish(slot, TaskState::Ended);
        } else if let Some(task) = self.tasks.get(&slot) {
            self.memberships.unlabel_cgroup(task.cgroup.id());
        }
        for pid in members.into_iter().filter(|&pid| held.contains(&pid) || held_state(pid) == Held::Stopped) {
            self.wake(pid, boot_nanoseconds());
        }
    }

    /// A name for another cgroup of a task.
    fn part_of(&self, id: &TaskId, path: &str) -> Result<TaskId, CommandError> {
        let own = path.rsplit('/').next().unwrap_or_default();
        let own: String =
            own.chars().map(|c| if c.is_ascii_alphanumeric() || "-_:@+.".contains(c) { c } else { '_' }).collect();
        let is_free = |id: &TaskId| {
            self.slots.get(id).and_then(|slot| self.tasks.get(slot)).is_none_or(|task| task.state.is_over())
        };
        let names = (1..PARTS).map(|number| {
            let end = if number == 1 { String::new() } else { format!("+{number}") };
            let mut name = format!("{id}+{own}");
            name.truncate(TaskId::MAX_LEN - end.len());
            name + &end
        });
        let part = names.filter_map(|name| name.parse::<TaskId>().ok()).find(is_free);
        part.ok_or_else(|| CommandError::Failed(format!("too many cgroups are task {id}")))
    }

    /// What the ledger knows of an account and of those above it that are not open.
    fn past(&self, name: &AccountName, labels: &Labels) -> Result<(Past, Vec<Past>), LedgerError> {
        self.ledger.flush_within(FLUSH);
        let ledger = Reader::open(&self.ledger_path)?;
        let past = Past {
            account: name.clone(),
            charges: ledger.charges_of(name)?,
            orders: Vec::new(),
            tasks: Vec::new(),
            trouble: ledger.standing_trouble(name)?,
        };
        let closed = labels.above().into_iter().filter(|name| self.account(name).is_none());
        let above = closed.filter(|name| !matches!(name, AccountName::Task(_))).map(|account| {
            let (charges, orders) = (ledger.charges_of(&account)?, ledger.orders(&account)?);
            let (tasks, trouble) = (ledger.task_costs(&account)?, ledger.standing_trouble(&account)?);
            Ok(Past { account, charges, orders, tasks, trouble })
        });
        Ok((past, above.collect::<Result<_, LedgerError>>()?))
    }

    /// A process was moved: into a labelled cgroup, or, being a member of a task, anywhere.
    pub fn on_cgroup_move(&mut self, pid: Pid) {
        let Some(slot) = self.hierarchy.path_of(pid).and_then(|path| self.task_above(&path)) else { return };
        self.enter(slot, pid);
    }

    /// Takes in what came into labelled cgroups without a sign.
    pub fn find_newcomers(&mut self) {
        let given: Vec<Slot> =
            self.tasks.iter().filter(|(_, task)| task.given.is_some()).map(|(slot, _)| *slot).collect();
        for slot in given {
            self.find_newcomers_of(slot);
        }
    }

    pub fn find_newcomers_of(&mut self, slot: Slot) {
        let processes = self.tasks.get(&slot).map(|task| task.cgroup.processes()).unwrap_or_default();
        for pid in processes {
            // The deepest label holds.
            let innermost = self.hierarchy.path_of(pid).and_then(|path| self.task_above(&path));
            if innermost == Some(slot) {
                self.enter(slot, pid);
            }
        }
    }

    /// Makes a process a member, unless it is one of a task that this one is no part of: nobody leaves a task.
    fn enter(&mut self, slot: Slot, pid: Pid) {
        let before = self.memberships.slot_of(pid);
        if before == Some(slot) || before.is_some_and(|before| !self.is_part(slot, before)) {
            return;
        }
        // Older than anything that is known: it may have connections.
        if let Err(error) = self.memberships.adopt(pid, slot, 0) {
            tracing::error!("cannot follow process {pid}: {error}");
        }
        self.note_process(slot, pid, None, Timestamp::now());
        // What it has mapped already nobody has looked at: it stands still until somebody has, so that its next request is seen.
        let waits_in = stop(pid).then_some(slot);
        self.on_mapped(pid, waits_in, Mapping::UNKNOWN);
    }

    /// Whether the task in `slot` is a part, at any depth, of the one in `whole`.
    fn is_part(&self, slot: Slot, whole: Slot) -> bool {
        match (self.tasks.get(&slot), self.tasks.get(&whole)) {
            (Some(part), Some(whole)) => self.accounts.is_within(part.account, whole.account),
            // It was forgotten.
            (Some(_), None) => true,
            _ => false,
        }
    }

    /// The task in a labelled cgroup or below, by where the process is.
    pub fn labelled_task_of(&self, pid: Pid) -> Option<TaskId> {
        let slot = self.hierarchy.path_of(pid).and_then(|path| self.task_above(&path))?;
        self.tasks.get(&slot).map(|task| task.id.clone())
    }

    /// The task that this cgroup is, if it is there.
    fn task_at(&self, path: &str) -> Option<Slot> {
        let directory = self.hierarchy.directory(path);
        let is_it = |task: &Task| task.cgroup.path() == directory && task.cgroup.exists();
        self.tasks.iter().find(|(_, task)| is_it(task) && self.holds(task)).map(|(slot, _)| *slot)
    }

    /// Whether its cgroup is still taken by it.
    fn holds(&self, task: &Task) -> bool {
        !task.state.is_over() || (task.given.is_some() && task.state == TaskState::Stopped)
    }

    /// The innermost task whose cgroup this one is or lies in.
    fn task_above(&self, path: &str) -> Option<Slot> {
        let directory: PathBuf = self.hierarchy.directory(path);
        let around = self
            .tasks
            .iter()
            // Another cgroup may have the path of one that is gone.
            .filter(|(_, task)| directory.starts_with(task.cgroup.path()) && self.holds(task) && task.cgroup.exists());
        around.max_by_key(|(_, task)| task.cgroup.path().as_os_str().len()).map(|(slot, _)| *slot)
    }

    fn task_below(&self, path: &str) -> Option<TaskId> {
        let directory = self.hierarchy.directory(path);
        let below = |task: &&Task| {
            !task.state.is_over()
                && task.cgroup.path().starts_with(&directory)
                && fs::metadata(task.cgroup.path()).is_ok()
        };
        self.tasks.values().find(below).map(|task| task.id.clone())
    }
}
