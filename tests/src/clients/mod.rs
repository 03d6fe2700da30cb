//! Real clients of the model server, and what each says it saw.

mod curl;
pub mod matrix;
pub mod programs;
mod python_env;
pub mod recipe;

use std::{
    ffi::OsStr,
    process::{Command, Output},
};

use serde::Deserialize;
use serde_json::Value;

pub use self::{curl::Curl, python_env::PythonEnv};
use crate::{ModelServer, Usage, build_tree};

/// One exchange, as a client saw it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Seen {
    pub client: String,
    /// The answer's id, unless there was none.
    pub id: Option<String>,
    pub model: Option<String>,
    pub stream: bool,
    /// The usage that the answer told.
    pub usage: Option<Usage>,
    /// Words in the answer, where the client counts them.
    pub words: Option<u64>,
    /// Why the exchange failed.
    pub error: Option<String>,
    pub status: Option<u16>,
    pub pid: Option<u32>,
    /// From the first byte that was sent to the last one that came, where the client measures it.
    pub took_ms: Option<u64>,
}

impl Seen {
    /// The lines of a client's standard output.
    ///
    /// # Panics
    /// When one of them is not what a client prints.
    pub fn lines(output: &[u8]) -> Vec<Self> {
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("`{line}`: {error}"));
        String::from_utf8_lossy(output).lines().map(parse).collect()
    }
}

/// A client script with its arguments, to be run as it is or under `tollgate run`.
#[derive(Debug, Clone)]
pub struct Client {
    program: String,
    arguments: Vec<String>,
    environment: Vec<(&'static str, String)>,
}

impl Client {
    /// A script of `tests/clients` under `python`, talking to `server` under the name `client`.
    pub fn script(python: &str, script: &str, server: &ModelServer, client: &str) -> Self {
        let path = build_tree::scripts().join(script);
        let arguments =
            [&*path.to_string_lossy(), "--base-url", &server.base_url, "--client", client].map(str::to_owned);
        Self {
            program: python.to_owned(),
            arguments: arguments.into(),
            environment: vec![
                ("SSL_CERT_FILE", server.ca_path.to_string_lossy().into_owned()),
                // What a developer's shell may hold, and what would lead a client elsewhere.
                ("NO_PROXY", "*".to_owned()),
                ("PYTHONDONTWRITEBYTECODE", "1".to_owned()),
            ],
        }
    }

    /// The `openai` package.
    pub fn openai(python: &PythonEnv, server: &ModelServer, client: &str) -> Self {
        Self::script(python.interpreter(), "openai_client.py", server, client)
    }

    /// The `anthropic` package.
    pub fn anthropic(python: &PythonEnv, server: &ModelServer, client: &str) -> Self {
        Self::script(python.interpreter(), "anthropic_client.py", server, client)
    }

    /// An agent that calls until it is stopped, in plain Python.
    pub fn loop_agent(server: &ModelServer, client: &str) -> Self {
        Self::script(python_env::SYSTEM_PYTHON, "loop_agent.py", server, client)
    }

    /// Many clients at once, in plain Python.
    pub fn swarm(server: &ModelServer, client: &str) -> Self {
        Self::script(python_env::SYSTEM_PYTHON, "swarm.py", server, client)
    }

    /// An agent in trouble, in plain Python.
    pub fn trouble(server: &ModelServer, client: &str) -> Self {
        Self::script(python_env::SYSTEM_PYTHON, "trouble.py", server, client)
    }

    /// Many calls, many of which are aborted, in plain Python.
    pub fn aborts(server: &ModelServer, client: &str) -> Self {
        Self::script(python_env::SYSTEM_PYTHON, "aborts.py", server, client)
    }

    /// A process that uses the TLS library and is not an agent, in plain Python.
    pub fn plain_tls(server: &ModelServer, client: &str) -> Self {
        Self::script(python_env::SYSTEM_PYTHON, "plain_tls.py", server, client)
    }

    #[must_use]
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// Asks the server for a certain answer (see [`crate::model_server::Directive`]).
    #[must_use]
    pub fn asking(self, directive: &Value) -> Self {
        self.with(&["--directive", &directive.to_string()])
    }

    /// Program and arguments.
    pub fn command_line(&self) -> Vec<String> {
        std::iter::once(&self.program).chain(&self.arguments).cloned().collect()
    }

    /// Gives `command` what the client needs in its environment.
    pub fn prepare<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        for proxy in ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
            command.env_remove(proxy);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, OsStr::new(value))))
    }

    /// The client as a command, without Tollgate.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        self.prepare(command.args(&self.arguments));
        command
    }

    /// Runs the client to its end, without Tollgate.
    ///
    /// # Panics
    /// When it cannot be run or fails.
    pub fn run(&self) -> Vec<Seen> {
        let output = self.command().output().unwrap_or_else(|error| panic!("{}: {error}", self.program));
        Self::seen(&output)
    }

    /// What a client that has ended saw.
    ///
    /// # Panics
    /// When it failed.
    pub fn seen(output: &Output) -> Vec<Seen> {
        assert!(output.status.success(), "client: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        Seen::lines(&output.stdout)
    }
}
