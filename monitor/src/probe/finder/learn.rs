//! Deriving a signature from a build in which the functions can be found in another way.

use std::ops::Range;

use iced_x86::{ConstantOffsets, FlowControl, Instruction, OpKind, Register};

use super::{
    Findings,
    code::decode_with_constants,
    image::{Architecture, Image},
    signatures::{self, FunctionSignature, Pattern, Signature},
    structure,
    target::{Role, Target, TlsStack},
};

/// Lengths of code that are tried, shortest first: the shorter, the more other builds it fits.
const LENGTHS: [usize; 4] = [96, 160, 256, 512];

/// Why no signature can be derived.
#[derive(Debug, thiserror::Error)]
pub enum LearnError {
    #[error("signatures are made of x86-64 code")]
    Architecture,
    #[error("{0} was not found with both directions in this file, so that there is nothing to learn from")]
    NothingFound(TlsStack),
    #[error("no TLS functions were found in this file, so that there is nothing to learn from")]
    NoStack,
    #[error("{0} is found by name wherever it is: a signature would be of no use")]
    NeedsNone(TlsStack),
    #[error("there can be no signature of {function}: {reason}")]
    NoPattern { function: String, reason: String },
}

/// Derives a signature of each stack in the file that signatures are of use for, and verifies that it finds what it was derived from.
///
/// # Errors
/// When there is nothing to derive from, or no pattern is unique.
pub fn learn(image: &Image<'_>, findings: &Findings, version: &str) -> Result<Vec<Signature>, LearnError> {
    if image.architecture != Architecture::X86_64 {
        return Err(LearnError::Architecture);
    }
    let mut stacks: Vec<TlsStack> = findings.targets.iter().map(|target| target.stack).collect();
    stacks.dedup();
    let mut refused = LearnError::NoStack;
    let mut signatures = Vec::new();
    for stack in stacks {
        if !matches!(stack, TlsStack::OpenSsl | TlsStack::BoringSsl | TlsStack::RustlsAwsLc) {
            refused = LearnError::NeedsNone(stack);
            continue;
        }
        signatures.push(of_stack(image, findings, stack, version)?);
    }
    if signatures.is_empty() { Err(refused) } else { Ok(signatures) }
}

fn of_stack(image: &Image<'_>, findings: &Findings, stack: TlsStack, version: &str) -> Result<Signature, LearnError> {
    let of_use = |target: &&Target| target.stack == stack && matches!(target.role, Role::Write | Role::Read);
    let targets: Vec<&Target> = findings.targets.iter().filter(of_use).collect();
    let has = |role| targets.iter().any(|target| target.role == role);
    if !has(Role::Write) || !has(Role::Read) {
        return Err(LearnError::NothingFound(stack));
    }
    let function = targets
        .iter()
        .map(|target| {
            // A signature says the function's name, from which its arguments follow.
            if signatures::known(&target.function).map(|known| known.abi) != Ok(target.abi) {
                let reason = "its arguments are not those that its name stands for".to_owned();
                return Err(LearnError::NoPattern { function: target.function.clone(), reason });
            }
            let pattern = unique_pattern(image, target.address)
                .map_err(|reason| LearnError::NoPattern { function: target.function.clone(), reason })?;
            Ok(FunctionSignature { name: target.function.clone(), pattern })
        })
        .collect::<Result<Vec<_>, LearnError>>()?;
    let name = serde_json::to_value(stack).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default();
    let build = findings.build_id.as_deref().and_then(|id| id.get(..8)).unwrap_or("unnamed");
    Ok(Signature { name: format!("{name}-{build}"), stack, versions: vec![version.to_owned()], function })
}

/// The shortest pattern of the function's beginning that is in the file once.
fn unique_pattern(image: &Image<'_>, address: u64) -> Result<Pattern, String> {
    let range = structure::function_around(image, address)
        .filter(|range| range.start == address)
        .ok_or("where it ends is not known")?;
    let bytes = masked(image, &range);
    let mut reason = "it is too short".to_owned();
    for length in LENGTHS.into_iter().filter(|length| *length <= bytes.len()).chain([bytes.len()]) {
        let Some(prefix) = bytes.get(..length) else { break };
        let pattern = match Pattern::new(prefix.to_vec()) {
            Ok(pattern) => pattern,
            Err(why) => {
                reason = why;
                continue;
            }
        };
        match *pattern.addresses(image) {
            [found] if found == address => return Ok(pattern),
            [_] => "another function matches instead".clone_into(&mut reason),
            [] => "it does not match its own function".clone_into(&mut reason),
            _ => reason = format!("also with {length} bytes it fits other functions"),
        }
    }
    Err(reason)
}

/// The function's bytes without those that another link of the same code would change.
fn masked(image: &Image<'_>, range: &Range<u64>) -> Vec<Option<u8>> {
    let size = usize::try_from(range.end - range.start).unwrap_or_default().min(1 << 12);
    let Some(bytes) = image.code_from(range.start).and_then(|bytes| bytes.get(..size)) else { return Vec::new() };
    let mut masked: Vec<Option<u8>> = bytes.iter().copied().map(Some).collect();
    for (instruction, constants) in decode_with_constants(bytes, range.start) {
        let start = usize::try_from(instruction.ip() - range.start).unwrap_or(usize::MAX);
        for field in changing(image, &instruction, &constants) {
            let field = start.saturating_add(field.start)..start.saturating_add(field.end);
            if let Some(field) = masked.get_mut(field) {
                field.fill(None);
            }
        }
    }
    masked
}

/// Where in the instruction there are addresses, distances to other functions, or numbers of source lines.
fn changing(image: &Image<'_>, instruction: &Instruction, constants: &ConstantOffsets) -> Vec<Range<usize>> {
    let mut fields = Vec::new();
    let immediate = constants.immediate_offset()..constants.immediate_offset() + constants.immediate_size();
    let leaves = matches!(
        instruction.flow_control(),
        FlowControl::Call | FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch
    ) && matches!(instruction.op0_kind(), OpKind::NearBranch64);
    if leaves && immediate.len() == 4 {
        fields.push(immediate.clone());
    }
    // Constants of 32 bits in a register are addresses and lines; in `cmp` or `test` they are flags and stay.
    let loaded =
        super::code::constant_load(instruction).is_some_and(|(_, constant)| constant > 0xff && constant != u32::MAX);
    if loaded && immediate.len() == 4 {
        fields.push(immediate);
    }
    let displacement = constants.displacement_offset()..constants.displacement_offset() + constants.displacement_size();
    let base_less = instruction.memory_base() == Register::None
        && instruction.segment_prefix() == Register::None
        && image.is_loaded(instruction.memory_displacement64());
    if displacement.len() == 4 && (instruction.is_ip_rel_memory_operand() || base_less) {
        fields.push(displacement);
    }
    fields
}
