//! The search over files that are built here, so that what is right is known from elsewhere: from the linker's symbols before they are stripped.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use proptest::prelude::*;

use super::*;

const NAMED: &str = include_str!("tests/named.c");
const BORINGSSL: &str = include_str!("tests/boringssl.c");
const OPENSSL: &str = include_str!("tests/openssl.c");
const AWS_LC: &str = include_str!("tests/aws_lc.c");
const ENTRIES: &str = include_str!("tests/entries.s");
const GO: &str = include_str!("tests/go.s");

/// A file that was built for one test.
struct Built {
    directory: tempfile::TempDir,
    path: PathBuf,
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn build(language: &str, source: &str, flags: &[&str]) -> Built {
    let directory = tempfile::tempdir().expect("a directory");
    let source_path = directory.path().join("source");
    fs::write(&source_path, source).expect("written");
    let path = directory.path().join("built");
    run(Command::new("cc")
        .args(["-x", language])
        .arg(&source_path)
        .args(["-x", "none", "-w", "-O2", "-o"])
        .arg(&path)
        .args(flags));
    Built { directory, path }
}

impl Built {
    /// Addresses by the linker's symbols.
    fn symbols(&self) -> BTreeMap<String, u64> {
        let listed = run(Command::new("nm").arg(&self.path));
        let line = |line: &str| {
            let mut words = line.split_whitespace();
            let address = u64::from_str_radix(words.next()?, 16).ok()?;
            Some((words.nth(1)?.to_owned(), address))
        };
        listed.lines().filter_map(line).collect()
    }

    fn strip(&self) -> &Self {
        run(Command::new("strip").arg(&self.path));
        self
    }

    fn inspect(&self) -> Findings {
        self.inspect_with(&Signatures::default())
    }

    fn inspect_with(&self, signatures: &Signatures) -> Findings {
        inspect(&self.path, signatures, Depth::Code).expect("an ELF file")
    }
}

#[track_caller]
fn target<'f>(findings: &'f Findings, function: &str) -> &'f Target {
    findings
        .targets
        .iter()
        .find(|target| target.function == function)
        .unwrap_or_else(|| panic!("no {function} in {findings:#?}"))
}

#[track_caller]
fn reason(findings: &Findings, stack: TlsStack) -> &str {
    match &findings.verdicts.iter().find(|verdict| verdict.stack == stack).expect("a verdict").coverage {
        Coverage::Uncovered { because } => because,
        other => panic!("{other:?}"),
    }
}

/// Each function of the source has a constant in its code: it must be where the offset says.
#[track_caller]
fn assert_marked(path: &Path, target: &Target, mark: u8) {
    let bytes = fs::read(path).expect("read");
    let at = usize::try_from(target.offset).expect("an offset");
    let mark = [mark, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x51];
    let place = bytes.get(at..at + 24).expect("inside").windows(8).position(|window| window == mark);
    assert!(place.is_some(), "{target:?}");
}

#[test]
fn a_shared_library_is_found_by_its_dynamic_symbols() {
    let library = build("c", NAMED, &["-shared", "-fPIC"]);
    let findings = library.strip().inspect();
    assert!(findings.is_covered(TlsStack::OpenSsl));
    for (name, mark) in [("SSL_write", 1), ("SSL_read", 2), ("SSL_write_ex", 3), ("SSL_free", 4)] {
        let target = target(&findings, name);
        assert_eq!((&target.found, target.certainty), (&Found::DynamicSymbol, Certainty::Named));
        assert_marked(&library.path, target, mark);
    }
    assert_eq!(target(&findings, "SSL_write_ex").abi, Abi::points_to_length(3));
    assert_eq!(target(&findings, "SSL_free").returns, Returns::None);
}

#[test]
fn a_program_is_found_by_its_static_symbols_until_it_is_stripped() {
    let program = build("c", NAMED, &["-DPROGRAM", "-no-pie", "-fno-inline"]);
    let findings = program.inspect();
    assert_eq!(target(&findings, "SSL_read").found, Found::StaticSymbol);
    assert_marked(&program.path, target(&findings, "SSL_read"), 2);
    let findings = program.strip().inspect();
    assert_eq!((findings.targets, findings.verdicts), (vec![], vec![]));
}

#[test]
fn boringssl_is_told_from_openssl() {
    let findings = build("c", NAMED, &["-shared", "-fPIC", "-DBORINGSSL"]).inspect();
    assert!(findings.is_covered(TlsStack::BoringSsl) && !findings.is_covered(TlsStack::OpenSsl));
}

#[test]
fn one_direction_is_not_covered() {
    let findings = build("c", NAMED, &["-shared", "-fPIC", "-DONLY_WRITES"]).inspect();
    assert_eq!(findings.targets, []);
    assert_eq!(reason(&findings, TlsStack::OpenSsl), "only functions that write were found");
}

#[test]
fn a_stripped_program_is_found_by_its_debug_file_and_by_no_other() {
    let program = build("c", NAMED, &["-DPROGRAM", "-fno-inline", "-g"]);
    let debug = program.directory.path().join("built.debug");
    run(Command::new("objcopy").arg("--only-keep-debug").arg(&program.path).arg(&debug));
    run(Command::new("strip").arg(&program.path));
    run(Command::new("objcopy").arg(format!("--add-gnu-debuglink={}", debug.display())).arg(&program.path));
    let findings = program.inspect();
    assert_eq!(findings.debug_file.as_deref(), Some(&*debug));
    assert_eq!(target(&findings, "SSL_write").found, Found::DebugFile { path: debug.display().to_string() });
    assert_marked(&program.path, target(&findings, "SSL_write"), 1);

    // Of another build.
    let other = build("c", NAMED, &["-DPROGRAM", "-fno-inline", "-g", "-DBORINGSSL"]);
    fs::copy(&other.path, &debug).expect("copied");
    let findings = program.inspect();
    assert_eq!((findings.debug_file, findings.targets), (None, vec![]));
}

#[test]
fn the_debug_file_is_also_found_by_its_build_id() {
    let program = build("c", NAMED, &["-DPROGRAM", "-fno-inline", "-Wl,--build-id=0xabcdef0123"]);
    let root = tempfile::tempdir().expect("a directory");
    let place = root.path().join("usr/lib/debug/.build-id/ab");
    fs::create_dir_all(&place).expect("created");
    fs::copy(&program.path, place.join("cdef0123.debug")).expect("copied");
    let contents = image::read(&mut File::open(&program.path).expect("open"), Depth::Code).expect("read");
    let found = debug_files::find(&Image::parse(&contents).expect("an image"), &program.path, root.path());
    assert_eq!(found.expect("found").path, place.join("cdef0123.debug"));
}

#[test]
fn stripped_boringssl_is_recognised_in_every_kind_of_program() {
    for flags in [&["-no-pie"][..], &["-pie", "-fPIE"], &["-static-pie", "-fPIE"], &["-no-pie", "-DMOVED"]] {
        let program = build("c", BORINGSSL, flags);
        let symbols = program.symbols();
        let findings = program.strip().inspect();
        assert!(findings.is_covered(TlsStack::BoringSsl), "{flags:?}: {:?}", findings.verdicts);
        for name in ["SSL_write", "SSL_read", "SSL_shutdown"] {
            let target = target(&findings, name);
            assert_eq!(target.address, symbols[name], "{flags:?} {name}");
            assert_eq!(target.certainty, Certainty::Recognised);
        }
        assert_eq!(findings.targets.len(), 3);
    }
}

#[test]
fn two_that_look_alike_are_none() {
    let findings = build("c", BORINGSSL, &["-DTWICE"]).strip().inspect();
    assert_eq!(findings.targets, []);
    assert_eq!(reason(&findings, TlsStack::BoringSsl), "2 functions have the marks of SSL_write");
}

#[test]
fn more_places_than_can_be_looked_at_are_none() {
    let many = BORINGSSL.replace("int main(", "#define R REPORT_AT(66, 933);\n#define R16 R R R R R R R R R R R R R R R R\n#define R256 R16 R16 R16 R16 R16 R16 R16 R16 R16 R16 R16 R16 R16 R16 R16 R16\nvoid many() { R256 R256 R256 R256 R256 R256 R256 R256 R256 R256 R256 R256 R256 R256 R256 R256 R256 }\nint main(");
    let findings = build("c", &many, &["-O0"]).strip().inspect();
    assert_eq!(findings.targets, []);
    assert!(reason(&findings, TlsStack::BoringSsl).contains("more places"), "{:?}", findings.verdicts);
}

#[test]
fn copies_that_the_file_names_are_all_found() {
    let copy = "__attribute__((noinline, noclone, used)) static int SSL_read(void *s, void *b, int n) { return n; } int other(void *s, int n) { return SSL_read(s, s, n); }";
    let program = build("c", NAMED, &["-DPROGRAM", "-fno-inline"]);
    let second = program.directory.path().join("second.c");
    fs::write(&second, copy).expect("written");
    let program = build("c", NAMED, &["-DPROGRAM", "-fno-inline", second.to_str().expect("text")]);
    let findings = program.inspect();
    assert_eq!(findings.targets.iter().filter(|target| target.function == "SSL_read").count(), 2);
}

#[test]
fn stripped_openssl_is_recognised_and_the_place_of_the_length_told() {
    for (flags, argument) in [(&["-no-pie"][..], 3), (&["-no-pie", "-DFLAGS"], 4), (&["-pie", "-fPIE", "-DFLAGS"], 4)] {
        let program = build("c", OPENSSL, flags);
        let symbols = program.symbols();
        let findings = program.strip().inspect();
        assert!(findings.is_covered(TlsStack::OpenSsl), "{flags:?}: {:?}", findings.verdicts);
        let (write, read) = (target(&findings, "ssl_write_internal"), target(&findings, "ssl_read_internal"));
        assert_eq!((write.address, read.address), (symbols["ssl_write_internal"], symbols["ssl_read_internal"]));
        assert_eq!((write.abi, read.abi), (Abi::points_to_length(argument), Abi::points_to_length(3)));
    }
}

#[test]
fn what_openssls_functions_share_is_found_where_they_are_named() {
    let public = "
        int SSL_write_ex(void *ssl, const char *b, unsigned long n, unsigned long *w) { int r = ssl_write_internal(ssl, b, n, w); return r < 0 ? 0 : r; }
        int SSL_read_ex(void *ssl, char *b, unsigned long n, unsigned long *r) { int x = ssl_read_internal(ssl, b, n, r); return x < 0 ? 0 : x; }";
    let library = build(
        "c",
        &format!("{OPENSSL}{public}"),
        &["-shared", "-fPIC", "-fvisibility=default", "-Wl,-Bsymbolic", "-fno-semantic-interposition"],
    );
    let symbols = library.symbols();
    let findings = library.inspect();
    let shared: Vec<_> = findings
        .shared
        .iter()
        .map(|shared| (&*shared.target.function, shared.target.address, shared.target.abi))
        .collect();
    let expected =
        ["ssl_write_internal", "ssl_read_internal"].map(|name| (name, symbols[name], Abi::points_to_length(3)));
    assert_eq!(shared, expected);
    assert_eq!(findings.shared[0].instead_of, ["SSL_write", "SSL_write_ex"]);

    // One that changes an argument on the way is no reason to look elsewhere.
    let changed = public.replace("(ssl, b, n, w)", "(ssl, b + 1, n, w)");
    let library = build(
        "c",
        &format!("{OPENSSL}{changed}"),
        &["-shared", "-fPIC", "-Wl,-Bsymbolic", "-fno-semantic-interposition"],
    );
    let shared: Vec<_> = library.inspect().shared.into_iter().map(|shared| shared.target.function).collect();
    assert_eq!(shared, ["ssl_read_internal"]);
}

#[test]
fn aws_lc_is_recognised_under_rustls_only() {
    let program = build("c", AWS_LC, &[]);
    let symbols = program.symbols();
    let findings = program.strip().inspect();
    assert!(findings.is_covered(TlsStack::RustlsAwsLc), "{:?}", findings.verdicts);
    for name in ["EVP_AEAD_CTX_seal", "EVP_AEAD_CTX_open", "EVP_AEAD_CTX_seal_scatter", "EVP_AEAD_CTX_open_gather"] {
        assert_eq!(target(&findings, name).address, symbols[name]);
    }
    // With symbols, which carry AWS-LC's version.
    let prefixed = AWS_LC.replace("EVP_AEAD", "aws_lc_0_38_0_EVP_AEAD");
    let program = build("c", &prefixed, &[]);
    let findings = program.inspect();
    let seal = target(&findings, "EVP_AEAD_CTX_seal");
    assert_eq!(
        (&seal.found, seal.address),
        (&Found::StaticSymbol, program.symbols()["aws_lc_0_38_0_EVP_AEAD_CTX_seal"])
    );
    let other = build("c", &AWS_LC.replace("/rustls-0", "/others-0"), &[]).strip().inspect();
    assert_eq!((other.targets, other.verdicts), (vec![], vec![]));
}

#[test]
fn rustls_that_cannot_be_read_is_seen() {
    let ring = "void ring_core_0_17_14__aes_gcm_seal(void) {}
        void _RNvMs_NtCs7Xy2_6rustls4connNtB4_6Reader4read(void) {}
        int main() { return 0; }";
    let program = build("c", ring, &[]);
    let because = reason(&program.inspect(), TlsStack::RustlsRing).to_owned();
    assert!(because.contains("rustls::conn::Reader>::read"), "{because}");
    assert_eq!(program.strip().inspect().verdicts, []);
    let other =
        "const char panic[] = \"/registry/rustls-0.23.46/src/conn.rs\"; int main(int n, char **a) { return panic[n]; }";
    let because = reason(&build("c", other, &[]).strip().inspect(), TlsStack::Rustls).to_owned();
    assert!(because.contains("source files of rustls"), "{because}");
}

#[test]
fn entries_are_moved_only_where_that_is_sound() {
    let library = build("assembler", ENTRIES, &["-shared", "-nostdlib"]);
    let findings = library.inspect();
    let symbols = library.symbols();
    let expected = [
        ("SSL_write", 4, Cost::Emulated, true),
        ("SSL_read", 6, Cost::Emulated, false),
        ("SSL_peek", 0, Cost::SingleStepped, true),
        ("SSL_write_ex", 0, Cost::SingleStepped, true),
        ("SSL_read_ex", 0, Cost::SingleStepped, true),
        ("SSL_free", 0, Cost::Emulated, true),
        ("SSL_shutdown", 0, Cost::SingleStepped, true),
    ];
    for (name, within, cost, stack_untouched) in expected {
        let target = target(&findings, name);
        assert_eq!(target.address, symbols[name]);
        let EntryPoint { offset, cost: found, stack_untouched: untouched, ref because } = target.entry;
        assert_eq!((offset - target.offset, found, untouched), (within, cost, stack_untouched), "{name}: {because}");
    }
    // A return probe needs the return address on top of the stack.
    let returns = |name| match target(&findings, name).returns {
        Returns::Probe { offset } => offset - target(&findings, name).offset,
        _ => panic!("{name}"),
    };
    assert_eq!((returns("SSL_write"), returns("SSL_read")), (4, 0));
}

#[test]
fn go_is_found_by_its_function_table() {
    let registers = Abi {
        object: Place::GoRegister(0),
        buffer: Some(Place::GoRegister(1)),
        length: Some(Place::GoRegister(2)),
        passed: Passed::GoResult(Place::GoRegister(0)),
        additional: None,
    };
    let stack = Abi {
        object: Place::Stack(8),
        buffer: Some(Place::Stack(16)),
        length: Some(Place::Stack(24)),
        passed: Passed::GoResult(Place::Stack(40)),
        additional: None,
    };
    let kinds: [(&[&str], Abi); 5] = [
        (&["-DMAGIC=0xfffffff1", "-DTEXT=text"], registers),
        (&["-DMAGIC=0xfffffff0", "-DTEXT=text"], registers),
        // Go 1.27: the table does not say where the text is.
        (&["-DMAGIC=0xfffffff1", "-DTEXT=0"], registers),
        (&["-DMAGIC=0xfffffff1", "-DTEXT=0", "-DFOREIGN"], registers),
        (&["-DMAGIC=0xfffffffa", "-DSTACK"], stack),
    ];
    for (flags, abi) in kinds {
        let program = build("assembler-with-cpp", GO, &[flags, &["-nostdlib", "-static"]].concat());
        let symbols = program.symbols();
        let findings = program.strip().inspect();
        assert!(findings.is_covered(TlsStack::GoCryptoTls), "{flags:?}: {:?}", findings.verdicts);
        assert_eq!(findings.targets.len(), 2);
        let write = target(&findings, "crypto/tls.(*Conn).Write");
        let read = target(&findings, "crypto/tls.(*Conn).Read");
        assert_eq!((write.address, read.address), (symbols["go_write"], symbols["go_read"]));
        assert_eq!((write.abi, read.abi), (abi, abi));
        let offset = |symbol: &str| write.offset + symbols[symbol] - write.address;
        assert_eq!(write.returns, Returns::Sites(vec![offset("write_return_1"), offset("write_return_2")]));
        assert_eq!(read.returns, Returns::Sites(vec![offset("read_return")]));
        if abi == registers {
            assert_eq!(write.entry.offset, offset("go_write_push"), "{}", write.entry.because);
        }
    }
}

#[test]
fn a_go_table_that_is_not_known_is_uncovered() {
    let program = build("assembler-with-cpp", GO, &["-DMAGIC=0xfffffff3", "-DTEXT=text", "-nostdlib", "-static"]);
    assert!(reason(&program.inspect(), TlsStack::GoCryptoTls).contains("version that is not known"));
}

#[test]
fn what_was_learnt_from_one_build_finds_another() {
    let known = build("c", BORINGSSL, &["-no-pie"]);
    let learnt = learn(&known.path, "a build").expect("an ELF file").expect("a signature");
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("learnt.toml"), toml::to_string(&learnt).expect("TOML")).expect("written");
    let (signatures, errors) = Signatures::default().with_directory(directory.path());
    assert!(errors.is_empty(), "{errors:?}");

    // The same code elsewhere, without symbols and without the name of its source.
    let other = build("c", BORINGSSL, &["-no-pie", "-DMOVED", "-DSOURCE=\"elsewhere.cc\""]);
    let symbols = other.symbols();
    assert_ne!(symbols["SSL_write"], known.symbols()["SSL_write"]);
    assert_eq!(other.strip().inspect().targets, []);
    let findings = other.inspect_with(&signatures);
    for name in ["SSL_write", "SSL_read"] {
        let target = target(&findings, name);
        assert_eq!(target.address, symbols[name]);
        assert!(matches!(&target.found, Found::Signature { versions, .. } if versions == &["a build"]), "{target:?}");
    }
    // Where a function is twice, it is none.
    let twice = build("c", BORINGSSL, &["-no-pie", "-DTWICE", "-DSOURCE=\"elsewhere.cc\""]);
    assert_eq!(twice.strip().inspect_with(&signatures).targets, []);
}

#[test]
fn nothing_is_learnt_from_nothing() {
    let nothing = build("c", "int main() { return 0; }", &[]);
    let refused = learn(&nothing.path, "x").expect("an ELF file").expect_err("nothing");
    assert!(matches!(refused, LearnError::NoStack), "{refused}");
    let text = nothing.directory.path().join("source");
    assert!(matches!(learn(&text, "x"), Err(ImageError::NotElf(_))));
}

/// This host's OpenSSL, judged by the disassembler of binutils.
#[test]
fn entries_of_the_hosts_openssl_are_what_they_are_said_to_be() {
    let directories = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
    let path = directories
        .iter()
        .flat_map(|directory| ["libssl.so.3", "libssl.so.1.1"].map(|name| Path::new(directory).join(name)))
        .find(|path| path.exists())
        .expect("OpenSSL as a shared library, which `cargo xtask setup` installs");
    let findings = inspect(&path, &Signatures::default(), Depth::Code).expect("an ELF file");
    assert!(findings.is_covered(TlsStack::OpenSsl));
    if findings.architecture != Architecture::X86_64 {
        return;
    }
    for target in findings.targets.iter().chain(findings.shared.iter().map(|shared| &shared.target)) {
        let entry = target.address + (target.entry.offset - target.offset);
        let range = [format!("--start-address={}", target.address), format!("--stop-address={}", entry + 16)];
        let listed = run(Command::new("objdump").args(["-d", "--no-show-raw-insn", "-w"]).args(range).arg(&path));
        let instructions: Vec<(u64, &str)> = listed
            .lines()
            .filter_map(|line| line.trim().split_once(":\t"))
            .filter_map(|(address, text)| Some((u64::from_str_radix(address, 16).ok()?, text)))
            .collect();
        let at = instructions.iter().position(|(address, _)| *address == entry);
        let at = at.unwrap_or_else(|| panic!("{}: no instruction begins at {entry:#x}\n{listed}", target.function));
        let cheap = |text: &str| text.starts_with(['j']) || text.starts_with("push ") || text.starts_with("call ");
        assert_eq!(cheap(instructions[at].1), target.entry.cost == Cost::Emulated, "{}\n{listed}", target.function);
        // Before it, nothing branches, and no argument is written to (the last operand is what an instruction writes).
        for (_, text) in &instructions[..at] {
            assert!(!cheap(text), "{}: {text}", target.function);
            let written = text.rsplit([',', ' ']).next().unwrap_or_default();
            let compares = text.starts_with("test") || text.starts_with("cmp");
            let arguments = ["%rdi", "%edi", "%rsi", "%esi", "%rdx", "%edx", "%rcx", "%ecx"];
            assert!(compares || !arguments.contains(&written), "{}: {text}", target.function);
        }
    }
}

fn search_bytes(bytes: Vec<u8>) -> Option<Findings> {
    let contents = contents::Contents::whole(bytes);
    let image = Image::parse(&contents).ok()?;
    search(&image, None, &Signatures::embedded().expect("valid")).ok()
}

/// Programs of each kind, which are then damaged.
fn samples() -> &'static [Vec<u8>] {
    static SAMPLES: std::sync::LazyLock<Vec<Vec<u8>>> = std::sync::LazyLock::new(|| {
        let kinds: [(&str, &str, &[&str], bool); 6] = [
            ("c", NAMED, &["-shared", "-fPIC"], false),
            ("c", BORINGSSL, &["-no-pie"], true),
            ("c", OPENSSL, &["-pie", "-fPIE"], true),
            ("c", AWS_LC, &["-no-pie"], true),
            ("assembler-with-cpp", GO, &["-DMAGIC=0xfffffff1", "-DTEXT=0", "-nostdlib", "-static"], true),
            ("assembler-with-cpp", GO, &["-DMAGIC=0xfffffffa", "-DSTACK", "-nostdlib", "-static"], true),
        ];
        let bytes = |(language, source, flags, strip): (&str, &str, &[&str], bool)| {
            let built = build(language, source, flags);
            if strip {
                built.strip();
            }
            let bytes = fs::read(&built.path).expect("read");
            let findings = search_bytes(bytes.clone()).expect("an ELF file");
            assert!(!findings.targets.is_empty(), "{language} {flags:?}: {:?}", findings.verdicts);
            bytes
        };
        kinds.into_iter().map(bytes).collect()
    });
    &SAMPLES
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 200, ..ProptestConfig::default() })]

    /// Damaged files are searched without panic, and quickly.
    #[test]
    fn damaged_files_do_no_harm(
        sample in 0_usize..6,
        cut in prop::option::weighted(0.3, 0.0_f64..1.0),
        damages in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 0..24),
        words in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![Just(u64::MAX), Just(1 << 63), Just(0), any::<u64>()]), 0..4),
    ) {
        let mut bytes = samples()[sample].clone();
        for (place, value, in_headers) in damages {
            let limit = if in_headers { bytes.len().min(1024) } else { bytes.len() };
            let at = place.index(limit);
            bytes[at] = value;
        }
        for (place, word) in words {
            let at = place.index(bytes.len() / 8 - 1) * 8;
            bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        if let Some(cut) = cut {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a share of a small file")]
            bytes.truncate((bytes.len() as f64 * cut) as usize);
        }
        let started = std::time::Instant::now();
        let _ = search_bytes(bytes.clone());
        // The other way into the file: what its headers ask for is read.
        let mut file = tempfile::tempfile().expect("a file");
        io::Write::write_all(&mut file, &bytes).expect("written");
        if let Ok(contents) = image::read(&mut file, Depth::Code) {
            let _ = Image::parse(&contents).map(|image| search(&image, None, &Signatures::default()));
        }
        prop_assert!(started.elapsed() < std::time::Duration::from_secs(5));
    }
}
