//! `tollgate prices`, as an administrator uses it.

use std::{
    fs,
    process::{Command, Output},
};

use serde_json::Value;

const CATALOGUE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/prices/genai-prices/catalogue.json");

struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    fn new(config: &str) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        fs::write(dir.path().join("tollgate.toml"), config).expect("a configuration");
        Self { dir }
    }

    fn prices(&self, args: &[&str]) -> Output {
        let mut tollgate = Command::new(env!("CARGO_BIN_EXE_tollgate"));
        let tollgate = tollgate.arg("prices").args(args).arg("--state-dir").arg(self.dir.path());
        tollgate.arg("--config").arg(self.dir.path().join("tollgate.toml")).output().expect("tollgate")
    }

    fn json(&self, args: &[&str]) -> Value {
        let output = self.prices(&[args, &["--json"]].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{args:?}: {error}: {output:?}"))
    }

    /// A later catalogue: one model dearer, one gone, one new.
    fn later_catalogue(&self, version: &str) -> String {
        let mut catalogue: Value = serde_json::from_str(&fs::read_to_string(CATALOGUE).expect("it")).expect("JSON");
        catalogue["source"]["version"] = version.into();
        let providers = catalogue["providers"].as_array_mut().expect("a list");
        let openai = providers.iter_mut().find(|it| it["id"] == "openai").expect("openai");
        let models = openai["models"].as_array_mut().expect("a list");
        models.retain(|it| it["id"] != "gpt-5-nano");
        let gpt = models.iter_mut().find(|it| it["id"] == "gpt-5-mini").expect("gpt-5-mini");
        gpt["prices"][0]["prices"]["input_mtok"] = "123".into();
        let mut new = gpt.clone();
        new["id"] = "gpt-99".into();
        new["match"] = serde_json::json!({ "equals": "gpt-99" });
        models.push(new);
        let path = self.dir.path().join(format!("{version}.json"));
        fs::write(&path, catalogue.to_string()).expect("a file");
        path.to_str().expect("UTF-8").to_owned()
    }
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("{output:?}"))
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn input_price(shown: &Value) -> (&str, &str) {
    let holding = shown["candidates"].as_array().and_then(|it| it.iter().find(|it| it["holds"] == true));
    let holding = holding.unwrap_or_else(|| panic!("{shown}"));
    let lines = holding["prices"].as_array().expect("a list");
    let input = lines.iter().find(|line| line["what"] == "input_uncached").expect("input");
    (input["usd"].as_str().expect("text"), holding["source"].as_str().expect("text"))
}

#[test]
fn a_newer_table_is_checked_installed_and_used() {
    let host = Host::new("");
    let file = host.later_catalogue("99.0.1");
    let report = host.json(&["check", &file]);
    let changes = report["changes"].as_array().expect("a list");
    let kinds = changes.iter().map(|it| format!("{} {}", it["kind"], it["model"]).replace('"', ""));
    assert_eq!(
        kinds.collect::<Vec<_>>(),
        ["changed openai/gpt-5-mini", "removed openai/gpt-5-nano", "added openai/gpt-99"]
    );
    assert_eq!(report["newer"], true);
    let text = String::from_utf8(host.prices(&["check", &file]).stdout).expect("UTF-8");
    assert!(text.contains("3 models change") && text.contains("input_mtok 123"), "{text}");

    // Nothing vouches for it yet.
    let refused = host.prices(&["update", &file]);
    assert_eq!(code(&refused), 2, "{}", stderr(&refused));
    let refused = host.prices(&["update", &file, "--sha256", &"0".repeat(64)]);
    assert_eq!(code(&refused), 65, "{}", stderr(&refused));
    assert_eq!(input_price(&host.json(&["show", "gpt-5-mini"])).1, "genai-prices 0.2.3");

    let hash = report["sha256"].as_str().expect("text");
    let installed = host.json(&["update", &file, "--sha256", hash]);
    assert_eq!((installed["in_use"].as_str(), installed["changes"].as_u64()), (Some("genai-prices 99.0.1"), Some(3)));
    let shown = host.json(&["show", "gpt-5-mini"]);
    assert_eq!(input_price(&shown), ("123", "genai-prices 99.0.1"));
    // An old charge is explained by what was in use then.
    let old = host.json(&["show", "gpt-5-mini", "--catalogue", "0.2.3"]);
    assert_eq!(input_price(&old).1, "genai-prices 0.2.3");

    // Back only if that is meant.
    let older = host.later_catalogue("98.0.0");
    fs::write(format!("{older}.sha256"), format!("{}  98.0.0.json\n", sha256sum(&older))).expect("a file");
    let refused = host.prices(&["update", &older]);
    assert!(code(&refused) == 2 && stderr(&refused).contains("--allow-older"), "{}", stderr(&refused));
    let back = host.json(&["update", &older, "--allow-older"]);
    assert_eq!(back["in_use"], "genai-prices 98.0.0");
    let explained = host.json(&["show", "gpt-5-mini", "--catalogue", "genai-prices 99.0.1"]);
    assert_eq!(input_price(&explained).1, "genai-prices 99.0.1");
    assert_eq!(code(&host.prices(&["show", "gpt-5-mini", "--catalogue", "1.2.3"])), 66);
}

fn sha256sum(path: &str) -> String {
    let output = Command::new("sha256sum").arg(path).output().expect("sha256sum");
    String::from_utf8_lossy(&output.stdout).split_whitespace().next().expect("a hash").to_owned()
}

#[test]
fn what_is_no_table_has_its_exit_code() {
    let host = Host::new("");
    let path = host.dir.path().join("no.json");
    fs::write(&path, "{}").expect("a file");
    let checked = host.prices(&["check", path.to_str().expect("UTF-8")]);
    assert!(code(&checked) == 65 && stderr(&checked).contains("missing field"), "{}", stderr(&checked));
    assert_eq!(code(&host.prices(&["check", "/nonexistent"])), 65);
    assert_eq!(code(&host.prices(&["check"])), 0);
}

#[test]
fn a_model_is_shown_with_what_is_set_for_it() {
    let host = Host::new(
        r#"
        [[price.override]]
        name = "contract"
        provider = "openai"
        model = "gpt-5*"
        per_million_tokens = { input = "0.9", output = "7" }
        "#,
    );
    let shown = host.json(&["show", "gpt-5", "--provider", "openai", "--at", "2026-11-20T12:00:00Z"]);
    let (usd, source) = input_price(&shown);
    assert!(usd == "0.9" && source.starts_with("override contract@"), "{shown}");
    let text = String::from_utf8(host.prices(&["show", "gpt-5"]).stdout).expect("UTF-8");
    assert!(text.contains("it holds, since an override goes before the tables"), "{text}");

    let unknown = host.prices(&["show", "gpt-none", "--provider", "openai"]);
    assert_eq!(code(&unknown), 66);
    assert!(String::from_utf8_lossy(&unknown.stdout).contains("NO PRICE"), "{unknown:?}");
}

#[test]
fn all_models_are_listed() {
    let host = Host::new("[price]\nfallback = false");
    let listed = host.json(&["list", "--provider", "anthropic"]);
    let models = listed["models"].as_array().expect("a list");
    assert!(models.iter().any(|it| it["model"] == "anthropic/claude-sonnet-4-5"), "{listed}");
    assert!(models.iter().all(|it| it["catalogue"] == "genai-prices 0.2.3"), "{listed}");
}

#[test]
fn a_wrong_override_is_a_wrong_configuration() {
    let host = Host::new("[[price.override]]\nname = \"x\"\npercent = 1.5");
    let refused = host.prices(&["show", "gpt-5"]);
    assert_eq!(code(&refused), 78);
    assert!(stderr(&refused).contains("line 3: write 1.5 in quotes"), "{}", stderr(&refused));
}

/// Sums of calls are kept apart by the steps at which prices change.
#[test]
fn every_step_of_the_price_lists_is_known() {
    fn starts(value: &Value, found: &mut Vec<u64>) {
        match value {
            Value::Object(members) => {
                let tiers = members.get("tiers").and_then(Value::as_array).into_iter().flatten();
                found.extend(tiers.filter_map(|tier| tier["start"].as_u64()));
                members.values().for_each(|member| starts(member, found));
            }
            Value::Array(items) => items.iter().for_each(|item| starts(item, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    for table in ["genai-prices", "litellm"] {
        let path = format!("{}/prices/{table}/catalogue.json", env!("CARGO_MANIFEST_DIR"));
        let table = fs::read_to_string(path).expect("a table");
        starts(&serde_json::from_str(&table).expect("JSON"), &mut found);
    }
    found.sort_unstable();
    found.dedup();
    assert!(!found.is_empty());
    let missing: Vec<_> = found.iter().filter(|start| !monitor::meter::STEPS.contains(start)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
