//! Conformance with the recorded exchanges in `../shared/corpus`: the expected usage must give the expected cost.

use std::{collections::BTreeMap, fs::File, io::Read, path::Path};

use flate2::read::GzDecoder;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::*;

const CORPUS: &str = "../../shared/corpus";

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(CORPUS).join(file);
    let file = File::open(&path).unwrap_or_else(|error| {
        panic!("this test needs the recorded exchanges: cannot open {}: {error}", path.display())
    });
    let mut text = String::new();
    GzDecoder::new(file).read_to_string(&mut text).unwrap();
    text
}

fn text<'a>(record: &'a Value, pointer: &str) -> Option<&'a str> {
    record.pointer(pointer)?.as_str()
}

fn parse<T: serde::de::DeserializeOwned + Default>(record: &Value, pointer: &str) -> T {
    let value = record.pointer(pointer).filter(|value| !value.is_null());
    value.map(|value| serde_json::from_value(value.clone()).unwrap()).unwrap_or_default()
}

/// What differs between the quote for a record and what it should be.
fn disagreement(record: &Value, at: Timestamp) -> Option<String> {
    let model = [
        "/expected/cost/price_model_ref",
        if text(record, "/provider") == Some("bedrock") { "" } else { "/expected/model_reported" },
        "/expected/model_requested",
    ];
    let query = Query {
        url: text(record, "/request/url"),
        service: Service { tier: text(record, "/expected/service_tier"), ..Service::default() },
        ..Query::new(model.into_iter().find_map(|pointer| text(record, pointer)).unwrap_or_default(), at)
    };
    let (usage, units) = (parse(record, "/expected/buckets"), parse(record, "/expected/units"));
    let quote = Catalogue::embedded().quote(&query, &usage, &units);
    // The fallback table is for what the catalogue lacks, and changes nothing else.
    if let Quote::Priced(alone) = &quote {
        let Quote::Priced(price) = PriceBook::embedded().quote(&query, &usage, &units) else {
            return Some(format!("{query:?} has no price in the whole book"));
        };
        let row = |price: &Price<'_>| (price.row.to_string(), price.total);
        if row(&price) != row(alone) {
            return Some(format!("{query:?}: {:?} in the whole book, {:?} in the catalogue", row(&price), row(alone)));
        }
    }
    let expect = |pointer: &str| text(record, pointer).unwrap_or_default().to_owned();
    let (found, expected) = match (&quote, text(record, "/expected/cost/status")) {
        (Quote::Priced(price), Some("priced")) => (
            [&price.row.provider, &price.row.model]
                .map(ToString::to_string)
                .into_iter()
                .chain([price.input, price.output, price.tokens, price.fees, price.total].map(|usd| usd.to_string()))
                .chain([format!("{:?}", price.unpriced_components)])
                .collect::<Vec<_>>(),
            ["price_provider", "price_model", "input_usd", "output_usd", "tokens_usd", "tools_usd", "usd"]
                .map(|key| expect(&format!("/expected/cost/{key}")))
                .into_iter()
                .chain(["[]".to_owned()])
                .collect(),
        ),
        (Quote::Unpriced(Unpriced::UnknownModel { provider }), Some("unpriced")) => {
            (vec![(*provider).to_owned()], vec![expect("/expected/cost/price_provider")])
        }
        (Quote::Unpriced(_), Some("unpriced")) => (vec![], vec![]),
        (quote, status) => (vec![format!("{quote:?}")], vec![format!("{status:?}")]),
    };
    (found != expected).then(|| format!("{}: {query:?}: {found:?}, not {expected:?}", expect("/id")))
}

#[test]
fn recorded_exchanges_cost_what_they_should() {
    let mut compared = BTreeMap::new();
    let mut disagreements = vec![];
    for line in read("dev.jsonl.gz").lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        let status = text(&record, "/expected/cost/status").unwrap().to_owned();
        if status == "priced" || status == "unpriced" {
            let at = text(&record, "/expected/cost/at").unwrap_or("2026-11-20T12:00:00Z").parse().unwrap();
            disagreements.extend(disagreement(&record, at));
            *compared.entry(status).or_insert(0) += 1;
        }
    }
    println!("compared: {compared:?}");
    assert!(disagreements.is_empty(), "{} of them differ:\n{}", disagreements.len(), disagreements.join("\n"));
    assert!(compared.values().sum::<u32>() > 800, "the corpus has shrunk: {compared:?}");
}

/// What the price room reads of a catalogue.
fn essentials(catalogue: &Value) -> Value {
    fn keep(object: &Value, keys: &[&str]) -> Map<String, Value> {
        let kept =
            keys.iter().filter_map(|&key| Some((key.to_owned(), object.get(key).filter(|it| !it.is_null())?.clone())));
        kept.collect()
    }
    let list = |object: &Value, key: &str| object[key].as_array().unwrap().clone();
    let providers = list(catalogue, "providers").into_iter().map(|provider| {
        let keys = ["id", "api_pattern", "provider_match", "model_match", "fallback_model_providers"];
        let mut kept = keep(&provider, &keys);
        let models = list(&provider, "models").into_iter();
        let models = models.map(|model| Value::from(keep(&model, &["id", "match", "prices", "price_variants"])));
        kept.insert("models".to_owned(), models.collect());
        Value::from(kept)
    });
    let mut kept = keep(catalogue, &["units"]);
    kept.insert("version".to_owned(), catalogue["source"]["version"].clone());
    kept.insert("providers".to_owned(), providers.collect());
    kept.into()
}

#[test]
fn the_embedded_catalogue_is_that_of_the_corpus() {
    let ours = essentials(&serde_json::from_str(include_str!("../../prices/genai-prices/catalogue.json")).unwrap());
    let text = read("genai_prices.json.gz");
    let theirs = essentials(&serde_json::from_str(&text).unwrap());
    for (ours, theirs) in ours["providers"].as_array().unwrap().iter().zip(theirs["providers"].as_array().unwrap()) {
        assert_eq!(ours, theirs, "{}", ours["id"]);
    }
    assert_eq!(ours["providers"].as_array().unwrap().len(), theirs["providers"].as_array().unwrap().len());
    assert_eq!((&ours["units"], &ours["version"]), (&theirs["units"], &theirs["version"]));
    Catalogue::parse(&text).unwrap();
}
