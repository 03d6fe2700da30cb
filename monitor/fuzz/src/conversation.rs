//! Conversations as one piece of bytes, so that a fuzzer can change them.

use monitor::wire::Direction;

/// Takes a conversation apart: a byte for the direction and one for the length (in steps of eight), and then that many bytes.
pub fn script(mut data: &[u8]) -> Vec<(Direction, Vec<u8>)> {
    let mut script = Vec::new();
    while let [head, length, rest @ ..] = data {
        let direction = if head & 1 == 0 { Direction::Request } else { Direction::Response };
        // A piece of the longest length lasts until the end.
        let length = if *length == 255 {
            rest.len()
        } else {
            (usize::from(*length) * 8 + usize::from(head >> 5)).min(rest.len())
        };
        let (bytes, after) = rest.split_at(length);
        script.push((direction, bytes.to_vec()));
        data = after;
    }
    script
}

/// The other way round, for seeds.
pub fn unscript(script: &[(Direction, Vec<u8>)]) -> Vec<u8> {
    let mut data = Vec::new();
    for (direction, bytes) in script {
        for piece in bytes.chunks(254 * 8) {
            let rest = u8::try_from(piece.len() % 8).unwrap_or(0);
            data.push(u8::from(*direction == Direction::Response) | rest << 5);
            data.push(u8::try_from(piece.len() / 8).unwrap_or(0));
            data.extend_from_slice(piece);
        }
    }
    data
}
