//! All that is known of the daemon and of what the person at the terminal is doing.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, VecDeque},
    time::Duration,
};

use serde::Deserialize;

use crate::{
    coverage::Share,
    engine::Order,
    price::Money,
    report::ProcessTotal,
    task::{Labels, TaskId},
};

/// Burn rates are over so long.
const WINDOW: Duration = Duration::from_secs(60);
/// From less than this, no rate is told: one call would make it a wild one.
const SHORTEST: Duration = Duration::from_secs(5);

/// What is read of `GET /v1/status`.
#[derive(Debug, Clone, Deserialize)]
pub struct Snapshot {
    pub daemon: DaemonLine,
    pub tasks: Vec<TaskLine>,
    /// What was lost on the way, in words.
    #[serde(skip)]
    pub losses: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct DaemonLine {
    pub version: String,
    pub pid: u32,
    pub uptime_s: u64,
}

/// A task, as [`TaskStatus`](crate::engine::TaskStatus) says it.
#[derive(Debug, Clone, Deserialize)]
pub struct TaskLine {
    pub task: TaskId,
    #[serde(flatten)]
    pub labels: Labels,
    pub state: String,
    pub cap_usd: Option<Money>,
    pub spent_usd: Money,
    pub ceilings_usd: Money,
    pub held_usd: Money,
    pub lent_usd: Money,
    pub in_flight: u64,
    pub calls: u64,
    pub unpriced: u64,
    pub unread: u64,
    pub processes: u64,
    pub coverage: Share,
    pub waiting: u64,
    pub counts: BTreeMap<String, u64>,
    pub incidents: u64,
    pub trouble: Option<String>,
}

impl TaskLine {
    /// What counts toward the cap, in percent of it; `None` without a cap.
    pub fn percent(&self) -> Option<u64> {
        let cap = self.cap_usd.filter(|cap| *cap > Money::ZERO)?;
        let counted = (self.spent_usd + self.ceilings_usd).max(Money::ZERO);
        Some(u64::try_from(counted.pico_usd().saturating_mul(100) / cap.pico_usd()).unwrap_or(u64::MAX))
    }
}

/// What tasks are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sort {
    #[default]
    Rate,
    Spent,
    Percent,
    Name,
}

impl Sort {
    pub const fn next(self) -> Self {
        match self {
            Self::Rate => Self::Spent,
            Self::Spent => Self::Percent,
            Self::Percent => Self::Name,
            Self::Name => Self::Rate,
        }
    }
}

/// What the person is asked. Each names its task: the selection may move meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dialog {
    Help,
    /// How much more a task may spend.
    Amount {
        task: TaskId,
        text: String,
    },
    /// Whether that order is meant.
    Confirm {
        task: TaskId,
        order: Order,
        question: String,
    },
}

/// How the daemon is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Link {
    #[default]
    Asking,
    Answers,
    /// It does not answer, for that reason, since then.
    Away {
        why: String,
        since: Duration,
        now: Duration,
    },
}

#[derive(Debug, Default)]
pub struct Model {
    pub link: Link,
    pub daemon: Option<DaemonLine>,
    pub losses: Vec<String>,
    /// Sorted.
    pub tasks: Vec<TaskLine>,
    pub sort: Sort,
    pub dialog: Option<Dialog>,
    /// What the last order did.
    pub message: Option<String>,
    selected: Option<TaskId>,
    processes: Vec<ProcessTotal>,
    /// What tasks had spent, by the time on this terminal's clock.
    past: HashMap<TaskId, VecDeque<(Duration, Money)>>,
}

impl Model {
    /// The daemon has answered, at that time on a clock that only goes forward.
    pub fn seen(&mut self, seen: Snapshot, now: Duration) {
        let before = self.daemon.as_ref().map(|daemon| daemon.pid);
        if before.is_some_and(|pid| pid != seen.daemon.pid) {
            // Another daemon may count from elsewhere.
            self.past.clear();
        }
        self.link = Link::Answers;
        self.daemon = Some(seen.daemon);
        self.losses = seen.losses;
        self.tasks = seen.tasks;
        self.past.retain(|task, _| self.tasks.iter().any(|line| line.task == *task));
        for line in &self.tasks {
            let past = self.past.entry(line.task.clone()).or_default();
            past.retain(|(at, spent)| now.saturating_sub(*at) <= WINDOW && *spent <= line.spent_usd);
            past.push_back((now, line.spent_usd));
        }
        self.arrange();
    }

    pub fn away(&mut self, why: String, now: Duration) {
        let since = if let Link::Away { since, .. } = self.link { since } else { now };
        self.link = Link::Away { why, since, now };
    }

    /// Processes of a task; of another one than is selected by now, they are of no use.
    pub fn processes(&mut self, (task, processes): (TaskId, Vec<ProcessTotal>)) {
        if self.selected.as_ref() == Some(&task) {
            self.processes = processes;
        }
    }

    pub fn tree(&self) -> &[ProcessTotal] {
        &self.processes
    }

    /// USD per hour over the last minute; `None` where too little of it was seen.
    pub fn rate(&self, task: &TaskId) -> Option<Money> {
        let past = self.past.get(task)?;
        let ((then, before), (now, spent)) = (past.front()?, past.back()?);
        let elapsed = now.saturating_sub(*then);
        if elapsed < SHORTEST {
            return None;
        }
        let milliseconds = i128::try_from(elapsed.as_millis()).ok().filter(|elapsed| *elapsed > 0)?;
        let pico = (*spent - *before).pico_usd().saturating_mul(3_600_000) / milliseconds;
        Some(Money::from_pico_usd(pico))
    }

    /// Of all tasks together.
    pub fn total_rate(&self) -> Option<Money> {
        let rates: Vec<Money> = self.tasks.iter().filter_map(|line| self.rate(&line.task)).collect();
        (!rates.is_empty()).then(|| rates.iter().sum())
    }

    pub fn selected(&self) -> Option<TaskId> {
        self.selected.clone()
    }

    pub fn selected_line(&self) -> Option<(usize, &TaskLine)> {
        let selected = self.selected.as_ref()?;
        self.tasks.iter().enumerate().find(|(_, line)| line.task == *selected)
    }

    /// Selects the task so many lines further down.
    pub fn step(&mut self, lines: isize) {
        let Some(last) = self.tasks.len().checked_sub(1) else { return };
        let index = self.selected_line().map_or(0, |(index, _)| index.saturating_add_signed(lines).min(last));
        self.select(self.tasks.get(index).map(|line| line.task.clone()));
    }

    pub fn sort_by(&mut self, sort: Sort) {
        self.sort = sort;
        self.arrange();
    }

    fn select(&mut self, task: Option<TaskId>) {
        if self.selected != task {
            self.selected = task;
            self.processes = Vec::new();
        }
    }

    /// Sorts, and keeps the selection on its task; one that is gone gives way to the task in its place.
    fn arrange(&mut self) {
        let mut tasks = std::mem::take(&mut self.tasks);
        match self.sort {
            Sort::Rate => tasks.sort_by_key(|line| Reverse((self.rate(&line.task), line.spent_usd))),
            Sort::Spent => tasks.sort_by_key(|line| Reverse(line.spent_usd)),
            Sort::Percent => tasks.sort_by_key(|line| Reverse(line.percent())),
            Sort::Name => tasks.sort_by(|one, other| one.task.cmp(&other.task)),
        }
        self.tasks = tasks;
        if self.selected_line().is_none() {
            self.select(self.tasks.first().map(|line| line.task.clone()));
        }
    }
}
