//! The client matrix: every client of its tables, each in a task of its own, against the server's truth.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
};

use tollgate_tests::{
    build_tree,
    clients::{
        PythonEnv,
        matrix::{self, CALLS, Expected, Row, Shown},
    },
    daemon::bounded,
};

use super::{AMPLE, Bench, assert_exit, metering::assert_metered, python};

#[test]
fn debian_programs_are_metered_to_the_token() {
    group("debian", matrix::DEBIAN, None);
}

#[test]
fn python_packages_are_metered_to_the_token() {
    group("python", matrix::PYTHON, Some(&python()));
}

#[test]
fn node_is_metered_to_the_token() {
    group("node", matrix::NODE, None);
}

/// Runs all clients of a group, also after one has failed, and writes down what each showed.
fn group(name: &str, rows: &[Row], python: Option<&PythonEnv>) {
    let versions: Vec<_> =
        rows.iter().map(|row| row.version(python).unwrap_or_else(|error| panic!("{error}"))).collect();
    let bench = Bench::new();
    let bodies = tempfile::tempdir().expect("a temporary directory");
    matrix::write_bodies(bodies.path());
    let mut shown = Vec::new();
    for (row, version) in rows.iter().zip(versions) {
        let look = || client_is_as_expected(&bench, row, bodies.path(), python);
        // What went wrong is printed by the panic itself; here the client's name is what matters.
        let failure = catch_unwind(AssertUnwindSafe(look)).err().map(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            text.unwrap_or("a panic without a text").to_owned()
        });
        println!("{name}: {} {version}: {}", row.name, failure.as_deref().unwrap_or("as expected"));
        let (name, tls) = (row.name.to_owned(), row.tls.to_owned());
        shown.push(Shown { name, tls, version, expected: row.expected, failure });
    }
    let directory = build_tree::target_dir().expect("the target directory").join("matrix");
    fs::create_dir_all(&directory).expect("making the directory of the results");
    let text = serde_json::to_string_pretty(&shown).expect("results as JSON");
    fs::write(directory.join(format!("{name}.json")), text).expect("writing the results");
    let failed: Vec<_> = shown.iter().filter(|row| row.failure.is_some()).map(|row| row.name.as_str()).collect();
    assert!(failed.is_empty(), "not as expected: {failed:?}");
    bench.assert_lossless();
}

fn client_is_as_expected(bench: &Bench, row: &Row, bodies: &std::path::Path, python: Option<&PythonEnv>) {
    let task = row.tag();
    let mut command = bench.daemon.command(&["run", "--task", &task, "--budget", AMPLE, "--", "sh", "-c", row.start]);
    let output = bounded(row.prepare(&mut command, &bench.server, bodies, python));
    assert_exit(&output, 0);
    let billed = bench.server.truth_of(&task).iter().filter(|truth| truth.call.is_some()).count();
    assert_eq!(billed, CALLS, "{}: calls that arrived at the server", row.name);
    match row.expected {
        Expected::Exact => {
            assert_metered(bench, &task);
        }
        Expected::Uncovered => assert_eq!(bench.daemon.report(&task).calls, 0, "{}: it is read after all", row.name),
    }
}
