//! Where in any executable or library does plaintext pass?
//!
//! In: bytes of an ELF file, and of its debug file if there is one. Out: [`Findings`]: functions with the layout of their arguments, how each was
//! found, and for every TLS stack that is in the file whether it is covered or why not.
//!
//! Evidence is asked in the order of its strength: the file's own symbols, its debug file, Go's function table, what code refers to, patterns of
//! known builds.
//!
//! Targets can nest: a call of one inside a call of another, by the same thread, is the same plaintext (`gnutls_record_send` and its `…_send2`,
//! `EVP_AEAD_CTX_open` and its `…_open_gather`).
//!
//! **Invariant:** a stack is covered if functions of both directions were found, each by evidence that fits it alone; else it is *uncovered* with the
//! reason. There are no guesses. The files are hostile: bounded memory and time, no panic.
#![forbid(unsafe_code)]

mod aws_lc;
mod boringssl;
mod code;
mod contents;
mod debug_files;
mod gopclntab;
mod image;
mod learn;
mod openssl;
mod rustls;
mod signatures;
mod structure;
mod symbols;
mod target;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use serde::Serialize;

pub use code::{Cost, EntryPoint};
pub use image::{Architecture, Depth, ImageError};
pub use learn::LearnError;
pub use signatures::{DIRECTORY as SIGNATURES_DIRECTORY, Signature, SignatureError, SignatureFile, Signatures};
pub use target::{Abi, Certainty, Coverage, Found, Passed, Place, Returns, Role, Shared, Target, TlsStack, Verdict};

use image::Image;
use symbols::Known;
use target::Direction;

/// Where shared libraries lie, also when no process has them mapped yet.
pub const LIBRARY_DIRECTORIES: [&str; 8] = [
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/lib",
];
/// A program without TLS functions that it names is searched through from this size on: a smaller one has no room for TLS of its own.
pub const SEARCHED_FROM: u64 = 1 << 20;

/// Traces of libraries in constant data, so that one that was not found is seen all the same.
const TRACES: [(TlsStack, &str); 6] = [
    (TlsStack::OpenSsl, "ssl/ssl_lib.c\0"),
    (TlsStack::BoringSsl, "ssl/ssl_lib.cc\0"),
    (TlsStack::S2n, "s2n_send.c\0"),
    (TlsStack::WolfSsl, "wolfSSL Entering"),
    (TlsStack::MbedTls, "library/ssl_msg.c\0"),
    (TlsStack::GnuTls, "ASSERT: %s[%s]:%d\n\0"),
];

/// What is known of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Findings {
    pub architecture: Architecture,
    pub build_id: Option<String>,
    pub go: Option<String>,
    pub debug_file: Option<PathBuf>,
    pub targets: Vec<Target>,
    /// What could be probed in place of some targets.
    pub shared: Vec<Shared>,
    /// One for each stack that there is a word to say about.
    pub verdicts: Vec<Verdict>,
}

impl Findings {
    pub fn is_covered(&self, stack: TlsStack) -> bool {
        self.verdicts.iter().any(|verdict| verdict.stack == stack && verdict.coverage == Coverage::Covered)
    }
}

/// Searches a file.
///
/// # Errors
/// When it cannot be read or is no ELF file.
pub fn inspect(path: &Path, signatures: &Signatures, depth: Depth) -> Result<Findings, ImageError> {
    let contents = image::read(&mut open(path)?, depth)?;
    let image = Image::parse(&contents)?;
    let debug = debug_files::find(&image, path, Path::new("/"));
    search(&image, debug.as_ref(), signatures)
}

/// Opens a regular file; to open another kind may block, or have an effect.
fn open(path: &Path) -> io::Result<File> {
    if fs::metadata(path)?.is_file() { File::open(path) } else { Err(io::Error::other("it is not a regular file")) }
}

/// Searches a file and derives signatures from what was found in another way.
///
/// # Errors
/// When it cannot be read; inside, when nothing can be derived.
pub fn learn(path: &Path, version: &str) -> Result<Result<SignatureFile, LearnError>, ImageError> {
    let contents = image::read(&mut open(path)?, Depth::Code)?;
    let image = Image::parse(&contents)?;
    let debug = debug_files::find(&image, path, Path::new("/"));
    let findings = search(&image, debug.as_ref(), &Signatures::default())?;
    Ok(learn::learn(&image, &findings, version).map(|signature| SignatureFile { signature }))
}

fn search(
    image: &Image<'_>,
    debug: Option<&debug_files::DebugFile>,
    signatures: &Signatures,
) -> Result<Findings, ImageError> {
    let mut search = Search::new(image);
    symbols::search(&mut search, image, None);
    if let Some(debug) = debug {
        let path = debug.path.display().to_string();
        symbols::search(&mut search, &Image::parse(&debug.contents)?, Some(&path));
    }
    rustls::search_named(&mut search);
    gopclntab::search(&mut search);
    if image.architecture == Architecture::X86_64 {
        if !search.has(TlsStack::OpenSsl) && !search.has(TlsStack::BoringSsl) {
            boringssl::search(&mut search);
            openssl::search(&mut search);
        }
        aws_lc::search(&mut search);
        signatures::search(&mut search, signatures);
    }
    rustls::explain(&mut search);
    search.look_for_traces();
    let mut findings = search.finish();
    findings.debug_file = debug.map(|debug| debug.path.clone());
    Ok(findings)
}

/// A function that was found.
struct Candidate {
    stack: TlsStack,
    name: String,
    known: Known,
    address: u64,
    end: Option<u64>,
    /// Where it returns, if a return probe will not do.
    sites: Option<Vec<u64>>,
    found: Found,
}

/// A search under way.
struct Search<'s, 'a> {
    image: &'s Image<'a>,
    rustls: rustls::Symbols,
    candidates: Vec<Candidate>,
    uncovered: BTreeMap<TlsStack, String>,
    absent: BTreeMap<TlsStack, String>,
}

impl<'s, 'a> Search<'s, 'a> {
    fn new(image: &'s Image<'a>) -> Self {
        Self {
            image,
            rustls: rustls::Symbols::default(),
            candidates: Vec::new(),
            uncovered: BTreeMap::new(),
            absent: BTreeMap::new(),
        }
    }

    /// A function of the C convention was found.
    fn add(&mut self, stack: TlsStack, known: Known, address: u64, end: Option<u64>, found: Found) {
        self.push(Candidate { stack, name: known.name.to_owned(), known, address, end, sites: None, found });
    }

    /// The same function may be found in several ways. Several of the same name are copies if the file names them; if they were recognised, it is
    /// not known which is right.
    fn push(&mut self, new: Candidate) {
        let of_that_name = |other: &Candidate| other.stack == new.stack && other.name == new.name;
        let others = || self.candidates.iter().filter(|other| of_that_name(other));
        if others().any(|other| other.address == new.address) {
            return;
        }
        let recognised = |candidate: &Candidate| candidate.found.certainty() == Certainty::Recognised;
        if let Some(other) = others().find(|other| recognised(other) || recognised(&new)) {
            let because = format!("{} was found at two places: by {} and by {}", new.name, other.found, new.found);
            self.uncovered.insert(new.stack, because);
            self.candidates.retain(|other| !of_that_name(other));
            return;
        }
        self.candidates.push(new);
    }

    fn uncovered(&mut self, stack: TlsStack, because: impl Into<String>) {
        self.uncovered.entry(stack).or_insert_with(|| because.into());
    }

    fn absent(&mut self, stack: TlsStack, looked_for: impl Into<String>) {
        self.absent.entry(stack).or_insert_with(|| looked_for.into());
    }

    fn has(&self, stack: TlsStack) -> bool {
        self.candidates.iter().any(|candidate| candidate.stack == stack)
    }

    /// Whether the file names functions of this stack, under this name or that of its relative with the same functions.
    fn is_named(&self, stack: TlsStack) -> bool {
        let family = |stack| if stack == TlsStack::BoringSsl { TlsStack::OpenSsl } else { stack };
        self.candidates.iter().any(|candidate| {
            family(candidate.stack) == family(stack) && candidate.found.certainty() == Certainty::Named
        })
    }

    fn look_for_traces(&mut self) {
        let ssl = self.has(TlsStack::OpenSsl) || self.has(TlsStack::BoringSsl);
        for (stack, trace) in TRACES {
            let same = matches!(stack, TlsStack::OpenSsl | TlsStack::BoringSsl) && ssl;
            if !same && !self.has(stack) && !structure::addresses_of(self.image, trace.as_bytes()).is_empty() {
                self.uncovered(
                    stack,
                    format!("it has `{}`, but its functions could not be told", trace.trim_matches(['\0', '\n'])),
                );
            }
        }
    }

    /// A stack of which one direction is missing is not covered, and nothing of it is probed.
    fn finish(mut self) -> Findings {
        let mut directions: BTreeMap<TlsStack, Vec<Direction>> = BTreeMap::new();
        for candidate in &self.candidates {
            directions.entry(candidate.stack).or_default().extend(candidate.known.role.direction());
        }
        let mut verdicts = Vec::new();
        for (stack, found) in directions {
            let missing = match (found.contains(&Direction::Sent), found.contains(&Direction::Received)) {
                (true, true) => {
                    verdicts.push(Verdict { stack, coverage: Coverage::Covered });
                    // What could not be found in one way was found in another.
                    self.uncovered.remove(&stack);
                    continue;
                }
                (true, false) => "only functions that write were found",
                (false, true) => "only functions that read were found",
                (false, false) => "neither functions that write nor such that read were found",
            };
            self.uncovered.entry(stack).or_insert_with(|| missing.to_owned());
            self.candidates.retain(|candidate| candidate.stack != stack);
        }
        for (stack, because) in self.uncovered {
            self.absent.remove(&stack);
            verdicts.push(Verdict { stack, coverage: Coverage::Uncovered { because } });
        }
        verdicts.extend(
            self.absent
                .into_iter()
                .map(|(stack, looked_for)| Verdict { stack, coverage: Coverage::Absent { looked_for } }),
        );
        let shared = shared(self.image, &self.candidates);
        Findings {
            shared,
            architecture: self.image.architecture,
            build_id: self.image.build_id.map(debug_files::hexadecimal),
            go: gopclntab::version(self.image).map(str::to_owned),
            debug_file: None,
            targets: targets(self.image, self.candidates),
            verdicts,
        }
    }
}

fn shared(image: &Image<'_>, candidates: &[Candidate]) -> Vec<Shared> {
    let openssl: Vec<&Candidate> =
        candidates.iter().filter(|candidate| candidate.stack == TlsStack::OpenSsl && candidate.end.is_some()).collect();
    let named = |name: &str| {
        let candidate = openssl.iter().find(|candidate| candidate.name == name)?;
        Some(candidate.address..candidate.end?)
    };
    if image.architecture != Architecture::X86_64 {
        return Vec::new();
    }
    let inside = openssl::shared(image, named).into_iter().filter_map(|(known, range, public)| {
        let evidence = format!("{} both hand their arguments to it", public.join(" and "));
        let candidate = Candidate {
            stack: TlsStack::OpenSsl,
            name: known.name.to_owned(),
            known,
            address: range.start,
            end: Some(range.end),
            sites: None,
            found: Found::Structure { evidence },
        };
        let target = targets(image, vec![candidate]).pop()?;
        Some(Shared { target, instead_of: public.map(str::to_owned).into() })
    });
    inside.collect()
}

fn targets(image: &Image<'_>, candidates: Vec<Candidate>) -> Vec<Target> {
    let functions: Vec<code::Function> = candidates
        .iter()
        .map(|candidate| code::Function { address: candidate.address, end: candidate.end, abi: candidate.known.abi })
        .collect();
    let entries = code::entry_points(image, &functions);
    let mut targets: Vec<Target> = candidates
        .into_iter()
        .zip(entries)
        .filter_map(|(candidate, entry)| {
            let Candidate { stack, name, known, address, sites, found, .. } = candidate;
            let (entry, offset) = (entry?, image.offset_of(address)?);
            let returns = match (known.abi.passed, sites) {
                (_, Some(sites)) => Returns::Sites(sites),
                (Passed::Nothing, None) => Returns::None,
                // Two probes at one place cost little more than one.
                (_, None) if entry.stack_untouched => Returns::Probe { offset: entry.offset },
                (_, None) => Returns::Probe { offset },
            };
            let certainty = found.certainty();
            let (role, abi) = (known.role, known.abi);
            Some(Target { stack, function: name, role, address, offset, entry, returns, abi, found, certainty })
        })
        .collect();
    targets.sort_by_key(|target| (target.stack, target.role, target.address));
    targets
}
