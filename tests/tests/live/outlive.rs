//! What is decided stays so when the daemon dies: gates that are shut stay shut, caps hold, and nothing goes unmetered that should not.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Child,
    time::Duration,
};

use aya::programs::{links::PinnedLink, loaded_links};
use serde_json::{Value, json};
use tempfile::TempDir;
use tollgate_tests::{
    Client, Config, Report, Truth,
    daemon::{LIMIT, Options, until},
    model_server::State,
    reference_price::{PicoUsd, usd},
    report::Call,
};

use super::{AMPLE, Bench, assert_exit, text};

/// Tries that each run makes, at least; in full when it is said how many.
const REPETITIONS: usize = 1000;
const REPETITIONS_VARIABLE: &str = "TOLLGATE_TEST_SHUT_REPETITIONS";

/// Numbers as good as random, and the same in every run with the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// Processes that wait for the word to try to send, and have sent before.
struct Crowd {
    directory: TempDir,
}

impl Crowd {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a temporary directory") }
    }

    fn go_file(&self) -> PathBuf {
        self.directory.path().join("go")
    }

    fn client(&self, bench: &Bench, task: &str, more: &[&str]) -> Client {
        let log = self.directory.path().join("log");
        Client::shut(&bench.server, task)
            .with(&["--go", &self.go_file().to_string_lossy(), "--log", &log.to_string_lossy()])
            .with(more)
    }

    /// Waits until all are there; their process ids.
    fn ready(&self) -> Vec<u32> {
        let file = self.go_file().with_extension("ready");
        let pids = until(|| fs::read_to_string(&file).ok()).expect("everybody is ready");
        pids.split(' ').map(|pid| pid.parse().expect("a pid")).collect()
    }

    fn go(&self) {
        fs::write(self.go_file(), "").expect("giving the word");
    }

    /// How often something was tried, by who tried it.
    fn tries(&self) -> BTreeMap<char, usize> {
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        log.chars().fold(BTreeMap::new(), |mut tries, who| {
            *tries.entry(who).or_default() += 1;
            tries
        })
    }
}

/// A child that is killed when dropped.
struct Outsider(Child);

impl Drop for Outsider {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn cgroup_of(bench: &Bench, task: &str) -> PathBuf {
    let output = bench.daemon.tollgate(&["status", "--json"]);
    let status: Value = serde_json::from_slice(&output.stdout).expect("the status");
    let tasks = status["tasks"].as_array().expect("tasks");
    let task = tasks.iter().find(|known| known["task"] == task).expect("the task");
    task["cgroup"].as_str().expect("its cgroup").into()
}

/// When the daemon dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    Never,
    /// As soon as it has said that the gate is shut.
    AtOnce,
    /// So long before everybody tries.
    Before(Duration),
    /// So long after everybody has begun to.
    During(Duration),
}

impl Death {
    fn throw(dice: &mut Dice) -> Self {
        match dice.below(5) {
            0 => Self::Never,
            1 => Self::AtOnce,
            2 => Self::Before(Duration::from_micros(dice.below(100_000))),
            _ => Self::During(Duration::from_micros(dice.below(300_000))),
        }
    }
}

/// What a round is like.
struct Round<'a> {
    death: Death,
    seconds: &'a str,
    /// The configuration of the next daemon, which starts while everybody tries.
    next: Option<&'a str>,
}

/// A task whose gate is shut while all of its processes live, and then try to send. Nothing may arrive. Returns how often was tried, by whom.
fn hammer(bench: &mut Bench, task: &str, round: &Round<'_>) -> BTreeMap<char, usize> {
    let (crowd, outside) = (Crowd::new(), Crowd::new());
    let inside = crowd.client(bench, task, &["--processes", "16", "--threads", "3", "--seconds", round.seconds]);
    let outsiders = outside.client(bench, "outsider", &["--processes", "4", "--threads", "2", "--spare", "0"]);
    let mut outsiders = Outsider(outsiders.command().spawn().expect("starting others"));
    let agent = bench.daemon.spawn(task, AMPLE, &inside);
    crowd.ready();
    let others = outside.ready();
    let cgroup = cgroup_of(bench, task);

    let shut = bench.daemon.tollgate(&["kill", task]);
    assert!(shut.status.success(), "{}", text(&shut.stderr));
    if round.death == Death::AtOnce {
        bench.daemon.kill9();
    }
    let arrived = bench.server.truth().len();
    for pid in others {
        // Others that are put into the task now are in it.
        fs::write(cgroup.join("cgroup.procs"), pid.to_string()).expect("moving a process");
    }
    if let Death::Before(pause) = round.death {
        std::thread::sleep(pause);
        bench.daemon.kill9();
    }
    crowd.go();
    outside.go();
    if let Death::During(pause) = round.death {
        std::thread::sleep(pause);
        bench.daemon.kill9();
    }
    if let Some(config) = round.next {
        bench.daemon.set_config(config);
        bench.daemon.restart();
    }
    assert_exit(&agent.wait(), expected_exit(round));
    let truths = bench.server.truth();
    assert_eq!(
        truths.len(),
        arrived,
        "{:?}: what arrived after the gate was shut: {:#?}",
        round.death,
        &truths[arrived..]
    );
    if round.death != Death::Never && round.next.is_none() {
        bench.daemon.restart();
    }
    let stopped = until(|| (bench.daemon.report(task).state == "stopped").then_some(()));
    assert!(stopped.is_some(), "{:?}: {:?}", round.death, bench.daemon.report(task));
    assert!(is_empty(&cgroup), "processes are left in {}", cgroup.display());
    assert!(until(|| outsiders.0.try_wait().expect("looking at a child")).is_some(), "the others live on");
    assert_eq!(bench.server.truth().len(), arrived, "{:?}: what arrived in the end", round.death);
    let mut tries = crowd.tries();
    tries.insert('o', outside.tries().values().sum());
    tries
}

/// `tollgate run` says how its task ended, or that the daemon was gone.
fn expected_exit(round: &Round<'_>) -> i32 {
    if round.death == Death::Never || round.next.is_some() { 137 } else { 0 }
}

fn is_empty(cgroup: &Path) -> bool {
    fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default().is_empty()
}

fn add(all: &mut BTreeMap<char, usize>, tries: BTreeMap<char, usize>) {
    for (who, count) in tries {
        *all.entry(who).or_default() += count;
    }
}

const PATIENT: &str = "[budget]\nkill_grace_seconds = 10\n";

#[test]
fn no_request_leaves_after_the_gate_was_shut() {
    let wanted = std::env::var(REPETITIONS_VARIABLE).ok().map_or(REPETITIONS, |count| count.parse().expect("a number"));
    let options = Options { config: Some(PATIENT.into()) };
    let mut bench = Bench::with_options(Config::default(), &options);
    let seed = u64::from(std::process::id());
    let (mut dice, mut all, mut rounds, mut deaths) = (Dice(seed), BTreeMap::new(), 0, 0);
    while all.values().sum::<usize>() < wanted {
        let death = Death::throw(&mut dice);
        deaths += usize::from(death != Death::Never);
        let round = Round { death, seconds: "1", next: None };
        add(&mut all, hammer(&mut bench, &format!("shut-{rounds}"), &round));
        rounds += 1;
    }
    println!(
        "{} tries to send after the gate was shut in {rounds} rounds, {deaths} of them with the daemon killed at a random moment (seed {seed}): \
         {all:?}; 0 requests arrived",
        all.values().sum::<usize>()
    );
    for who in ['t', 'f', 'x', 'o'] {
        assert!(all.get(&who).is_some_and(|&count| count > 0), "nobody of `{who}` has tried: {all:?}");
    }
}

/// A daemon of another version has other programs, here because its maps have other sizes: these are attached before the old ones are detached.
#[test]
fn a_shut_gate_stays_shut_while_other_programs_take_over() {
    let options = Options { config: Some(PATIENT.into()) };
    let mut bench = Bench::with_options(Config::default(), &options);
    let before = pinned_generations(&bench);
    let others = [
        format!("{PATIENT}[kernel]\nring_mib = 16\nprocesses = 4096\n"),
        format!("{PATIENT}[kernel]\nring_mib = 8\nconnections = 8192\n"),
        PATIENT.to_owned(),
    ];
    let mut all = BTreeMap::new();
    for (number, next) in others.iter().enumerate() {
        let death = Death::During(Duration::from_millis(200));
        let round = Round { death, seconds: "6", next: Some(next) };
        add(&mut all, hammer(&mut bench, &format!("upgrade-{number}"), &round));
        let alone = until(|| Some(pinned_generations(&bench)).filter(|generations| generations.len() == 1));
        let generations = alone.unwrap_or_else(|| panic!("the old programs stay: {:?}", pinned_generations(&bench)));
        assert_eq!(generations == before, number == 2, "each configuration has programs of its own");
    }
    println!("{all:?} tries to send during three changes of programs; 0 requests arrived");
}

fn pinned_generations(bench: &Bench) -> Vec<PathBuf> {
    let entries = fs::read_dir(bench.daemon.pin_dir()).expect("the pins").map(|entry| entry.expect("an entry").path());
    entries.collect()
}

const EACH: &str = "0.00045";

/// Clients that call as fast as they can; each call costs [`EACH`].
fn clients(bench: &Bench, task: &str, count: &str) -> Client {
    let same = json!({"input_tokens": 100, "cached_tokens": 0, "output_tokens": 20, "reasoning_tokens": 0});
    Client::swarm(&bench.server, task).asking(&same).with(&["--clients", count])
}

fn complete(bench: &Bench, task: &str) -> Vec<Truth> {
    bench.server.truth_of(task).into_iter().filter(|truth| truth.state == State::Complete).collect()
}

fn arrives(bench: &Bench, count: usize) {
    let arrived = bench.server.wait_until(LIMIT, |truths| truths.len() >= count);
    assert!(arrived.is_some(), "fewer than {count} requests arrived: {}", bench.server.truth().len());
}

/// The daemon dies again and again while a task spends: what it does meanwhile is metered by the next one, and the cap holds.
#[test]
fn a_cap_holds_while_daemons_die() {
    const DEATHS: usize = 4;
    const CLIENTS: usize = 4;
    let (task, budget) = ("mortal", "0.3");
    let mut bench = Bench::new();
    let mut dice = Dice(u64::from(std::process::id()));
    let mut agent = bench.daemon.spawn(task, budget, &clients(&bench, task, &CLIENTS.to_string()));
    for death in 1..=DEATHS {
        arrives(&bench, death * 80);
        std::thread::sleep(Duration::from_micros(dice.below(50_000)));
        assert!(agent.is_running(), "the cap was not reached yet");
        bench.daemon.kill9();
        std::thread::sleep(Duration::from_millis(dice.below(400)));
        if death == 2 {
            // Other programs, and so a change while it spends.
            bench.daemon.set_config("[kernel]\nring_mib = 16\n");
        }
        bench.daemon.restart();
    }
    agent.wait();
    let report = bench.daemon.report_when(task, |report| report.state == "stopped" && report.held() == 0);
    assert_eq!((&*report.state, report.held()), ("stopped", 0), "{report:?}");
    let truths = bench.server.truth_of(task);
    let billed: PicoUsd = truths.iter().map(Truth::cost).sum();
    let surplus = report.spent() - billed;
    let complete = complete(&bench, task);
    let measured = measured(&complete, &report);
    // What a daemon had read and not written down is charged by the next one, in one sum.
    let sums = report.call_list.iter().filter(|call| call.basis == "estimated").map(Call::cost);
    let unwritten = usize::try_from(sums.sum::<PicoUsd>() / usd(EACH)).expect("a number");
    println!(
        "{} calls billed, {} complete, {measured} measured, {unwritten} in sums; {} charges: {:?}; {surplus} pico-USD more charged than billed",
        truths.len(),
        complete.len(),
        report.calls,
        report.basis
    );
    assert!(billed <= usd(budget), "{billed} pico-USD were billed, the cap is {budget}");
    // Each client has a call in flight at each death, and when its task is killed.
    let in_flight = |deaths: usize| PicoUsd::try_from(deaths * CLIENTS).expect("a number") * usd(EACH);
    assert!(surplus.abs() <= in_flight(DEATHS + 1), "every call is charged, and once: {report:?}");
    let odd = complete.len() - measured - unwritten.min(complete.len() - measured);
    assert!(odd <= (DEATHS + 1) * CLIENTS, "{odd} calls were not measured: {:?}", report.basis);
}

/// How many of these calls the report has as they were billed.
fn measured(truths: &[Truth], report: &Report) -> usize {
    let call = |truth: &Truth| truth.call.as_ref().and_then(|call| report.call(&call.id)).cloned();
    let is_measured = |truth: &&Truth| {
        let billed = truth.call.as_ref().map(|call| call.billed);
        call(truth).is_some_and(|call| call.basis == "measured" && Some(call.usage) == billed)
    };
    truths.iter().filter(is_measured).count()
}

#[test]
fn requests_wait_for_a_daemon_by_default() {
    let task = "waits";
    let mut bench = Bench::new();
    let mut agent = bench.daemon.spawn(task, AMPLE, &clients(&bench, task, "4").with(&["--calls", "100"]));
    arrives(&bench, 40);
    bench.daemon.kill9();
    let killed = bench.server.truth().len();
    let still = || {
        let before = bench.server.truth().len();
        std::thread::sleep(Duration::from_secs(1));
        (bench.server.truth().len() == before).then_some(before)
    };
    let stopped_at = until(still).expect("without credits nothing more arrives");
    // 64 credits are lent at most, and four requests may have been on their way.
    assert!(
        stopped_at - killed <= 68 && stopped_at < 400,
        "{stopped_at} requests, {killed} of them before the daemon died"
    );
    assert!(agent.is_running(), "it waits");
    bench.daemon.restart();
    arrives(&bench, 400);
    assert_exit(&agent.wait(), 0);
    let report = bench.daemon.report_when(task, |report| report.calls >= 400 && report.held() == 0);
    assert!(report.calls >= 400 && report.held() == 0, "{report:?}");
    println!("{:?}, {stopped_at} requests before it waited, {killed} before the daemon died", report.basis);
}

#[test]
fn requests_go_on_without_a_daemon_where_that_is_allowed() {
    let task = "goes-on";
    let options = Options { config: Some("[budget]\non_daemon_loss = \"allow\"\n".into()) };
    let mut bench = Bench::with_options(Config::default(), &options);
    let agent = bench.daemon.spawn(task, AMPLE, &clients(&bench, task, "4").with(&["--calls", "100"]));
    arrives(&bench, 40);
    bench.daemon.kill9();
    let killed = bench.server.truth().len();
    arrives(&bench, 400);
    assert!(killed < 250, "most calls were made without a daemon: {killed} with one");
    assert_exit(&agent.wait(), 0);
    bench.daemon.restart();
    let report = bench.daemon.report_when(task, |report| report.calls >= 390 && report.held() == 0);
    let complete = complete(&bench, task);
    let measured = measured(&complete, &report);
    println!(
        "{killed} calls with a daemon, {} without; {measured} measured: {:?}",
        complete.len() - killed,
        report.basis
    );
    assert!(measured + 4 >= complete.len(), "what was in the ring is metered: {measured} of {}", complete.len());
    assert_eq!(report.state, "ended");
}

/// Ids of the links in a directory, and below.
fn pinned_links(directory: &Path) -> Vec<u32> {
    let mut ids = Vec::new();
    for entry in fs::read_dir(directory).expect("the pins") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            ids.extend(pinned_links(&path));
        } else if directory.ends_with("links") {
            let link = PinnedLink::from_pin(&path).expect("a pinned link");
            ids.push(aya::programs::links::FdLink::from(link).info().expect("what it is").id());
        }
    }
    ids
}

#[test]
fn unpin_takes_everything_away() {
    let task = "freed";
    let mut bench = Bench::new();
    let pins = bench.daemon.pin_dir();
    let agent = bench.daemon.spawn(task, AMPLE, &clients(&bench, task, "2").with(&["--calls", "300"]));
    arrives(&bench, 40);
    let unpin = |bench: &Bench| {
        let mut command = std::process::Command::new(bench.daemon.binary());
        tollgate_tests::daemon::bounded(command.arg("unpin").arg("--pin-dir").arg(bench.daemon.pin_dir()))
    };
    // Not from under a daemon.
    assert_exit(&unpin(&bench), 75);
    bench.daemon.kill9();
    let links = pinned_links(&pins);
    assert!(links.len() > 20, "{links:?}");
    let attached = || loaded_links().flatten().filter(|link| links.contains(&link.id())).count();
    assert_eq!(attached(), links.len(), "what is pinned is attached");
    let output = unpin(&bench);
    assert_exit(&output, 0);
    println!("{}", text(&output.stdout).trim());
    assert!(!pins.exists(), "{} is there", pins.display());
    assert!(until(|| (attached() == 0).then_some(())).is_some(), "{} of {} are attached", attached(), links.len());
    arrives(&bench, 600);
    assert_exit(&agent.wait(), 0);
}
