//! What a task does beside calling models, as far as its budget can limit it: sub-agents, calls of tools, processor time.

use std::{collections::HashMap, time::Duration};

use jiff::{SignedDuration, Timestamp};

use super::state::Engine;
use crate::{
    budget::Count,
    enforce::{Cgroup, QuotaBefore, cpu_used, cpu_used_by, forget_cpu_limit, limit_cpu, unlimit_cpu},
    meter::{Kind, ToolAsk},
    pipeline::Charge,
    probe::{Pid, Slot},
    task::Agents,
};

/// A throttled task gets this much of one CPU, unless told otherwise.
const THROTTLED_CPU_PERCENT: u32 = 50;

/// What is followed of a task.
#[derive(Debug, Default)]
pub struct Work {
    agents: Agents,
    cpu: CpuMeter,
    /// It has a quota of ours in place of this one.
    quota: Option<QuotaBefore>,
}

/// Processor time, of the cgroup and of members that have left it.
#[derive(Debug, Default)]
struct CpuMeter {
    /// The cgroup's when it was last looked at.
    inside: Duration,
    /// That of members outside when they were last looked at.
    strays: HashMap<Pid, Duration>,
    /// What is less than a millisecond, which accounts count in.
    rest: Duration,
}

impl CpuMeter {
    /// Whole milliseconds that were used since this was last asked.
    fn advance(
        &mut self,
        inside: Option<Duration>,
        strays: &[Pid],
        used_by: impl Fn(Pid) -> Option<Duration>,
    ) -> Duration {
        let mut more = self.rest;
        if let Some(inside) = inside {
            more += inside.saturating_sub(self.inside);
            self.inside = inside;
        }
        self.strays.retain(|pid, _| strays.contains(pid));
        for &pid in strays {
            let Some(used) = used_by(pid) else { continue };
            // What it used before it left the cgroup is in the cgroup's.
            let before = self.strays.insert(pid, used).unwrap_or(used);
            more += used.saturating_sub(before);
        }
        self.rest = Duration::from_nanos((more.subsec_nanos() % 1_000_000).into());
        more - self.rest
    }
}

impl Work {
    /// Of a cgroup that was used before, what that was is not counted.
    pub fn starting_in(cgroup: &Cgroup) -> Self {
        let cpu = CpuMeter { inside: cpu_used(cgroup).unwrap_or_default(), ..CpuMeter::default() };
        Self { cpu, ..Self::default() }
    }
}

impl Engine {
    /// A process calls a model: it is an agent.
    pub fn agent_called(&mut self, slot: Slot, pid: Pid, at: Timestamp) {
        let Some(task) = self.tasks.get_mut(&slot) else { return };
        if let Some(depth) = task.work.agents.called(pid, &task.tree) {
            self.accounts.agent_started(task.account, depth, at);
        }
    }

    pub fn agent_gone(&mut self, slot: Slot, pid: Pid, at: Timestamp) {
        let Some(task) = self.tasks.get_mut(&slot) else { return };
        if task.work.agents.ended(pid) {
            self.accounts.agent_ended(task.account, at);
        }
    }

    /// The call of a tool that was not counted when it was asked for.
    pub fn tool_called(&mut self, slot: Slot, charge: &Charge, at: Timestamp) {
        let Some(task) = self.tasks.get(&slot) else { return };
        if let Kind::Tool(name) = &charge.metered.kind {
            self.accounts.tool_called(task.account, name, at);
        }
    }

    /// Tools that a model has asked for.
    pub fn tools_asked(&mut self, slot: Slot, asks: &[ToolAsk], at: Timestamp) {
        let Some(task) = self.tasks.get(&slot) else { return };
        for ask in asks {
            self.accounts.tool_asked(task.account, &ask.name, at);
        }
    }

    /// Counts the processor time of a task.
    pub fn count_cpu(&mut self, slot: Slot) {
        let strays = self.strays(slot);
        let Some(task) = self.tasks.get_mut(&slot) else { return };
        let more = task.work.cpu.advance(cpu_used(&task.cgroup), &strays, cpu_used_by);
        if let Ok(more) = SignedDuration::try_from(more)
            && more > SignedDuration::ZERO
        {
            self.accounts.cpu_used(task.account, more, Timestamp::now());
        }
    }

    /// Counts the processor time of those whose budgets limit it; of the others only now and then.
    pub fn count_cpu_of_all(&mut self, slots: &[Slot], is_time_for_all: bool) {
        for &slot in slots {
            let is_limited =
                self.tasks.get(&slot).is_some_and(|task| self.accounts.limits(task.account, Count::CpuTime));
            if is_limited || is_time_for_all {
                self.count_cpu(slot);
            }
        }
    }

    /// A throttled task gets less of the CPUs, where the kernel lets it be so; one that no longer is gets back what it had.
    pub fn throttle_cpu(&mut self, slot: Slot, is_throttled: bool) {
        let Some(task) = self.tasks.get_mut(&slot) else { return };
        let percent = self.settings.get(&task.account).and_then(|settings| settings.throttle_cpu_percent);
        let done = match (is_throttled, task.work.quota.take()) {
            (true, None) => limit_cpu(&task.cgroup, percent.unwrap_or(THROTTLED_CPU_PERCENT)).map(|before| {
                task.work.quota = before;
            }),
            (true, kept) => {
                task.work.quota = kept;
                Ok(())
            }
            (false, Some(before)) => unlimit_cpu(&task.cgroup, &before),
            (false, None) => Ok(()),
        };
        if let Err(error) = done {
            tracing::warn!("task {}: {error}", task.id);
        }
    }

    /// After a start of the daemon: what a task that runs has done before.
    pub fn take_up_work(&mut self, slot: Slot, callers: &[Pid], wall: SignedDuration) {
        let Some(task) = self.tasks.get_mut(&slot) else { return };
        // The cgroup has counted from its beginning on.
        task.work = Work::default();
        if task.imposed != super::effects::Imposed::Throttled
            && let Err(error) = forget_cpu_limit(&task.cgroup)
        {
            tracing::warn!("task {}: {error}", task.id);
        }
        let account = task.account;
        let (mut alive, mut ended) = (Vec::new(), 0_u64);
        for &pid in callers {
            if task.tree.living().any(|living| living == pid) {
                alive.push(pid);
            } else {
                ended += 1;
            }
        }
        // Who has ended was the task's agent, or a sub-agent like those that live.
        let now = Timestamp::now();
        if ended > 0 {
            task.work.agents.had_first();
            self.accounts.restore_count(account, Count::SubAgentsStarted, ended - 1);
        }
        for pid in alive {
            self.agent_called(slot, pid, now);
        }
        let wall = u64::try_from(wall.as_millis()).unwrap_or(0);
        self.accounts.restore_count(account, Count::WallTime, wall);
        self.count_cpu(slot);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::CpuMeter;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn time_inside_and_outside_of_the_cgroup_is_counted_once() {
        let mut meter = CpuMeter::default();
        assert_eq!(meter.advance(Some(ms(10)), &[], |_| None), ms(10));
        assert_eq!(meter.advance(Some(ms(25)), &[], |_| None), ms(15));
        // One leaves, having used 20 ms of these.
        assert_eq!(meter.advance(Some(ms(25)), &[7], |_| Some(ms(20))), ms(0));
        assert_eq!(meter.advance(Some(ms(26)), &[7], |_| Some(ms(50))), ms(31));
        // It ends; another one with its id uses less than it had.
        assert_eq!(meter.advance(Some(ms(26)), &[], |_| None), ms(0));
        assert_eq!(meter.advance(Some(ms(26)), &[7], |_| Some(ms(5))), ms(0));
        // The cgroup is gone, and what it said with it.
        assert_eq!(meter.advance(None, &[7], |_| Some(ms(9))), ms(4));
    }

    #[test]
    fn many_small_parts_are_as_much_as_the_whole() {
        let mut meter = CpuMeter::default();
        let all: Duration =
            (1..=1000).map(|n| meter.advance(Some(Duration::from_micros(n * 700)), &[], |_| None)).sum();
        assert_eq!(all, ms(700));
    }
}
