//! Go programs: their function table survives stripping, because the runtime needs it for stack traces.
//!
//! Source of the layouts: `runtime/symtab.go` and `debug/gosym/pclntab.go` of Go 1.16 to 1.27.

use std::ops::Range;

use super::{
    Candidate, Search, code,
    image::{Architecture, Image, Region},
    symbols::Known,
    target::{Abi, Found, Passed, Place, Role, TlsStack},
};

const GO_1_16: u32 = 0xffff_fffa;
const GO_1_18: u32 = 0xffff_fff0;
const GO_1_20: u32 = 0xffff_fff1;

/// Functions in a table at most: no program comes near.
const MAX_FUNCTIONS: u64 = 4 << 20;
/// Methods of all copies of `crypto/tls`.
const MAX_METHODS: usize = 16;
/// Bytes of a function's name at most.
const MAX_NAME: usize = 1024;
/// Functions whose beginnings are compared with how Go functions begin.
const SAMPLES: u64 = 64;
/// Code that a linker may put before that of Go.
const MAX_FOREIGN_CODE: usize = 1 << 20;

/// Methods through which plaintext passes; whatever package path stands before, since some programs carry a fork.
const METHODS: [(&[u8], Role); 3] =
    [(b"tls.(*Conn).Write", Role::Write), (b"tls.(*Conn).Read", Role::Read), (b"tls.(*Conn).Close", Role::Close)];

/// How arguments are passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Convention {
    /// Since Go 1.17 (x86-64) and 1.18 (aarch64).
    Registers,
    Stack,
}

/// A function of the table.
#[derive(Debug)]
struct Function<'a> {
    name: &'a [u8],
    range: Range<u64>,
}

pub fn search(search: &mut Search<'_, '_>) {
    let image = search.image;
    let Some(region) = image.go_table() else { return };
    let found = Table::parse(image, region).and_then(|table| table.tls_methods());
    match found {
        Ok(methods) if methods.is_empty() => {
            search.absent(TlsStack::GoCryptoTls, "a Go program whose function table has no crypto/tls.(*Conn)");
        }
        Ok(methods) => methods.into_iter().for_each(|(function, role)| add(search, &function, role)),
        Err(because) => search.uncovered(TlsStack::GoCryptoTls, because),
    }
}

fn add(search: &mut Search<'_, '_>, function: &Function<'_>, role: Role) {
    let image = search.image;
    let Some(convention) = convention(image, function.range.start) else {
        search.uncovered(TlsStack::GoCryptoTls, "its calling convention could not be told from its code");
        return;
    };
    let mut abi = match convention {
        Convention::Registers => Abi {
            object: Place::GoRegister(0),
            buffer: Some(Place::GoRegister(1)),
            length: Some(Place::GoRegister(2)),
            passed: Passed::GoResult(Place::GoRegister(0)),
            additional: None,
        },
        Convention::Stack => Abi {
            object: Place::Stack(8),
            buffer: Some(Place::Stack(16)),
            length: Some(Place::Stack(24)),
            passed: Passed::GoResult(Place::Stack(40)),
            additional: None,
        },
    };
    let sites = if role == Role::Close {
        abi = Abi { buffer: None, length: None, passed: Passed::Nothing, ..abi };
        None
    } else {
        let sites = code::return_sites(image, function.range.clone()).and_then(|sites| {
            sites.into_iter().map(|site| image.offset_of(site).ok_or("it lies outside of the file")).collect()
        });
        match sites {
            Ok(sites) => Some(sites),
            Err(because) => {
                search.uncovered(TlsStack::GoCryptoTls, because);
                return;
            }
        }
    };
    let name: &'static str = match role {
        Role::Write => "crypto/tls.(*Conn).Write",
        Role::Read => "crypto/tls.(*Conn).Read",
        _ => "crypto/tls.(*Conn).Close",
    };
    search.push(Candidate {
        stack: TlsStack::GoCryptoTls,
        name: String::from_utf8_lossy(function.name).into_owned(),
        known: Known { name, role, abi },
        address: function.range.start,
        end: Some(function.range.end),
        sites,
        found: Found::GoFunctionTable,
    });
}

/// By how the function checks its stack: with registers, the goroutine is in one of them; else it is loaded from thread-local storage.
fn convention(image: &Image<'_>, address: u64) -> Option<Convention> {
    let start = image.code_from(address)?;
    let start = start.get(..32.min(start.len()))?;
    match image.architecture {
        Architecture::X86_64 => {
            // cmp 0x10(%r14),%rsp · cmp 0x10(%r14),%r12 or %r13 (large frames)
            let registers: [&[u8]; 3] =
                [&[0x49, 0x3b, 0x66, 0x10], &[0x4d, 0x3b, 0x66, 0x10], &[0x4d, 0x3b, 0x6e, 0x10]];
            // mov %fs:-8,%rcx
            let stack: &[u8] = &[0x64, 0x48, 0x8b, 0x0c, 0x25, 0xf8, 0xff, 0xff, 0xff];
            if registers.iter().any(|pattern| memchr::memmem::find(start, pattern).is_some()) {
                Some(Convention::Registers)
            } else if start.starts_with(stack) {
                Some(Convention::Stack)
            } else {
                None
            }
        }
        // ldr x16, [x28, #16] is the same in both; aarch64 got registers with 1.18, whose table has another magic.
        Architecture::Aarch64 => {
            let table = image.go_table()?.bytes.get(..4)?;
            let magic = u32::from_le_bytes(table.try_into().ok()?);
            Some(if magic == GO_1_16 { Convention::Stack } else { Convention::Registers })
        }
    }
}

struct Table<'a> {
    /// Address that function offsets count from; 0 where the table has addresses.
    text: u64,
    functions: u64,
    /// Bytes of each of the two words of an entry.
    word: usize,
    names: &'a [u8],
    /// The list of functions, and what its entries' second words are offsets in.
    entries: &'a [u8],
}

impl<'a> Table<'a> {
    fn parse(image: &Image<'_>, region: Region<'a>) -> Result<Self, &'static str> {
        let bytes = region.bytes;
        let magic = number(bytes, 0, 4).ok_or("its function table is too short")?;
        if number(bytes, 7, 1) != Some(8) {
            return Err("its function table is not of a 64-bit program");
        }
        let header = |index: usize| number(bytes, index.checked_mul(8)?.checked_add(8)?, 8);
        let at = |offset: u64| usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..));
        let magic = u32::try_from(magic).unwrap_or_default();
        // nfunc, nfiles, [textStart,] funcnameOffset, cuOffset, filetabOffset, pctabOffset, pclnOffset
        let (text, names, entries, word) = match magic {
            GO_1_16 => (Some(0), header(2), header(6), 8),
            GO_1_18 | GO_1_20 => (header(2), header(3), header(7), 4),
            _ => return Err("its function table is of a version that is not known (Go before 1.16 or after 1.27)"),
        };
        let functions = header(0).filter(|count| *count <= MAX_FUNCTIONS);
        let (Some(text), Some(functions)) = (text, functions) else { return Err("its function table is damaged") };
        let (Some(names), Some(entries)) = (names.and_then(at), entries.and_then(at)) else {
            return Err("its function table is damaged");
        };
        let table = Self { text, functions, word, names, entries };
        // Since 1.27 the table does not say where the text begins.
        let verified = match text {
            0 if word == 4 => table.find_text(image),
            text => table.fits(image, text).then_some(text),
        };
        let text = verified.ok_or("where its text begins could not be verified")?;
        Ok(if word == 4 { Self { text, ..table } } else { table })
    }

    fn entry(&self, index: u64) -> Option<(u64, usize)> {
        let at = usize::try_from(index).ok()?.checked_mul(self.word * 2)?;
        let address = number(self.entries, at, self.word)?.checked_add(self.text)?;
        Some((address, usize::try_from(number(self.entries, at + self.word, self.word)?).ok()?))
    }

    fn function(&self, index: u64) -> Option<Function<'a>> {
        let (start, info) = self.entry(index)?;
        let (end, _) = self.entry(index + 1)?;
        // `_func` begins with the entry, of the same width as in the list, then the offset of the name.
        let name = usize::try_from(number(self.entries, info.checked_add(self.word)?, 4)?).ok()?;
        let name = self.names.get(name..)?;
        let name = name.get(..MAX_NAME.min(name.len()))?;
        let name = name.get(..memchr::memchr(0, name)?)?;
        Some(Function { name, range: start..end })
    }

    /// The one place for the text at which functions begin where the table says: at the beginning of the section, or behind the C code that
    /// another linker put there.
    fn find_text(&self, image: &Image<'_>) -> Option<u64> {
        let section = image.section(".text")?;
        let candidates = section.range().step_by(16).take(MAX_FOREIGN_CODE / 16);
        let mut fitting = candidates.filter(|text| self.fits(image, *text));
        let text = fitting.next()?;
        fitting.next().is_none().then_some(text)
    }

    /// Whether functions could begin where the table says, with this beginning of the text: aligned, and behind padding, or the end of another
    /// one. Some may not, since assembly can be anything.
    fn fits(&self, image: &Image<'_>, text: u64) -> bool {
        let step = usize::try_from(self.functions / SAMPLES).unwrap_or(usize::MAX).max(1);
        let (mut seen, mut odd) = (0_u64, 0_u64);
        let tolerated = self.functions.min(SAMPLES) / 10;
        for index in (0..self.functions).step_by(step) {
            let Some((start, _)) = self.entry(index) else { return false };
            let start = start.wrapping_sub(self.text).wrapping_add(text);
            seen += 1;
            odd += u64::from(!could_begin(image, start));
            if odd > tolerated {
                return false;
            }
        }
        seen > 0
    }

    fn tls_methods(&self) -> Result<Vec<(Function<'a>, Role)>, &'static str> {
        let mut found: Vec<(Function<'a>, Role)> = Vec::new();
        for function in (0..self.functions).filter_map(|index| self.function(index)) {
            let Some((_, role)) = METHODS.iter().find(|(method, _)| is_method(function.name, method)) else { continue };
            if found.iter().any(|(other, _)| other.name == function.name) {
                return Err("its function table names a method twice");
            }
            if found.len() == MAX_METHODS {
                return Err("it has more copies of crypto/tls than any program would");
            }
            found.push((function, *role));
        }
        Ok(found)
    }
}

fn could_begin(image: &Image<'_>, start: u64) -> bool {
    if image.code_from(start).is_none() {
        return false;
    }
    match image.architecture {
        Architecture::X86_64 => {
            let before = start.checked_sub(5).and_then(|before| image.code_from(before)).and_then(|code| code.get(..5));
            // Padding of either linker; or nothing between it and a return, a jump or `ud2`.
            let ends = before.is_none_or(|before| {
                matches!(before, [.., 0xcc | 0xc3 | 0x90 | 0x00] | [.., 0xeb, _] | [0xe9, ..] | [.., 0x0f, 0x0b])
            });
            start.is_multiple_of(16) && ends
        }
        Architecture::Aarch64 => start.is_multiple_of(4),
    }
}

/// `path/to/tls.(*Conn).Write`, and not `…/mytls.(*Conn).Write`.
fn is_method(name: &[u8], method: &[u8]) -> bool {
    name.strip_suffix(method).is_some_and(|path| path.is_empty() || path.last() == Some(&b'/'))
}

/// Little-endian number of up to eight bytes.
fn number(bytes: &[u8], at: usize, width: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(width)?)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// The Go version that the program was built with.
pub fn version<'a>(image: &Image<'a>) -> Option<&'a str> {
    let info = image.section(".go.buildinfo")?.bytes;
    let info = info.strip_prefix(b"\xff Go buildinf:")?;
    // Since 1.18 the version lies inline, 32 bytes from the start, behind its length.
    let length = usize::from(*info.get(18)?);
    std::str::from_utf8(info.get(19..19_usize.checked_add(length)?)?).ok().filter(|version| version.starts_with("go"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_matched_by_whole_path_elements() {
        let write: &[u8] = b"tls.(*Conn).Write";
        assert!(is_method(b"crypto/tls.(*Conn).Write", write));
        assert!(is_method(b"github.com/example/tls.(*Conn).Write", write));
        assert!(!is_method(b"crypto/utls.(*Conn).Write", write));
        assert!(!is_method(b"crypto/tls.(*Conn).Write.func1", write));
    }

    #[test]
    fn numbers_end_with_the_bytes() {
        assert_eq!(number(&[1, 2, 3], 1, 2), Some(0x0302));
        assert_eq!(number(&[1, 2, 3], 2, 2), None);
        assert_eq!(number(&[1, 2, 3], usize::MAX, 2), None);
    }
}
