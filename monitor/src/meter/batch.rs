//! Results of batches: files with a line for each answer, which are billed by the rates of batches when they were made, however often they
//! are downloaded.
//!
//! Source: the API references of Anthropic ("Retrieve Message Batch results"), OpenAI ("The request output object") with those who have
//! the same (Azure, Groq, Mistral), and Google ("Batch API", file results).

use super::{
    dialect::{self, Report},
    json::Node,
    usage::Usage,
};

/// The tier by which all answers of a batch are priced.
const TIER: &str = "batch";

/// What the results are known by: the batch, or its file. `None` for what can be no results.
pub fn id<'a>(method: &str, path: &'a str) -> Option<&'a str> {
    if method != "GET" {
        return None;
    }
    let after = |begin: &str| path.rsplit_once(begin).map(|(_, rest)| rest);
    let of_batch = after("/messages/batches/").and_then(|rest| rest.strip_suffix("/results"));
    let of_file = || after("/files/").and_then(|rest| rest.strip_suffix("/content"));
    let of_google = || after("/files/").and_then(|rest| rest.strip_suffix(":download"));
    of_batch.or_else(of_file).or_else(of_google).filter(|id| !id.is_empty() && !id.contains('/'))
}

/// The answer in a line, where there is one: requests fail, are cancelled, and expire.
fn answer(line: &Node) -> Option<&Node> {
    let of_anthropic = line.path(&["result", "message"]);
    let of_openai = || line.path(&["response", "body"]);
    let of_google = || line.get("response").filter(|answer| answer.get("usageMetadata").is_some());
    let is_line = ["custom_id", "key"].iter().any(|name| line.get(name).is_some());
    of_anthropic.or_else(of_openai).or_else(of_google).filter(|_| is_line)
}

/// Adds what a line reports.
pub fn take(line: &Node, report: &mut Report) {
    let Some(answer) = answer(line) else { return };
    let Some(dialect) = dialect::of_answer(answer) else { return };
    let mut one = Report::default();
    dialect.document(answer, &mut one);
    let Some(all) = one.usage else { return };
    let mut used: Usage = all;
    used.add_all(&one.beside);
    let model = one.model.clone().unwrap_or_default();
    report.add_part(&model, &used);
    for part in &one.parts {
        report.add_part(&part.model, &part.usage);
    }
    report.units.add_all(&one.units);
    report.is_partial |= one.is_partial;
    report.service.tier = Some(TIER.into());
    report.model = one.model.or(report.model.take());
    (report.is_final, report.is_sum) = (true, true);
}

#[cfg(test)]
mod tests {
    use super::id;

    #[test]
    fn results_are_known_by_their_path() {
        assert_eq!(id("GET", "/v1/messages/batches/msgbatch_1/results"), Some("msgbatch_1"));
        assert_eq!(id("GET", "/proxy/openai/v1/files/file-1/content"), Some("file-1"));
        assert_eq!(id("GET", "/download/v1beta/files/batch-1:download"), Some("batch-1"));
        for (method, path) in [
            ("POST", "/v1/files/file-1/content"),
            ("GET", "/v1/files/file-1"),
            ("GET", "/v1/messages/batches/msgbatch_1"),
            ("GET", "/v1/files/a/b/content"),
        ] {
            assert_eq!(id(method, path), None, "{path}");
        }
    }
}
