//! Where cargo put what it built.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::{Context as _, bail};

/// Names the `tollgate` binary to test instead of building it.
const BINARY_VARIABLE: &str = "TOLLGATE_BIN";

/// The workspace this was compiled from.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or_else(|| Path::new("."))
}

/// The client scripts.
pub fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}

/// Cargo's target directory, which this executable is in (it holds cargo's `CACHEDIR.TAG`).
///
/// # Errors
/// When this executable is not where cargo built it.
pub fn target_dir() -> anyhow::Result<PathBuf> {
    let executable = std::env::current_exe().context("the path of this executable")?;
    let target = executable.ancestors().skip(1).find(|directory| directory.join("CACHEDIR.TAG").is_file());
    target.map(Path::to_owned).with_context(|| format!("{} is not in a cargo target directory", executable.display()))
}

/// The `tollgate` binary, built once with the profile of this executable.
///
/// # Errors
/// When it cannot be built; the message ends with what cargo said.
pub fn tollgate() -> anyhow::Result<&'static Path> {
    static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let binary = BINARY.get_or_init(|| find_or_build().map_err(|error| format!("{error:#}")));
    binary.as_deref().map_err(|error| anyhow::anyhow!("{error}"))
}

fn find_or_build() -> anyhow::Result<PathBuf> {
    if let Some(binary) = std::env::var_os(BINARY_VARIABLE) {
        let binary = PathBuf::from(binary);
        if !binary.is_file() {
            bail!("{BINARY_VARIABLE} names {}, which is not a file", binary.display());
        }
        return Ok(binary);
    }
    let target = target_dir()?;
    let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let built = Command::new(&cargo)
        .args(["build", "--quiet", "--package", "monitor", "--bin", "tollgate", "--profile", profile, "--target-dir"])
        .arg(&target)
        .current_dir(workspace())
        .output()
        .with_context(|| format!("running {}", cargo.display()))?;
    if !built.status.success() {
        bail!("building tollgate: {}\n{}", built.status, String::from_utf8_lossy(&built.stderr));
    }
    let directory = if cfg!(debug_assertions) { "debug" } else { "release" };
    let binary = target.join(directory).join("tollgate");
    if !binary.is_file() {
        bail!("cargo built tollgate, but not as {}", binary.display());
    }
    Ok(binary)
}
