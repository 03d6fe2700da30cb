//! Other processes are none of a task's business.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use tollgate_tests::{Client, Seen, model_server::State};

use super::{Bench, CAP, assert_exit};

/// A process outside of every task that makes a call when told to.
pub struct Neighbour {
    pub child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Neighbour {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("starting a neighbour");
        let (input, output) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let mut neighbour = Self { child, input, output: BufReader::new(output) };
        assert!(neighbour.line().contains("ready"));
        neighbour
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("reading from a neighbour");
        line
    }

    pub fn call(&mut self) -> Seen {
        self.input.write_all(b"call\n").expect("telling a neighbour to call");
        let line = self.line();
        Seen::lines(line.as_bytes()).pop().unwrap_or_else(|| panic!("the neighbour has ended"))
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_neighbour_is_neither_recorded_nor_stopped() {
    let bench = Bench::new();
    let mut neighbour = Neighbour::start(&mut Client::plain_tls(&bench.server, "neighbour").command());
    let mut seen = vec![neighbour.call(), neighbour.call()];

    let output = bench.daemon.run("capped", CAP, &Client::loop_agent(&bench.server, "capped"));
    assert_exit(&output, 137);

    seen.extend([neighbour.call(), neighbour.call()]);
    assert!(neighbour.child.try_wait().expect("looking at the neighbour").is_none(), "it lives on");
    let truths = bench.server.truth_of("neighbour");
    assert_eq!(truths.len(), 4);
    for (seen, truth) in seen.iter().zip(&truths) {
        assert_eq!(truth.state, State::Complete);
        let call = truth.call.as_ref().expect("a call");
        assert_eq!((seen.id.as_ref(), seen.usage), (Some(&call.id), Some(call.billed)), "its own calls go well");
    }

    let report = bench.daemon.report_when("capped", |report| report.state == "stopped" && report.held() == 0);
    let foreign = seen.iter().filter_map(|seen| seen.id.as_deref()).find(|&id| report.call(id).is_some());
    assert_eq!(foreign, None, "the task does not pay for it");
    assert!(report.processes.iter().all(|process| process.pid != neighbour.child.id()));
    let tasks: Vec<_> = bench.daemon.status().tasks.into_iter().map(|task| task.task).collect();
    assert_eq!(tasks, ["capped"], "it is not a task");
}

#[test]
fn two_tasks_are_not_mixed_up() {
    let bench = Bench::new();
    let pace = ["--calls", "8", "--pause-ms", "10"];
    let [one, other] = ["one", "other"]
        .map(|task| bench.daemon.spawn(task, "5", &Client::loop_agent(&bench.server, task).with(&pace)));
    assert_exit(&one.wait(), 0);
    assert_exit(&other.wait(), 0);
    for task in ["one", "other"] {
        let report = bench.daemon.report_when(task, |report| report.calls >= 8 && report.held() == 0);
        let truths = bench.server.truth_of(task);
        let billed: i128 = truths.iter().map(tollgate_tests::Truth::cost).sum();
        assert_eq!((report.calls, report.spent()), (8, billed), "{task}");
        let ids = truths.iter().filter_map(|truth| truth.call.as_ref());
        assert!(ids.into_iter().all(|call| report.call(&call.id).is_some()), "{task}");
    }
    bench.assert_lossless();
}
