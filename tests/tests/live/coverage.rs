//! TLS that cannot be read is still seen: it is said, estimated, or denied; and what is read is never called unread.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use tollgate_tests::{
    Client, Config, Report, Truth, build_tree,
    clients::{Curl, PythonEnv},
    daemon::{Options, bounded, until},
    model_server::Api,
};

use super::{AMPLE, Bench, assert_exit, metering::run_arguments, python, text};

/// How soon after the first byte of a request it must be said that nobody can read it.
const SOON: Duration = Duration::from_secs(1);

fn unread_python() -> PythonEnv {
    PythonEnv::unread().expect("the Python environment with TLS of its own")
}

/// A client with a TLS that is Python code.
fn unread_client(python: &PythonEnv, bench: &Bench, task: &str) -> Client {
    Client::script(python.interpreter(), "unread_tls.py", &bench.server, task)
}

/// What was said of connections of the task that cannot be read.
fn uncovered_alerts(bench: &Bench, task: &str) -> Vec<Value> {
    let is_ours = |alert: &Value| alert["TOLLGATE_TASK"] == task && alert["TOLLGATE_DECISION"] == "uncovered";
    bench.daemon.alerts().into_iter().filter(is_ours).collect()
}

/// Everything that the task sent over TLS was read, and nobody was told otherwise.
#[track_caller]
pub(super) fn assert_covered(bench: &Bench, report: &Report) {
    let Some(coverage) = report.coverage else { return };
    assert_eq!(coverage.uncovered, 0, "{}: connections that are not read: {coverage:?}", report.task);
    assert!(coverage.read_bytes * 100 >= coverage.sent_bytes * 99, "{}: {coverage:?}", report.task);
    let alerts = uncovered_alerts(bench, &report.task);
    assert!(alerts.is_empty(), "{}: {alerts:#?}", report.task);
}

/// The alert of a task whose TLS cannot be read.
#[track_caller]
pub(super) fn assert_uncovered_alert(bench: &Bench, task: &str) -> Value {
    let alert = until(|| uncovered_alerts(bench, task).into_iter().next());
    let alert = alert.unwrap_or_else(|| panic!("{task}: nobody is told: {:#?}", bench.daemon.alerts()));
    let message = alert["MESSAGE"].as_str().expect("a message");
    assert!(message.contains("cannot be read"), "{message}");
    alert
}

fn micros(alert: &Value) -> i64 {
    let time: jiff::Timestamp = alert["time"].as_str().and_then(|time| time.parse().ok()).expect("a time");
    time.as_microsecond()
}

fn cost(truths: &[Truth]) -> f64 {
    truths.iter().map(|truth| truth.cost() as f64).sum()
}

/// Calls that are read, to the same host: they teach what a byte costs.
fn teach(bench: &Bench, calls: u32) {
    let client = Client::loop_agent(&bench.server, "taught").with(&["--calls", &calls.to_string()]);
    assert_exit(&bench.daemon.run("taught", AMPLE, &client), 0);
}

#[test]
fn unread_tls_is_said_at_once_and_estimated() {
    let (python, bench) = (unread_python(), Bench::new());
    teach(&bench, 40);
    for round in 0..3 {
        let task = format!("unread-{round}");
        let client = unread_client(&python, &bench, &task).with(&["--calls", "20"]);
        let output = bench.daemon.run(&task, AMPLE, &client);
        assert_exit(&output, 0);
        let truths = bench.server.truth_of(&task);
        assert_eq!(truths.len(), 20);

        let alert = assert_uncovered_alert(&bench, &task);
        let began = text(&output.stdout)
            .lines()
            .next()
            .and_then(|line| serde_json::from_str::<Value>(line).ok().and_then(|line| line["began_us"].as_i64()));
        let (began, arrived) = (began.expect("when it began"), truths[0].arrived_us);
        let after = micros(&alert) - began;
        println!(
            "{task}: said {after} µs after the request began to be written, {} µs after it arrived",
            micros(&alert) - i64::try_from(arrived).expect("a time")
        );
        assert!(after <= i64::try_from(SOON.as_micros()).expect("a second"), "{after} µs");
        let message = alert["MESSAGE"].as_str().expect("a message");
        for part in ["localhost", &format!("127.0.0.1:{}", bench.server.addr.port()), "/bin/python"] {
            assert!(message.contains(part), "`{part}` is missing: {message}");
        }

        let report = bench.daemon.report_when(&task, |report| report.calls > 0 && report.held() == 0);
        let ratio = report.spent() as f64 / cost(&truths);
        println!("{task}: estimated {ratio:.2} of the truth");
        assert!((0.5..=2.0).contains(&ratio), "{ratio}");
        assert!(report.call_list.iter().all(|call| call.basis == "estimated"), "{:#?}", report.call_list);
        assert!(report.call_list.iter().all(|call| call.note.as_deref().is_some_and(|note| note.contains("bytes"))));
        let coverage = report.coverage.expect("its coverage");
        assert_eq!((coverage.read_bytes, coverage.uncovered, coverage.connections), (0, 1, 1), "{coverage:?}");
        assert!(text(&bench.daemon.tollgate(&["report", "--task", &task]).stdout).contains("NOT READ: 1 of 1"));
    }
    bench.assert_lossless();
}

/// Nobody has been read, and nobody has said that the host is a model's: it is said and not charged. By its name, it is charged.
#[test]
fn only_hosts_of_models_are_charged() {
    let python = unread_python();
    for (config, is_charged) in [(None, false), (Some("[coverage]\nhosts = [\"local*\"]\n"), true)] {
        let bench = Bench::with_options(Default::default(), &Options { config: config.map(str::to_owned) });
        let client = unread_client(&python, &bench, "unread").with(&["--calls", "2"]);
        assert_exit(&bench.daemon.run("unread", AMPLE, &client), 0);
        assert_uncovered_alert(&bench, "unread");
        let report = bench.daemon.report_when("unread", |report| report.state == "ended" && report.held() == 0);
        assert_eq!(report.spent() > 0, is_charged, "{report:#?}");
        let client = unread_client(&python, &bench, "alert");
        assert_exit(&bench.daemon.run_with("alert", AMPLE, &["--uncovered", "alert"], &client), 0);
        assert_uncovered_alert(&bench, "alert");
        let report = bench.daemon.report_when("alert", |report| report.state == "ended");
        assert_eq!((report.spent(), report.calls), (0, 0), "it was only to be said");
    }
}

/// An estimate counts toward the cap like any other amount.
#[test]
fn an_unread_task_is_stopped_at_its_cap() {
    let (python, bench) = (unread_python(), Bench::new());
    teach(&bench, 40);
    let client = unread_client(&python, &bench, "unread-capped").with(&["--calls", "1000", "--pause-ms", "20"]);
    let output = bench.daemon.run("unread-capped", super::CAP, &client);
    assert_exit(&output, 137);
    let truths = bench.server.truth_of("unread-capped");
    println!("stopped after {} calls, at {:.2} of its cap", truths.len(), cost(&truths) / super::cap() as f64);
    assert!(truths.len() < 100, "{} calls", truths.len());
}

#[test]
fn denied_tls_never_sends_a_request() {
    let (python, bench) = (unread_python(), Bench::new());
    for round in 0..5 {
        let task = format!("denied-{round}");
        let client = unread_client(&python, &bench, &task).with(&["--calls", "2"]);
        let output = bench.daemon.run_with(&task, AMPLE, &["--uncovered", "deny"], &client);
        assert_exit(&output, 3);
        assert_eq!(bench.server.truth_of(&task), [], "{task}: something arrived");
        let alert = assert_uncovered_alert(&bench, &task);
        assert!(alert["MESSAGE"].as_str().expect("a message").contains("is ended"), "{alert}");
    }
    // What is read goes on under the same policy.
    let client = Client::loop_agent(&bench.server, "read").with(&["--calls", "20"]);
    assert_exit(&bench.daemon.run_with("read", AMPLE, &["--uncovered", "deny"], &client), 0);
    let report = bench.daemon.report_when("read", |report| report.calls == 20);
    assert_covered(&bench, &report);
    assert!(report.coverage.expect("its coverage").sent_bytes > 0);
    let latency = &bench.daemon.status().latencies["uncovered connection: ended"];
    println!(
        "ended {} times, p50 {} µs, max {} µs after the first byte",
        latency.count, latency.p50_us, latency.max_us
    );
}

/// The configuration can deny it for every task.
#[test]
fn a_policy_of_the_configuration_holds() {
    let config = "[budget]\nuncovered = \"deny\"\n".to_owned();
    let (python, bench) = (unread_python(), Bench::with_options(Default::default(), &Options { config: Some(config) }));
    let output = bench.daemon.run("denied", AMPLE, &unread_client(&python, &bench, "denied"));
    assert_exit(&output, 3);
    assert_eq!(bench.server.truth_of("denied"), []);
}

#[test]
fn a_handshake_in_pieces_still_tells_the_host() {
    let (python, bench) = (unread_python(), Bench::new());
    for size in ["1", "7", "100"] {
        let task = format!("pieces-{size}");
        let client = unread_client(&python, &bench, &task).with(&["--segment", size]);
        assert_exit(&bench.daemon.run(&task, AMPLE, &client), 0);
        let alert = assert_uncovered_alert(&bench, &task);
        assert!(alert["MESSAGE"].as_str().expect("a message").contains("TLS to localhost ("), "{alert}");
    }
    bench.assert_lossless();
}

/// Who only connects asks for nothing.
#[test]
fn a_handshake_alone_is_nothing_to_say() {
    let (python, bench) = (unread_python(), Bench::new());
    let client = unread_client(&python, &bench, "handshake").with(&["--only-handshake"]);
    assert_exit(&bench.daemon.run("handshake", AMPLE, &client), 0);
    let report = bench.daemon.report_when("handshake", |report| report.state == "ended");
    assert_covered(&bench, &report);
    assert_eq!((report.calls, report.coverage.expect("its coverage").sent_bytes), (0, 0));
}

/// The TLS of Java is compiled as it runs: no probe can be there.
#[test]
fn java_is_said_and_estimated() {
    let bench = Bench::new();
    teach(&bench, 20);
    let directory = tempfile::tempdir().expect("a directory");
    let body = directory.path().join("body.json");
    let request = json!({"model": "gpt-4o", "stream": true, "stream_options": {"include_usage": true},
        "messages": [{"role": "user", "content": "Hello"}]});
    fs::write(&body, request.to_string()).expect("writing the request");
    let program = build_tree::scripts().join("java/Client.java");
    let mut command = bench.daemon.command(&["run", "--task", "java", "--budget", AMPLE, "--", "java"]);
    command.arg(program).arg(&bench.server.base_url).arg(&bench.server.ca_path).arg(&body).arg("10");
    let before = bench.server.truth().len();
    assert_exit(&bounded(&mut command), 0);
    let truths = bench.server.truth().split_off(before);
    assert_eq!(truths.len(), 10);
    let alert = assert_uncovered_alert(&bench, "java");
    let after = micros(&alert) - i64::try_from(truths[0].arrived_us).expect("a time");
    println!("java: said {after} µs after its first request arrived: {}", alert["MESSAGE"]);
    assert!(after <= i64::try_from(SOON.as_micros()).expect("a second"), "{after} µs");
    assert!(alert["MESSAGE"].as_str().expect("a message").contains("JSSE"), "{alert}");
    let report = bench.daemon.report_when("java", |report| report.calls > 0 && report.held() == 0);
    println!("java: estimated {:.2} of the truth", report.spent() as f64 / cost(&truths));
    assert!(report.call_list.iter().all(|call| call.basis == "estimated"), "{:#?}", report.call_list);
}

/// Many connections, and many calls on one: all of it is read, and said to be.
#[test]
fn what_is_read_is_said_to_be_read() {
    let (python, bench) = (python(), Bench::new());
    let mut clients: Vec<(String, Vec<String>)> = Vec::new();
    for version in ["1.1", "2"] {
        let task = format!("read-curl-{version}");
        let curl = Curl::new(&bench.server, &task, Api::OpenaiChat, true, 10, &json!({})).http(version).parallel(5);
        let output = bench.daemon.tollgate(&run_arguments(&task, &curl.command_line()));
        assert_exit(&output, 0);
        let report = bench.daemon.report_when(&task, |report| report.calls == 10);
        assert_covered(&bench, &report);
        assert!(report.coverage.is_some_and(|coverage| coverage.sent_bytes > 1000), "{:?}", report.coverage);
    }
    let mut add = |name: &str, client: Client| clients.push((name.to_owned(), client.command_line()));
    for mode in ["sync", "threads", "async", "gather"] {
        let name = format!("read-openai-{mode}");
        let client = Client::openai(&python, &bench.server, &name).with(&["--mode", mode, "--calls", "12", "--stream"]);
        add(&name, client);
    }
    for (name, arguments) in [("read-node-fetch", &[][..]), ("read-node-http2", &["--http2"])] {
        let client = Client::script("node", "fetch.mjs", &bench.server, name).with(&["--calls", "12"]).with(arguments);
        add(name, client);
    }
    add("read-swarm", Client::loop_agent(&bench.server, "read-swarm").with(&["--calls", "5", "--parallel", "16"]));
    let directory = tempfile::tempdir().expect("a directory");
    for (name, line) in clients {
        let client = Client::loop_agent(&bench.server, &name);
        let mut command = bench.daemon.command(&["run", "--task", &name, "--budget", AMPLE, "--"]);
        client.prepare(command.args(&line)).current_dir(directory.path());
        command.env("NODE_EXTRA_CA_CERTS", &bench.server.ca_path);
        assert_exit(&bounded(&mut command), 0);
        let report = bench.daemon.report_when(&name, |report| report.state == "ended" && report.held() == 0);
        assert!(report.calls > 0, "{name}");
        assert_covered(&bench, &report);
        let coverage = report.coverage.expect("its coverage");
        println!(
            "{name}: {} of {} bytes on {} connections",
            coverage.read_bytes, coverage.sent_bytes, coverage.connections
        );
        assert!(coverage.sent_bytes > 1000, "{name}: {coverage:?}");
    }
    bench.assert_lossless();
}

/// One process with two kinds of TLS, to the same host: the one is read, the other is found.
#[test]
fn unread_tls_beside_read_tls_is_found() {
    let (python, bench) = (unread_python(), Bench::new());
    let client = unread_client(&python, &bench, "mixed").with(&["--calls", "3", "--pause-ms", "300", "--beside", "20"]);
    let output = bench.daemon.run("mixed", AMPLE, &client);
    assert_exit(&output, 0);
    let (truths, read) = (bench.server.truth_of("mixed"), bench.server.truth_of("mixed-read"));
    assert_eq!((truths.len(), read.len()), (3, 40));
    let alert = assert_uncovered_alert(&bench, "mixed");
    let after = micros(&alert) - i64::try_from(truths[0].arrived_us).expect("a time");
    println!("mixed: said {after} µs after the first unread request arrived");
    assert!(after <= i64::try_from(SOON.as_micros()).expect("a second"), "{after} µs");
    let report = bench.daemon.report_when("mixed", |report| report.state == "ended" && report.held() == 0);
    let coverage = report.coverage.expect("its coverage");
    assert_eq!((coverage.uncovered, coverage.connections), (1, 41), "{coverage:?}");
    assert!(coverage.read_bytes > 0 && coverage.read_bytes < coverage.sent_bytes, "{coverage:?}");
    for truth in &read {
        let call = truth.call.as_ref().expect("a call");
        assert_eq!(report.call(&call.id).map(|call| &*call.basis), Some("measured"), "{}", call.id);
    }
}

/// A proxy that takes `CONNECT`, outside of any task; it serves as long as the test.
fn proxy(server: std::net::SocketAddr) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let port = listener.local_addr().expect("its address").port();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            thread::spawn(move || tunnel(client, server));
        }
    });
    port
}

fn tunnel(mut client: TcpStream, server: std::net::SocketAddr) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        head.extend(byte);
    }
    let mut server = TcpStream::connect(server)?;
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        std::io::copy(&mut from, &mut to).ok();
        to.shutdown(Shutdown::Write)
    });
    std::io::copy(&mut server, &mut client)?;
    client.shutdown(Shutdown::Write)
}

/// What goes through a proxy is TLS all the same, and tells where it goes.
#[test]
fn unread_tls_through_a_proxy_is_found() {
    let (python, bench) = (unread_python(), Bench::new());
    let port = proxy(bench.server.addr).to_string();
    let client = unread_client(&python, &bench, "proxied").with(&["--proxy", &port, "--calls", "2"]);
    assert_exit(&bench.daemon.run("proxied", AMPLE, &client), 0);
    let alert = assert_uncovered_alert(&bench, "proxied");
    let expected = format!("TLS to localhost (127.0.0.1:{port})");
    assert!(alert["MESSAGE"].as_str().expect("a message").contains(&expected), "{alert}");
    let client = unread_client(&python, &bench, "proxied-denied").with(&["--proxy", &port]);
    assert_exit(&bench.daemon.run_with("proxied-denied", AMPLE, &["--uncovered", "deny"], &client), 3);
    assert_eq!(bench.server.truth_of("proxied-denied"), []);
}

/// Plaintext that is handed to the kernel by a call that is not looked at is not read: that is said, too.
#[test]
fn plaintext_by_another_system_call_is_found() {
    let bench = Bench::with_server(Config { plain: true, ..Config::default() });
    let script = "\
import ctypes, socket, sys, time
libc = ctypes.CDLL(None, use_errno=True)
class Iovec(ctypes.Structure):
    _fields_ = [('base', ctypes.c_char_p), ('len', ctypes.c_size_t)]
class Message(ctypes.Structure):
    _fields_ = [('name', ctypes.c_void_p), ('namelen', ctypes.c_uint), ('iov', ctypes.POINTER(Iovec)), ('iovlen', ctypes.c_size_t),
                ('control', ctypes.c_void_p), ('controllen', ctypes.c_size_t), ('flags', ctypes.c_int), ('len', ctypes.c_uint)]
body = b'{\"model\": \"gpt-4o\", \"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}'
request = b'POST /v1/chat/completions HTTP/1.1\\r\\nHost: localhost\\r\\nx-test-client: sendmmsg\\r\\ncontent-type: application/json\\r\\n'
request += b'content-length: %d\\r\\n\\r\\n' % len(body) + body
connection = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
piece = Iovec(request, len(request))
message = Message(iov=ctypes.pointer(piece), iovlen=1)
assert libc.sendmmsg(connection.fileno(), ctypes.byref(message), 1, 0) == 1, ctypes.get_errno()
assert b'200 OK' in connection.recv(4096)
time.sleep(1)
";
    let port = bench.server.addr.port().to_string();
    let arguments = ["run", "--task", "sendmmsg", "--budget", AMPLE, "--", "/usr/bin/python3", "-c", script, &port];
    assert_exit(&bench.daemon.tollgate(&arguments), 0);
    assert_eq!(bench.server.truth_of("sendmmsg").len(), 1);
    let alert = assert_uncovered_alert(&bench, "sendmmsg");
    assert!(alert["MESSAGE"].as_str().expect("a message").contains("plaintext HTTP"), "{alert}");
}

#[test]
fn the_beginning_of_quic_is_recognised() {
    let (python, bench) = (unread_python(), Bench::new());
    let nobody = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    nobody.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    let port = nobody.local_addr().expect("its address").port().to_string();
    let quic = |task: &str, version: &str, options: &[&str], code: i32| {
        let mut command = bench.daemon.command(&["run", "--task", task, "--budget", AMPLE]);
        command.args(options).arg("--").arg(python.interpreter()).arg(build_tree::scripts().join("quic_initial.py"));
        command.args(["--port", &port, "--server-name", "api.openai.com", "--version", version]);
        assert_exit(&bounded(&mut command), code);
        let message = assert_uncovered_alert(&bench, task)["MESSAGE"].as_str().expect("a message").to_owned();
        assert!(message.contains(&format!("QUIC version {version}")), "{message}");
        assert!(message.contains(&format!("127.0.0.1:{port}")), "{message}");
        message
    };
    for version in ["1", "2"] {
        println!("{}", quic(&format!("quic-{version}"), version, &[], 0));
        assert!(nobody.recv(&mut [0; 2048]).is_ok(), "it arrives");
    }
    while nobody.recv(&mut [0; 2048]).is_ok() {}
    // The process is told: EPERM.
    quic("quic-denied", "1", &["--uncovered", "deny"], 1);
    assert!(nobody.recv(&mut [0; 2048]).is_err(), "it was to be kept from leaving");
}
