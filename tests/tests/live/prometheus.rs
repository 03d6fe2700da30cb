//! What is scraped is right, and what the package's rules and dashboard ask for is there: Prometheus itself scrapes a live daemon and answers every
//! query of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, TcpListener},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tollgate_tests::{
    Client, Config,
    build_tree::workspace,
    daemon::{Options, Running, bounded, until},
    receiver::Receiver,
};

use super::{Bench, CAP, assert_exit, text};

const TASK: &str = "scraped-task";
const RULES: &str = "packaging/prometheus/tollgate.rules.yml";
const DASHBOARD: &str = "packaging/grafana/tollgate.json";

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("an address").port()
}

fn curl(arguments: &[&str]) -> String {
    let output = bounded(Command::new("curl").args(["--silent", "--show-error", "--max-time", "20"]).args(arguments));
    assert_exit(&output, 0);
    text(&output.stdout)
}

pub(super) fn scrape(bench: &Bench) -> String {
    let socket = bench.daemon.socket();
    curl(&["--fail", "--unix-socket", &socket.to_string_lossy(), "http://tollgate/metrics"])
}

/// Samples by their names with labels.
pub(super) fn samples(scrape: &str) -> BTreeMap<&str, f64> {
    let lines = scrape.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
            (name, value.parse().unwrap_or_else(|error| panic!("{line}: {error}")))
        })
        .collect()
}

fn promtool(arguments: &[&str], input: &str) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(&file, input).expect("a file");
    let input = std::fs::File::open(&file).expect("a file");
    let output = bounded(Command::new("promtool").args(arguments).stdin(input).current_dir(workspace()));
    assert_exit(&output, 0);
    assert_eq!(text(&output.stderr), "", "promtool {arguments:?}");
}

/// Every query of the dashboard, with its variables as Grafana fills them in.
fn dashboard_queries() -> Vec<String> {
    let json = std::fs::read_to_string(workspace().join(DASHBOARD)).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&json).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let annotations = dashboard["annotations"]["list"].as_array().expect("annotations").iter();
    let queries: Vec<String> = targets
        .chain(annotations)
        .map(|target| target["expr"].as_str().unwrap_or_else(|| panic!("no query: {target}")))
        .map(|query| query.replace("$instance", ".*").replace("$__rate_interval", "1m"))
        .collect();
    assert!(queries.len() > 30, "{queries:?}");
    queries
}

fn names(query: &str) -> BTreeSet<String> {
    let words = query.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| word.starts_with("tollgate_")).map(ToOwned::to_owned).collect()
}

#[test]
fn rules_fire_when_they_should() {
    promtool(&["check", "rules", RULES], "");
    promtool(&["test", "rules", "tests/rules/tollgate.test.yml"], "");
}

#[test]
fn an_address_that_others_can_reach_is_refused() {
    let bench = Bench::new();
    let directory = tempfile::tempdir().expect("a directory");
    let config = directory.path().join("tollgate.toml");
    std::fs::write(&config, "[metrics]\nlisten = \"0.0.0.0:9464\"\n").expect("a file");
    let output = bounded(Command::new(bench.daemon.binary()).args(["daemon", "--check", "--config"]).arg(&config));
    assert_exit(&output, 78);
    assert!(text(&output.stderr).contains("line 2: 0.0.0.0:9464 is not a loopback address"), "{output:?}");
}

/// Prometheus, with the rules of the package.
struct Prometheus {
    _running: Running,
    url: String,
    _directory: tempfile::TempDir,
}

impl Prometheus {
    fn start(target: u16) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let port = free_port();
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{}]\n\
             scrape_configs: [{{job_name: tollgate, static_configs: [{{targets: ['127.0.0.1:{target}']}}]}}]\n",
            workspace().join(RULES).display()
        );
        let path = directory.path().join("prometheus.yml");
        std::fs::write(&path, config).expect("a file");
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", path.display()));
        command.arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}")).stdin(Stdio::null());
        let prometheus = Self {
            _running: Running::start(&mut command),
            url: format!("http://127.0.0.1:{port}"),
            _directory: directory,
        };
        let up = until(|| {
            let mut ask = Command::new("curl");
            ask.args(["--silent", "--max-time", "5"]).arg(format!("{}/-/ready", prometheus.url));
            bounded(&mut ask).stdout.starts_with(b"Prometheus").then_some(())
        });
        assert!(up.is_some(), "Prometheus does not start");
        prometheus
    }

    /// What a query gives.
    fn query(&self, query: &str) -> Vec<Value> {
        let said =
            curl(&["--get", "--data-urlencode", &format!("query={query}"), &format!("{}/api/v1/query", self.url)]);
        let answer: Value = serde_json::from_str(&said).expect("JSON");
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"]["result"].as_array().cloned().unwrap_or_default()
    }
}

#[test]
fn everything_that_rules_and_dashboard_ask_for_is_scraped() {
    let receiver = Receiver::start(&[]).expect("a receiver");
    let port = free_port();
    let config = format!(
        "[metrics]\nlisten = \"127.0.0.1:{port}\"\n[[webhook]]\nname = \"pager\"\nurl = \"{}/\"\nca_file = \"{}\"\nkinds = [\"kill\"]\n",
        receiver.base_url,
        receiver.ca_path.display()
    );
    let bench = Bench::with_options(Config::default(), &Options { config: Some(config) });
    let prometheus = Prometheus::start(port);
    // What rises is seen to rise only by who has looked before.
    assert!(until(|| (!prometheus.query("tollgate_decisions_total").is_empty()).then_some(())).is_some());

    let client = Client::loop_agent(&bench.server, TASK);
    let labels = ["--tenant", "acme", "--workflow", "nightly"];
    assert_exit(&bench.daemon.run_with(TASK, CAP, &labels, &client), 137);
    let report = bench.daemon.report_when(TASK, |report| report.state == "stopped" && report.held() == 0);

    // The numbers are those of the report, which other tests hold against the truth.
    let said = scrape(&bench);
    let found = samples(&said);
    let sum = |prefix: &str| -> f64 {
        let fitting = found.iter().filter(|(name, _)| name.starts_with(prefix));
        fitting.map(|(_, value)| value).sum()
    };
    #[expect(clippy::cast_precision_loss, reason = "samples are doubles")]
    let spent = report.spent() as f64 / 1e12;
    assert!(spent > 0.04, "{spent}");
    assert!((sum("tollgate_spend_usd_total{") - spent).abs() < 1e-9, "{spent}: {said}");
    let account = "tollgate_account_spend_usd_total{tenant=\"acme\",workflow=\"nightly\"}";
    assert!((found[account] - spent).abs() < 1e-9, "{said}");
    #[expect(clippy::cast_precision_loss, reason = "samples are doubles")]
    let calls = report.calls as f64;
    assert_eq!(sum("tollgate_calls_total{"), calls, "{said}");
    assert_eq!(found["tollgate_decisions_total{decision=\"kill\"}"], 1.0);
    assert_eq!(found["tollgate_tasks{state=\"stopped\"}"], 1.0);
    assert_eq!((found["tollgate_holds"], found["tollgate_held_usd"]), (0.0, 0.0), "{said}");
    assert_eq!((found["tollgate_records_lost_total"], found["tollgate_ledger_failing"]), (0.0, 0.0));
    assert!(found["tollgate_coverage_bytes_total{plaintext=\"read\"}"] > 0.0, "{said}");
    assert!(found["tollgate_event_lag_seconds_count"] > 0.0, "{said}");
    assert!(!said.contains(TASK), "no label has the name of a task: {said}");
    promtool(&["check", "metrics"], &said);

    let rules = std::fs::read_to_string(workspace().join(RULES)).expect("the rules");
    let queries = dashboard_queries();
    let expected: BTreeSet<String> = queries.iter().map(String::as_str).chain([&*rules]).flat_map(names).collect();
    let present: BTreeSet<&str> = found.keys().filter_map(|name| name.split('{').next()).collect();
    let missing: Vec<_> = expected.iter().filter(|name| !present.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "not scraped: {missing:?}");

    // By Prometheus itself, which wants to have seen what rises twice.
    for query in &queries {
        assert!(until(|| (!prometheus.query(query).is_empty()).then_some(())).is_some(), "no data: {query}");
    }
    let firing = until(|| {
        let answer: Value = serde_json::from_str(&curl(&[&format!("{}/api/v1/rules", prometheus.url)])).expect("JSON");
        let rules = answer["data"]["groups"][0]["rules"].as_array().cloned().unwrap_or_default();
        assert!(rules.len() > 10, "{answer}");
        assert!(rules.iter().all(|rule| rule["health"] != "err"), "{answer}");
        let firing =
            |rule: &Value| (rule["state"] == "firing").then(|| rule["name"].as_str().unwrap_or("?").to_owned());
        let firing: Vec<String> = rules.iter().filter_map(firing).collect();
        (!firing.is_empty()).then_some(firing)
    });
    assert_eq!(firing, Some(vec!["TollgateCapReached".to_owned()]));
    others_are_kept_out(port);
}

/// Who connects to the loopback address may be anybody.
fn others_are_kept_out(port: u16) {
    let url = format!("http://127.0.0.1:{port}");
    let status =
        |arguments: &[&str]| curl(&[&["--output", "/dev/null", "--write-out", "%{http_code}"], arguments].concat());
    assert_eq!(status(&[&format!("{url}/v1/status")]), "404");
    assert_eq!(status(&["--request", "POST", &format!("{url}/metrics")]), "405");
    assert_eq!(status(&[&format!("{url}/metrics")]), "200");
    // Connections that say nothing take all places, and are sent away.
    let silent: Vec<_> =
        (0..200).filter_map(|_| std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()).collect();
    assert!(silent.len() > 100, "{}", silent.len());
    let begun = Instant::now();
    let served = until(|| {
        let mut ask = Command::new("curl");
        ask.args(["--silent", "--max-time", "10"]).arg(format!("{url}/metrics"));
        bounded(&mut ask).stdout.starts_with(b"# HELP").then_some(())
    });
    assert!(served.is_some(), "silent connections keep everybody else out");
    println!("served {:?} after 200 silent connections", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(20));
    drop(silent);
}
