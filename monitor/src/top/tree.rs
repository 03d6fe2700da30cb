//! The agents of a task: processes that have made calls, below those that started them.

use std::collections::{BTreeMap, HashSet};

use super::text::{clean, short};
use crate::report::ProcessTotal;

/// Levels that are drawn; a loop of parents, which a reused id can make, ends there too.
const DEEPEST: usize = 12;

/// A line for each agent, and for what leads to it; then how many other processes there are.
pub fn lines(processes: &[ProcessTotal]) -> Vec<String> {
    // An id may have been used before: the last one holds.
    let by_pid: BTreeMap<u32, &ProcessTotal> = processes.iter().map(|process| (process.pid, process)).collect();
    let parent =
        |pid: u32| by_pid.get(&pid).and_then(|process| process.ppid).filter(|above| by_pid.contains_key(above));
    let agents: Vec<u32> = by_pid.values().filter(|process| process.calls > 0).map(|process| process.pid).collect();
    let mut shown: HashSet<u32> = agents.iter().copied().collect();
    for agent in &agents {
        // What lies between two agents is drawn; what lies above all of them is not.
        let line: Vec<u32> = std::iter::successors(parent(*agent), |pid| parent(*pid)).take(DEEPEST).collect();
        if let Some(last) = line.iter().rposition(|pid| agents.contains(pid)) {
            shown.extend(&line[..=last]);
        }
    }
    let mut below: BTreeMap<Option<u32>, Vec<&ProcessTotal>> = BTreeMap::new();
    // In the order in which they began.
    let mut listed = HashSet::new();
    for process in processes.iter().filter(|process| shown.contains(&process.pid)) {
        if listed.insert(process.pid) {
            let above = parent(process.pid).filter(|pid| shown.contains(pid) && *pid != process.pid);
            below.entry(above).or_default().push(by_pid[&process.pid]);
        }
    }
    let mut lines = Vec::new();
    draw(&below, None, "", &mut lines);
    let others = by_pid.len().saturating_sub(shown.len());
    if others > 0 {
        lines.push(format!("{others} other processes, without calls"));
    }
    lines
}

fn draw(below: &BTreeMap<Option<u32>, Vec<&ProcessTotal>>, above: Option<u32>, indent: &str, lines: &mut Vec<String>) {
    let processes = below.get(&above).map_or(&[][..], Vec::as_slice);
    if indent.len() > 3 * DEEPEST {
        return;
    }
    for (index, process) in processes.iter().enumerate() {
        let is_last = index + 1 == processes.len();
        let (branch, rest) = match (above, is_last) {
            (None, _) => ("", ""),
            (Some(_), true) => ("`- ", "   "),
            (Some(_), false) => ("|- ", "|  "),
        };
        let program = clean(process.exe.rsplit('/').next().unwrap_or_default());
        let spent = match process.calls {
            0 => "no calls".to_owned(),
            1 => format!("1 call, {}", short(process.cost_usd)),
            calls => format!("{calls} calls, {}", short(process.cost_usd)),
        };
        lines.push(format!("{indent}{branch}{program} ({}): {spent}", process.pid));
        draw(below, Some(process.pid), &format!("{indent}{rest}"), lines);
    }
}
