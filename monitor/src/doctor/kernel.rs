//! What the kernel offers, and what this user may do with it.

use std::{fs, io::Read as _, path::Path};

use super::Check;
use crate::config::Config;

/// The first version with everything that the programs use.
const OLDEST: (u32, u32) = (5, 17);
const BTF: &str = "/sys/kernel/btf/vmlinux";
/// What a file of BTF begins with (Documentation/bpf/btf.rst), as the byte order of this machine has it.
const BTF_MAGIC: u16 = 0xeb9f;
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";
/// What the daemon needs, by their numbers (`capability.h`).
const CAPABILITIES: [(u32, &str); 7] = [
    (1, "CAP_DAC_OVERRIDE"),
    (5, "CAP_KILL"),
    (12, "CAP_NET_ADMIN"),
    (19, "CAP_SYS_PTRACE"),
    (21, "CAP_SYS_ADMIN"),
    (38, "CAP_PERFMON"),
    (39, "CAP_BPF"),
];

pub fn checks(config: &Config) -> Vec<Check> {
    let release = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
    let release = release.unwrap_or_default();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    vec![
        version(&release),
        btf(Path::new(BTF)),
        tracefs(&mounts, &filesystems),
        bpffs(&mounts, &filesystems, config),
        lockdown(fs::read_to_string(LOCKDOWN).ok().as_deref()),
        capabilities(&fs::read_to_string("/proc/self/status").unwrap_or_default()),
        memory(config),
    ]
}

/// The first two numbers of a kernel's release.
fn numbers(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

pub(super) fn version(release: &str) -> Check {
    match numbers(release) {
        Some(version) if version >= OLDEST => Check::ok("kernel", format!("Linux {release}")),
        Some(_) => Check::fail("kernel", format!("Linux {release}"), "use Linux 5.17 or newer"),
        None => Check::warn("kernel", format!("a release called `{release}`"), "Linux 5.17 or newer is needed"),
    }
}

pub(super) fn btf(path: &Path) -> Check {
    let mut magic = [0; 2];
    match fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic)) {
        Ok(()) if u16::from_ne_bytes(magic) == BTF_MAGIC => Check::ok("btf", path.display().to_string()),
        Ok(()) => Check::fail("btf", format!("{} is no BTF", path.display()), "use another kernel"),
        Err(error) => Check::fail(
            "btf",
            format!("{}: {error}", path.display()),
            "use a kernel built with CONFIG_DEBUG_INFO_BTF=y",
        ),
    }
}

/// Where file systems of that type are mounted.
pub(super) fn mounted<'m>(mounts: &'m str, wanted: &'m str) -> impl Iterator<Item = &'m str> {
    mounts.lines().filter_map(move |line| {
        let mut fields = line.split(' ');
        let (_, path, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == wanted).then_some(path)
    })
}

fn is_known(filesystems: &str, wanted: &str) -> bool {
    filesystems.lines().any(|line| line.split_whitespace().next_back() == Some(wanted))
}

pub(super) fn tracefs(mounts: &str, filesystems: &str) -> Check {
    if let Some(path) = mounted(mounts, "tracefs").next() {
        return Check::ok("tracefs", path);
    }
    if is_known(filesystems, "tracefs") {
        return Check::ok("tracefs", "not mounted; the daemon mounts it");
    }
    Check::fail(
        "tracefs",
        "the kernel has none",
        "use a kernel with CONFIG_FTRACE, CONFIG_UPROBE_EVENTS and tracepoints",
    )
}

pub(super) fn bpffs(mounts: &str, filesystems: &str, config: &Config) -> Check {
    const NAME: &str = "bpffs";
    let Some(directory) = config.pin_directory() else {
        return Check::warn(
            NAME,
            "`kernel.pin_directory` is empty: gates go with the daemon",
            "set it, so that what is shut stays shut without a daemon",
        );
    };
    let shown = directory.display();
    if mounted(mounts, "bpf").any(|mount| directory.starts_with(mount)) {
        return Check::ok(NAME, format!("mounted above {shown}"));
    }
    if !is_known(filesystems, "bpf") {
        return Check::fail(NAME, "the kernel has none", "use a kernel with CONFIG_BPF_SYSCALL");
    }
    if directory.starts_with("/sys/fs/bpf") {
        return Check::ok(NAME, "not mounted; the daemon mounts it");
    }
    Check::fail(NAME, format!("{shown} is on no bpffs"), "mount one there: `mount -t bpf bpf DIRECTORY`")
}

/// `said` is the file of lockdown(7): the mode in force is in brackets.
pub(super) fn lockdown(said: Option<&str>) -> Check {
    const NAME: &str = "lockdown";
    let Some(said) = said else { return Check::ok(NAME, "none, or securityfs is not mounted") };
    let mode = said.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map_or("?", |(mode, _)| mode);
    match mode {
        "none" | "integrity" => Check::ok(NAME, mode),
        "confidentiality" => Check::fail(
            NAME,
            "confidentiality: programs cannot read what they must",
            "boot with `lockdown=integrity`, or without Secure Boot",
        ),
        other => Check::warn(NAME, format!("`{other}`, which is not known here"), "see whether the daemon starts"),
    }
}

/// `status` is that of this process in `/proc`.
pub(super) fn capabilities(status: &str) -> Check {
    const NAME: &str = "capabilities";
    let set = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0)
    };
    let lacking = |set: u64| {
        let lacks = CAPABILITIES.into_iter().filter(|(number, _)| set & (1 << number) == 0).map(|(_, name)| name);
        lacks.collect::<Vec<_>>().join(", ")
    };
    let (effective, bounding) = (lacking(set("CapEff:")), lacking(set("CapBnd:")));
    if !bounding.is_empty() {
        return Check::fail(
            NAME,
            format!("nobody here can have {bounding}"),
            "run the daemon outside of this container, or with these capabilities",
        );
    }
    if effective.is_empty() {
        return Check::ok(NAME, "all that the daemon needs");
    }
    Check::warn(
        NAME,
        format!("this user lacks {effective}"),
        "run the daemon as root; run `tollgate doctor` as root to see everything",
    )
}

/// How much is locked is no question: since Linux 5.11, maps count as memory of their cgroup.
fn memory(config: &Config) -> Check {
    const NAME: &str = "memory";
    let ring = u64::from(config.kernel.ring_mib) << 20;
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let available = available.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    let found = format!(
        "a ring of {} MiB; {} available",
        ring >> 20,
        available.map_or_else(|| "an unknown amount".into(), |kib| format!("{} MiB", kib >> 10))
    );
    // More than a tenth of what is left is more than a meter should take.
    if available.is_some_and(|kib| ring / 1024 > kib / 10) {
        return Check::warn(NAME, found, "lower `kernel.ring_mib`, or give the host more memory");
    }
    Check::ok(NAME, found)
}
