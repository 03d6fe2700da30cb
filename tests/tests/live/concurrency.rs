//! However many clients call at once, the cap holds: it is worth 13.3 calls, and a proxy that looks before each call and adds up after it lets 14 to 100 through.

use serde_json::json;
use tollgate_tests::{
    Client, Config,
    reference_price::{PicoUsd, usd},
};

use super::{Bench, text};

/// Each call costs this much: 60 tokens in and 300 out, of gpt-4o.
const CALL: &str = "0.00315";
/// 13.3 calls.
const CAP: &str = "0.041895";
const MAX_TOKENS: &str = "300";

const MODES: [&str; 3] = ["threads", "asyncio", "processes"];
const CLIENTS: [u32; 4] = [1, 8, 32, 128];

#[track_caller]
fn assert_holds(holds: &str, most: PicoUsd) {
    let bench = Bench::with_server(Config { stall: std::time::Duration::from_millis(20), ..Config::default() });
    let ask = json!({"input_tokens": 60, "cached_tokens": 0, "output_tokens": 300, "reasoning_tokens": 0, "chunk_tokens": 10});
    println!("{:10} {:10} {:>8} {:>8} {:>10}", "holds", "mode", "clients", "calls", "of the cap");
    for mode in MODES {
        for clients in CLIENTS {
            let task = format!("{holds}-{mode}-{clients}");
            let client = Client::swarm(&bench.server, &task).asking(&ask).with(&[
                "--mode",
                mode,
                "--clients",
                &clients.to_string(),
                "--max-tokens",
                MAX_TOKENS,
            ]);
            let output = bench.daemon.run_with(&task, CAP, &["--limit", &format!("holds={holds}")], &client);
            let report = bench.daemon.report_when(&task, |report| report.state == "stopped" && report.held() == 0);
            let truths = bench.server.truth_of(&task);
            let spent: PicoUsd = truths.iter().map(tollgate_tests::Truth::cost).sum();
            println!("{holds:10} {mode:10} {clients:>8} {:>8} {:>8} %", truths.len(), spent * 100 / usd(CAP));
            let said = || format!("{task}: {report:?}\n{}", text(&output.stderr));
            assert_eq!((&*report.state, report.held()), ("stopped", 0), "{}", said());
            assert!(spent <= most, "{spent} pico-USD of {most}: {}", said());
            assert!(truths.len() >= 10, "only {} requests were let through: {}", truths.len(), said());
        }
    }
    bench.assert_lossless();
    assert_eq!(bench.daemon.status().counters["holds"], 0, "no hold is left");
}

#[test]
fn nothing_is_spent_beyond_the_cap_with_worst_case_holds() {
    assert_holds("worst-case", usd(CAP));
}

#[test]
fn less_than_a_call_is_spent_beyond_the_cap_with_expected_holds() {
    assert_holds("expected", usd(CAP) + usd(CALL));
}
