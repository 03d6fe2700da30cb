//! Programs in C, which do what Python's standard library cannot.

use std::{path::PathBuf, process::Command};

use anyhow::Context as _;

use crate::{build_tree, clients::recipe};

/// Makes the directory with the programs, unless it is there.
///
/// # Errors
/// When the compiler is missing or fails.
pub fn native() -> anyhow::Result<PathBuf> {
    let sources = [include_str!("../../clients/escape/tls_client.c"), include_str!("../../clients/escape/launch.c")];
    recipe::ensure("test-escape", &sources, |directory| {
        let programs: [(&str, &str, &[&str]); 3] = [
            ("tls-static", "tls_client.c", &["-static", "-lssl", "-lcrypto"]),
            ("tls-memfd", "tls_client.c", &["-DMEMFD", "-lcrypto"]),
            ("launch", "launch.c", &[]),
        ];
        for (name, source, arguments) in programs {
            let mut build = Command::new("gcc");
            build.args(["-O1", "-Wall", "-o"]).arg(directory.join(name));
            build.arg(build_tree::scripts().join("escape").join(source)).args(arguments);
            recipe::run(&mut build)
                .with_context(|| format!("building {name} (Debian: apt-get install gcc libssl-dev)"))?;
        }
        Ok(())
    })
}
