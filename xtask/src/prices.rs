//! `cargo xtask prices`: makes the embedded price book from the `genai-prices` package.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{command, root};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Version of the package; the newest by default
    #[arg(long)]
    version: Option<String>,
}

/// Reads the package with its own types and prints one JSON object: the price book without what pricing does not need.
const DUMP: &str = include_str!("prices.py");

pub fn run(args: &Args) -> Result<()> {
    let scratch = root().join("target/prices");
    if scratch.exists() {
        fs::remove_dir_all(&scratch)?;
    }
    fs::create_dir_all(&scratch)?;
    let venv = scratch.join("venv");
    command::run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    let python = venv.join("bin/python");
    let requirement =
        args.version.as_ref().map_or("genai-prices".to_owned(), |version| format!("genai-prices=={version}"));
    command::run(Command::new(&python).args(["-m", "pip", "install", "--quiet", &requirement]))?;
    let wheels = scratch.join("wheels");
    command::run(
        Command::new(&python)
            .args(["-m", "pip", "download", "--quiet", "--no-deps", "--dest"])
            .arg(&wheels)
            .arg(&requirement),
    )?;
    let wheel = only_file(&wheels)?;
    let book = command::output(Command::new(&python).args(["-c", DUMP]).arg(&wheel))?;
    let book: Value = serde_json::from_str(&book).context("what the package was dumped to is not JSON")?;

    let to = root().join("monitor/src/price");
    let data = to.join("genai_prices.json");
    let before = fs::read_to_string(&data).ok().and_then(|text| serde_json::from_str::<Value>(&text).ok());
    fs::write(&data, layout(&book)?)?;
    let licence = command::output(Command::new(&python).args(["-c", LICENCE]))?;
    ensure!(licence.contains("MIT"), "the licence of genai-prices is not MIT any more: read it before going on");
    fs::write(to.join("genai_prices.LICENSE"), licence)?;
    summarize(before.as_ref(), &book)
}

const LICENCE: &str = "import importlib.metadata as m; d = m.distribution('genai-prices'); \
    print(next(f for f in d.files if f.name.startswith('LICENSE')).read_text(), end='')";

fn only_file(directory: &Path) -> Result<PathBuf> {
    let files: Vec<_> = fs::read_dir(directory)?.collect::<Result<_, _>>()?;
    let [file] = files.as_slice() else { bail!("expected one file in {}", directory.display()) };
    Ok(file.path())
}

/// One model a line, so that a change of prices is a readable diff.
fn layout(book: &Value) -> Result<String> {
    let mut text = format!("{{\"source\": {},\n\"units\": {},\n\"providers\": [", book["source"], book["units"]);
    for (index, provider) in book["providers"].as_array().context("providers")?.iter().enumerate() {
        let mut head = provider.clone();
        let models = head.as_object_mut().and_then(|head| head.remove("models")).context("models")?;
        let head = head.to_string();
        let head = head.strip_suffix('}').unwrap_or(&head);
        text.push_str(if index == 0 { "\n" } else { ",\n" });
        text.push_str(head);
        text.push_str(", \"models\": [");
        let lines: Vec<String> =
            models.as_array().context("models")?.iter().map(|model| format!("\n{model}")).collect();
        text.push_str(&lines.join(","));
        text.push_str("]}");
    }
    text.push_str("\n]}\n");
    Ok(text)
}

/// Says what a maintainer wants to know before committing.
fn summarize(before: Option<&Value>, after: &Value) -> Result<()> {
    let models = |book: &Value| -> BTreeMap<String, Value> {
        let providers = book["providers"].as_array().into_iter().flatten();
        providers
            .flat_map(|provider| {
                let id = provider["id"].as_str().unwrap_or_default().to_owned();
                provider["models"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(move |model| (format!("{id}/{}", model["id"].as_str().unwrap_or_default()), model.clone()))
            })
            .collect()
    };
    let (old, new) = (before.map(models).unwrap_or_default(), models(after));
    let source = &after["source"];
    println!(
        "{} {}, sha256 {}",
        source["package"].as_str().unwrap_or_default(),
        source["version"].as_str().unwrap_or_default(),
        source["sha256"].as_str().unwrap_or_default()
    );
    println!(
        "{} models; {} new, {} gone, {} changed",
        new.len(),
        new.keys().filter(|key| !old.contains_key(*key)).count(),
        old.keys().filter(|key| !new.contains_key(*key)).count(),
        new.iter().filter(|(key, model)| old.get(*key).is_some_and(|old| old != *model)).count()
    );
    for (key, _) in new.iter().filter(|(key, model)| !old.is_empty() && old.get(*key) != Some(*model)) {
        println!("  {} {key}", if old.contains_key(key) { "changed" } else { "new" });
    }
    Ok(())
}
