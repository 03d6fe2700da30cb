//! AWS-LC under rustls in a stripped program: the AEAD calls, through which every record passes in plaintext.
//!
//! They report errors with the file `fipsmodule/cipher/aead.c`, a reason and a line. One call is one TLS record; in TLS 1.3 the last byte of its
//! plaintext is the record's type, and only type 0x17 is application data.

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
    },
};
/// `int EVP_AEAD_CTX_open(ctx, out, out_len, max_out_len, nonce, nonce_len, in, in_len, ad, ad_len)`. It may be made of `…_open_gather`.
pub const OPEN: Known = Known {
    name: "EVP_AEAD_CTX_open",
    role: Role::Read,
    abi: Abi {
        object: Place::Argument(0),
        buffer: Some(Place::Argument(1)),
        length: None,
        passed: Passed::PointedTo(Place::Argument(2)),
    },
};

pub fn search(search: &mut Search<'_, '_>) {
    let image = search.image;
    let strings = structure::strings_ending(image, "fipsmodule/cipher/aead.c");
    if strings.is_empty() || !has_rustls(image) {
        return;
    }
    let reporters = structure::reporters(image, &strings);
    match reporters.as_ref().map_err(|because| (*because).to_owned()).and_then(|reporters| find(reporters)) {
        Ok((seal, open)) => {
            for (known, reporter) in [(SEAL, seal), (OPEN, open)] {
                let reasons = reporter.reasons(&REASONS);
                let evidence = format!("only function of cipher/aead.c with the error reasons {reasons:?}");
                let range = &reporter.range;
                search.add(TlsStack::RustlsAwsLc, known, range.start, Some(range.end), Found::Structure { evidence });
            }
        }
        Err(because) => search.uncovered(TlsStack::RustlsAwsLc, because),
    }
}

fn find(reporters: &[Reporter]) -> Result<(&Reporter, &Reporter), String> {
    let with = |wanted: [u32; 3], name: &str| {
        structure::only(reporters.iter().filter(|reporter| reporter.reasons(&REASONS) == wanted).collect(), name)
    };
    let seal = with([BUFFER_TOO_SMALL, OUTPUT_ALIASES_INPUT, TOO_LARGE], SEAL.name)?;
    let open = with([BAD_DECRYPT, BUFFER_TOO_SMALL, OUTPUT_ALIASES_INPUT], OPEN.name)?;
    Ok((seal, open))
}

/// Whether rustls is in the program: its panics name its source files.
pub fn has_rustls(image: &Image<'_>) -> bool {
    !structure::addresses_of(image, b"/rustls-0.").is_empty()
}
