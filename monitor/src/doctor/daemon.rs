//! Whether a daemon answers, and what it says.

use std::{
    collections::HashSet,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;

use super::{Check, cgroups};
use crate::{
    api::{
        self,
        client::{Client, ClientError},
    },
    config::Config,
};

const NAME: &str = "daemon";
/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the daemon said, or did not.
#[derive(Debug)]
pub enum Answer {
    Said(Box<Value>),
    /// It may run, and does not talk to this user.
    Closed(String),
    Away(String),
}

impl Answer {
    pub async fn of(client: &Client) -> Self {
        let asked = tokio::time::timeout(PATIENCE, client.get::<Value>("/v1/status")).await;
        match asked {
            Ok(Ok(status)) => Self::Said(Box::new(status)),
            Ok(Err(ClientError::Unreachable { source, socket }))
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                Self::Closed(format!("{}: {source}", socket.display()))
            }
            Ok(Err(ClientError::Unreachable { source, socket })) => {
                Self::Away(format!("no daemon answers on {}: {source}", socket.display()))
            }
            Ok(Err(error @ ClientError::Refused(_))) => Self::Closed(error.to_string()),
            Ok(Err(error)) => Self::Away(error.to_string()),
            Err(_) => Self::Away(format!("the daemon has not answered for {} s", PATIENCE.as_secs())),
        }
    }

    /// Paths of the cgroups of open tasks from the root of the hierarchy, with the names of these.
    pub fn tasks(&self) -> Option<Vec<(PathBuf, String)>> {
        let Self::Said(status) = self else { return None };
        let open = status["tasks"].as_array().into_iter().flatten();
        let open = open.filter(|task| !matches!(task["state"].as_str(), Some("ended" | "stopped")));
        let root = cgroups::root();
        let path = |directory: &str| {
            let below = root.as_ref().and_then(|root| Path::new(directory).strip_prefix(root).ok());
            below.map_or_else(|| directory.into(), |below| Path::new("/").join(below))
        };
        Some(open.filter_map(|task| Some((path(task["cgroup"].as_str()?), task["task"].as_str()?.into()))).collect())
    }
}

pub fn check(answer: &Answer, config: &Config) -> Check {
    match answer {
        Answer::Said(status) => judge(status),
        Answer::Closed(why) => Check::warn(NAME, why, "run `tollgate doctor` as root to ask the daemon"),
        Answer::Away(why) => {
            let left = config.pin_directory().is_some_and(|directory| {
                std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some())
            });
            let left = if left { "; gates that one has left are in force" } else { "; nothing is metered" };
            Check::fail(NAME, format!("{why}{left}"), "start it: `systemctl start tollgate`, or `tollgate daemon`")
        }
    }
}

pub(super) fn judge(status: &Value) -> Check {
    let version = status["daemon"]["version"].as_str().unwrap_or("?");
    let probes = status["probes"].as_array().map_or(0, Vec::len);
    let tasks = status["tasks"].as_array().map_or(0, Vec::len);
    let found = format!("version {version}, {probes} files probed, {tasks} tasks known");
    if status["daemon"]["ready"] == false {
        return Check::warn(NAME, format!("{found}; not ready yet"), "ask again in a moment");
    }
    if version != env!("CARGO_PKG_VERSION") {
        return Check::warn(
            NAME,
            format!("{found}; this program is {}", env!("CARGO_PKG_VERSION")),
            "restart the daemon: a new version takes over without a gap",
        );
    }
    let losses: HashSet<String> = api::losses(status).into_iter().collect();
    if losses.is_empty() {
        return Check::ok(NAME, found);
    }
    let mut losses: Vec<String> = losses.into_iter().collect();
    losses.sort();
    Check::warn(
        NAME,
        format!("{found}; LOSSES: {}", losses.join(", ")),
        "calls that were touched are `floor` or `estimated`; raise `kernel.ring_mib` for lost records (`tollgate status --maps`)",
    )
}
