//! Responses on a WebSocket, as agents speak it: one request a message, one event of the answer a message, with permessage-deflate.

use std::{sync::Arc, time::Duration};

use futures::{SinkExt as _, StreamExt as _};
use hyper::HeaderMap;
use serde_json::Value;
use yawc::{Frame, OpCode, UpgradeFut};

use super::{
    answer::Piece,
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
            for event in events {
                if socket.send(Frame::text(event.bytes)).await.is_err() {
                    return;
                }
                entry.sent(event.chunks, event.billed);
                if event.completes {
                    entry.ended(State::Complete);
                }
                tokio::time::sleep(delay).await;
            }
        }
    }

    /// The entry in the book, the events, and the pause between them.
    fn answer(&self, message: &[u8]) -> (Entry, Vec<Piece>, Duration) {
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
        let events = responses::events(&plan, unix_seconds()).into_iter().map(|(_, event)| event).collect();
        (entry, events, delay)
    }
}
