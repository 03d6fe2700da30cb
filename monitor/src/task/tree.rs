//! The processes of a task, living and dead.

use jiff::Timestamp;
use serde::Serialize;

/// One process of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TaskProcess {
    pub pid: u32,
    /// The process that forked it; `None` for one that entered the task from outside.
    pub parent: Option<u32>,
    /// Path of the program it last executed, as it named it.
    pub executable: Option<Box<str>>,
    pub started: Timestamp,
    pub ended: Option<Timestamp>,
}

/// Who forked whom, bounded: the oldest dead processes are forgotten first.
#[derive(Debug, Clone, Default)]
pub struct ProcessTree {
    processes: Vec<TaskProcess>,
}

/// Dead processes that are kept for the report.
const KEPT: usize = 1024;
/// Bytes of an executable's path that are kept.
const PATH: usize = 256;

impl ProcessTree {
    pub fn processes(&self) -> &[TaskProcess] {
        &self.processes
    }

    pub fn living(&self) -> impl Iterator<Item = u32> {
        self.processes.iter().filter(|process| process.ended.is_none()).map(|process| process.pid)
    }

    /// The living process of that id, else the last one.
    pub fn get(&self, pid: u32) -> Option<&TaskProcess> {
        self.processes.iter().rev().find(|process| process.pid == pid)
    }

    pub fn executable(&self, pid: u32) -> Option<&str> {
        self.get(pid)?.executable.as_deref()
    }

    /// The process that forked it.
    pub fn parent(&self, pid: u32) -> Option<u32> {
        self.get(pid)?.parent
    }

    /// How many processes from the task's first one down to this one run its program.
    pub fn same_program_depth(&self, pid: u32) -> u32 {
        let Some(program) = self.executable(pid) else { return 0 };
        let line = std::iter::successors(self.get(pid), |process| self.get(process.parent?));
        // Ids are used again: a line of parents could lead back into itself.
        let same = line.take(KEPT).filter(|process| process.executable.as_deref() == Some(program));
        u32::try_from(same.count()).unwrap_or(u32::MAX)
    }

    pub fn living_children(&self, pid: u32) -> u32 {
        let children = self.processes.iter().filter(|process| process.parent == Some(pid) && process.ended.is_none());
        u32::try_from(children.count()).unwrap_or(u32::MAX)
    }

    /// A process entered the task, or forked within it. Says whether it is new.
    pub fn started(&mut self, pid: u32, parent: Option<u32>, at: Timestamp) -> bool {
        if let Some(known) = self.alive_mut(pid) {
            known.parent = known.parent.or(parent);
            return false;
        }
        let executable = parent.and_then(|parent| self.alive_mut(parent)).and_then(|parent| parent.executable.clone());
        self.processes.push(TaskProcess { pid, parent, executable, started: at, ended: None });
        self.forget_oldest();
        true
    }

    pub fn executed(&mut self, pid: u32, path: &[u8], at: Timestamp) {
        self.started(pid, None, at);
        if let Some(process) = self.alive_mut(pid) {
            let path = path.get(..path.len().min(PATH)).unwrap_or_default();
            process.executable = Some(String::from_utf8_lossy(path).into());
        }
    }

    pub fn ended(&mut self, pid: u32, at: Timestamp) {
        if let Some(process) = self.alive_mut(pid) {
            process.ended = Some(at);
        }
    }

    fn alive_mut(&mut self, pid: u32) -> Option<&mut TaskProcess> {
        self.processes.iter_mut().rev().find(|process| process.pid == pid && process.ended.is_none())
    }

    fn forget_oldest(&mut self) {
        while self.processes.len() > KEPT {
            let Some(oldest) = self.processes.iter().position(|process| process.ended.is_some()) else { return };
            self.processes.remove(oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::{KEPT, ProcessTree};

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    #[test]
    fn a_child_runs_its_parents_program_until_it_executes_its_own() {
        let mut tree = ProcessTree::default();
        tree.executed(10, b"/bin/sh", NOW);
        tree.started(11, Some(10), NOW);
        assert_eq!(tree.processes()[1].executable.as_deref(), Some("/bin/sh"));
        tree.executed(11, b"/usr/bin/curl", NOW);
        assert_eq!(tree.processes()[1].executable.as_deref(), Some("/usr/bin/curl"));
        assert_eq!(tree.processes()[1].parent, Some(10));
    }

    #[test]
    fn a_pid_that_is_used_again_is_another_process() {
        let mut tree = ProcessTree::default();
        tree.started(10, None, NOW);
        tree.ended(10, NOW);
        assert!(tree.started(10, None, NOW));
        assert_eq!(tree.processes().len(), 2);
        assert_eq!(tree.living().count(), 1);
    }

    #[test]
    fn recursion_and_fan_out_are_counted() {
        let mut tree = ProcessTree::default();
        tree.executed(10, b"/bin/sh", NOW);
        for (pid, parent, program) in
            [(11, 10, "/bin/agent"), (12, 11, "/bin/sh"), (13, 12, "/bin/agent"), (14, 12, "/bin/agent")]
        {
            tree.started(pid, Some(parent), NOW);
            tree.executed(pid, program.as_bytes(), NOW);
        }
        assert_eq!([10, 11, 12, 13, 99].map(|pid| tree.same_program_depth(pid)), [1, 1, 2, 2, 0]);
        assert_eq!([10, 12, 13].map(|pid| tree.living_children(pid)), [1, 2, 0]);
        tree.ended(13, NOW);
        assert_eq!(tree.living_children(12), 1);
        // A process that is its own parent.
        let mut tree = ProcessTree::default();
        tree.started(10, Some(10), NOW);
        tree.executed(10, b"/bin/sh", NOW);
        assert!(tree.same_program_depth(10) >= 1);
    }

    #[test]
    fn short_processes_do_not_grow_it_for_ever() {
        let mut tree = ProcessTree::default();
        for pid in 0..10_000 {
            tree.started(pid, None, NOW);
            tree.ended(pid, NOW);
        }
        assert_eq!(tree.processes().len(), KEPT);
    }
}
