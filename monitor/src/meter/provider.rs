//! Who answers at a host.

/// A provider by the name of its host, and whether its own API is one that [`super::dialect`] does not know yet: then an answer that looks
/// familiar is not what it seems.
pub struct Provider {
    pub name: &'static str,
    pub is_foreign: bool,
}

/// Domains, with everything below them.
const DOMAINS: [(&str, &str, bool); 20] = [
    ("api.openai.com", "openai", false),
    ("api.anthropic.com", "anthropic", false),
    ("openai.azure.com", "azure", false),
    ("cognitiveservices.azure.com", "azure", false),
    ("services.ai.azure.com", "azure", false),
    ("api.deepseek.com", "deepseek", false),
    ("openrouter.ai", "openrouter", false),
    ("api.groq.com", "groq", false),
    ("api.x.ai", "xai", false),
    ("api.together.xyz", "together", false),
    ("api.fireworks.ai", "fireworks", false),
    ("api.perplexity.ai", "perplexity", false),
    ("api.moonshot.ai", "moonshotai", false),
    ("api.mistral.ai", "mistral", false),
    ("api.voyageai.com", "voyageai", false),
    ("generativelanguage.googleapis.com", "google", false),
    ("cloudcode-pa.googleapis.com", "google", false),
    ("aiplatform.googleapis.com", "vertex", false),
    ("api.cohere.com", "cohere", false),
    ("api.cohere.ai", "cohere", false),
];

/// `host` in lower case, with or without a port.
pub fn at_host(host: &str) -> Option<Provider> {
    let host = host
        .rsplit_once(':')
        .map_or(host, |(name, port)| if port.bytes().all(|byte| byte.is_ascii_digit()) { name } else { host });
    if host.starts_with("bedrock") && host.contains(".amazonaws.com") {
        // Agents and knowledge bases have an API of their own, whose answers hold those of several models.
        return Some(Provider { name: "bedrock", is_foreign: host.starts_with("bedrock-agent-runtime") });
    }
    if host.ends_with("-aiplatform.googleapis.com") {
        return Some(Provider { name: "vertex", is_foreign: false });
    }
    let is_below = |domain: &str| host == domain || host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
    DOMAINS
        .into_iter()
        .find(|(domain, _, _)| is_below(domain))
        .map(|(_, name, is_foreign)| Provider { name, is_foreign })
}

#[cfg(test)]
mod tests {
    use super::at_host;

    #[test]
    fn hosts() {
        let name = |host: &str| at_host(host).map(|provider| provider.name);
        assert_eq!(name("api.openai.com:443"), Some("openai"));
        assert_eq!(name("my-resource.openai.azure.com"), Some("azure"));
        assert_eq!(name("us-central1-aiplatform.googleapis.com"), Some("vertex"));
        assert_eq!(name("bedrock-runtime.eu-west-1.amazonaws.com"), Some("bedrock"));
        assert_eq!(name("evil-api.openai.com.example"), None);
        assert_eq!(name("notapi.openai.com"), None);
        assert_eq!(name("localhost:8443"), None);
    }
}
