#![no_main]
//! What comes after an upgrade; the first byte says what was agreed on.

use monitor::wire::Direction;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let [way, data @ ..] = data else { return };
    let extensions = match way % 4 {
        0 => "",
        1 => "Sec-WebSocket-Extensions: permessage-deflate\r\n",
        2 => "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\n",
        _ => "Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover\r\n",
    };
    let request = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n".to_vec();
    let answer = format!("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n{extensions}\r\n");
    let mut script = vec![(Direction::Request, request), (Direction::Response, answer.into_bytes())];
    script.extend(tollgate_fuzz::script(data));
    tollgate_fuzz::check_http1(&script);
});
