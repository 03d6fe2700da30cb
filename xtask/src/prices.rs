//! `cargo xtask prices`: fetches the public price tables and writes them as the data that the daemon embeds.
//!
//! The catalogue is the Python package `genai-prices`. Its wheel is fetched with pip, installed into an environment of
//! its own under `target/`, and read by its own types (`prices/dump.py`). What it lacks is taken from the table in the
//! wheel of `litellm`, which is only unpacked (`prices/fallback.py`).
//!
//! Written are, in a folder of each under `monitor/prices/`: the prices with one model a line, so that a diff shows what
//! became dearer, and their SHA-256; the package's licence; and a manifest that says which file, with which hash, it all
//! came from. The same packages always give the same bytes.

use std::{
    collections::BTreeMap,
    env, fmt, fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

const CATALOGUE: &str = "genai-prices";
const FALLBACK: &str = "litellm";
const DUMP_CATALOGUE: &str = include_str!("prices/dump.py");
const DUMP_FALLBACK: &str = include_str!("prices/fallback.py");

/// Fetch the public price tables and write them as the data that the daemon embeds.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Version of the genai-prices package; without it, the newest.
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,
    /// Version of the litellm package; without it, the newest.
    #[arg(long, value_name = "VERSION")]
    fallback_version: Option<String>,
    /// Accept another file under the version that is already recorded.
    #[arg(long)]
    accept_changed_file: bool,
}

/// Where the data came from.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Manifest {
    package: String,
    version: String,
    licence: String,
    /// Name of the wheel.
    file: String,
    /// Of the wheel, in hexadecimal.
    sha256: String,
    /// Day (UTC) on which this file was first fetched.
    fetched: String,
}

/// What `dump.py` prints.
#[derive(Debug, Deserialize)]
struct Dump {
    manifest: Manifest,
    licence_text: String,
    units: BTreeMap<String, Value>,
    providers: Vec<Map<String, Value>>,
}

pub fn run(args: &Args) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has no parent folder")?;
    let data = root.join("monitor/prices");
    let work = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from).join("prices");

    let wheel = fetch(&work, CATALOGUE, args.version.as_deref())?;
    let python = install(&work, &wheel)?;
    write(&data, dump(&python, DUMP_CATALOGUE, &wheel)?, args.accept_changed_file)?;
    let wheel = fetch(&work, FALLBACK, args.fallback_version.as_deref())?;
    write(&data, dump(&python, DUMP_FALLBACK, &wheel)?, args.accept_changed_file)
}

/// Writes a table with what belongs to it, and says what changed.
fn write(data: &Path, mut dump: Dump, accept_changed_file: bool) -> Result<()> {
    let data = data.join(&dump.manifest.package);
    if let Some(recorded) = read_optional(&data.join("manifest.json"))? {
        let recorded: Manifest = serde_json::from_str(&recorded).context("the recorded manifest.json is damaged")?;
        if recorded.version == dump.manifest.version && recorded.sha256 != dump.manifest.sha256 {
            ensure!(
                accept_changed_file,
                "{} {} has SHA-256 {}, but {} is recorded for that version: find out why, and if it is right, run \
                 again with --accept-changed-file",
                recorded.package,
                recorded.version,
                dump.manifest.sha256,
                recorded.sha256
            );
        }
        if recorded.sha256 == dump.manifest.sha256 {
            dump.manifest.fetched = recorded.fetched;
        }
    }

    let catalogue = data.join("catalogue.json");
    let text = catalogue_text(&dump)?;
    let before = match read_optional(&catalogue)? {
        Some(text) => rows(&serde_json::from_str(&text).context("the recorded catalogue.json is damaged")?),
        None => BTreeMap::new(),
    };
    let after = rows(&serde_json::from_str(&text).context("the catalogue that was just made does not read back")?);

    fs::create_dir_all(&data).with_context(|| format!("cannot make the folder {}", data.display()))?;
    let manifest = serde_json::to_string_pretty(&dump.manifest)? + "\n";
    for (name, text) in [("catalogue.json", &text), ("LICENSE", &dump.licence_text), ("manifest.json", &manifest)] {
        let path = data.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    // What `tollgate prices update` checks the file against.
    let mut sha256sum = Command::new("sha256sum");
    let hash = output(sha256sum.current_dir(&data).arg("catalogue.json"), "hash the catalogue (Debian: coreutils)")?;
    fs::write(data.join("catalogue.json.sha256"), hash)?;
    print_summary(&dump.manifest, &before, &after);
    Ok(())
}

/// Downloads the wheel into an empty folder and gives its path.
fn fetch(work: &Path, package: &str, version: Option<&str>) -> Result<PathBuf> {
    let folder = work.join("wheel");
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot empty {}", folder.display()));
        }
        _ => {}
    }
    let requirement = version.map_or_else(|| package.to_owned(), |version| format!("{package}=={version}"));
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest"]);
    output(pip.arg(&folder).arg(&requirement), &format!("fetch {requirement} with pip"))?;

    let mut files = fs::read_dir(&folder)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    match (files.pop(), files.is_empty()) {
        (Some(wheel), true) => Ok(wheel),
        _ => bail!("pip left not exactly one file in {}", folder.display()),
    }
}

/// Installs the catalogue's wheel into an environment of its own, and gives the Python of that.
fn install(work: &Path, wheel: &Path) -> Result<PathBuf> {
    let venv = work.join("venv");
    let mut make = Command::new("python3");
    output(make.args(["-m", "venv", "--clear"]).arg(&venv), "make a Python environment (Debian: python3-venv)")?;
    let python = venv.join("bin/python");
    let mut pip = Command::new(&python);
    output(pip.args(["-m", "pip", "install", "--quiet"]).arg(wheel), "install the catalogue's package")?;
    Ok(python)
}

/// Lets a script print the prices that are in a wheel.
fn dump(python: &Path, script: &str, wheel: &Path) -> Result<Dump> {
    let json = output(Command::new(python).args(["-c", script]).arg(wheel), "read the prices")?;
    serde_json::from_slice(&json).context("the prices were printed in another shape than expected")
}

/// Runs a command to its end and gives what it printed.
fn output(command: &mut Command, purpose: &str) -> Result<Vec<u8>> {
    let output = command.output().with_context(|| {
        format!("cannot {purpose}: cannot start {}; install Python 3 with pip", command.get_program().display())
    })?;
    if !output.status.success() {
        bail!("cannot {purpose}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}

fn read_optional(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// The catalogue as JSON with one unit and one model a line.
fn catalogue_text(dump: &Dump) -> Result<String> {
    let source = serde_json::json!({ "package": dump.manifest.package, "version": dump.manifest.version });
    let units = dump.units.iter().map(|(name, unit)| format!("{}:{unit}", Value::from(name.as_str())));
    let providers = dump.providers.iter().map(provider_text).collect::<Result<Vec<_>>>()?;
    Ok(format!(
        "{{\n\"source\":{source},\n\"units\":{{\n{}\n}},\n\"providers\":[\n{}\n]\n}}\n",
        units.collect::<Vec<_>>().join(",\n"),
        providers.join(",\n")
    ))
}

fn provider_text(provider: &Map<String, Value>) -> Result<String> {
    let mut head = provider.clone();
    let models = head.remove("models").context("a provider has no list of models")?;
    let models = models.as_array().context("a provider's models are no list")?;
    let head = Value::Object(head).to_string();
    let head = head.strip_suffix('}').unwrap_or(&head);
    let models = models.iter().map(Value::to_string).collect::<Vec<_>>();
    Ok(format!("{head},\"models\":[\n{}\n]}}", models.join(",\n")))
}

/// Each model's row, under `provider/model`.
type Rows = BTreeMap<String, Value>;

fn rows(catalogue: &Value) -> Rows {
    let list = |value: &Value, key: &str| value.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let id = |value: &Value| value.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut rows = BTreeMap::new();
    for provider in list(catalogue, "providers") {
        for model in list(&provider, "models") {
            rows.insert(format!("{}/{}", id(&provider), id(&model)), model);
        }
    }
    rows
}

/// How a model's row differs between two catalogues.
enum Change {
    Added,
    Removed,
    Price,
    Names,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Added => "+ added",
            Self::Removed => "- removed",
            Self::Price => "~ price changed",
            Self::Names => "~ names changed",
        })
    }
}

fn changes<'a>(before: &'a Rows, after: &'a Rows) -> Vec<(&'a str, Change)> {
    let prices = |row: &Value| [row.get("prices").cloned(), row.get("price_variants").cloned()];
    let removed = before.keys().filter(|id| !after.contains_key(*id)).map(|id| (id.as_str(), Change::Removed));
    let others = after.iter().filter_map(|(id, row)| match before.get(id) {
        None => Some((id.as_str(), Change::Added)),
        Some(old) if prices(old) != prices(row) => Some((id, Change::Price)),
        Some(old) if old != row => Some((id, Change::Names)),
        Some(_) => None,
    });
    removed.chain(others).collect()
}

fn print_summary(manifest: &Manifest, before: &Rows, after: &Rows) {
    let Manifest { package, version, file, sha256, .. } = manifest;
    println!("{package} {version}: {} models; {file}, SHA-256 {sha256}", after.len());
    if before.is_empty() {
        println!("There was no catalogue before.");
        return;
    }
    let changes = changes(before, after);
    for (id, change) in &changes {
        println!("  {change}: {id}");
    }
    match changes.len() {
        0 => println!("No model changed."),
        count => println!("{count} models changed."),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn catalogue(models: &Value) -> Value {
        json!({ "providers": [{ "id": "p", "models": models }] })
    }

    #[test]
    fn a_change_is_named_by_what_it_does_to_the_bill() {
        let before = rows(&catalogue(&json!([
            { "id": "gone", "prices": [] },
            { "id": "dearer", "prices": ["1"] },
            { "id": "renamed", "match": "a", "prices": [] },
            { "id": "same", "prices": [] },
        ])));
        let after = rows(&catalogue(&json!([
            { "id": "dearer", "prices": ["2"] },
            { "id": "new", "prices": [] },
            { "id": "renamed", "match": "b", "prices": [] },
            { "id": "same", "prices": [] },
        ])));
        let lines = changes(&before, &after).iter().map(|(id, change)| format!("{change}: {id}")).collect::<Vec<_>>();
        assert_eq!(
            lines,
            ["- removed: p/gone", "~ price changed: p/dearer", "+ added: p/new", "~ names changed: p/renamed"]
        );
    }

    #[test]
    fn one_model_is_one_line() {
        let provider = json!({ "id": "p", "models": [{ "id": "a" }, { "id": "b" }] });
        let text = provider_text(provider.as_object().unwrap()).unwrap();
        assert_eq!(text, "{\"id\":\"p\",\"models\":[\n{\"id\":\"a\"},\n{\"id\":\"b\"}\n]}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), provider);
    }
}
