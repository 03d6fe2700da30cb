//! What a process that is stopped at the gate is about to send.

//!
//! A page can be of a kind that somebody has to bring first (userfaultfd, a file of FUSE), and that somebody may be the process that stands still, or never do it. So
//! it is read on threads of its own, and nobody waits for them: answers come as messages. A thread that is kept waiting is lost until the kernel lets it go. No
//! task can take more than a few.

use std::{
    collections::{HashMap, VecDeque},
    io::IoSliceMut,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use nix::{
    sys::uio::{RemoteIoVec, process_vm_readv},
    unistd::Pid as NixPid,
};
use tokio::sync::mpsc::UnboundedSender;

use super::event::{Pid, Whole};

/// Most of a request that is looked at before it may go.
const MOST: usize = 4 * 1024 * 1024;
/// Most pieces of one call (`UIO_MAXIOV`, `linux/uio.h`), here and there.
const MOST_PIECES: u32 = 1024;
/// Bytes of a `struct iovec`: an address and a length.
const PIECE: usize = 2 * size_of::<usize>();

/// Threads that read for one task at once: a task that keeps them all waiting waits for itself.
const PER_TASK: usize = 2;
/// Threads that read.
const MOST_THREADS: usize = 64;
/// How long a thread without work stays.
const IDLE: Duration = Duration::from_secs(10);

/// Something to be read.
#[derive(Debug, Clone, Copy)]
pub struct Read {
    /// For the answer.
    pub id: u64,
    /// Which task it is for; never that of another one later.
    pub task: u64,
    pub pid: Pid,
    pub whole: Whole,
}

/// What was read. Empty where it cannot be: the process is gone, or was never there.
///
/// It is a hint for the decision and not the record: somebody who shares the memory could change it before it is sent. What was sent is metered.
#[derive(Debug)]
pub struct Copied {
    pub id: u64,
    pub bytes: Vec<u8>,
}

/// Threads that read, as many as it takes.
#[derive(Debug, Clone)]
pub struct Readers {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    has_work: Condvar,
    answers: UnboundedSender<Copied>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Read>,
    /// How many threads read for a task.
    busy: HashMap<u64, usize>,
    threads: usize,
    /// Of these, how many have not looked for work yet, and how many wait for some.
    starting: usize,
    idle: usize,
}

impl Readers {
    /// What they read goes to `answers`.
    pub fn new(answers: UnboundedSender<Copied>) -> Self {
        Self { shared: Arc::new(Shared { queue: Mutex::default(), has_work: Condvar::new(), answers }) }
    }

    /// Has it read; the answer comes as [`Copied`], or never.
    pub fn read(&self, read: Read) {
        let mut queue = self.shared.queue();
        queue.waiting.push_back(read);
        if queue.ready() <= queue.idle + queue.starting || queue.threads >= MOST_THREADS {
            self.shared.has_work.notify_one();
            return;
        }
        let shared = Arc::clone(&self.shared);
        match thread::Builder::new().name("read-memory".into()).spawn(move || shared.work()) {
            Ok(_) => (queue.threads, queue.starting) = (queue.threads + 1, queue.starting + 1),
            Err(error) => tracing::warn!("cannot start a thread that reads what a process is about to send: {error}"),
        }
    }

    /// Nobody waits for it any longer.
    pub fn forget(&self, id: u64) {
        self.shared.queue().waiting.retain(|read| read.id != id);
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread: until there has been nothing to do for a while.
    fn work(&self) {
        let mut queue = self.queue();
        queue.starting -= 1;
        loop {
            if let Some(read) = queue.take() {
                drop(queue);
                // The engine is gone: so is whoever waited.
                self.answers.send(Copied { id: read.id, bytes: copy(read.pid, read.whole) }).ok();
                queue = self.queue();
                queue.is_done(read.task);
                continue;
            }
            queue.idle += 1;
            let (woken, waited) = self.has_work.wait_timeout(queue, IDLE).unwrap_or_else(PoisonError::into_inner);
            queue = woken;
            queue.idle -= 1;
            if waited.timed_out() && queue.ready() == 0 {
                queue.threads -= 1;
                return;
            }
        }
    }
}

impl Queue {
    /// The first that may be read now.
    fn take(&mut self) -> Option<Read> {
        let busy = &self.busy;
        let at = self.waiting.iter().position(|read| busy.get(&read.task).copied().unwrap_or_default() < PER_TASK)?;
        let read = self.waiting.remove(at)?;
        *self.busy.entry(read.task).or_default() += 1;
        Some(read)
    }

    fn is_done(&mut self, task: u64) {
        if let Some(busy) = self.busy.get_mut(&task) {
            *busy -= 1;
            if *busy == 0 {
                self.busy.remove(&task);
            }
        }
    }

    /// How many could be read at once.
    fn ready(&self) -> usize {
        let mut busy = self.busy.clone();
        let mut is_ready = |read: &&Read| {
            let busy = busy.entry(read.task).or_default();
            *busy += 1;
            *busy <= PER_TASK
        };
        self.waiting.iter().filter(|read| is_ready(read)).count()
    }
}

fn copy(pid: Pid, whole: Whole) -> Vec<u8> {
    let (Ok(pid), Ok(base)) = (i32::try_from(pid), usize::try_from(whole.address)) else { return Vec::new() };
    let (pid, len) = (NixPid::from_raw(pid), (whole.len as usize).min(MOST));
    match whole.pieces {
        None => gather(pid, &[RemoteIoVec { base, len }], len),
        Some(pieces) => {
            let pieces = pieces.get().min(MOST_PIECES) as usize * PIECE;
            let pieces = pieces_of(&gather(pid, &[RemoteIoVec { base, len: pieces }], pieces), len);
            let len = pieces.iter().map(|piece| piece.len).sum();
            gather(pid, &pieces, len)
        }
    }
}

/// Where `struct iovec`s say that the first `room` bytes lie.
fn pieces_of(vectors: &[u8], mut room: usize) -> Vec<RemoteIoVec> {
    let word = |bytes: &[u8]| bytes.try_into().map(usize::from_ne_bytes).unwrap_or_default();
    let piece = |vector: &[u8]| {
        let (base, len) = vector.split_at(PIECE / 2);
        let len = word(len).min(room);
        room -= len;
        RemoteIoVec { base: word(base), len }
    };
    // None of them may be missing between two others.
    vectors.chunks_exact(PIECE).map(piece).filter(|piece| piece.len > 0).collect()
}

/// As much as there is of these pieces, up to the first that cannot be read.
fn gather(pid: NixPid, from: &[RemoteIoVec], len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let read = process_vm_readv(pid, &mut [IoSliceMut::new(&mut bytes)], from);
    bytes.truncate(read.unwrap_or(0));
    bytes
}

#[cfg(test)]
mod tests {
    use std::{io::IoSlice, num::NonZeroU32};

    use tokio::sync::mpsc::unbounded_channel;

    use super::{MOST, PER_TASK, Queue, Read, Readers, Whole, copy as bytes};

    fn length(bytes: usize) -> u32 {
        u32::try_from(bytes).expect("short")
    }

    #[test]
    fn memory_is_read_as_far_as_there_is_some() {
        let text = b"what is about to be sent".to_vec();
        let whole = Whole { address: text.as_ptr() as u64, len: length(text.len()), ..Whole::default() };
        assert_eq!(bytes(std::process::id(), whole), text);
        assert!(bytes(std::process::id(), Whole { address: 1, len: 9, ..Whole::default() }).is_empty());
        assert!(bytes(u32::MAX, whole).is_empty());
    }

    #[test]
    fn pieces_are_put_together() {
        let (head, body) = (b"a head, ".to_vec(), vec![b'x'; MOST]);
        let pieces = [IoSlice::new(&head), IoSlice::new(b""), IoSlice::new(&body), IoSlice::new(b"too much")];
        let of = |count: usize, len: usize| {
            let pieces_count = NonZeroU32::new(length(count));
            let whole = Whole { address: pieces.as_ptr() as u64, len: length(len), pieces: pieces_count, fd: None };
            bytes(std::process::id(), whole)
        };
        assert_eq!(of(3, head.len() + 3), b"a head, xxx");
        assert_eq!(of(1, 9), head, "no more than there are pieces");
        let all = of(4, head.len() + body.len() + 8);
        assert_eq!((all.len(), all.starts_with(b"a head, x"), all.ends_with(b"x")), (MOST, true, true));
        let torn = [pieces[0], IoSlice::new(&[])];
        let whole = Whole { address: torn.as_ptr() as u64, len: 99, pieces: NonZeroU32::new(2), fd: None };
        assert_eq!(bytes(std::process::id(), whole), head);
        let nowhere = Whole { address: 1, len: 9, pieces: NonZeroU32::new(2), fd: None };
        assert!(bytes(std::process::id(), nowhere).is_empty());
    }

    fn read(id: u64, task: u64) -> Read {
        Read { id, task, pid: std::process::id(), whole: Whole::default() }
    }

    #[test]
    fn a_task_takes_no_more_than_its_share_of_threads() {
        let mut queue = Queue::default();
        queue.waiting.extend((0..5).map(|id| read(id, 1)).chain([read(9, 2)]));
        assert_eq!(queue.ready(), PER_TASK + 1);
        let taken: Vec<u64> = std::iter::from_fn(|| queue.take()).map(|read| read.id).collect();
        assert_eq!(taken, [0, 1, 9], "those of the task that waits for itself go on waiting");
        assert_eq!(queue.ready(), 0);
        queue.is_done(1);
        assert_eq!((queue.ready(), queue.take().map(|read| read.id)), (1, Some(2)));
        queue.is_done(2);
        assert_eq!(queue.busy.len(), 1, "nothing is kept of a task without readers");
    }

    #[test]
    fn answers_come_as_messages_and_what_is_forgotten_is_not_read() {
        let (sender, mut answers) = unbounded_channel();
        let readers = Readers::new(sender);
        let text = b"what is about to be sent".to_vec();
        let whole = Whole { address: text.as_ptr() as u64, len: length(text.len()), ..Whole::default() };
        for id in 0..100 {
            readers.read(Read { whole, ..read(id, id % 3) });
        }
        let mut ids: Vec<u64> = (0..100)
            .map(|_| {
                let copied = answers.blocking_recv().expect("an answer");
                assert_eq!(copied.bytes, text);
                copied.id
            })
            .collect();
        ids.sort_unstable();
        assert_eq!(ids, (0..100).collect::<Vec<_>>());
        let threads = readers.shared.queue().threads;
        assert!((1..=3 * PER_TASK).contains(&threads), "{threads} threads");
    }
}
