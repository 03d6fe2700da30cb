//! Makes the Python environment of the live tests, and prints the path of its interpreter.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use tollgate_tests::clients::PythonEnv;

fn main() -> ExitCode {
    match PythonEnv::ensure() {
        Ok(python) => {
            println!("{}", python.interpreter());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("test-python: {error:#}");
            ExitCode::FAILURE
        }
    }
}
