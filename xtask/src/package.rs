//! `cargo xtask package`: a Debian package of the daemon, its unit, its configuration and its documentation.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{cargo, command, setup, target_dir};

/// cargo-deb in a version that builds with the oldest supported compiler.
const CARGO_DEB: &str = "3.8.0";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Another version of the package than the workspace's
    #[arg(long)]
    version: Option<String>,
    /// Directory for the package [default: the target's `debian`]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

pub fn run(args: &Args) -> Result<()> {
    setup::run()?;
    build(RELEASE)?;
    let output = args.output.clone().map_or_else(|| Ok::<_, anyhow::Error>(target_dir()?.join("debian")), Ok)?;
    let package = assemble(&output, args.version.as_deref(), RELEASE)?;
    println!("{}", package.display());
    Ok(())
}

/// The profile of packages that are used.
pub const RELEASE: &str = "release";

/// Builds what goes into the package.
pub fn build(profile: &str) -> Result<()> {
    command::run(
        cargo()
            .args(["build", "--quiet", "--profile", profile, "--package", "monitor", "--bin", "tollgate"])
            .arg("--target-dir")
            .arg(target_dir()?),
    )?;
    let release = target_dir()?.join(profile);
    command::run(Command::new(release.join("tollgate")).arg("docs").arg(release.join("docs")))
}

/// Makes a package of what was built.
pub fn assemble(output: &Path, version: Option<&str>, profile: &str) -> Result<PathBuf> {
    let tool = install_cargo_deb()?;
    fs::create_dir_all(output).with_context(|| format!("cannot create {}", output.display()))?;
    let mut deb = Command::new(tool);
    // `cargo deb` by its own name: it needs no place on the `PATH`.
    deb.arg("deb").current_dir(crate::root()).env("CARGO_TARGET_DIR", target_dir()?);
    deb.args(["--profile", profile]);
    deb.args(["--no-build", "--quiet", "--package", "monitor", "--fast", "--output"]).arg(output);
    deb.args(version.map(|version| format!("--deb-version={version}")));
    let said = command::output(&mut deb)?;
    let path = said.lines().rev().find(|line| line.ends_with(".deb")).map(|line| PathBuf::from(line.trim()));
    let newest = || {
        let packages = fs::read_dir(output).ok()?.flatten().map(|entry| entry.path());
        let packages = packages.filter(|path| path.extension().is_some_and(|extension| extension == "deb"));
        packages.max_by_key(|path| path.metadata().and_then(|metadata| metadata.modified()).ok())
    };
    path.filter(|path| path.is_file()).or_else(newest).context("cargo-deb made no package")
}

/// In a place of its own, so that another version that somebody uses is left alone.
fn install_cargo_deb() -> Result<PathBuf> {
    let root = setup::tool_root("cargo-deb", CARGO_DEB)?;
    let tool = root.join("bin/cargo-deb");
    if !tool.is_file() {
        println!("setup: building cargo-deb {CARGO_DEB} in {} (two minutes or three)", root.display());
        let mut install = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        install.args(["install", "cargo-deb", "--version", CARGO_DEB, "--locked", "--quiet", "--root"]).arg(&root);
        command::quietly(&mut install)?;
    }
    Ok(tool)
}
