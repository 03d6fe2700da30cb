//! BoringSSL inside a stripped program (Bun, and what is compiled with it).
//!
//! Its functions report errors with the file `ssl/ssl_lib.cc`, a reason and a line. `SSL_write` is the one with four certain reasons. `SSL_read`
//! reports one, a few lines above, and is told apart from `SSL_peek`, of which it is made, by taking the bytes off the buffer.

use std::ops::Range;

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::{
    Search,
    structure::{self, Reporter},
    symbols::Known,
    target::{Abi, Found, Role, TlsStack},
};

/// `SSL_R_*` of `include/openssl/ssl.h`; stable, since they are logged by number.
const BAD_LENGTH: u32 = 111;
const SHOULD_NOT_CALL: u32 = 66;
const HANDSHAKE_FAILURE: u32 = 215;
const UNINITIALIZED: u32 = 226;
const APPLICATION_DATA_ON_SHUTDOWN: u32 = 291;
const REASONS: [u32; 5] = [SHOULD_NOT_CALL, BAD_LENGTH, HANDSHAKE_FAILURE, UNINITIALIZED, APPLICATION_DATA_ON_SHUTDOWN];
const OF_WRITE: [u32; 4] = [SHOULD_NOT_CALL, BAD_LENGTH, HANDSHAKE_FAILURE, UNINITIALIZED];
const OF_SHUTDOWN: [u32; 2] = [UNINITIALIZED, APPLICATION_DATA_ON_SHUTDOWN];
/// Line numbers of the file.
const LINES: Range<u32> = 300..8000;
/// Lines between the reports of `SSL_read` and `SSL_write` in the source, at most.
const NEIGHBOURS: u32 = 60;

pub fn search(search: &mut Search<'_, '_>) {
    let image = search.image;
    let strings: Vec<u64> =
        ["ssl/ssl_lib.cc", "ssl/ssl_lib.c"].iter().flat_map(|end| structure::strings_ending(image, end)).collect();
    if strings.is_empty() {
        return;
    }
    let reporters = structure::reporters(image, &strings);
    match reporters.as_ref().map_err(|because| (*because).to_owned()).and_then(|reporters| find(reporters)) {
        Ok(found) => {
            for (name, role, abi, reporter) in found {
                let reasons = reporter.reasons(&REASONS);
                let evidence = format!(
                    "only function of ssl_lib.cc with the error reasons {reasons:?} and its place in the source"
                );
                let Range { start, end } = reporter.range;
                let known = Known { name, role, abi };
                search.add(TlsStack::BoringSsl, known, start, Some(end), Found::Structure { evidence });
            }
        }
        // OpenSSL has a file of the same name and other numbers.
        Err(_) if structure::strings_ending(image, "ssl/ssl_lib.cc").is_empty() => {}
        Err(because) => search.uncovered(TlsStack::BoringSsl, because),
    }
}

fn find(reporters: &[Reporter]) -> Result<Vec<(&'static str, Role, Abi, &Reporter)>, String> {
    let writes = reporters.iter().filter(|reporter| reporter.reasons(&REASONS) == OF_WRITE);
    let write = structure::only(writes.collect(), "SSL_write")?;
    let line = write.constants_with(SHOULD_NOT_CALL, LINES).min().ok_or("SSL_write does not say its line")?;
    let reads = reporters.iter().filter(|reporter| {
        reporter.reasons(&REASONS) == [SHOULD_NOT_CALL]
            && reporter
                .constants_with(SHOULD_NOT_CALL, LINES)
                .any(|of_read| of_read < line && line - of_read < NEIGHBOURS)
            && reporter.instructions.iter().any(adds_to_memory)
    });
    let read = structure::only(reads.collect(), "SSL_read")?;
    let mut found = vec![
        ("SSL_write", Role::Write, Abi::RETURNS_LENGTH, write),
        ("SSL_read", Role::Read, Abi::RETURNS_LENGTH, read),
    ];
    // It is good to know when nothing follows, and not needed.
    let shutdowns = reporters.iter().filter(|reporter| reporter.reasons(&REASONS) == OF_SHUTDOWN);
    if let Ok(shutdown) = structure::only(shutdowns.collect(), "SSL_shutdown") {
        found.push(("SSL_shutdown", Role::Shutdown, Abi::OBJECT, shutdown));
    }
    Ok(found)
}

/// The buffer of plaintext is advanced by what was read.
fn adds_to_memory(instruction: &Instruction) -> bool {
    instruction.mnemonic() == Mnemonic::Add
        && instruction.op0_kind() == OpKind::Memory
        && instruction.op1_kind() == OpKind::Register
}
