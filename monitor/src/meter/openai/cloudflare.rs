//! Workers AI of Cloudflare: the model is in the path, and an envelope around the answer ("Execute AI model" in its API reference).

use super::{Node, split_rarely};

pub fn model_in_path(path: &str) -> Option<&str> {
    let (_, model) = split_rarely(path, "/ai/run/")?;
    Some(model).filter(|model| !model.is_empty())
}

/// What is in the envelope, if there is one.
pub fn unwrapped(answer: &Node) -> Option<&Node> {
    let result = answer.get("result").filter(|_| answer.get("success").is_some())?;
    result.get("usage").and(Some(result))
}
