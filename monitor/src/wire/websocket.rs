//! WebSocket messages on an upgraded connection (RFC 6455), with permessage-deflate (RFC 7692).

use std::io::Cursor;

use flate2::{Decompress, FlushDecompress, Status};
use tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Control, Data, OpCode},
};

use super::{
    Direction, End, Ending, Event, ExchangeId, Headers, Limits, Message, RequestHead, ResponseHead, Sink, lines::Tail,
};

/// What the two sides agreed on beside the protocol itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extensions {
    deflate: Option<Deflate>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Deflate {
    client_forgets: bool,
    server_forgets: bool,
}

impl Extensions {
    /// By the head of the answer that upgraded.
    pub fn agreed(headers: &Headers) -> Self {
        let offers = headers.all("sec-websocket-extensions").flat_map(|value| value.split(','));
        let deflate = offers.filter_map(|offer| {
            let mut parts = offer.split(';').map(str::trim);
            (parts.next()? == "permessage-deflate").then(|| {
                let parameters: Vec<&str> = parts.collect();
                Deflate {
                    client_forgets: parameters.contains(&"client_no_context_takeover"),
                    server_forgets: parameters.contains(&"server_no_context_takeover"),
                }
            })
        });
        Self { deflate: deflate.last() }
    }
}

/// Follows the messages of one upgraded exchange.
pub struct WebSocket {
    exchange: ExchangeId,
    client: Lane,
    server: Lane,
    lost: u64,
}

/// One direction.
struct Lane {
    state: State,
    message: Tail,
    /// A message has begun and not ended; whether it is compressed.
    open: Option<Coded>,
    /// A hole in it, or it could not be inflated.
    is_damaged: bool,
    inflate: Option<Inflate>,
    has_closed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coded {
    Plain,
    Deflated,
}

enum State {
    Header {
        bytes: [u8; HEADER],
        have: usize,
    },
    Payload(Payload),
    /// Where the next frame begins is unknown; one is looked for at the beginning of each push.
    Lost,
}

/// Longest header of a frame.
const HEADER: usize = 14;
const HEADER_BEGIN: State = State::Header { bytes: [0; HEADER], have: 0 };

#[derive(Debug, Clone, Copy)]
struct Payload {
    left: u64,
    is_final: bool,
    is_data: bool,
    mask: Option<[u8; 4]>,
    /// Bytes of it that came, for the mask.
    at: u64,
}

struct Inflate {
    /// Only while there is something in it: it takes some 50 KiB.
    window: Option<Box<Decompress>>,
    forgets: bool,
    /// Bytes were lost that later messages refer to.
    is_broken: bool,
    /// The sender ended its stream within the message.
    has_ended: bool,
}

impl WebSocket {
    /// Of the exchange that became one, `lost` bytes are known to be missing.
    pub fn new(exchange: ExchangeId, extensions: Extensions, lost: u64) -> Self {
        let lane = |forgets: fn(Deflate) -> bool| Lane {
            state: HEADER_BEGIN,
            message: Tail::default(),
            open: None,
            is_damaged: false,
            inflate: extensions.deflate.map(|deflate| Inflate {
                window: None,
                forgets: forgets(deflate),
                is_broken: false,
                has_ended: false,
            }),
            has_closed: false,
        };
        Self {
            exchange,
            client: lane(|deflate| deflate.client_forgets),
            server: lane(|deflate| deflate.server_forgets),
            lost,
        }
    }

    /// For a connection whose beginning was not seen: an exchange of which nothing is known but its messages. What is deflated may
    /// refer to what was not seen, and is told as messages without their data.
    pub fn in_the_middle(exchange: ExchangeId, sink: &mut dyn Sink) -> Self {
        let deflate = Deflate { client_forgets: false, server_forgets: false };
        let mut socket = Self::new(exchange, Extensions { deflate: Some(deflate) }, 1);
        socket.client.lose_sync();
        socket.server.lose_sync();
        sink.event(exchange, Event::Request(&RequestHead::default()));
        sink.event(exchange, Event::RequestEnd);
        sink.event(exchange, Event::Response(&ResponseHead { status: 101, headers: Headers::default() }));
        socket
    }

    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Takes the next bytes of one direction.
    pub fn push(&mut self, direction: Direction, mut bytes: &[u8], limits: &Limits, sink: &mut dyn Sink) {
        let exchange = self.exchange;
        let lane = match direction {
            Direction::Request => &mut self.client,
            Direction::Response => &mut self.server,
        };
        if let State::Lost = lane.state {
            let is_deflated = matches!(bytes, [0xc1 | 0xc2, ..]);
            if !begins(direction, bytes) || (is_deflated && lane.inflate.is_none()) {
                self.lost = self.lost.saturating_add(bytes.len() as u64);
                return;
            }
            lane.state = HEADER_BEGIN;
        }
        let mut buffer = [0; BLOCK];
        while !bytes.is_empty() {
            match &mut lane.state {
                State::Header { .. } => match lane.take_header(bytes, direction) {
                    Ok(rest) => bytes = rest,
                    Err(NoFrame) => {
                        self.lost = self.lost.saturating_add(bytes.len() as u64);
                        lane.lose_sync();
                        sink.event(exchange, Event::Socket(direction, MISSING));
                        return;
                    }
                },
                State::Payload(payload) => {
                    let take = usize::try_from(payload.left).unwrap_or(usize::MAX).min(bytes.len()).min(BLOCK);
                    let (data, rest) = bytes.split_at(take);
                    bytes = rest;
                    payload.left -= take as u64;
                    let is_data = payload.is_data;
                    let data = payload.unmask(data, &mut buffer);
                    if is_data {
                        lane.take_data(data, limits.message);
                    }
                }
                State::Lost => return,
            }
            let lost = &mut self.lost;
            lane.end_frame_if_done(limits.message, |message| {
                *lost = lost.saturating_add(u64::from(message.is_damaged));
                sink.event(exchange, Event::Socket(direction, message.message));
            });
        }
    }

    /// `lost` bytes of a direction never reached us.
    pub fn lose(&mut self, direction: Direction, lost: u64, limits: &Limits, sink: &mut dyn Sink) {
        self.lost = self.lost.saturating_add(lost);
        let exchange = self.exchange;
        let lane = match direction {
            Direction::Request => &mut self.client,
            Direction::Response => &mut self.server,
        };
        match &mut lane.state {
            // What follows the hole is of the same message.
            State::Payload(payload) if payload.left >= lost => {
                payload.left -= lost;
                payload.at = payload.at.wrapping_add(lost);
                if payload.is_data {
                    lane.is_damaged = true;
                    if let (Some(Coded::Deflated), Some(inflate)) = (lane.open, &mut lane.inflate) {
                        inflate.is_broken = true;
                    }
                }
                lane.end_frame_if_done(limits.message, |message| {
                    sink.event(exchange, Event::Socket(direction, message.message));
                });
            }
            _ => {
                lane.lose_sync();
                sink.event(exchange, Event::Socket(direction, MISSING));
            }
        }
    }

    /// The connection ended. It is complete if both sides closed it (RFC 6455 §7.1.4).
    pub fn close(&mut self, sink: &mut dyn Sink) {
        // Whoever just goes may have said more, which nobody saw.
        let is_over =
            |lane: &Lane| lane.has_closed && lane.open.is_none() && matches!(lane.state, State::Header { have: 0, .. });
        let how = if is_over(&self.client) && is_over(&self.server) { Ending::Complete } else { Ending::Truncated };
        sink.event(self.exchange, Event::End(End { how, lost: self.lost }));
    }
}

/// Stands for messages that were lost.
const MISSING: Message<'static> = Message { event: None, data: &[], truncated: true };
/// Bytes that are unmasked or inflated at once.
const BLOCK: usize = 4096;

/// The bytes are no frame.
struct NoFrame;

/// Whether these bytes look like frames that follow each other up to the end: clients mask theirs, servers do not.
fn are_whole_frames(mut bytes: &[u8], direction: Direction) -> bool {
    loop {
        let [first, second, ..] = bytes else { return false };
        let is_control = first & 0x08 != 0;
        let is_known = matches!(first & 0x0f, 0..=2 | 8..=10)
            && first & 0x30 == 0
            && (first & 0x40 == 0 || !is_control)
            && (!is_control || first & 0x80 != 0 && second & 0x7f < 126);
        if !is_known || (second & 0x80 != 0) != (direction == Direction::Request) {
            return false;
        }
        let mut cursor = Cursor::new(bytes);
        let Ok(header) = FrameHeader::parse(&mut cursor) else { return false };
        let Some((_, length)) = header else { return false };
        // The shortest way to write a length is the only one.
        if matches!((second & 0x7f, length), (126, 0..126) | (127, 0..0x1_0000)) {
            return false;
        }
        let end = cursor.position().saturating_add(length);
        match usize::try_from(end).ok().and_then(|end| bytes.get(end..)) {
            Some([]) => return true,
            Some(next) if next.len() >= 2 => bytes = next,
            _ => return false,
        }
    }
}

/// Whether bytes, the first that were seen of a direction or the first after a loss, are a WebSocket: whole frames, of which the first
/// begins a message that is JSON, or is deflated. Less would take payloads for frames.
pub fn begins(direction: Direction, bytes: &[u8]) -> bool {
    let is_message = match (direction, bytes) {
        (_, [0xc1 | 0xc2, ..]) => true,
        (Direction::Response, [0x81, 126, _, _, b'{', ..] | [0x81, 1..126, b'{', ..]) => true,
        (Direction::Request, [0x81, 0xfe, _, _, mask, _, _, _, first, ..])
        | (Direction::Request, [0x81, 0x81..0xfe, mask, _, _, _, first, ..]) => mask ^ first == b'{',
        _ => false,
    };
    is_message && are_whole_frames(bytes, direction)
}

/// A message, and whether a part of it is missing or could not be inflated.
struct Told<'a> {
    message: Message<'a>,
    is_damaged: bool,
}

impl Lane {
    fn take_header<'a>(&mut self, bytes: &'a [u8], direction: Direction) -> Result<&'a [u8], NoFrame> {
        let State::Header { bytes: header, have } = &mut self.state else { return Ok(bytes) };
        let before = *have;
        let take = (HEADER - before).min(bytes.len());
        if let (Some(free), Some(taken)) = (header.get_mut(before..before + take), bytes.get(..take)) {
            free.copy_from_slice(taken);
        }
        *have += take;
        let mut cursor = Cursor::new(header.get(..*have).unwrap_or_default());
        let Some((frame, length)) = FrameHeader::parse(&mut cursor).map_err(|_| NoFrame)? else {
            return if *have == HEADER { Err(NoFrame) } else { Ok(&[]) };
        };
        let used = usize::try_from(cursor.position()).unwrap_or(HEADER).saturating_sub(before);
        if frame.mask.is_some() != (direction == Direction::Request) {
            return Err(NoFrame);
        }
        let is_data = match frame.opcode {
            OpCode::Data(Data::Continue) => self.open.is_some(),
            OpCode::Data(_) => {
                // One message ends before the next one begins.
                self.message.clear();
                self.open = Some(if frame.rsv1 && self.inflate.is_some() { Coded::Deflated } else { Coded::Plain });
                // An extension that is not known has changed what is in it.
                self.is_damaged = frame.rsv2 || frame.rsv3 || frame.rsv1 && self.inflate.is_none();
                true
            }
            OpCode::Control(control) => {
                self.has_closed |= control == Control::Close;
                false
            }
        };
        self.state =
            State::Payload(Payload { left: length, is_final: frame.is_final, is_data, mask: frame.mask, at: 0 });
        Ok(bytes.get(used..).unwrap_or_default())
    }

    fn take_data(&mut self, data: &[u8], limit: usize) {
        match (self.open, &mut self.inflate) {
            (Some(Coded::Deflated), Some(inflate)) => {
                let message = &mut self.message;
                if !inflate.is_broken && inflate.push(data, &mut |piece| message.push(piece, limit)).is_err() {
                    inflate.is_broken = true;
                }
                self.is_damaged |= inflate.is_broken;
            }
            _ => self.message.push(data, limit),
        }
    }

    fn end_frame_if_done(&mut self, limit: usize, out: impl FnOnce(Told<'_>)) {
        let State::Payload(payload) = self.state else { return };
        if payload.left > 0 {
            return;
        }
        self.state = HEADER_BEGIN;
        if !payload.is_data || !payload.is_final {
            return;
        }
        if self.open.take() == Some(Coded::Deflated) {
            // Senders leave out how a flushed block ends (RFC 7692 §7.2.1).
            self.open = Some(Coded::Deflated);
            self.take_data(&[0, 0, 0xff, 0xff], limit);
            self.open = None;
            if let Some(inflate) = &mut self.inflate {
                inflate.end_message();
            }
        }
        self.open = None;
        let is_damaged = std::mem::take(&mut self.is_damaged);
        let (data, cut) = self.message.complete(&[], usize::MAX);
        out(Told { message: Message { event: None, data, truncated: cut || is_damaged }, is_damaged });
        self.message.clear();
    }

    fn lose_sync(&mut self) {
        self.state = State::Lost;
        self.open = None;
        self.message.clear();
        self.is_damaged = false;
        // A message that was lost may be what later ones refer to.
        if let Some(inflate) = &mut self.inflate {
            inflate.is_broken = !inflate.forgets;
            inflate.window = None;
        }
    }
}

impl Payload {
    fn unmask<'a>(&mut self, data: &'a [u8], buffer: &'a mut [u8; BLOCK]) -> &'a [u8] {
        let at = self.at;
        self.at += data.len() as u64;
        let Some(mask) = self.mask else { return data };
        let mut mask = mask;
        mask.rotate_left(usize::try_from(at % 4).unwrap_or(0));
        for ((clear, byte), mask) in buffer.iter_mut().zip(data).zip(mask.iter().cycle()) {
            *clear = byte ^ mask;
        }
        buffer.get(..data.len()).unwrap_or_default()
    }
}

impl Inflate {
    fn push(&mut self, mut data: &[u8], out: &mut dyn FnMut(&[u8])) -> Result<(), NoFrame> {
        let window = self.window.get_or_insert_with(|| Box::new(Decompress::new(false)));
        let mut buffer = [0; BLOCK];
        loop {
            let (taken, made) = (window.total_in(), window.total_out());
            let status = window.decompress(data, &mut buffer, FlushDecompress::Sync).map_err(|_| NoFrame)?;
            let taken = usize::try_from(window.total_in() - taken).unwrap_or(data.len());
            let made = usize::try_from(window.total_out() - made).unwrap_or(0);
            data = data.get(taken..).unwrap_or_default();
            out(buffer.get(..made).unwrap_or_default());
            if status == Status::StreamEnd {
                // A sender may end its stream within a message (RFC 7692 §7.2.3.4); what follows begins anew.
                window.reset(false);
                self.has_ended = true;
                if data.is_empty() {
                    return Ok(());
                }
                continue;
            }
            if made < BLOCK && (data.is_empty() || taken == 0) {
                return Ok(());
            }
        }
    }

    fn end_message(&mut self) {
        if self.forgets || self.has_ended {
            self.window = None;
            self.has_ended = false;
        }
        if self.forgets {
            self.is_broken = false;
        }
    }
}

#[cfg(test)]
mod tests;
