//! Recorded usage equals the server's truth to the token, and its cost the catalogue's price to the pico-USD.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use tollgate_tests::{
    Client, ModelServer, Report, Seen, Truth, Usage,
    clients::{Curl, PythonEnv},
    model_server::{Api, Call, State},
    reference_price::{self, usd},
};

use super::{AMPLE, Bench, assert_exit, assert_usd, file_name, python, text};

/// Compares a task's report with the truth of the client that ran in it. All of its calls have told their usage.
#[track_caller]
pub(super) fn assert_metered(bench: &Bench, task: &str) -> Report {
    let report = assert_metered_as(bench, task, &bench.server.truth_of(task));
    super::coverage::assert_covered(bench, &report);
    report
}

/// As [`assert_metered`], for clients that do not tell the server who they are.
#[track_caller]
pub(super) fn assert_metered_as(bench: &Bench, task: &str, truths: &[Truth]) -> Report {
    let calls: Vec<_> = truths.iter().filter_map(|truth| truth.call.as_ref()).collect();
    let count = u64::try_from(calls.len()).expect("a count");
    let report = bench.daemon.report_when(task, |report| report.calls >= count && report.held() == 0);

    let recorded: BTreeSet<_> = report.call_list.iter().filter_map(|call| call.response_id.as_deref()).collect();
    let has_id = |call: &&&Call| call.api != Api::Bedrock;
    let billed: BTreeSet<_> = calls.iter().filter(has_id).map(|call| call.id.as_str()).collect();
    assert_eq!(recorded, billed, "{task}: calls that Tollgate recorded and calls that the server billed");
    assert_eq!(report.call_list.len(), calls.len(), "{task}: no call is recorded twice: {:#?}", report.call_list);
    assert_eq!(report.calls, count);
    assert_eq!(report.exchanges, u64::try_from(truths.len()).expect("a count"), "{task}: exchanges");

    let mut spent = 0;
    let mut usage = Usage::default();
    let mut models: BTreeMap<&str, (u64, Usage, i128)> = BTreeMap::new();
    for call in calls {
        // Where answers have no id, the drawn usage tells calls apart.
        let same_usage = || report.call_list.iter().find(|charged| charged.usage == call.billed);
        let charged = if has_id(&&call) { report.call(&call.id) } else { same_usage() };
        let charged = charged.unwrap_or_else(|| panic!("{task}: {} is missing: {:#?}", call.id, report.call_list));
        let cost = reference_price::cost(&call.model, &call.billed);
        assert_eq!(charged.usage, call.billed, "{task}: usage of {}", call.id);
        assert_usd(charged.cost(), cost, &call.id);
        assert_eq!(charged.model, call.model, "{task}: {}", call.id);
        assert_eq!(charged.stream, call.stream, "{task}: {}", call.id);
        assert_eq!(charged.basis, "measured", "{task}: {}", call.id);
        assert!(charged.price_row.is_some(), "{task}: {} names no price row", call.id);
        spent += cost;
        usage = usage.plus(&call.billed);
        let model = models.entry(&call.model).or_default();
        *model = (model.0 + 1, model.1.plus(&call.billed), model.2 + cost);
    }
    assert_usd(report.spent(), spent, task);
    assert_usd(report.held(), 0, "held when all calls have ended");
    assert_eq!(report.usage, usage, "{task}: total usage");
    assert_eq!((report.unpriced, report.unread), (0, 0), "{task}: unpriced and unread");
    let by_model = report.models.iter().map(|model| (&*model.model, (model.calls, model.usage, usd(&model.cost_usd))));
    assert_eq!(by_model.collect::<BTreeMap<_, _>>(), models, "{task}: models");
    let (of_processes, cost_of_processes) = report
        .processes
        .iter()
        .fold((0, 0), |(calls, cost), process| (calls + process.calls, cost + usd(&process.cost_usd)));
    assert_eq!((of_processes, cost_of_processes), (count, spent), "{task}: processes");
    report
}

pub fn sdk_is_metered(bench: &Bench, name: &str, sdk: impl Fn(&str) -> Client) {
    for mode in ["sync", "async", "threads", "gather"] {
        for stream in [false, true] {
            let calls = if matches!(mode, "threads" | "gather") { "20" } else { "5" };
            let task = format!("{name}-{mode}-{}", if stream { "stream" } else { "whole" });
            let client = sdk(&task).with(&["--mode", mode, "--calls", calls]);
            let client = if stream { client.with(&["--stream"]) } else { client };
            let output = bench.daemon.run(&task, AMPLE, &client);
            assert_exit(&output, 0);
            let seen = Seen::lines(&output.stdout);
            assert!(seen.iter().all(|seen| seen.error.is_none()), "the client noticed nothing: {seen:#?}");
            assert_eq!(seen.len().to_string(), calls);
            let report = assert_metered(bench, &task);
            assert_eq!(report.state, "ended");
            assert!(report.processes.iter().any(|process| file_name(&process.exe).starts_with("python")));
        }
    }
    bench.assert_lossless();
}

#[test]
fn openai_is_metered_to_the_token() {
    let (python, bench) = (python(), Bench::new());
    sdk_is_metered(&bench, "openai", |task| Client::openai(&python, &bench.server, task));
}

#[test]
fn anthropic_is_metered_to_the_token() {
    let (python, bench) = (python(), Bench::new());
    sdk_is_metered(&bench, "anthropic", |task| Client::anthropic(&python, &bench.server, task));
}

#[test]
fn curl_is_metered_to_the_token() {
    let bench = Bench::new();
    for (name, api) in [("openai", Api::OpenaiChat), ("anthropic", Api::AnthropicMessages)] {
        for (shape, stream, gzip) in
            [("whole", false, false), ("stream", true, false), ("whole-gzip", false, true), ("stream-gzip", true, true)]
        {
            for (version, parallel) in [("1.1", 1), ("2", 1), ("2", 20)] {
                let task = format!("curl-{name}-{shape}-http{version}-{parallel}");
                let calls = parallel.max(4);
                let curl = Curl::new(&bench.server, &task, api, stream, calls, &json!({"gzip": gzip})).http(version);
                let curl = if gzip { curl.compressed() } else { curl };
                let curl = if parallel > 1 { curl.parallel(parallel) } else { curl };
                let output = bench.daemon.tollgate(&run_arguments(&task, &curl.command_line()));
                assert_exit(&output, 0);
                assert_eq!(curl.seen().len(), calls);
                let report = assert_metered(&bench, &task);
                assert_eq!(file_name(&report.processes[0].exe), "curl");
            }
        }
    }
    bench.assert_lossless();
}

pub fn run_arguments<'a>(task: &'a str, command: &'a [String]) -> Vec<&'a str> {
    ["run", "--task", task, "--budget", AMPLE, "--"].into_iter().chain(command.iter().map(String::as_str)).collect()
}

#[test]
fn calls_of_a_process_tree_are_on_one_bill() {
    let bench = Bench::new();
    let task = "tree";
    let curls: Vec<_> = (0..3).map(|_| Curl::new(&bench.server, task, Api::OpenaiChat, true, 2, &json!({}))).collect();
    let quote = |word: &String| format!("'{}'", word.replace('\'', r"'\''"));
    let line = |curl: &Curl| curl.command_line().iter().map(quote).collect::<Vec<_>>().join(" ");
    // One in the foreground, one in the background, and one that leaves session and parent.
    let [near, background, away] = [0, 1, 2].map(|index| line(&curls[index]));
    let script = format!("{near}; {background} & (setsid {away} &) ; wait; sleep 1");
    let output = bench.daemon.tollgate(&run_arguments(task, &["sh".into(), "-c".into(), script]));
    assert_exit(&output, 0);
    let report = assert_metered(&bench, task);
    let pids: BTreeSet<_> = report.call_list.iter().map(|call| call.pid).collect();
    assert_eq!((report.calls, pids.len()), (6, 3));
    bench.assert_lossless();
}

/// Answers whose parts come in awkward pieces: events cut anywhere, tool calls, large and compressed bodies.
#[test]
fn awkward_answers_are_metered_to_the_token() {
    let (python, bench) = (python(), Bench::new());
    let shapes = [
        ("cut", json!({"piece_bytes": 7, "output_tokens": 40})),
        ("cut-gzip", json!({"piece_bytes": 5, "gzip": true, "output_tokens": 40})),
        ("tool", json!({"tool_call": true, "output_tokens": 25})),
        ("slow", json!({"delay_ms": 15, "stall_ms": 100, "output_tokens": 30})),
        ("large", json!({"answer_bytes": 400_000, "chunk_tokens": 200})),
        ("cached", json!({"cached_tokens": 50_000, "input_tokens": 3, "reasoning_tokens": 900})),
        ("chunked", json!({"chunked": true})),
        ("sized", json!({"chunked": false})),
    ];
    for (name, shape) in &shapes {
        for (api, client) in each_sdk(&python, &bench.server, &format!("{name}-whole")) {
            let task = format!("{api}-{name}-whole");
            assert_exit(&bench.daemon.run(&task, AMPLE, &client.asking(shape)), 0);
            assert_metered(&bench, &task);
        }
        for (api, client) in each_sdk(&python, &bench.server, &format!("{name}-stream")) {
            let task = format!("{api}-{name}-stream");
            assert_exit(&bench.daemon.run(&task, AMPLE, &client.asking(shape).with(&["--stream"])), 0);
            assert_metered(&bench, &task);
        }
    }
    bench.assert_lossless();
}

/// Each SDK's client, tagged with the task `API-NAME`.
fn each_sdk(python: &PythonEnv, server: &ModelServer, name: &str) -> [(&'static str, Client); 2] {
    [
        ("openai", Client::openai(python, server, &format!("openai-{name}"))),
        ("anthropic", Client::anthropic(python, server, &format!("anthropic-{name}"))),
    ]
}

#[test]
fn what_costs_nothing_is_not_charged() {
    let (python, bench) = (python(), Bench::new());
    for (api, client) in each_sdk(&python, &bench.server, "errors") {
        let task = format!("{api}-errors");
        assert_exit(
            &bench.daemon.run(&task, AMPLE, &client.asking(&json!({"status": 429})).with(&["--calls", "3"])),
            0,
        );
        let report = bench.daemon.report_when(&task, |report| report.exchanges >= 3 && report.held() == 0);
        assert_eq!((report.calls, report.exchanges, report.spent(), report.held()), (0, 3, 0, 0), "{report:?}");
    }
    for (api, client) in each_sdk(&python, &bench.server, "free") {
        let task = format!("{api}-free");
        assert_exit(&bench.daemon.run(&task, AMPLE, &client.with(&["--free"])), 0);
        let report = assert_metered(&bench, &task);
        assert_eq!((report.calls, report.exchanges), (1, 2));
    }
    bench.assert_lossless();
}

#[test]
fn a_stream_that_tells_no_usage_is_estimated_and_says_so() {
    let (python, bench) = (python(), Bench::new());
    let ask = json!({"output_tokens": 400, "reasoning_tokens": 0});
    let client =
        Client::openai(&python, &bench.server, "silent").asking(&ask).with(&["--stream", "--no-include-usage"]);
    assert_exit(&bench.daemon.run("silent", AMPLE, &client), 0);
    let report = bench.daemon.report_when("silent", |report| report.calls >= 1);
    let call = &report.call_list[0];
    assert_eq!(call.basis, "estimated");
    assert_eq!(report.basis.get("estimated"), Some(&1), "{:?}", report.basis);
    // The words of the answer are a token each, give or take how a tokenizer sees the first one.
    assert!((380..=420).contains(&call.usage.output_total()), "{call:?}");
    assert!(call.usage.input_total() > 0, "{call:?}");
    assert!(call.cost() > 0);
}

#[test]
fn an_abandoned_stream_is_charged_for_what_came() {
    let (python, bench) = (python(), Bench::new());
    let slow = json!({"delay_ms": 20, "output_tokens": 3000, "chunk_tokens": 4, "reasoning_tokens": 0});
    for (api, client) in each_sdk(&python, &bench.server, "left") {
        let task = format!("{api}-left");
        let client = client.asking(&slow).with(&["--stream", "--abandon-after", "25"]);
        assert_exit(&bench.daemon.run(&task, AMPLE, &client), 0);
        let report = bench.daemon.report_when(&task, |report| report.calls >= 1 && report.held() == 0);
        assert_eq!(report.calls, 1, "{report:?}");
        let call = &report.call_list[0];
        assert!(matches!(&*call.basis, "estimated" | "floor"), "what is not measured says so: {call:?}");
        let truth = bench.server.truth_of(&task).remove(0);
        assert_eq!(truth.state, State::Abandoned);
        let billed = truth.call.expect("a call").billed.output_text;
        let counted = call.usage.output_text;
        // The server bills a token a word. Claude's own tokens are smaller, and an estimate for it counts those.
        let most = if api == "anthropic" { billed * 5 / 4 } else { billed } + 10;
        assert!((90..=most).contains(&counted), "{counted} tokens of {billed} that were sent");
        assert_usd(report.held(), 0, "held after the client has gone");
    }
}

#[test]
fn the_exit_code_of_the_command_is_passed_through() {
    let bench = Bench::new();
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143)] {
        let output = bench.daemon.tollgate(&["run", "--task", "code", "--budget", "1", "--", "sh", "-c", script]);
        assert_exit(&output, code);
    }
    let output =
        bench.daemon.tollgate(&["run", "--task", "code", "--budget", "1", "--", "sh", "-c", "echo out; echo err >&2"]);
    assert_eq!(
        (&*text(&output.stdout), &*text(&output.stderr)),
        ("out\n", "err\n"),
        "nothing is added to what it says"
    );
    let missing = bench.daemon.tollgate(&["run", "--task", "code", "--budget", "1", "--", "/no/such/command"]);
    assert_exit(&missing, 127);
}
