//! `cargo xtask setup`: installs what building, running and testing need, and is missing.
//!
//! Needs nothing itself but stable Rust with its linker. Does nothing, quickly, when all is there.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{cargo, command};

/// bpf-linker in the version that matches LLVM 22, which is what the compiler below emits. `monitor/build.rs` looks for it in the same place.
const LINKER_VERSION: &str = "0.13.0";
const LLVM: &str = "/usr/lib/llvm-22";

/// Debian packages, each with what it is for.
const PACKAGES: [(&str, &str); 27] = [
    ("gcc", "linking Rust, compiling SQLite"),
    ("g++", "linking bpf-linker with LLVM"),
    ("libc6-dev", "linking Rust"),
    ("rustc-web", "a compiler that comes with `core` for BPF"),
    ("cargo-web", "its cargo"),
    ("libstd-rust-web-dev-bpf", "`core` for BPF"),
    ("llvm-22-dev", "building bpf-linker"),
    ("zlib1g-dev", "building bpf-linker"),
    ("libzstd-dev", "building bpf-linker"),
    ("ca-certificates", "trusting servers"),
    ("libssl3", "the TLS library that is probed"),
    ("curl", "a client of the tests"),
    ("wget", "a client of the tests, with GnuTLS"),
    ("gnutls-bin", "a client of the tests, with GnuTLS"),
    ("libnss3-tools", "a client of the tests, with NSS"),
    ("python3-pycurl", "a client of the tests, curl with GnuTLS"),
    ("nodejs", "a client of the tests"),
    ("golang-go", "building clients of the tests"),
    ("default-jdk-headless", "a client of the tests"),
    ("libssl-dev", "building a client of the tests"),
    ("pkg-config", "building a client of the tests"),
    ("binutils", "stripping clients of the tests"),
    ("bubblewrap", "a client of the tests that makes a sandbox"),
    ("mount", "tests that mount what containers do"),
    ("python3-venv", "clients of the tests, the sample agent"),
    ("prometheus", "promtool, and tests of what is scraped"),
    ("util-linux", "tests that take a kernel's features away"),
];

/// What only the guest of `cargo xtask vm` needs.
const VM_PACKAGES: [(&str, &str); 4] = [
    ("debootstrap", "building the guest"),
    ("e2fsprogs", "its disk"),
    ("qemu-system-x86", "running it"),
    ("seabios", "its firmware"),
];

pub fn vm() -> Result<()> {
    install(&VM_PACKAGES)
}

pub fn run() -> Result<()> {
    install(&PACKAGES)?;
    install_linker()?;
    install_components()
}

/// What only the live tests need, and takes longer: SDKs and agents of the client matrix, and those that are built here.
pub fn clients() -> Result<()> {
    // Node's own packages bring npm along, and then Debian's cannot be installed.
    if Command::new("npm").arg("--version").output().is_err() {
        ensure!(is_root(), "npm is missing and only root may install it: apt-get install npm");
        println!("setup: installing npm (clients of the tests)");
        apt(&["install", "--yes", "--no-install-recommends", "npm"])?;
    }
    println!("setup: clients of the live tests (a few minutes and 3 GB, once)");
    command::run(cargo().args(["run", "--quiet", "--package", "tollgate-tests", "--bin", "test-clients"]))
}

/// Nobody else may install packages or load programs.
pub fn is_root() -> bool {
    command::output(Command::new("id").arg("-u")).is_ok_and(|uid| uid.trim() == "0")
}

fn install(packages: &[(&'static str, &'static str)]) -> Result<()> {
    if !Path::new("/usr/bin/apt-get").is_file() {
        // Not Debian: what is missing is said by the steps that need it.
        println!(
            "setup: no apt-get here; a BPF toolchain must be there already (rustup's nightly with rust-src, bpf-linker {LINKER_VERSION})"
        );
        return Ok(());
    }
    let missing: Vec<(&str, &str)> = packages.iter().copied().filter(|(package, _)| !is_installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|(package, _)| *package).collect();
    if !is_root() {
        bail!("packages are missing and only root may install them: apt-get install {}", names.join(" "));
    }
    for (package, purpose) in &missing {
        println!("setup: installing {package} ({purpose})");
    }
    apt(&["update"])?;
    let mut install = vec!["install", "--yes", "--no-install-recommends"];
    install.extend(&names);
    apt(&install)
        .context("Debian 12 has these packages in its main and security archives; are both in the package sources?")
}

fn apt(arguments: &[&str]) -> Result<()> {
    command::quietly(
        Command::new("apt-get").args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()),
    )
}

fn is_installed(package: &str) -> bool {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat", "${db:Status-Status}", package]).stderr(Stdio::null());
    query.output().is_ok_and(|output| output.stdout == b"installed")
}

/// Where a tool in this version goes: a place of its own, so that another version that somebody uses is left alone.
pub fn tool_root(tool: &str, version: &str) -> Result<PathBuf> {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    Ok(cache.context("neither XDG_CACHE_HOME nor HOME is set")?.join("tollgate").join(format!("{tool}-{version}")))
}

fn install_linker() -> Result<()> {
    let root = tool_root("bpf-linker", LINKER_VERSION)?;
    if root.join("bin/bpf-linker").is_file() || env::var_os("TOLLGATE_BPF_LINKER").is_some() {
        return Ok(());
    }
    if !Path::new(LLVM).is_dir() {
        bail!(
            "bpf-linker {LINKER_VERSION} is missing and cannot be built without LLVM 22 in {LLVM}: install it, or name a bpf-linker in TOLLGATE_BPF_LINKER"
        );
    }
    println!("setup: building bpf-linker {LINKER_VERSION} in {} (a minute or two)", root.display());
    let mut install = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    install.args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--quiet"]);
    install.args(["--no-default-features", "--features", "llvm-22", "--root"]).arg(&root).env("LLVM_PREFIX", LLVM);
    command::quietly(&mut install)
}

fn install_components() -> Result<()> {
    for (component, subcommand) in [("clippy", "clippy"), ("rustfmt", "fmt")] {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let probe = Command::new(cargo).args([subcommand, "--version"]).output();
        if probe.is_ok_and(|output| output.status.success()) {
            continue;
        }
        println!("setup: installing the Rust component {component}");
        command::quietly(Command::new("rustup").args(["component", "add", component])).with_context(|| {
            format!("cargo {subcommand} is missing; install the {component} of your Rust toolchain")
        })?;
    }
    Ok(())
}
