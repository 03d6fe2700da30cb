//! What a webhook is sent, and how it is signed.

use hmac::{Hmac, Mac as _};
use serde::Serialize;
use sha2::Sha256;

use super::Format;
use crate::{alert::Kind, ledger::AlertRow};

/// Letters of a message: it may have names in it that somebody else has chosen.
const MESSAGE: usize = 4096;

/// The body for [`Format::Json`].
#[derive(Serialize)]
struct Json<'a> {
    #[serde(flatten)]
    alert: &'a AlertRow,
    /// As in the journal.
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<&'static str>,
    /// syslog's severity, from 0 to 7.
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<u8>,
    /// Alerts that were not delivered since the last one that was.
    missed: u64,
}

/// Body of an alert, after so many that were not delivered.
pub fn body(format: Format, alert: &AlertRow, missed: u64) -> String {
    let mut alert = alert.clone();
    if let Some((end, _)) = alert.message.char_indices().nth(MESSAGE) {
        alert.message.truncate(end);
    }
    let kind = Kind::named(&alert.kind);
    match format {
        Format::Json => {
            let json = Json {
                alert: &alert,
                message_id: kind.map(Kind::message_id),
                priority: kind.map(|kind| kind.priority() as u8),
                missed,
            };
            serde_json::to_string(&json).unwrap_or_default()
        }
        Format::Slack => serde_json::json!({"text": text(&alert, missed)}).to_string(),
    }
}

/// A line in Slack's markup, in which three characters must be escaped so that nothing becomes a link or calls people
/// (docs.slack.dev/messaging/formatting-message-text).
fn text(alert: &AlertRow, missed: u64) -> String {
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let about = alert.account.as_deref().or(alert.task.as_deref());
    let about = about.map(|about| format!(" {}", escape(about))).unwrap_or_default();
    let mut text = format!("*{}*{about}: {}", escape(&alert.kind), escape(&alert.message));
    if let Some(spent) = alert.spent_usd {
        let cap = alert.cap_usd.map(|cap| format!(" of ${cap}")).unwrap_or_default();
        text.push_str(&format!(" (spent ${spent}{cap})"));
    }
    if missed > 0 {
        text.push_str(&format!("\n{missed} alerts before it were not delivered: `tollgate alerts` has them"));
    }
    text
}

/// Value of `X-Tollgate-Signature`: when, in seconds since 1970, and the HMAC-SHA256 of that, a dot and the body, in hexadecimal.
pub fn signature(secret: &[u8], seconds: i64, body: &str) -> String {
    // HMAC takes keys of any length (RFC 2104).
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else { return String::new() };
    mac.update(format!("{seconds}.{body}").as_bytes());
    let code: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={seconds},v1={code}")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{MESSAGE, body, signature};
    use crate::{alert::webhook::Format, ledger::AlertRow};

    fn alert(message: &str) -> AlertRow {
        AlertRow {
            id: 7,
            at: "2026-01-01T00:00:00.000000000Z".into(),
            kind: "kill".into(),
            task: Some("nightly".into()),
            account: None,
            actor: None,
            spent_usd: Some("0.0512".parse().expect("money")),
            cap_usd: Some("0.05".parse().expect("money")),
            message: message.into(),
        }
    }

    #[test]
    fn a_body_has_every_field() {
        let said: Value = serde_json::from_str(&body(Format::Json, &alert("the cap is reached"), 2)).expect("JSON");
        let expected = json!({
            "id": 7, "at": "2026-01-01T00:00:00.000000000Z", "kind": "kill", "task": "nightly", "account": null, "actor": null,
            "spent_usd": "0.0512", "cap_usd": "0.05", "message": "the cap is reached", "missed": 2, "priority": 3,
            "message_id": "b0d2e9f46a7c4b0f8c15d3a9e7f2c622",
        });
        assert_eq!(said, expected);
    }

    #[test]
    fn nothing_in_a_line_calls_people_or_becomes_a_link() {
        let said: Value =
            serde_json::from_str(&body(Format::Slack, &alert("<!channel> & <http://x|y>"), 0)).expect("JSON");
        let expected = "*kill* nightly: &lt;!channel&gt; &amp; &lt;http://x|y&gt; (spent $0.0512 of $0.05)";
        assert_eq!(said, json!({"text": expected}));
        let missed = body(Format::Slack, &alert("x"), 3);
        assert!(missed.contains("3 alerts before it were not delivered"), "{missed}");
    }

    #[test]
    fn messages_are_bounded() {
        let said: Value = serde_json::from_str(&body(Format::Json, &alert(&"ä".repeat(MESSAGE * 3)), 0)).expect("JSON");
        assert_eq!(said["message"].as_str().map(|message| message.chars().count()), Some(MESSAGE));
    }

    /// By another implementation: `printf '1.{}' | openssl dgst -sha256 -hmac key`.
    #[test]
    fn a_signature_is_an_hmac_of_time_and_body() {
        let expected = "t=1,v1=1ba6b8171186efc613e8bcc0cbdab2748f24984d7c5a84faa2637afa0e40d224";
        assert_eq!(signature(b"key", 1, "{}"), expected);
        assert_ne!(signature(b"key", 2, "{}"), expected);
        assert_ne!(signature(b"kez", 1, "{}"), expected);
    }
}
