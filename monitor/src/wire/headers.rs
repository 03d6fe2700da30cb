//! Header fields, as all versions of HTTP have them.

/// Header fields of a message, names in lower case, in order. Fields that carry secrets (`authorization`, `x-api-key`, `cookie`, …) are
/// dropped while parsing and cannot be found here.
#[derive(Debug, Clone, Default)]
pub struct Headers(Vec<(Box<str>, Box<str>)>);

impl Headers {
    /// Value of the first field of that name (in lower case).
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(field, _)| &**field == name).map(|(_, value)| &**value)
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(field, _)| &**field == name).map(|(_, value)| &**value)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Adds a field, unless it is a secret.
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        if !is_secret(&name) {
            self.0.push((name.into(), String::from_utf8_lossy(value).trim().into()));
        }
    }

    /// The media type of the body, without parameters, in lower case.
    pub fn media_type(&self) -> String {
        let value = self.get("content-type").unwrap_or_default();
        value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
    }
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
    const PARTS: [&str; 4] = ["authorization", "secret", "security-token", "access-token"];
    NAMES.contains(&name) || PARTS.iter().any(|part| name.contains(part)) || name.ends_with("-auth-token")
}
