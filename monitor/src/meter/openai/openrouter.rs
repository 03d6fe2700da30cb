//! OpenRouter reports its own price ("Usage Accounting" in its documentation).

use super::{Counted, Node};

pub fn read(usage: &Node, counted: &mut Counted) {
    let Some(cost) = usage.get("cost").and_then(Node::usd) else { return };
    // With a key of one's own, OpenRouter's fee and the bill of the provider behind it are two sums; else the first holds the second.
    let is_own_key = usage.get("is_byok").is_some_and(Node::is_true);
    let behind = usage.path(&["cost_details", "upstream_inference_cost"]).filter(|_| is_own_key).and_then(Node::usd);
    counted.cost = Some(cost + behind.unwrap_or_default());
}
