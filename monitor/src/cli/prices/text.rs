//! Prices as a person reads them.

use comfy_table::{ContentArrangement, Table, presets::NOTHING};

use crate::{
    books::Book,
    price::{Candidate, Catalogue, Change, ChangeKind, Explanation, Period},
};

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(header);
    table
}

pub fn explanation(explanation: &Explanation) -> String {
    let provider = explanation.provider.as_deref().map(|id| format!(" at {id}")).unwrap_or_default();
    let at = explanation.at.strftime("%Y-%m-%dT%H:%M:%SZ");
    let mut text = format!("{}{provider}, {at}\n", explanation.model);
    if let Some(why) = &explanation.unpriced {
        text.push_str(&format!("NO PRICE: {why}\n"));
    }
    let (holding, others): (Vec<_>, Vec<_>) = explanation.candidates.iter().partition(|it| it.holds);
    for holding in holding {
        text.push_str(&format!("\n{}: it holds, since {}\n", row(holding), holding.why));
        text.push_str(&prices(holding));
        if holding.schedule.len() > 1 {
            text.push_str(&format!("\nall its prices:\n{}", schedule(&holding.schedule)));
        }
    }
    if !others.is_empty() {
        text.push_str("\nothers:\n");
        let mut table = table(["ROW", "INPUT", "OUTPUT", "WHY NOT"]);
        for other in others {
            table.add_row([
                row(other),
                price_of(other, "input_uncached"),
                price_of(other, "output_text"),
                other.why.clone(),
            ]);
        }
        text.push_str(&table.trim_fmt());
    }
    text.trim_end().to_owned()
}

fn row(candidate: &Candidate) -> String {
    format!("{}/{} ({})", candidate.provider, candidate.model, candidate.source)
}

fn prices(candidate: &Candidate) -> String {
    let mut table = table(["WHAT", "USD", "PER", "LARGER INPUTS"]);
    for line in candidate.prices.iter().filter(|line| line.charged_as.is_none()) {
        let above = line.above.iter().map(|(start, usd)| format!("above {start}: {usd}")).collect::<Vec<_>>();
        table.add_row([line.what.clone(), line.usd.clone(), line.per.clone(), above.join(", ")]);
    }
    if candidate.prices.is_empty() {
        return "  the row has no price for anything: what is used is unpriced\n".to_owned();
    }
    let mut text = table.trim_fmt() + "\n";
    if candidate.prices.iter().any(|line| line.charged_as.is_some()) {
        text.push_str("tokens of other kinds cost as uncached input, written text or the cache writes above do\n");
    }
    text
}

fn price_of(candidate: &Candidate, what: &str) -> String {
    let line = candidate.prices.iter().find(|line| line.what == what);
    line.map_or("-".to_owned(), |line| line.usd.clone())
}

fn period(period: &Period) -> String {
    let prices = period.prices.iter().map(|(key, usd)| format!("{key} {usd}")).collect::<Vec<_>>();
    if prices.is_empty() { "no prices".to_owned() } else { prices.join("; ") }
}

fn schedule(periods: &[Period]) -> String {
    let mut table = table(["WHEN", "PRICES"]);
    for it in periods {
        table.add_row([it.when.clone(), period(it)]);
    }
    table.trim_fmt() + "\n"
}

pub fn list(rows: &[(&str, String, Vec<Period>)]) -> String {
    let mut table = table(["MODEL", "WHEN", "TABLE", "PRICES"]);
    for (version, model, schedule) in rows {
        for it in schedule {
            table.add_row([model.as_str(), &it.when, version, &period(it)]);
        }
    }
    format!("{}\n{} models", table.trim_fmt(), rows.len())
}

pub fn check(book: &Book, active: &Catalogue, changes: &[Change]) -> String {
    let order = match (book.catalogue.is_newer_than(active), active.is_newer_than(&book.catalogue)) {
        (true, _) => "newer than",
        (_, true) => "OLDER than",
        _ => "of the version of",
    };
    let mut text = format!(
        "{} is a price table: {}, {} models, {order} {} in use\nSHA-256 {}\n",
        book.path.display(),
        book.catalogue.version(),
        book.catalogue.models(),
        active.version(),
        book.sha256
    );
    if changes.is_empty() {
        return text + "no price changes";
    }
    let mut table = table(["CHANGE", "MODEL", "BEFORE", "AFTER"]);
    for change in changes {
        let kind = match change.kind {
            ChangeKind::Added => "added",
            ChangeKind::Removed => "removed",
            ChangeKind::Changed => "changed",
        };
        let [before, after] = differing(change);
        table.add_row([kind, &change.model, &before, &after]);
    }
    text.push_str(&table.trim_fmt());
    text + &format!("\n{} models change", changes.len())
}

/// Of both sides what the other one does not have.
fn differing(change: &Change) -> [String; 2] {
    let only = |of: &[Period], other: &[Period]| {
        let lines = of.iter().filter(|it| !other.contains(it)).map(|it| match it.when.as_str() {
            "always" => period(it),
            when => format!("{when}: {}", period(it)),
        });
        lines.collect::<Vec<_>>().join(" | ")
    };
    [only(&change.before, &change.after), only(&change.after, &change.before)]
}
