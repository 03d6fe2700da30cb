//! Decides what a call's answer will be, before either API puts it in its own words.

use serde_json::Value;

use super::{Config, directive::Directive, random::Random, truth::Api};
use crate::Usage;

/// Words that the usual tokenizers count as one token each, with the space before them.
const WORDS: [&str; 48] = [
    "the",
    "time",
    "year",
    "people",
    "way",
    "day",
    "man",
    "thing",
    "woman",
    "life",
    "child",
    "world",
    "school",
    "state",
    "family",
    "student",
    "group",
    "country",
    "problem",
    "hand",
    "part",
    "place",
    "case",
    "week",
    "company",
    "system",
    "program",
    "question",
    "work",
    "government",
    "number",
    "night",
    "point",
    "home",
    "water",
    "room",
    "mother",
    "area",
    "money",
    "story",
    "fact",
    "month",
    "lot",
    "right",
    "study",
    "book",
    "eye",
    "job",
];

/// Aliases and the dated names that the real APIs answer with.
const DATED: [(&str, &str); 8] = [
    ("gpt-4o-mini", "gpt-4o-mini-2024-07-18"),
    ("gpt-4o", "gpt-4o-2024-08-06"),
    ("gpt-4.1-mini", "gpt-4.1-mini-2025-04-14"),
    ("gpt-4.1", "gpt-4.1-2025-04-14"),
    ("claude-haiku-4-5", "claude-haiku-4-5-20251001"),
    ("claude-sonnet-4-5", "claude-sonnet-4-5-20250929"),
    ("claude-sonnet-4-0", "claude-sonnet-4-20250514"),
    ("claude-opus-4-1", "claude-opus-4-1-20250805"),
];

/// More than any real answer, so that a typing error does not fill the memory.
const MAX_OUTPUT: u64 = 1_000_000;

/// What an answer will say and cost.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) id: String,
    pub(super) request_id: String,
    pub(super) model: String,
    pub(super) stream: bool,
    pub(super) words: Vec<&'static str>,
    pub(super) chunk_tokens: usize,
    pub(super) usage: Usage,
    /// Whether the limit of the request cut the answer short.
    pub(super) at_limit: bool,
    pub(super) tool_call: bool,
    pub(super) report_usage: bool,
    /// For the small ways in which answers of one API differ.
    pub(super) random: Random,
}

impl Plan {
    pub(super) fn draw(api: Api, body: &Value, directive: &Directive, config: &Config, random: &mut Random) -> Self {
        let mut identity = Random::from_entropy();
        let id = match api {
            Api::OpenaiChat => format!("chatcmpl-{}", identity.letters(29)),
            Api::OpenaiResponses => format!("resp_{}", identity.letters(48)),
            Api::Gemini | Api::Bedrock => identity.letters(22),
            Api::AnthropicMessages => format!("msg_01{}", identity.letters(22)),
        };
        let mut usage = draw_usage(api, directive, config, random);
        let limit = ["max_completion_tokens", "max_tokens"].iter().find_map(|limit| body[limit].as_u64());
        let at_limit = limit.is_some_and(|limit| limit < usage.output_total());
        if let (true, Some(limit)) = (at_limit, limit) {
            usage.reasoning = usage.reasoning.min(limit);
            usage.output_text = limit - usage.reasoning;
        }
        let mut words: Vec<_> = (0..usage.output_text).map(|_| random.pick(&WORDS)).collect();
        if let Some(bytes) = directive.answer_bytes {
            words.clear();
            let mut length = 0;
            while length < bytes {
                let word = random.pick(&WORDS);
                length += word.len() + 1;
                words.push(word);
            }
            usage.output_text = u64::try_from(words.len()).unwrap_or(u64::MAX);
        }
        let requested = body["model"].as_str().unwrap_or("unknown-model");
        let dated = DATED.iter().find(|(alias, _)| *alias == requested).map_or(requested, |(_, dated)| dated);
        // Mistral tells the usage of a stream without being asked; only OpenAI's chat completions have to be.
        let asked = api != Api::OpenaiChat
            || requested.starts_with("mistral")
            || body["stream_options"]["include_usage"] == true;
        let stream = body["stream"] == true;
        Self {
            id,
            request_id: format!("req_01{}", identity.letters(22)),
            model: dated.to_owned(),
            stream,
            words,
            chunk_tokens: usize::try_from(directive.chunk_tokens.unwrap_or(config.chunk_tokens).max(1)).unwrap_or(1),
            usage,
            at_limit,
            tool_call: directive.tool_call == Some(true),
            report_usage: (asked || !stream) && directive.no_usage != Some(true),
            random: random.clone(),
        }
    }

    /// The whole text.
    pub(super) fn text(&self) -> String {
        self.words.join(" ")
    }

    /// The text in the chunks it is streamed in, and what is billed once each is sent: reasoning comes before the text.
    pub(super) fn chunks(&self) -> impl Iterator<Item = (String, Usage)> + '_ {
        let mut spoken = 0;
        self.words.chunks(self.chunk_tokens).map(move |words| {
            let space = if spoken == 0 { "" } else { " " };
            spoken += words.len();
            let billed = Usage { output_text: u64::try_from(spoken).unwrap_or(u64::MAX), ..self.usage };
            (format!("{space}{}", words.join(" ")), billed)
        })
    }

    /// What is billed when the answer begins.
    pub(super) fn billed_at_start(&self) -> Usage {
        Usage { output_text: 0, reasoning: 0, ..self.usage }
    }
}

fn draw_usage(api: Api, directive: &Directive, config: &Config, random: &mut Random) -> Usage {
    let anthropic = api == Api::AnthropicMessages;
    let input = random.around(config.input_tokens);
    let cached = if random.one_in(2) { random.around(config.input_tokens) / 2 } else { 0 };
    let write_5m = if anthropic && random.one_in(3) { random.around(config.input_tokens) / 4 } else { 0 };
    let write_1h = if anthropic && random.one_in(8) { random.around(config.input_tokens) / 5 } else { 0 };
    // Converse does not tell reasoning apart.
    let reasoning = if api != Api::Bedrock && random.one_in(3) { random.around(config.output_tokens) / 3 } else { 0 };
    let output = random.around(config.output_tokens);
    let write = directive.cache_write.unwrap_or(write_5m);
    Usage {
        input_uncached: directive.input_tokens.unwrap_or(input),
        cache_read: directive.cached_tokens.unwrap_or(cached),
        cache_write: if anthropic { 0 } else { write },
        cache_write_5m: if anthropic { write } else { 0 },
        cache_write_1h: if anthropic { directive.cache_write_1h.unwrap_or(write_1h) } else { 0 },
        output_text: directive.output_tokens.unwrap_or(output).min(MAX_OUTPUT),
        reasoning: directive.reasoning_tokens.unwrap_or(reasoning),
    }
}
