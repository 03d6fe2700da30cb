//! An ELF file as a search sees it: addresses, code, constant data, and where functions begin and end.

use std::{cell::OnceCell, fs::File, io, ops::Range};

use gimli::{BaseAddresses, EhFrame, UnwindSection as _};
use object::{
    LittleEndian, Object as _, ObjectSection as _, ObjectSymbol as _, ReadRef,
    elf::{
        EM_AARCH64, EM_X86_64, FileHeader64, PF_X, PT_LOAD, SHF_ALLOC, SHF_EXECINSTR, SHF_WRITE, SHT_DYNSYM,
        SHT_NOBITS, SHT_NOTE, SHT_PROGBITS, SHT_STRTAB, SHT_SYMTAB,
    },
    read::elf::{ElfFile64, ElfSymbol64, FileHeader as _, ProgramHeader as _, SectionHeader as _},
};
use serde::Serialize;

use super::{contents::Contents, structure};

const HEADER: u64 = 64;
/// Tables of headers that are larger than this belong to no program.
const MAX_HEADERS: u64 = 1 << 24;

/// How much of a file is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// What names functions: symbols and Go's function table.
    Names,
    /// Also code and constants.
    Code,
}

/// Instruction set of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Architecture {
    #[serde(rename = "x86-64")]
    X86_64,
    Aarch64,
}

impl std::fmt::Display for Architecture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::X86_64 => "x86-64",
            Self::Aarch64 => "aarch64",
        })
    }
}

/// Why a file cannot be searched.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("cannot read it: {0}")]
    Read(#[from] io::Error),
    #[error("not a 64-bit little-endian ELF file for x86-64 or aarch64 ({0})")]
    NotElf(String),
}

/// Consecutive bytes that the program has in memory.
#[derive(Debug, Clone, Copy)]
pub struct Region<'a> {
    pub address: u64,
    pub bytes: &'a [u8],
}

impl<'a> Region<'a> {
    pub fn range(&self) -> Range<u64> {
        self.address..self.address.saturating_add(self.bytes.len() as u64)
    }

    /// From this address to the end of the region.
    pub fn from(&self, address: u64) -> Option<&'a [u8]> {
        let start = usize::try_from(address.checked_sub(self.address)?).ok()?;
        self.bytes.get(start..).filter(|bytes| !bytes.is_empty())
    }
}

/// A stretch of the file that is loaded.
#[derive(Debug, Clone, Copy)]
struct Segment {
    address: u64,
    offset: u64,
    size: u64,
}

#[derive(Debug)]
pub struct Image<'a> {
    pub architecture: Architecture,
    pub build_id: Option<&'a [u8]>,
    elf: ElfFile64<'a, LittleEndian, &'a Contents>,
    segments: Vec<Segment>,
    code: Vec<Region<'a>>,
    constants: Vec<Region<'a>>,
    unwind: Option<Unwind<'a>>,
    /// Found when first asked for.
    padded_starts: OnceCell<Option<Vec<u64>>>,
}

/// The tables of functions that exception handling needs.
#[derive(Debug)]
struct Unwind<'a> {
    /// Rows of two numbers, both relative to `base`: where a function begins, and where its entry in `frames` is.
    rows: &'a [u8],
    base: u64,
    frames: EhFrame<gimli::EndianSlice<'a, gimli::LittleEndian>>,
    bases: BaseAddresses,
    frames_address: u64,
}

/// Reads what a search of this depth needs.
///
/// # Errors
/// When the file cannot be read or is no ELF file.
pub fn read(file: &mut File, depth: Depth) -> Result<Contents, ImageError> {
    let not_elf = |error: object::Error| ImageError::NotElf(error.to_string());
    let start = Contents::read(file, std::iter::once(0..HEADER))?;
    let header = FileHeader64::<LittleEndian>::parse(&start).map_err(not_elf)?;
    let endian = header.endian().map_err(not_elf)?;
    let table = |offset: u64, count: u16, size: u16| {
        let bytes = (u64::from(count) * u64::from(size)).min(MAX_HEADERS);
        offset..offset.saturating_add(bytes)
    };
    let mut ranges = vec![
        0..HEADER,
        table(header.e_phoff(endian), header.e_phnum(endian), header.e_phentsize(endian)),
        table(header.e_shoff(endian), header.e_shnum(endian), header.e_shentsize(endian)),
    ];
    let headers = Contents::read(file, ranges.iter().cloned())?;
    let sections = header.section_headers(endian, &headers).unwrap_or(&[]);
    let extent = |section: &object::elf::SectionHeader64<LittleEndian>| {
        let offset = section.sh_offset(endian);
        offset..offset.saturating_add(section.sh_size(endian))
    };
    let names = sections.get(usize::from(header.e_shstrndx(endian).0));
    ranges.extend(names.map(extent));
    let headers = Contents::read(file, ranges.iter().cloned())?;
    for section in sections {
        let name = names.and_then(|names| {
            let start = names.sh_offset(endian).checked_add(u64::from(section.sh_name(endian)))?;
            (&headers).read_bytes_at_until(start..extent(names).end, 0).ok()
        });
        if wanted(section, name.unwrap_or_default(), depth) {
            ranges.push(extent(section));
        }
    }
    if sections.is_empty() && depth == Depth::Code {
        for segment in header.program_headers(endian, &headers).map_err(not_elf)? {
            if segment.p_type(endian) == PT_LOAD && segment.p_flags(endian).0 & object::elf::PF_W.0 == 0 {
                let offset = segment.p_offset(endian);
                ranges.push(offset..offset.saturating_add(segment.p_filesz(endian)));
            }
        }
    }
    Ok(Contents::read(file, ranges)?)
}

fn wanted(section: &object::elf::SectionHeader64<LittleEndian>, name: &[u8], depth: Depth) -> bool {
    let endian = LittleEndian;
    match section.sh_type(endian) {
        SHT_SYMTAB | SHT_DYNSYM | SHT_STRTAB | SHT_NOTE => true,
        SHT_PROGBITS if is_go_table(name) || name == b".gnu_debuglink" || name == b".go.buildinfo" => true,
        SHT_PROGBITS if depth == Depth::Code => {
            let flags = section.sh_flags(endian).0;
            // Bun keeps the JavaScript of a program, often most of the file, in writable memory.
            flags & SHF_ALLOC.0 != 0 && flags & SHF_WRITE.0 == 0
        }
        _ => false,
    }
}

/// Go's function table, under its names in plain and in position-independent executables.
pub fn is_go_table(name: &[u8]) -> bool {
    name == b".gopclntab" || name == b".data.rel.ro.gopclntab"
}

impl<'a> Image<'a> {
    /// # Errors
    /// When it is no ELF file of the kinds that are understood.
    pub fn parse(contents: &'a Contents) -> Result<Self, ImageError> {
        let not_elf = |error: object::Error| ImageError::NotElf(error.to_string());
        let elf = ElfFile64::<LittleEndian, _>::parse(contents).map_err(not_elf)?;
        let endian = elf.endian();
        let architecture = match elf.elf_header().e_machine(endian) {
            EM_X86_64 => Architecture::X86_64,
            EM_AARCH64 => Architecture::Aarch64,
            other => return Err(ImageError::NotElf(format!("machine {other}"))),
        };
        let loads = || elf.elf_program_headers().iter().filter(|header| header.p_type(endian) == PT_LOAD);
        let segments: Vec<Segment> = loads()
            .map(|header| Segment {
                address: header.p_vaddr(endian),
                offset: header.p_offset(endian),
                size: header.p_filesz(endian),
            })
            .collect();
        let (mut code, mut constants) = (Vec::new(), Vec::new());
        for section in elf.sections() {
            let header = section.elf_section_header();
            let flags = header.sh_flags(endian).0;
            if flags & SHF_ALLOC.0 == 0 || header.sh_type(endian) == SHT_NOBITS {
                continue;
            }
            let Some(bytes) = contents.get(header.sh_offset(endian), header.sh_size(endian)) else { continue };
            let region = Region { address: header.sh_addr(endian), bytes };
            if flags & SHF_EXECINSTR.0 != 0 {
                code.push(region);
            } else if flags & SHF_WRITE.0 == 0 {
                constants.push(region);
            }
        }
        if elf.elf_section_table().is_empty() {
            for header in loads() {
                let Some(bytes) = contents.get(header.p_offset(endian), header.p_filesz(endian)) else { continue };
                let region = Region { address: header.p_vaddr(endian), bytes };
                if header.p_flags(endian).0 & PF_X.0 != 0 { code.push(region) } else { constants.push(region) }
            }
        }
        let build_id = elf.build_id().ok().flatten();
        let mut image = Self {
            architecture,
            build_id,
            elf,
            segments,
            code,
            constants,
            unwind: None,
            padded_starts: OnceCell::new(),
        };
        image.unwind = image.parse_unwind();
        Ok(image)
    }

    /// `.eh_frame_hdr` in the one encoding that linkers write. (gimli's own search of the table does not bear hostile numbers.)
    fn parse_unwind(&self) -> Option<Unwind<'a>> {
        const VERSION: u8 = 1;
        const RELATIVE_TO_PLACE: u8 = 0x1b;
        const UNSIGNED: u8 = 0x03;
        const RELATIVE_TO_TABLE: u8 = 0x3b;
        let header = self.section(".eh_frame_hdr")?;
        let frames = self.section(".eh_frame")?;
        let [VERSION, RELATIVE_TO_PLACE, UNSIGNED, RELATIVE_TO_TABLE, ..] = header.bytes else { return None };
        let count = u32::from_le_bytes(*header.bytes.get(8..)?.first_chunk()?);
        let rows = header.bytes.get(12..)?;
        let rows = rows.get(..usize::try_from(count).ok()?.checked_mul(8)?)?;
        let text = self.section(".text").map_or(0, |text| text.address);
        let bases =
            BaseAddresses::default().set_eh_frame_hdr(header.address).set_eh_frame(frames.address).set_text(text);
        let frames_address = frames.address;
        let frames = EhFrame::new(frames.bytes, gimli::LittleEndian);
        Some(Unwind { rows, base: header.address, frames, bases, frames_address })
    }

    pub fn section(&self, name: &str) -> Option<Region<'a>> {
        let section = self.elf.section_by_name(name)?;
        let bytes = section.data().ok().filter(|bytes| !bytes.is_empty())?;
        Some(Region { address: section.address(), bytes })
    }

    pub fn go_table(&self) -> Option<Region<'a>> {
        [".gopclntab", ".data.rel.ro.gopclntab"].into_iter().find_map(|name| self.section(name))
    }

    /// Name and checksum of the debug file that belongs to it.
    pub fn debug_link(&self) -> Option<(&'a [u8], u32)> {
        self.elf.gnu_debuglink().ok().flatten()
    }

    pub fn is_shared_library(&self) -> bool {
        !self.elf.elf_program_headers().iter().any(|header| header.p_type(LittleEndian) == object::elf::PT_INTERP)
            && self.elf.kind() == object::ObjectKind::Dynamic
    }

    pub fn dynamic_symbols(&self) -> impl Iterator<Item = ElfSymbol64<'a, '_, LittleEndian, &'a Contents>> {
        self.elf.dynamic_symbols().filter(object::ObjectSymbol::is_definition)
    }

    pub fn static_symbols(&self) -> impl Iterator<Item = ElfSymbol64<'a, '_, LittleEndian, &'a Contents>> {
        self.elf.symbols().filter(object::ObjectSymbol::is_definition)
    }

    /// Executable stretches that were read.
    pub fn code(&self) -> &[Region<'a>] {
        &self.code
    }

    /// Stretches that cannot be written to and are no code.
    pub fn constants(&self) -> &[Region<'a>] {
        &self.constants
    }

    /// Bytes of code from this address on.
    pub fn code_from(&self, address: u64) -> Option<&'a [u8]> {
        self.code.iter().find_map(|region| region.from(address))
    }

    pub fn offset_of(&self, address: u64) -> Option<u64> {
        self.segments.iter().find_map(|segment| {
            let within = address.checked_sub(segment.address)?;
            (within < segment.size).then(|| segment.offset.checked_add(within)).flatten()
        })
    }

    /// Whether the address is one of the program's.
    pub fn is_loaded(&self, address: u64) -> bool {
        self.offset_of(address).is_some()
    }

    /// The function around this address, by the table for exception handling.
    pub fn unwound_function(&self, address: u64) -> Option<Range<u64>> {
        let Unwind { rows, base, frames, bases, frames_address } = self.unwind.as_ref()?;
        let number = |row: &[u8], at: usize| -> Option<u64> {
            let relative = i32::from_le_bytes(*row.get(at..)?.first_chunk()?);
            base.checked_add_signed(i64::from(relative))
        };
        let (rows, _) = rows.as_chunks::<8>();
        let after = rows.partition_point(|row| number(row, 0).is_some_and(|start| start <= address));
        let entry = number(rows.get(after.checked_sub(1)?)?, 4)?;
        let within = usize::try_from(entry.checked_sub(*frames_address)?).ok()?;
        let fde = frames.fde_from_offset(bases, within.into(), EhFrame::cie_from_offset).ok()?;
        let range = fde.initial_address()..fde.initial_address().checked_add(fde.len())?;
        range.contains(&address).then_some(range)
    }

    /// Where functions that are called begin, by the padding before them.
    pub fn padded_starts(&self) -> Option<&[u64]> {
        self.padded_starts.get_or_init(|| structure::padded_starts(&self.code)).as_deref()
    }

    /// The name of a symbol without its version (`SSL_read@@OPENSSL_3.0.0`).
    pub fn symbol_name<'s>(symbol: &ElfSymbol64<'a, 's, LittleEndian, &'a Contents>) -> Option<&'a str> {
        let name = symbol.name().ok()?;
        Some(name.split('@').next().unwrap_or(name))
    }
}
