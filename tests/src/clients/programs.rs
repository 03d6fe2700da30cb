//! Clients that are installed by npm or built here.

use std::{fs, path::PathBuf, process::Command};

use anyhow::Context as _;

use super::recipe;
use crate::build_tree;

const PACKAGE: &str = include_str!("../../clients/npm/package.json");
const LOCK: &str = include_str!("../../clients/npm/package-lock.json");

/// Makes the directory with `node_modules` of `tests/clients/npm` unless it is there.
///
/// # Errors
/// When npm is missing or fails.
pub fn npm() -> anyhow::Result<PathBuf> {
    recipe::ensure("test-npm", &[PACKAGE, LOCK], |directory| {
        for (name, text) in [("package.json", PACKAGE), ("package-lock.json", LOCK)] {
            fs::write(directory.join(name), text).with_context(|| name.to_owned())?;
        }
        let mut install = Command::new("npm");
        install.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(directory);
        recipe::run_online(&mut install).context("installing tests/clients/npm (Debian: apt-get install npm)")
    })
}

/// Makes the directory with the clients in Go and Rust, each also stripped (`NAME-stripped`), unless it is there.
///
/// # Errors
/// When a compiler is missing or fails.
pub fn native() -> anyhow::Result<PathBuf> {
    let recipe = [
        include_str!("../../clients/go/main.go"),
        include_str!("../../clients/rust/Cargo.toml"),
        include_str!("../../clients/rust/Cargo.lock"),
        include_str!("../../clients/rust/src/main.rs"),
    ];
    recipe::ensure("test-native", &recipe, |directory| {
        for (name, flags) in [("go-client", ""), ("go-client-stripped", "-s -w")] {
            let mut build = Command::new("go");
            build.args(["build", "-ldflags", flags, "-o"]).arg(directory.join(name)).arg("main.go");
            build.env("GOFLAGS", "-mod=mod").env("GO111MODULE", "off").env("GOCACHE", directory.join("go-cache"));
            build.current_dir(build_tree::scripts().join("go"));
            recipe::run(&mut build).context("building the client in Go (Debian: apt-get install golang-go)")?;
        }
        for (name, feature) in [("reqwest-ring", "rustls"), ("reqwest-aws-lc", "aws-lc"), ("reqwest-native", "native")]
        {
            let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            build.args(["build", "--quiet", "--release", "--locked", "--features", feature, "--target-dir"]);
            build.arg(directory.join("cargo")).current_dir(build_tree::scripts().join("rust"));
            recipe::run_online(&mut build).context("building the client in Rust")?;
            let built = directory.join(name);
            fs::copy(directory.join("cargo/release/reqwest-client"), &built)
                .with_context(|| built.display().to_string())?;
            let mut strip = Command::new("strip");
            strip.arg("-o").arg(directory.join(format!("{name}-stripped"))).arg(&built);
            recipe::run(&mut strip)?;
        }
        for rubbish in ["cargo", "go-cache"] {
            fs::remove_dir_all(directory.join(rubbish)).with_context(|| rubbish.to_owned())?;
        }
        Ok(())
    })
}
