//! Asks the daemon, on a thread of its own: one that is slow or gone must not make the keys wait.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError, Sender},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::model::Snapshot;
use crate::{
    api::{
        self, GiveOrder,
        client::{Client, ClientError},
    },
    engine::AccountStatus,
    report::ProcessTotal,
    task::TaskId,
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the screen wants.
#[derive(Debug)]
pub enum Ask {
    /// The processes of that task, from now on.
    Look(Option<TaskId>),
    Order(GiveOrder),
}

/// What it gets.
#[derive(Debug)]
pub enum Heard {
    Seen(Box<Snapshot>),
    Processes(TaskId, Vec<ProcessTotal>),
    Ordered(Box<AccountStatus>),
    /// In words.
    Refused(String),
    Away(String),
}

/// What the daemon is doing.
///
/// # Errors
/// When it does not say.
pub async fn look(client: &Client, limit: Option<Duration>) -> Result<Snapshot, ClientError> {
    let status: Value = within(limit.unwrap_or(PATIENCE), client.get("/v1/status")).await?;
    let losses = api::losses(&status);
    let snapshot: Snapshot =
        serde_json::from_value(status).map_err(|error| ClientError::Protocol(error.to_string()))?;
    Ok(Snapshot { losses, ..snapshot })
}

/// The processes of a task.
///
/// # Errors
/// When the daemon does not say.
pub async fn processes(client: &Client, task: &TaskId) -> Result<(TaskId, Vec<ProcessTotal>), ClientError> {
    // A task's name can hold no character that means something in a path but `+`, `:` and `@`, which mean themselves.
    let processes = within(PATIENCE, client.get(&format!("/v1/tasks/{task}/processes"))).await?;
    Ok((task.clone(), processes))
}

async fn within<T>(limit: Duration, answer: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
    let late = |_| ClientError::Protocol(format!("it takes longer than {} s", limit.as_secs()));
    tokio::time::timeout(limit, answer).await.map_err(late)?
}

/// Asks every `interval`, and when there is something to ask, until the screen is gone.
pub async fn keep(client: &Client, interval: Duration, asks: &Receiver<Ask>, heard: &Sender<Heard>) {
    let mut selected = None;
    let mut next = Instant::now();
    loop {
        match asks.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(Ask::Look(task)) => {
                selected = task;
                if !send_processes(client, selected.as_ref(), heard).await {
                    return;
                }
                continue;
            }
            Ok(Ask::Order(order)) => {
                let answer = match within(PATIENCE, client.post("/v1/orders", &order)).await {
                    Ok(status) => Heard::Ordered(Box::new(status)),
                    Err(error) => Heard::Refused(error.to_string()),
                };
                if heard.send(answer).is_err() {
                    return;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        next = Instant::now() + interval;
        let answer = match look(client, None).await {
            Ok(seen) => Heard::Seen(Box::new(seen)),
            Err(error) => Heard::Away(error.to_string()),
        };
        if heard.send(answer).is_err() || !send_processes(client, selected.as_ref(), heard).await {
            return;
        }
    }
}

/// Says whether there is still somebody to hear it.
async fn send_processes(client: &Client, task: Option<&TaskId>, heard: &Sender<Heard>) -> bool {
    let Some(task) = task else { return true };
    // Without an answer, those seen last stay; that the daemon is away is said by the look.
    match processes(client, task).await {
        Ok((task, processes)) => heard.send(Heard::Processes(task, processes)).is_ok(),
        Err(_) => true,
    }
}
