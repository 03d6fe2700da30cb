//! Families of models: whose tokens, and what is counted beside the text.
//!
//! OpenAI publishes its vocabularies and the form of its chat ("How to count tokens with tiktoken"). What others count is told by factors
//! that were fitted to one half of the recorded exchanges (`fit.rs`, a test, makes them again; `tests/estimate.rs` shows what is reached on
//! the other half), by the forms of chats that are published (Llama, Gemma), and by documentation
//! ("Pricing: tool use", "Vision", "Understanding and counting tokens").

use std::sync::LazyLock;

use tiktoken_rs::CoreBPE;

use super::{
    super::usage::TokenCount,
    media::{Image, Media},
};

static O200K: LazyLock<&'static CoreBPE> = LazyLock::new(tiktoken_rs::o200k_base_singleton);
static CL100K: LazyLock<&'static CoreBPE> = LazyLock::new(tiktoken_rs::cl100k_base_singleton);

/// Loads the vocabularies, which takes some hundred milliseconds, before the first call needs them.
pub fn load_vocabularies() {
    LazyLock::force(&O200K);
    LazyLock::force(&CL100K);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Vocabulary {
    O200k,
    Cl100k,
}

/// How tools are told to the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tools {
    /// As a TypeScript namespace.
    Namespace,
    /// As JSON, with a prompt of its own of so many tokens.
    Json(TokenCount),
}

/// How images are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Images {
    /// A base, and tiles of 512 pixels.
    Tiles { base: u64, tile: u64 },
    /// Patches of 32 pixels, at most 1536, times a factor in hundredths.
    Patches { percent: u64 },
    /// Pixels by so many.
    Pixels { per_token: u64 },
    /// 258 for each crop.
    Crops,
}

/// What a family counts.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// Whose it is.
    pub name: &'static str,
    vocabulary: Vocabulary,
    /// Its tokens for 1000 of the vocabulary's.
    pub per_mille: u64,
    /// Around each message, and once.
    pub per_message: TokenCount,
    pub per_prompt: TokenCount,
    /// Beside the text of an answer, and around each call of a tool in it.
    pub per_answer: TokenCount,
    pub per_response: TokenCount,
    pub per_call: TokenCount,
    /// Around each call in a prompt and its result.
    pub per_past_call: TokenCount,
    pub tools: Tools,
    /// What is counted of the JSON of tools, in hundredths.
    pub tools_percent: u64,
    /// The prompt that comes with a form for the answer, and with leave to think.
    pub form: TokenCount,
    /// What is told of a form, in hundredths of its JSON.
    pub form_percent: u64,
    pub thinking: TokenCount,
    images: Images,
    /// It thinks before it answers, and does not show what.
    pub is_hidden_thinker: bool,
}

/// Chat models of OpenAI before GPT-5.
const OPENAI: Family = Family {
    name: "openai",
    vocabulary: Vocabulary::O200k,
    per_mille: 1000,
    per_message: 4,
    per_prompt: 3,
    per_answer: 0,
    per_response: 1,
    per_call: 7,
    per_past_call: 7,
    tools: Tools::Namespace,
    tools_percent: 100,
    form: 3,
    form_percent: 80,
    thinking: 0,
    images: Images::Tiles { base: 85, tile: 170 },
    is_hidden_thinker: false,
};

/// A model of which nothing is known but its text.
const OTHER: Family = Family {
    name: "other",
    per_mille: 1030,
    per_message: 4,
    per_prompt: 4,
    per_answer: 1,
    per_call: 20,
    per_past_call: 20,
    tools: Tools::Json(40),
    images: Images::Pixels { per_token: 750 },
    ..OPENAI
};

const CLAUDE: Family = Family {
    name: "claude",
    per_mille: 1142,
    per_message: 4,
    per_prompt: 2,
    per_answer: 3,
    per_call: 38,
    tools: Tools::Json(346),
    form: 125,
    form_percent: 100,
    thinking: 29,
    per_past_call: 60,
    tools_percent: 109,
    ..OTHER
};

impl Family {
    /// Of a model by its name, in whichever spelling its seller uses.
    pub fn of(model: &str) -> Self {
        let name = model.to_ascii_lowercase();
        let has = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
        if has(&["claude"]) {
            claude(&name)
        } else if has(&["gemma"]) {
            // "Gemma formatting and system instructions".
            Self { name: "gemma", per_mille: 1040, per_message: 5, per_prompt: 4, per_answer: 1, ..OTHER }
        } else if has(&["gemini"]) {
            Self {
                name: "gemini",
                per_mille: 1000,
                per_message: 0,
                per_prompt: 1,
                per_answer: 0,
                tools: Tools::Json(0),
                images: Images::Crops,
                ..OTHER
            }
        } else if has(&["llama"]) {
            // Since 3.1 the form of its chat tells the date.
            let is_dated = has(&["-3.1", "3-1", "-3.2", "3-2", "-3.3", "3-3"]);
            Self {
                name: "llama",
                vocabulary: Vocabulary::Cl100k,
                per_mille: 1000,
                per_message: 5,
                // In Ollama, which has no dash in the names, it does not, and the begin of the text is not counted.
                per_prompt: if is_dated {
                    31
                } else if has(&["llama-"]) {
                    5
                } else {
                    4
                },
                per_answer: 1,
                ..OTHER
            }
        } else if has(&["nova"]) {
            Self {
                name: "nova",
                per_mille: 1030,
                per_message: 0,
                per_prompt: 0,
                per_answer: 0,
                per_call: 64,
                tools: Tools::Json(297),
                per_past_call: 52,
                tools_percent: 146,
                ..OTHER
            }
        } else if has(&["deepseek"]) {
            Self {
                name: "deepseek",
                vocabulary: Vocabulary::Cl100k,
                per_mille: 1010,
                per_message: 1,
                per_prompt: 2,
                ..OTHER
            }
        } else if has(&["titan"]) {
            Self {
                name: "titan",
                vocabulary: Vocabulary::Cl100k,
                per_mille: 936,
                per_message: 1,
                per_prompt: 2,
                per_answer: 2,
                ..OTHER
            }
        } else if has(&["command", "cohere"]) {
            // Billed without what frames them.
            Self {
                name: "cohere",
                per_mille: 1010,
                per_message: 0,
                per_prompt: 0,
                per_answer: 0,
                per_call: 2,
                tools: Tools::Json(0),
                per_past_call: 4,
                tools_percent: 44,
                ..OTHER
            }
        } else if has(&["mistral", "mixtral", "codestral", "ministral", "magistral", "devstral", "pixtral"]) {
            Self { name: "mistral", per_mille: 1080, per_message: 2, per_prompt: 2, ..OTHER }
        } else if has(&["gpt", "davinci", "babbage", "embedding-3", "embedding-ada", "chatgpt", "codex"])
            || is_o_series(&name)
        {
            openai(&name)
        } else {
            OTHER
        }
    }

    /// Whether the vocabulary is the model's own.
    pub fn is_public(&self) -> bool {
        self.name == OPENAI.name
    }

    /// Text is cut at spaces into pieces of a bounded length: the encoder's work on one piece grows faster than its length.
    pub fn count(&self, text: &str) -> TokenCount {
        let encoder = match self.vocabulary {
            Vocabulary::O200k => *O200K,
            Vocabulary::Cl100k => *CL100K,
        };
        let mut tokens = 0_usize;
        let mut rest = text;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(piece_end(rest));
            tokens += encoder.encode_ordinary(piece).len();
            rest = after;
        }
        (tokens as u64).saturating_mul(self.per_mille).saturating_add(500) / 1000
    }

    pub fn media(&self, media: &Media) -> TokenCount {
        let of_image = |image: &Image| self.image(*image);
        let images: u64 = media.images.iter().map(of_image).sum();
        let more = media.more_images.saturating_mul(of_image(&Image { size: None, is_coarse: false }));
        // A page has some 50 kB and 1500 tokens; a second of sound 16 kB and 32 tokens.
        images.saturating_add(more).saturating_add(media.documents * 3 / 100).saturating_add(media.sound / 500)
    }

    fn image(&self, image: Image) -> TokenCount {
        let (width, height) = image.size.unwrap_or(USUAL_IMAGE);
        let (width, height) = (u64::from(width.clamp(1, 65_535)), u64::from(height.clamp(1, 65_535)));
        match self.images {
            Images::Tiles { base, .. } if image.is_coarse => base,
            Images::Tiles { base, tile } => {
                // Within 2048 pixels, then the shorter side down to 768.
                let (width, height) = fit(width, height, width.max(height), 2048);
                let (width, height) = fit(width, height, width.min(height), 768);
                base + tile * width.div_ceil(512) * height.div_ceil(512)
            }
            Images::Patches { percent } => {
                let patches = (width.div_ceil(32) * height.div_ceil(32)).min(1536);
                (patches * percent).div_ceil(100)
            }
            Images::Pixels { per_token } => {
                let (width, height) = fit(width, height, width.max(height), 1568);
                (width * height).div_ceil(per_token).min(1600)
            }
            Images::Crops if width <= 384 && height <= 384 => 258,
            Images::Crops => 258 * width.div_ceil(768) * height.div_ceil(768),
        }
    }
}

/// Of an image whose size is not known.
const USUAL_IMAGE: (u32, u32) = (1024, 1024);

/// Scaled down so that a side is at most so long.
fn fit(width: u64, height: u64, side: u64, most: u64) -> (u64, u64) {
    if side <= most { (width, height) } else { ((width * most / side).max(1), (height * most / side).max(1)) }
}

fn is_o_series(name: &str) -> bool {
    let name = name.rsplit('/').next().unwrap_or(name);
    ["o1", "o3", "o4"]
        .iter()
        .any(|begin| name.strip_prefix(begin).is_some_and(|rest| rest.is_empty() || rest.starts_with('-')))
}

fn openai(name: &str) -> Family {
    let name = name.rsplit('/').next().unwrap_or(name);
    let older = ["gpt-4-", "gpt-3.5", "gpt-35", "text-embedding", "davinci", "babbage"];
    let vocabulary = if name == "gpt-4" || older.iter().any(|begin| name.starts_with(begin)) {
        Vocabulary::Cl100k
    } else {
        Vocabulary::O200k
    };
    let (is_mini, is_nano) = (name.contains("mini"), name.contains("nano"));
    let is_new = name.starts_with("gpt-5") || name.contains("codex");
    let images = match name {
        _ if is_nano => Images::Patches { percent: 246 },
        _ if name.starts_with("gpt-4o-mini") => Images::Tiles { base: 2833, tile: 5667 },
        _ if name.starts_with("o4-mini") => Images::Patches { percent: 172 },
        _ if is_mini => Images::Patches { percent: 162 },
        _ if is_new => Images::Tiles { base: 70, tile: 140 },
        _ if is_o_series(name) => Images::Tiles { base: 75, tile: 150 },
        _ => OPENAI.images,
    };
    let thinks = is_new || is_o_series(name) || name.contains("gpt-oss");
    Family {
        vocabulary,
        images,
        per_prompt: if thinks { 2 } else { OPENAI.per_prompt },
        // Its channels are counted with the answer.
        per_answer: if thinks { 9 } else { 0 },
        per_response: if thinks { 6 } else { 1 },
        is_hidden_thinker: thinks,
        ..OPENAI
    }
}

fn claude(name: &str) -> Family {
    // Tokens of the prompt that comes with tools.
    let tools = match name {
        _ if name.contains("claude-3-opus") => 530,
        _ if name.contains("claude-3-sonnet") => 159,
        _ if name.contains("claude-3-haiku") || name.contains("claude-3-5-haiku") => 264,
        _ if name.contains("claude-3-5-sonnet-20240620") => 294,
        _ => 346,
    };
    Family { tools: Tools::Json(tools), ..CLAUDE }
}

/// Bytes without a space after which a piece is cut anyway.
const LONGEST_PIECE: usize = 4096;

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
    use super::{Family, Image};

    fn image(model: &str, size: (u32, u32)) -> u64 {
        Family::of(model).image(Image { size: Some(size), is_coarse: false })
    }

    #[test]
    fn images_are_counted_as_their_makers_document_it() {
        // "Images and vision", "Vision", "Image understanding" of their makers.
        assert_eq!(image("gpt-4o", (1024, 1024)), 765);
        assert_eq!(image("gpt-4o", (2048, 4096)), 1105);
        assert_eq!(image("gpt-4o-mini", (512, 512)), 8500);
        assert_eq!(image("gpt-4.1-mini", (1024, 1024)), 1659);
        assert_eq!(image("claude-sonnet-4-5", (1000, 1000)), 1334);
        assert_eq!(image("gemini-2.5-flash", (384, 384)), 258);
        assert_eq!(image("gemini-2.5-flash", (1536, 768)), 516);
        let coarse = Family::of("gpt-4o").image(Image { size: None, is_coarse: true });
        assert_eq!(coarse, 85);
    }

    #[test]
    fn models_are_known_in_any_spelling() {
        let per_mille = |model: &str| Family::of(model).per_mille;
        assert_eq!(per_mille("us.anthropic.claude-3-5-sonnet-20240620-v1:0"), per_mille("claude-3-opus"));
        assert!(Family::of("openai/o3-mini").is_hidden_thinker);
        assert!(!Family::of("gpt-4o").is_hidden_thinker);
        assert_eq!(per_mille(""), 1030);
    }
}
