//! Amounts of money.

use std::{
    fmt,
    iter::Sum,
    ops::{Add, AddAssign, Mul, Sub, SubAssign},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// An amount in pico-USD (10⁻¹² USD): the finest catalogue price per token is a whole number of them, so that sums are
/// exact.
///
/// The range is ±1.7 × 10²⁶ USD. Operators stop at its ends rather than wrap: an absurd amount stays absurd, and every
/// cap holds against it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Money(i128);

/// Decimal places of a pico-USD in a USD.
const PLACES: usize = 12;

impl Money {
    pub const ZERO: Self = Self(0);
    pub const MAX: Self = Self(i128::MAX);
    pub const PICO_PER_USD: i128 = 1_000_000_000_000;

    pub const fn from_pico_usd(pico: i128) -> Self {
        Self(pico)
    }

    pub const fn pico_usd(self) -> i128 {
        self.0
    }

    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    pub const fn is_negative(self) -> bool {
        self.0 < 0
    }

    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(pico) => Some(Self(pico)),
            None => None,
        }
    }

    pub const fn checked_sub(self, other: Self) -> Option<Self> {
        match self.0.checked_sub(other.0) {
            Some(pico) => Some(Self(pico)),
            None => None,
        }
    }

    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    pub const fn saturating_mul(self, count: u64) -> Self {
        Self(self.0.saturating_mul(count as i128))
    }
}

impl Add for Money {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        self.saturating_add(other)
    }
}

impl AddAssign for Money {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Money {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self.saturating_sub(other)
    }
}

impl SubAssign for Money {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl Mul<u64> for Money {
    type Output = Self;

    fn mul(self, count: u64) -> Self {
        self.saturating_mul(count)
    }
}

impl Sum for Money {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

impl<'a> Sum<&'a Money> for Money {
    fn sum<I: Iterator<Item = &'a Money>>(amounts: I) -> Self {
        amounts.copied().sum()
    }
}

/// The exact amount in USD: `0.0002595`, `12`, `-0.5`; no trailing zeros, never an exponent. A precision (`{:.2}`)
/// rounds to that many places, half to even, for people; a width pads.
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (magnitude, places) = match f.precision() {
            Some(places) if places < PLACES => {
                let dropped = u32::try_from(PLACES - places).unwrap_or(u32::MAX);
                (div_half_even(self.0.unsigned_abs(), 10_u128.pow(dropped)), places)
            }
            _ => (self.0.unsigned_abs(), PLACES),
        };
        let one = 10_u128.pow(u32::try_from(places).unwrap_or(u32::MAX));
        let (whole, fraction) = (magnitude / one, magnitude % one);
        let mut text = format!("{whole}.{fraction:0places$}");
        if f.precision().is_none() || places == 0 {
            let digits = text.trim_end_matches('0').trim_end_matches('.').len();
            // `{:.0}` has the form `12.0`: one fraction digit that is not part of the amount.
            text.truncate(if places == 0 { text.len() - 2 } else { digits });
        }
        if let Some(missing) = f.precision().and_then(|wanted| wanted.checked_sub(PLACES)) {
            text.extend(std::iter::repeat_n('0', missing));
        }
        // The sign of a negative amount that rounds to zero would only confuse.
        f.pad_integral(self.0 >= 0 || magnitude == 0, "", &text)
    }
}

/// `$0.0002595`, `-$0.5`.
impl fmt::Debug for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        write!(f, "{sign}${}", Self(self.0.saturating_abs()))
    }
}

/// Divides and rounds to the nearest, halves to the even neighbour, so that many rounded amounts have no bias.
pub(crate) const fn div_half_even(amount: u128, divisor: u128) -> u128 {
    let (quotient, rest) = (amount / divisor, amount % divisor);
    let to_next = divisor - rest;
    let up = rest > to_next || (rest == to_next && quotient % 2 == 1);
    if up { quotient + 1 } else { quotient }
}

/// Why a text is no amount of money.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseMoneyError {
    #[error("`{0}` is not an amount in USD: write it in decimal, for example 2.50")]
    NotDecimal(String),
    #[error("`{0}` is finer than the smallest amount, 0.000000000001 USD")]
    TooFine(String),
    #[error("`{0}` is more than the largest amount, 10^26 USD")]
    TooLarge(String),
}

impl FromStr for Money {
    type Err = ParseMoneyError;

    /// Reads an exact decimal amount in USD, with an optional sign: `2`, `2.50`, `-0.000001`, `.5`. Never rounds.
    fn from_str(text: &str) -> Result<Self, ParseMoneyError> {
        parse_fixed_point(text, PLACES).map(Self).map_err(|why| match why {
            FixedPointError::NotDecimal => ParseMoneyError::NotDecimal(text.to_owned()),
            FixedPointError::TooFine => ParseMoneyError::TooFine(text.to_owned()),
            FixedPointError::TooLarge => ParseMoneyError::TooLarge(text.to_owned()),
        })
    }
}

/// Why a text is no fixed-point number of some number of places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FixedPointError {
    NotDecimal,
    TooFine,
    TooLarge,
}

/// Reads a plain decimal number as a whole number of 10^-`places`, exactly or not at all.
pub(crate) fn parse_fixed_point(text: &str, places: usize) -> Result<i128, FixedPointError> {
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit());
    if !all_digits || (whole.is_empty() && fraction.is_empty()) {
        return Err(FixedPointError::NotDecimal);
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > places {
        return Err(FixedPointError::TooFine);
    }
    let padding = std::iter::repeat_n(b'0', places - fraction.len());
    let mut value: i128 = 0;
    for digit in whole.bytes().chain(fraction.bytes()).chain(padding) {
        let digit = i128::from(digit - b'0');
        // Built up with its sign, so that the lowest number is in reach.
        value = value
            .checked_mul(10)
            .and_then(|value| value.checked_add(if negative { -digit } else { digit }))
            .ok_or(FixedPointError::TooLarge)?;
    }
    Ok(value)
}

/// A decimal string, since a JSON number would pass through floating point in most readers.
impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn usd(text: &str) -> Money {
        text.parse().unwrap()
    }

    #[test]
    fn shows_exact_decimals() {
        for text in ["0", "12", "0.0002595", "-0.5", "1000000", "0.000000000001", "-3.000000000001"] {
            assert_eq!(usd(text).to_string(), text);
        }
        assert_eq!(usd("+2.50").to_string(), "2.5");
        assert_eq!(usd("100").to_string(), "100");
        assert_eq!(usd(".5").to_string(), "0.5");
        assert_eq!(format!("{:?} {:?}", usd("0.0002595"), usd("-1")), "$0.0002595 -$1");
    }

    #[test]
    fn rounds_only_when_asked_to() {
        assert_eq!(format!("{:.2}", usd("1.005")), "1.00");
        assert_eq!(format!("{:.2}", usd("1.015")), "1.02");
        assert_eq!(format!("{:.2}", usd("1.0150001")), "1.02");
        assert_eq!(format!("{:.2}", usd("7")), "7.00");
        assert_eq!(format!("{:.0}", usd("9.5")), "10");
        assert_eq!(format!("{:.14}", usd("0.1")), "0.10000000000000");
        assert_eq!(format!("{:.2}", usd("-0.001")), "0.00");
        assert_eq!(format!("{:>8.2}|{:<6}|", usd("1.5"), usd("2")), "    1.50|2     |");
    }

    #[test]
    fn reads_exactly_or_not_at_all() {
        for text in ["", ".", "-", "1e3", "$1", "1,5", " 1", "1.2.3", "--1", "0x1", "१"] {
            assert_eq!(text.parse::<Money>(), Err(ParseMoneyError::NotDecimal(text.to_owned())), "{text}");
        }
        assert!(matches!("0.0000000000001".parse::<Money>(), Err(ParseMoneyError::TooFine(_))));
        assert_eq!(usd("0.5000000000000000000"), usd("0.5"));
        assert!(matches!("1000000000000000000000000000".parse::<Money>(), Err(ParseMoneyError::TooLarge(_))));
        assert_eq!(usd(&Money::from_pico_usd(i128::MIN).to_string()).pico_usd(), i128::MIN);
    }

    #[test]
    fn operators_stop_at_the_ends() {
        assert_eq!(Money::MAX + usd("1"), Money::MAX);
        assert_eq!(Money::MAX * 2, Money::MAX);
        assert_eq!(Money::MAX.checked_add(usd("1")), None);
        assert_eq!([usd("0.1"), usd("0.2")].iter().sum::<Money>(), usd("0.3"));
    }

    #[test]
    fn halves_go_to_even() {
        assert_eq!([25, 35, 26, 24].map(|amount| div_half_even(amount, 10)), [2, 4, 3, 2]);
        assert_eq!(div_half_even(1, 3), 0);
        assert_eq!(div_half_even(2, 3), 1);
    }

    proptest! {
        #[test]
        fn text_round_trips(pico: i128) {
            let money = Money::from_pico_usd(pico);
            prop_assert_eq!(money.to_string().parse(), Ok(money));
            let json = serde_json::to_string(&money).unwrap();
            prop_assert_eq!(&json, &format!("\"{money}\""));
            prop_assert_eq!(serde_json::from_str::<Money>(&json).unwrap(), money);
        }

        #[test]
        fn text_is_shortest(pico: i128) {
            let text = Money::from_pico_usd(pico).to_string();
            prop_assert!(!text.contains('.') || !text.ends_with(['0', '.']));
        }

        #[test]
        fn parsing_never_panics(text: String) {
            let _ = text.parse::<Money>();
        }

        #[test]
        fn sums_are_exact(amounts in proptest::collection::vec(any::<i64>(), 0..20), count: u32) {
            let sum: Money = amounts.iter().map(|&pico| Money::from_pico_usd(pico.into())).sum();
            prop_assert_eq!(sum.pico_usd(), amounts.iter().map(|&pico| i128::from(pico)).sum::<i128>());
            let product = sum * u64::from(count);
            prop_assert_eq!(product.pico_usd(), sum.pico_usd() * i128::from(count));
            prop_assert_eq!(product - sum + sum, product);
        }

        #[test]
        fn order_is_that_of_the_amounts(a: i64, b: i64) {
            let (x, y) = (Money::from_pico_usd(a.into()), Money::from_pico_usd(b.into()));
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
        }
    }
}
