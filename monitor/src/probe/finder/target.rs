//! What a search finds: functions through which plaintext passes, and how their arguments are laid out.

use std::fmt;

use serde::Serialize;

use super::code::EntryPoint;

/// A TLS implementation. Some are recognised only to be called uncovered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TlsStack {
    #[serde(rename = "openssl")]
    OpenSsl,
    #[serde(rename = "boringssl")]
    BoringSsl,
    #[serde(rename = "gnutls")]
    GnuTls,
    /// NSS through NSPR's layered descriptors.
    Nss,
    GoCryptoTls,
    /// rustls over AWS-LC, whose AEAD calls have a C interface.
    RustlsAwsLc,
    /// rustls over *ring*.
    RustlsRing,
    /// rustls over something that was not recognised.
    Rustls,
    S2n,
    #[serde(rename = "wolfssl")]
    WolfSsl,
    #[serde(rename = "mbedtls")]
    MbedTls,
    /// The Java virtual machine's own TLS.
    Jsse,
}

impl fmt::Display for TlsStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OpenSsl => "OpenSSL",
            Self::BoringSsl => "BoringSSL",
            Self::GnuTls => "GnuTLS",
            Self::Nss => "NSS",
            Self::GoCryptoTls => "Go crypto/tls",
            Self::RustlsAwsLc => "rustls (AWS-LC)",
            Self::RustlsRing => "rustls (ring)",
            Self::Rustls => "rustls",
            Self::S2n => "s2n-tls",
            Self::WolfSsl => "wolfSSL",
            Self::MbedTls => "Mbed TLS",
            Self::Jsse => "Java JSSE",
        })
    }
}

/// What a function does with plaintext.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    Write,
    Read,
    /// Shows bytes without consuming them: a read follows.
    Peek,
    /// Sends a file: its bytes are not in any buffer of the process.
    SendFile,
    /// Says that no more will be written.
    Shutdown,
    /// Ends a connection.
    Close,
}

impl Role {
    /// One that is needed, with the other direction, for a stack to be covered.
    pub fn direction(self) -> Option<Direction> {
        match self {
            Self::Write => Some(Direction::Sent),
            Self::Read => Some(Direction::Received),
            Self::Peek | Self::SendFile | Self::Shutdown | Self::Close => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Sent,
    Received,
}

/// Where a word lies when the function is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// Integer argument of the platform's C convention, counted from 0.
    Argument(u8),
    /// So many bytes above the stack pointer (x86-64: the return address is at 0).
    Stack(u16),
    /// Integer register of Go's register convention, counted from 0: `RAX, RBX, RCX, RDI, RSI, R8…` or `R0, R1…`.
    GoRegister(u8),
}

/// How it is known at the return how many bytes passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Passed {
    /// The return value, if positive.
    Returned,
    /// The word that this argument points to, if the return value is positive.
    PointedTo(Place),
    /// All of the requested length, if the return value is positive.
    Requested,
    /// Go: the first result.
    GoResult(Place),
    /// No plaintext passes.
    Nothing,
}

/// Layout of a function's arguments and of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Abi {
    /// What identifies the connection.
    pub object: Place,
    pub buffer: Option<Place>,
    /// Length of the buffer at entry, which may be more than what passes.
    pub length: Option<Place>,
    pub passed: Passed,
    /// Functions that encrypt records: so many bytes above the stack pointer is the address of a record's additional data, and above that their length.
    pub additional: Option<u16>,
}

impl Abi {
    /// `n = f(object, buffer, length)`
    pub const RETURNS_LENGTH: Self = Self {
        object: Place::Argument(0),
        buffer: Some(Place::Argument(1)),
        length: Some(Place::Argument(2)),
        passed: Passed::Returned,
        additional: None,
    };

    /// `ok = f(object, buffer, length, …, size_t *passed)`, with the pointer at this argument.
    pub const fn points_to_length(argument: u8) -> Self {
        Self { passed: Passed::PointedTo(Place::Argument(argument)), ..Self::RETURNS_LENGTH }
    }

    /// `f(object)`
    pub const OBJECT: Self = Self { buffer: None, length: None, passed: Passed::Nothing, ..Self::RETURNS_LENGTH };

    /// What must still hold its value where a probe of the entry reads it.
    pub(super) fn places(&self) -> impl Iterator<Item = Place> + use<> {
        let passed = match self.passed {
            Passed::PointedTo(place) => Some(place),
            Passed::Returned | Passed::Requested | Passed::GoResult(_) | Passed::Nothing => None,
        };
        [Some(self.object), self.buffer, self.length, passed, self.additional.map(Place::Stack)].into_iter().flatten()
    }
}

/// Where the answer of a function can be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Returns {
    /// By a return probe, which must be placed where the return address is on top of the stack.
    Probe { offset: u64 },
    /// By a probe on each of these return instructions: a return probe would corrupt the stack, which moves.
    Sites(Vec<u64>),
    /// Nothing is to be known.
    None,
}

/// The evidence that a function was found by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "by", rename_all = "kebab-case")]
pub enum Found {
    DynamicSymbol,
    StaticSymbol,
    /// By a symbol of a separate debug file.
    DebugFile {
        path: String,
    },
    /// By name in Go's own function table.
    GoFunctionTable,
    /// By a pattern of its code.
    Signature {
        name: String,
        versions: Vec<String>,
    },
    /// By what its code refers to.
    Structure {
        evidence: String,
    },
}

impl Found {
    pub fn certainty(&self) -> Certainty {
        match self {
            Self::DynamicSymbol | Self::StaticSymbol | Self::DebugFile { .. } | Self::GoFunctionTable => {
                Certainty::Named
            }
            Self::Signature { .. } | Self::Structure { .. } => Certainty::Recognised,
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DynamicSymbol => f.write_str("dynamic symbol"),
            Self::StaticSymbol => f.write_str("static symbol"),
            Self::DebugFile { path } => write!(f, "symbol in {path}"),
            Self::GoFunctionTable => f.write_str("Go function table"),
            Self::Signature { name, versions } => write!(f, "signature {name} (from {})", versions.join(", ")),
            Self::Structure { evidence } => f.write_str(evidence),
        }
    }
}

/// How sure a result is. What is less sure than this is no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Certainty {
    /// By evidence that fits this function and no other of the file.
    Recognised,
    /// The file itself names the function.
    Named,
}

/// A function to probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Target {
    pub stack: TlsStack,
    /// As its library calls it.
    pub function: String,
    pub role: Role,
    /// Of its first instruction, in the file's own address space.
    pub address: u64,
    /// Of its first instruction in the file, which is what a probe takes.
    pub offset: u64,
    /// Where a probe of the entry costs least.
    pub entry: EntryPoint,
    pub returns: Returns,
    pub abi: Abi,
    pub found: Found,
    pub certainty: Certainty,
}

/// A function of the library's inside that several targets hand their arguments to, so that it can be probed in their place: for less, and also
/// when the library itself calls it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shared {
    pub target: Target,
    pub instead_of: Vec<String>,
}

/// What is known of one TLS stack in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    pub stack: TlsStack,
    #[serde(flatten)]
    pub coverage: Coverage,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "coverage", rename_all = "kebab-case")]
pub enum Coverage {
    /// Both directions are found.
    Covered,
    /// It is in the file and cannot be read.
    Uncovered { because: String },
    /// No trace of it.
    Absent { looked_for: String },
}
