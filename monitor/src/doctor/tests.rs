//! What is said of hosts that are not this one.

use std::{
    io,
    path::{Path, PathBuf},
};

use jiff::civil::date;
use serde_json::json;

use super::{
    Item, Verdict,
    agents::{Sees, agent, judge as agents},
    cgroups::judge as cgroups,
    clock::{Discipline, judge as clock},
    daemon::judge as daemon,
    kernel::{bpffs, btf, capabilities, lockdown, tracefs, version},
    ledger::room,
    libraries::judge as libraries,
    prices::judge as prices,
    processes::Process,
};
use crate::config::Config;

#[test]
fn kernels_that_are_too_old_fail() {
    for (release, verdict) in [
        ("6.1.0-18-amd64", Verdict::Ok),
        ("5.17.0", Verdict::Ok),
        ("10.0", Verdict::Ok),
        ("5.16.20-generic", Verdict::Fail),
        ("4.19.0", Verdict::Fail),
        ("custom", Verdict::Warn),
    ] {
        assert_eq!(version(release).verdict, verdict, "{release}");
    }
}

#[test]
fn btf_must_be_btf() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = |bytes: &[u8]| {
        let path = directory.path().join("vmlinux");
        std::fs::write(&path, bytes).expect("a file");
        btf(&path).verdict
    };
    assert_eq!(file(&0xeb9f_u16.to_ne_bytes()), Verdict::Ok);
    assert_eq!(file(b"\x7fELF"), Verdict::Fail);
    assert_eq!(file(b""), Verdict::Fail);
    let absent = btf(&directory.path().join("absent"));
    assert!(absent.verdict == Verdict::Fail && absent.advice.expect("advice").contains("CONFIG_DEBUG_INFO_BTF"));
}

#[test]
fn file_systems_of_the_kernel_are_mounted_or_can_be() {
    let known = "nodev\ttracefs\nnodev\tbpf\n\text4\n";
    assert_eq!(tracefs("tracefs /sys/kernel/tracing tracefs rw 0 0", "").found, "/sys/kernel/tracing");
    assert_eq!(tracefs("", known).verdict, Verdict::Ok);
    assert_eq!(tracefs("", "").verdict, Verdict::Fail);
    let mut config = Config::default();
    assert_eq!(bpffs("bpf /sys/fs/bpf bpf rw 0 0", known, &config).verdict, Verdict::Ok);
    assert_eq!(bpffs("", known, &config).verdict, Verdict::Ok);
    assert_eq!(bpffs("", "", &config).verdict, Verdict::Fail);
    config.kernel.pin_directory = "/var/pins".into();
    assert_eq!(bpffs("bpf /sys/fs/bpf bpf rw 0 0", known, &config).verdict, Verdict::Fail);
    config.kernel.pin_directory = PathBuf::new();
    assert_eq!(bpffs("", known, &config).verdict, Verdict::Warn);
}

#[test]
fn lockdown_is_a_matter_of_its_mode() {
    assert_eq!(lockdown(None).verdict, Verdict::Ok);
    assert_eq!(lockdown(Some("[none] integrity confidentiality\n")).verdict, Verdict::Ok);
    assert_eq!(lockdown(Some("none [integrity] confidentiality\n")).found, "integrity");
    assert_eq!(lockdown(Some("none integrity [confidentiality]\n")).verdict, Verdict::Fail);
    assert_eq!(lockdown(Some("garbage")).verdict, Verdict::Warn);
}

#[test]
fn capabilities_that_are_missing_are_named() {
    let status =
        |effective: &str, bounding: &str| capabilities(&format!("CapEff:\t{effective}\nCapBnd:\t{bounding}\n"));
    assert_eq!(status("000001ffffffffff", "000001ffffffffff").verdict, Verdict::Ok);
    let user = status("0000000000000000", "000001ffffffffff");
    assert_eq!(user.verdict, Verdict::Warn);
    // Bit 21 is CAP_SYS_ADMIN, 39 is CAP_BPF.
    let contained = status("00000000a80425fb", "0000017fffdfffff");
    assert_eq!(
        (contained.verdict, contained.found.as_str()),
        (Verdict::Fail, "nobody here can have CAP_SYS_ADMIN, CAP_BPF")
    );
    assert_eq!(capabilities("").verdict, Verdict::Fail);
}

#[test]
fn hierarchies_of_cgroups_are_told_apart() {
    let controllers =
        |root: &str| if root == "/sys/fs/cgroup" { "cpuset cpu io memory pids\n".into() } else { "\n".into() };
    let unified = cgroups("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0", controllers);
    assert_eq!(unified.verdict, Verdict::Ok);
    assert_eq!(unified.found, "unified, v2 at /sys/fs/cgroup, controllers: cpuset cpu io memory pids");
    let hybrid =
        cgroups("cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0", controllers);
    assert_eq!(hybrid.verdict, Verdict::Warn);
    assert!(hybrid.found.starts_with("hybrid, v2 at /sys/fs/cgroup/unified, controllers: none"));
    assert_eq!(cgroups("cgroup /sys/fs/cgroup/cpu cgroup rw 0 0", controllers).verdict, Verdict::Fail);
}

fn process(executable: &str, arguments: &[&str], cgroup: &str) -> Process {
    let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    Process { pid: 7, executable: executable.into(), arguments, cgroup: cgroup.into() }
}

#[test]
fn agents_are_known_by_their_programs_and_not_by_what_they_are_told() {
    let known = |executable: &str, arguments: &[&str]| agent(&process(executable, arguments, "/"));
    assert_eq!(known("/home/u/.local/share/claude/versions/2.1", &["claude", "--help"]), Some("claude"));
    assert_eq!(known("/usr/local/bin/codex", &["codex"]), Some("codex"));
    assert_eq!(known("/usr/bin/codex (deleted)", &[""]), Some("codex"));
    assert_eq!(known("/usr/bin/python3.12", &["python3", "-m", "aider"]), Some("aider"));
    assert_eq!(known("/usr/bin/python3.12", &["/usr/bin/python3", "/venv/bin/aider", "--yes"]), Some("aider"));
    assert_eq!(
        known("/usr/bin/node", &["node", "/usr/lib/node_modules/@google/gemini-cli/dist/index.js"]),
        Some("@google/gemini-cli")
    );
    assert_eq!(known("/usr/bin/node", &["node", "--no-warnings", "/opt/bin/gemini"]), Some("gemini"));
    assert_eq!(known("/usr/bin/node", &["node", "/x/node_modules/@openai/codex/bin/run.js"]), Some("@openai"));
    // Neither what others are told about agents, nor names that only begin like one.
    assert_eq!(known("/usr/bin/vim", &["vim", "claude"]), None);
    assert_eq!(known("/usr/bin/bash", &["bash", "-c", "codex"]), None);
    assert_eq!(known("/usr/bin/python3", &["python3", "-c", "import openai; call('openai')"]), None);
    assert_eq!(known("/usr/bin/nodejs-helper", &["x", "aider"]), None);
    assert_eq!(known("/usr/bin/claudette", &["claudette"]), None);
    assert_eq!(known("/usr/bin/python3", &["python3", "a.py", "1", "2", "3", "aider"]), None, "data");
}

#[test]
fn an_agent_in_no_task_is_said_and_its_command_is_not() {
    let inside = process("/usr/bin/codex", &["codex", "SECRET"], "/tollgate/build/inner");
    let outside = process("/usr/bin/codex", &["codex", "SECRET"], "/build");
    let tasks = [(PathBuf::from("/tollgate/build"), "build".to_owned()), ("/tollgate/b".into(), "b".into())];
    let check = agents(&[(&inside, "codex"), (&outside, "codex")], Some(&tasks), Sees::All, 0);
    assert_eq!(check.verdict, Verdict::Warn);
    assert_eq!(check.items[0].found, "in task build");
    assert_eq!(check.items[1].found, "in no task: cgroup /build");
    assert!(!serde_json::to_string(&check).expect("JSON").contains("SECRET"));
    assert_eq!(agents(&[(&inside, "codex")], Some(&tasks), Sees::All, 0).verdict, Verdict::Ok);
    assert_eq!(agents(&[(&inside, "codex")], None, Sees::All, 0).verdict, Verdict::Warn, "nobody knows");
    let own = agents(&[(&outside, "codex")], Some(&tasks), Sees::Own, 0);
    assert_eq!(own.items[0].found, "in no task of this user: cgroup /build", "others' tasks are not told of");
    assert_eq!(agents(&[], Some(&tasks), Sees::All, 0).verdict, Verdict::Ok);
    assert_eq!(
        agents(&[], Some(&tasks), Sees::All, 3).verdict,
        Verdict::Warn,
        "what was not looked at is not called well"
    );
}

#[test]
fn what_cannot_be_read_is_said() {
    let item = |verdict| Item { name: "x".into(), verdict, found: "y".into() };
    assert_eq!(libraries(vec![item(Verdict::Ok)], &[]).verdict, Verdict::Ok);
    assert_eq!(libraries(vec![item(Verdict::Ok), item(Verdict::Warn)], &[]).verdict, Verdict::Warn);
    assert_eq!(libraries(vec![item(Verdict::Ok)], &["3 files were not searched".into()]).verdict, Verdict::Warn);
    assert_eq!(libraries(vec![item(Verdict::Warn)], &[]).verdict, Verdict::Fail, "nothing can be read");
}

#[test]
fn clock_disk_and_prices_have_their_limits() {
    let kept = |is_synchronised| clock(Ok(Discipline { is_synchronised, max_error_us: 2500 }));
    assert_eq!(kept(true).found, "synchronised, wrong by 2 ms at most");
    assert_eq!(kept(false).verdict, Verdict::Warn);
    assert_eq!(clock(Err(io::Error::from(io::ErrorKind::PermissionDenied))).verdict, Verdict::Warn);
    for (mib, verdict) in [(63, Verdict::Fail), (64, Verdict::Warn), (1023, Verdict::Warn), (1024, Verdict::Ok)] {
        assert_eq!(room(Path::new("/x"), mib << 20).verdict, verdict, "{mib} MiB");
    }
    let table = |fetched| [("genai-prices 1".to_owned(), fetched)];
    let today = date(2026, 11, 25);
    assert_eq!(prices(&table(Some(date(2026, 11, 1))), today, &[]).found, "genai-prices 1 of 2026-11-01 (24 days old)");
    assert_eq!(
        prices(&table(Some(date(2026, 9, 25))), today, &[]).verdict,
        Verdict::Warn,
        "61 days, over a change of months"
    );
    assert_eq!(prices(&table(Some(date(2026, 9, 26))), today, &[]).verdict, Verdict::Ok);
    assert_eq!(prices(&table(None), today, &[]).verdict, Verdict::Warn);
    assert_eq!(prices(&table(Some(today)), today, &["damaged".into()]).verdict, Verdict::Warn);
}

#[test]
fn a_daemon_is_well_if_it_is_ready_current_and_has_lost_nothing() {
    let status = |version: &str, ready: bool, dropped: u64| {
        daemon(&json!({
            "daemon": {"version": version, "ready": ready}, "probes": [{}], "tasks": [],
            "counters": {"records": 5, "dropped_records": dropped},
        }))
    };
    let own = env!("CARGO_PKG_VERSION");
    assert_eq!(status(own, true, 0).verdict, Verdict::Ok);
    assert_eq!(status(own, false, 0).verdict, Verdict::Warn);
    assert_eq!(status("0.0.9", true, 0).verdict, Verdict::Warn);
    let lossy = status(own, true, 2);
    assert!(lossy.verdict == Verdict::Warn && lossy.found.contains("LOSSES: dropped_records 2"), "{lossy:?}");
}
