//! The model server as a process of its own. Prints one JSON line when it is reachable, and serves until a signal.

#![forbid(unsafe_code)]

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, stdin},
    signal::unix::{SignalKind, signal},
};
use tollgate_tests::{Config, ModelServer};

/// A local TLS server that speaks the OpenAI and Anthropic APIs and writes down the truth about every request.
///
/// Prints one JSON line when it is reachable: its base URL, the certificate to trust, and the file that the truth is
/// written to. A request can shape its own answer: `{"tollgate_test": {"output_tokens": 50}}` in its last user message,
/// or `x-test-output-tokens: 50` as a header.
#[derive(Debug, Parser)]
struct Arguments {
    /// Port on 127.0.0.1; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Directory for ca.pem and truth.jsonl [default: a temporary one, removed at exit]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Pause between two chunks of a stream, in milliseconds
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
    /// Pause before the first byte of an answer, in milliseconds
    #[arg(long, default_value_t = 0)]
    stall_ms: u64,
    /// Mean output tokens of an answer
    #[arg(long, default_value_t = 60)]
    tokens: u64,
    /// Mean input tokens that an answer bills
    #[arg(long, default_value_t = 800)]
    input_tokens: u64,
    /// Words per streamed event
    #[arg(long, default_value_t = 3)]
    chunk_tokens: u64,
    /// Seed for the usages that are drawn [default: another one each time]
    #[arg(long)]
    seed: Option<u64>,
    /// Compress answers for clients that accept gzip
    #[arg(long)]
    gzip: bool,
    /// Speak HTTP without TLS, HTTP/2 by prior knowledge
    #[arg(long)]
    plain: bool,
    /// Stop when standard input is closed, as it is when the starting process dies
    #[arg(long)]
    exit_with_stdin: bool,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("model-server: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let exit_with_stdin = arguments.exit_with_stdin;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _inside = runtime.enter();
    // Before the line is printed: whoever reads it may send a signal at once.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;

    let server = ModelServer::start(Config {
        port: arguments.port,
        seed: arguments.seed,
        input_tokens: arguments.input_tokens,
        output_tokens: arguments.tokens,
        chunk_tokens: arguments.chunk_tokens,
        delay: Duration::from_millis(arguments.delay_ms),
        stall: Duration::from_millis(arguments.stall_ms),
        gzip: arguments.gzip,
        plain: arguments.plain,
        directory: arguments.dir,
    })?;
    println!("{}", json!({"base_url": server.base_url, "ca": server.ca_path, "truth": server.truth_path}));

    runtime.block_on(async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            () = stdin_closed(), if exit_with_stdin => {}
        }
    });
    // A read of standard input may still be blocked in a thread of the runtime; nothing waits for it.
    runtime.shutdown_background();
    drop(server);
    Ok(())
}

async fn stdin_closed() {
    let mut input = stdin();
    let mut buffer = [0; 256];
    while let Ok(1..) = input.read(&mut buffer).await {}
}
