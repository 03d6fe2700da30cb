//! `tollgate daemon`.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context as _, Result};
use nix::fcntl::{Flock, FlockArg};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::{
    exit::{AlreadyRunning, NotAllowed},
    service,
};
use crate::{
    alert::{
        Alerts,
        webhook::{self, Webhooks},
    },
    api::{self, App, Rights},
    books::{Shelf, Tables},
    config::{Config, ConfigError},
    enforce::{Gates, Hierarchy},
    engine::{self, Handle, Parts},
    ledger::{Ledger, Reader},
    meter::{self, Key},
    metrics::{Listener, Source},
    price::PriceBook,
    probe::{self, Loaded, Setup},
};

/// Run the daemon that meters and stops tasks
///
/// Stays in the foreground; needs root. Says `ready` on stderr (and to systemd, if it was started by it) when all probes are attached.
/// Decisions are written to the journal as structured fields, or as JSON lines on stderr where there is no journal.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Configuration file [default: /etc/tollgate/tollgate.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of the ledger [default: /var/lib/tollgate]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Socket to listen on [default: /run/tollgate/tollgate.sock]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Directory on a bpffs where maps and programs outlive the daemon [default: /sys/fs/bpf/tollgate]
    #[arg(long, value_name = "DIR")]
    pin_dir: Option<PathBuf>,
    /// Pin nothing: gates and probes go with the daemon, however it ends
    #[arg(long, conflicts_with = "pin_dir")]
    no_pins: bool,
    /// Take everything away when the daemon is told to end; tasks go on unmetered
    #[arg(long)]
    unpin_on_exit: bool,
    /// Check the configuration and exit
    #[arg(long)]
    check: bool,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let filter = EnvFilter::try_from_env("TOLLGATE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();
    let config = args.load()?;
    webhook::check_files(&config.webhook)?;
    if args.check {
        println!("the configuration is valid");
        return Ok(ExitCode::SUCCESS);
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(NotAllowed("the daemon must be run as root: eBPF probes and cgroups need it".into()).into());
    }
    let _lock = lock(config.state_dir())?;
    let unpins = config.pin_directory().map(PathBuf::from).filter(|_| args.unpin_on_exit);
    let code = serve(args, config)?;
    if let Some(directory) = unpins {
        println!("{}", super::unpin::unpin(&directory)?);
    }
    Ok(code)
}

impl Args {
    /// The configuration as it holds for this daemon.
    ///
    /// # Errors
    /// When it is wrong.
    pub fn load(&self) -> Result<Config, ConfigError> {
        let mut config = Config::load(self.config.as_deref())?;
        self.override_in(&mut config);
        Ok(config)
    }

    fn override_in(&self, config: &mut Config) {
        config.daemon.state_dir = self.state_dir.clone().or(config.daemon.state_dir.take());
        config.daemon.socket = self.socket.clone().or(config.daemon.socket.take());
        if let Some(directory) = &self.pin_dir {
            config.kernel.pin_directory.clone_from(directory);
        }
        if self.no_pins {
            config.kernel.pin_directory = PathBuf::new();
        }
    }
}

/// One daemon per state directory; the lock goes with the process, however it ends.
fn lock(state_dir: &Path) -> Result<Flock<fs::File>> {
    fs::create_dir_all(state_dir)
        .with_context(|| format!("cannot create the state directory {}", state_dir.display()))?;
    fs::set_permissions(state_dir, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    let path = state_dir.join("lock");
    let file = fs::File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|_| AlreadyRunning(state_dir.display().to_string()).into())
}

/// What fingerprints are made with: of this state directory alone, so that nobody else can tell what they are of.
fn key(state_dir: &Path) -> Result<Key> {
    let path = state_dir.join("fingerprints.key");
    if let Ok(bytes) = fs::read(&path)
        && let Ok(bytes) = bytes.try_into()
    {
        return Ok(Key::new(bytes));
    }
    let mut bytes = [0; 16];
    fs::File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .context("cannot read /dev/urandom")?;
    let written = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
    written.and_then(|mut file| file.write_all(&bytes)).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(Key::new(bytes))
}

/// The price tables in use, which are said.
fn prices(config: &Config) -> &'static PriceBook {
    let tables = Tables::of(config.state_dir());
    for unused in &tables.unused {
        tracing::warn!("prices: {unused}");
    }
    if let Err(error) = Shelf::new(config.state_dir()).keep(&config.price.overrides) {
        tracing::warn!("prices: {error}: charges by these overrides cannot be explained later");
    }
    let prices = tables.book(&config.price);
    for idle in prices.idle_overrides() {
        let (name, provider) = (idle.name(), idle.provider().unwrap_or_default());
        tracing::warn!("prices: override {name} never holds: no table has the provider {provider}");
    }
    let installed = tables.installed.iter().map(|table| format!("; installed: {table}")).collect::<String>();
    tracing::info!("prices: {}{installed}; {} overrides", prices.version(), prices.overrides.iter().count());
    prices
}

fn serve(args: &Args, config: Config) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        // Before anything takes time: a signal meanwhile is for this daemon, not for what it does by default.
        let reload = signal(SignalKind::hangup())?;
        let server = api::listen(config.socket())?;
        let rights = Rights::new(config.socket());
        rights.set(config.users.clone()).context("cannot set who may use the socket")?;
        let scraped = match config.metrics.listen {
            Some(address) => Some(Listener::bind(address).await?),
            None => None,
        };
        let hierarchy = Hierarchy::open(&config.cgroup.subtree)?;
        let Loaded { probes, maps, ring, memberships, gates, traffic, looked, said } = probe::load(&Setup {
            capacity: config.kernel.capacity(),
            state_dir: config.state_dir(),
            pins: config.pin_directory(),
            root: &hierarchy.root()?,
            members: &|| hierarchy.processes(),
        })?;
        for word in said {
            tracing::info!("{word}; what it does there is not metered");
        }
        let attached = probes.attached().len();
        let ledger_path = config.state_dir().join("ledger.db");
        let ledger = Ledger::open(&ledger_path)?;
        let reader = Reader::open(&ledger_path)?;
        let alerts = Alerts::start(&ledger)?;
        let webhooks = Webhooks::start(&config.webhook, &ledger, &ledger_path, &alerts)?;
        let parts = Parts {
            probes,
            ring,
            memberships,
            gates: Gates::new(gates)?,
            traffic,
            hierarchy: hierarchy.clone(),
            ledger: ledger.clone(),
            alerts: alerts.clone(),
            looked,
            key: key(config.state_dir())?,
            prices: prices(&config),
        };
        let (handle, commands) = Handle::new();
        let engine = engine::start(parts, &config, &reader, commands)?;
        // Takes a moment, and the first estimate should not wait for it.
        std::thread::spawn(meter::load_vocabularies);

        let metrics = Source::new(handle.clone(), ledger.clone(), alerts, webhooks, maps);
        if let Some(listener) = scraped {
            tokio::spawn(listener.serve(metrics.clone()));
        }
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let ending = handle.clone();
        let until = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            // First, so that whoever waits for a task hears that this daemon will not see its end.
            ending.shutdown();
        };
        // Whoever takes all memory should not have its meter ended for it.
        if let Err(error) = fs::write("/proc/self/oom_score_adj", "-900") {
            tracing::info!("the kernel may end this daemon when memory is short: {error}");
        }
        tracing::info!("ready: {attached} files with TLS probed, listening on {}", config.socket().display());
        service::ready();
        tokio::spawn(service::watchdog(handle.clone()));
        tokio::spawn(service::reload(reload, args.clone(), config, handle.clone(), rights.clone()));
        let app = App { engine: handle, ledger: ledger.clone(), ledger_path, metrics, hierarchy, rights };
        server.serve(app, until).await?;
        service::stopping();
        tokio::task::spawn_blocking(|| engine.join()).await?.ok();
        if let Err(error) = ledger.flushed().await {
            tracing::error!("{error}: this daemon ends, and what is not written by now is lost");
        }
        Ok(ExitCode::SUCCESS)
    })
}
