//! OpenSSL 3 inside a stripped program.
//!
//! Its functions report errors with their own names. All writes go through `ssl_write_internal` and all reads through `ssl_read_internal`,
//! whose arguments are those of the public `_ex` functions; since flags were added, the pointer to the length may be one further.

use std::ops::Range;

use iced_x86::{Code, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};

use super::{
    Search,
    image::Image,
    structure,
    symbols::Known,
    target::{Abi, Found, Role, TlsStack},
};

/// As of OpenSSL 3.3. Before, `ssl_write_internal` had no flags.
pub const INTERNAL: [Known; 2] = [
    Known { name: "ssl_write_internal", role: Role::Write, abi: Abi::points_to_length(4) },
    Known { name: "ssl_read_internal", role: Role::Read, abi: Abi::points_to_length(3) },
];

pub fn search(search: &mut Search<'_, '_>) {
    let image = search.image;
    let Some(version) = version(image) else { return };
    for (Known { name, role, .. }, public) in INTERNAL.into_iter().zip(["SSL_write", "SSL_read"]) {
        match find(image, name, public) {
            Ok((range, abi)) => {
                let evidence = format!(
                    "only function that reports errors as {name}, and {public} ({version}) hands its arguments to it"
                );
                let known = Known { name, role, abi };
                search.add(TlsStack::OpenSsl, known, range.start, Some(range.end), Found::Structure { evidence });
            }
            Err(because) => search.uncovered(TlsStack::OpenSsl, format!("{version}: {because}")),
        }
    }
}

/// The text by which the library names its version.
fn version(image: &Image<'_>) -> Option<String> {
    // Programs mention OpenSSL in texts of all kinds; only the library has its source's name.
    if structure::strings_ending(image, "ssl/ssl_lib.c").is_empty() {
        return None;
    }
    image.constants().iter().find_map(|region| {
        let places = memchr::memmem::find_iter(region.bytes, b"OpenSSL ");
        places.filter_map(|at| region.bytes.get(at..at + 24)).find_map(|text| {
            let digits = text.get(8..)?;
            let end = digits.iter().position(|byte| *byte == b' ')?;
            let number = std::str::from_utf8(digits.get(..end)?).ok()?;
            let is_version = number.split('.').count() == 3 && number.starts_with(|digit: char| digit.is_ascii_digit());
            is_version.then(|| format!("OpenSSL {number}"))
        })
    })
}

/// The one function that reports as `name`, if the one that reports as `public` and calls it hands on its own first two arguments.
fn find(image: &Image<'_>, name: &str, public: &str) -> Result<(Range<u64>, Abi), String> {
    let internal = structure::only(reporting_as(image, name)?, name)?;
    // The name may stand elsewhere in the program too.
    let callers = reporting_as(image, public)?.into_iter().filter_map(|range| {
        let code = structure::instructions(image, &range);
        let call = code.iter().position(|instruction| structure::calls(instruction, internal.start))?;
        code.get(..call).map(<[Instruction]>::to_vec)
    });
    let before = structure::only(callers.collect(), &format!("{public}, calling {name}"))?;
    if !hands_on(&before, 2) {
        return Err(format!("{public} does not hand on its arguments to {name}"));
    }
    let argument = match (takes_stack_address(&before, Register::R8), takes_stack_address(&before, Register::RCX)) {
        (true, false) => 4,
        (false, true) => 3,
        _ => return Err(format!("where {name} stores the length could not be told")),
    };
    Ok((internal, Abi::points_to_length(argument)))
}

/// Where the public functions hand on their arguments, in a library that names those only: what to probe in their place, and in place of which.
pub fn shared(
    image: &Image<'_>,
    named: impl Fn(&str) -> Option<Range<u64>>,
) -> Vec<(Known, Range<u64>, [&'static str; 2])> {
    let pairs = [
        ("SSL_write", "SSL_write_ex", Role::Write, 3),
        // With flags (OpenSSL 3.3).
        ("SSL_write", "SSL_write_ex2", Role::Write, 4),
        ("SSL_read", "SSL_read_ex", Role::Read, 3),
    ];
    let inside = |(plain, extended, role, argument): (&'static str, &'static str, Role, u8)| {
        let plain_code = structure::instructions(image, &named(plain)?);
        let extended_code = structure::instructions(image, &named(extended)?);
        let (before, inner) = first_call(&plain_code)?;
        let (before_extended, same) = first_call(&extended_code)?;
        let pointer = argument_register(argument)?;
        // The plain one keeps object and buffer and makes room for the length; the extended one keeps all.
        let handed_on = hands_on(before, 2)
            && takes_stack_address(before, pointer)
            && hands_on(before_extended, usize::from(argument) + 1);
        let range = structure::function_around(image, inner).filter(|range| range.start == inner)?;
        let name = if role == Role::Write { "ssl_write_internal" } else { "ssl_read_internal" };
        let known = Known { name, role, abi: Abi::points_to_length(argument) };
        (inner == same && handed_on).then_some((known, range, [plain, extended]))
    };
    pairs.into_iter().filter_map(inside).collect()
}

/// The first direct call on the straight way from the start, and what is before it. Branches are not taken.
fn first_call(instructions: &[Instruction]) -> Option<(&[Instruction], u64)> {
    let call = instructions.iter().position(|instruction| {
        !matches!(instruction.flow_control(), FlowControl::Next | FlowControl::ConditionalBranch)
    })?;
    let instruction = instructions.get(call)?;
    let is_direct = instruction.flow_control() == FlowControl::Call && instruction.op0_kind() == OpKind::NearBranch64;
    is_direct.then(|| Some((instructions.get(..call)?, instruction.near_branch_target())))?
}

/// Integer arguments of the System V convention, as far as these functions have them.
const ARGUMENTS: [Register; 5] = [Register::RDI, Register::RSI, Register::RDX, Register::RCX, Register::R8];

fn argument_register(index: u8) -> Option<Register> {
    ARGUMENTS.get(usize::from(index)).copied()
}

/// Functions that report errors under this name.
fn reporting_as(image: &Image<'_>, name: &str) -> Result<Vec<Range<u64>>, String> {
    let strings = structure::addresses_of(image, &[b"\0", name.as_bytes(), b"\0"].concat());
    let strings: Vec<u64> = strings.into_iter().filter_map(|address| address.checked_add(1)).collect();
    let mut functions: Vec<Range<u64>> = structure::references(image, &strings)?
        .into_iter()
        .filter_map(|reference| structure::function_around(image, reference))
        .collect();
    functions.dedup();
    Ok(functions)
}

/// Whether behind these instructions the first arguments are still, or again, where the function got them: followed through copies between
/// registers.
fn hands_on(instructions: &[Instruction], arguments: usize) -> bool {
    let mut usage = InstructionInfoFactory::new();
    let mut holders: Vec<(Register, usize)> =
        ARGUMENTS.into_iter().take(arguments).enumerate().map(|(index, register)| (register, index)).collect();
    for instruction in instructions {
        if instruction.flow_control() == FlowControl::Call {
            holders.retain(|(register, _)| KEPT_BY_CALLS.contains(register));
            continue;
        }
        let copied = (instruction.code() == Code::Mov_r64_rm64 || instruction.code() == Code::Mov_rm64_r64)
            && instruction.op0_kind() == OpKind::Register
            && instruction.op1_kind() == OpKind::Register;
        let source = holders.iter().find(|(register, _)| copied && *register == instruction.op1_register()).copied();
        for used in usage.info(instruction).used_registers() {
            if !matches!(used.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::None) {
                let register = used.register().full_register();
                // Widening the length to 64 bits keeps it.
                let widened = instruction.mnemonic() == Mnemonic::Movsxd
                    && instruction.op1_register().full_register() == register;
                holders.retain(|(holder, _)| *holder != register || widened);
            }
        }
        holders.extend(source.map(|(_, index)| (instruction.op0_register(), index)));
    }
    ARGUMENTS.into_iter().take(arguments).enumerate().all(|(index, register)| holders.contains(&(register, index)))
}

/// Registers that a called function leaves as they were.
const KEPT_BY_CALLS: [Register; 6] =
    [Register::RBX, Register::RBP, Register::R12, Register::R13, Register::R14, Register::R15];

/// `lea n(%rsp),register` or `mov %rsp,register`, and nothing later.
fn takes_stack_address(instructions: &[Instruction], register: Register) -> bool {
    let mut usage = InstructionInfoFactory::new();
    let last = instructions.iter().rev().find(|instruction| {
        usage.info(instruction).used_registers().iter().any(|used| {
            used.register().full_register() == register
                && matches!(used.access(), OpAccess::Write | OpAccess::ReadWrite)
        })
    });
    last.is_some_and(|instruction| {
        let source = match instruction.op1_kind() {
            OpKind::Memory => instruction.mnemonic() == Mnemonic::Lea && is_frame(instruction.memory_base()),
            OpKind::Register => instruction.mnemonic() == Mnemonic::Mov && is_frame(instruction.op1_register()),
            _ => false,
        };
        instruction.op0_register() == register && source
    })
}

fn is_frame(register: Register) -> bool {
    matches!(register, Register::RSP | Register::RBP)
}
