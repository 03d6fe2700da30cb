//! Attaching to OpenSSL wherever it lies on this host.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    programs::{
        ProgramError, UProbe,
        uprobe::{UProbeAttachLocation, UProbeScope},
    },
};
use serde::Serialize;

use super::finder::{self, Depth, Findings, ImageError, Returns, Signatures, Target, TlsStack};

/// Which program handles which function; the second one, if any, its return.
const FUNCTIONS: [(&str, &str, Option<&str>); 5] = [
    ("SSL_write", "ssl_write", Some("ssl_return")),
    ("SSL_write_ex", "ssl_write_ex", Some("ssl_return")),
    ("SSL_read", "ssl_read", Some("ssl_return")),
    ("SSL_read_ex", "ssl_read_ex", Some("ssl_return")),
    ("SSL_free", "ssl_free", None),
];
/// Without these a library is not covered. (`_ex` came with OpenSSL 1.1.1.)
const REQUIRED: [&str; 3] = ["SSL_write", "SSL_read", "SSL_free"];

/// Why a file that looks like a TLS library is not probed.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    #[error("cannot search {path}: {source}")]
    Search { path: PathBuf, source: ImageError },
    #[error("{path} has no symbol for {missing}")]
    Missing { path: PathBuf, missing: &'static str },
    #[error("cannot attach to {symbol} in {path}: {source}")]
    Attach { path: PathBuf, symbol: &'static str, source: Box<ProgramError> },
}

/// Where shared libraries lie when no process has them mapped yet.
const LIBRARY_DIRECTORIES: [&str; 8] = [
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/lib",
];

/// A file whose TLS calls are seen, in every process that maps it.
#[derive(Debug, Clone, Serialize)]
pub struct Attached {
    pub path: PathBuf,
    pub functions: Vec<&'static str>,
}

/// Files that are probed, by (device, inode): what a uprobe is attached to is the inode, under whatever name.
#[derive(Debug, Default)]
pub struct Libraries {
    attached: HashMap<(u64, u64), Attached>,
    /// Files that failed, so that each is reported once.
    failed: HashMap<(u64, u64), ()>,
}

impl Libraries {
    pub fn attached(&self) -> impl Iterator<Item = &Attached> {
        self.attached.values()
    }

    /// Attaches to every OpenSSL of the host's library directories and of running processes; returns what could not be attached.
    pub fn attach_host(&mut self, ebpf: &mut Ebpf) -> Vec<LibraryError> {
        let mut candidates = installed();
        if let Ok(processes) = procfs::process::all_processes() {
            for process in processes.flatten() {
                candidates.extend(mapped(process.pid()));
            }
        }
        self.attach_all(ebpf, candidates)
    }

    /// Attaches to what one process has mapped.
    pub fn attach_process(&mut self, ebpf: &mut Ebpf, pid: i32) -> Vec<LibraryError> {
        self.attach_all(ebpf, mapped(pid))
    }

    fn attach_all(&mut self, ebpf: &mut Ebpf, candidates: Vec<PathBuf>) -> Vec<LibraryError> {
        let mut errors = Vec::new();
        for path in candidates {
            let Ok(metadata) = fs::metadata(&path) else { continue };
            let inode = (metadata.dev(), metadata.ino());
            if self.attached.contains_key(&inode) || self.failed.contains_key(&inode) {
                continue;
            }
            match attach(ebpf, &path) {
                Ok(attached) => drop(self.attached.insert(inode, attached)),
                Err(error) => {
                    self.failed.insert(inode, ());
                    errors.push(error);
                }
            }
        }
        errors
    }
}

fn is_openssl(name: &str) -> bool {
    name.starts_with("libssl.so") || (name.starts_with("libssl-") && name.contains(".so"))
}

fn installed() -> Vec<PathBuf> {
    let entries = LIBRARY_DIRECTORIES.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|name| is_openssl(&name.to_string_lossy())))
        .collect()
}

/// OpenSSL libraries in a process' address space, reached through its own root: it may live in another mount namespace.
fn mapped(pid: i32) -> Vec<PathBuf> {
    let Ok(maps) = procfs::process::Process::new(pid).and_then(|process| process.maps()) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = Vec::new();
    for map in maps {
        let procfs::process::MMapPath::Path(path) = map.pathname else { continue };
        if path.file_name().is_some_and(|name| is_openssl(&name.to_string_lossy())) {
            let seen_from_here =
                Path::new("/proc").join(pid.to_string()).join("root").join(path.strip_prefix("/").unwrap_or(&path));
            if !paths.contains(&seen_from_here) {
                paths.push(seen_from_here);
            }
        }
    }
    paths
}

fn attach(ebpf: &mut Ebpf, path: &Path) -> Result<Attached, LibraryError> {
    let findings = finder::inspect(path, &Signatures::default(), Depth::Code)
        .map_err(|source| LibraryError::Search { path: path.into(), source })?;
    if let Some(missing) = REQUIRED.into_iter().find(|required| function(&findings, required).is_none()) {
        return Err(LibraryError::Missing { path: path.into(), missing });
    }
    let mut functions = Vec::new();
    for (symbol, entry, exit) in FUNCTIONS {
        let Some(target) = function(&findings, symbol) else { continue };
        // Where both are needed, both are at one place: a second breakpoint would cost more than a cheaper place for the first one saves.
        let offset = match target.returns {
            Returns::Probe { offset } => offset,
            Returns::Sites(_) | Returns::None => target.entry.offset,
        };
        // The return first: an entry without its return would leave the call open.
        for program in exit.into_iter().chain([entry]) {
            attach_at(ebpf, program, path, offset).map_err(|source| LibraryError::Attach {
                path: path.into(),
                symbol,
                source: Box::new(source),
            })?;
        }
        functions.push(symbol);
    }
    // Resolves `/proc/<pid>/root`, whose pid will be gone when somebody reads this.
    let path = fs::canonicalize(path).unwrap_or_else(|_: io::Error| path.into());
    Ok(Attached { path, functions })
}

/// OpenSSL's function of this name, or that of one of its descendants.
fn function<'f>(findings: &'f Findings, name: &str) -> Option<&'f Target> {
    let is_openssl = |target: &&Target| matches!(target.stack, TlsStack::OpenSsl | TlsStack::BoringSsl);
    findings.targets.iter().filter(is_openssl).find(|target| target.function == name)
}

fn attach_at(ebpf: &mut Ebpf, program: &str, path: &Path, offset: u64) -> Result<(), ProgramError> {
    let Some(program) = ebpf.program_mut(program) else { return Err(ProgramError::NotLoaded) };
    let program: &mut UProbe = program.try_into()?;
    // The link stays with the program, which lives as long as the daemon.
    program.attach(UProbeAttachLocation::AbsoluteOffset(offset), path, UProbeScope::AllProcesses)?;
    Ok(())
}
