//! AWS-LC under rustls in a stripped program: the AEAD calls, through which every record passes in plaintext.
//!
//! They report errors with the file `fipsmodule/cipher/aead.c`, a reason and a line. One call is one TLS record; in TLS 1.3 the last byte of its
//! plaintext is the record's type, and only type 0x17 is application data.

use std::ops::Range;

use super::{
    Search,
    image::Image,
    structure::{self, Reporter},
    symbols::Known,
    target::{Abi, Found, Passed, Place, Role, TlsStack},
};

/// `CIPHER_R_*` of `include/openssl/cipher.h`.
const BAD_DECRYPT: u32 = 101;
const BUFFER_TOO_SMALL: u32 = 103;
const OUTPUT_ALIASES_INPUT: u32 = 115;
const TOO_LARGE: u32 = 117;
const REASONS: [u32; 4] = [BAD_DECRYPT, BUFFER_TOO_SMALL, OUTPUT_ALIASES_INPUT, TOO_LARGE];

/// `int EVP_AEAD_CTX_seal(ctx, out, out_len, max_out_len, nonce, nonce_len, in, in_len, ad, ad_len)`
pub const SEAL: Known = Known {
    name: "EVP_AEAD_CTX_seal",
    role: Role::Write,
    abi: Abi {
        object: Place::Argument(0),
        buffer: Some(Place::Stack(8)),
        length: Some(Place::Stack(16)),
        passed: Passed::Requested,
        additional: Some(24),
    },
};
/// `int EVP_AEAD_CTX_open(ctx, out, out_len, max_out_len, nonce, nonce_len, in, in_len, ad, ad_len)`.
pub const OPEN: Known = Known {
    name: "EVP_AEAD_CTX_open",
    role: Role::Read,
    abi: Abi {
        object: Place::Argument(0),
        buffer: Some(Place::Argument(1)),
        length: None,
        passed: Passed::PointedTo(Place::Argument(2)),
        additional: Some(24),
    },
};

/// `int EVP_AEAD_CTX_seal_scatter(ctx, out, out_tag, out_tag_len, max_out_tag_len, nonce, nonce_len, in, in_len, …)`
const SEAL_SCATTER: Known = Known {
    name: "EVP_AEAD_CTX_seal_scatter",
    role: Role::Write,
    abi: Abi {
        object: Place::Argument(0),
        buffer: Some(Place::Stack(16)),
        length: Some(Place::Stack(24)),
        passed: Passed::Requested,
        additional: Some(48),
    },
};
/// `int EVP_AEAD_CTX_open_gather(ctx, out, nonce, nonce_len, in, in_len, …)`
const OPEN_GATHER: Known = Known {
    name: "EVP_AEAD_CTX_open_gather",
    role: Role::Read,
    abi: Abi {
        object: Place::Argument(0),
        buffer: Some(Place::Argument(1)),
        length: Some(Place::Argument(5)),
        passed: Passed::Requested,
        additional: Some(24),
    },
};
/// Which ones are called depends on the version of TLS and the cipher.
pub const CALLS: [Known; 4] = [SEAL, OPEN, SEAL_SCATTER, OPEN_GATHER];

pub fn search(search: &mut Search<'_, '_>) {
    let image = search.image;
    let strings = structure::strings_ending(image, "fipsmodule/cipher/aead.c");
    if strings.is_empty() || !has_rustls(image) {
        return;
    }
    let reporters = structure::reporters(image, &strings);
    match reporters.as_ref().map_err(|because| (*because).to_owned()).and_then(|reporters| find(reporters)) {
        Ok(found) => {
            for (known, reporter) in found {
                let reasons = reporter.reasons(&REASONS);
                let evidence = format!(
                    "only function of cipher/aead.c with the error reasons {reasons:?} and its place in the source"
                );
                let range = &reporter.range;
                search.add(TlsStack::RustlsAwsLc, known, range.start, Some(range.end), Found::Structure { evidence });
            }
        }
        Err(because) => search.uncovered(TlsStack::RustlsAwsLc, because),
    }
}

fn find(reporters: &[Reporter]) -> Result<Vec<(Known, &Reporter)>, String> {
    let with = |wanted: &[u32]| -> Vec<&Reporter> {
        reporters.iter().filter(|reporter| reporter.reasons(&REASONS) == wanted).collect()
    };
    let seal = structure::only(with(&[BUFFER_TOO_SMALL, OUTPUT_ALIASES_INPUT, TOO_LARGE]), SEAL.name)?;
    let open = with(&[BAD_DECRYPT, BUFFER_TOO_SMALL, OUTPUT_ALIASES_INPUT]);
    let open = structure::only(open, OPEN.name)?;
    let mut found = vec![(SEAL, seal), (OPEN, open)];
    // In the source, one follows each of them. A linker may have left them out.
    let line = |reporter: &Reporter, reason| reporter.constants_with(reason, LINES).max();
    if let (Some(of_seal), Some(of_open)) = (line(seal, TOO_LARGE), line(open, BAD_DECRYPT)) {
        for (known, lines) in [(SEAL_SCATTER, of_seal + 1..of_open), (OPEN_GATHER, of_open + 1..LINES.end)] {
            let mut others = with(&[OUTPUT_ALIASES_INPUT]);
            others.retain(|other| other.constants_with(OUTPUT_ALIASES_INPUT, lines.clone()).next().is_some());
            if let Ok(other) = structure::only(others, known.name) {
                found.push((known, other));
            }
        }
    }
    Ok(found)
}

/// Line numbers of the file.
const LINES: Range<u32> = 130..2000;

/// Whether rustls is in the program: its panics name its source files.
pub fn has_rustls(image: &Image<'_>) -> bool {
    !structure::addresses_of(image, b"/rustls-0.").is_empty()
}
