//! `cargo xtask vm`: the package in a Debian 12 guest with its own kernel and systemd, under emulation.
//!
//! A runner (`vm-guest` of the tests) checks from inside and writes a JSON line for each check to the second serial port. A reboot of the guest is a
//! reset of the same machine, so what it has written to its disk is still there; when the machine is gone, so is that.

mod guest;

use std::{
    fs,
    io::{Read as _, Seek as _, SeekFrom},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use crate::{cargo, command, package, setup, target_dir};

/// What the machine has for everything, from power-on to power-off.
const LIMIT: Duration = Duration::from_secs(720);
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// Of the package's binary: built in half the time of a release.
const PROFILE: &str = "guest";
/// Versions of the package; the second one is installed over the first.
const VERSIONS: [&str; 2] = ["0.1.0-1", "0.1.0-2"];

/// A check as the runner tells of it. The last line has no check.
#[derive(Debug, Deserialize)]
struct Line {
    check: Option<String>,
    #[serde(default)]
    failed: Option<String>,
    #[serde(default)]
    said: Option<String>,
    #[serde(default)]
    seconds: f64,
    /// How many checks there were.
    #[serde(default)]
    all: usize,
}

pub fn run() -> Result<()> {
    setup::run()?;
    let Checks { failed, .. } = check()?;
    ensure!(failed == 0, "checks in the guest failed");
    Ok(())
}

/// How many checks ended how.
pub struct Checks {
    pub passed: u64,
    pub failed: u64,
}

/// Builds guest and package, and does all checks.
///
/// # Errors
/// When the guest did not come to its end.
pub fn check() -> Result<Checks> {
    ensure!(setup::is_root(), "building a guest takes root (debootstrap): run `cargo xtask vm` as root");
    setup::vm()?;
    let began = Instant::now();
    let guest = guest::find_or_build(&target_dir()?)?;
    let scratch = Scratch::new(&target_dir()?.join(format!("vm-run-{}", std::process::id())))?;
    let payload = payload(&scratch.0)?;
    println!("vm: guest and package are ready after {} s", began.elapsed().as_secs());
    let results = scratch.0.join("results");
    let console = scratch.0.join("console.log");
    let mut machine = Machine::start(&guest, &payload, &console, &results)?;
    let outcome = follow(&mut machine, &results);
    drop(machine);
    println!("vm: {} s in all", began.elapsed().as_secs());
    if outcome.as_ref().map_or(true, |checks| checks.failed > 0) {
        let said = fs::read_to_string(&console).unwrap_or_default();
        let tail: Vec<&str> = said.lines().rev().take(20).collect();
        eprintln!("the guest's console ended with:\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
    }
    outcome
}

/// A disk with two versions of the package and what checks them.
fn payload(scratch: &Path) -> Result<std::path::PathBuf> {
    let directory = scratch.join("payload");
    fs::create_dir_all(&directory)?;
    package::build(PROFILE)?;
    for version in VERSIONS {
        let deb = package::assemble(&scratch.join(version), Some(version), PROFILE)?;
        fs::copy(&deb, directory.join(format!("tollgate_{version}.deb")))?;
    }
    // Optimised, because the guest is slow; the profile of the package is built already.
    command::run(
        cargo()
            .args(["build", "--quiet", "--package", "tollgate-tests", "--bin", "vm-guest", "--target-dir"])
            .arg(target_dir()?),
    )?;
    fs::copy(target_dir()?.join("debug/vm-guest"), directory.join("run"))?;
    let image = scratch.join("payload.img");
    guest::make_image(&directory, &image, "payload", 512)?;
    Ok(image)
}

/// Tells of each check as it is done, as a test runner would.
fn follow(machine: &mut Machine, results: &Path) -> Result<Checks> {
    let began = Instant::now();
    let (mut passed, mut failed, mut all) = (0_usize, Vec::new(), None);
    let (mut offset, mut rest) = (0, String::new());
    println!("\nrunning checks in the guest");
    loop {
        // Before it is read: what was written until then will be.
        let is_over = machine.is_over()? || began.elapsed() > LIMIT;
        let mut text = Vec::new();
        if let Ok(mut file) = fs::File::open(results) {
            file.seek(SeekFrom::Start(offset))?;
            offset += u64::try_from(file.read_to_end(&mut text)?)?;
        }
        rest.push_str(&String::from_utf8_lossy(&text));
        while let Some((line, after)) = rest.split_once('\n') {
            match serde_json::from_str::<Line>(line.trim()) {
                Ok(Line { check: Some(check), failed: None, said, seconds, .. }) => {
                    passed += 1;
                    let said = said.map(|said| format!(": {said}")).unwrap_or_default();
                    println!("test vm::{check} ... ok ({seconds:.1} s{said})");
                }
                Ok(Line { check: Some(check), failed: Some(why), .. }) => {
                    println!("test vm::{check} ... FAILED");
                    failed.push((check, why));
                }
                Ok(Line { check: None, all: count, .. }) => all = Some(count),
                Err(_) if line.trim().is_empty() => {}
                Err(_) => println!("  {}", line.trim().chars().take(400).collect::<String>()),
            }
            rest = after.to_owned();
        }
        if is_over || (all.is_some() && machine.is_over()?) {
            break;
        }
        thread::sleep(LOOK_AGAIN);
    }
    for (check, why) in &failed {
        println!("\n---- vm::{check} ----\n{why}");
    }
    let is_whole = all == Some(passed + failed.len()) && passed > 0;
    let result = if failed.is_empty() && is_whole { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {result}. {passed} passed; {} failed; 0 ignored; 0 measured; 0 filtered out; finished in {:.2}s\n",
        failed.len(),
        began.elapsed().as_secs_f64()
    );
    if !is_whole {
        bail!(
            "the guest did not come to its end within {LIMIT:?}: {} of {all:?} checks were done",
            passed + failed.len()
        );
    }
    Ok(Checks { passed: u64::try_from(passed)?, failed: u64::try_from(failed.len())? })
}

/// A running machine; it is switched off when dropped.
struct Machine(Child);

impl Machine {
    fn start(guest: &guest::Guest, payload: &Path, console: &Path, results: &Path) -> Result<Self> {
        let drive = |image: &Path, rest: &str| format!("file={},if=virtio,format=raw,{rest}", image.display());
        let serial = |path: &Path| format!("file:{}", path.display());
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-accel", "tcg,thread=multi", "-smp", "2", "-cpu", "max", "-m", "1536", "-display", "none"]);
        qemu.args(["-nic", "none", "-kernel"]).arg(&guest.kernel).arg("-initrd").arg(&guest.initrd);
        qemu.args(["-append", "root=/dev/vda rw console=ttyS0 quiet mitigations=off"]);
        qemu.arg("-drive").arg(drive(&guest.disk, "snapshot=on"));
        qemu.arg("-drive").arg(drive(payload, "readonly=on"));
        qemu.arg("-serial").arg(serial(console)).arg("-serial").arg(serial(results));
        qemu.stdin(Stdio::null()).stdout(Stdio::null());
        qemu.spawn().map(Self).context("could not start qemu-system-x86_64; run `cargo xtask setup`")
    }

    fn is_over(&mut self) -> Result<bool> {
        Ok(self.0.try_wait()?.is_some())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Off already is as good.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A directory that goes away with this.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new(path: &Path) -> Result<Self> {
        fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path.into()))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}
