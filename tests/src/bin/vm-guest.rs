//! Checks of the package from inside of a guest of `cargo xtask vm`. Each check is one JSON line on standard output; after the first half of them the
//! guest is started again.

use std::{
    fs,
    path::Path,
    process::{Command, ExitCode, Output},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tollgate_tests::{
    Config, ModelServer,
    reference_price::{PicoUsd, usd},
};

/// Everything in here is emulated.
const LIMIT: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(300);
/// What is remembered over the restart of the guest.
const MEMORY: &str = "/var/lib/vm-guest.json";

const RULES: &str = r#"
[[account]]
name = "tenant=acme"
budget = { month = "100" }

[[rule]]
unit = "agents.slice"
task = "agents"
tenant = "acme"
budget = { day = "1" }

[[rule]]
unit = "agent@{name}.service"
task = "agent-{name}"
budget = { total = "0.03", warn_percent = [50] }

[[rule]]
unit = "machine-{name}.scope"
task = "box-{name}"
budget = { total = "0.02" }
"#;
const SCOPE: &str = "tollgate-scoped.scope";
/// A byte for each try of a client that does not give up.
const TRIES: &str = "/tmp/hammer.tries";
const RULES_FILE: &str = "/etc/tollgate/conf.d/10-agents.toml";

type Outcome = Result<String, String>;

fn main() -> ExitCode {
    let before: Option<Value> = fs::read_to_string(MEMORY).ok().and_then(|text| serde_json::from_str(&text).ok());
    let mut guest = Guest { done: before.as_ref().map_or(0, |before| number(&before["done"])), server: None };
    match before {
        None => guest.first(),
        Some(before) => guest.second(&before),
    }
    ExitCode::SUCCESS
}

struct Guest {
    done: u64,
    server: Option<ModelServer>,
}

impl Guest {
    fn check(&mut self, name: &str, check: impl FnOnce(&mut Self) -> Outcome) {
        let began = Instant::now();
        let outcome = check(self);
        self.done += 1;
        let mut line = json!({"check": name, "seconds": began.elapsed().as_secs_f64()});
        match outcome {
            Ok(said) if said.is_empty() => {}
            Ok(said) => line["said"] = said.into(),
            Err(why) => line["failed"] = why.into(),
        }
        println!("{line}");
    }

    fn server(&self) -> &ModelServer {
        self.server.as_ref().expect("the model server")
    }

    fn serve(&mut self) {
        self.server = Some(ModelServer::start(Config::default()).expect("starting the model server"));
    }

    fn first(&mut self) {
        self.check("the_hierarchy_is_unified_and_has_cpu", |_| {
            let controllers =
                fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").map_err(|error| error.to_string())?;
            wanted(controllers.split_whitespace().any(|controller| controller == "cpu"), &controllers)?;
            ok(&["uname", "-r"])
        });
        self.check("the_package_installs_and_the_service_is_ready", |_| {
            ok(&["dpkg", "-i", &package(0)]).map_err(|error| {
                let said = ok(&["journalctl", "--no-pager", "-u", "tollgate", "-o", "cat", "-n", "12"]);
                format!("{error}\n{}", said.unwrap_or_else(|error| error))
            })?;
            let state = shown("ActiveState,SubState,Type")?;
            wanted(state.contains("ActiveState=active") && state.contains("SubState=running"), &state)?;
            ok(&["tollgate", "status"]).map(|status| status.lines().next().unwrap_or_default().to_owned())
        });
        self.check("the_hardening_is_scored", |_| {
            let said = ok(&["systemd-analyze", "--no-pager", "security", "tollgate.service"])?;
            let score = said.lines().rev().find(|line| line.contains("exposure level")).unwrap_or_default().to_owned();
            let level = score.rsplit_once("service:").and_then(|(_, rest)| rest.split_whitespace().next());
            let level: f64 = level.and_then(|level| level.parse().ok()).ok_or(said)?;
            wanted(level < 5.0, &score)?;
            Ok(format!("{level}"))
        });
        self.check("the_configuration_that_is_installed_is_valid_and_documented", |_| {
            ok(&["tollgate", "config", "check"])?;
            wanted(
                ["tollgate.1", "tollgate.1.gz"].iter().any(|page| Path::new("/usr/share/man/man1").join(page).exists()),
                "no man page",
            )?;
            wanted(Path::new("/usr/share/bash-completion/completions/tollgate").exists(), "no completions")?;
            Ok(String::new())
        });
        self.check("rules_hold_after_a_reload", |_| {
            fs::write(RULES_FILE, RULES).map_err(|error| error.to_string())?;
            ok(&["systemctl", "start", "agents.slice"]).ok();
            ok(&["systemctl", "reload", "tollgate"])?;
            ok(&["systemd-run", "--quiet", "--unit", "keeper", "--slice", "agents.slice", "sleep", "infinity"])?;
            until("agents.slice is a task", || label_of("agents").map(|_| String::new()))
        });
        self.check("an_invalid_configuration_is_rejected_and_the_old_one_stays", |_| {
            let before = label_of("agents").ok_or("no label")?;
            fs::write("/etc/tollgate/conf.d/20-wrong.toml", "[budget]\ntotal = 1\n")
                .map_err(|error| error.to_string())?;
            let reload = run(&["systemctl", "reload", "tollgate"]);
            wanted(!reload.status.success(), "the reload did not fail")?;
            let pid = shown("MainPID")?.trim().replace("MainPID=", "");
            // The daemon itself, too.
            ok(&["kill", "-HUP", &pid])?;
            until("the error is in the journal", || {
                let journal = ok(&["journalctl", "--no-pager", "-u", "tollgate", "-o", "cat"]).ok()?;
                journal.lines().find(|line| line.contains("20-wrong.toml is wrong: line 2")).map(|_| String::new())
            })?;
            fs::remove_file("/etc/tollgate/conf.d/20-wrong.toml").map_err(|error| error.to_string())?;
            let after = label_of("agents").ok_or("no label")?;
            wanted(before["budget"] == after["budget"], &format!("{before} {after}"))?;
            ok(&["systemctl", "reload", "tollgate"]).map(|_| String::new())
        });
        self.serve();
        self.check("a_unit_is_a_task_by_rule_from_its_first_call", |guest| {
            let output = guest.agent("a1", &["--unit", "agent@a1.service", "--slice", "agents.slice"], 2, false);
            wanted(output.status.success(), &text(&output))?;
            guest.spent("agent-a1", "a1", 2)
        });
        self.check("a_unit_is_stopped_at_its_cap", |guest| {
            let output = guest.agent("a2", &["--unit", "agent@a2.service", "--slice", "agents.slice"], 50, false);
            // Ended by SIGTERM, a unit counts as one that went well.
            let state = || report("agent-a2").filter(|report| report["state"] == "stopped").map(|_| String::new());
            until("it is stopped", state).map_err(|error| format!("{error}: {}", text(&output)))?;
            let spent = guest.billed("a2");
            wanted(spent > usd("0.02") && spent <= usd("0.035"), &format!("{spent} pico-USD"))?;
            Ok(format!("{spent} pico-USD of {}", usd("0.03")))
        });
        self.check("the_alert_is_in_the_journal_and_explained", |_| {
            until("the alert is in the journal", || {
                let journal = ok(&[
                    "journalctl",
                    "--no-pager",
                    "-x",
                    "-o",
                    "short",
                    "TOLLGATE_TASK=agent-a2",
                    "TOLLGATE_DECISION=kill",
                ])
                .ok()?;
                (journal.contains("the cap is reached") && journal.contains("Task agent-a2 is stopped"))
                    .then(String::new)
            })
        });
        self.check("a_label_by_hand_outlives_the_daemon", |guest| {
            ok(&["systemd-run", "--quiet", "--unit", "by-hand", "--slice", "labelled.slice", "sleep", "infinity"])?;
            ok(&["tollgate", "label", "labelled.slice", "--task", "by-hand", "--budget", "total=5"])?;
            ok(&["systemctl", "restart", "tollgate"])?;
            until("it is known again", || label_of("by-hand").map(|_| String::new()))?;
            let output = guest.agent("h1", &["--unit", "h1", "--slice", "labelled.slice"], 2, false);
            wanted(output.status.success(), &text(&output))?;
            guest.spent("by-hand", "h1", 2)?;
            ok(&["systemctl", "set-property", "--runtime", "labelled.slice", "CPUQuota=50%"])?;
            let cpu = fs::read_to_string("/sys/fs/cgroup/labelled.slice/cpu.max").map_err(|error| error.to_string())?;
            wanted(cpu.starts_with("50000 "), &cpu)?;
            ok(&["tollgate", "unlabel", "labelled.slice"]).map(|_| String::new())
        });
        self.check("tollgate_run_stops_at_its_cap", |guest| {
            let agent = guest.command("r1", 50);
            let output = run(&["tollgate", "run", "--task", "r1", "--budget", "0.02", "--", "sh", "-c", &agent]);
            wanted(output.status.code() == Some(137), &text(&output))?;
            let spent = guest.billed("r1");
            wanted(spent > 0 && spent <= usd("0.025"), &format!("{spent} pico-USD"))?;
            Ok(String::new())
        });
        self.check("a_run_is_a_scope_of_systemd", |_| {
            let run_it =
                ["systemd-run", "--quiet", "--collect", "--unit", "runs-it", "tollgate", "run", "--task", "scoped"];
            ok(&[&run_it[..], &["--budget", "0.07", "--", "sleep", "600"]].concat())?;
            let described = until("the scope is there", || {
                let said = ok(&["systemctl", "show", "-p", "Description,ActiveState,ControlGroup", SCOPE]).ok()?;
                said.contains("ActiveState=active").then_some(said)
            })?;
            wanted(described.contains("scoped") && described.contains("$0.07"), &described)?;
            let status = answer(&["tollgate", "status", "--json"]).unwrap_or_default();
            let tasks = status["tasks"].as_array().cloned().unwrap_or_default();
            let cgroup = tasks.iter().find(|task| task["task"] == "scoped").map(|task| task["cgroup"].to_string());
            wanted(cgroup.as_ref().is_some_and(|cgroup| cgroup.contains(SCOPE)), &format!("{cgroup:?}"))?;
            ok(&["systemctl", "stop", SCOPE])?;
            until("the task has ended", || {
                report("scoped").filter(|report| report["state"] == "ended").map(|_| String::new())
            })
        });
        self.check("a_container_is_stopped_at_its_cap", |guest| {
            // It has a root, a user database and a /tmp of its own, and the programs of the guest.
            let script = guest.command("boxed", 50).replace("/tmp/", "/guest/");
            fs::write("/tmp/boxed.sh", script).map_err(|error| error.to_string())?;
            let container =
                ["systemd-nspawn", "--quiet", "--pipe", "--volatile=yes", "--directory=/", "--machine=boxed"];
            let output = run(&[&container[..], &["--bind-ro=/tmp:/guest", "sh", "/guest/boxed.sh"]].concat());
            let state = || report("box-boxed").filter(|report| report["state"] == "stopped").map(|_| String::new());
            until("it is stopped", state).map_err(|error| format!("{error}: {}", text(&output)))?;
            let spent = guest.billed("boxed");
            wanted(spent > 0 && spent <= usd("0.025"), &format!("{spent} pico-USD"))?;
            Ok(format!("{spent} pico-USD of {}", usd("0.02")))
        });
        self.check("a_throttled_task_gets_less_of_the_cpus", |guest| {
            ok(&["systemd-run", "--quiet", "--unit", "slow", "--slice", "slow.slice", "sleep", "infinity"])?;
            let label = ["tollgate", "label", "slow.slice", "--task", "slow", "--budget", "total=0.02", "--budget"];
            ok(&[&label[..], &["ladder=throttle=20@20,kill@100", "--budget", "throttle_cpu_percent=30"]].concat())?;
            let output = guest.agent("slow-agent", &["--unit", "slow-agent", "--slice", "slow.slice"], 1, false);
            wanted(output.status.success(), &text(&output))?;
            let quota = || fs::read_to_string("/sys/fs/cgroup/slow.slice/cpu.max").unwrap_or_default();
            let percent = || {
                let said = quota();
                let (quota, period) = said.trim().split_once(' ')?;
                let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
                Some((quota / period * 100.0).round())
            };
            until("it has a quota", || (percent() == Some(30.0)).then(String::new))
                .map_err(|error| format!("{error}: {}", quota()))?;
            ok(&["tollgate", "budget", "slow", "set", "total=1"])?;
            until("the quota is taken away", || quota().starts_with("max ").then(String::new))
                .map_err(|error| format!("{error}: {}", quota()))?;
            ok(&["systemctl", "stop", "slow"]).map(|_| String::new())
        });
        self.check("restart_and_upgrade_keep_a_running_task", |guest| {
            let agent = ["--no-block", "--unit", "long", "--slice", "agents.slice"];
            let output = guest.agent("long", &agent, 400, true);
            wanted(output.status.success(), &text(&output))?;
            until("it calls", || (guest.server().truth_of("long").len() >= 2).then(String::new))?;
            let pid = ok(&["systemctl", "show", "-p", "MainPID", "long"])?;
            let spent = spent_of("agents").ok_or("no report")?;
            ok(&["systemctl", "restart", "tollgate"])?;
            ok(&["dpkg", "-i", &package(1)])?;
            let version = ok(&["dpkg-query", "-W", "-f", "${Version}", "tollgate"])?;
            wanted(version == "0.1.0-2", &version)?;
            wanted(ok(&["systemctl", "show", "-p", "MainPID", "long"])? == pid, "the agent was started again")?;
            let then = spent_of("agents").ok_or("no report")?;
            wanted(then >= spent, &format!("{then} after {spent}"))?;
            until("it is metered again", || spent_of("agents").filter(|now| *now > then).map(|_| String::new()))?;
            ok(&["systemctl", "stop", "long"]).map(|_| String::new())
        });
        self.check("restart_crash_and_upgrade_leave_a_shut_gate_shut", |guest| {
            let call = guest.command("hammer", 1).replace(" || exit 1", "");
            let script = format!("trap '' TERM; while :; do echo >> {TRIES}; {call} 2>> /tmp/hammer.err; done");
            fs::write("/tmp/hammer", script).map_err(|error| error.to_string())?;
            ok(&["systemd-run", "--quiet", "--unit", "waits", "--slice", "hammer.slice", "sleep", "infinity"])?;
            let label = ["tollgate", "label", "hammer.slice", "--task", "hammer", "--budget"];
            ok(&[&label[..], &["total=0.012", "--budget", "kill_grace_seconds=300"]].concat())?;
            let unit = ["systemd-run", "--quiet", "-p", "KillSignal=SIGKILL", "--unit", "hammer", "--slice"];
            ok(&[&unit[..], &["hammer.slice", "sh", "/tmp/hammer"]].concat())?;
            let is_shut = || report("hammer").filter(|report| report["state"] == "stopping").map(|_| String::new());
            until("its gate is shut", is_shut)?;
            let tries = || fs::read_to_string(TRIES).map_or(0, |tries| tries.len());
            let arrived = guest.server().truth_of("hammer").len();
            let (began, version) = (tries(), package(0));
            let crash: &dyn Fn() -> Outcome = &|| {
                let before = shown("NRestarts")?;
                ok(&["systemctl", "kill", "--kill-whom", "main", "--signal", "KILL", "tollgate"])?;
                until("it is started again", || shown("NRestarts").ok().filter(|now| *now != before))
            };
            let steps: [(&str, &dyn Fn() -> Outcome); 3] = [
                ("restart", &|| ok(&["systemctl", "restart", "tollgate"])),
                ("crash", crash),
                ("downgrade", &|| ok(&["dpkg", "-i", &version])),
            ];
            for (step, act) in steps {
                let before = tries();
                act().map_err(|error| format!("{step}: {error}"))?;
                until("the service is ready", || ok(&["tollgate", "status"]).ok())?;
                wanted(tries() > before, &format!("{step}: nobody tried anything meanwhile"))?;
                let now = guest.server().truth_of("hammer").len();
                wanted(now == arrived, &format!("{step}: {} requests arrived", now - arrived))?;
            }
            let all = tries() - began;
            // What does not ignore a SIGTERM is gone already.
            run(&["systemctl", "stop", "hammer", "waits"]);
            let arrived_since = guest.server().truth_of("hammer").len() - arrived;
            wanted(arrived_since == 0, &format!("{arrived_since} requests arrived in the end"))?;
            Ok(format!("{all} tries to send, 0 requests arrived"))
        });
        self.check("the_watchdog_is_fed", |_| {
            let state = shown("WatchdogUSec,WatchdogTimestampMonotonic")?;
            wanted(state.contains("WatchdogUSec=30s") && !state.contains("WatchdogTimestampMonotonic=0"), &state)?;
            Ok(String::new())
        });
        let (spent, month) = (spent_of("agents").unwrap_or_default(), month_of_tenant());
        let memory = json!({"done": self.done, "spent": spent.to_string(), "month": month});
        fs::write(MEMORY, memory.to_string()).expect("remembering");
        run(&["systemctl", "reboot"]);
    }

    fn second(&mut self, before: &Value) {
        self.check("after_a_reboot_windows_are_as_before", |_| {
            until("the service is ready", || ok(&["tollgate", "status"]).ok())?;
            ok(&["systemd-run", "--quiet", "--unit", "keeper", "--slice", "agents.slice", "sleep", "infinity"])?;
            until("the slice is a task", || label_of("agents").map(|_| String::new()))?;
            let spent = spent_of("agents").map(|spent| spent.to_string()).unwrap_or_default();
            wanted(json!(spent) == before["spent"] && spent != "0", &format!("{spent} after {}", before["spent"]))?;
            let month = month_of_tenant();
            wanted(month == before["month"] && month.is_string(), &format!("{month} after {}", before["month"]))?;
            Ok(String::new())
        });
        self.check("purge_leaves_nothing", |_| {
            ok(&["dpkg", "--purge", "tollgate"])?;
            for path in [
                "/etc/tollgate",
                "/var/lib/tollgate",
                "/run/tollgate",
                "/usr/bin/tollgate",
                "/usr/lib/systemd/system/tollgate.service",
                "/usr/lib/systemd/catalog/tollgate.catalog",
                "/usr/share/doc/tollgate",
                "/usr/share/tollgate",
                "/sys/fs/bpf/tollgate",
                "/sys/fs/cgroup/tollgate",
                "/etc/systemd/system/multi-user.target.wants/tollgate.service",
            ] {
                wanted(fs::symlink_metadata(path).is_err(), &format!("{path} is still there"))?;
            }
            let state = shown("LoadState")?;
            wanted(state.contains("not-found"), &state)?;
            wanted(run(&["pgrep", "-x", "sleep"]).status.success(), "what ran in a task was ended")?;
            Ok(String::new())
        });
        println!("{}", json!({"all": self.done}));
        run(&["systemctl", "poweroff"]);
    }

    /// A shell command that makes so many calls of $0.005.
    fn command(&self, name: &str, calls: u32) -> String {
        let directive = json!({"tollgate_test": {"input_tokens": 400, "cached_tokens": 0, "output_tokens": 400, "reasoning_tokens": 0}});
        let body = json!({"model": "gpt-4o", "messages": [{"role": "user", "content": format!("Say something. {directive}")}]});
        let file = format!("/tmp/{name}.json");
        fs::write(&file, body.to_string()).expect("writing a request");
        let (url, ca) = (&self.server().base_url, self.server().ca_path.display());
        format!(
            "for n in $(seq {calls}); do curl -sS --noproxy '*' --cacert {ca} --data-binary @{file} -H 'content-type: application/json' \
             -H 'authorization: Bearer sk-test' -H 'x-test-client: {name}' {url}/v1/chat/completions -o /dev/null || exit 1; [ -z \"$PAUSE\" ] || sleep $PAUSE; done"
        )
    }

    /// Runs such a command as a unit.
    fn agent(&self, name: &str, options: &[&str], calls: u32, in_background: bool) -> Output {
        let command = self.command(name, calls);
        let mut arguments = vec!["systemd-run", "--quiet", "--collect"];
        arguments.extend(if in_background { ["--setenv=PAUSE=0.5"] } else { ["--wait"] });
        arguments.extend(options);
        arguments.extend(["sh", "-c", &command]);
        run(&arguments)
    }

    fn billed(&self, name: &str) -> PicoUsd {
        self.server().truth_of(name).iter().map(tollgate_tests::Truth::cost).sum()
    }

    /// The report of a task says what the server billed.
    fn spent(&self, task: &str, name: &str, calls: u64) -> Outcome {
        let billed = self.billed(name);
        let last = || report(task).map(|report| format!("{} calls, {}", report["calls"], report["spent_usd"]));
        until("the report is exact", || {
            let report = report(task)?;
            (number(&report["calls"]) == calls && usd(report["spent_usd"].as_str()?) == billed).then(String::new)
        })
        .map_err(|error| format!("{error}: {:?}, {billed} pico-USD were billed", last()))
    }
}

fn package(index: usize) -> String {
    format!("/payload/tollgate_{}.deb", ["0.1.0-1", "0.1.0-2"][index])
}

fn run(command: &[&str]) -> Output {
    let output = Command::new(command[0]).args(&command[1..]).env("DEBIAN_FRONTEND", "noninteractive").output();
    output.unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr].concat();
    format!("{}: {}", output.status, String::from_utf8_lossy(&both).chars().take(1500).collect::<String>())
}

fn ok(command: &[&str]) -> Outcome {
    let output = run(command);
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    Err(format!("{}: {}", command.join(" ").chars().take(200).collect::<String>(), text(&output)))
}

fn shown(properties: &str) -> Outcome {
    ok(&["systemctl", "show", "-p", properties, "tollgate.service"])
}

fn wanted(is_so: bool, else_say: &str) -> Result<(), String> {
    if is_so { Ok(()) } else { Err(else_say.to_owned()) }
}

fn until(what: &str, mut look: impl FnMut() -> Option<String>) -> Outcome {
    let began = Instant::now();
    while began.elapsed() < LIMIT {
        if let Some(said) = look() {
            return Ok(if said.len() > 200 { String::new() } else { said });
        }
        thread::sleep(LOOK_AGAIN);
    }
    Err(format!("not within {LIMIT:?}: {what}"))
}

fn answer(command: &[&str]) -> Option<Value> {
    ok(command).ok().and_then(|text| serde_json::from_str(&text).ok())
}

fn report(task: &str) -> Option<Value> {
    answer(&["tollgate", "report", "--task", task, "--json"])
}

fn spent_of(task: &str) -> Option<PicoUsd> {
    report(task)?["spent_usd"].as_str().map(usd)
}

fn label_of(task: &str) -> Option<Value> {
    let labels = answer(&["tollgate", "labels", "--json"])?;
    labels.as_array()?.iter().find(|label| label["task"] == task).cloned()
}

fn month_of_tenant() -> Value {
    let status = answer(&["tollgate", "status", "--json"]).unwrap_or_default();
    let accounts = status["accounts"].as_array().cloned().unwrap_or_default();
    accounts
        .iter()
        .find(|account| account["account"] == "tenant=acme")
        .map(|account| account["windows_usd"]["month"].clone())
        .unwrap_or_default()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}
