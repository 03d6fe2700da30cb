//! Exchanges in, usage out.
//!
//! [`Meter`] follows one exchange and says in the end what it used: exactly what the provider reported, in disjoint buckets, or an
//! estimate that says so. Which API it is, is told by the shape of request and answer, under any host name: base URLs point anywhere.
//!
//! **Invariant:** pure; one file per API ([`dialect`]), its quirks there and nowhere else; nothing that was not reported by the provider, or
//! that was read across lost bytes, is called [`Basis::Measured`].
#![forbid(unsafe_code)]

mod anthropic;
mod batch;
mod bedrock;
mod bedrock_agents;
mod cohere;
mod dialect;
mod estimate;
mod exchange;
mod google;
mod huggingface;
mod json;
mod ollama;
mod openai;
mod prints;
mod provider;
mod repeat;
mod socket;
pub mod tool;
mod usage;

pub use dialect::{Part, STEPS};
pub use estimate::{has_public_vocabulary, load_vocabularies};
pub use exchange::{Billing, Kind, Meter, Metered};
pub use prints::{Key, Prompt, ToolAsk};
pub use provider::at_host as provider_at;
pub use socket::{CallNumber, Socket};
pub use usage::{Basis, Bucket, TokenCount, Unit, Units, Usage};
