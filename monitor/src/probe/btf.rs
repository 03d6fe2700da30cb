//! Where members of the kernel's structs lie, by the kernel's own description of its types (`Documentation/bpf/btf.rst`).
#![forbid(unsafe_code)]

use std::{fs, io};

/// Type information of the running kernel.
pub struct KernelTypes {
    bytes: Vec<u8>,
    /// Offset and length of the two sections.
    types: (usize, usize),
    strings: (usize, usize),
}

const PATH: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;

/// Kinds of types that matter here, and how many bytes follow the common part of each kind: fixed, and for each of its parts.
const STRUCT: u32 = 4;
const COMMON: usize = 12;
const MEMBER: usize = 12;

impl KernelTypes {
    /// Reads the running kernel's.
    ///
    /// # Errors
    /// When the kernel offers none, or in a format that is not known.
    pub fn read() -> io::Result<Self> {
        Self::parse(fs::read(PATH)?)
    }

    fn parse(bytes: Vec<u8>) -> io::Result<Self> {
        let invalid = || io::Error::new(io::ErrorKind::InvalidData, format!("{PATH} is not BTF"));
        let magic = bytes.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes));
        if magic != Some(MAGIC) {
            return Err(invalid());
        }
        let header = |index: usize| number(&bytes, 4 + index * 4).ok_or_else(invalid);
        let (length, types, strings) = (header(0)?, (header(1)?, header(2)?), (header(3)?, header(4)?));
        let section = |(offset, size): (usize, usize)| (length + offset, size);
        Ok(Self { types: section(types), strings: section(strings), bytes })
    }

    /// Byte offset of a member; members of unnamed structs and unions within it count as its own.
    ///
    /// # Errors
    /// When there is no such struct or member, or the member is a bit field.
    pub fn offset(&self, structure: &str, member: &str) -> io::Result<u32> {
        let found = self.all().find_map(|of| {
            (of.kind == STRUCT && self.name(of.name) == structure.as_bytes())
                .then(|| self.member(&of, member, 0))
                .flatten()
        });
        found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("the kernel has no {structure}.{member}")))
    }

    fn member(&self, of: &Type, name: &str, depth: u32) -> Option<u32> {
        for index in 0..of.parts {
            let at = of.at + COMMON + index * MEMBER;
            let (own, kind, bits) = (self.number(at)?, self.number(at + 4)?, self.number(at + 8)?);
            // With the kind flag, the high byte is the size of a bit field.
            let bits = if of.has_flag { bits & 0x00ff_ffff } else { bits };
            let bytes = u32::try_from(bits / 8).ok()?;
            if self.name(own) == name.as_bytes() {
                return (bits % 8 == 0).then_some(bytes);
            }
            if own == 0
                && depth < 8
                && let Some(inner) = self.all().nth(kind.checked_sub(1)?).filter(|inner| matches!(inner.kind, 4 | 5))
                && let Some(within) = self.member(&inner, name, depth + 1)
            {
                return Some(bytes + within);
            }
        }
        None
    }

    /// All types, in the order of their ids, which begin with 1.
    fn all(&self) -> impl Iterator<Item = Type> {
        let (mut at, end) = (self.types.0, self.types.0.saturating_add(self.types.1));
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let (name, info) = (self.number(at)?, self.number(at + 4)?);
            let (parts, kind) = (info & 0xffff, u32::try_from((info >> 24) & 0x1f).ok()?);
            let of = Type { at, name, kind, parts, has_flag: info >> 31 == 1 };
            at += COMMON + extra(kind, parts)?;
            Some(of)
        })
    }

    fn number(&self, at: usize) -> Option<usize> {
        number(&self.bytes, at)
    }

    fn name(&self, offset: usize) -> &[u8] {
        let (start, size) = self.strings;
        let strings = self.bytes.get(start..).and_then(|rest| rest.get(..size)).unwrap_or_default();
        let text = strings.get(offset..).unwrap_or_default();
        text.split(|byte| *byte == 0).next().unwrap_or_default()
    }
}

/// A type and where it is described.
struct Type {
    at: usize,
    name: usize,
    kind: u32,
    parts: usize,
    has_flag: bool,
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let word = bytes.get(at..)?.first_chunk()?;
    usize::try_from(u32::from_ne_bytes(*word)).ok()
}

/// Bytes that follow the common part of a type.
fn extra(kind: u32, parts: usize) -> Option<usize> {
    Some(match kind {
        // Pointers, forward declarations, typedefs, qualifiers, functions, floats, type tags.
        2 | 7..=12 | 16 | 18 => 0,
        // Integers, variables, declaration tags.
        1 | 14 | 17 => 4,
        // Arrays.
        3 => 12,
        // Structs and unions, sections, 64-bit enumerations.
        4 | 5 | 15 | 19 => parts * 12,
        // Enumerations and parameters.
        6 | 13 => parts * 8,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::KernelTypes;

    #[test]
    fn members_of_this_kernel_are_found() {
        let types = KernelTypes::read().expect("the kernel's types");
        // Fixed by the architecture since always: the first member of the first struct that is looked at.
        assert_eq!(types.offset("list_head", "next").expect("a member"), 0);
        assert_eq!(types.offset("list_head", "prev").expect("a member"), 8);
        // Within unnamed structs.
        for (structure, member) in [("vm_area_struct", "vm_start"), ("mm_struct", "start_code"), ("task_struct", "mm")]
        {
            assert!(types.offset(structure, member).is_ok(), "{structure}.{member}");
        }
        assert!(types.offset("vm_area_struct", "absent").is_err());
        assert!(types.offset("absent", "vm_start").is_err());
    }

    #[test]
    fn what_is_not_btf_is_refused() {
        for bytes in [&b""[..], b"\x9f", b"\x9f\xeb\x01\x00", &[0; 64]] {
            assert!(KernelTypes::parse(bytes.to_vec()).is_err());
        }
        let mut header = vec![0x9f, 0xeb, 1, 0];
        header.extend([24_u32, 0, u32::MAX, 0, u32::MAX].iter().flat_map(|word| word.to_ne_bytes()));
        header.extend([0xff; 40]);
        let types = KernelTypes::parse(header).expect("a header");
        assert!(types.offset("a", "b").is_err());
    }
}
