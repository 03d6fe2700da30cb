//! What calls to the test models cost, computed apart from Tollgate: its catalogue and arithmetic are what is tested.

use crate::Usage;

/// An amount in pico-USD (10⁻¹² USD).
pub type PicoUsd = i128;

/// USD per million tokens, as published; a bucket without a price may not occur.
struct Row {
    models: &'static [&'static str],
    input: &'static str,
    cache_read: &'static str,
    cache_write_5m: Option<&'static str>,
    cache_write_1h: Option<&'static str>,
    output: &'static str,
}

const ROWS: [Row; 10] = [
    Row {
        models: &["gpt-4o-mini", "gpt-4o-mini-2024-07-18"],
        input: "0.15",
        cache_read: "0.075",
        cache_write_5m: None,
        cache_write_1h: None,
        output: "0.6",
    },
    Row {
        models: &["gpt-4o", "gpt-4o-2024-08-06"],
        input: "2.5",
        cache_read: "1.25",
        cache_write_5m: None,
        cache_write_1h: None,
        output: "10",
    },
    Row {
        models: &["claude-haiku-4-5", "claude-haiku-4-5-20251001"],
        input: "1",
        cache_read: "0.1",
        cache_write_5m: Some("1.25"),
        cache_write_1h: Some("2"),
        output: "5",
    },
    Row {
        models: &["claude-sonnet-4-5", "claude-sonnet-4-5-20250929"],
        input: "3",
        cache_read: "0.3",
        cache_write_5m: Some("3.75"),
        cache_write_1h: Some("6"),
        output: "15",
    },
    Row {
        models: &["gpt-5.1-codex"],
        input: "1.25",
        cache_read: "0.125",
        cache_write_5m: None,
        cache_write_1h: None,
        output: "10",
    },
    Row {
        models: &["gemini-2.5-flash"],
        input: "0.3",
        cache_read: "0.03",
        cache_write_5m: None,
        cache_write_1h: None,
        output: "2.5",
    },
    Row {
        models: &["gemini-2.5-flash-lite"],
        input: "0.1",
        cache_read: "0.01",
        cache_write_5m: None,
        cache_write_1h: None,
        output: "0.4",
    },
    Row {
        models: &["mistral-large-latest"],
        input: "2",
        cache_read: "2",
        cache_write_5m: None,
        cache_write_1h: None,
        output: "6",
    },
    Row {
        models: &["gpt-5.1"],
        input: "1.25",
        cache_read: "0.125",
        cache_write_5m: None,
        cache_write_1h: None,
        output: "10",
    },
    Row {
        models: &["amazon.nova-lite-v1:0"],
        input: "0.06",
        cache_read: "0.015",
        cache_write_5m: None,
        cache_write_1h: None,
        output: "0.24",
    },
];

/// Above this much input, some rows have other prices, which are not written down here.
const FLAT_INPUT: u64 = 200_000;

/// Cost of a call.
///
/// # Panics
/// When the table has no price for it: a test must not compare with a guess.
pub fn cost(model: &str, usage: &Usage) -> PicoUsd {
    assert!(usage.input_total() <= FLAT_INPUT, "the reference prices hold up to {FLAT_INPUT} input tokens");
    assert_eq!(usage.cache_write, 0, "no reference price for cache writes without a time to live");
    let row = ROWS.iter().find(|row| row.models.contains(&model));
    let row = row.unwrap_or_else(|| panic!("no reference price for {model}"));
    let optional = |tokens: u64, price: Option<&str>| match (tokens, price) {
        (0, _) => 0,
        (tokens, Some(price)) => i128::from(tokens) * per_token(price),
        (_, None) => panic!("no reference price for cache writes of {model}"),
    };
    i128::from(usage.input_uncached) * per_token(row.input)
        + i128::from(usage.cache_read) * per_token(row.cache_read)
        + optional(usage.cache_write_5m, row.cache_write_5m)
        + optional(usage.cache_write_1h, row.cache_write_1h)
        + i128::from(usage.output_total()) * per_token(row.output)
}

/// Pico-USD per token of a price in USD per million tokens.
fn per_token(usd_per_million: &str) -> PicoUsd {
    usd(usd_per_million) / 1_000_000
}

/// Reads an exact decimal amount in USD.
///
/// # Panics
/// When it is not one, or finer than a pico-USD.
pub fn usd(text: &str) -> PicoUsd {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    assert!(fraction.len() <= 12, "`{text}` is finer than a pico-USD");
    let digits = format!("{whole}{fraction:0<12}");
    assert!(digits.bytes().all(|byte| byte.is_ascii_digit()), "`{text}` is not an amount in USD");
    digits.parse().unwrap_or_else(|error| panic!("`{text}` is not an amount in USD: {error}"))
}

#[cfg(test)]
mod tests {
    use super::{cost, usd};
    use crate::Usage;

    #[test]
    fn prices_are_exact() {
        let usage = Usage { input_uncached: 1000, cache_read: 11, output_text: 100, reasoning: 7, ..Usage::default() };
        assert_eq!(cost("gpt-4o-mini-2024-07-18", &usage), usd("0.000215025"));
        let usage =
            Usage { input_uncached: 1, cache_write_5m: 1, cache_write_1h: 1, output_text: 1, ..Usage::default() };
        assert_eq!(cost("claude-sonnet-4-5", &usage), usd("0.00002775"));
    }

    #[test]
    fn amounts_are_read_exactly() {
        for (text, pico) in [("0", 0), ("2", 2_000_000_000_000), ("0.05", 50_000_000_000), ("0.000000000001", 1)] {
            assert_eq!(usd(text), pico);
        }
    }
}
