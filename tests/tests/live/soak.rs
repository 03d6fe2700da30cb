//! Nothing grows with uptime: what a day brings, in a few minutes. `TOLLGATE_SOAK=100` makes a hundred times as much of it.

use std::{collections::BTreeMap, fs, time::Instant};

use tollgate_tests::{Client, daemon::until};

use super::{AMPLE, Bench, assert_exit, python};

/// A share of what the full soak does: 100,000 short processes and 1,000 libraries that are replaced.
const PROCESSES: usize = 1_000;
const LIBRARIES: usize = 10;
/// The first share of the rounds only warms up: caches fill, threads start, allocators take what they keep.
const WARM_UP: usize = 2;
const ROUNDS: usize = 10;

/// What must stay as it is.
#[derive(Debug)]
struct Footprint {
    maps: BTreeMap<String, u64>,
    probes: usize,
    descriptors: usize,
    resident_kib: u64,
}

fn footprint(bench: &Bench) -> Footprint {
    let pid = bench.daemon.pid();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    Footprint {
        maps: bench.daemon.fullness(),
        probes: bench.daemon.status().probes.len(),
        descriptors: fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors").count(),
        resident_kib: resident.trim().trim_end_matches(" kB").parse().expect("a number"),
    }
}

#[test]
fn nothing_grows_with_uptime() {
    let times = std::env::var("TOLLGATE_SOAK").map_or(1, |times| times.parse().expect("TOLLGATE_SOAK is a number"));
    let bench = Bench::new();
    let directory = tempfile::tempdir().expect("a directory");
    let here = directory.path().display();
    let libssl = "$(ldd /usr/bin/curl | grep -o '/[^ ]*libssl[^ ]*')";
    let script = format!(
        "for i in $(seq {}); do /bin/true; done; \
         for i in $(seq {}); do rm -f {here}/*; cp {libssl} {here}/; LD_LIBRARY_PATH={here} curl --version > /dev/null; done; rm -f {here}/*",
        PROCESSES * times / ROUNDS,
        LIBRARIES * times / ROUNDS
    );
    let leaver = Client::script(python().interpreter(), "leave.py", &bench.server, "soak");
    assert_exit(&bench.daemon.run("soak", AMPLE, &leaver), 0);
    // What curl has mapped stays.
    let curl = bench.daemon.tollgate(&["run", "--task", "soak", "--budget", AMPLE, "--", "curl", "--version"]);
    assert_exit(&curl, 0);
    let probed = bench.daemon.status().probes.len();
    let descriptors = footprint(&bench).descriptors;
    let began = Instant::now();
    let mut footprints = Vec::new();
    for round in 0..ROUNDS {
        // A task of its own each time, and one that stays; the calls of processes that leave their connections open.
        let task = format!("soak-{round}");
        let run = ["run", "--task", &task, "--budget", AMPLE, "--", "bash", "-euc", &script];
        assert_exit(&bench.daemon.command(&run).output().expect("running a task"), 0);
        for _ in 0..times.min(20) {
            assert_exit(&bench.daemon.run("soak", AMPLE, &leaver), 0);
        }
        if [WARM_UP, ROUNDS - 1].contains(&round) {
            // What is no longer mapped is let go after a while.
            let settled = until(|| {
                let now = bench.daemon.status();
                let has_ended = now.counters["processes"] == 0 && now.counters["connections"] == 0;
                // The kernel takes a while for each probe that is taken away.
                let is_closed = footprint(&bench).descriptors <= descriptors + 8;
                (has_ended && is_closed && now.probes.len() <= probed).then_some(())
            });
            assert!(settled.is_some(), "{probed} files were probed; round {round}: {:#?}", bench.daemon.status());
        }
        let footprint = footprint(&bench);
        println!("after {:?}, round {round}: {footprint:?}", began.elapsed());
        footprints.push(footprint);
    }
    let (before, after) = (&footprints[WARM_UP], &footprints[ROUNDS - 1]);
    for (map, entries) in &after.maps {
        let slack = before.maps[map] / 10 + 16;
        assert!(*entries <= before.maps[map] + slack, "{map}: {} entries, then {entries}", before.maps[map]);
    }
    assert!(after.probes <= before.probes, "{before:?}, then {after:?}");
    assert!(after.descriptors <= before.descriptors + 8, "{before:?}, then {after:?}");
    assert!(after.resident_kib <= before.resident_kib * 11 / 10 + 4096, "{before:?}, then {after:?}");
    bench.assert_lossless();
}
