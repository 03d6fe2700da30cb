//! Price tables that an administrator has installed, beside those that this program was built with.
//!
//! They lie in `prices/` of the state directory, each under its package, version and hash, so that none is ever written
//! over and what an old charge cost can still be explained. `PACKAGE.active.json` says which one is in use. What a daemon's
//! configuration has set is kept by its hash in `overrides/`. All are written beside and renamed into place: a reader sees the
//! old one or the new one.
//!
//! **Invariant:** a table whose hash or form is wrong is never used.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    config,
    price::{Catalogue, CatalogueError, Overrides, PriceBook},
};

/// More than any table has; a larger file is none.
const MAX_BYTES: u64 = 64 << 20;

/// What is wrong with a price table's file.
#[derive(Debug, thiserror::Error)]
pub enum BookError {
    #[error("cannot read the price table {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is not a price table: {what}")]
    NotATable { path: PathBuf, what: String },
    #[error("{path} is not a price table that can be used: {source}")]
    Invalid { path: PathBuf, source: CatalogueError },
    #[error("{path} has prices of the package `{package}`: only `genai-prices` and `litellm` are known")]
    UnknownPackage { path: PathBuf, package: String },
    #[error("{path} has the SHA-256 {found}, not {expected}: it is damaged, or another file")]
    Hash { path: PathBuf, found: String, expected: String },
    #[error("nothing says which SHA-256 {path} should have: give it with --sha256, or lay {path}.sha256 beside it")]
    NoHash { path: PathBuf },
    #[error("{path} is {release}, and {active} is in use: use --allow-older if that is meant")]
    Older { path: PathBuf, release: String, active: String },
    #[error("cannot install the price table as {path}: {source}")]
    Write { path: PathBuf, source: io::Error },
}

/// A table that was read from a file and is whole.
#[derive(Debug)]
pub struct Book {
    pub catalogue: Catalogue,
    pub sha256: String,
    pub path: PathBuf,
    bytes: Vec<u8>,
}

impl Book {
    /// Reads a file and everything in it.
    ///
    /// # Errors
    /// Whatever keeps it from being used.
    pub fn read(path: &Path) -> Result<Self, BookError> {
        let book = Self::read_trusted(path)?;
        book.catalogue.check_patterns().map_err(|source| BookError::Invalid { path: path.into(), source })?;
        Ok(book)
    }

    /// Leaves out what was looked at when it was installed and takes long.
    fn read_trusted(path: &Path) -> Result<Self, BookError> {
        let read_error = |source| BookError::Read { path: path.into(), source };
        let not_a_table = |what: String| BookError::NotATable { path: path.into(), what };
        let mut bytes = Vec::new();
        File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes)).map_err(read_error)?;
        if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_BYTES) {
            return Err(not_a_table(format!("it is larger than {} MiB", MAX_BYTES >> 20)));
        }
        let text = std::str::from_utf8(&bytes).map_err(|error| not_a_table(error.to_string()))?;
        let catalogue = Catalogue::parse(text).map_err(|source| BookError::Invalid { path: path.into(), source })?;
        if !PACKAGES.contains(&catalogue.package()) {
            let package = catalogue.package().to_owned();
            return Err(BookError::UnknownPackage { path: path.into(), package });
        }
        let sha256 = hex(&Sha256::digest(&bytes));
        Ok(Self { catalogue, sha256, path: path.into(), bytes })
    }

    /// Checks it against the hash that was given, or that the file `PATH.sha256` has (as `sha256sum` writes it).
    ///
    /// # Errors
    /// When it has another one, or nothing says which one it should have.
    pub fn verify(&self, given: Option<&str>) -> Result<(), BookError> {
        let expected = match given {
            Some(hash) => hash.to_owned(),
            None => {
                let mut beside = self.path.clone().into_os_string();
                beside.push(".sha256");
                match fs::read_to_string(Path::new(&beside)) {
                    Ok(text) => text.split_whitespace().next().unwrap_or_default().to_owned(),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        return Err(BookError::NoHash { path: self.path.clone() });
                    }
                    Err(source) => return Err(BookError::Read { path: beside.into(), source }),
                }
            }
        };
        if expected.eq_ignore_ascii_case(&self.sha256) {
            return Ok(());
        }
        Err(BookError::Hash { path: self.path.clone(), found: self.sha256.clone(), expected })
    }
}

const CATALOGUE: &str = "genai-prices";
const FALLBACK: &str = "litellm";
const PACKAGES: [&str; 2] = [CATALOGUE, FALLBACK];

/// What is in use, as it is recorded.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Active {
    file: String,
    version: String,
    sha256: String,
}

/// The tables of a state directory.
#[derive(Debug)]
pub struct Shelf {
    dir: PathBuf,
}

impl Shelf {
    pub fn new(state_dir: &Path) -> Self {
        Self { dir: state_dir.join("prices") }
    }

    /// The installed table of a package, if there is one.
    ///
    /// # Errors
    /// When there is one and it cannot be used.
    pub fn installed(&self, package: &str) -> Result<Option<Book>, BookError> {
        let path = self.active_path(package);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(BookError::Read { path, source }),
        };
        let active: Active = serde_json::from_str(&text)
            .map_err(|error| BookError::NotATable { path: path.clone(), what: error.to_string() })?;
        let book = Book::read_trusted(&self.dir.join(&active.file))?;
        book.verify(Some(&active.sha256))?;
        Ok(Some(book))
    }

    /// An older table that is kept, by its version.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn of_version(&self, package: &str, version: &str) -> Result<Option<Book>, BookError> {
        let prefix = format!("{package}-{version}-");
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(BookError::Read { path: self.dir.clone(), source }),
        };
        let mut files = entries.flatten().map(|entry| entry.file_name()).collect::<Vec<_>>();
        files.sort();
        let file = files.iter().find(|file| file.to_str().is_some_and(|file| file.starts_with(&prefix)));
        file.map(|file| Book::read_trusted(&self.dir.join(file))).transpose()
    }

    /// Keeps a table that was verified, and puts it in use.
    ///
    /// # Errors
    /// When the state directory cannot be written.
    pub fn install(&self, book: &Book) -> Result<PathBuf, BookError> {
        let (package, version) = (book.catalogue.package(), book.catalogue.release());
        let short = book.sha256.get(..12).unwrap_or(&book.sha256);
        // The version is the file's own word.
        let version: String = version.chars().map(|it| if it.is_ascii_alphanumeric() { it } else { '.' }).collect();
        let file = format!("{package}-{version}-{short}.json");
        let path = self.dir.join(&file);
        let active = Active { file, version, sha256: book.sha256.clone() };
        let write = || {
            fs::create_dir_all(&self.dir)?;
            replace(&path, &book.bytes)?;
            replace(&self.active_path(package), &serde_json::to_vec_pretty(&active)?)
        };
        write().map_err(|source| BookError::Write { path: path.clone(), source })?;
        Ok(path)
    }

    /// Keeps what is set in a configuration by its hash, which charges name: to explain them when it is no longer set.
    ///
    /// # Errors
    /// When the state directory cannot be written.
    pub fn keep(&self, overrides: &Overrides) -> Result<(), BookError> {
        let dir = self.dir.join("overrides");
        for it in overrides.iter() {
            let path = dir.join(format!("{}.json", it.hash()));
            if path.exists() {
                continue;
            }
            let write = || {
                fs::create_dir_all(&dir)?;
                replace(&path, it.text().as_bytes())
            };
            write().map_err(|source| BookError::Write { path: path.clone(), source })?;
        }
        Ok(())
    }

    fn active_path(&self, package: &str) -> PathBuf {
        self.dir.join(format!("{package}.active.json"))
    }
}

/// Writes a file beside its place and renames it, on the disk before it is seen.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.new", std::process::id()));
    let beside = PathBuf::from(beside);
    let write = || {
        let mut file = File::create(&beside)?;
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    write().inspect_err(|_| {
        fs::remove_file(&beside).ok();
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The tables in use, and what is to be said about them.
#[derive(Debug)]
pub struct Tables {
    pub catalogue: &'static Catalogue,
    pub fallback: &'static Catalogue,
    /// What was installed and is used.
    pub installed: Vec<String>,
    /// What was installed and is not used, and why.
    pub unused: Vec<String>,
}

impl Tables {
    /// Takes the installed tables where they are newer than the embedded ones. What cannot be used is said and left out: to
    /// meter by older prices is better than not to meter.
    pub fn of(state_dir: &Path) -> Self {
        let shelf = Shelf::new(state_dir);
        let mut tables = Self {
            catalogue: Catalogue::embedded(),
            fallback: Catalogue::embedded_fallback(),
            installed: Vec::new(),
            unused: Vec::new(),
        };
        for package in PACKAGES {
            let place = if package == CATALOGUE { &mut tables.catalogue } else { &mut tables.fallback };
            match shelf.installed(package) {
                Ok(None) => {}
                Ok(Some(book)) if book.catalogue.is_newer_than(place) => {
                    // Once per process: whoever follows a call holds on to its rates.
                    *place = Box::leak(Box::new(book.catalogue));
                    tables.installed.push(format!("{} from {}", place.version(), book.path.display()));
                }
                Ok(Some(book)) if place.is_newer_than(&book.catalogue) => {
                    let (installed, built_in) = (book.catalogue.version(), place.version());
                    tables.unused.push(format!("{installed} is installed, but {built_in} is built in"));
                }
                // Of the same version: it says the same.
                Ok(Some(_)) => {}
                Err(BookError::Read { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
                    let hidden =
                        format!("{} cannot be read by this user; using the tables built in", shelf.dir.display());
                    if !tables.unused.contains(&hidden) {
                        tables.unused.push(hidden);
                    }
                }
                Err(error) => tables.unused.push(format!("{error}; using {} instead", place.version())),
            }
        }
        tables
    }

    /// With what the configuration says. It lives as long as the process.
    pub fn book(&self, config: &config::Price) -> &'static PriceBook {
        let fallback = config.fallback.then_some(self.fallback);
        let (overrides, ceiling) = (config.overrides.clone(), config.unpriced_ceiling.ceiling());
        Box::leak(Box::new(PriceBook::new(self.catalogue, fallback, overrides, ceiling)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_table(dir: &Path, package: &str, version: &str) -> PathBuf {
        let path = dir.join(format!("{version}.json"));
        let table = format!(
            r#"{{"source": {{"package": "{package}", "version": "{version}"}}, "units": {{}}, "providers": []}}"#
        );
        fs::write(&path, table).unwrap();
        path
    }

    #[test]
    fn the_installed_table_is_used_if_it_is_newer() {
        let dir = tempfile::tempdir().unwrap();
        let version = || Tables::of(dir.path()).catalogue.version().to_owned();
        let embedded = version();
        for (release, expected) in [("0.0.1", embedded.as_str()), ("99.1", "genai-prices 99.1")] {
            let book = Book::read(&write_table(dir.path(), CATALOGUE, release)).unwrap();
            Shelf::new(dir.path()).install(&book).unwrap();
            assert_eq!(version(), expected);
        }
        assert_eq!(Tables::of(dir.path()).fallback.package(), FALLBACK);
        // The older one is still there to explain old charges.
        assert!(Shelf::new(dir.path()).of_version(CATALOGUE, "0.0.1").unwrap().is_some());
        assert!(Shelf::new(dir.path()).of_version(CATALOGUE, "0.0.2").unwrap().is_none());
    }

    #[test]
    fn a_damaged_table_is_never_used() {
        let dir = tempfile::tempdir().unwrap();
        let book = Book::read(&write_table(dir.path(), CATALOGUE, "99.1")).unwrap();
        let path = Shelf::new(dir.path()).install(&book).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        bytes.push(b' ');
        fs::write(&path, bytes).unwrap();
        let tables = Tables::of(dir.path());
        assert_eq!(tables.catalogue.version(), Catalogue::embedded().version());
        assert!(tables.unused[0].contains("it is damaged, or another file"), "{:?}", tables.unused);
    }

    #[test]
    fn what_was_set_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let config: config::Price = toml::from_str("[[override]]\nname = 'x'\npercent = '-10'").unwrap();
        for _ in 0..2 {
            Shelf::new(dir.path()).keep(&config.overrides).unwrap();
        }
        let set = config.overrides.iter().next().unwrap();
        let kept = fs::read_to_string(dir.path().join(format!("prices/overrides/{}.json", set.hash()))).unwrap();
        assert_eq!(kept, r#"{"name":"x","percent":"-10","percent_of":"everything"}"#);
        assert!(hex(&Sha256::digest(&kept)).starts_with(set.hash()));
    }

    #[test]
    fn a_table_is_verified_by_its_hash() {
        let dir = tempfile::tempdir().unwrap();
        let path = write_table(dir.path(), CATALOGUE, "1.0");
        let book = Book::read(&path).unwrap();
        assert!(matches!(book.verify(None), Err(BookError::NoHash { .. })));
        assert!(book.verify(Some(&book.sha256.to_uppercase())).is_ok());
        assert!(matches!(book.verify(Some("00")), Err(BookError::Hash { .. })));
        let beside = dir.path().join("1.0.json.sha256");
        fs::write(&beside, format!("{}  1.0.json\n", book.sha256)).unwrap();
        assert!(book.verify(None).is_ok());
        fs::write(&beside, "").unwrap();
        assert!(matches!(book.verify(None), Err(BookError::Hash { .. })));
    }

    #[test]
    fn what_is_no_table_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = write_table(dir.path(), "wishes", "1.0");
        assert!(matches!(Book::read(&path), Err(BookError::UnknownPackage { .. })));
        for text in [&b"\xff"[..], b"", b"[]", b"{\"source\":"] {
            fs::write(&path, text).unwrap();
            assert!(Book::read(&path).is_err());
        }
        assert!(matches!(Book::read(&dir.path().join("none")), Err(BookError::Read { .. })));
    }

    #[test]
    fn the_repository_has_the_hashes_of_its_tables() {
        for package in PACKAGES {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("prices").join(package);
            Book::read(&dir.join("catalogue.json")).unwrap().verify(None).unwrap();
        }
    }
}
