//! What the targets share: conversations made of arbitrary bytes, and what must hold of all of them.

mod conversation;
#[path = "../../src/wire/trace.rs"]
mod trace;

// The trace's own names.
use monitor::wire::{
    Connection, Direction, End, Ending, Event, ExchangeId, Limits, Message, Sink, StreamOffset, Unreadable,
};

pub use conversation::{script, unscript};
pub use trace::{Hole, Loss, Script, Trace, play};

/// Small limits find their edges sooner.
pub const LIMITS: Limits =
    Limits { head: 4096, message: 512, pipelined: 4, streams: 6, stream_message: 256, windows: 1 << 20 };

/// What must hold of any conversation: it is read without a panic, with and without holes, and where nothing is wrong with it, however
/// it is cut, it says the same. What is no HTTP/2 may be taken up again in other places when it is cut otherwise.
pub fn check(script: &Script) {
    compare(script, |end| end == End { how: Ending::Complete, lost: 0 });
}

/// The same for a conversation that begins as HTTP/1.1: it also says the same when it is cut short.
pub fn check_http1(script: &Script) {
    compare(script, |end| end.lost == 0);
}

fn compare(script: &Script, is_fine: fn(End) -> bool) {
    let is_clean = |trace: &Trace| {
        trace.unreadable.is_empty() && trace.exchanges.values().all(|exchange| exchange.end.is_some_and(is_fine))
    };
    let whole = play(script, LIMITS, &[usize::MAX], &[]);
    let size = script.first().map_or(7, |(_, bytes)| bytes.len() % 13 + 1);
    let cut = play(script, LIMITS, &[size, 1, 3 * size], &[]);
    if is_clean(&whole) && is_clean(&cut) {
        assert_eq!(whole.to_string(), cut.to_string());
    }
    let total: u64 = script.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    for direction in [Direction::Request, Direction::Response] {
        play(script, LIMITS, &[size * 10], &[(direction, total / 4..total / 4 + size as u64)]);
    }
}

/// An answer with this body, and a whole request before it.
pub fn answer(fields: &str, body: &[u8]) -> Script {
    let head = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {}\r\n\r\n", body.len());
    vec![
        (Direction::Request, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        (Direction::Response, [head.as_bytes(), body].concat()),
    ]
}
