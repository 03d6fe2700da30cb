//! Who answers at a host.

/// Who answers at a domain, and at everything below it.
fn at_domain(domain: &str) -> Option<&'static str> {
    let name = match domain {
        // The second is Codex with a login.
        "api.openai.com" | "chatgpt.com" => "openai",
        "api.anthropic.com" => "anthropic",
        "openai.azure.com"
        | "azure-api.net"
        | "cognitiveservices.azure.com"
        | "services.ai.azure.com"
        | "models.ai.azure.com" => "azure",
        "api.deepseek.com" => "deepseek",
        "openrouter.ai" => "openrouter",
        "api.groq.com" => "groq",
        "api.x.ai" => "xai",
        "api.together.xyz" | "api.together.ai" => "together",
        "api.fireworks.ai" => "fireworks",
        "api.perplexity.ai" => "perplexity",
        "api.moonshot.ai" | "api.moonshot.cn" => "moonshotai",
        "api.mistral.ai" | "codestral.mistral.ai" => "mistral",
        "api.voyageai.com" => "voyageai",
        "generativelanguage.googleapis.com" | "cloudcode-pa.googleapis.com" => "google",
        "aiplatform.googleapis.com" => "vertex",
        "api.cohere.com" | "api.cohere.ai" => "cohere",
        "api.cerebras.ai" => "cerebras",
        "router.huggingface.co" | "api-inference.huggingface.co" => "huggingface",
        "api.githubcopilot.com" => "github-copilot",
        "api.z.ai" => "zai",
        "open.bigmodel.cn" => "zhipuai",
        "api.minimax.io" | "api.minimaxi.com" => "minimax",
        "api.novita.ai" => "novita",
        "inference.baseten.co" => "baseten",
        "api.cloudflare.com" | "gateway.ai.cloudflare.com" => "cloudflare",
        "cloud.databricks.com" | "azuredatabricks.net" => "databricks",
        _ => return None,
    };
    Some(name)
}

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
    let below = memchr::memchr_iter(b'.', host.as_bytes()).filter_map(|dot| host.get(dot + 1..));
    std::iter::once(host).chain(below).find_map(at_domain)
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
