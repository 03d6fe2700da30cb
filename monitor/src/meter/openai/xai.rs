//! xAI counts reasoning beside the completion, which its total gives away; everybody else counts it inside.

use super::{Counted, Node};

pub fn read(_usage: &Node, counted: &mut Counted) {
    let beside = counted.input.saturating_add(counted.output).saturating_add(counted.reasoning);
    if counted.reasoning > 0 && counted.total == beside {
        counted.output = counted.output.saturating_add(counted.reasoning);
    }
}
