//! Mistral counts the cache in a member of its own, tools that it runs beside the prompt, audio by the second, and documents by the page.

use super::{Counted, Node, Report, Unit};

pub fn read(usage: &Node, counted: &mut Counted) {
    counted.cached = counted.cached.max(usage.count_of("num_cached_tokens"));
    // What connectors put into the prompt is counted apart, and is part of the total only.
    counted.input = counted.input.saturating_add(usage.count_of("connector_tokens"));
    // An empty object where there is no audio.
    if let Some(seconds) = usage.get("prompt_audio_seconds").and_then(Node::rounded_up) {
        counted.units.set(Unit::InputAudioSeconds, seconds);
    }
}

/// Documents that were read ("OCR" in its API reference).
pub fn take_pages(answer: &Node, report: &mut Report) {
    let Some(pages) = answer.path(&["usage_info", "pages_processed"]).and_then(Node::count) else { return };
    let is_annotated = answer.get("document_annotation").is_some();
    report.units.set(if is_annotated { Unit::AnnotatedPages } else { Unit::DocumentPages }, pages);
    report.usage.get_or_insert_default();
    report.is_final = true;
}
