//! What an exchange comes to: what it has used by now, and the verdict at its end.

use super::{Billing, Body, Kind, Meter, Metered, Tool, is_error};
use crate::{
    meter::{
        batch,
        dialect::{BilledModel, Dialect, Purpose, Served},
        estimate::{Altered, Family, reasoning_allowance},
        json::Node,
        tool::Whole,
        usage::{Basis, Bucket, Units, Usage},
    },
    wire::{End, Ending},
};

impl Meter {
    /// What was used by now, roughly where the provider has not said: for the hold of a call in flight.
    pub fn running(&self) -> Usage {
        let mut usage = self.report.used().unwrap_or_default();
        if usage.input_total() == 0 {
            usage.set(Bucket::InputUncached, self.request_text.rough_tokens());
        }
        let output = self.answer_text.rough_tokens();
        if self.may_cost() && !self.is_final() && usage.output_total() < output {
            usage.add(Bucket::OutputText, output - usage.output_total());
        }
        usage
    }

    /// As [`Meter::running`], and counted as the model does: too slow for every piece of an answer.
    pub fn counted(&self) -> Usage {
        let mut usage = self.report.used().unwrap_or_default();
        let family = Family::of(self.report.model.as_deref().or(self.asked.model.as_deref()).unwrap_or_default());
        if usage.input_total() == 0 {
            let is_framed = self.dialect.is_some_and(|dialect| dialect.frames_prompt(&self.asking));
            usage.set(Bucket::InputUncached, self.request_text.prompt_tokens(&family, &self.asking, is_framed));
        }
        let output = self.answer_text.answer_tokens(&family, &self.asking);
        if self.may_cost() && !self.is_final() && usage.output_total() < output {
            usage.add(Bucket::OutputText, output - usage.output_total());
        }
        usage
    }

    /// The exchange ended.
    pub fn finish(mut self, end: End) -> Metered {
        let was_sent_whole = self.request_ended;
        self.end_request();
        self.request_ended = was_sent_whole;
        if let Body::Reading(skimmer) = std::mem::replace(&mut self.answer, Body::Done)
            && !self.is_stream
            && self.is_interesting()
        {
            let (node, is_whole) = skimmer.finish();
            self.is_broken |= !is_whole;
            if self.is_batch {
                batch::take(&node, &mut self.report);
                return self.finish_as(end);
            }
            self.report.is_error |= is_error(&node);
            if let Some(tool) = &mut self.tool {
                tool.answer = Some(node);
                return self.finish_as(end);
            }
            self.settle_dialect(&node);
            if let Some(dialect) = self.dialect {
                // Of an array its items were taken one by one.
                if !matches!(node, Node::Array(_)) {
                    dialect.document(&node, &mut self.report);
                }
            }
        }
        self.finish_as(end)
    }

    fn finish_as(mut self, end: End) -> Metered {
        if let Some(tool) = self.tool.take() {
            return self.finish_tool(tool, end);
        }
        // Lines that are missing may have cost anything.
        self.report.is_partial |= self.is_batch && (self.is_broken || end.how != Ending::Complete);
        let (billing, basis, usage) = self.verdict(end);
        let estimate = (self.always_estimates && self.shows_its_prompt()).then(|| self.estimate(Usage::default()));
        let report = *self.report;
        Metered {
            kind: Kind::Model,
            billing,
            estimate,
            unseen: self.answer_text.altered().map(Altered::why).or_else(|| self.request_text.unseen()),
            tool_cost: None,
            provider: self.provider.or(report.server).or_else(|| self.dialect.map(Dialect::name)),
            model_requested: self.asked.model,
            model_reported: report.model,
            billed_model: self.dialect.map(Dialect::billed_model).unwrap_or_default(),
            response_id: report.id,
            stream: self.is_stream,
            usage,
            units: report.units,
            basis,
            service: report.service,
            parts: report.parts,
            provider_cost: report.cost,
            status: self.status,
        }
    }

    /// By the rule for it. Without one, its cost is nothing that anybody has said.
    fn finish_tool(self, tool: Tool, end: End) -> Metered {
        let is_refused = self.status.is_some_and(|status| !(200..300).contains(&status));
        let is_unsent = self.status.is_none() && !self.request_ended;
        let (billing, basis, tool_cost) = match &tool.rule {
            Some(rule) if !is_refused && !self.report.is_error && !is_unsent && end.how != Ending::Refused => {
                let nothing = Node::default();
                let (cost, whole) = rule.cost(tool.answer.as_ref().unwrap_or(&nothing), self.answered);
                let is_whole = whole == Whole::Yes && end.how == Ending::Complete && end.lost == 0;
                (Billing::Charge, if is_whole { Basis::Measured } else { Basis::Floor }, Some(cost))
            }
            _ => (Billing::Free, Basis::None, None),
        };
        Metered {
            kind: Kind::Tool(tool.name),
            billing,
            estimate: None,
            unseen: None,
            tool_cost,
            provider: None,
            model_requested: None,
            model_reported: None,
            billed_model: BilledModel::default(),
            response_id: None,
            stream: self.is_stream,
            usage: Usage::default(),
            units: Units::ZERO,
            basis,
            service: Served::default(),
            parts: Vec::new(),
            provider_cost: None,
            status: self.status,
        }
    }

    fn verdict(&self, end: End) -> (Billing, Basis, Usage) {
        let free = (Billing::Free, Basis::None, Usage::default());
        // Redirected, refused, or failed before anything was made.
        if self.is_unread && self.provider.is_some() {
            return (Billing::Unknown, Basis::Floor, Usage::default());
        }
        let is_refused = self.status.is_some_and(|status| !(200..300).contains(&status));
        let is_failed = self.report.is_error && (!self.is_stream || self.answer_text.is_empty());
        let is_whole = end.how == Ending::Complete && end.lost == 0;
        if let Some(usage) = self.report.used().filter(|_| self.purpose != Some(Purpose::Free)) {
            let billing = if self.purpose == Some(Purpose::Retrieve) { Billing::Once } else { Billing::Charge };
            return self.reported(billing, usage, end, is_whole);
        }
        if is_refused || is_failed || end.how == Ending::Refused {
            return free;
        }
        match self.purpose {
            Some(Purpose::Generate | Purpose::Embed) if self.report.is_pending => {
                (Billing::Pending, Basis::None, Usage::default())
            }
            Some(Purpose::Other) => (Billing::Unknown, Basis::Floor, Usage::default()),
            Some(Purpose::Generate | Purpose::Embed) => match (self.status, self.request_ended) {
                // Never sent whole, so never worked on.
                (None, false) => free,
                // Sent and not answered: the provider may have worked on it, and nobody knows how much.
                (None, true) => (Billing::Charge, Basis::Floor, self.estimate(Usage::default())),
                (Some(_), _) => {
                    let basis = if end.lost == 0 { Basis::Estimated } else { Basis::Floor };
                    (Billing::Charge, basis, self.estimate(Usage::default()))
                }
            },
            Some(Purpose::Retrieve | Purpose::Free) => free,
            None if self.path.is_empty() && end.lost > 0 && self.is_damaged => {
                (Billing::Unknown, Basis::Floor, Usage::default())
            }
            None => free,
        }
    }

    fn reported(&self, billing: Billing, usage: Usage, end: End, is_whole: bool) -> (Billing, Basis, Usage) {
        if end.lost > 0 {
            // The figures are the provider's, but others may have been in what is missing.
            return (billing, Basis::Floor, self.estimate(usage));
        }
        if self.report.is_partial {
            return (billing, Basis::Floor, usage);
        }
        // A client may leave after the last figures and before the end of the stream.
        if self.report.is_final && !self.is_broken && (is_whole || (self.is_stream && !self.report.is_sum)) {
            let basis = if self.report.cost.is_some() { Basis::Provider } else { Basis::Measured };
            return (billing, basis, usage);
        }
        (billing, Basis::Estimated, self.estimate(usage))
    }

    /// Where the provider said nothing, or less than what was seen, what was seen.
    fn estimate(&self, mut usage: Usage) -> Usage {
        let model = self.report.model.as_deref().or(self.asked.model.as_deref()).unwrap_or_default();
        let is_embedding = self.purpose == Some(Purpose::Embed);
        if usage.input_total() == 0 {
            let tokens = if is_embedding {
                self.request_text.plain_tokens(model)
            } else {
                let is_framed = self.dialect.is_some_and(|dialect| dialect.frames_prompt(&self.asking));
                self.request_text.prompt_tokens(&Family::of(model), &self.asking, is_framed)
            };
            usage.set(Bucket::InputUncached, tokens);
        }
        if !is_embedding {
            let seen = self.answer_text.answer_tokens(&Family::of(model), &self.asking);
            if usage.output_total() == 0 && seen > 0 && !self.asked.is_brief {
                usage.set(Bucket::Reasoning, reasoning_allowance(model, seen));
                usage.set(Bucket::OutputText, seen);
            } else {
                usage.add(Bucket::OutputText, seen.saturating_sub(usage.output_total()));
            }
        }
        usage
    }

    /// What was seen of an exchange that ended, to fit factors to.
    #[cfg(test)]
    pub(in crate::meter) fn seen(mut self) -> crate::meter::estimate::Seen {
        self.always_estimates = true;
        self.end_request();
        if let Body::Reading(skimmer) = std::mem::replace(&mut self.answer, Body::Done)
            && !self.is_stream
        {
            let (node, _) = skimmer.finish();
            self.settle_dialect(&node);
        }
        let model = self.report.model.as_deref().or(self.asked.model.as_deref()).unwrap_or_default().into();
        let is_framed = self.dialect.is_some_and(|dialect| dialect.frames_prompt(&self.asking));
        let is_prompt = self.purpose == Some(Purpose::Generate) && self.shows_its_prompt();
        crate::meter::estimate::Seen {
            model,
            is_framed,
            is_comparable: is_prompt && self.answer_text.altered().is_none() && self.request_text.unseen().is_none(),
            asking: self.asking,
            request: self.request_text,
            answer: self.answer_text,
        }
    }

    /// Whether the prompt is in the request; else it is what was said before, which the provider keeps.
    fn shows_its_prompt(&self) -> bool {
        let is_call = matches!(self.purpose, Some(Purpose::Generate | Purpose::Embed));
        let kept = ["previous_response_id", "previous_interaction_id", "conversation", "cachedContent"];
        is_call && !self.path.contains("/threads/") && !kept.iter().any(|name| self.asking.get(name).is_some())
    }
}
