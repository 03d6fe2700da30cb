//! The client matrix: every client of its tables, each in a task of its own, against the server's truth.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process::Command,
};

use tollgate_tests::{
    Config, Truth, build_tree,
    clients::{
        PythonEnv,
        matrix::{self, Expected, Kit, Row, Shown},
        programs,
    },
    daemon::{Options, bounded},
};

use super::{
    AMPLE, Bench, assert_exit,
    coverage::{assert_covered, assert_uncovered_alert},
    metering::assert_metered_as,
    plaintext, python,
};

#[test]
fn debian_programs_are_metered_to_the_token() {
    group("debian", matrix::DEBIAN, &Kit::default());
}

#[test]
fn python_packages_are_metered_to_the_token() {
    group("python", matrix::PYTHON, &Kit { python: Some(python()), ..Kit::default() });
}

#[test]
fn more_python_packages_are_metered_to_the_token() {
    let python = PythonEnv::more_sdks().expect("the Python environment");
    group("more-python", matrix::MORE_PYTHON, &Kit { python: Some(python), ..Kit::default() });
}

#[test]
fn node_is_metered_to_the_token() {
    group("node", matrix::NODE, &Kit::default());
}

#[test]
fn javascript_packages_are_metered_to_the_token() {
    group("javascript", matrix::JAVASCRIPT, &Kit { npm: Some(programs::npm().expect("npm")), ..Kit::default() });
}

#[test]
fn native_programs_are_as_the_matrix_says() {
    let native = programs::native().expect("clients in Go and Rust");
    group("native", matrix::NATIVE, &Kit { native: Some(native), ..Kit::default() });
}

#[test]
fn agents_are_as_the_matrix_says() {
    group("agents", matrix::AGENTS, &Kit::agents().expect("the agents"));
}

#[test]
fn clients_without_tls_are_metered_to_the_token() {
    let config = Config { plain: true, ..Config::default() };
    group_on(config, "plain", matrix::PLAIN, &Kit { python: Some(python()), ..Kit::default() });
}

/// Models of Bedrock have a price at Amazon's hosts only, and this host is not one of them.
const NOVA: &str = r#"
[[price.override]]
name = "nova"
model = "amazon.nova-lite-v1:0"
per_million_tokens = { input = "0.06", cache_read = "0.015", output = "0.24" }
"#;

/// Runs all clients of a group, also after one has failed, and writes down what each showed.
fn group(name: &str, rows: &[Row], kit: &Kit) {
    group_on(Config::default(), name, rows, kit);
}

fn group_on(config: Config, name: &str, rows: &[Row], kit: &Kit) {
    let versions: Vec<_> = rows.iter().map(|row| row.version(kit).unwrap_or_else(|error| panic!("{error}"))).collect();
    let prices = if config.plain { plaintext::PRICES } else { NOVA }.to_owned();
    let bench = Bench::with_options(config, &Options { config: Some(prices) });
    let bodies = tempfile::tempdir().expect("a temporary directory");
    matrix::write_bodies(bodies.path());
    let mut shown = Vec::new();
    for (row, version) in rows.iter().zip(versions) {
        let look = || client_is_as_expected(&bench, row, bodies.path(), kit);
        // What went wrong is printed by the panic itself; here the client's name is what matters.
        let failure = catch_unwind(AssertUnwindSafe(look)).err().map(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            text.unwrap_or("a panic without a text").to_owned()
        });
        println!("{name}: {} {version}: {}", row.name, failure.as_deref().unwrap_or("as expected"));
        let inspect = |path: &Path| {
            let program = build_tree::tollgate().expect("the program");
            let output = bounded(Command::new(program).args(["probe", "inspect", "--json"]).arg(path));
            assert_exit(&output, 0);
            serde_json::from_slice(&output.stdout).expect("findings as JSON")
        };
        let how = row.how(kit, inspect).unwrap_or_else(|error| panic!("{error}"));
        let (name, tls) = (row.name.to_owned(), row.tls.to_owned());
        let architecture = std::env::consts::ARCH.to_owned();
        shown.push(Shown { name, tls, how, version, architecture, expected: row.expected, failure });
    }
    let directory = build_tree::target_dir().expect("the target directory").join("matrix");
    fs::create_dir_all(&directory).expect("making the directory of the results");
    let text = serde_json::to_string_pretty(&shown).expect("results as JSON");
    fs::write(directory.join(format!("{name}.json")), text).expect("writing the results");
    let failed: Vec<_> = shown.iter().filter(|row| row.failure.is_some()).map(|row| row.name.as_str()).collect();
    assert!(failed.is_empty(), "not as expected: {failed:?}");
    bench.assert_lossless();
}

fn client_is_as_expected(bench: &Bench, row: &Row, bodies: &Path, kit: &Kit) {
    let task = row.tag();
    let home = tempfile::tempdir().expect("a temporary directory");
    // Not every client can be made to tell the server who it is, but no other one runs.
    let before = bench.server.truth().len();
    let mut command = bench.daemon.command(&["run", "--task", &task, "--budget", AMPLE, "--", "sh", "-c", row.start]);
    let output = bounded(row.prepare(&mut command, &bench.server, bodies, home.path(), kit));
    assert_exit(&output, 0);
    let truths = bench.server.truth().split_off(before);
    let billed = truths.iter().filter(|truth| truth.call.is_some()).count();
    let paths: Vec<_> = truths.iter().map(|truth| (&truth.method, &truth.path, truth.status)).collect();
    assert_eq!(billed, row.calls, "{}: calls that arrived at the server, of {paths:?}", row.name);
    match row.expected {
        Expected::Exact => {
            let report = assert_metered_as(bench, &task, &truths);
            assert_covered(bench, &report);
        }
        Expected::Estimated => assert_estimated(bench, &task, &truths),
        Expected::Uncovered => assert_uncovered(bench, &task),
    }
}

/// Every call is there under its id and costs something, and none is called measured.
fn assert_estimated(bench: &Bench, task: &str, truths: &[Truth]) {
    let calls: Vec<_> = truths.iter().filter_map(|truth| truth.call.as_ref()).collect();
    let report = bench.daemon.report_when(task, |report| report.call_list.len() >= calls.len() && report.held() == 0);
    assert_eq!(report.call_list.len(), calls.len(), "{task}: {:#?}", report.call_list);
    assert_eq!(report.exchanges, u64::try_from(truths.len()).expect("a count"), "{task}: exchanges");
    for call in calls {
        let charged = report.call(&call.id).unwrap_or_else(|| panic!("{task}: {} is missing", call.id));
        assert_eq!(charged.basis, "estimated", "{task}: {charged:?}");
        assert!(charged.cost() > 0, "{task}: {charged:?}");
    }
}

/// What cannot be read is said, and whatever is charged for it is called an estimate.
fn assert_uncovered(bench: &Bench, task: &str) {
    assert_uncovered_alert(bench, task);
    let report = bench.daemon.report_when(task, |report| report.state == "ended" && report.held() == 0);
    let is_estimate = |call: &tollgate_tests::report::Call| call.basis == "estimated" && call.response_id.is_none();
    assert!(report.call_list.iter().all(is_estimate), "{task}: it is read after all: {:#?}", report.call_list);
    assert!(report.coverage.is_some_and(|coverage| coverage.uncovered > 0), "{task}: {:?}", report.coverage);
}
