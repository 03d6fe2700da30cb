//! What to attach to in a file: the findings of the search, as programs, offsets and cookies.
#![forbid(unsafe_code)]

use monitor_common::layout;
use serde::{Deserialize, Serialize};

use super::finder::{Abi, Coverage, Findings, Passed, Place, Returns, Role, Target, TlsStack};

/// Probes of one file, and what is to be said about it. Kept on disk, so that a large file is searched once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub probes: Vec<Probe>,
    /// Functions that are probed, as their libraries call them.
    pub functions: Vec<String>,
    pub stacks: Vec<TlsStack>,
    /// TLS that is in the file and cannot be read, each with the reason.
    pub uncovered: Vec<(TlsStack, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    pub program: Program,
    /// In the file.
    pub offset: u64,
    pub cookie: u64,
}

/// A program of `monitor-ebpf`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Program {
    Write,
    Read,
    Return,
    GoReturn,
    Close,
    Seal,
    Open,
    Opened,
}

impl Program {
    pub const ALL: [Self; 8] =
        [Self::Write, Self::Read, Self::Return, Self::GoReturn, Self::Close, Self::Seal, Self::Open, Self::Opened];

    /// Its name in the object.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Write => "tls_write",
            Self::Read => "tls_read",
            Self::Return => "tls_return",
            Self::GoReturn => "go_return",
            Self::Close => "tls_close",
            Self::Seal => "record_seal",
            Self::Open => "record_open",
            Self::Opened => "record_opened",
        }
    }
}

impl Plan {
    pub fn new(findings: &Findings) -> Self {
        let mut plan = Self::default();
        for verdict in &findings.verdicts {
            match &verdict.coverage {
                Coverage::Covered if is_readable(verdict.stack) => plan.stacks.push(verdict.stack),
                Coverage::Covered => {
                    let because = "its functions are known, and there are no programs for them yet";
                    plan.uncovered.push((verdict.stack, because.into()));
                }
                Coverage::Uncovered { because } => plan.uncovered.push((verdict.stack, because.clone())),
                Coverage::Absent { .. } => {}
            }
        }
        // The functions inside cost a tenth of the public ones that hand everything to them. Each probe also costs when it is taken away.
        let shared: Vec<&Target> = findings.shared.iter().map(|shared| &shared.target).collect();
        let is_inside = |stack, role| shared.iter().any(|target| target.stack == stack && target.role == role);
        let is_needed = |target: &&Target| {
            let goes_inside = matches!(target.role, Role::Write | Role::Read)
                && is_inside(target.stack, Role::Write)
                && is_inside(target.stack, Role::Read);
            !goes_inside && !target.function.ends_with("_clear")
        };
        let public = findings.targets.iter().filter(is_needed);
        let shared = shared
            .iter()
            .copied()
            .filter(|target| is_inside(target.stack, Role::Write) && is_inside(target.stack, Role::Read));
        let targets: Vec<&Target> = shared.chain(public).filter(|target| plan.stacks.contains(&target.stack)).collect();
        for target in &targets {
            let ends = |other: &&&Target| other.stack == target.stack && other.role == Role::Close;
            let is_last_resort = target.role == Role::Shutdown && targets.iter().find(ends).is_none();
            let before = plan.probes.len();
            plan.probes.extend(probes(target, is_last_resort));
            if plan.probes.len() > before && !plan.functions.contains(&target.function) {
                plan.functions.push(target.function.clone());
            }
        }
        plan
    }
}

/// Stacks for which there are programs.
fn is_readable(stack: TlsStack) -> bool {
    match stack {
        TlsStack::OpenSsl
        | TlsStack::BoringSsl
        | TlsStack::GnuTls
        | TlsStack::Nss
        | TlsStack::GoCryptoTls
        | TlsStack::S2n
        | TlsStack::WolfSsl
        | TlsStack::MbedTls
        | TlsStack::RustlsAwsLc => true,
        TlsStack::RustlsRing | TlsStack::Rustls | TlsStack::Jsse => false,
    }
}

/// The return first: an entry without its return would leave the call open. Where nothing else tells that a connection ends, `ends` by a shutdown.
fn probes(target: &Target, ends: bool) -> Vec<Probe> {
    let are_records = target.abi.additional.is_some();
    let entry = match target.role {
        Role::Write if are_records => Program::Seal,
        Role::Read if are_records => Program::Open,
        Role::Write => Program::Write,
        Role::Read => Program::Read,
        Role::Close => Program::Close,
        Role::Shutdown if ends => Program::Close,
        // A read follows; what a file is sent from is in no buffer; and after a shutdown there may be more to read.
        Role::Peek | Role::SendFile | Role::Shutdown => return Vec::new(),
    };
    let is_go = target.stack == TlsStack::GoCryptoTls;
    let Some(cookie) = cookie(&target.abi, is_go) else { return Vec::new() };
    let entry = |offset: u64| Probe { program: entry, offset, cookie };
    // What was sealed is copied at the entry; the return tells nothing.
    if matches!(entry(0).program, Program::Close | Program::Seal) {
        return vec![entry(target.entry.offset)];
    }
    let returned = if are_records { Program::Opened } else { Program::Return };
    match &target.returns {
        // At the same place: a return probe that is apart from the entry's costs a second breakpoint.
        Returns::Probe { offset } => {
            vec![Probe { program: returned, offset: *offset, cookie }, entry(*offset)]
        }
        Returns::Sites(sites) => {
            let site = |offset: &u64| Probe { program: Program::GoReturn, offset: *offset, cookie };
            sites.iter().map(site).chain([entry(target.entry.offset)]).collect()
        }
        Returns::None => Vec::new(),
    }
}

/// `None` for a layout that the programs cannot read.
fn cookie(abi: &Abi, is_go: bool) -> Option<u64> {
    let (passed, place) = match abi.passed {
        Passed::Returned | Passed::Nothing => (layout::RETURNED, None),
        Passed::PointedTo(place) => (layout::POINTED_TO, Some(place)),
        Passed::Requested => (layout::REQUESTED, None),
        Passed::GoResult(place) => (layout::RESULT, Some(place)),
    };
    let at = |place: Option<Place>| place.map_or(Some(layout::NOWHERE), number).map(u64::from);
    Some(
        at(Some(abi.object))? << layout::OBJECT
            | at(abi.buffer)? << layout::BUFFER
            | at(abi.length)? << layout::LENGTH
            | at(place)? << layout::PASSED_PLACE
            | u64::from(passed) << layout::PASSED
            | at(abi.additional.map(Place::Stack))? << layout::ADDITIONAL_DATA
            | if is_go { layout::GO } else { 0 },
    )
}

fn number(place: Place) -> Option<u32> {
    match place {
        Place::Argument(index) => (index < 6).then_some(u32::from(index)),
        Place::GoRegister(index) => (index < 9).then_some(layout::GO_REGISTER + u32::from(index)),
        Place::Stack(bytes) => {
            let word = u32::from(bytes / 8);
            (bytes % 8 == 0 && layout::ON_STACK + word < layout::NOWHERE).then_some(layout::ON_STACK + word)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Abi, Passed, Place, cookie};

    #[test]
    fn cookies_tell_the_layout() {
        // SSL_write, SSL_write_ex, (*Conn).Write of Go.
        assert_eq!(cookie(&Abi::RETURNS_LENGTH, false), Some(0xff_00_ff_02_01_00));
        assert_eq!(cookie(&Abi::points_to_length(3), false), Some(0xff_01_03_02_01_00));
        let go = Abi {
            object: Place::GoRegister(0),
            buffer: Some(Place::GoRegister(1)),
            length: Some(Place::GoRegister(2)),
            passed: Passed::GoResult(Place::GoRegister(0)),
            additional: None,
        };
        assert_eq!(cookie(&go, true), Some(0xff_13_20_22_21_20));
        let stack = Abi { object: Place::Stack(8), ..Abi::OBJECT };
        assert_eq!(cookie(&stack, true), Some(0xff_10_ff_ff_ff_41));
        assert_eq!(cookie(&Abi { object: Place::Stack(9), ..stack }, true), None);
        let record = Abi { additional: Some(24), ..Abi::RETURNS_LENGTH };
        assert_eq!(cookie(&record, false), Some(0x43_00_ff_02_01_00));
    }
}
