//! Where a library's TLS functions lie in its file.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use object::{Object as _, ObjectSegment as _, ObjectSymbol as _};

/// Why a file that looks like a TLS library is not probed.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is not an ELF file: {source}")]
    Elf { path: PathBuf, source: object::Error },
    #[error("{path} has no symbol for {missing}")]
    Missing { path: PathBuf, missing: &'static str },
    #[error("cannot attach to {symbol} in {path}: {source}")]
    Attach { path: PathBuf, symbol: &'static str, source: Box<aya::programs::ProgramError> },
}

/// A function and its offset in the file, which is what a uprobe takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Function {
    pub symbol: &'static str,
    pub offset: u64,
}

/// File offsets of those `symbols` that the file defines, by its dynamic and static symbol tables.
pub fn functions(path: &Path, symbols: &[&'static str]) -> Result<Vec<Function>, LibraryError> {
    let data = fs::read(path).map_err(|source| LibraryError::Read { path: path.into(), source })?;
    let elf = object::File::parse(&*data).map_err(|source| LibraryError::Elf { path: path.into(), source })?;
    let mut found: Vec<Function> = Vec::new();
    for symbol in elf.dynamic_symbols().chain(elf.symbols()).filter(object::ObjectSymbol::is_definition) {
        let Ok(name) = symbol.name() else { continue };
        // Dynamic names may carry a version (`SSL_read@@OPENSSL_3.0.0`).
        let name = name.split('@').next().unwrap_or(name);
        let Some(&wanted) = symbols.iter().find(|&&wanted| wanted == name) else { continue };
        if found.iter().any(|function| function.symbol == wanted) {
            continue;
        }
        if let Some(offset) = file_offset(&elf, symbol.address()) {
            found.push(Function { symbol: wanted, offset });
        }
    }
    Ok(found)
}

fn file_offset(elf: &object::File<'_>, address: u64) -> Option<u64> {
    elf.segments().find_map(|segment| {
        let (offset, size) = segment.file_range();
        let within = address.checked_sub(segment.address())?;
        (within < size).then(|| offset.checked_add(within)).flatten()
    })
}
