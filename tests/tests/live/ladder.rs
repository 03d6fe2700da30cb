//! Every rung of the ladder, and what people decide.

use std::time::Duration;

use serde_json::{Value, json};
use tollgate_tests::{
    Client, Config, Seen, Truth,
    daemon::{LIMIT, Options, Running, until},
    model_server::State,
    reference_price::{PicoUsd, usd},
    report::TaskStatus,
};

use super::{Bench, CAP, assert_exit, cap, text};

/// A call of $0.0035: a cap of $0.05 is reached with the 15th.
fn ask() -> Value {
    json!({"input_tokens": 1000, "cached_tokens": 0, "output_tokens": 100, "reasoning_tokens": 0})
}

/// An agent that goes on whatever happens to its calls.
fn stubborn(bench: &Bench, task: &str) -> Client {
    Client::loop_agent(&bench.server, task).asking(&ask()).with(&["--persist"])
}

fn start(bench: &Bench, task: &str, ladder: &str, client: &Client) -> Running {
    bench.daemon.spawn_with(task, CAP, &["--limit", &format!("ladder={ladder}")], client)
}

#[track_caller]
fn wait_for_state(bench: &Bench, task: &str, state: &str) {
    let state_of = |tasks: Vec<TaskStatus>| tasks.into_iter().find(|it| it.task == task).map(|it| it.state);
    let state_now = || state_of(bench.daemon.status().tasks).unwrap_or_default();
    let reached = until(|| (state_now() == state).then_some(()));
    assert!(reached.is_some(), "{task} is {} and not {state}\n{:#?}", state_now(), bench.daemon.alerts());
}

/// Alerts of one kind about a task.
fn alerts(bench: &Bench, task: &str, decision: &str) -> Vec<String> {
    let all = bench.daemon.alerts();
    let wanted = all.iter().filter(|alert| alert["TOLLGATE_TASK"] == task && alert["TOLLGATE_DECISION"] == decision);
    wanted.map(|alert| alert["MESSAGE"].as_str().unwrap_or_default().to_owned()).collect()
}

#[track_caller]
fn wait_for_alert(bench: &Bench, task: &str, decision: &str) -> String {
    let found = until(|| alerts(bench, task, decision).pop());
    found.unwrap_or_else(|| panic!("no alert `{decision}` about {task}: {:#?}", bench.daemon.alerts()))
}

/// Requests that have arrived, whole.
fn arrived(bench: &Bench, task: &str) -> usize {
    whole(&bench.server.truth(), task)
}

fn whole(truths: &[Truth], task: &str) -> usize {
    truths.iter().filter(|truth| truth.is_of(task) && truth.call.is_some()).count()
}

fn spent(truths: &[Truth]) -> PicoUsd {
    truths.iter().map(Truth::cost).sum()
}

#[track_caller]
fn order(bench: &Bench, arguments: &[&str]) -> String {
    let output = bench.daemon.tollgate(arguments);
    assert_exit(&output, 0);
    text(&output.stdout)
}

/// Says in the test's output how long it took from the byte that decided it to the effect.
fn print_latencies(bench: &Bench, what: &[&str]) {
    let latencies = bench.daemon.status().latencies;
    for name in what {
        let latency = latencies.get(*name).unwrap_or_else(|| panic!("no latency of {name}: {latencies:#?}"));
        println!(
            "{name}: {} times, p50 {} µs, p99 {} µs, max {} µs",
            latency.count, latency.p50_us, latency.p99_us, latency.max_us
        );
    }
}

/// The process lives and sees errors; nothing leaves until a person allows more.
#[test]
fn a_task_that_is_cut_lives_and_reaches_nobody() {
    let bench = Bench::new();
    let task = "cut";
    let agent = start(&bench, task, "cut@100", &stubborn(&bench, task));
    wait_for_state(&bench, task, "cut");
    let done = wait_for_alert(&bench, task, "cut-done");
    assert!(done.contains("connections ended"), "{done}");
    std::thread::sleep(Duration::from_millis(50));
    let before = arrived(&bench, task);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(arrived(&bench, task), before, "requests arrive after the cut");
    let at_cut = spent(&bench.server.truth_of(task));
    assert!(at_cut < cap() + usd("0.0035"), "{at_cut} pico-USD");

    // It goes on with what a person adds, and is cut again.
    let said = order(&bench, &["approve", task, "--add", "0.035"]);
    assert!(said.contains("of $0.085"), "{said}");
    bench.server.wait_until(LIMIT, |truths| whole(truths, task) >= before + 5).expect("it goes on");
    wait_for_state(&bench, task, "cut");
    let said = order(&bench, &["kill", task]);
    assert!(said.contains("in force: kill (ordered by a person)"), "{said}");
    let output = agent.wait();
    assert_exit(&output, 137);
    let seen = Seen::lines(&output.stdout);
    assert!(seen.iter().any(|seen| seen.error.is_some()), "the agent saw errors and lived: {seen:?}");
    let total = spent(&bench.server.truth_of(task));
    assert!(total < usd("0.085") + usd("0.0035"), "{total} pico-USD");
    let report = bench.daemon.report_when(task, |report| report.state == "stopped");
    assert!(
        report.decisions.iter().any(|decision| decision.decision == "order" && decision.reason.contains("$0.035 more"))
    );
    print_latencies(&bench, &["cut: gate", "cut: confirmed", "kill: gate shut", "kill: confirmed"]);
    bench.assert_lossless();
}

/// Everything is frozen until a person decides; a no ends it.
#[test]
fn a_paused_task_waits_for_a_person() {
    let bench = Bench::new();
    let task = "pause";
    let agent = start(&bench, task, "pause@100", &stubborn(&bench, task));
    wait_for_state(&bench, task, "paused");
    wait_for_alert(&bench, task, "paused");
    let before = arrived(&bench, task);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(arrived(&bench, task), before, "requests arrive while it is paused");
    order(&bench, &["resume", task]);
    wait_for_state(&bench, task, "paused");
    assert_eq!(arrived(&bench, task), before, "its cap still holds after a mere resume");
    order(&bench, &["approve", task, "--add", "0.035"]);
    bench.server.wait_until(LIMIT, |truths| whole(truths, task) >= before + 5).expect("it goes on");
    wait_for_state(&bench, task, "paused");
    order(&bench, &["budget", task, "total=0.12", "ladder=kill@100"]);
    assert_exit(&agent.wait(), 137);
    assert!(spent(&bench.server.truth_of(task)) < usd("0.12") + usd("0.0035"));

    let task = "denied";
    let agent = start(&bench, task, "pause@100", &stubborn(&bench, task));
    wait_for_state(&bench, task, "paused");
    let said = order(&bench, &["deny", task]);
    assert!(said.contains("kill (denied by a person)"), "{said}");
    assert_exit(&agent.wait(), 137);

    // A pause that a person ordered, far from any cap.
    let task = "ordered";
    let agent =
        bench.daemon.spawn(task, "5", &Client::loop_agent(&bench.server, task).asking(&ask()).with(&["--calls", "40"]));
    bench.server.wait_until(LIMIT, |truths| whole(truths, task) >= 3).expect("calls");
    order(&bench, &["pause", task]);
    wait_for_state(&bench, task, "paused");
    wait_for_alert(&bench, task, "paused");
    let before = arrived(&bench, task);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(arrived(&bench, task), before);
    order(&bench, &["resume", task]);
    assert_exit(&agent.wait(), 0);
    assert_eq!(arrived(&bench, task), 40, "nothing is lost by a pause");
    print_latencies(&bench, &["pause: gate", "pause: confirmed", "resume: confirmed"]);
    bench.assert_lossless();
}

/// What is spent does not outrun the pace.
#[test]
fn a_throttled_task_spends_at_its_pace() {
    let bench = Bench::new();
    let task = "throttle";
    // $0.014 a second: four calls.
    let agent =
        start(&bench, task, "throttle=50.4@20,kill@100", &Client::loop_agent(&bench.server, task).asking(&ask()));
    assert_exit(&agent.wait(), 137);
    let truths = bench.server.truth_of(task);
    assert!(spent(&truths) < cap() + usd("0.0035"));
    // From the 4th call on, which takes it over a fifth, to the last one.
    let throttled: Vec<&Truth> = truths.iter().skip(4).collect();
    let (first, last) = (throttled[0].arrived_us, throttled[throttled.len() - 1].arrived_us);
    let per_call = (last - first) / (throttled.len() as u64 - 1);
    println!("{} calls at one per {per_call} µs", throttled.len());
    assert!(per_call > 225_000, "one call per {per_call} µs where 250000 are due");
    assert!(!alerts(&bench, task, "throttle").is_empty());
    print_latencies(&bench, &["throttle: gate"]);
    bench.assert_lossless();
}

/// An answer that grows beyond what is left is cut off in the middle.
#[test]
fn an_answer_that_cannot_be_paid_for_is_cut_off() {
    let bench = Bench::with_server(Config { delay: Duration::from_millis(20), ..Config::default() });
    let task = "outgrows";
    // $0.05 are 5,000 tokens of this model. It would be twice as many.
    let long = json!({"input_tokens": 50, "cached_tokens": 0, "output_tokens": 10_000, "reasoning_tokens": 0, "chunk_tokens": 50});
    let client = Client::loop_agent(&bench.server, task).asking(&long).with(&["--calls", "1", "--persist"]);
    let output = start(&bench, task, "cut@100", &client).wait();
    assert_exit(&output, 0);
    let seen = Seen::lines(&output.stdout);
    assert!(seen.iter().all(|seen| seen.usage.is_none()), "the agent did not see the end of the answer: {seen:?}");
    let truths = bench.server.truth_of(task);
    let answered: Vec<&Truth> = truths.iter().filter(|truth| truth.call.is_some()).collect();
    assert_eq!((answered.len(), answered[0].state), (1, State::Abandoned), "{truths:#?}");
    let billed = answered[0].cost();
    println!("cut off at {} % of the cap", billed * 100 / cap());
    // A chunk is $0.0005; the server may be one ahead. What is counted on the way is estimated.
    assert!(billed > cap() * 9 / 10 && billed < cap() * 11 / 10, "{billed} pico-USD");
    wait_for_alert(&bench, task, "call-cut");
    print_latencies(&bench, &["cut of a call: confirmed"]);
    bench.assert_lossless();
}

/// A tenant's cap holds for all of its tasks together, and stops all of them.
/// How long each rung takes, many times: `TOLLGATE_RUNGS=20` makes twenty times as many.
#[test]
fn rungs_take_effect_at_once() {
    let times = std::env::var("TOLLGATE_RUNGS").map_or(1, |times| times.parse().expect("TOLLGATE_RUNGS is a number"));
    let bench = Bench::new();
    // One call is more than the cap, and its hold is less.
    let dear = json!({"input_tokens": 4000, "cached_tokens": 0, "output_tokens": 600, "reasoning_tokens": 0});
    for round in 0..5 * times {
        for (rung, state) in [("kill@100", "stopped"), ("cut@100", "cut"), ("pause@100", "paused")] {
            let task = format!("{state}-{round}");
            let client = Client::loop_agent(&bench.server, &task).asking(&dear).with(&["--persist"]);
            let agent = bench.daemon.spawn_with(&task, "0.015", &["--limit", &format!("ladder={rung}")], &client);
            let confirmed = match state {
                "cut" => "cut-done",
                "paused" => "paused",
                _ => "killed",
            };
            wait_for_alert(&bench, &task, confirmed);
            if state != "stopped" {
                order(&bench, &["kill", &task]);
            }
            agent.wait();
            assert_eq!(arrived(&bench, &task), 1, "{task}: calls that arrived");
        }
    }
    print_latencies(
        &bench,
        &["kill: gate shut", "kill: confirmed", "cut: gate", "cut: confirmed", "pause: gate", "pause: confirmed"],
    );
    bench.assert_lossless();
}

#[test]
fn what_a_tenant_may_spend_its_tasks_share() {
    let config =
        "[[account]]\nname = \"tenant=acme\"\nbudget = { total = \"0.1\", ladder = [\"warn@50\", \"kill@100\"] }";
    let mut bench = Bench::with_options(Config::default(), &Options { config: Some(config.into()) });
    let tasks = ["tenant-a", "tenant-b", "tenant-c"];
    let agents: Vec<Running> = tasks
        .iter()
        .map(|task| {
            let client = Client::loop_agent(&bench.server, task).asking(&ask());
            bench.daemon.spawn_with(task, "5", &["--tenant", "acme", "--workflow", "nightly"], &client)
        })
        .collect();
    for agent in agents {
        assert_exit(&agent.wait(), 137);
    }
    let total: PicoUsd = tasks.iter().map(|task| spent(&bench.server.truth_of(task))).sum();
    assert!(total > usd("0.08") && total < usd("0.1") + usd("0.0035"), "{total} pico-USD");
    let status = bench.daemon.status();
    let accounts: Vec<&str> = status.accounts.iter().map(|account| &*account.account).collect();
    assert_eq!(accounts, ["tenant=acme", "workflow=acme/nightly"]);
    assert_eq!(usd(&status.accounts[0].spent_usd), usd(&status.accounts[1].spent_usd));
    for task in tasks {
        let reason = bench.daemon.report(task).stopped.expect("a reason").reason;
        assert!(reason.contains("tenant=acme") || reason.contains("of $0.1"), "{task}: {reason}");
    }

    // What the tenant has spent is known after a restart: a new task of it has nothing left.
    bench.daemon.terminate();
    bench.daemon.restart();
    let client = Client::loop_agent(&bench.server, "tenant-d").asking(&ask());
    let output = bench.daemon.run_with("tenant-d", "5", &["--tenant", "acme"], &client);
    assert_exit(&output, 137);
    assert_eq!(arrived(&bench, "tenant-d"), 0);
    order(&bench, &["approve", "tenant=acme", "--add", "0.02"]);
    let client = client.with(&["--calls", "2"]);
    assert_exit(&bench.daemon.run_with("tenant-d", "5", &["--tenant", "acme"], &client), 0);
    assert_eq!(arrived(&bench, "tenant-d"), 2, "with what a person added it goes on");
}

/// A sub-task has at most what its task has left, and a process inside may order nothing.
#[test]
fn parts_of_a_task_are_on_its_bill_and_nobody_inside_decides() {
    let bench = Bench::new();
    let (whole, part) = ("whole", "part");
    let parent = bench.daemon.spawn(
        whole,
        CAP,
        &Client::loop_agent(&bench.server, whole).asking(&ask()).with(&["--pause-ms", "100"]),
    );
    wait_for_state(&bench, whole, "running");
    let client = Client::loop_agent(&bench.server, part).asking(&ask());
    assert_exit(&bench.daemon.run_with(part, "5", &["--parent", whole], &client), 137);
    assert_exit(&parent.wait(), 137);
    let total = spent(&bench.server.truth_of(whole)) + spent(&bench.server.truth_of(part));
    assert!(total < cap() + usd("0.0035") && total > usd("0.03"), "{total} pico-USD");

    let inside = bench.daemon.command(&["approve", "inside", "--add", "100"]);
    let arguments: Vec<String> = std::iter::once(inside.get_program())
        .chain(inside.get_args())
        .map(|it| it.to_string_lossy().into_owned())
        .collect();
    let mut line = vec!["run", "--task", "inside", "--budget", "1", "--"];
    line.extend(arguments.iter().map(String::as_str));
    let output = bench.daemon.tollgate(&line);
    assert_exit(&output, 77);
    assert!(text(&output.stderr).contains("cannot administer Tollgate"), "{}", text(&output.stderr));
}

/// A call that a rule names waits for a yes, with all that it is about to send; a no refuses it, and the task goes on.
#[test]
fn calls_wait_for_a_yes() {
    let config = "[budget]\napprove = [{ model = \"gpt-4o\" }]\ndeny_models = [\"gpt-4.1*\"]";
    let bench = Bench::with_options(Config::default(), &Options { config: Some(config.into()) });
    let run = |task: &str, model: &str| {
        let client = Client::loop_agent(&bench.server, task).asking(&ask()).with(&[
            "--model",
            model,
            "--calls",
            "1",
            "--persist",
        ]);
        bench.daemon.spawn(task, "5", &client)
    };
    let agent = run("yes", "gpt-4o");
    let message = wait_for_alert(&bench, "yes", "approval");
    assert!(message.contains("model gpt-4o needs approval"), "{message}");
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(arrived(&bench, "yes"), 0);
    order(&bench, &["approve", "yes"]);
    assert_exit(&agent.wait(), 0);
    assert_eq!(arrived(&bench, "yes"), 1);

    let agent = run("no", "gpt-4o");
    wait_for_alert(&bench, "no", "approval");
    let said = order(&bench, &["deny", "no"]);
    assert!(!said.contains("kill"), "{said}");
    let output = agent.wait();
    assert_exit(&output, 0);
    assert!(Seen::lines(&output.stdout).iter().all(|seen| seen.error.is_some()), "{}", text(&output.stdout));
    assert_eq!(arrived(&bench, "no"), 0);

    let output = run("never", "gpt-4.1").wait();
    assert_exit(&output, 0);
    assert!(alerts(&bench, "never", "refused")[0].contains("model gpt-4.1 is not allowed"));
    assert_eq!(arrived(&bench, "never"), 0);

    // What no rule names goes as it would.
    assert_exit(&run("other", "gpt-4o-mini").wait(), 0);
    assert_eq!(arrived(&bench, "other"), 1);
    print_latencies(&bench, &["request held: allowed"]);
    bench.assert_lossless();
}
