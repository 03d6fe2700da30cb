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
/// it is cut, it says the same.
pub fn check(script: &Script) {
    let whole = play(script, LIMITS, &[usize::MAX], &[]);
    let sizes = script.first().map_or(7, |(_, bytes)| bytes.len() % 13 + 1);
    let cut = play(script, LIMITS, &[sizes, 1, 3 * sizes], &[]);
    if is_clean(&whole) && is_clean(&cut) {
        assert_eq!(whole.to_string(), cut.to_string());
    }
    let total: u64 = script.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    for direction in [Direction::Request, Direction::Response] {
        play(script, LIMITS, &[sizes * 10], &[(direction, total / 4..total / 4 + sizes as u64)]);
    }
}

fn is_clean(trace: &Trace) -> bool {
    trace.unreadable.is_empty() && trace.exchanges.values().all(|exchange| exchange.end.is_none_or(|end| end.lost == 0))
}

/// An answer with this body, and a whole request before it.
pub fn answer(fields: &str, body: &[u8]) -> Script {
    let head = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {}\r\n\r\n", body.len());
    vec![
        (Direction::Request, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        (Direction::Response, [head.as_bytes(), body].concat()),
    ]
}
