//! Installs and builds the clients of the live tests, each once.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use tollgate_tests::clients::{PythonEnv, matrix::Kit, programs};

fn main() -> ExitCode {
    match install() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("test-clients: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn install() -> anyhow::Result<()> {
    PythonEnv::ensure()?;
    PythonEnv::more_sdks()?;
    programs::native()?;
    Kit::agents().map(|_| ())
}
