//! Python environments of clients: virtualenvs with exactly the packages of a list.

use std::{fs, path::Path, process::Command};

use anyhow::Context as _;

use super::recipe;

/// The interpreter that dynamically links the system's OpenSSL.
pub(super) const SYSTEM_PYTHON: &str = "/usr/bin/python3";
const OTHER_PYTHON: &str = "python3";

/// A list of packages, each with its version.
#[derive(Debug, Clone, Copy)]
struct List {
    name: &'static str,
    requirements: &'static str,
}

const SDKS: List = List { name: "test-python", requirements: include_str!("../../requirements.txt") };
/// They want other versions of what the SDKs have in common.
const MORE_SDKS: List = List { name: "test-python-more", requirements: include_str!("../../requirements-more.txt") };
/// TLS and QUIC in Python itself.
const UNREAD: List = List { name: "test-python-unread", requirements: include_str!("../../requirements-unread.txt") };
const AIDER: List = List { name: "test-aider", requirements: include_str!("../../requirements-aider.txt") };

/// A virtualenv that is ready to be used.
#[derive(Debug, Clone)]
pub struct PythonEnv {
    interpreter: String,
}

impl PythonEnv {
    /// Makes the environment of `openai`, `anthropic` and the HTTP clients unless it is there.
    ///
    /// # Errors
    /// When Python or its `venv` module is missing, or pip fails; the message ends with what they said.
    pub fn ensure() -> anyhow::Result<Self> {
        Self::of(SDKS)
    }

    /// Makes the environment of the other SDKs unless it is there.
    ///
    /// # Errors
    /// As for [`Self::ensure`].
    pub fn more_sdks() -> anyhow::Result<Self> {
        Self::of(MORE_SDKS)
    }

    /// Makes the environment with TLS that cannot be read unless it is there.
    ///
    /// # Errors
    /// As for [`Self::ensure`].
    pub fn unread() -> anyhow::Result<Self> {
        Self::of(UNREAD)
    }

    /// Makes the environment of aider unless it is there.
    ///
    /// # Errors
    /// As for [`Self::ensure`].
    pub fn aider() -> anyhow::Result<Self> {
        Self::of(AIDER)
    }

    fn of(list: List) -> anyhow::Result<Self> {
        let directory = recipe::ensure(list.name, &[list.requirements], |directory| create(directory, list))?;
        Ok(Self { interpreter: interpreter(&directory) })
    }

    /// Path of its Python.
    pub fn interpreter(&self) -> &str {
        &self.interpreter
    }
}

fn interpreter(directory: &Path) -> String {
    directory.join("bin/python").to_string_lossy().into_owned()
}

fn create(directory: &Path, list: List) -> anyhow::Result<()> {
    let shown = directory.display();
    let python = if Path::new(SYSTEM_PYTHON).exists() { SYSTEM_PYTHON } else { OTHER_PYTHON };
    recipe::run(Command::new(python).args(["-m", "venv"]).arg(directory))
        .with_context(|| format!("making a virtualenv in {shown} (Debian: apt-get install python3-venv)"))?;
    let requirements = directory.join("requirements.txt");
    fs::write(&requirements, list.requirements).with_context(|| requirements.display().to_string())?;
    recipe::run_online(
        Command::new(interpreter(directory))
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--requirement"])
            .arg(&requirements),
    )
    .with_context(|| format!("installing the packages of {} into {shown}", list.name))
}
