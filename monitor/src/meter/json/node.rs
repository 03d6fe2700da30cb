//! A JSON value, as it is kept.

use compact_str::CompactString;

use crate::price::Money;

/// A JSON value, pruned. Names, numbers and words are short: up to 24 bytes they are kept in place, without an allocation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Node {
    #[default]
    Null,
    Bool(bool),
    /// As written: amounts may be finer than a float.
    Number(CompactString),
    /// At most [`TEXT`](super::TEXT) bytes of it.
    String(CompactString),
    /// At most [`ITEMS`](super::ITEMS) of them.
    Array(Vec<Node>),
    Object(Vec<(CompactString, Node)>),
}

impl Node {
    pub fn get(&self, name: &str) -> Option<&Self> {
        let Self::Object(members) = self else { return None };
        // The last one counts when a name is repeated, as in most parsers.
        members
            .iter()
            .rev()
            .find(|(member, _)| &**member == name)
            .map(|(_, value)| value)
            .filter(|value| !matches!(value, Self::Null))
    }

    pub fn path(&self, names: &[&str]) -> Option<&Self> {
        names.iter().try_fold(self, |node, name| node.get(name))
    }

    pub fn text(&self) -> Option<&str> {
        if let Self::String(text) = self { Some(text) } else { None }
    }

    /// Members of an object, in order.
    pub fn members(&self) -> impl Iterator<Item = (&str, &Self)> {
        let members = if let Self::Object(members) = self { members.as_slice() } else { &[] };
        members.iter().map(|(name, value)| (&**name, value))
    }

    /// Whether there is a member of that name, be it null.
    pub fn has(&self, name: &str) -> bool {
        self.members().any(|(member, _)| member == name)
    }

    pub fn items(&self) -> &[Self] {
        if let Self::Array(items) = self { items } else { &[] }
    }

    pub fn is_true(&self) -> bool {
        matches!(self, Self::Bool(true))
    }

    pub fn number(&self) -> Option<&str> {
        if let Self::Number(text) = self { Some(text) } else { None }
    }

    /// A count: a whole number that is not negative, also when written like `12.0`.
    pub fn count(&self) -> Option<u64> {
        let text = self.number()?;
        let whole = text
            .split_once('.')
            .map_or(text, |(whole, rest)| if rest.bytes().all(|byte| byte == b'0') { whole } else { "" });
        whole.parse().ok()
    }

    /// A number that is not negative, up to the next whole one.
    pub fn rounded_up(&self) -> Option<u64> {
        let (whole, fraction) = self.number()?.split_once('.').unwrap_or((self.number()?, ""));
        let whole: u64 = whole.parse().ok()?;
        Some(whole + u64::from(fraction.bytes().any(|byte| byte != b'0')))
    }

    /// An amount in USD, to the next pico-USD: providers write floats, like `5.4e-05` or with more places than there are.
    pub fn usd(&self) -> Option<Money> {
        let text = self.number()?;
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let exponent =
            exponent.parse::<i32>().ok()?.checked_sub(i32::try_from(fraction.len()).ok()?)?.checked_add(12)?;
        let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
        let scale = |exponent: u32| 10_i128.checked_pow(exponent);
        let pico = match u32::try_from(exponent) {
            Ok(up) => digits.checked_mul(scale(up)?)?,
            // Half up; what is far below a pico-USD is nothing.
            Err(_) => scale(exponent.unsigned_abs()).map_or(0, |unit| (digits + unit / 2).div_euclid(unit)),
        };
        Some(Money::from_pico_usd(pico))
    }

    /// The count of that name, 0 where there is none.
    pub fn count_of(&self, name: &str) -> u64 {
        self.get(name).and_then(Self::count).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::Node;

    #[test]
    fn amounts_may_be_written_as_floats() {
        let usd = |text: &str| Node::Number(text.into()).usd().map(|money| money.to_string());
        for (text, amount) in [
            ("0.00012345", "0.00012345"),
            ("5.4e-05", "0.000054"),
            ("1E2", "100"),
            ("0.0000123456789016", "0.000012345679"),
            ("1e-40", "0"),
            ("0", "0"),
        ] {
            assert_eq!(usd(text).as_deref(), Some(amount), "{text}");
        }
        assert_eq!((usd("1e99"), usd("x")), (None, None));
        assert_eq!(Node::Number("12.01".into()).rounded_up(), Some(13));
    }

    #[test]
    fn counts_are_whole_numbers() {
        let count = |text: &str| Node::Number(text.into()).count();
        assert_eq!(
            (count("12"), count("12.0"), count("12.5"), count("-1"), count("1e3")),
            (Some(12), Some(12), None, None, None)
        );
    }
}
