//! The engine's thread.

use std::{
    collections::HashSet,
    io,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use super::{
    clock::Clock,
    command::{Command, CounterStatus, DaemonStatus, Status},
    effects::Effect,
    state::Engine,
    trouble::Watcher,
};
use crate::{
    alert::Alerts,
    budget::{Accounts, MoneyLimits, Signals},
    config::Config,
    coverage::Coverage,
    enforce::{Gates, Hierarchy},
    ledger::{Ledger, LedgerError, Reader},
    meter::Key,
    price::PriceBook,
    probe::{Copied, Looked, Memberships, Probes, Readers, Ring, Traffic},
};

/// What the engine is made of.
pub struct Parts {
    pub probes: Probes,
    pub ring: Ring,
    pub memberships: Memberships,
    pub gates: Gates,
    pub traffic: Traffic,
    pub hierarchy: Hierarchy,
    pub ledger: Ledger,
    pub alerts: Alerts,
    pub prices: &'static PriceBook,
    pub looked: mpsc::UnboundedReceiver<Looked>,
    /// For fingerprints.
    pub key: Key,
}

/// Records that are dealt with before anything else gets its turn.
const BATCH: usize = 4096;
const SWEEP: Duration = Duration::from_millis(50);
/// How soon to look whether a process whose first thread ended is gone.
const LEAVING: Duration = Duration::from_millis(2);
/// After this it is left to the sweep.
const LEAVING_SOON: Duration = Duration::from_millis(100);
/// How long to wait before a process that is being stopped is looked at again.
const STOPPING: Duration = Duration::from_micros(100);

/// Takes up what the ledger knows and starts the thread.
///
/// # Errors
/// When the ledger cannot be read, or the thread cannot be started.
pub fn start(
    parts: Parts,
    config: &Config,
    ledger: &Reader,
    commands: mpsc::UnboundedReceiver<Command>,
) -> Result<JoinHandle<()>, StartError> {
    let (effects, done) = mpsc::unbounded_channel();
    let (copies, copied) = mpsc::unbounded_channel();
    let Parts { probes, mut ring, memberships, gates, traffic, hierarchy, ledger: writer, alerts, prices, looked, key } =
        parts;
    let mut engine = Engine {
        probes,
        memberships,
        gates,
        traffic,
        bereaved: HashSet::new(),
        coverage: Coverage::new(config.coverage_settings()),
        unread: Default::default(),
        hierarchy,
        ledger: writer,
        alerts,
        prices,
        tools: config.tools().into(),
        budget: config.budget.clone(),
        configured: config.account.iter().map(|account| (account.name.clone(), account.budget.clone())).collect(),
        users: config.users.budget.clone(),
        rules: config.rules(),
        unlabelled: Vec::new(),
        ledger_path: config.state_dir().join("ledger.db"),
        accounts: Accounts::new(config.zone().map_err(StartError::Zone)?, Timestamp::now()),
        watcher: Watcher {
            signals: Signals::new(config.signals.rules(&MoneyLimits::default())),
            defaults: config.signals.clone(),
            key,
        },
        settings: Default::default(),
        above: Default::default(),
        clock: Clock::now(),
        started: Instant::now(),
        tasks: Default::default(),
        slots: Default::default(),
        by_account: Default::default(),
        connections: Default::default(),
        held: Default::default(),
        reading: Default::default(),
        readers: Readers::new(copies),
        straddling: Vec::new(),
        is_recovering: false,
        leaving: Vec::new(),
        touched: Default::default(),
        next_id: 0,
        effects,
        latencies: Default::default(),
        lag: Default::default(),
        tally: Default::default(),
        deciding: 0,
        reported_losses: 0,
        ledger_failed: false,
        reconciled: Instant::now(),
    };
    engine.recover(ledger)?;
    engine.label_all();
    engine.probes.activate();
    engine.catch_up(&mut ring);
    balance(&mut engine);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let thread = thread::Builder::new().name("engine".into()).spawn(move || {
        if let Err(error) = runtime.block_on(run(engine, ring, commands, done, looked, copied)) {
            tracing::error!("the engine stopped: {error}");
        }
    })?;
    Ok(thread)
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("{0}")]
    Zone(String),
    #[error("cannot start the engine: {0}")]
    Io(#[from] io::Error),
}

async fn run(
    mut engine: Engine,
    mut ring: Ring,
    mut commands: mpsc::UnboundedReceiver<Command>,
    mut done: mpsc::UnboundedReceiver<Effect>,
    mut looked: mpsc::UnboundedReceiver<Looked>,
    mut copied: mpsc::UnboundedReceiver<Copied>,
) -> io::Result<()> {
    let readable = ring.watch()?;
    let mut sweep = interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_urgent = false;
    loop {
        tokio::select! {
            biased;
            () = tokio::time::sleep(STOPPING), if is_urgent => {}
            () = tokio::time::sleep(LEAVING), if engine.leaving.iter().any(|leaving| leaving.since.elapsed() < LEAVING_SOON) => {
                drain(&mut engine, &mut ring);
                engine.sweep_leaving();
            }
            guard = readable.readable() => guard?.clear_ready(),
            Some(command) = commands.recv() => {
                // What happened before the question belongs into the answer.
                drain(&mut engine, &mut ring);
                if on_command(&mut engine, command) {
                    engine.say_unsaid_refusals(true);
                    engine.say_unsaid_connections(true);
                    engine.leave();
                    return Ok(());
                }
            }
            Some(looked) = looked.recv() => engine.on_looked(looked),
            Some(copied) = copied.recv() => engine.on_copied(copied),
            Some(effect) = done.recv() => {
                drain(&mut engine, &mut ring);
                engine.decide_now();
                engine.on_effect(effect);
            }
            _ = sweep.tick() => {
                drain(&mut engine, &mut ring);
                engine.clock = Clock::now();
                engine.decide_now();
                engine.accounts.tick(Timestamp::now());
                engine.sweep();
                engine.sweep_reading();
                engine.sweep_coverage();
            }
        }
        drain(&mut engine, &mut ring);
        is_urgent = engine.answer_held();
        balance(&mut engine);
    }
}

fn drain(engine: &mut Engine, ring: &mut Ring) {
    loop {
        let mut is_oldest = true;
        let drained = ring.drain(BATCH, |event, time| {
            if std::mem::take(&mut is_oldest) {
                engine.waited(time);
            }
            engine.on_event(&event, time);
        });
        if drained < BATCH {
            break;
        }
        balance(engine);
    }
    balance(engine);
}

fn balance(engine: &mut Engine) {
    engine.act_on_decisions();
    for slot in std::mem::take(&mut engine.touched) {
        engine.balance(slot);
    }
}

/// Says whether the engine should end.
fn on_command(engine: &mut Engine, command: Command) -> bool {
    engine.decide_now();
    // An answer that nobody waits for any more is no fault.
    match command {
        Command::Start { peer, start, reply } => drop(reply.send(engine.start_task(&peer, *start))),
        Command::Order { peer, actor, account, order, reply } => {
            drop(reply.send(engine.order(&peer, &actor, &account, *order)));
        }
        Command::Join { peer, task, reply } => drop(reply.send(engine.join_task(&peer, &task))),
        Command::Status { reply } => drop(reply.send(status(engine))),
        Command::Task { task, reply } => {
            let task = engine.slots.get(&task).and_then(|slot| engine.tasks.get(slot));
            drop(reply.send(task.map(|task| engine.task_status(task))));
        }
        Command::Label { peer, actor, cgroup, said, reply } => {
            drop(reply.send(engine.label(&peer, &actor, &cgroup, &said)));
        }
        Command::Unlabel { peer, actor, cgroup, reply } => drop(reply.send(engine.unlabel(&peer, &actor, &cgroup))),
        Command::Inside { peer, reply } => drop(reply.send(engine.inside(&peer))),
        Command::Labels { reply } => drop(reply.send(engine.labels())),
        Command::Configure { config, reply } => {
            engine.configure(&config);
            // Who asked may be gone.
            reply.send(()).ok();
        }
        Command::Metrics { reply } => drop(reply.send(engine.metrics())),
        Command::Ping { reply } => {
            reply.send(()).ok();
        }
        Command::Shutdown => return true,
    }
    false
}

fn status(engine: &Engine) -> Status {
    let mut tasks: Vec<_> = engine.tasks.values().map(|task| engine.task_status(task)).collect();
    tasks.sort_by(|a, b| a.task.cmp(&b.task));
    let mut accounts: Vec<_> = engine.above.values().filter_map(|account| engine.account_status(*account)).collect();
    accounts.sort_by(|a, b| a.account.cmp(&b.account));
    Status {
        daemon: DaemonStatus {
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            ready: true,
            uptime_s: engine.started.elapsed().as_secs(),
            catalogue: engine.prices.version(),
        },
        tasks,
        accounts,
        latencies: engine.latencies.summaries(),
        probes: engine.probes.attached().to_vec(),
        counters: CounterStatus {
            kernel: engine.probes.counters(),
            processes: engine.memberships.all().len() as u64,
            connections: engine.connections.len() as u64,
            holds: engine.accounts.holds_open() as u64,
        },
    }
}
