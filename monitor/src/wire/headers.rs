//! Header fields, as all versions of HTTP have them.

use compact_str::CompactString;

/// Header fields of a message, names in lower case, in order. Fields that carry secrets (`authorization`, `x-api-key`, `cookie`, …) are
/// dropped while parsing and cannot be found here.
#[derive(Debug, Clone, Default)]
pub struct Headers(Vec<(CompactString, CompactString)>);

impl Headers {
    /// Value of the first field of that name (in lower case).
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Adds a field, unless it is a secret.
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        let mut name = text(name);
        name.make_ascii_lowercase();
        if !is_secret(&name) {
            let value = text(value);
            let trimmed = value.trim();
            let value = if trimmed.len() == value.len() { value } else { trimmed.into() };
            self.0.push((name, value));
        }
    }

    /// The media type of the body, without parameters, in lower case.
    pub fn media_type(&self) -> String {
        let value = self.get("content-type").unwrap_or_default();
        value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
    }
}

fn text(bytes: &[u8]) -> CompactString {
    std::str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes).into(), CompactString::new)
}

impl<'a> FromIterator<(&'a [u8], &'a [u8])> for Headers {
    fn from_iter<T: IntoIterator<Item = (&'a [u8], &'a [u8])>>(fields: T) -> Self {
        let mut headers = Self::default();
        for (name, value) in fields {
            headers.push(name, value);
        }
        headers
    }
}

/// Fields whose values must not be kept, not even in memory.
pub fn is_secret(name: &str) -> bool {
    const NAMES: [&str; 6] =
        ["cookie", "set-cookie", "x-api-key", "api-key", "x-goog-api-key", "ocp-apim-subscription-key"];
    NAMES.contains(&name) || has_secret_part(name.as_bytes()) || name.ends_with("-auth-token")
}

/// Looks for the parts at once: this is asked of every field.
fn has_secret_part(name: &[u8]) -> bool {
    (0..name.len()).any(|at| match name.get(at..).unwrap_or_default() {
        rest @ [b'a', ..] => rest.starts_with(b"authorization") || rest.starts_with(b"access-token"),
        rest @ [b's', ..] => rest.starts_with(b"secret") || rest.starts_with(b"security-token"),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Headers, is_secret};

    #[test]
    fn fields_are_kept_in_lower_case_and_without_space_around() {
        let mut headers = Headers::default();
        headers.push(b"X-Name", "  a \u{a0}\t".as_bytes());
        headers.push(b"x-name", b"\xff b");
        headers.push(b"X-Long-Name-Of-A-Field-That-Is-Not-Short", &[b'v'; 100]);
        assert_eq!(headers.all("x-name").collect::<Vec<_>>(), ["a", "\u{fffd} b"]);
        assert_eq!(headers.get("x-long-name-of-a-field-that-is-not-short").map(str::len), Some(100));
        assert_eq!(headers.iter().count(), 3);
    }

    #[test]
    fn secrets_are_dropped() {
        let mut headers = Headers::default();
        for name in ["Authorization", "Proxy-Authorization", "Cookie", "X-Amz-Security-Token", "X-My-Secret-Thing"] {
            headers.push(name.as_bytes(), b"x");
        }
        assert_eq!(headers.iter().count(), 0);
    }

    proptest! {
        #[test]
        fn secret_parts_are_found_anywhere(
            before in "[a-z-]{0,8}", part in "authorization|secret|security-token|access-token|acces|auth|", after in "[a-z-]{0,8}"
        ) {
            let name = format!("{before}{part}{after}");
            let parts = ["authorization", "secret", "security-token", "access-token"];
            if parts.iter().any(|part| name.contains(part)) {
                prop_assert!(is_secret(&name));
            } else if !name.ends_with("-auth-token") && !name.ends_with("api-key") && !name.contains("cookie") {
                prop_assert!(!is_secret(&name) || name == "ocp-apim-subscription-key");
            }
        }
    }
}
