//! Functions that the file names itself, in its dynamic or static symbol table.

use std::collections::BTreeMap;

use object::ObjectSymbol as _;

use super::{
    Search,
    image::Image,
    target::{Abi, Found, Place, Role, TlsStack},
};

use Role::{Close, Peek, Read, SendFile, Shutdown, Write};

/// A function of a library's public interface.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    pub name: &'static str,
    pub role: Role,
    pub abi: Abi,
}

const fn known(name: &'static str, role: Role, abi: Abi) -> Known {
    Known { name, role, abi }
}

/// `f(object, packet)`: a buffer that the library hands out.
const PACKET: Abi = Abi { buffer: None, length: None, ..Abi::RETURNS_LENGTH };

/// `SSL_*` of OpenSSL 1.0.2 to 3.x, LibreSSL, BoringSSL and AWS-LC.
pub const OPENSSL: [Known; 13] = [
    known("SSL_write", Write, Abi::RETURNS_LENGTH),
    known("SSL_write_ex", Write, Abi::points_to_length(3)),
    // flags come before the pointer (OpenSSL 3.3).
    known("SSL_write_ex2", Write, Abi::points_to_length(4)),
    known("SSL_write_early_data", Write, Abi::points_to_length(3)),
    known("SSL_read", Read, Abi::RETURNS_LENGTH),
    known("SSL_read_ex", Read, Abi::points_to_length(3)),
    known("SSL_read_early_data", Read, Abi::points_to_length(3)),
    known("SSL_peek", Peek, Abi::RETURNS_LENGTH),
    known("SSL_peek_ex", Peek, Abi::points_to_length(3)),
    known("SSL_sendfile", SendFile, Abi { buffer: None, length: Some(Place::Argument(3)), ..Abi::RETURNS_LENGTH }),
    known("SSL_shutdown", Shutdown, Abi::OBJECT),
    known("SSL_clear", Close, Abi::OBJECT),
    known("SSL_free", Close, Abi::OBJECT),
];

/// `gnutls_record_send` hands on to `gnutls_record_send2` where that exists.
const GNUTLS: [Known; 9] = [
    known("gnutls_record_send", Write, Abi::RETURNS_LENGTH),
    known("gnutls_record_send2", Write, Abi::RETURNS_LENGTH),
    known("gnutls_record_send_early_data", Write, Abi::RETURNS_LENGTH),
    known(
        "gnutls_record_send_file",
        SendFile,
        Abi { buffer: None, length: Some(Place::Argument(3)), ..Abi::RETURNS_LENGTH },
    ),
    known("gnutls_record_recv", Read, Abi::RETURNS_LENGTH),
    known("gnutls_record_recv_seq", Read, Abi::RETURNS_LENGTH),
    known("gnutls_record_recv_packet", Read, PACKET),
    known("gnutls_bye", Shutdown, Abi::OBJECT),
    known("gnutls_deinit", Close, Abi::OBJECT),
];

/// NSPR's calls are for every layer of descriptors, so that plain sockets and files pass too: the bytes decide.
const NSS: [Known; 5] = [
    known("PR_Write", Write, Abi::RETURNS_LENGTH),
    known("PR_Send", Write, Abi::RETURNS_LENGTH),
    known("PR_Read", Read, Abi::RETURNS_LENGTH),
    known("PR_Recv", Read, Abi::RETURNS_LENGTH),
    known("PR_Close", Close, Abi::OBJECT),
];

const S2N: [Known; 3] = [
    known("s2n_send", Write, Abi::RETURNS_LENGTH),
    known("s2n_recv", Read, Abi::RETURNS_LENGTH),
    known("s2n_connection_free", Close, Abi::OBJECT),
];

const WOLFSSL: [Known; 5] = [
    known("wolfSSL_write", Write, Abi::RETURNS_LENGTH),
    known("wolfSSL_send", Write, Abi::RETURNS_LENGTH),
    known("wolfSSL_read", Read, Abi::RETURNS_LENGTH),
    known("wolfSSL_recv", Read, Abi::RETURNS_LENGTH),
    known("wolfSSL_free", Close, Abi::OBJECT),
];

const MBEDTLS: [Known; 3] = [
    known("mbedtls_ssl_write", Write, Abi::RETURNS_LENGTH),
    known("mbedtls_ssl_read", Read, Abi::RETURNS_LENGTH),
    known("mbedtls_ssl_free", Close, Abi::OBJECT),
];

/// Libraries by the names of their functions.
const LIBRARIES: [(TlsStack, &[Known]); 6] = [
    (TlsStack::OpenSsl, &OPENSSL),
    (TlsStack::GnuTls, &GNUTLS),
    (TlsStack::Nss, &NSS),
    (TlsStack::S2n, &S2N),
    (TlsStack::WolfSsl, &WOLFSSL),
    (TlsStack::MbedTls, &MBEDTLS),
];

/// Symbols of interest in one file. A program may have several copies of a library, each with the same names.
const MAX_SYMBOLS: usize = 256;

/// Only BoringSSL and what descends from it has this one.
const BORINGSSL_ONLY: &str = "SSL_CTX_set_grease_enabled";
/// The Java virtual machine, whose TLS is Java code.
const JAVA: &str = "JNI_CreateJavaVM";

/// A symbol of interest: its end if it has a size, and the table it is in.
#[derive(Debug, Clone)]
struct Symbol {
    end: Option<u64>,
    found: Found,
}

/// Looks through both symbol tables of `image`. With the `image` of a debug file, `debug_file` is where that lies.
pub fn search(search: &mut Search<'_, '_>, image: &Image<'_>, debug_file: Option<&str>) {
    let by_name: BTreeMap<&str, (TlsStack, Known)> = LIBRARIES
        .iter()
        .flat_map(|(stack, functions)| functions.iter().map(|known| (known.name, (*stack, *known))))
        .collect();
    let mut symbols: BTreeMap<(&str, u64), Symbol> = BTreeMap::new();
    let (mut boringssl, mut java) = (false, false);
    let dynamic = image.dynamic_symbols().map(|symbol| (symbol, Found::DynamicSymbol));
    let tables = dynamic.chain(image.static_symbols().map(|symbol| (symbol, Found::StaticSymbol)));
    for (symbol, found) in tables {
        let Some(name) = Image::symbol_name(&symbol) else { continue };
        boringssl |= name == BORINGSSL_ONLY;
        java |= name == JAVA;
        super::rustls::look_at_symbol(search, &symbol, name);
        let Some((&name, _)) = by_name.get_key_value(name) else { continue };
        let address = symbol.address();
        let end = Some(symbol.size()).filter(|size| *size > 0).and_then(|size| address.checked_add(size));
        let found = debug_file.map_or(found, |path| Found::DebugFile { path: path.to_owned() });
        if symbols.len() < MAX_SYMBOLS {
            symbols.entry((name, address)).or_insert(Symbol { end, found });
        }
    }
    for ((name, address), Symbol { end, found }) in symbols {
        let Some(&(stack, known)) = by_name.get(name) else { continue };
        let stack = if stack == TlsStack::OpenSsl && boringssl { TlsStack::BoringSsl } else { stack };
        search.add(stack, known, address, end, found);
    }
    if java {
        search.uncovered(TlsStack::Jsse, "its TLS is Java code, which is compiled while it runs");
    }
}
