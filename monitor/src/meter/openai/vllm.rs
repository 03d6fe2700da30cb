//! vLLM is told by a member that it adds to each choice: its name is not in any host's.

use super::{Node, Report};

pub fn recognize(answer: &Node, report: &mut Report) {
    let choice = answer.get("choices").and_then(|choices| choices.items().first());
    if choice.is_some_and(|choice| choice.has("stop_reason")) {
        report.server = Some("vllm");
    }
}
