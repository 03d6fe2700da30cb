//! What an administrator can set. Every key has a default; an unknown key is an error.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use jiff::tz::TimeZone;
use serde::Deserialize;

use crate::{
    alert::webhook,
    budget::{Pattern, Settings, SignalSettings},
    coverage::{self, Rates},
    label,
    meter::tool::{Rule, Rules},
    metrics::Loopback,
    price::{CeilingSetting, Overrides},
    probe::Capacity,
    task::AccountName,
};

/// Where the daemon listens, and its clients look for it.
pub const SOCKET: &str = "/run/tollgate/tollgate.sock";
/// Where the ledger lies.
pub const STATE_DIR: &str = "/var/lib/tollgate";
/// Where maps and programs outlive the daemon.
pub const PIN_DIRECTORY: &str = "/sys/fs/bpf/tollgate";
/// The configuration that is read when none is named and this one is there.
pub const FILE: &str = "/etc/tollgate/tollgate.toml";
/// Directory beside a configuration whose `*.toml` are read after it, in the order of their names.
const MORE: &str = "conf.d";

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub daemon: Daemon,
    /// What each task's budget starts from.
    pub budget: Settings,
    pub account: Vec<Account>,
    /// What counts as trouble on every account, where its budget does not say otherwise.
    pub signals: SignalSettings,
    pub cgroup: Cgroup,
    pub coverage: CoverageKeys,
    pub kernel: Kernel,
    pub metrics: Metrics,
    /// Who else is told of alerts.
    pub webhook: Vec<webhook::Settings>,
    pub price: Price,
    /// Tools that cost, in the order in which they are looked for.
    pub tool: Vec<Rule>,
    /// cgroups that are tasks without a label on them, in the order in which they are looked for.
    pub rule: Vec<label::Rule>,
    pub users: Users,
}

/// Users other than root who may run tasks of their own.
#[derive(Debug, Clone, Default, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Users {
    /// Their names; `@NAME` is a group.
    pub allow: Vec<String>,
    /// What each of them has for all of their tasks together: the budget of the tenant `user-NAME`, where no account of that name has another one.
    pub budget: Settings,
}

#[derive(Debug, Clone, Default, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Daemon {
    pub state_dir: Option<PathBuf>,
    pub socket: Option<PathBuf>,
    /// Where hours, days, weeks and months begin, by its name in the IANA database.
    pub time_zone: Option<String>,
}

/// A tenant or a workflow with a budget of its own. All others have none.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// `tenant=NAME`, `workflow=NAME` or `workflow=TENANT/NAME`; or a task's name, for what is not said when it is started.
    pub name: AccountName,
    pub budget: Settings,
}

#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Cgroup {
    /// Path below the cgroup v2 mount where `tollgate run` makes its cgroups.
    pub subtree: String,
}

impl Default for Cgroup {
    fn default() -> Self {
        Self { subtree: "tollgate".into() }
    }
}

#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Kernel {
    /// Size of the record ring: a power of two.
    pub ring_mib: u32,
    /// Processes of tasks that can be followed at once.
    pub processes: u32,
    /// Connections of tasks that can be followed at once.
    pub connections: u32,
    /// Whether HTTP without TLS is metered, too.
    pub plaintext: bool,
    /// Directory on a bpffs where maps, programs and what they are attached to outlive the daemon. Empty: they do not.
    pub pin_directory: PathBuf,
}

impl Default for Kernel {
    fn default() -> Self {
        let Capacity { ring_bytes, processes, connections, sees_plaintext } = Capacity::default();
        Self {
            ring_mib: ring_bytes >> 20,
            processes,
            connections,
            plaintext: sees_plaintext,
            pin_directory: PIN_DIRECTORY.into(),
        }
    }
}

impl Kernel {
    pub fn capacity(&self) -> Capacity {
        Capacity {
            ring_bytes: self.ring_mib << 20,
            processes: self.processes,
            connections: self.connections,
            sees_plaintext: self.plaintext,
        }
    }
}

/// Numbers for Prometheus.
#[derive(Debug, Clone, Default, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Where they are served beside the API's socket.
    pub listen: Option<Loopback>,
}

/// What unread connections cost.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CoverageKeys {
    /// Hosts of models, by patterns, beside those of known providers and those at which calls were read: unread connections to them are charged.
    pub hosts: Vec<String>,
    /// For hosts at which no call was read, nor at others of their provider.
    pub usd_per_million_bytes: Rates,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Price {
    /// Whether models that the catalogue lacks are priced by the fallback table.
    pub fallback: bool,
    /// What a call without a price counts toward caps.
    pub unpriced_ceiling: CeilingSetting,
    /// Negotiated rates, discounts, uplifts, servers of one's own.
    #[serde(rename = "override")]
    pub overrides: Overrides,
}

impl Default for Price {
    fn default() -> Self {
        Self { fallback: true, unpriced_ceiling: CeilingSetting::default(), overrides: Overrides::default() }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration {path}: {source}; check the path and who may read it")]
    Read { path: PathBuf, source: io::Error },
    #[error("the configuration {path} is wrong: {what}")]
    Invalid { path: PathBuf, what: String },
}

impl Config {
    /// Reads the named file, else the usual one if it is there, else takes the defaults; then what `conf.d` beside it has. What a later file says
    /// replaces what an earlier one said; lists of tables grow.
    ///
    /// # Errors
    /// When a file cannot be read, is not TOML, or says something that is not known or makes no sense, alone or with the others.
    pub fn load(named: Option<&Path>) -> Result<Self, ConfigError> {
        let path = named.unwrap_or(Path::new(FILE));
        let mut all = toml::Table::new();
        let mut last = path.to_path_buf();
        let own = (named.is_some() || path.exists()).then(|| path.to_path_buf());
        for path in own.into_iter().chain(more(path)?) {
            let text = fs::read_to_string(&path).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
            // Alone first: an error then has its line.
            Self::parse(&text).map_err(|what| ConfigError::Invalid { path: path.clone(), what })?;
            let table = text.parse().map_err(|error: toml::de::Error| ConfigError::Invalid {
                path: path.clone(),
                what: error.message().to_owned(),
            })?;
            merge(&mut all, table);
            last = path;
        }
        let config: Self = all.try_into().map_err(|error: toml::de::Error| ConfigError::Invalid {
            path: last.clone(),
            what: error.message().into(),
        })?;
        config.check().map_err(|what| ConfigError::Invalid { path: last, what })?;
        Ok(config)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| text.get(..span.start).unwrap_or_default().matches('\n').count() + 1);
            let line = line.map(|line| format!("line {line}: ")).unwrap_or_default();
            format!("{line}{}", error.message().lines().next().unwrap_or_default())
        })?;
        config.check()?;
        Ok(config)
    }

    /// What makes no sense, in words.
    fn check(&self) -> Result<(), String> {
        let config = self;
        let ring = config.kernel.ring_mib;
        if !ring.is_power_of_two() || ring > 1024 {
            return Err(format!("kernel.ring_mib is {ring}: use a power of two up to 1024"));
        }
        if config.kernel.processes == 0 || config.kernel.connections == 0 {
            return Err("kernel.processes and kernel.connections must not be 0".into());
        }
        if !config.kernel.pin_directory.as_os_str().is_empty() && !config.kernel.pin_directory.is_absolute() {
            return Err("kernel.pin_directory must be an absolute path, or empty".into());
        }
        config.budget.budget().map_err(|error| format!("budget.{error}"))?;
        config.signals.check().map_err(|error| format!("signals.{error}"))?;
        for account in &config.account {
            account.budget.budget().map_err(|error| format!("account {}: budget.{error}", account.name))?;
        }
        config.users.budget.budget().map_err(|error| format!("users.budget.{error}"))?;
        for host in &config.coverage.hosts {
            host.parse::<Pattern>().map_err(|error| format!("coverage.hosts: {error}"))?;
        }
        let Rates { sent, received } = config.coverage.usd_per_million_bytes;
        if sent.is_negative() || received.is_negative() {
            return Err("coverage.usd_per_million_bytes must not be negative".into());
        }
        config.zone()?;
        webhook::check(&config.webhook)?;
        let subtree = config.cgroup.subtree.trim_matches('/');
        if subtree.is_empty() || subtree.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
            return Err(format!(
                "cgroup.subtree is `{}`: use a path below the cgroup v2 mount, like `tollgate`",
                config.cgroup.subtree
            ));
        }
        Rules::new(config.tool.clone()).map_err(|error| error.to_string())?;
        label::Rules::new(&config.rule).map_err(|error| error.to_string())?;
        Ok(())
    }

    /// Where the windows of budgets begin.
    ///
    /// # Errors
    /// When there is no such time zone.
    pub fn zone(&self) -> Result<TimeZone, String> {
        let Some(name) = &self.daemon.time_zone else { return Ok(TimeZone::UTC) };
        TimeZone::get(name).map_err(|error| format!("daemon.time_zone: {error}"))
    }

    /// How connections are judged that may not be read.
    pub fn coverage_settings(&self) -> coverage::Settings {
        coverage::Settings {
            connections: usize::try_from(self.kernel.connections).unwrap_or(usize::MAX),
            hosts: self.coverage.hosts.iter().filter_map(|host| host.parse().ok()).collect(),
            rates: self.coverage.usd_per_million_bytes,
            sees_plaintext: self.kernel.plaintext,
            ..Default::default()
        }
    }

    /// What is said of an account in this file.
    pub fn account(&self, name: &AccountName) -> Option<&Settings> {
        self.account.iter().find(|account| account.name == *name).map(|account| &account.budget)
    }

    /// What calls of tools cost.
    pub fn tools(&self) -> Rules {
        Rules::new(self.tool.clone()).unwrap_or_default()
    }

    /// Which cgroups are tasks.
    pub fn rules(&self) -> label::Rules {
        label::Rules::new(&self.rule).unwrap_or_default()
    }

    /// What of another configuration only a restart can bring about, by the names of the keys.
    pub fn needs_restart(&self, other: &Self) -> Vec<&'static str> {
        [
            ("daemon", self.daemon != other.daemon),
            ("cgroup", self.cgroup != other.cgroup),
            ("kernel", self.kernel != other.kernel),
            ("metrics", self.metrics != other.metrics),
            ("webhook", self.webhook != other.webhook),
        ]
        .into_iter()
        .filter_map(|(key, differs)| differs.then_some(key))
        .collect()
    }

    pub fn state_dir(&self) -> &Path {
        self.daemon.state_dir.as_deref().unwrap_or(Path::new(STATE_DIR))
    }

    /// Where maps and programs outlive the daemon, if they are to.
    pub fn pin_directory(&self) -> Option<&Path> {
        Some(self.kernel.pin_directory.as_path()).filter(|path| !path.as_os_str().is_empty())
    }

    pub fn socket(&self) -> &Path {
        self.daemon.socket.as_deref().unwrap_or(Path::new(SOCKET))
    }
}

/// Files of `conf.d` beside a configuration.
fn more(path: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let directory = path.parent().unwrap_or(Path::new("")).join(MORE);
    let read = |source| ConfigError::Read { path: directory.clone(), source };
    let entries = match fs::read_dir(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(read)?,
    };
    let mut files =
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>().map_err(read)?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    Ok(files)
}

/// What `later` says goes before; lists of tables grow.
fn merge(earlier: &mut toml::Table, later: toml::Table) {
    use toml::Value::{Array, Table};
    for (key, value) in later {
        match (earlier.get_mut(&key), value) {
            (Some(Table(earlier)), Table(later)) => merge(earlier, later),
            (Some(Array(earlier)), Array(later)) if later.iter().all(toml::Value::is_table) => earlier.extend(later),
            (_, value) => drop(earlier.insert(key, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::Config;

    fn load(directory: &Path) -> Result<Config, String> {
        Config::load(Some(&directory.join("tollgate.toml"))).map_err(|error| error.to_string())
    }

    #[test]
    fn more_files_say_more() {
        let directory = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            fs::write(path, text).expect("a file");
        };
        let rule = |task: &str| format!("[[rule]]\nunit = \"x.service\"\ntask = \"{task}\"\n");
        write(
            "tollgate.toml",
            &format!("[budget]\ntotal = \"1\"\nhour = \"0.5\"\nwarn_percent = [50]\n{}", rule("one")),
        );
        write("conf.d/20.toml", &format!("[budget]\ntotal = \"3\"\n{}", rule("three")));
        write("conf.d/10.toml", &format!("[budget]\ntotal = \"2\"\nwarn_percent = [80]\n{}", rule("two")));
        write("conf.d/not-one.toml.bak", "nonsense");
        let config = load(directory.path()).expect("a configuration");
        let usd = |text: &str| Some(text.parse().expect("money"));
        assert_eq!((config.budget.total, config.budget.hour), (usd("3"), usd("0.5")));
        assert_eq!(config.budget.warn_percent, Some(vec![80]));
        assert_eq!(config.rule.iter().map(|rule| rule.task.as_str()).collect::<Vec<_>>(), ["one", "two", "three"]);
        write("conf.d/15.toml", "\n[budget]\ntotal = 1");
        let error = load(directory.path()).expect_err("an amount without quotes");
        assert!(error.contains("conf.d/15.toml is wrong: line 3: "), "{error}");
    }

    /// What stands in comments in the file of the package can be taken in as it is.
    #[test]
    fn the_packaged_configuration_is_valid_with_and_without_its_comments() {
        const FILE: &str = include_str!("../../packaging/tollgate.toml");
        Config::parse(FILE).expect("the file");
        let is_key = |line: &str| {
            let key = line.split_once(" = ").map(|(key, _)| key);
            line.starts_with("[[")
                || key.is_some_and(|key| key.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_'))
        };
        let taken_in = FILE.lines().map(|line| line.strip_prefix("# ").filter(|line| is_key(line)).unwrap_or(line));
        let text: Vec<&str> = taken_in.collect();
        let config = Config::parse(&text.join("\n")).expect("with every key");
        assert_eq!((config.rule.len(), config.account.len(), config.coverage.hosts.len()), (2, 1, 1));
        assert!(config.metrics.listen.is_some() && config.webhook.len() == 1);
    }

    #[test]
    fn a_named_file_must_be_there() {
        let directory = tempfile::tempdir().expect("a directory");
        assert!(load(directory.path()).expect_err("no file").starts_with("cannot read the configuration"));
    }

    #[test]
    fn what_only_a_restart_changes_is_named() {
        let parse = |text: &str| Config::parse(text).expect(text);
        let now = parse("");
        assert!(now.needs_restart(&parse("[budget]\ntotal = \"1\"\n[[rule]]\nunit = \"a\"\ntask = \"a\"")).is_empty());
        assert_eq!(
            now.needs_restart(&parse("[kernel]\nring_mib = 8\n[daemon]\ntime_zone = \"UTC\"")),
            ["daemon", "kernel"]
        );
    }

    #[test]
    fn every_key_has_a_default() {
        let config = Config::parse("").expect("the defaults");
        assert_eq!(config.budget.budget().expect("a budget").first_hold.to_string(), "0.01");
        assert_eq!(config.kernel.capacity().ring_bytes, 32 << 20);
        assert!(config.price.fallback && config.price.unpriced_ceiling.ceiling().is_some());
        assert_eq!(config.price.overrides.iter().count(), 0);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let wrong = |text: &str| Config::parse(text).expect_err(text);
        assert!(
            wrong("[budget]\nfirst_hodl = \"1\"")
                .starts_with("line 2: unknown field `first_hodl`, expected one of `total`,")
        );
        assert!(wrong("[budget]\nladder = [\"stop@1\"]").starts_with("line 2: `stop@1` is no rung of a ladder"));
        assert!(wrong("[[account]]\nname = \"tenant=\"\nbudget = {}").starts_with("line 2: `` is not a task name"));
        assert!(wrong("[[account]]\nname = \"tenant=a\"\nbudget = { day = \"0\" }").contains("tenant=a: budget.day"));
        assert!(wrong("[daemon]\ntime_zone = \"Mars/Olympus\"").starts_with("daemon.time_zone: "));
        assert!(wrong("[budget]\nfirst_hold = \"1e3\"").starts_with("line 2: `1e3` is not an amount in USD"));
        assert!(wrong("[budget]\nwarn_percent = [0]").contains("budget.warn_percent: a rung at 0 %"));
        assert!(wrong("[budget]\nholds = \"of\"").starts_with("line 2: unknown variant `of`"));
        assert!(wrong("[kernel]\nring_mib = 3").contains("power of two"));
        assert!(wrong("[signals]\nloop = \"stop\"").starts_with("line 2: `stop` is nothing that can be done"));
        assert!(wrong("[signals]\nprompt_repeats = 1").starts_with("signals.prompt_repeats must be from 2"));
        assert!(wrong("[budget.signal]\nburn_usd_per_hour = \"0\"").starts_with("budget.signal.burn_usd_per_hour"));
        assert!(wrong("[kernel]\npin_directory = \"bpf\"").contains("absolute path"));
        assert!(wrong("[budget]\non_daemon_loss = \"go\"").starts_with("line 2: unknown variant `go`"));
        assert!(wrong("[cgroup]\nsubtree = \"../x\"").contains("below the cgroup v2 mount"));
        assert!(wrong("[[tool]]\nname = \"a\"\nhost = \"b\"\nprice = 1").contains("unknown field `price`"));
        assert!(wrong("[[tool]]\nname = \"a\"\nhost = \"b\"\nprice_per_item = \"1\"").contains("`items`"));
        assert!(wrong("[price]\nunpriced_cieling = \"off\"").starts_with("line 2: unknown field `unpriced_cieling`"));
        assert!(wrong("[[price.override]]\nname = \"x\"\npercent = \"x\"").starts_with("line 3: `x` is not a decimal"));
        assert!(wrong("[[rule]]\nunit = \"a\"\ntask = \"{b}\"").starts_with("rule 1: task: nothing captures"));
        assert!(wrong("[metrics]\nlisten = \"0.0.0.0:9464\"").starts_with("line 2: 0.0.0.0:9464 is not a loopback"));
        assert!(wrong("[[webhook]]\nurl = \"http://a\"").starts_with("webhook 1: url must begin with https://"));
        assert!(wrong("nonsense").starts_with("line 1: "));
    }
}
