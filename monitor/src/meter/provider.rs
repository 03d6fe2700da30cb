//! Who answers at a host.

/// Domains, with everything below them.
const DOMAINS: [(&str, &str); 40] = [
    ("api.openai.com", "openai"),
    // Codex with a login.
    ("chatgpt.com", "openai"),
    ("api.anthropic.com", "anthropic"),
    ("openai.azure.com", "azure"),
    ("azure-api.net", "azure"),
    ("cognitiveservices.azure.com", "azure"),
    ("services.ai.azure.com", "azure"),
    ("models.ai.azure.com", "azure"),
    ("api.deepseek.com", "deepseek"),
    ("openrouter.ai", "openrouter"),
    ("api.groq.com", "groq"),
    ("api.x.ai", "xai"),
    ("api.together.xyz", "together"),
    ("api.together.ai", "together"),
    ("api.fireworks.ai", "fireworks"),
    ("api.perplexity.ai", "perplexity"),
    ("api.moonshot.ai", "moonshotai"),
    ("api.moonshot.cn", "moonshotai"),
    ("api.mistral.ai", "mistral"),
    ("codestral.mistral.ai", "mistral"),
    ("api.voyageai.com", "voyageai"),
    ("generativelanguage.googleapis.com", "google"),
    ("cloudcode-pa.googleapis.com", "google"),
    ("aiplatform.googleapis.com", "vertex"),
    ("api.cohere.com", "cohere"),
    ("api.cohere.ai", "cohere"),
    ("api.cerebras.ai", "cerebras"),
    ("router.huggingface.co", "huggingface"),
    ("api-inference.huggingface.co", "huggingface"),
    ("api.githubcopilot.com", "github-copilot"),
    ("api.z.ai", "zai"),
    ("open.bigmodel.cn", "zhipuai"),
    ("api.minimax.io", "minimax"),
    ("api.minimaxi.com", "minimax"),
    ("api.novita.ai", "novita"),
    ("inference.baseten.co", "baseten"),
    ("api.cloudflare.com", "cloudflare"),
    ("gateway.ai.cloudflare.com", "cloudflare"),
    ("cloud.databricks.com", "databricks"),
    ("azuredatabricks.net", "databricks"),
];

/// `host` in lower case, with or without a port.
pub fn at_host(host: &str) -> Option<&'static str> {
    let host = host
        .rsplit_once(':')
        .map_or(host, |(name, port)| if port.bytes().all(|byte| byte.is_ascii_digit()) { name } else { host });
    if host.starts_with("bedrock") && (host.contains(".amazonaws.com") || host.ends_with(".api.aws")) {
        return Some("bedrock");
    }
    if host.ends_with("-aiplatform.googleapis.com") {
        return Some("vertex");
    }
    let is_below = |domain: &str| host == domain || host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
    DOMAINS.into_iter().find(|(domain, _)| is_below(domain)).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::at_host;

    #[test]
    fn hosts() {
        let name = at_host;
        assert_eq!(name("api.openai.com:443"), Some("openai"));
        assert_eq!(name("my-resource.openai.azure.com"), Some("azure"));
        assert_eq!(name("us-central1-aiplatform.googleapis.com"), Some("vertex"));
        assert_eq!(name("bedrock-runtime.eu-west-1.amazonaws.com"), Some("bedrock"));
        assert_eq!(name("bedrock-agent-runtime.us-east-1.amazonaws.com"), Some("bedrock"));
        assert_eq!(name("bedrock-mantle.us-east-1.api.aws"), Some("bedrock"));
        assert_eq!(name("evil-api.openai.com.example"), None);
        assert_eq!(name("notapi.openai.com"), None);
        assert_eq!(name("localhost:8443"), None);
    }
}
