//! Groq puts the usage of a stream beside the usual place, or there only.

use super::Node;

pub fn usage(message: &Node) -> Option<&Node> {
    message.path(&["x_groq", "usage"])
}
