//! Agents among the running processes, and whether anybody meters them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{
    Check, Item, Verdict,
    daemon::Answer,
    processes::{Process, Processes},
};

const NAME: &str = "agents";
/// Agents that are listed.
const MOST: usize = 50;

/// Programs that are agents, by the names of their executables or scripts.
const PROGRAMS: [&str; 16] = [
    "aider",
    "amp",
    "claude",
    "codex",
    "copilot",
    "crush",
    "cursor-agent",
    "droid",
    "gemini",
    "goose",
    "kimi",
    "opencode",
    "openhands",
    "plandex",
    "qwen",
    "swe-agent",
];
/// Programs that run others.
const INTERPRETERS: [&str; 6] = ["bun", "deno", "node", "nodejs", "python", "uv"];
/// Parts of the paths and names of scripts and modules, where an interpreter runs them.
const MODULES: [&str; 20] = [
    "@anthropic-ai",
    "@google/gemini-cli",
    "@openai",
    "aider",
    "anthropic",
    "autogen",
    "claude-code",
    "claude_agent_sdk",
    "crewai",
    "google-genai",
    "gemini-cli",
    "gpt-engineer",
    "langchain",
    "langgraph",
    "litellm",
    "llama_index",
    "openai",
    "opencode-ai",
    "openhands",
    "smolagents",
];
/// Arguments of an interpreter in which a script or module is looked for; what comes later is data.
const FIRST_ARGUMENTS: usize = 4;

/// What a process is, if it is an agent. Only names are looked at: whatever else a command line holds is nobody's business.
pub(super) fn agent(process: &Process) -> Option<&'static str> {
    let executable = base(&process.executable.to_string_lossy());
    let called = process.arguments.first().map(|name| base(name)).unwrap_or_default();
    let known = |name: &str| PROGRAMS.into_iter().find(|program| *program == name);
    if let Some(program) = known(&executable).or_else(|| known(&called)) {
        return Some(program);
    }
    let is_interpreter = INTERPRETERS.iter().any(|name| {
        let rest = executable.strip_prefix(name);
        rest.is_some_and(|rest| rest.chars().all(|letter| letter.is_ascii_digit() || letter == '.'))
    });
    if !is_interpreter {
        return None;
    }
    process.arguments.iter().skip(1).take(FIRST_ARGUMENTS).find_map(|argument| {
        // A script or a module, not a program in one argument.
        if argument.contains(char::is_whitespace) {
            return None;
        }
        let name = base(argument);
        let stem = name.split_once('.').map_or(name.as_str(), |(stem, _)| stem);
        let module = |module: &&str| {
            let is_part = |part: &str| part == *module || part.starts_with(&format!("{module}."));
            argument.split('/').any(is_part) || argument.contains(&format!("/{module}/"))
        };
        known(stem).or_else(|| MODULES.into_iter().find(module))
    })
}

fn base(path: &str) -> String {
    path.rsplit('/').next().unwrap_or_default().trim_end_matches(" (deleted)").to_owned()
}

pub fn check(processes: &Processes, answer: &Answer) -> Check {
    let found = processes.seen.iter().filter_map(|process| Some((process, agent(process)?)));
    let found: Vec<(&Process, &str)> = found.collect();
    let sees = if nix::unistd::geteuid().is_root() { Sees::All } else { Sees::Own };
    judge(&found, answer.tasks().as_deref(), sees, processes.hidden)
}

/// Who pays for a process in this cgroup: the task that is nearest above it.
fn task_of<'t>(cgroup: &str, tasks: &'t [(PathBuf, String)]) -> Option<&'t str> {
    let above = tasks.iter().filter(|(path, _)| Path::new(cgroup).starts_with(path));
    above.max_by_key(|(path, _)| path.components().count()).map(|(_, task)| task.as_str())
}

/// Whose tasks the daemon tells this user of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sees {
    All,
    Own,
}

impl Sees {
    const fn beside(self) -> &'static str {
        match self {
            Self::All => "",
            Self::Own => " of this user",
        }
    }
}

pub(super) fn judge(
    agents: &[(&Process, &str)],
    tasks: Option<&[(PathBuf, String)]>,
    sees: Sees,
    hidden: usize,
) -> Check {
    let beside = if hidden == 0 {
        String::new()
    } else {
        format!("; processes of others that could not be looked at: {hidden}")
    };
    let items = agents.iter().map(|(process, agent)| {
        let (verdict, found) = match tasks.map(|tasks| task_of(&process.cgroup, tasks)) {
            Some(Some(task)) => (Verdict::Ok, format!("in task {task}")),
            Some(None) => (Verdict::Warn, format!("in no task{}: cgroup {}", sees.beside(), process.cgroup)),
            None => (Verdict::Warn, format!("nobody says whether cgroup {} is a task", process.cgroup)),
        };
        Item { name: format!("{agent} ({})", process.pid), verdict, found }
    });
    let items: Vec<Item> = items.collect();
    let mut by_verdict = BTreeMap::<Verdict, usize>::new();
    for item in &items {
        *by_verdict.entry(item.verdict).or_default() += 1;
    }
    let unmetered = by_verdict.get(&Verdict::Warn).copied().unwrap_or_default();
    let shown = items.into_iter().take(MOST).collect();
    let found =
        format!("known agents that run: {}, of them in a task: {}{beside}", agents.len(), agents.len() - unmetered);
    let check = match (unmetered, tasks) {
        (0, _) if hidden > 0 => {
            Check::warn(NAME, found, "run `tollgate doctor` as root, where the daemon runs, to see all")
        }
        (0, _) => Check::ok(NAME, found),
        (_, None) => {
            Check::warn(NAME, format!("known agents that run: {}{beside}", agents.len()), "ask a daemon that answers")
        }
        (_, Some(_)) => Check::warn(
            NAME,
            found,
            "start agents with `tollgate run`, or label their cgroups: `tollgate label CGROUP --task NAME --budget total=USD`",
        ),
    };
    check.with(shown)
}
