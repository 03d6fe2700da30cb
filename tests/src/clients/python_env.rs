//! The Python environment of the SDK clients: a virtualenv with exactly the packages of `requirements.txt`.

use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::{Context as _, bail};

use crate::build_tree;

/// The interpreter that dynamically links the system's OpenSSL.
pub(super) const SYSTEM_PYTHON: &str = "/usr/bin/python3";
const OTHER_PYTHON: &str = "python3";
const REQUIREMENTS: &str = include_str!("../../requirements.txt");

/// Written last: a directory without it is not finished.
const MARKER: &str = "complete";

/// A virtualenv that is ready to be used.
#[derive(Debug, Clone)]
pub struct PythonEnv {
    interpreter: String,
}

impl PythonEnv {
    /// Makes the environment unless it is there.
    ///
    /// # Errors
    /// When Python or its `venv` module is missing, or pip fails; the message ends with what they said.
    pub fn ensure() -> anyhow::Result<Self> {
        static ENSURED: OnceLock<Result<PythonEnv, String>> = OnceLock::new();
        let ensured = ENSURED.get_or_init(|| {
            let target = build_tree::target_dir().map_err(|error| format!("{error:#}"))?;
            Self::ensure_in(&target).map_err(|error| format!("{error:#}"))
        });
        ensured.clone().map_err(anyhow::Error::msg)
    }

    fn ensure_in(target: &Path) -> anyhow::Result<Self> {
        let mut hasher = DefaultHasher::new();
        REQUIREMENTS.hash(&mut hasher);
        let directory = target.join(format!("test-python-{:016x}", hasher.finish()));
        let interpreter = directory.join("bin/python");
        let environment = Self { interpreter: interpreter.to_string_lossy().into_owned() };
        if is_complete(&directory, &interpreter) {
            return Ok(environment);
        }
        let lock_path = target.join("test-python.lock");
        let lock = File::create(&lock_path).with_context(|| lock_path.display().to_string())?;
        lock.lock().with_context(|| format!("locking {}", lock_path.display()))?;
        // Another process may have made it while this one waited.
        if !is_complete(&directory, &interpreter) {
            create(&directory, &interpreter)?;
        }
        Ok(environment)
    }

    /// Path of its Python.
    pub fn interpreter(&self) -> &str {
        &self.interpreter
    }
}

fn is_complete(directory: &Path, interpreter: &Path) -> bool {
    directory.join(MARKER).is_file() && interpreter.exists()
}

fn create(directory: &PathBuf, interpreter: &Path) -> anyhow::Result<()> {
    let shown = directory.display();
    if directory.exists() {
        fs::remove_dir_all(directory).with_context(|| format!("removing the unfinished {shown}"))?;
    }
    let python = if Path::new(SYSTEM_PYTHON).exists() { SYSTEM_PYTHON } else { OTHER_PYTHON };
    run(Command::new(python).args(["-m", "venv"]).arg(directory))
        .with_context(|| format!("making a virtualenv in {shown} (Debian: apt-get install python3-venv)"))?;
    let requirements = directory.join("requirements.txt");
    fs::write(&requirements, REQUIREMENTS).with_context(|| requirements.display().to_string())?;
    run(Command::new(interpreter)
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--requirement"])
        .arg(&requirements))
    .with_context(|| format!("installing the packages of tests/requirements.txt into {shown}"))?;
    fs::write(directory.join(MARKER), "").with_context(|| shown.to_string())
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("running {program}"))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        bail!("{program}: {}\n{}", output.status, String::from_utf8_lossy(&said).trim_end());
    }
    Ok(())
}
