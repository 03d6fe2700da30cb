//! What is different in another price table.

use serde::Serialize;

use super::{Catalogue, Period};

/// A model whose prices differ between two tables.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// `provider/model`.
    pub model: String,
    pub kind: ChangeKind,
    /// Empty if it was added.
    pub before: Vec<Period>,
    /// Empty if it was removed.
    pub after: Vec<Period>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    Added,
    Removed,
    Changed,
}

impl Catalogue {
    /// What another table has differently, by model.
    pub fn changes(&self, other: &Self) -> Vec<Change> {
        let (before, mut after) = (self.schedules(), other.schedules());
        let mut changes = Vec::new();
        for (model, before) in before {
            match after.remove(&model) {
                None => changes.push(Change { model, kind: ChangeKind::Removed, before, after: Vec::new() }),
                Some(after) if after != before => {
                    changes.push(Change { model, kind: ChangeKind::Changed, before, after });
                }
                Some(_) => {}
            }
        }
        let added = |(model, after)| Change { model, kind: ChangeKind::Added, before: Vec::new(), after };
        changes.extend(after.into_iter().map(added));
        changes.sort_by(|a, b| a.model.cmp(&b.model));
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(models: &str) -> Catalogue {
        let units = r#"{"input_tokens": {"per": 1000000, "price_key": "input_mtok", "dimensions": {}}}"#;
        let source = r#"{"package": "p", "version": "1"}"#;
        let provider = format!(r#"{{"id": "v", "api_pattern": "x", "models": [{models}]}}"#);
        Catalogue::parse(&format!(r#"{{"source": {source}, "units": {units}, "providers": [{provider}]}}"#)).unwrap()
    }

    fn model(id: &str, prices: &str) -> String {
        format!(
            r#"{{"id": "{id}", "match": {{"equals": "{id}"}}, "prices": [{{"constraint": null, "prices": {prices}}}]}}"#
        )
    }

    #[test]
    fn a_change_is_of_the_price() {
        let price = |usd: &str| format!(r#"{{"input_mtok": "{usd}"}}"#);
        let before = [model("gone", &price("1")), model("dearer", &price("1")), model("same", &price("2.50"))];
        let after = [model("dearer", &price("2")), model("new", &price("3")), model("same", &price("2.5"))];
        let changes = table(&before.join(",")).changes(&table(&after.join(",")));
        let kinds = changes.iter().map(|change| (change.model.as_str(), change.kind)).collect::<Vec<_>>();
        assert_eq!(
            kinds,
            [("v/dearer", ChangeKind::Changed), ("v/gone", ChangeKind::Removed), ("v/new", ChangeKind::Added)]
        );
        assert_eq!(changes[0].before[0].prices["input_mtok"], "1");
        assert_eq!(changes[0].after[0].prices["input_mtok"], "2");
    }
}
