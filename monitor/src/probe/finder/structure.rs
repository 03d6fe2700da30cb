//! Evidence in code without symbols: which functions refer to a string, and which constants they use there.
//!
//! Libraries report errors with the name of their source file or function and small numbers, so that the strings and numbers of a function are
//! its fingerprint, whatever the compiler made of the rest.

use std::{collections::BTreeMap, ops::Range};

use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind};

use super::{
    code::{constant_load, decode},
    image::{Image, Region},
};

/// Code of a function is looked at up to this length.
const MAX_FUNCTION: u64 = 64 * 1024;
/// Copies of a string, references to them, and instructions around those, at most. A file that has more was made to waste time; and where not all can
/// be looked at, nothing is unique.
const MAX_STRINGS: usize = 64;
const MAX_REFERENCES: usize = 4096;
const MAX_INSTRUCTIONS: usize = 1 << 20;
/// Calls of functions in a program.
const MAX_CALLS: usize = 16 << 20;
const TOO_MANY: &str = "more places than can be looked at refer to its strings";
/// Instructions before and after a reference that belong to the same report of an error.
const REPORT: usize = 12;

/// Addresses at which constant data has these bytes.
pub fn addresses_of(image: &Image<'_>, needle: &[u8]) -> Vec<u64> {
    let finder = memchr::memmem::Finder::new(needle);
    let places = image
        .constants()
        .iter()
        .flat_map(|region| finder.find_iter(region.bytes).filter_map(|at| region.address.checked_add(at as u64)));
    places.take(MAX_STRINGS + 1).collect()
}

/// Addresses of the C strings that end so.
pub fn strings_ending(image: &Image<'_>, end: &str) -> Vec<u64> {
    let needle = [end.as_bytes(), b"\0"].concat();
    let finder = memchr::memmem::Finder::new(&needle);
    let places = image.constants().iter().flat_map(|region| {
        finder.find_iter(region.bytes).filter_map(|at| {
            let before = region.bytes.get(..at)?;
            let start = memchr::memrchr(0, before.get(at.saturating_sub(1024)..)?)?;
            region.address.checked_add((at.saturating_sub(1024) + start + 1) as u64)
        })
    });
    places.take(MAX_STRINGS + 1).collect()
}

/// Addresses of instructions that put one of these addresses into a register.
///
/// # Errors
/// When there are too many.
pub fn references(image: &Image<'_>, addresses: &[u64]) -> Result<Vec<u64>, &'static str> {
    if addresses.len() > MAX_STRINGS {
        return Err(TOO_MANY);
    }
    let places = image.code().iter().flat_map(|region| {
        let absolute = addresses.iter().filter_map(|address| u32::try_from(*address).ok());
        relative_references(region, addresses).chain(absolute.flat_map(|address| absolute_references(region, address)))
    });
    let mut found: Vec<u64> = places.take(MAX_REFERENCES + 1).collect();
    if found.len() > MAX_REFERENCES {
        return Err(TOO_MANY);
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// `lea distance(%rip),%r64`: REX.W 8d with that addressing.
fn relative_references(region: &Region<'_>, addresses: &[u64]) -> impl Iterator<Item = u64> {
    let bytes = region.bytes;
    memchr::memchr_iter(0x8d, bytes).filter_map(move |opcode| {
        let start = opcode.checked_sub(1)?;
        let [rex, _, modrm, d0, d1, d2, d3] = bytes.get(start..start + 7)? else { return None };
        if !matches!(rex, 0x48 | 0x4c) || modrm & 0xc7 != 0x05 {
            return None;
        }
        let distance = i64::from(i32::from_le_bytes([*d0, *d1, *d2, *d3]));
        let at = region.address.wrapping_add(start as u64);
        addresses.contains(&at.wrapping_add(7).wrapping_add_signed(distance)).then_some(at)
    })
}

/// `mov $address,%r32`, in code that is not position-independent.
fn absolute_references(region: &Region<'_>, address: u32) -> impl Iterator<Item = u64> {
    let bytes = region.bytes;
    let finder = memchr::memmem::Finder::new(&address.to_le_bytes()).into_owned();
    let mut from = 0;
    let places = std::iter::from_fn(move || {
        let at = finder.find(bytes.get(from..)?)? + from;
        from = at + 1;
        Some(at)
    });
    places.filter_map(move |at| {
        let start = at.checked_sub(1).filter(|start| matches!(bytes.get(*start), Some(0xb8..=0xbf)))?;
        let extended = start.checked_sub(1).filter(|before| bytes.get(*before) == Some(&0x41));
        Some(region.address.wrapping_add(extended.unwrap_or(start) as u64))
    })
}

/// Where the function around this address begins and ends.
pub fn function_around(image: &Image<'_>, address: u64) -> Option<Range<u64>> {
    image.unwound_function(address).or_else(|| by_padding(image, address))
}

/// Compilers align functions and fill the space between with `int3`. Only a start that something calls counts.
fn by_padding(image: &Image<'_>, address: u64) -> Option<Range<u64>> {
    let region = image.code().iter().find(|region| region.range().contains(&address))?;
    let starts = image.padded_starts()?;
    let start = *starts.get(starts.partition_point(|start| *start <= address).checked_sub(1)?)?;
    let near = region.range().contains(&start) && address - start < MAX_FUNCTION;
    near.then(|| following(region, start, address)).flatten()
}

/// Aligned addresses behind `int3` that something calls or jumps to, in order; none if there are more than a program has functions.
pub fn padded_starts(code: &[Region<'_>]) -> Option<Vec<u64>> {
    let mut starts = Vec::new();
    for region in code {
        for at in memchr::memchr2_iter(0xe8, 0xe9, region.bytes) {
            let Some([_, d0, d1, d2, d3]) = region.bytes.get(at..at + 5) else { continue };
            let distance = i64::from(i32::from_le_bytes([*d0, *d1, *d2, *d3]));
            let target = region.address.wrapping_add(at as u64 + 5).wrapping_add_signed(distance);
            let padded = || target.checked_sub(1).and_then(|before| region.from(before)?.first()) == Some(&0xcc);
            if target.is_multiple_of(16) && padded() {
                starts.push(target);
            }
        }
        if starts.len() > MAX_CALLS {
            return None;
        }
    }
    starts.sort_unstable();
    starts.dedup();
    Some(starts)
}

/// The function at or behind `start` that contains the address: functions that fill their space to the last byte follow without padding.
fn following(region: &Region<'_>, mut start: u64, address: u64) -> Option<Range<u64>> {
    while start <= address {
        let end = end_of(region, start)?;
        if address < end {
            return Some(start..end);
        }
        start = end.checked_add(15)? & !15;
    }
    None
}

/// Where straight decoding from the start comes to an end of all paths.
fn end_of(region: &Region<'_>, start: u64) -> Option<u64> {
    let mut reached = start;
    for instruction in decode(region.from(start)?, start) {
        if instruction.is_invalid() || instruction.next_ip() - start > MAX_FUNCTION {
            return None;
        }
        if branch_target(&instruction).is_some_and(|target| target - start.min(target) < MAX_FUNCTION) {
            reached = reached.max(branch_target(&instruction).unwrap_or_default());
        }
        let last = match instruction.flow_control() {
            FlowControl::Return
            | FlowControl::UnconditionalBranch
            | FlowControl::IndirectBranch
            | FlowControl::Exception => true,
            FlowControl::Interrupt => instruction.mnemonic() == Mnemonic::Int3,
            // A call that does not return, at the end.
            FlowControl::Call => region.from(instruction.next_ip()).and_then(|next| next.first()) == Some(&0xcc),
            _ => false,
        };
        if last && instruction.next_ip() > reached {
            return Some(instruction.next_ip());
        }
    }
    None
}

/// The place that a direct jump leads to.
fn branch_target(instruction: &Instruction) -> Option<u64> {
    let direct = matches!(instruction.op0_kind(), OpKind::NearBranch64 | OpKind::NearBranch32)
        && instruction.flow_control() != FlowControl::Call;
    direct.then(|| instruction.near_branch_target())
}

/// A function, and the constants beside each of its references to a string.
#[derive(Debug)]
pub struct Reporter {
    pub range: Range<u64>,
    pub instructions: Vec<Instruction>,
    pub reports: Vec<Vec<u32>>,
}

impl Reporter {
    /// Constants that are reasons of errors, among `known`, at any report.
    pub fn reasons(&self, known: &[u32]) -> Vec<u32> {
        let mut reasons: Vec<u32> =
            self.reports.iter().flatten().copied().filter(|constant| known.contains(constant)).collect();
        reasons.sort_unstable();
        reasons.dedup();
        reasons
    }

    /// Constants in this range, which line numbers are in, at reports that have this reason.
    pub fn constants_with(&self, reason: u32, range: Range<u32>) -> impl Iterator<Item = u32> {
        let reports = self.reports.iter().filter(move |report| report.contains(&reason));
        reports.flatten().copied().filter(move |constant| range.contains(constant))
    }
}

/// Whether the instruction calls or jumps to the address.
pub fn calls(instruction: &Instruction, address: u64) -> bool {
    matches!(instruction.op0_kind(), OpKind::NearBranch64 | OpKind::NearBranch32)
        && instruction.near_branch_target() == address
}

/// Functions that refer to one of the strings at these addresses.
///
/// # Errors
/// When there are too many.
pub fn reporters(image: &Image<'_>, strings: &[u64]) -> Result<Vec<Reporter>, &'static str> {
    let mut found: BTreeMap<u64, Reporter> = BTreeMap::new();
    let mut total = 0;
    for reference in references(image, strings)? {
        let Some(range) = function_around(image, reference) else { continue };
        let reporter = found.entry(range.start).or_insert_with(|| {
            let instructions = instructions(image, &range);
            total += instructions.len();
            Reporter { instructions, range, reports: Vec::new() }
        });
        if total > MAX_INSTRUCTIONS {
            return Err(TOO_MANY);
        }
        // What is no instruction of the function was data that looked like one.
        let index = reporter.instructions.partition_point(|instruction| instruction.ip() < reference);
        if reporter.instructions.get(index).is_some_and(|instruction| instruction.ip() == reference) {
            let constants = constants_beside(&reporter.instructions, index);
            reporter.reports.push(constants);
        }
    }
    Ok(found.into_values().filter(|reporter| !reporter.reports.is_empty()).collect())
}

pub fn instructions(image: &Image<'_>, range: &Range<u64>) -> Vec<Instruction> {
    let size = usize::try_from((range.end - range.start).min(MAX_FUNCTION)).unwrap_or_default();
    let bytes = image.code_from(range.start).and_then(|bytes| bytes.get(..size)).unwrap_or_default();
    decode(bytes, range.start).collect()
}

fn constants_beside(instructions: &[Instruction], index: usize) -> Vec<u32> {
    let straight = |instruction: &&Instruction| instruction.flow_control() == FlowControl::Next;
    let before = instructions.get(..index).unwrap_or_default().iter().rev().take(REPORT).take_while(straight);
    let after = instructions.get(index..).unwrap_or_default().iter().take(REPORT).take_while(straight);
    before.chain(after).filter_map(constant).collect()
}

fn constant(instruction: &Instruction) -> Option<u32> {
    match constant_load(instruction) {
        Some((_, constant)) => Some(constant),
        // push $reason; pop %reg: shorter.
        None if instruction.mnemonic() == Mnemonic::Push && instruction.op0_kind() == OpKind::Immediate8to64 => {
            u32::try_from(instruction.immediate8to64()).ok()
        }
        None => None,
    }
}

/// The only one, or why there is none.
pub fn only<T>(mut candidates: Vec<T>, what: &str) -> Result<T, String> {
    match (candidates.pop(), candidates.len()) {
        (Some(one), 0) => Ok(one),
        (None, _) => Err(format!("no function has the marks of {what}")),
        (Some(_), others) => Err(format!("{} functions have the marks of {what}", others + 1)),
    }
}
