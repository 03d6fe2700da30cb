//! HTTP without TLS, as model servers on this host speak it: metered and stopped at the sockets themselves.

use serde_json::json;
use tollgate_tests::{Client, Config, Daemon, ModelServer, Seen, clients::Curl, daemon::Options, model_server::Api};

use super::{
    AMPLE, Bench, assert_exit,
    cap::{assert_capped, run_to_the_cap},
    metering::{assert_metered, run_arguments, sdk_is_metered},
    python,
};

/// A server on this host costs nothing by itself. Here it costs what the models of the tests cost.
/// Of the models, for a server on this host: in plaintext there, they would have none.
pub const PRICES: &str = r#"
[[price.override]]
name = "mini"
host = "localhost*"
model = "gpt-4o-mini*"
per_million_tokens = { input = "0.15", cache_read = "0.075", output = "0.6" }
[[price.override]]
name = "4o"
host = "localhost*"
model = "gpt-4o*"
per_million_tokens = { input = "2.5", cache_read = "1.25", output = "10" }
[[price.override]]
name = "sonnet"
host = "localhost*"
model = "claude-sonnet-4-5*"
per_million_tokens = { input = "3", cache_read = "0.3", cache_write_5m = "3.75", cache_write_1h = "6", output = "15" }
[[price.override]]
name = "haiku"
host = "localhost*"
model = "claude-haiku-4-5*"
per_million_tokens = { input = "1", cache_read = "0.1", cache_write_5m = "1.25", cache_write_1h = "2", output = "5" }
"#;

fn plain() -> Config {
    Config { plain: true, ..Config::default() }
}

fn bench(config: Config) -> Bench {
    let server = ModelServer::start(config).expect("starting the model server");
    Bench { daemon: Daemon::start(&Options { config: Some(PRICES.into()) }), server }
}

#[test]
fn plain_curl_is_metered_to_the_token() {
    let bench = bench(plain());
    for (name, api) in [("openai", Api::OpenaiChat), ("anthropic", Api::AnthropicMessages)] {
        for stream in [false, true] {
            // curl 7.88 cannot use a connection again that speaks HTTP/2 by prior knowledge.
            for (version, calls) in [("1.1", 4), ("2", 1)] {
                let task = format!("plain-curl-{name}-{stream}-http{version}");
                let curl = Curl::new(&bench.server, &task, api, stream, calls, &json!({})).http(version);
                let output = bench.daemon.tollgate(&run_arguments(&task, &curl.command_line()));
                assert_exit(&output, 0);
                assert_eq!(curl.seen().len(), calls);
                assert_metered(&bench, &task);
            }
        }
    }
    bench.assert_lossless();
}

#[test]
fn plain_sdks_are_metered_to_the_token() {
    let (python, bench) = (python(), bench(plain()));
    sdk_is_metered(&bench, "plain-openai", |task| Client::openai(&python, &bench.server, task));
}

#[test]
fn a_plain_loop_is_stopped_at_its_cap() {
    let bench = bench(plain());
    for (task, arguments) in [("plain-loop-stream", &[][..]), ("plain-loop-whole", &["--no-stream"])] {
        let client = Client::loop_agent(&bench.server, task).with(arguments);
        run_to_the_cap(&bench, task, &client);
    }
    bench.assert_lossless();
}

/// Nothing arrives of a request for which there is no money, also not while it waits or after its process is gone.
#[test]
fn a_plain_burst_does_not_outrun_the_cap() {
    let bench = bench(Config { stall: std::time::Duration::from_millis(30), ..plain() });
    let same = json!({"input_tokens": 1000, "cached_tokens": 0, "output_tokens": 100, "reasoning_tokens": 0});
    let task = "plain-burst";
    let client = Client::loop_agent(&bench.server, task).asking(&same).with(&["--warm-up", "5", "--parallel", "8"]);
    run_to_the_cap(&bench, task, &client);
    let arrived = bench.server.truth_of(task).len();
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(bench.server.truth_of(task).len(), arrived, "what waited in sockets has left after the end");
    assert_capped(&bench.server.truth_of(task));
    bench.assert_lossless();
}

/// Held requests go on without the pauses that TCP makes before it tries again. The first call of a task is always held.
#[test]
fn a_plain_request_that_was_held_goes_on_at_once() {
    let bench = bench(plain());
    for round in 0..3 {
        let task = format!("plain-held-{round}");
        let client = Client::loop_agent(&bench.server, &task).with(&["--calls", "1"]);
        let output = bench.daemon.run(&task, AMPLE, &client);
        assert_exit(&output, 0);
        let took = Seen::lines(&output.stdout)[0].took_ms.expect("how long the call took");
        println!("a held call took {took} ms");
        assert!(took < 150, "TCP would have tried again after 200 ms: {took}");
        assert_metered(&bench, &task);
    }
    bench.assert_lossless();
}

#[test]
fn plain_clients_of_all_kinds_are_metered_to_the_token() {
    let (python, bench) = (python(), bench(plain()));
    for library in ["requests", "aiohttp", "fetch", "node-http2"] {
        for stream in [false, true] {
            let task = format!("plain-{library}-{stream}");
            let client = if library == "fetch" || library == "node-http2" {
                let client = Client::script("node", "fetch.mjs", &bench.server, &task);
                if library == "fetch" { client } else { client.with(&["--http2"]) }
            } else {
                Client::script(python.interpreter(), "plain_http.py", &bench.server, &task)
                    .with(&["--library", library])
            };
            let client = client.with(&["--calls", "6"]);
            let client = if stream { client.with(&["--stream"]) } else { client };
            let output = bench.daemon.run(&task, AMPLE, &client);
            assert_exit(&output, 0);
            assert_eq!(Seen::lines(&output.stdout).len(), 6);
            assert_metered(&bench, &task);
        }
    }
    bench.assert_lossless();
}

/// Whoever is in no task uses the same server as ever, and its bytes are nobody's.
#[test]
fn plain_neighbours_are_left_alone() {
    let bench = bench(plain());
    let neighbour = Client::loop_agent(&bench.server, "plain-neighbour").with(&["--calls", "300"]);
    let running = std::thread::spawn(move || neighbour.run());
    run_to_the_cap(&bench, "plain-capped", &Client::loop_agent(&bench.server, "plain-capped"));
    let seen = running.join().expect("the neighbour");
    assert_eq!(seen.len(), 300);
    assert!(seen.iter().all(|seen| seen.error.is_none() && seen.status == Some(200)), "{seen:#?}");
    assert_eq!(bench.daemon.status().tasks.len(), 1);
    bench.assert_lossless();
}
