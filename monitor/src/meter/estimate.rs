//! Counting tokens ourselves, where the provider does not say.

use std::sync::LazyLock;

use tiktoken_rs::CoreBPE;

use super::{json::Observer, usage::TokenCount};

/// Text of one direction of an exchange: all of it is measured, a bounded part is kept until the exchange ends, in memory only.
#[derive(Debug, Default)]
pub struct Text {
    kept: Vec<u8>,
    bytes: u64,
    /// Messages, which providers frame with tokens of their own.
    messages: u64,
}

/// Bytes that are kept. What is longer is counted by the density of what was kept.
const KEPT: usize = 256 * 1024;
/// Tokens around each chat message (role and separators), and before the answer, as OpenAI documents for its chat models.
const PER_MESSAGE: TokenCount = 4;
const PER_ANSWER: TokenCount = 3;
/// Bytes of English text per token: good enough for a running estimate, which the tokenizer replaces.
const BYTES_PER_TOKEN: u64 = 4;
/// Bytes without a space after which a piece is cut anyway.
const LONGEST_PIECE: usize = 4096;

/// Members whose strings are text that a model reads or writes. Others are identifiers, settings, or binary data.
const TEXT_MEMBERS: [&str; 27] = [
    "content",
    "delta",
    "text",
    "prompt",
    "input",
    "system",
    "instructions",
    "arguments",
    "partial_json",
    "thinking",
    "reasoning",
    "reasoning_content",
    "refusal",
    "completion",
    "description",
    "output",
    "response",
    "inputs",
    "inputText",
    "outputText",
    "generation",
    "generated_text",
    "query",
    "name",
    "title",
    "enum",
    "required",
];

impl Observer for Text {
    fn begin(&mut self, member: &str) {
        self.messages += u64::from(member == "role");
    }

    fn piece(&mut self, member: &str, text: &[u8]) {
        if !TEXT_MEMBERS.contains(&member) {
            return;
        }
        self.bytes = self.bytes.saturating_add(text.len() as u64);
        let room = KEPT.saturating_sub(self.kept.len());
        self.kept.extend_from_slice(text.get(..text.len().min(room)).unwrap_or_default());
    }
}

impl Text {
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// A guess that costs nothing, for a call in flight.
    pub fn rough_tokens(&self) -> TokenCount {
        self.bytes / BYTES_PER_TOKEN + self.messages * PER_MESSAGE
    }

    /// Tokens of a prompt for this model, with what frames its messages.
    pub fn prompt_tokens(&self, model: &str) -> TokenCount {
        let framing = if self.messages == 0 { 0 } else { self.messages * PER_MESSAGE + PER_ANSWER };
        self.tokens(model) + framing
    }

    /// Tokens of the text alone.
    pub fn tokens(&self, model: &str) -> TokenCount {
        let kept = String::from_utf8_lossy(&self.kept);
        let tokenizer = Tokenizer::of(model);
        let counted = tokenizer.count(&kept);
        match self.kept.len() as u64 {
            0 => 0,
            kept if kept < self.bytes => {
                u64::try_from(u128::from(counted) * u128::from(self.bytes) / u128::from(kept)).unwrap_or(u64::MAX)
            }
            _ => counted,
        }
    }
}

/// A tokenizer, and how its counts relate to the model's own.
struct Tokenizer {
    encoder: &'static CoreBPE,
    /// The model's tokens for 100 of the encoder's.
    percent: u64,
}

static O200K: LazyLock<&'static CoreBPE> = LazyLock::new(tiktoken_rs::o200k_base_singleton);
static CL100K: LazyLock<&'static CoreBPE> = LazyLock::new(tiktoken_rs::cl100k_base_singleton);

/// Loads the vocabularies, which takes some hundred milliseconds, before the first call needs them.
pub fn load_vocabularies() {
    LazyLock::force(&O200K);
    LazyLock::force(&CL100K);
}

impl Tokenizer {
    fn of(model: &str) -> Self {
        let model = model.rsplit('/').next().unwrap_or(model);
        let older = ["gpt-4-", "gpt-3.5", "gpt-35", "text-embedding", "davinci", "babbage"];
        if model == "gpt-4" || older.iter().any(|prefix| model.starts_with(prefix)) {
            return Self { encoder: *CL100K, percent: 100 };
        }
        Self { encoder: *O200K, percent: 100 }
    }

    /// Text is cut at spaces into pieces of a bounded length: the encoder's work on one piece grows faster than its length.
    fn count(&self, text: &str) -> TokenCount {
        let mut tokens = 0_usize;
        let mut rest = text;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(piece_end(rest));
            tokens += self.encoder.encode_ordinary(piece).len();
            rest = after;
        }
        (tokens as u64).saturating_mul(self.percent) / 100
    }
}

/// Just before the last space within the longest piece, else at a character's end.
fn piece_end(text: &str) -> usize {
    if text.len() <= LONGEST_PIECE {
        return text.len();
    }
    let window = text.floor_char_boundary(LONGEST_PIECE);
    match text.get(..window).and_then(|piece| piece.rfind(' ')) {
        Some(space) if space > 0 => space,
        _ => window.max(1),
    }
}

#[cfg(test)]
mod tests {
    use super::{KEPT, Text};
    use crate::meter::json::{Observer as _, Skimmer};

    #[test]
    fn counts_text_and_not_identifiers() {
        let mut text = Text::default();
        let body = br#"{"model": "gpt-3.5-turbo", "messages": [{"role": "user", "content": "Tell me a joke about opentelemetry"}], "user": "x-1234567890"}"#;
        Skimmer::read(body, &mut text);
        // What OpenAI reported for this prompt.
        assert_eq!(text.prompt_tokens("gpt-3.5-turbo-0125"), 15);
    }

    #[test]
    fn long_text_is_counted_by_its_density() {
        let mut text = Text::default();
        for _ in 0..8 {
            text.piece("content", " word".repeat(KEPT / 10).as_bytes());
        }
        let exact = 8 * (KEPT / 10) as u64;
        let counted = text.tokens("gpt-4o");
        assert!(counted.abs_diff(exact) * 100 <= exact, "{counted} for {exact}");
    }

    #[test]
    fn text_without_spaces_does_not_take_for_ever() {
        let mut text = Text::default();
        text.piece("content", "a".repeat(KEPT).as_bytes());
        assert!(text.tokens("gpt-4o") > 1000);
    }
}
