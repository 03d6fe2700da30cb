//! Live tests: the real daemon in the real kernel, real clients, and a model server that knows the truth. They need
//! root, and a kernel with BTF, uprobes and cgroup v2.

mod alerts;
mod attach;
mod audit;
mod cap;
mod concurrency;
mod counts;
mod coverage;
mod escape;
mod framing;
mod gathered;
mod holds;
mod insiders;
mod labels;
mod ladder;
mod matrix;
mod metering;
mod neighbours;
mod outlive;
mod plaintext;
mod prometheus;
mod refusals;
mod restart;
mod signals;
mod soak;
mod terminal;
mod users;
mod wild;

use std::{os::unix::process::ExitStatusExt as _, path::Path, process::Output};

use tollgate_tests::{
    Config, Daemon, ModelServer,
    clients::PythonEnv,
    daemon::Options,
    reference_price::{PicoUsd, usd},
};

/// More than any test spends that is not about the cap.
const AMPLE: &str = "20";

/// What a test needs: the daemon, and the server that judges it.
struct Bench {
    daemon: Daemon,
    server: ModelServer,
}

impl Bench {
    fn new() -> Self {
        Self::with_server(Config::default())
    }

    fn with_server(config: Config) -> Self {
        Self::with_options(config, &Options::default())
    }

    fn with_options(config: Config, options: &Options) -> Self {
        let server = ModelServer::start(config).expect("starting the model server");
        Self { daemon: Daemon::start(options), server }
    }

    /// Nothing was lost on the way from the kernel.
    #[track_caller]
    fn assert_lossless(&self) {
        let status = self.daemon.status();
        assert_eq!(status.losses(), [], "{:?}", status.counters);
        assert_eq!(status.counters.get("dropped_records").and_then(serde_json::Value::as_u64), Some(0));
    }
}

fn python() -> PythonEnv {
    PythonEnv::ensure().expect("the Python environment")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn assert_exit(output: &Output, code: i32) {
    // As a shell tells it: a command that died by a signal ended with 128 and its number.
    let status = output.status.code().or_else(|| output.status.signal().map(|signal| 128 + signal));
    let said = format!("{}\n{}", text(&output.stdout), text(&output.stderr));
    assert_eq!(status, Some(code), "{:?}: {said}", output.status);
}

/// Fails with a readable amount.
#[track_caller]
fn assert_usd(is: PicoUsd, expected: PicoUsd, what: &str) {
    assert_eq!(is, expected, "{what}: {is} pico-USD instead of {expected}");
}

fn file_name(path: &str) -> &str {
    Path::new(path).file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// The cap of the tests that reach it.
const CAP: &str = "0.05";

fn cap() -> PicoUsd {
    usd(CAP)
}
