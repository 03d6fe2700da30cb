//! The daemon's side.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{ConnectInfo, Path as UrlPath, State, connect_info::Connected},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::IncomingStream,
};
use tokio::net::UnixListener;

use super::{
    GiveOrder, Problem, RemoveLabel, SetLabel, StartTask,
    rights::{Refusal, Rights, Who},
};
use crate::{
    enforce::{CgroupError, Hierarchy},
    engine::{
        AccountStatus, Asker, Command, CommandError, Handle, Joined, LabelStatus, Order, Past, Start, Started, Status,
    },
    ledger::{IncidentRow, Ledger, LedgerError, NotKept, Reader},
    metrics::{self, Source},
    probe::Fullness,
    report::{ProcessTotal, Report},
    task::{AccountName, TaskId},
};

/// A socket that is bound but not served yet.
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("another daemon listens on {0}: stop it first, or give this one its own --socket and --state-dir")]
    InUse(PathBuf),
    #[error("cannot listen on {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

/// Whom the socket asks.
#[derive(Clone)]
pub struct App {
    pub engine: Handle,
    pub ledger: Ledger,
    pub ledger_path: PathBuf,
    pub metrics: Source,
    pub hierarchy: Hierarchy,
    pub rights: Rights,
}

/// Who is at the other end.
#[derive(Clone, Debug)]
struct Peer {
    asker: Asker,
    uid: Option<u32>,
}

impl Peer {
    /// Who it is, for the audit log.
    fn describe(&self) -> String {
        let executable = fs::read_link(format!("/proc/{}/exe", self.asker.pid));
        let executable = executable.map_or_else(|_| "?".into(), |path| path.display().to_string());
        let uid = self.uid.map_or_else(|| "?".to_owned(), |uid| uid.to_string());
        // Who logged in, also behind `sudo` (proc_pid_loginuid(5)); 2³²−1 is nobody.
        let login = fs::read_to_string(format!("/proc/{}/loginuid", self.asker.pid)).unwrap_or_default();
        let login = match login.trim() {
            "" | "4294967295" => String::new(),
            login => format!(", logged in as {login}"),
        };
        format!("uid {uid}{login}, process {} ({executable})", self.asker.pid)
    }
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        let credentials = stream.io().peer_cred().ok();
        let uid = credentials.map(|credentials| credentials.uid());
        let pid = credentials.and_then(|credentials| credentials.pid()).and_then(|pid| u32::try_from(pid).ok());
        Self { asker: Asker::of(stream.io(), pid.unwrap_or(0)), uid }
    }
}

/// Binds the socket. One that a daemon left behind when it was killed is replaced.
///
/// # Errors
/// When a daemon listens there already, or the path cannot be used.
pub fn listen(path: &Path) -> Result<Server, ListenError> {
    let error = |source| ListenError::Io { path: path.into(), source };
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(ListenError::InUse(path.into()));
    }
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(error)?;
    }
    match fs::remove_file(path) {
        Err(gone) if gone.kind() == io::ErrorKind::NotFound => {}
        other => other.map_err(error)?,
    }
    let listener = UnixListener::bind(path).map_err(error)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(error)?;
    Ok(Server { listener, path: path.into() })
}

impl Server {
    /// Serves until `until` is done.
    ///
    /// # Errors
    /// When the socket breaks.
    pub async fn serve(self, app: App, until: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
        let router = Router::new()
            .route("/v1/status", get(status))
            .route("/v1/maps", get(maps_of))
            .route("/metrics", get(scrape))
            .route("/v1/tasks", post(start))
            .route("/v1/orders", post(order))
            .route("/v1/incidents", get(incidents))
            .route("/v1/labels", get(labels).post(label))
            .route("/v1/labels/remove", post(unlabel))
            .route("/v1/tasks/{task}/join", post(join))
            .route("/v1/tasks/{task}/wait", get(wait))
            .route("/v1/tasks/{task}/report", get(report))
            .route("/v1/tasks/{task}/processes", get(processes))
            .with_state(app);
        let service = router.into_make_service_with_connect_info::<Peer>();
        let served = axum::serve(self.listener, service).with_graceful_shutdown(until).await;
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!("could not remove {}: {error}", self.path.display());
        }
        served
    }
}

enum ApiError {
    Refused(Refusal),
    UnknownTask(TaskId),
    Command(CommandError),
    Ledger(LedgerError),
    Kernel(io::Error),
    Cgroup(CgroupError),
    NotKept(NotKept),
    Gone,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, kind, error) = match self {
            Self::Refused(refusal) => (StatusCode::FORBIDDEN, "forbidden", refusal.to_string()),
            Self::UnknownTask(task) => (
                StatusCode::NOT_FOUND,
                "unknown-task",
                format!("there is no task {task}; `tollgate status` lists those that run"),
            ),
            Self::Command(error @ (CommandError::Inside(_) | CommandError::Others(_) | CommandError::Nobody)) => {
                (StatusCode::FORBIDDEN, "forbidden", error.to_string())
            }
            Self::Cgroup(error) => (StatusCode::NOT_FOUND, "unknown-cgroup", error.to_string()),
            Self::Command(error @ (CommandError::NoCgroup(_) | CommandError::NoLabel(_))) => {
                (StatusCode::NOT_FOUND, "unknown-cgroup", error.to_string())
            }
            Self::Command(error @ CommandError::ByRule { .. }) => (StatusCode::CONFLICT, "failed", error.to_string()),
            Self::Command(error @ (CommandError::NoTask(_) | CommandError::NoAccount(_))) => {
                (StatusCode::NOT_FOUND, "unknown-task", error.to_string())
            }
            Self::Command(error @ CommandError::Exhausted { .. }) => {
                (StatusCode::CONFLICT, "exhausted", error.to_string())
            }
            Self::Command(
                error @ (CommandError::Stopping(_)
                | CommandError::Full(_)
                | CommandError::Killed(_)
                | CommandError::OtherLabels { .. }),
            ) => (StatusCode::CONFLICT, "failed", error.to_string()),
            Self::Command(error @ CommandError::Budget(_)) => (StatusCode::BAD_REQUEST, "failed", error.to_string()),
            Self::Command(error) => (StatusCode::INTERNAL_SERVER_ERROR, "failed", error.to_string()),
            Self::Ledger(error) => (StatusCode::INTERNAL_SERVER_ERROR, "failed", error.to_string()),
            Self::Kernel(error) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "failed",
                format!("the kernel does not tell how full its maps are: {error}"),
            ),
            Self::NotKept(error) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "failed",
                format!("{error}; an order is in force all the same, and no task is started"),
            ),
            Self::Gone => (StatusCode::SERVICE_UNAVAILABLE, "failed", "the daemon is shutting down".to_owned()),
        };
        (status, Json(Problem { error, kind: kind.to_owned() })).into_response()
    }
}

/// How often a task that somebody waits for is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

type Answer<T> = Result<Json<T>, ApiError>;

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Who asks, as far as it may ask anything.
async fn who(app: &App, peer: &Peer) -> Result<Who, ApiError> {
    let (rights, uid) = (app.rights.clone(), peer.uid);
    let found = tokio::task::spawn_blocking(move || rights.who(uid)).await;
    Ok(found.map_err(|_| ApiError::Gone)??)
}

/// For what only an administrator may.
async fn administrator(app: &App, peer: Peer) -> Result<Asker, ApiError> {
    who(app, &peer).await?.administrator()?;
    Ok(peer.asker)
}

/// For what only an administrator sees who is in no task.
async fn administrator_outside(app: &App, peer: Peer) -> Result<(), ApiError> {
    let sight = Sight::of(app, &peer).await?;
    administrator(app, peer).await?;
    sight.require(None)
}

/// For what the owner of a task may, too. To others, it is not there.
async fn owner(app: &App, peer: &Peer, task: &TaskId) -> Result<Who, ApiError> {
    let who = who(app, peer).await?;
    if matches!(who, Who::User { .. }) {
        settle(app).await;
        let wanted = task.clone();
        let row = read(app, move |ledger| ledger.task(wanted.as_str())).await?;
        if !row.is_some_and(|row| who.owns(&row.labels)) {
            return Err(ApiError::UnknownTask(task.clone()));
        }
    }
    Ok(who)
}

/// What is shown is found again after a crash. While the ledger cannot be written it would not be: alerts say so, and it is shown all the same.
async fn settle(app: &App) {
    if let Err(error) = app.ledger.flushed().await {
        tracing::debug!("shown before it is kept: {error}");
    }
}

/// Whether somebody reads everything, or only of the task that he is inside of.
#[derive(Debug)]
struct Sight(Option<TaskId>);

impl Sight {
    async fn of(app: &App, peer: &Peer) -> Result<Self, ApiError> {
        let peer = peer.asker.clone();
        let inside = app.engine.ask(|reply| Command::Inside { peer, reply }).await.ok_or(ApiError::Gone)?;
        inside.map(Self).map_err(ApiError::Command)
    }

    fn sees(&self, task: &str) -> bool {
        self.0.as_ref().is_none_or(|own| own.as_str() == task)
    }

    /// What is of no single task, or of this one.
    fn require(self, task: Option<&TaskId>) -> Result<(), ApiError> {
        match self.0 {
            Some(own) if task != Some(&own) => Err(ApiError::Command(CommandError::Others(own))),
            _ => Ok(()),
        }
    }
}

/// To somebody inside a task only that one is shown.
async fn status(State(app): State<App>, ConnectInfo(peer): ConnectInfo<Peer>) -> Answer<Status> {
    let sight = Sight::of(&app, &peer).await?;
    let who = who(&app, &peer).await?;
    let mut status = app.engine.ask(|reply| Command::Status { reply }).await.ok_or(ApiError::Gone)?;
    status.tasks.retain(|task| who.owns(&task.labels) && sight.sees(task.task.as_str()));
    status.accounts.retain(|account| who.sees(&account.account));
    settle(&app).await;
    if sight.0.is_some() {
        (status.accounts, status.probes) = (Vec::new(), Vec::new());
        status.latencies.clear();
    }
    Ok(Json(status))
}

/// How full the kernel's maps are.
async fn maps_of(State(app): State<App>, ConnectInfo(peer): ConnectInfo<Peer>) -> Answer<Vec<Fullness>> {
    administrator_outside(&app, peer).await?;
    app.metrics.fullness().await.map(Json).map_err(ApiError::Kernel)
}

/// Numbers for machines that watch, in the text format of Prometheus.
async fn scrape(State(app): State<App>, ConnectInfo(peer): ConnectInfo<Peer>) -> Result<Response, ApiError> {
    administrator_outside(&app, peer).await?;
    let text = app.metrics.now().await.ok_or(ApiError::Gone)?;
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

async fn start(
    State(app): State<App>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(body): Json<StartTask>,
) -> Answer<Started> {
    let who = who(&app, &peer).await?;
    let StartTask { task, mut labels, budget, cgroup } = body;
    app.rights.start(&who, &mut labels, &budget)?;
    if let Some(path) = &cgroup {
        who.may_use(&app.hierarchy.directory(path), path)?;
    }
    // What it has spent before is read from there.
    app.ledger.flushed().await.map_err(ApiError::NotKept)?;
    let name = task.clone();
    if let Some(row) = read(&app, move |ledger| ledger.task(name.as_str())).await?
        && !who.owns(&row.labels)
    {
        return Err(ApiError::Command(CommandError::Failed(format!("task {task} is not yours: use another name"))));
    }
    let peer = peer.asker;
    let (known, names) = (task.clone(), labels.above());
    let past = move |ledger: &Reader| {
        let above = names.into_iter().filter(|name| !matches!(name, AccountName::Task(_))).map(|account| {
            let (charges, orders) = (ledger.charges_of(&account)?, ledger.orders(&account)?);
            let (tasks, trouble) = (ledger.task_costs(&account)?, ledger.standing_trouble(&account)?);
            Ok(Past { account, charges, orders, tasks, trouble })
        });
        Ok((ledger.charges(known.as_str())?, above.collect::<Result<Vec<_>, LedgerError>>()?))
    };
    let (charges, above) = read(&app, past).await?;
    let start = Box::new(Start { task, labels, budget, cgroup, charges, above });
    let started = app.engine.ask(|reply| Command::Start { peer, start, reply }).await.ok_or(ApiError::Gone)?;
    started.map(Json).map_err(ApiError::Command)
}

/// A person decides. Answers once that is in the ledger.
async fn order(
    State(app): State<App>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(GiveOrder { account, order }): Json<GiveOrder>,
) -> Answer<AccountStatus> {
    match (&account, &order) {
        (AccountName::Task(task), Order::Pause | Order::Kill) => drop(owner(&app, &peer, task).await?),
        _ => who(&app, &peer).await?.administrator()?,
    }
    let (actor, order) = (peer.describe(), Box::new(order));
    let peer = peer.asker;
    let ordered =
        app.engine.ask(|reply| Command::Order { peer, actor, account, order, reply }).await.ok_or(ApiError::Gone)?;
    kept(&app, ordered).await
}

/// Trouble that was seen, oldest first.
async fn incidents(State(app): State<App>, ConnectInfo(peer): ConnectInfo<Peer>) -> Answer<Vec<IncidentRow>> {
    let sight = Sight::of(&app, &peer).await?;
    administrator(&app, peer).await?;
    settle(&app).await;
    let mut incidents = read(&app, |ledger| ledger.incidents(None)).await?;
    incidents.retain(|incident| sight.sees(&incident.account));
    Ok(Json(incidents))
}

async fn labels(State(app): State<App>, ConnectInfo(peer): ConnectInfo<Peer>) -> Answer<Vec<LabelStatus>> {
    let sight = Sight::of(&app, &peer).await?;
    administrator(&app, peer).await?;
    let mut labels = app.engine.ask(|reply| Command::Labels { reply }).await.ok_or(ApiError::Gone)?;
    labels.retain(|label| sight.sees(label.task.as_str()));
    Ok(Json(labels))
}

async fn label(
    State(app): State<App>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(SetLabel { cgroup, said }): Json<SetLabel>,
) -> Answer<LabelStatus> {
    let actor = peer.describe();
    let peer = administrator(&app, peer).await?;
    let cgroup = find(&app, cgroup).await?;
    let said = Box::new(said);
    let labelled =
        app.engine.ask(|reply| Command::Label { peer, actor, cgroup, said, reply }).await.ok_or(ApiError::Gone)?;
    kept(&app, labelled).await
}

async fn unlabel(
    State(app): State<App>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(RemoveLabel { cgroup }): Json<RemoveLabel>,
) -> Answer<LabelStatus> {
    let actor = peer.describe();
    let peer = administrator(&app, peer).await?;
    let cgroup = find(&app, cgroup).await?;
    let unlabelled =
        app.engine.ask(|reply| Command::Unlabel { peer, actor, cgroup, reply }).await.ok_or(ApiError::Gone)?;
    kept(&app, unlabelled).await
}

/// The answer to an order, once that is in the ledger.
async fn kept<T>(app: &App, done: Result<T, CommandError>) -> Answer<T> {
    let done = done.map_err(ApiError::Command)?;
    app.ledger.flushed().await.map_err(ApiError::NotKept)?;
    Ok(Json(done))
}

/// The path of the cgroup that is meant.
async fn find(app: &App, named: String) -> Result<String, ApiError> {
    let hierarchy = app.hierarchy.clone();
    let found = tokio::task::spawn_blocking(move || hierarchy.find(&named)).await;
    found.map_err(|_| ApiError::Gone)?.map_err(ApiError::Cgroup)
}

/// Answers when the task is over. Meanwhile the connection tells whoever waits that the daemon lives.
async fn wait(
    State(app): State<App>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    UrlPath(task): UrlPath<TaskId>,
) -> Answer<TaskId> {
    Sight::of(&app, &peer).await?.require(Some(&task))?;
    owner(&app, &peer, &task).await?;
    loop {
        let asked = task.clone();
        let live = app.engine.ask(|reply| Command::Task { task: asked, reply }).await.ok_or(ApiError::Gone)?;
        if live.is_none_or(|live| matches!(live.state, "stopped" | "ended")) {
            return Ok(Json(task));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn join(
    State(app): State<App>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    UrlPath(task): UrlPath<TaskId>,
) -> Answer<Joined> {
    owner(&app, &peer, &task).await?;
    let peer = peer.asker;
    let joined = app.engine.ask(|reply| Command::Join { peer, task, reply }).await.ok_or(ApiError::Gone)?;
    joined.map(Json).map_err(ApiError::Command)
}

async fn report(
    State(app): State<App>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    UrlPath(task): UrlPath<TaskId>,
) -> Answer<Report> {
    Sight::of(&app, &peer).await?.require(Some(&task))?;
    owner(&app, &peer, &task).await?;
    let asked = task.clone();
    let live = app.engine.ask(|reply| Command::Task { task: asked, reply }).await.ok_or(ApiError::Gone)?;
    settle(&app).await;
    let wanted = task.clone();
    let report = read(&app, move |ledger| Report::new(ledger, &wanted, live.as_ref())).await?;
    report.map(Json).ok_or(ApiError::UnknownTask(task))
}

/// Processes of a task with what they spent: of a report, what is cheap to ask for again and again.
async fn processes(
    State(app): State<App>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    UrlPath(task): UrlPath<TaskId>,
) -> Answer<Vec<ProcessTotal>> {
    Sight::of(&app, &peer).await?.require(Some(&task))?;
    owner(&app, &peer, &task).await?;
    read(&app, move |ledger| ProcessTotal::all(ledger, &task)).await.map(Json)
}

/// Reads the ledger on a thread where waiting for the disk holds nobody up.
async fn read<T: Send + 'static>(
    app: &App,
    read: impl FnOnce(&Reader) -> Result<T, LedgerError> + Send + 'static,
) -> Result<T, ApiError> {
    let path = app.ledger_path.clone();
    let result = tokio::task::spawn_blocking(move || Reader::open(&path).and_then(|ledger| read(&ledger))).await;
    result.map_err(|_| ApiError::Gone)?.map_err(ApiError::Ledger)
}
