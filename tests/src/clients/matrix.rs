//! The clients of the matrix, as data: who, with what TLS, how it is started, and what Tollgate must make of it.

use std::{fs, path::Path, process::Command};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::PythonEnv;
use crate::{ModelServer, build_tree};

/// A client, once. Its lines are for `sh`, with `BASE`, `PORT`, `CA`, `CLIENT`, `BODIES`, `SCRIPTS` and `PYTHON` in the
/// environment; it makes each of the [`CALLS`] calls once.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub name: &'static str,
    /// The TLS library, and how it is linked.
    pub tls: &'static str,
    pub start: &'static str,
    /// Prints the version, on its first line.
    pub version: &'static str,
    pub expected: Expected,
}

/// What the matrix promises of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expected {
    /// Every exchange, token and pico-USD, from the first request on.
    Exact,
    /// Its TLS is not read.
    Uncovered,
}

/// A row with what a run of it showed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    pub name: String,
    pub tls: String,
    pub version: String,
    pub expected: Expected,
    /// Why it was not as expected.
    pub failure: Option<String>,
}

/// Every group: its name, which its file of results has too, and its clients.
pub const GROUPS: [(&str, &[Row]); 3] = [("debian", DEBIAN), ("python", PYTHON), ("node", NODE)];

/// Calls of a client: two APIs, each whole and streamed.
pub const CALLS: usize = 4;

pub const DEBIAN: &[Row] = &[
    Row {
        name: "curl, HTTP/1.1",
        tls: "OpenSSL, shared",
        start: CURL_1,
        version: "curl --version | cut -d' ' -f1,2,5",
        expected: Expected::Exact,
    },
    Row {
        name: "curl, HTTP/2",
        tls: "OpenSSL, shared",
        start: CURL_2,
        version: "curl --version | cut -d' ' -f1,2,5",
        expected: Expected::Exact,
    },
    Row {
        name: "pycurl (libcurl-gnutls)",
        tls: "GnuTLS, shared",
        start: r#"exec /usr/bin/python3 "$SCRIPTS/matrix.py" pycurl"#,
        version: "/usr/bin/python3 -c 'import pycurl; print(*pycurl.version.split()[:3])'",
        expected: Expected::Exact,
    },
    Row {
        name: "wget",
        tls: "GnuTLS, shared",
        start: WGET,
        version: "wget --version | cut -d' ' -f1-3",
        expected: Expected::Exact,
    },
    Row {
        name: "gnutls-cli",
        tls: "GnuTLS, shared",
        start: GNUTLS_CLI,
        version: "gnutls-cli --version",
        expected: Expected::Exact,
    },
];

const CURL_1: &str = r#"for body in "$BODIES"/*.json; do
    version=$(curl -sS --fail --http1.1 --noproxy '*' --cacert "$CA" -H "x-test-client: $CLIENT" -H 'content-type: application/json' \
        --data-binary "@$body" -o /dev/null -w '%{http_version}' "$BASE$(cat "$body.path")") && [ "$version" = 1.1 ] || exit 1
done"#;

const CURL_2: &str = r#"for body in "$BODIES"/*.json; do
    version=$(curl -sS --fail --http2 --noproxy '*' --cacert "$CA" -H "x-test-client: $CLIENT" -H 'content-type: application/json' \
        --data-binary "@$body" -o /dev/null -w '%{http_version}' "$BASE$(cat "$body.path")") && [ "$version" = 2 ] || exit 1
done"#;

const WGET: &str = r#"for body in "$BODIES"/*.json; do
    wget -q --no-proxy --ca-certificate="$CA" --header="x-test-client: $CLIENT" --header='content-type: application/json' \
        --post-file="$body" -O /dev/null "$BASE$(cat "$body.path")" || exit 1
done"#;

/// It ends when its input does, so that the input has to wait for the answers.
const GNUTLS_CLI: &str = r#"{
    for body in "$BODIES"/*.json; do
        printf 'POST %s HTTP/1.1\r\nhost: localhost\r\nx-test-client: %s\r\ncontent-type: application/json\r\ncontent-length: %s\r\n\r\n' \
            "$(cat "$body.path")" "$CLIENT" "$(wc -c <"$body")"
        cat "$body"
        sleep 1
    done
} | gnutls-cli --x509cafile="$CA" --port="$PORT" localhost >/dev/null"#;

pub const PYTHON: &[Row] = &[
    sdk("requests", r#"exec "$PYTHON" "$SCRIPTS/matrix.py" requests"#, REQUESTS),
    sdk("httpx, HTTP/1.1", r#"exec "$PYTHON" "$SCRIPTS/matrix.py" httpx"#, HTTPX),
    sdk("httpx, HTTP/2", r#"exec "$PYTHON" "$SCRIPTS/matrix.py" httpx-h2"#, HTTPX),
    sdk("httpx async, HTTP/1.1", r#"exec "$PYTHON" "$SCRIPTS/matrix.py" httpx-async"#, HTTPX),
    sdk("httpx async, HTTP/2", r#"exec "$PYTHON" "$SCRIPTS/matrix.py" httpx-async-h2"#, HTTPX),
    sdk("aiohttp", r#"exec "$PYTHON" "$SCRIPTS/matrix.py" aiohttp"#, AIOHTTP),
    sdk("openai", OPENAI, r#""$PYTHON" -c 'import openai; print(openai.__version__)'"#),
    sdk("anthropic", ANTHROPIC, r#""$PYTHON" -c 'import anthropic; print(anthropic.__version__)'"#),
];

const OPENAI: &str = r#"client() { "$PYTHON" "$SCRIPTS/openai_client.py" --base-url "$BASE" --client "$CLIENT" --calls 2 "$@"; }
client && client --stream"#;

const ANTHROPIC: &str = r#"client() { "$PYTHON" "$SCRIPTS/anthropic_client.py" --base-url "$BASE" --client "$CLIENT" --calls 2 "$@"; }
client && client --stream"#;

const fn sdk(name: &'static str, start: &'static str, version: &'static str) -> Row {
    Row { name, tls: "OpenSSL, shared", start, version, expected: Expected::Exact }
}

const REQUESTS: &str = r#""$PYTHON" -c 'import requests; print(requests.__version__)'"#;
const HTTPX: &str = r#""$PYTHON" -c 'import httpx; print(httpx.__version__)'"#;
const AIOHTTP: &str = r#""$PYTHON" -c 'import aiohttp; print(aiohttp.__version__)'"#;

pub const NODE: &[Row] = &[
    node("Node fetch", r#"exec node "$SCRIPTS/node/matrix.mjs" fetch"#),
    node("Node https", r#"exec node "$SCRIPTS/node/matrix.mjs" https"#),
    node("Node http2", r#"exec node "$SCRIPTS/node/matrix.mjs" http2"#),
];

const fn node(name: &'static str, start: &'static str) -> Row {
    Row {
        name,
        tls: "OpenSSL, in the program (Debian's: shared)",
        start,
        version: "node --version",
        expected: Expected::Exact,
    }
}

/// What stands around the table in `README.md`.
pub const MARKERS: [&str; 2] = ["<!-- matrix -->\n", "<!-- /matrix -->"];

/// A line of the table: client, TLS, result, and the version that was tried.
pub fn line(name: &str, tls: &str, expected: Expected, version: &str) -> String {
    let result = match expected {
        Expected::Exact => "exact",
        Expected::Uncovered => "uncovered",
    };
    format!("| {name} | {tls} | {result} | {version} |\n")
}

/// The table's head.
pub const HEAD: &str = "| client | TLS | result | tried with |\n|---|---|---|---|\n";

/// The text between the markers.
pub fn section(readme: &str) -> Option<&str> {
    let [start, end] = MARKERS;
    readme.split_once(start)?.1.split_once(end).map(|(section, _)| section)
}

impl Row {
    /// The client's tag in the server's truth and its task: its name in letters that both take.
    pub fn tag(&self) -> String {
        let words = self.name.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        format!("matrix-{}", words.collect::<Vec<_>>().join("-").to_ascii_lowercase())
    }

    /// The first line of what it says about its version.
    ///
    /// # Errors
    /// When it does not run: then it is not installed.
    pub fn version(&self, python: Option<&PythonEnv>) -> Result<String, String> {
        let mut command = Command::new("sh");
        command.args(["-c", self.version]).envs(python.map(|python| ("PYTHON", python.interpreter())));
        let output = command.output().map_err(|error| error.to_string())?;
        let line = String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().trim().to_owned();
        if !output.status.success() || line.is_empty() {
            return Err(format!("{} is missing: run `cargo xtask setup` as root", self.name));
        }
        Ok(line)
    }

    /// Gives `command` what the client's line reads.
    pub fn prepare<'a>(
        &self,
        command: &'a mut Command,
        server: &ModelServer,
        bodies: &Path,
        python: Option<&PythonEnv>,
    ) -> &'a mut Command {
        for proxy in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
            command.env_remove(proxy);
        }
        command.env("BASE", &server.base_url).env("PORT", server.addr.port().to_string());
        command
            .env("CA", &server.ca_path)
            .env("NODE_EXTRA_CA_CERTS", &server.ca_path)
            .env("SSL_CERT_FILE", &server.ca_path);
        command.env("CLIENT", self.tag()).env("BODIES", bodies).env("SCRIPTS", build_tree::scripts());
        command.env("NO_PROXY", "*").env("PYTHONDONTWRITEBYTECODE", "1");
        command.envs(python.map(|python| ("PYTHON", python.interpreter())))
    }
}

/// Writes the bodies of the [`CALLS`] calls, and next to each the path it goes to.
///
/// # Panics
/// When they cannot be written.
pub fn write_bodies(directory: &Path) {
    let messages = json!([{"role": "user", "content": "Say something."}]);
    for stream in [false, true] {
        let mut chat = json!({"model": "gpt-4o", "messages": messages, "stream": stream});
        if stream {
            chat["stream_options"] = json!({"include_usage": true});
        }
        let claude = json!({"model": "claude-sonnet-4-5", "max_tokens": 8192, "messages": messages, "stream": stream});
        let shape = if stream { "stream" } else { "whole" };
        write(directory, &format!("chat-{shape}"), "/v1/chat/completions", &chat);
        write(directory, &format!("messages-{shape}"), "/v1/messages", &claude);
    }
}

fn write(directory: &Path, name: &str, path: &str, body: &Value) {
    fs::write(directory.join(format!("{name}.json")), body.to_string()).expect("writing a body");
    fs::write(directory.join(format!("{name}.json.path")), path).expect("writing a path");
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{GROUPS, HEAD, line, section};
    use crate::build_tree;

    /// Versions aside: those are of the machine that tried last. That the result holds is what the live tests show.
    #[test]
    fn the_readme_has_every_client_and_no_other() {
        let readme = fs::read_to_string(build_tree::workspace().join("README.md")).expect("README.md");
        let rows = section(&readme).and_then(|section| section.strip_prefix(HEAD)).expect("the table and its markers");
        let without_version = |row: &str| row.rsplitn(3, '|').nth(2).unwrap_or_default().to_owned();
        let told: Vec<_> = rows.lines().map(without_version).collect();
        let tables = GROUPS.iter().flat_map(|(_, rows)| rows.iter());
        let expected: Vec<_> =
            tables.map(|row| without_version(line(row.name, row.tls, row.expected, "").trim_end())).collect();
        assert_eq!(told, expected, "run the live tests, then `cargo xtask matrix`");
    }
}
