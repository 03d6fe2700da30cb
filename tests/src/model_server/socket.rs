//! Responses on a WebSocket, as agents speak it: one request a message, one event of the answer a message, with permessage-deflate.

use std::{sync::Arc, time::Duration};

use futures::{SinkExt as _, StreamExt as _};
use hyper::HeaderMap;
use serde_json::Value;
use yawc::{Frame, OpCode, UpgradeFut};

use super::{
    directive::{CLIENT_HEADER, Directive},
    responses,
    service::{Origin, Service, unix_seconds},
    truth::{Api, Arrival, Call, Entry, State},
};

/// What all requests of a socket have in common.
pub(super) struct Socket {
    pub(super) service: Arc<Service>,
    pub(super) origin: Origin,
    pub(super) headers: HeaderMap,
    pub(super) path: String,
}

impl Socket {
    /// Answers until the client goes.
    pub(super) async fn serve(self, upgrade: UpgradeFut) {
        let Ok(mut socket) = upgrade.await else { return };
        while let Some(frame) = socket.next().await {
            if frame.opcode() != OpCode::Text {
                continue;
            }
            let (mut entry, events, delay) = self.answer(frame.payload());
            for (chunks, billed, completes, text) in events {
                if socket.send(Frame::text(text)).await.is_err() {
                    return;
                }
                entry.sent(chunks, billed);
                if completes {
                    entry.ended(State::Complete);
                }
                tokio::time::sleep(delay).await;
            }
        }
    }

    #[allow(clippy::type_complexity)]
    fn answer(&self, message: &[u8]) -> (Entry, Vec<(u64, Option<crate::Usage>, bool, String)>, Duration) {
        let mut entry = self.service.book().arrival(Arrival {
            connection: self.origin.connection,
            peer: self.origin.peer,
            client: self.headers.get(CLIENT_HEADER).and_then(|tag| tag.to_str().ok()).map(str::to_owned),
            method: "GET".to_owned(),
            path: self.path.clone(),
        });
        entry.body_arrived(message.len());
        let request: Value = serde_json::from_slice(message).unwrap_or_default();
        let mut directive = Directive::of_request(&self.headers, &request).unwrap_or_default();
        if request["generate"] == false {
            // Only to have everything ready: nothing is generated, and the answer is empty.
            directive.output_tokens = Some(0);
            directive.reasoning_tokens = Some(0);
        }
        let (mut plan, delay) = self.service.plan(Api::OpenaiResponses, &request, &directive);
        plan.stream = true;
        let call = Call {
            api: Api::OpenaiResponses,
            id: plan.id.clone(),
            model_requested: request["model"].as_str().unwrap_or_default().to_owned(),
            model: plan.model.clone(),
            stream: true,
            usage_reported: true,
            billed: plan.billed_at_start(),
            chunks_sent: 0,
        };
        entry.answering(101, Some(call));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let events = responses::events(&plan, unix_seconds())
            .into_iter()
            .map(|(_, event)| (event.chunks, event.billed, event.completes, text(&event.bytes)))
            .collect();
        (entry, events, delay)
    }
}
