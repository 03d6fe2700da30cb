//! `tollgate top`: what tasks spend, as it happens, at a terminal.
//!
//! In: what the API says (`GET /v1/status`, `GET /v1/tasks/{task}/processes`), and keys. Out: a screen, and orders to the API.
//! `link.rs` asks the daemon on a thread of its own, `model.rs` is all that is known, `keys.rs` what keys do to it, `draw.rs` what of it is seen
//! (with `tree.rs` and `text.rs`), `screen.rs` the loop around them.
//!
//! **Invariant:** what is drawn is a pure function of the model. All text is hostile: what would move the cursor, change the direction of
//! writing or have no width is shown as its code point. An order goes to the task that was named on the screen, whatever has moved since.
#![forbid(unsafe_code)]

mod draw;
mod keys;
mod link;
mod model;
mod screen;
#[cfg(test)]
mod tests;
mod text;
mod tree;

use std::time::Duration;

pub use draw::Look;
pub use screen::{End, run};
pub use text::clean;

use crate::api::client::{Client, ClientError};

/// One frame as plain text, `width` columns wide and as high as it must be.
///
/// # Errors
/// When the daemon does not answer.
pub async fn once(client: &Client, width: u16) -> Result<String, ClientError> {
    let mut model = model::Model::default();
    let seen = link::look(client, None).await?;
    model.seen(seen, Duration::ZERO);
    if let Some(task) = model.selected() {
        // Its processes are asked for by its name, which is known only now.
        model.processes(link::processes(client, &task).await?);
    }
    Ok(draw::plain(&model, width))
}
