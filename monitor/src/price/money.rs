//! Amounts of money.

use std::{fmt, iter::Sum, ops, str::FromStr};

use serde::{Deserialize, Serialize};

/// An amount in pico-USD (10⁻¹² USD): prices per token are whole numbers of them, so that sums are exact.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Money(i128);

/// Decimal places of a pico-USD.
const PLACES: usize = 12;
const PICO_PER_USD: i128 = 1_000_000_000_000;

/// Why a text is not an amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMoney {
    #[error("`{0}` is not an amount in USD: write it like 2, 0.05 or 12.50")]
    NotDecimal(String),
    #[error("`{0}` is finer than a pico-USD (12 decimal places)")]
    TooFine(String),
    #[error("`{0}` is too large")]
    TooLarge(String),
}

impl Money {
    pub const ZERO: Self = Self(0);
    pub const PICO_PER_USD: i128 = PICO_PER_USD;

    pub const fn from_pico_usd(pico: i128) -> Self {
        Self(pico)
    }

    pub const fn pico_usd(self) -> i128 {
        self.0
    }
}

impl fmt::Display for Money {
    /// Exact decimal USD without trailing zeros: `0.0002595`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let pico = self.0.unsigned_abs();
        let unit = Self::PICO_PER_USD.unsigned_abs();
        let (whole, fraction) = (pico / unit, pico % unit);
        if fraction == 0 {
            return write!(f, "{sign}{whole}");
        }
        let digits = format!("{fraction:0PLACES$}");
        write!(f, "{sign}{whole}.{}", digits.trim_end_matches('0'))
    }
}

impl fmt::Debug for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "${self}")
    }
}

impl FromStr for Money {
    type Err = InvalidMoney;

    fn from_str(text: &str) -> Result<Self, InvalidMoney> {
        let not_decimal = || InvalidMoney::NotDecimal(text.chars().take(40).collect());
        let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if (whole.is_empty() && fraction.is_empty()) || !all_digits(whole) || !all_digits(fraction) {
            return Err(not_decimal());
        }
        let fraction = fraction.trim_end_matches('0');
        if fraction.len() > PLACES {
            return Err(InvalidMoney::TooFine(text.chars().take(40).collect()));
        }
        let too_large = || InvalidMoney::TooLarge(text.chars().take(40).collect());
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| too_large())? };
        let fraction: i128 = format!("{fraction:0<PLACES$}").parse().map_err(|_| not_decimal())?;
        let pico =
            whole.checked_mul(Self::PICO_PER_USD).and_then(|pico| pico.checked_add(fraction)).ok_or_else(too_large)?;
        Ok(Self(if negative { -pico } else { pico }))
    }
}

impl TryFrom<String> for Money {
    type Error = InvalidMoney;

    fn try_from(text: String) -> Result<Self, InvalidMoney> {
        text.parse()
    }
}

impl From<Money> for String {
    fn from(money: Money) -> Self {
        money.to_string()
    }
}

// 2¹²⁷ pico-USD are 10²⁶ USD; arithmetic saturates there rather than wrap, because token counts come from outside.
impl ops::Add for Money {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl ops::AddAssign for Money {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl ops::Sub for Money {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Sum for Money {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, |sum, amount| sum + amount)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{InvalidMoney, Money};

    #[test]
    fn reads_and_writes_exact_decimals() {
        for (text, pico) in [
            ("0", 0),
            ("2", 2_000_000_000_000),
            ("0.0002595", 259_500_000),
            ("-1.5", -1_500_000_000_000),
            ("0.000000000001", 1),
        ] {
            let money: Money = text.parse().expect(text);
            assert_eq!(money.pico_usd(), pico);
            assert_eq!(money.to_string(), text);
        }
        assert_eq!("2.00".parse::<Money>().map(|money| money.to_string()), Ok("2".to_owned()));
        assert_eq!(".5".parse::<Money>().map(|money| money.to_string()), Ok("0.5".to_owned()));
    }

    #[test]
    fn refuses_what_is_not_an_exact_amount() {
        for bad in ["", ".", "-", "1e3", "$2", "2,50", "NaN", "1.2.3", "٣"] {
            assert!(matches!(bad.parse::<Money>(), Err(InvalidMoney::NotDecimal(_))), "{bad}");
        }
        assert!(matches!("0.0000000000001".parse::<Money>(), Err(InvalidMoney::TooFine(_))));
        assert!(matches!("9".repeat(40).parse::<Money>(), Err(InvalidMoney::TooLarge(_))));
    }

    proptest! {
        #[test]
        fn text_and_amount_are_the_same(pico in any::<i64>()) {
            let money = Money::from_pico_usd(pico.into());
            prop_assert_eq!(money.to_string().parse::<Money>(), Ok(money));
        }
    }
}
