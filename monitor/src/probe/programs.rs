//! The programs, from the object or from where a daemon before has pinned them.

use std::{collections::HashMap, path::Path};

use aya::{
    Ebpf,
    programs::{
        CgroupSkb, CgroupSkbAttachType, CgroupSockAddr, CgroupSockAddrAttachType, ProbeKind, Program, ProgramError,
        RawTracePoint, TracePoint, UProbe,
    },
};

/// What kind of program one is, which a pin does not tell.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    Probe(ProbeKind),
    TracePoint,
    RawTracePoint,
    Packets(CgroupSkbAttachType),
    SockAddr(CgroupSockAddrAttachType),
}

impl Kind {
    fn open(self, pin: &Path) -> Result<Program, ProgramError> {
        Ok(match self {
            Self::Probe(kind) => Program::UProbe(UProbe::from_pin(pin, kind)?),
            Self::TracePoint => Program::TracePoint(TracePoint::from_pin(pin)?),
            Self::RawTracePoint => Program::RawTracePoint(RawTracePoint::from_pin(pin)?),
            Self::Packets(kind) => Program::CgroupSkb(CgroupSkb::from_pin(pin, kind)?),
            Self::SockAddr(kind) => Program::CgroupSockAddr(CgroupSockAddr::from_pin(pin, kind)?),
        })
    }

    /// Hands a program of the object to the kernel.
    fn load(program: &mut Program) -> Result<(), ProgramError> {
        match program {
            Program::UProbe(program) => program.load(),
            Program::TracePoint(program) => program.load(),
            Program::RawTracePoint(program) => program.load(),
            Program::CgroupSkb(program) => program.load(),
            Program::CgroupSockAddr(program) => program.load(),
            _ => Err(ProgramError::UnexpectedProgramType),
        }
    }
}

/// All programs, by their names.
pub enum Programs {
    Loaded(Ebpf),
    Pinned(HashMap<&'static str, Program>),
}

impl Programs {
    /// Those that are pinned in files of these names.
    pub fn open<'a>(
        all: &[(&'static str, Kind)],
        pin: impl Fn(&str) -> std::path::PathBuf + 'a,
    ) -> Result<Self, ProgramError> {
        let open = |&(name, kind): &(&'static str, Kind)| Ok((name, kind.open(&pin(name))?));
        Ok(Self::Pinned(all.iter().map(open).collect::<Result<_, ProgramError>>()?))
    }

    /// Loads those of the object.
    pub fn load(mut ebpf: Ebpf, all: &[(&'static str, Kind)]) -> Result<Self, ProgramError> {
        for (name, _) in all {
            Kind::load(ebpf.program_mut(name).ok_or(ProgramError::NotLoaded)?)?;
        }
        Ok(Self::Loaded(ebpf))
    }

    /// Any of them.
    pub fn any(&mut self, name: &str) -> Result<&mut Program, ProgramError> {
        match self {
            Self::Loaded(ebpf) => ebpf.program_mut(name),
            Self::Pinned(programs) => programs.get_mut(name),
        }
        .ok_or(ProgramError::NotLoaded)
    }

    /// One, as what it is.
    pub fn get<'a, P>(&'a mut self, name: &str) -> Result<&'a mut P, ProgramError>
    where
        &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
    {
        self.any(name)?.try_into()
    }
}
