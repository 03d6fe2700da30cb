//! Questions to machine code: where a probe of a function's entry is cheap, and where the function returns.
//!
//! A uprobe on an instruction that the kernel does not emulate costs a single step in the traced process: ten times as much as one on an
//! instruction that it does. Any instruction of the function will do for a probe of its entry that every call passes exactly once while the
//! arguments are still where the caller put them.

use std::ops::Range;

use iced_x86::{
    Code, ConstantOffsets, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind,
    Register,
};
use serde::Serialize;

use super::{
    image::{Architecture, Image},
    target::{Abi, hexadecimal},
};

/// Functions that are longer than this are not looked through.
const MAX_FUNCTION: u64 = 64 * 1024;
/// How far into a function its first cheap instruction is looked for.
const MAX_PROLOGUE: usize = 16;
/// Code up to this size is searched for jumps from other places into the beginning of a function.
const MAX_SEARCHED_FOR_JUMPS: u64 = 32 << 20;

/// Where to put a probe of a function's entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EntryPoint {
    /// In the file.
    #[serde(serialize_with = "hexadecimal")]
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

/// The cheapest sound place to probe the entry of a function. Its end is not always known.
pub fn entry_point(image: &Image<'_>, address: u64, end: Option<u64>, abi: &Abi) -> Option<EntryPoint> {
    let offset = image.offset_of(address)?;
    let stay = |cost, because: &str| EntryPoint { offset, cost, stack_untouched: true, because: because.to_owned() };
    if image.architecture != Architecture::X86_64 {
        return Some(stay(Cost::Unknown, "its first instruction"));
    }
    let Some(bytes) = image.code_from(address) else {
        return Some(stay(Cost::Unknown, "its first instruction: the code was not read"));
    };
    Some(match cheap_instruction(image, bytes, address, end, abi) {
        Ok(Cheap { within: 0, .. }) => stay(Cost::Emulated, "its first instruction, which the kernel emulates"),
        Ok(Cheap { within, mnemonic, stack_untouched }) => EntryPoint {
            offset: offset.checked_add(within)?,
            cost: Cost::Emulated,
            stack_untouched,
            because: format!(
                "{mnemonic:?} at +{within}: the first instruction that the kernel emulates, on the way of every call, arguments intact"
            )
            .to_lowercase(),
        },
        Err(because) => stay(Cost::SingleStepped, because),
    })
}

struct Cheap {
    within: u64,
    mnemonic: Mnemonic,
    stack_untouched: bool,
}

fn cheap_instruction(
    image: &Image<'_>,
    bytes: &[u8],
    address: u64,
    end: Option<u64>,
    abi: &Abi,
) -> Result<Cheap, &'static str> {
    let (registers, needs_stack) = abi.needs();
    let mut usage = InstructionInfoFactory::new();
    let mut stack_untouched = true;
    for instruction in decode(bytes, address).take(MAX_PROLOGUE) {
        if instruction.is_invalid() {
            return Err("its first instruction: the code cannot be decoded");
        }
        let within = instruction.ip().wrapping_sub(address);
        let encoded = usize::try_from(within).ok().and_then(|start| bytes.get(start..)).unwrap_or_default();
        if is_emulated(encoded) {
            if within > 0 && !only_reached_from_the_start(image, bytes, address, end, instruction.ip()) {
                return Err("its first instruction: another place may jump past it");
            }
            return Ok(Cheap { within, mnemonic: instruction.mnemonic(), stack_untouched });
        }
        if instruction.flow_control() != FlowControl::Next {
            return Err("its first instruction: the function branches before one that the kernel emulates");
        }
        for used in usage.info(&instruction).used_registers() {
            let written = matches!(
                used.access(),
                OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
            );
            if !written {
                continue;
            }
            let register = used.register().full_register();
            if ARGUMENTS.iter().take(usize::from(registers)).any(|argument| *argument == register) {
                return Err("its first instruction: an argument is overwritten before one that the kernel emulates");
            }
            if register == Register::RSP {
                stack_untouched = false;
                if needs_stack {
                    return Err("its first instruction: the stack moves before one that the kernel emulates");
                }
            }
        }
    }
    Err("its first instruction: none of the first ones is emulated by the kernel")
}

/// Integer arguments of the System V convention.
const ARGUMENTS: [Register; 6] =
    [Register::RDI, Register::RSI, Register::RDX, Register::RCX, Register::R8, Register::R9];

/// Whether every kernel that Tollgate supports emulates the instruction that these bytes begin with (`arch/x86/kernel/uprobes.c`,
/// `branch_setup_xol_ops` and `push_setup_xol_ops`): pushes of a register, relative jumps and calls, and the one-byte `nop`; none with
/// prefixes other than the one that reaches registers 8 to 15.
fn is_emulated(bytes: &[u8]) -> bool {
    match bytes {
        [0x50..=0x57 | 0x70..=0x7f | 0x90 | 0xe8 | 0xe9 | 0xeb, ..] => true,
        [0x41, 0x50..=0x57, ..] => true,
        [0x0f, 0x80..=0x8f, ..] => true,
        _ => false,
    }
}

/// No branch leads behind the function's first instruction and up to `last`: whoever comes there has come from the start.
fn only_reached_from_the_start(
    image: &Image<'_>,
    bytes: &[u8],
    address: u64,
    end: Option<u64>,
    last: u64,
) -> bool {
    let inside = address.saturating_add(1)..last.saturating_add(1);
    let Some(size) = end.and_then(|end| end.checked_sub(address)).filter(|size| *size <= MAX_FUNCTION) else { return false };
    let Some(body) = usize::try_from(size).ok().and_then(|size| bytes.get(..size)) else { return false };
    for instruction in decode(body, address) {
        let is_branch = matches!(
            instruction.op0_kind(),
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64
        );
        if instruction.is_invalid() || is_branch && inside.contains(&instruction.near_branch_target()) {
            return false;
        }
    }
    // Cold parts of a function lie elsewhere. Whatever reads as a 32-bit distance to there is taken for a jump.
    let total: u64 = image.code().iter().map(|region| region.bytes.len() as u64).sum();
    total <= MAX_SEARCHED_FOR_JUMPS
        && !image.code().iter().any(|region| {
            let next = region.address.wrapping_add(4);
            region.bytes.windows(4).zip(0_u64..).any(|(distance, at)| {
                let distance = i32::from_le_bytes(distance.try_into().unwrap_or_default());
                let target = next.wrapping_add(at).wrapping_add_signed(i64::from(distance));
                inside.contains(&target)
            })
        })
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
    (is_load && instruction.op0_kind() == OpKind::Register).then(|| (instruction.op0_register(), instruction.immediate32()))
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
        for fast in [&[0x55][..], &[0x41, 0x57], &[0xe8, 0, 0, 0, 0], &[0x74, 0x05], &[0x0f, 0x88, 0, 0, 0, 0], &[0x90]] {
            assert!(is_emulated(fast), "{fast:x?}");
        }
    }
}
