//! Programs that bring TLS of their language: Go, Rust, Java.

use super::{Expected, Row};

/// Each makes its call twice.
const CALLS: usize = 2;

/// Go reads on another thread than it writes on: enough calls that the two come in every order.
const GO_CALLS: usize = 20;

pub const NATIVE: &[Row] = &[
    go("Go net/http, HTTP/1.1", r#"exec "$NATIVE/go-client" "$BASE" "$CA" "$BODIES/chat-whole.json" 20 http1"#),
    go("Go net/http, HTTP/2", r#"exec "$NATIVE/go-client" "$BASE" "$CA" "$BODIES/chat-whole.json" 20 http2"#),
    go(
        "Go net/http, stripped, HTTP/1.1",
        r#"exec "$NATIVE/go-client-stripped" "$BASE" "$CA" "$BODIES/chat-stream.json" 20 http1"#,
    ),
    go(
        "Go net/http, stripped, HTTP/2",
        r#"exec "$NATIVE/go-client-stripped" "$BASE" "$CA" "$BODIES/chat-stream.json" 20 http2"#,
    ),
    Row {
        name: "reqwest, native-tls",
        tls: "OpenSSL, shared",
        start: r#"exec "$NATIVE/reqwest-native" "$BASE" "$CA" "$BODIES/chat-whole.json" 2 1"#,
        file: r#"echo "$NATIVE/reqwest-native""#,
        version: REQWEST,
        calls: CALLS,
        expected: Expected::Exact,
    },
    Row {
        name: "reqwest, native-tls, stripped",
        tls: "OpenSSL, shared",
        start: r#"exec "$NATIVE/reqwest-native-stripped" "$BASE" "$CA" "$BODIES/chat-stream.json" 2 1"#,
        file: r#"echo "$NATIVE/reqwest-native-stripped""#,
        version: REQWEST,
        calls: CALLS,
        expected: Expected::Exact,
    },
    Row {
        name: "reqwest, rustls with AWS-LC",
        tls: "rustls with AWS-LC, in the program",
        start: r#"exec "$NATIVE/reqwest-aws-lc" "$BASE" "$CA" "$BODIES/chat-whole.json" 2 1"#,
        file: r#"echo "$NATIVE/reqwest-aws-lc""#,
        version: REQWEST,
        calls: CALLS,
        expected: Expected::Exact,
    },
    Row {
        name: "reqwest, rustls with AWS-LC, stripped",
        tls: "rustls with AWS-LC, in the program",
        start: r#"exec "$NATIVE/reqwest-aws-lc-stripped" "$BASE" "$CA" "$BODIES/chat-stream.json" 2 1"#,
        file: r#"echo "$NATIVE/reqwest-aws-lc-stripped""#,
        version: REQWEST,
        calls: CALLS,
        expected: Expected::Exact,
    },
    Row {
        name: "reqwest, rustls with AWS-LC, 16 connections",
        tls: "rustls with AWS-LC, in the program",
        start: r#"exec "$NATIVE/reqwest-aws-lc" "$BASE" "$CA" "$BODIES/chat-stream.json" 10 16"#,
        file: r#"echo "$NATIVE/reqwest-aws-lc""#,
        version: REQWEST,
        calls: 160,
        expected: Expected::Exact,
    },
    Row {
        name: "reqwest, rustls with ring",
        tls: "rustls with ring, in the program",
        start: r#"exec "$NATIVE/reqwest-ring" "$BASE" "$CA" "$BODIES/chat-whole.json" 2 1"#,
        file: r#"echo "$NATIVE/reqwest-ring""#,
        version: REQWEST,
        calls: CALLS,
        expected: Expected::Uncovered,
    },
    Row {
        name: "reqwest, rustls with ring, stripped",
        tls: "rustls with ring, in the program",
        start: r#"exec "$NATIVE/reqwest-ring-stripped" "$BASE" "$CA" "$BODIES/chat-whole.json" 2 1"#,
        file: r#"echo "$NATIVE/reqwest-ring-stripped""#,
        version: REQWEST,
        calls: CALLS,
        expected: Expected::Uncovered,
    },
    Row {
        name: "Java HttpClient",
        tls: "JSSE, compiled as it runs",
        start: r#"exec java "$SCRIPTS/java/Client.java" "$BASE" "$CA" "$BODIES/chat-whole.json" 2"#,
        file: "command -v java",
        version: "java -version 2>&1",
        calls: CALLS,
        expected: Expected::Uncovered,
    },
];

const REQWEST: &str = r#"grep -A1 '"reqwest"' "$SCRIPTS/rust/Cargo.lock" | sed -n 's/^version = "\(.*\)"/\1/p'"#;

const fn go(name: &'static str, start: &'static str) -> Row {
    let tls = "crypto/tls, in the program";
    Row {
        name,
        tls,
        start,
        file: r#"echo "$NATIVE/go-client-stripped""#,
        version: "go version | cut -d' ' -f3",
        calls: GO_CALLS,
        expected: Expected::Exact,
    }
}
