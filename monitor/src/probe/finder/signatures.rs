//! Patterns of code of known builds, for programs whose functions nothing names.
//!
//! In: files of signatures, embedded and under `/etc/tollgate/signatures.d`, which can be replaced while the daemon runs. A signature counts only if
//! each of its functions is in the file exactly once.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{
    Search, aws_lc,
    image::{Architecture, Image},
    openssl, structure,
    symbols::{Known, OPENSSL},
    target::{Found, Role, TlsStack},
};

/// Where an administrator puts further signatures.
pub const DIRECTORY: &str = "/etc/tollgate/signatures.d";
const EMBEDDED: [(&str, &str); 2] = [
    ("boringssl-bun.toml", include_str!("../../../signatures/boringssl-bun.toml")),
    ("codex.toml", include_str!("../../../signatures/codex.toml")),
];
/// Patterns must say at least so many bytes.
const MIN_FIXED: usize = 24;
const MAX_PATTERN: usize = 4096;
const MAX_FILE: u64 = 1 << 20;

/// Why signatures cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    #[error("cannot read signatures from {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} has no usable signatures: {reason}")]
    Invalid { path: PathBuf, reason: String },
}

/// All signatures that are known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Signatures(Vec<Signature>);

/// A file of signatures.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignatureFile {
    pub signature: Vec<Signature>,
}

/// One library in the builds that it was derived from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    pub name: String,
    pub stack: TlsStack,
    /// The builds that it was derived from.
    pub versions: Vec<String>,
    pub function: Vec<FunctionSignature>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FunctionSignature {
    /// As its library calls it, which tells its arguments.
    pub name: String,
    pub pattern: Pattern,
}

/// Bytes of code, some of which may be anything: `55 48 89 e5 e8 ?? ?? ?? ??`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Vec<Option<u8>>);

impl Pattern {
    pub fn new(bytes: Vec<Option<u8>>) -> Result<Self, String> {
        let fixed = bytes.iter().flatten().count();
        if fixed < MIN_FIXED || bytes.len() > MAX_PATTERN || bytes.first().is_none_or(Option::is_none) {
            return Err(format!(
                "a pattern has {MIN_FIXED} fixed bytes or more, the first one among them, and not more than {MAX_PATTERN} in all"
            ));
        }
        Ok(Self(bytes))
    }

    /// Addresses at which the code is like this; more than two are not looked for.
    pub fn addresses(&self, image: &Image<'_>) -> Vec<u64> {
        let (start, needle) = self.longest_fixed();
        let finder = memchr::memmem::Finder::new(&needle);
        let places = image.code().iter().flat_map(|region| {
            finder.find_iter(region.bytes).filter_map(|at| {
                let at = at.checked_sub(start)?;
                let code = region.bytes.get(at..at.checked_add(self.0.len())?)?;
                let alike = code.iter().zip(&self.0).all(|(byte, wanted)| wanted.is_none_or(|wanted| wanted == *byte));
                alike.then(|| region.address.checked_add(at as u64)).flatten()
            })
        });
        places.take(2).collect()
    }

    /// The longest run of bytes that are given, and where it begins.
    fn longest_fixed(&self) -> (usize, Vec<u8>) {
        let (mut best, mut current): (_, Vec<u8>) = ((0, Vec::new()), Vec::new());
        for (end, byte) in self.0.iter().chain([&None]).enumerate() {
            match byte {
                Some(byte) => current.push(*byte),
                None => {
                    if current.len() > best.1.len() {
                        best = (end - current.len(), std::mem::take(&mut current));
                    }
                    current.clear();
                }
            }
        }
        best
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            f.write_str(if index == 0 { "" } else { " " })?;
            match byte {
                Some(byte) => write!(f, "{byte:02x}")?,
                None => f.write_str("??")?,
            }
        }
        Ok(())
    }
}

impl std::str::FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let byte = |text: &str| match text {
            "??" => Ok(None),
            _ if text.len() == 2 => u8::from_str_radix(text, 16).map(Some).map_err(|_| text.to_owned()),
            _ => Err(text.to_owned()),
        };
        let bytes: Result<Vec<_>, _> = text.split_ascii_whitespace().map(byte).collect();
        Self::new(bytes.map_err(|text| format!("`{text}` is neither two hexadecimal digits nor `??`"))?)
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Signatures {
    /// Those that are part of the program.
    ///
    /// # Errors
    /// Never in a release: a test reads them.
    pub fn embedded() -> Result<Self, SignatureError> {
        let mut all = Self::default();
        for (name, text) in EMBEDDED {
            all.add(Path::new(name), text)?;
        }
        Ok(all)
    }

    /// Also those of this directory, if there is one; and what is wrong with files that could not be used.
    pub fn with_directory(mut self, directory: &Path) -> (Self, Vec<SignatureError>) {
        let mut errors = Vec::new();
        let mut paths: Vec<PathBuf> = match fs::read_dir(directory) {
            Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => {
                errors.push(SignatureError::Read { path: directory.into(), source });
                Vec::new()
            }
        };
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
        paths.sort();
        for path in paths {
            let added = read_bounded(&path)
                .map_err(|source| SignatureError::Read { path: path.clone(), source })
                .and_then(|text| self.add(&path, &text));
            errors.extend(added.err());
        }
        (self, errors)
    }

    fn add(&mut self, path: &Path, text: &str) -> Result<(), SignatureError> {
        let invalid = |reason: String| SignatureError::Invalid { path: path.into(), reason };
        let file: SignatureFile = toml::from_str(text).map_err(|error| invalid(error.to_string()))?;
        for signature in &file.signature {
            signature.check().map_err(|reason| invalid(format!("{}: {reason}", signature.name)))?;
        }
        self.0.extend(file.signature);
        Ok(())
    }
}

fn read_bounded(path: &Path) -> io::Result<String> {
    use io::Read as _;
    let mut text = String::new();
    fs::File::open(path)?.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
}

impl Signature {
    fn check(&self) -> Result<(), String> {
        let roles: Vec<Role> = self
            .function
            .iter()
            .map(|function| known(&function.name).map(|known| known.role))
            .collect::<Result<_, _>>()?;
        let complete = [Role::Write, Role::Read].iter().all(|role| roles.contains(role));
        if complete { Ok(()) } else { Err("it needs a function that writes and one that reads".to_owned()) }
    }

    /// Its functions in the image: each exactly once, or why not.
    pub fn find(&self, image: &Image<'_>) -> Result<Vec<(Known, u64)>, String> {
        let one = |function: &FunctionSignature| match *function.pattern.addresses(image) {
            [address] => Ok((known(&function.name)?, address)),
            [] => Err(format!("{} does not match", function.name)),
            _ => Err(format!("{} matches more than once", function.name)),
        };
        self.function.iter().map(one).collect()
    }
}

/// Functions that a signature can be of.
pub(super) fn known(name: &str) -> Result<Known, String> {
    let functions = OPENSSL.iter().chain(&openssl::INTERNAL).chain(&aws_lc::CALLS);
    functions
        .copied()
        .find(|known| known.name == name)
        .ok_or_else(|| format!("{name} is not a function that can be probed"))
}

pub fn search(search: &mut Search<'_, '_>, signatures: &Signatures) {
    let image = search.image;
    if image.architecture != Architecture::X86_64 {
        return;
    }
    for signature in &signatures.0 {
        // What is named needs no recognising.
        if search.is_named(signature.stack) {
            continue;
        }
        let Ok(functions) = signature.find(image) else { continue };
        for (known, address) in functions {
            let end = structure::function_around(image, address).map(|range| range.end);
            let found = Found::Signature { name: signature.name.clone(), versions: signature.versions.clone() };
            search.add(signature.stack, known, address, end, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embedded_signatures_are_valid() {
        assert!(!Signatures::embedded().expect("valid").0.is_empty());
    }

    #[test]
    fn patterns_are_read_as_they_are_written() {
        let text = "55 48 89 e5 41 57 41 56 41 55 41 54 53 48 83 ec 18 e8 ?? ?? ?? ?? 41 89 d7 49 89 f6 48 89";
        let pattern: Pattern = text.parse().expect("a pattern");
        assert_eq!(pattern.to_string(), text);
        assert_eq!(pattern.longest_fixed().0, 0);
        assert_eq!(pattern.longest_fixed().1.len(), 18);
        for wrong in
            ["", "55", "zz", "?? 55 48 89 e5 41 57 41 56 41 55 41 54 53 48 83 ec 18 e8 41 89 d7 49 89 f6 48 89", "555"]
        {
            assert!(wrong.parse::<Pattern>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_bad_file_is_said_and_the_others_are_used() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("bad.toml"), "[[signature]]\nname = 1").expect("written");
        for (name, text) in EMBEDDED {
            fs::write(directory.path().join(name), text).expect("written");
        }
        fs::write(directory.path().join("ignored.txt"), "no signature").expect("written");
        let (signatures, errors) = Signatures::default().with_directory(directory.path());
        assert_eq!(signatures, Signatures::embedded().expect("valid"));
        assert!(matches!(errors[..], [SignatureError::Invalid { .. }]), "{errors:?}");
    }
}
