//! What really happened: every request that arrived and what was billed for it.

use std::{
    fs::File,
    io::Write as _,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::{Usage, reference_price};

/// One request, from the moment its head arrived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Truth {
    /// In order of arrival, from 0.
    pub number: u64,
    /// Requests on the same connection have the same.
    pub connection: u64,
    pub peer: SocketAddr,
    /// The request's `x-test-client` header.
    pub client: Option<String>,
    pub method: String,
    pub path: String,
    /// Microseconds since the Unix epoch; orders events within one server exactly.
    pub arrived_us: u64,
    /// Size of the request's body, once it is there.
    pub request_bytes: u64,
    pub status: Option<u16>,
    pub state: State,
    /// Set for an exchange that costs, as soon as its answer is known.
    pub call: Option<Call>,
    /// When the last byte of the answer was handed to the connection, or the end of a broken one was noticed.
    pub ended_us: Option<u64>,
}

/// How far an exchange has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The head has arrived.
    Arrived,
    /// The answer is being sent, or held back.
    Answering,
    Complete,
    /// The client went away before the end.
    Abandoned,
    /// The server broke the answer off, as it was asked to.
    BrokenOff,
}

/// A model call that is billed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    pub api: Api,
    /// The answer's id: `chatcmpl-…`, `msg_…`; of an API without ids, one that nobody is told.
    pub id: String,
    pub model_requested: String,
    /// The model as the answer names it.
    pub model: String,
    pub stream: bool,
    /// Whether the answer tells its usage (if it comes so far).
    pub usage_reported: bool,
    /// What is billed: for a stream, what was generated so far.
    pub billed: Usage,
    /// Chunks of text sent so far.
    pub chunks_sent: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Api {
    OpenaiChat,
    OpenaiResponses,
    AnthropicMessages,
    Gemini,
    /// Its answers have no id.
    Bedrock,
}

impl Truth {
    /// Reference price of what was billed, 0 for an exchange that costs nothing.
    pub fn cost(&self) -> reference_price::PicoUsd {
        self.call.as_ref().map_or(0, |call| reference_price::cost(&call.model, &call.billed))
    }

    pub fn is_of(&self, client: &str) -> bool {
        self.client.as_deref() == Some(client)
    }
}

/// Keeps the truth in memory and, if asked, in a file: one JSON line when a request arrives and one when it ends, of
/// which the last for a number counts.
#[derive(Debug)]
pub(super) struct Book {
    pages: Mutex<Pages>,
    changed: Condvar,
    clock: Clock,
}

#[derive(Debug)]
struct Pages {
    truths: Vec<Truth>,
    file: Option<File>,
}

/// The wall clock at start, and from there a clock that never goes back.
#[derive(Debug)]
struct Clock {
    wall: Duration,
    since: Instant,
}

impl Clock {
    fn now_us(&self) -> u64 {
        u64::try_from((self.wall + self.since.elapsed()).as_micros()).unwrap_or(u64::MAX)
    }
}

impl Book {
    pub(super) fn open(file: Option<&Path>) -> anyhow::Result<Arc<Self>> {
        let file = file.map(|path| File::create(path).with_context(|| path.display().to_string())).transpose()?;
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Arc::new(Self {
            pages: Mutex::new(Pages { truths: Vec::new(), file }),
            changed: Condvar::new(),
            clock: Clock { wall, since: Instant::now() },
        }))
    }

    /// Writes down a request whose head has arrived.
    pub(super) fn arrival(self: &Arc<Self>, arrival: Arrival) -> Entry {
        let mut pages = self.pages();
        let truth = Truth {
            number: u64::try_from(pages.truths.len()).unwrap_or(u64::MAX),
            connection: arrival.connection,
            peer: arrival.peer,
            client: arrival.client,
            method: arrival.method,
            path: arrival.path,
            arrived_us: self.clock.now_us(),
            request_bytes: 0,
            status: None,
            state: State::Arrived,
            call: None,
            ended_us: None,
        };
        let index = pages.truths.len();
        pages.write_line(&truth);
        pages.truths.push(truth);
        drop(pages);
        self.changed.notify_all();
        Entry { book: Arc::clone(self), index, ended: false }
    }

    pub(super) fn snapshot(&self) -> Vec<Truth> {
        self.pages().truths.clone()
    }

    /// Waits until the truth is as wanted; gives it as it is then, or `None` after `limit`.
    pub(super) fn wait_until(&self, limit: Duration, wanted: impl Fn(&[Truth]) -> bool) -> Option<Vec<Truth>> {
        let waited = self.changed.wait_timeout_while(self.pages(), limit, |pages| !wanted(&pages.truths));
        let (pages, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        (!timeout.timed_out()).then(|| pages.truths.clone())
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pages {
    fn write_line(&mut self, truth: &Truth) {
        let Some(file) = &mut self.file else { return };
        let mut line = serde_json::to_vec(truth).unwrap_or_default();
        line.push(b'\n');
        if let Err(error) = file.write_all(&line) {
            eprintln!("model-server: the truth can no longer be written: {error}");
            self.file = None;
        }
    }
}

/// What is known when a request's head has arrived.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) connection: u64,
    pub(super) peer: SocketAddr,
    pub(super) client: Option<String>,
    pub(super) method: String,
    pub(super) path: String,
}

/// The line of one request in the book. Dropped before its end, it says that the client went away.
#[derive(Debug)]
pub(super) struct Entry {
    book: Arc<Book>,
    index: usize,
    ended: bool,
}

impl Entry {
    pub(super) fn body_arrived(&mut self, bytes: usize) {
        self.update(|truth| truth.request_bytes = u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    pub(super) fn answering(&mut self, status: u16, call: Option<Call>) {
        self.update(|truth| {
            truth.status = Some(status);
            truth.state = State::Answering;
            truth.call = call;
        });
    }

    /// A piece of the answer is handed over; `billed` is what the call has cost with it.
    pub(super) fn sent(&mut self, chunks: u64, billed: Option<Usage>) {
        if chunks == 0 && billed.is_none() {
            return;
        }
        self.update(|truth| {
            if let Some(call) = &mut truth.call {
                call.chunks_sent += chunks;
                call.billed = billed.unwrap_or(call.billed);
            }
        });
    }

    pub(super) fn ended(&mut self, state: State) {
        if self.ended {
            return;
        }
        self.ended = true;
        let now = self.book.clock.now_us();
        let mut pages = self.book.pages();
        let truth = &mut pages.truths[self.index];
        truth.state = state;
        truth.ended_us = Some(now);
        let line = truth.clone();
        pages.write_line(&line);
        drop(pages);
        self.book.changed.notify_all();
    }

    fn update(&self, change: impl FnOnce(&mut Truth)) {
        change(&mut self.book.pages().truths[self.index]);
        self.book.changed.notify_all();
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.ended(State::Abandoned);
    }
}
