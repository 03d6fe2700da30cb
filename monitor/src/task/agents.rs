//! Which processes of a task are agents.
//!
//! An agent is a process that has called a model: no name of a program makes one, and none is missed for having another name. The first of a
//! task is its agent, each further one a *sub-agent*, as deep as there are agents above it in the process tree and at least one level down.

use std::collections::HashSet;

use super::tree::ProcessTree;

/// Agents of one task, bounded by its processes.
#[derive(Debug, Clone, Default)]
pub struct Agents {
    /// Living ones that are sub-agents.
    subs: HashSet<u32>,
    /// All that live or have living processes below.
    all: HashSet<u32>,
    has_first: bool,
}

/// Agents that are remembered after they have ended, for the depth of those below them.
const KEPT: usize = 4096;
/// Levels of processes that are looked at.
const DEEPEST: usize = 1024;

impl Agents {
    /// A process calls a model. If that makes it a sub-agent, how deep it is.
    pub fn called(&mut self, pid: u32, tree: &ProcessTree) -> Option<u64> {
        if self.all.len() >= KEPT {
            let living: HashSet<u32> = tree.living().collect();
            self.all.retain(|pid| living.contains(pid));
        }
        if !self.all.insert(pid) {
            return None;
        }
        if !std::mem::replace(&mut self.has_first, true) {
            return None;
        }
        self.subs.insert(pid);
        let line = std::iter::successors(tree.parent(pid), |above| tree.parent(*above)).take(DEEPEST);
        let above = line.filter(|above| *above != pid && self.all.contains(above)).collect::<HashSet<_>>().len();
        Some((above as u64).max(1))
    }

    /// The task has had an agent, which has ended.
    pub const fn had_first(&mut self) {
        self.has_first = true;
    }

    /// A process has ended. Says whether it was a sub-agent.
    pub fn ended(&mut self, pid: u32) -> bool {
        // Its id may be used again, by a process that is another one. Those below it keep their depth.
        self.all.remove(&pid);
        self.subs.remove(&pid)
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::{Agents, KEPT, ProcessTree};

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    /// 1 → 2 → 3 → 4, and 1 → 5.
    fn tree() -> ProcessTree {
        let mut tree = ProcessTree::default();
        for (pid, parent) in [(1, None), (2, Some(1)), (3, Some(2)), (4, Some(3)), (5, Some(1))] {
            tree.started(pid, parent, NOW);
        }
        tree
    }

    #[test]
    fn the_first_that_calls_is_the_agent_and_the_others_are_below_it() {
        let (tree, mut agents) = (tree(), Agents::default());
        assert_eq!(agents.called(2, &tree), None, "the agent, though a shell started it");
        assert_eq!(agents.called(2, &tree), None);
        assert_eq!(agents.called(3, &tree), Some(1));
        assert_eq!(agents.called(4, &tree), Some(2));
        assert_eq!(agents.called(5, &tree), Some(1), "beside the first one is below it");
        assert_eq!(agents.called(4, &tree), None, "once");
        assert_eq!([2, 3, 3, 9].map(|pid| agents.ended(pid)), [false, true, false, false]);
        assert_eq!(agents.called(3, &tree), Some(1), "its id is that of another process now");
    }

    #[test]
    fn a_process_that_is_its_own_ancestor_is_no_trap() {
        let mut tree = ProcessTree::default();
        tree.started(1, Some(2), NOW);
        tree.started(2, Some(1), NOW);
        let mut agents = Agents::default();
        agents.called(1, &tree);
        assert_eq!(agents.called(2, &tree), Some(1));
    }

    #[test]
    fn the_dead_are_not_remembered_for_ever() {
        let (tree, mut agents) = (tree(), Agents::default());
        for pid in 0..100_000 {
            agents.called(pid, &tree);
        }
        assert!(agents.all.len() <= KEPT);
    }
}
