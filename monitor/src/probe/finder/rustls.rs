//! rustls by symbols.
//!
//! rustls' own buffer functions take Rust types, whose layout each compiler chooses anew: finding them would not tell where the bytes are. Below
//! them, AWS-LC's AEAD calls have a C interface. *ring*'s are assembly that passes whole blocks of 16 bytes only, in a function that depends on
//! the processor: a count of tokens cannot be had from it.

use std::collections::BTreeSet;

use object::{LittleEndian, ObjectSymbol, read::elf::ElfSymbol64};

use super::{
    Search, aws_lc,
    contents::Contents,
    structure,
    target::{Found, TlsStack},
};

/// What symbols tell of rustls in a program.
#[derive(Debug, Default)]
pub struct Symbols {
    /// A function of the crate itself.
    rustls: Option<String>,
    ring: bool,
    /// Addresses and sizes of AWS-LC's calls, in their order.
    calls: [BTreeSet<(u64, u64)>; 4],
}

pub fn look_at_symbol<'a>(
    search: &mut Search<'_, '_>,
    symbol: &ElfSymbol64<'a, '_, LittleEndian, &'a Contents>,
    name: &str,
) {
    let symbols = &mut search.rustls;
    let place = || (symbol.address(), symbol.size());
    // aws_lc_0_38_0_EVP_AEAD_CTX_seal: the version is part of the name, so that several can be linked.
    if let Some(plain) =
        name.strip_prefix("aws_lc_").and_then(|name| name.find("EVP_AEAD_CTX_").and_then(|at| name.get(at..)))
    {
        if let Some(places) =
            aws_lc::CALLS.iter().position(|call| call.name == plain).and_then(|at| symbols.calls.get_mut(at))
        {
            places.insert(place());
        }
    } else if name.starts_with("ring_core_") {
        symbols.ring = true;
    } else if symbols.rustls.is_none() && names_rustls(name) {
        symbols.rustls = rustc_demangle::try_demangle(name).ok().map(|name| format!("{name:#}"));
    }
}

/// Whether a mangled name, legacy (`_ZN6rustls…`) or v0 (`_RNvNtCs1234_6rustls…`), has the crate in its path.
fn names_rustls(name: &str) -> bool {
    (name.starts_with("_ZN") || name.starts_with("_R")) && name.contains("6rustls")
}

/// AWS-LC's calls, if symbols named them.
pub fn search_named(search: &mut Search<'_, '_>) {
    if search.rustls.calls.iter().any(|places| places.len() > 1) {
        return;
    }
    let named: Vec<_> = aws_lc::CALLS.into_iter().zip(&search.rustls.calls).collect();
    let named: Vec<_> = named.into_iter().filter_map(|(known, places)| Some((known, *places.first()?))).collect();
    for (known, (address, size)) in named {
        let end = (size > 0).then(|| address.checked_add(size)).flatten();
        search.add(TlsStack::RustlsAwsLc, known, address, end, Found::StaticSymbol);
    }
}

/// Why rustls is not covered, if it is there and is not. To be asked after all others.
pub fn explain(search: &mut Search<'_, '_>) {
    let symbols = std::mem::take(&mut search.rustls);
    if symbols.calls.iter().any(|places| places.len() > 1) {
        search.uncovered(
            TlsStack::RustlsAwsLc,
            "it has several copies of AWS-LC, and which one rustls uses is not known",
        );
        return;
    }
    if search.has(TlsStack::RustlsAwsLc) {
        return;
    }
    let seen = match &symbols.rustls {
        Some(function) => format!("it has {function}"),
        None if aws_lc::has_rustls(search.image) => "it names source files of rustls".to_owned(),
        None => return,
    };
    let ring = symbols.ring || !structure::addresses_of(search.image, b"/ring-0.").is_empty();
    if ring {
        let because =
            "and ring, whose encryption is assembly that sees whole blocks only: no exact bytes can be had from it";
        search.uncovered(TlsStack::RustlsRing, format!("{seen}, {because}"));
    } else {
        search.uncovered(TlsStack::Rustls, format!("{seen}, and neither AWS-LC nor ring was recognised under it"));
    }
}

#[cfg(test)]
mod tests {
    use super::names_rustls;

    #[test]
    fn both_manglings_name_the_crate() {
        for name in [
            "_ZN6rustls4conn25ConnectionCommon$LT$T$GT$6writer17h0123456789abcdefE",
            "_RNvMs_NtCs7Xy2_6rustls4connNtB4_6Reader4read",
        ] {
            assert!(names_rustls(name), "{name}");
        }
        for name in ["_ZN12rustls_ffi3foo17h0123456789abcdefE", "my_6rustls", "_ZN12tokio_rustls3fooE"] {
            assert!(!names_rustls(name), "{name}");
        }
    }
}
