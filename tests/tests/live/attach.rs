//! Whatever TLS library a process of a task maps, and from wherever, is probed before it can be used.

use std::{fs, path::Path, process::Output};

use serde_json::json;
use tollgate_tests::{
    ModelServer, Report,
    clients::Curl,
    daemon::{bounded, until},
    model_server::Api,
};

use super::{AMPLE, Bench, assert_exit, text};

/// One call by curl, as a line of a shell script.
fn curl_line(server: &ModelServer, task: &str) -> (Curl, String) {
    let curl = Curl::new(server, task, Api::OpenaiChat, false, 1, &json!({"output_tokens": 5}));
    let quote = |word: &String| format!("'{}'", word.replace('\'', r"'\''"));
    let line = curl.command_line().iter().map(quote).collect::<Vec<_>>().join(" ");
    (curl, line)
}

#[track_caller]
fn run(bench: &Bench, task: &str, script: &str) -> Output {
    let output = bench.daemon.tollgate(&["run", "--task", task, "--budget", AMPLE, "--", "bash", "-euc", script]);
    assert_exit(&output, 0);
    output
}

/// Every call that the server billed is in the report, measured.
#[track_caller]
fn assert_all_metered(bench: &Bench, task: &str, calls: usize) -> Report {
    let truths = bench.server.truth_of(task);
    assert_eq!(truths.len(), calls, "{task}: what arrived");
    let report = bench
        .daemon
        .report_when(task, |report| report.calls >= u64::try_from(calls).expect("a count") && report.held() == 0);
    for truth in &truths {
        let call = truth.call.as_ref().expect("a call");
        let charged = report.call(&call.id).unwrap_or_else(|| panic!("{task}: {} is missing", call.id));
        assert_eq!((charged.usage, &*charged.basis), (call.billed, "measured"), "{task}: {}", call.id);
    }
    report
}

/// Each leaves some probes behind, which the kernel takes a while to remove. `TOLLGATE_ROUNDS=4` makes four times as many.
const ROUNDS: usize = 25;

fn times() -> usize {
    std::env::var("TOLLGATE_ROUNDS").map_or(1, |times| times.parse().expect("TOLLGATE_ROUNDS is a number"))
}

/// Runs a script of [`ROUNDS`] so many times.
#[track_caller]
fn assert_rounds_metered(bench: &Bench, task: &str, script: &str) {
    for _ in 0..times() {
        run(bench, task, script);
    }
    assert_all_metered(bench, task, ROUNDS * times());
    println!("{task}: {0} of {0} metered", ROUNDS * times());
}

#[test]
fn processes_that_live_for_one_request_are_metered() {
    let bench = Bench::new();
    let (_curl, line) = curl_line(&bench.server, "short");
    run(&bench, "short", &format!("for round in $(seq 200); do {line}; done"));
    assert_all_metered(&bench, "short", 200);
    bench.assert_lossless();
}

/// What `curl` needs to run, as `ldd` tells.
const LIBRARIES: &str = r"ldd /usr/bin/curl | grep -o '/[^ ]*'";

#[test]
fn a_library_that_was_never_seen_is_probed_before_its_first_call() {
    let bench = Bench::new();
    let (_curl, line) = curl_line(&bench.server, "fresh");
    let directory = tempfile::tempdir().expect("a directory");
    let here = directory.path().display();
    // Each round has a copy of its own: a new inode, and so another library.
    let script = format!(
        "for round in $(seq {ROUNDS}); do rm -f {here}/*; cp $({LIBRARIES} | grep libssl) {here}/; LD_LIBRARY_PATH={here} {line}; done"
    );
    assert_rounds_metered(&bench, "fresh", &script);
    bench.assert_lossless();
}

/// Who belongs to no task has no budget either: only what tasks map is probed, so that nobody else pays for it. How many are metered all the same is
/// said.
#[test]
fn processes_of_no_task_are_left_alone() {
    let bench = Bench::new();
    let (_curl, line) = curl_line(&bench.server, "unlabelled");
    let directory = tempfile::tempdir().expect("a directory");
    let here = directory.path().display();
    let script = format!(
        "for round in $(seq 10); do rm -f {here}/*; cp $({LIBRARIES} | grep libssl) {here}/; LD_LIBRARY_PATH={here} {line}; done"
    );
    let output = bounded(std::process::Command::new("bash").args(["-euc", &script]));
    assert!(output.status.success(), "{}", text(&output.stderr));
    let made = bench.server.truth_of("unlabelled").len();
    let status = bench.daemon.status();
    let metered: u64 = status.tasks.iter().map(|task| task.calls).sum();
    println!("unlabelled processes with a library that was never seen: {metered} of {made} calls metered");
    assert_eq!((made, metered), (10, 0));
    bench.assert_lossless();
}

/// A root directory of its own with curl in it, and what it takes to trust the server.
fn lay_out(root: &Path, server: &ModelServer) {
    let script = format!(
        "for file in /usr/bin/curl $({LIBRARIES}); do mkdir -p {root}$(dirname $file); cp -L $file {root}$file; done; \
         mkdir -p {root}/tmp {root}/dev {root}/etc {root}$(dirname {ca}); cp {ca} {root}{ca}; echo 127.0.0.1 localhost > {root}/etc/hosts",
        root = root.display(),
        ca = server.ca_path.display(),
    );
    let output = std::process::Command::new("bash").args(["-euc", &script]).output().expect("a shell");
    assert!(output.status.success(), "{}", text(&output.stderr));
}

/// `curl` in another root directory, with its request there and its answer thrown away.
fn in_root(root: &Path, curl: &Curl, line: &str) -> String {
    let request = curl.request_file();
    let inside = root.join(request.strip_prefix("/").expect("an absolute path"));
    fs::create_dir_all(inside.parent().expect("a directory")).expect("making a directory");
    fs::copy(request, &inside).expect("copying the request");
    format!("chroot {} {line}", root.display())
}

#[test]
fn a_library_in_another_root_is_probed_before_its_first_call() {
    let bench = Bench::new();
    let (curl, line) = curl_line(&bench.server, "chroot");
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path();
    lay_out(root, &bench.server);
    let chrooted = in_root(root, &curl, &line);
    let libssl = format!("$({LIBRARIES} | grep libssl)");
    let script = format!(
        "for round in $(seq {ROUNDS}); do cp -L {libssl} {root}/new; mv {root}/new {root}/{libssl}; {chrooted}; done",
        root = root.display()
    );
    assert_rounds_metered(&bench, "chroot", &script);
    bench.assert_lossless();
}

#[test]
fn a_library_on_an_overlay_is_probed_before_its_first_call() {
    let bench = Bench::new();
    let (curl, line) = curl_line(&bench.server, "overlay");
    let directory = tempfile::tempdir().expect("a directory");
    let base = directory.path();
    let (lower, merged) = (base.join("lower"), base.join("merged"));
    lay_out(&lower, &bench.server);
    let chrooted = in_root(&lower, &curl, &line).replace(&*lower.to_string_lossy(), &merged.to_string_lossy());
    let libssl = format!("$({LIBRARIES} | grep libssl)");
    // As a container has it: each round a mount namespace, an overlay over a common image, and the library changed in it.
    let round = format!(
        "mkdir -p {base}/upper {base}/work {base}/merged; mount -t tmpfs none {base}/upper; mkdir {base}/upper/up {base}/upper/work; \
         mount -t overlay overlay -o lowerdir={base}/lower,upperdir={base}/upper/up,workdir={base}/upper/work {base}/merged; \
         if [ $((ROUND % 2)) = 0 ]; then cp -L {libssl} {base}/merged/new; mv {base}/merged/new {base}/merged/{libssl}; fi; {chrooted}",
        base = base.display()
    );
    let file = base.join("round.sh");
    fs::write(&file, round).expect("writing a script");
    let script =
        format!("for round in $(seq {ROUNDS}); do ROUND=$round unshare --mount bash -eu {}; done", file.display());
    assert_rounds_metered(&bench, "overlay", &script);
    bench.assert_lossless();
}

/// Libraries are replaced all the time, by upgrades and by containers that come and go: what is no longer used is no longer probed.
#[test]
fn replaced_libraries_leave_nothing_behind() {
    let bench = Bench::new();
    // What curl and the shell have mapped is known from now on.
    run(&bench, "before", "cp --version > /dev/null; curl --version > /dev/null");
    let before = bench.daemon.status().probes.len();
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", bench.daemon.pid())).expect("its descriptors").count();
    let open_before = descriptors();
    let directory = tempfile::tempdir().expect("a directory");
    let here = directory.path().display();
    let script = format!(
        "for round in $(seq 20); do rm -f {here}/*; cp $({LIBRARIES} | grep libssl) {here}/; LD_LIBRARY_PATH={here} curl --version > /dev/null; done; rm -f {here}/*"
    );
    run(&bench, "replaced", &script);
    let gone = until(|| (bench.daemon.status().probes.len() == before).then_some(()));
    assert!(gone.is_some(), "{before} files were probed before, and after: {:#?}", bench.daemon.status().probes);
    // A few come and go with what the daemon does.
    let closed = until(|| (descriptors() <= open_before + 8).then_some(()));
    assert!(closed.is_some(), "{open_before} descriptors were open before, and after: {}", descriptors());
    bench.assert_lossless();
}

/// GnuTLS is another library with other functions; wget has it in Debian.
#[test]
fn gnutls_is_metered() {
    let bench = Bench::new();
    let directory = tempfile::tempdir().expect("a directory");
    let request = directory.path().join("request.json");
    let body = json!({"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]});
    fs::write(&request, body.to_string()).expect("writing the request");
    let line = format!(
        "wget --quiet --no-proxy --ca-certificate={} --header='x-test-client: gnutls' --header='content-type: application/json' --post-file={} \
         --output-document=/dev/null {}/v1/chat/completions",
        bench.server.ca_path.display(),
        request.display(),
        bench.server.base_url
    );
    run(&bench, "gnutls", &format!("for round in $(seq 5); do {line}; done"));
    assert_all_metered(&bench, "gnutls", 5);
    bench.assert_lossless();
}
