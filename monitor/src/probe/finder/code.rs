//! Questions to machine code: where a probe of a function's entry is cheap, and where the function returns.
//!
//! A uprobe on an instruction that the kernel does not emulate costs a single step in the traced process: ten times as much as one on an
//! instruction that it does. Any instruction of the function will do for a probe of its entry that every call passes exactly once while the
//! arguments are still where the caller put them.

use std::ops::Range;

use iced_x86::{
    Code, ConstantOffsets, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic,
    OpAccess, OpKind, Register,
};
use serde::Serialize;

use super::{
    image::{Architecture, Image},
    target::{Abi, Place},
};

/// Functions that are longer than this are not looked through.
const MAX_FUNCTION: u64 = 64 * 1024;
/// How far into a function its first cheap instruction is looked for.
const MAX_PROLOGUE: usize = 16;
/// Code up to this size is searched for jumps from other places into the beginning of a function.
const MAX_SEARCHED_FOR_JUMPS: u64 = 512 << 20;

/// Where to put a probe of a function's entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EntryPoint {
    /// In the file.
    pub offset: u64,
    pub cost: Cost,
    /// The stack pointer is as it was at the first instruction, so a return probe can be here as well.
    pub stack_untouched: bool,
    /// What was found, or why a cheaper place was not.
    pub because: String,
}

/// What a probe on an instruction costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cost {
    /// The kernel emulates it.
    Emulated,
    /// The process is single-stepped over a copy of it.
    SingleStepped,
    Unknown,
}

/// Instructions of a stretch of code, with their addresses.
pub fn decode(bytes: &[u8], address: u64) -> impl Iterator<Item = Instruction> {
    Decoder::with_ip(64, bytes, address, DecoderOptions::NONE).into_iter()
}

/// As [`decode`], with where in each instruction its constants lie.
pub fn decode_with_constants(bytes: &[u8], address: u64) -> impl Iterator<Item = (Instruction, ConstantOffsets)> {
    let mut decoder = Decoder::with_ip(64, bytes, address, DecoderOptions::NONE);
    std::iter::from_fn(move || {
        decoder.can_decode().then(|| {
            let instruction = decoder.decode();
            let constants = decoder.get_constant_offsets(&instruction);
            (instruction, constants)
        })
    })
}

/// A function whose entry is to be probed. Its end is not always known.
#[derive(Debug, Clone)]
pub struct Function {
    pub address: u64,
    pub end: Option<u64>,
    pub abi: Abi,
}

/// The cheapest sound place to probe the entry of each function; none for one that is not in the file.
pub fn entry_points(image: &Image<'_>, functions: &[Function]) -> Vec<Option<EntryPoint>> {
    let cheap: Vec<Result<Cheap, &'static str>> =
        functions.iter().map(|function| cheap_instruction(image, function)).collect();
    let skipped: Vec<Range<u64>> = functions
        .iter()
        .zip(&cheap)
        .map(|(function, cheap)| cheap.as_ref().map_or(0..0, |cheap| behind_start(function.address, cheap.within)))
        .collect();
    let reached = jumped_into(image, &skipped);
    functions
        .iter()
        .zip(cheap.into_iter().zip(reached))
        .map(|(function, (cheap, reached))| {
            let cheap = match cheap {
                Ok(_) if reached => Err("another place in the program may jump past it"),
                cheap => cheap,
            };
            described(image, function.address, &cheap)
        })
        .collect()
}

fn described(image: &Image<'_>, address: u64, cheap: &Result<Cheap, &'static str>) -> Option<EntryPoint> {
    let offset = image.offset_of(address)?;
    Some(match *cheap {
        Ok(Cheap { within: 0, .. }) => EntryPoint {
            offset,
            cost: Cost::Emulated,
            stack_untouched: true,
            because: "its first instruction, which the kernel emulates".to_owned(),
        },
        Ok(Cheap { within, mnemonic, stack_untouched }) => EntryPoint {
            offset: offset.checked_add(within)?,
            cost: Cost::Emulated,
            stack_untouched,
            because: format!(
                "{} at +{within}, which the kernel emulates, which every call passes, and before which no argument changes",
                format!("{mnemonic:?}").to_lowercase()
            ),
        },
        Err(because) => EntryPoint {
            offset,
            cost: if image.architecture == Architecture::X86_64 { Cost::SingleStepped } else { Cost::Unknown },
            stack_untouched: true,
            because: format!("its first instruction: {because}"),
        },
    })
}

struct Cheap {
    within: u64,
    mnemonic: Mnemonic,
    stack_untouched: bool,
}

/// What a probe behind the first instruction skips.
fn behind_start(address: u64, within: u64) -> Range<u64> {
    address.saturating_add(1)..address.saturating_add(within).saturating_add(1)
}

fn cheap_instruction(image: &Image<'_>, function: &Function) -> Result<Cheap, &'static str> {
    let Function { address, end, abi } = *function;
    if image.architecture != Architecture::X86_64 {
        return Err("what it costs on this architecture is not known");
    }
    let bytes = image.code_from(address).ok_or("the code was not read")?;
    let needed: Vec<Register> = abi.places().filter_map(register_of).collect();
    let needs_stack = abi.places().any(|place| matches!(place, Place::Stack(_)));
    let is_go = abi.places().any(|place| matches!(place, Place::GoRegister(_)));
    let mut usage = InstructionInfoFactory::new();
    let mut stack_untouched = true;
    let mut found: Option<Cheap> = None;
    for instruction in decode(bytes, address).take(MAX_PROLOGUE) {
        if instruction.is_invalid() {
            return Err("the code cannot be decoded");
        }
        let within = instruction.ip().wrapping_sub(address);
        let encoded = usize::try_from(within).ok().and_then(|start| bytes.get(start..)).unwrap_or_default();
        let emulated = is_emulated(encoded);
        let is_branch = instruction.flow_control() == FlowControl::ConditionalBranch;
        let cheap = || Cheap { within, mnemonic: instruction.mnemonic(), stack_untouched };
        if let Some(stack_check) = found {
            found = Some(if emulated && !is_branch { cheap() } else { stack_check });
            break;
        }
        if emulated {
            found = Some(cheap());
            // A Go function first makes sure of its stack, and starts again once that has grown: behind it, each call is seen once.
            if is_go && is_branch { continue } else { break }
        }
        if instruction.flow_control() != FlowControl::Next {
            return Err("the function branches before one that the kernel emulates");
        }
        for used in usage.info(&instruction).used_registers() {
            if matches!(used.access(), OpAccess::None | OpAccess::Read | OpAccess::CondRead) {
                continue;
            }
            let register = used.register().full_register();
            if needed.contains(&register) {
                return Err("an argument is overwritten before one that the kernel emulates");
            }
            if register == Register::RSP {
                stack_untouched = false;
                if needs_stack {
                    return Err("the stack moves before one that the kernel emulates");
                }
            }
        }
    }
    let found = found.ok_or("none of the first ones is emulated by the kernel")?;
    if found.within > 0 && loops_into(bytes, address, end, &behind_start(address, found.within)) {
        return Err("the function itself may jump past it, or where it ends is not known");
    }
    Ok(found)
}

fn register_of(place: Place) -> Option<Register> {
    let (registers, index): (&[Register], u8) = match place {
        Place::Argument(index) => (&ARGUMENTS, index),
        Place::GoRegister(index) => (&GO_REGISTERS, index),
        Place::Stack(_) => return None,
    };
    registers.get(usize::from(index)).copied()
}

/// Integer arguments of Go's register convention.
const GO_REGISTERS: [Register; 4] = [Register::RAX, Register::RBX, Register::RCX, Register::RDI];

/// Integer arguments of the System V convention.
const ARGUMENTS: [Register; 6] =
    [Register::RDI, Register::RSI, Register::RDX, Register::RCX, Register::R8, Register::R9];

/// Whether every kernel that Tollgate supports emulates the instruction that these bytes begin with (`arch/x86/kernel/uprobes.c`,
/// `branch_setup_xol_ops` and `push_setup_xol_ops`): pushes of a register, relative jumps and calls, and the one-byte `nop`; none with
/// prefixes other than the one that reaches registers 8 to 15.
fn is_emulated(bytes: &[u8]) -> bool {
    matches!(
        bytes,
        [0x50..=0x57 | 0x70..=0x7f | 0x90 | 0xe8 | 0xe9 | 0xeb, ..] | [0x41, 0x50..=0x57, ..] | [0x0f, 0x80..=0x8f, ..]
    )
}

/// Whether a branch of the function leads into what a probe would skip.
fn loops_into(bytes: &[u8], address: u64, end: Option<u64>, skipped: &Range<u64>) -> bool {
    let size = end.and_then(|end| end.checked_sub(address)).filter(|size| *size <= MAX_FUNCTION);
    let Some(body) = size.and_then(|size| bytes.get(..usize::try_from(size).ok()?)) else { return true };
    decode(body, address).any(|instruction| {
        let is_branch =
            matches!(instruction.op0_kind(), OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64);
        instruction.is_invalid() || is_branch && skipped.contains(&instruction.near_branch_target())
    })
}

/// For each range whether some far jump or call leads into it: cold parts of a function lie elsewhere. Whatever reads as one counts.
fn jumped_into(image: &Image<'_>, ranges: &[Range<u64>]) -> Vec<bool> {
    let mut reached = vec![false; ranges.len()];
    let bounds = ranges.iter().filter(|range| !range.is_empty());
    let (Some(low), Some(high)) = (bounds.clone().map(|range| range.start).min(), bounds.map(|range| range.end).max())
    else {
        return reached;
    };
    let total: u64 = image.code().iter().map(|region| region.bytes.len() as u64).sum();
    if total > MAX_SEARCHED_FOR_JUMPS {
        return vec![true; ranges.len()];
    }
    for region in image.code() {
        for at in memchr::memchr3_iter(0xe8, 0xe9, 0x0f, region.bytes) {
            let distance_at = match region.bytes.get(at..at + 2) {
                Some([0x0f, 0x80..=0x8f]) => at + 2,
                Some([0xe8 | 0xe9, _]) => at + 1,
                _ => continue,
            };
            let Some([d0, d1, d2, d3]) = region.bytes.get(distance_at..distance_at + 4) else { continue };
            let distance = i64::from(i32::from_le_bytes([*d0, *d1, *d2, *d3]));
            let target = region.address.wrapping_add(distance_at as u64 + 4).wrapping_add_signed(distance);
            if (low..high).contains(&target) {
                for (reached, range) in reached.iter_mut().zip(ranges) {
                    *reached |= range.contains(&target);
                }
            }
        }
    }
    reached
}

/// Addresses of the return instructions in a function.
///
/// # Errors
/// When it cannot be disassembled from start to end, or never returns.
pub fn return_sites(image: &Image<'_>, function: Range<u64>) -> Result<Vec<u64>, &'static str> {
    let size = function.end.checked_sub(function.start).filter(|size| *size <= MAX_FUNCTION);
    let bytes = size
        .and_then(|size| image.code_from(function.start)?.get(..usize::try_from(size).ok()?))
        .ok_or("its code is not in the file, or implausibly long")?;
    let sites: Vec<u64> = match image.architecture {
        Architecture::X86_64 => {
            let mut sites = Vec::new();
            for instruction in decode(bytes, function.start) {
                if instruction.is_invalid() {
                    return Err("its code cannot be disassembled");
                }
                if instruction.flow_control() == FlowControl::Return {
                    sites.push(instruction.ip());
                }
            }
            sites
        }
        // `ret` (to x30).
        Architecture::Aarch64 => bytes
            .chunks_exact(4)
            .zip((function.start..).step_by(4))
            .filter(|(word, _)| *word == [0xc0, 0x03, 0x5f, 0xd6])
            .map(|(_, address)| address)
            .collect(),
    };
    if sites.is_empty() { Err("it has no return instruction") } else { Ok(sites) }
}

/// Whether the instruction puts a constant into a 32-bit register: which, and what.
pub fn constant_load(instruction: &Instruction) -> Option<(Register, u32)> {
    let is_load = matches!(instruction.code(), Code::Mov_r32_imm32 | Code::Mov_rm32_imm32);
    (is_load && instruction.op0_kind() == OpKind::Register)
        .then(|| (instruction.op0_register(), instruction.immediate32()))
}

#[cfg(test)]
mod tests {
    use super::is_emulated;

    #[test]
    fn emulated_instructions_are_the_kernels() {
        for slow in [
            &[0x48, 0x83, 0xec, 0x18][..], // sub $0x18,%rsp
            &[0xf3, 0x0f, 0x1e, 0xfa],     // endbr64
            &[0x66, 0x90],                 // xchg %ax,%ax
            &[0xc3],                       // ret
            &[0x0f, 0x1f, 0x40, 0x00],     // nopl 0(%rax)
            &[0x48, 0x50],                 // rex.W push %rax
            &[],
        ] {
            assert!(!is_emulated(slow), "{slow:x?}");
        }
        for fast in [&[0x55][..], &[0x41, 0x57], &[0xe8, 0, 0, 0, 0], &[0x74, 0x05], &[0x0f, 0x88, 0, 0, 0, 0], &[0x90]]
        {
            assert!(is_emulated(fast), "{fast:x?}");
        }
    }
}
