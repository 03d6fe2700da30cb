//! Builds the eBPF object and hands its path to `probe` as `TOLLGATE_EBPF_OBJECT`.
//!
//! aya-build is not used because it cannot pass `-Ctarget-cpu=v3`, without which atomic fetch-and-add does not compile for
//! BPF. The flags are otherwise the ones it passes.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};

const TARGET: &str = "bpfel-unknown-none";
const LINKER_VERSION: &str = "0.13.0";
/// Crates that may use unstable features: aya-ebpf needs one, and the programs use `core::intrinsics` for atomics.
const BOOTSTRAP: &str = "aya_ebpf,monitor_ebpf";

fn main() -> ExitCode {
    match build() {
        Ok(object) => {
            println!("cargo::rustc-env=TOLLGATE_EBPF_OBJECT={}", object.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("cargo::error={error:#}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<PathBuf> {
    let manifest_dir = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").context("run by cargo")?);
    let root = manifest_dir.parent().context("a workspace member")?;
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").context("run by cargo")?);
    for input in ["monitor-ebpf", "monitor-common", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    for variable in ["TOLLGATE_BPF_LINKER", "XDG_CACHE_HOME"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }

    let linker = linker()?;
    let toolchain = Toolchain::find()?;
    let target_dir = out_dir.join("ebpf");
    let flags = [
        "--cfg=bpf_target_arch=\"x86_64\"",
        "-Cdebuginfo=2",
        "-Ctarget-cpu=v3",
        "-Clink-arg=--btf",
        &format!("-Clinker={}", linker.display()),
    ]
    .map(|flag| if flag.contains("bpf_target_arch") { flag.replace("x86_64", &target_arch()) } else { flag.to_owned() })
    .join("\u{1f}");

    let mut cargo = toolchain.cargo();
    cargo
        .current_dir(root)
        .args(["build", "--quiet", "--package", "monitor-ebpf", "--bin", "monitor-ebpf", "--release", "--locked"])
        .args(["--target", TARGET, "--target-dir"])
        .arg(&target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", flags);
    let output = cargo.output().with_context(|| format!("could not start {cargo:?}; run `cargo xtask setup`"))?;
    if !output.status.success() {
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        bail!("the eBPF programs did not build with {}: {}", toolchain.name, first_error(&output.stderr));
    }
    Ok(target_dir.join(TARGET).join("release").join("monitor-ebpf"))
}

fn first_error(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    text.lines().find(|line| line.starts_with("error")).unwrap_or("no error message").to_owned()
}

fn target_arch() -> String {
    env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_else(|_| "x86_64".to_owned())
}

/// bpf-linker in the version that matches the compiler's LLVM: named by the environment, installed by `cargo xtask setup`, or on the `PATH`.
fn linker() -> Result<PathBuf> {
    let named = env::var_os("TOLLGATE_BPF_LINKER").map(PathBuf::from);
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    let installed = cache.map(|cache| cache.join(format!("tollgate/bpf-linker-{LINKER_VERSION}/bin/bpf-linker")));
    named
        .into_iter()
        .chain(installed)
        .chain(on_path("bpf-linker"))
        .find(|path| path.is_file())
        .with_context(|| format!("bpf-linker {LINKER_VERSION} is not installed; run `cargo xtask setup`"))
}

fn on_path(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// A compiler that has `core` for BPF, or can build it.
struct Toolchain {
    name: &'static str,
    cargo: PathBuf,
    rustc: PathBuf,
    build_std: bool,
}

impl Toolchain {
    /// A system compiler with a prebuilt `core` (Debian's `libstd-rust-web-dev-bpf`), else rustup's nightly with `rust-src`.
    fn find() -> Result<Self> {
        let system = Self {
            name: "/usr/bin/rustc",
            cargo: "/usr/bin/cargo".into(),
            rustc: "/usr/bin/rustc".into(),
            build_std: false,
        };
        if system.cargo.is_file() && system.sysroot().is_some_and(|root| root.join("lib/rustlib").join(TARGET).is_dir())
        {
            return Ok(system);
        }
        if let (Some(cargo), Some(rustc)) = (rustup_which("cargo"), rustup_which("rustc")) {
            let nightly = Self { name: "rustup's nightly", cargo, rustc, build_std: true };
            if nightly.sysroot().is_some_and(|root| root.join("lib/rustlib/src/rust/library/core").is_dir()) {
                return Ok(nightly);
            }
        }
        bail!(
            "no Rust compiler for BPF: run `cargo xtask setup` (Debian: rustc-web, cargo-web and libstd-rust-web-dev-bpf; elsewhere: \
             `rustup toolchain install nightly --component rust-src`)"
        )
    }

    fn sysroot(&self) -> Option<PathBuf> {
        let output = clean(Command::new(&self.rustc)).args(["--print", "sysroot"]).output().ok()?;
        output.status.success().then(|| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
    }

    fn cargo(&self) -> Command {
        let mut cargo = clean(Command::new(&self.cargo));
        cargo.env("RUSTC", &self.rustc).env("RUSTC_BOOTSTRAP", BOOTSTRAP);
        if self.build_std {
            cargo.args(["-Z", "build-std=core"]);
        }
        cargo
    }
}

fn rustup_which(program: &str) -> Option<PathBuf> {
    let output = clean(Command::new("rustup")).args(["which", "--toolchain", "nightly", program]).output().ok()?;
    output.status.success().then(|| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

/// Without what the outer cargo set for its own compiler.
fn clean(mut command: Command) -> Command {
    let outer = |name: &OsString| {
        let name = name.to_string_lossy();
        ["CARGO", "RUSTC", "RUSTFLAGS", "RUSTUP_TOOLCHAIN", "TARGET", "HOST", "OPT_LEVEL", "PROFILE", "DEBUG"]
            .contains(&&*name)
            || [
                "CARGO_CFG_",
                "CARGO_FEATURE_",
                "CARGO_PKG_",
                "CARGO_MANIFEST_",
                "CARGO_ENCODED_",
                "CARGO_BUILD_",
                "RUSTC_",
                "CLIPPY_",
            ]
            .iter()
            .any(|prefix| name.starts_with(prefix))
    };
    for (name, _) in env::vars_os().filter(|(name, _)| outer(name)) {
        command.env_remove(name);
    }
    command.env_remove("CARGO_TARGET_DIR");
    command
}
