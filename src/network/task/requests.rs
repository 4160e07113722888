//! Requests and answers, in both directions.

use std::time::Instant;

use libp2p::request_response::{self, Message};
use prost::bytes::Bytes;
use tracing::{debug, warn};

use super::Task;
use crate::network::envelope::Refusal;
use crate::network::request::{self, Asked, Frame};
use crate::network::{Event, PeerId, RequestError, RequestId, Ticket};
use crate::primitives::kinds::{Channel, Kind};

impl Task {
    pub(super) fn ask(&mut self, peer: PeerId, id: RequestId, payload: Vec<u8>, now: Instant) {
        let kind = match Kind::of(Channel::Request, &payload, payload.len()) {
            Ok(kind) => kind,
            Err(error) => {
                self.stats.oversized_out.up();
                return self.fail(peer, id, RequestError::Unsendable(error));
            }
        };
        let Some(identity) = self.table.identity(peer) else {
            return self.fail(peer, id, RequestError::UnknownPeer);
        };
        if !self.swarm.is_connected(&identity) {
            return self.fail(peer, id, RequestError::NotConnected);
        }
        if !self.requests.may_ask(&identity) {
            return self.fail(peer, id, RequestError::Overloaded);
        }
        if !self.table.may_ask(peer, kind, now) {
            self.stats.limited_out.of(kind).up();
            return self.fail(peer, id, RequestError::Overloaded);
        }
        let sent = self
            .swarm
            .behaviour_mut()
            .requests
            .send_request(&identity, Frame::Payload(payload.into()));
        self.requests.on_asked(sent, id, identity, peer, now);
        self.stats.requests_out.up();
    }

    pub(super) fn fail(&mut self, peer: PeerId, id: RequestId, error: RequestError) {
        self.stats.request_failures.up();
        self.respond(peer, id, Err(error));
    }

    pub(super) fn answer(&mut self, ticket: Ticket, answer: Option<Vec<u8>>) {
        let Some(channel) = self.requests.redeem(ticket) else {
            debug!(?ticket, "an answer came too late");
            return;
        };
        let frame = match answer {
            Some(payload) => self.answer_frame(payload),
            None => Frame::Refused(Refusal::Busy),
        };
        // If the peer is gone, an inbound failure tells.
        let _ = self.swarm.behaviour_mut().requests.send_response(channel, frame);
    }

    /// Our own answers keep to the limits, too.
    pub(super) fn answer_frame(&self, payload: Vec<u8>) -> Frame {
        match Kind::of(Channel::Answer, &payload, payload.len()) {
            Ok(_) => Frame::Payload(payload.into()),
            Err(error) => {
                self.stats.oversized_out.up();
                warn!(%error, "an answer of our own cannot be sent");
                Frame::Refused(Refusal::AnswerTooLarge)
            }
        }
    }

    pub(super) fn on_request_event(&mut self, event: request_response::Event<Frame, Frame>) {
        use request_response::Event as E;
        match event {
            E::Message {
                peer,
                message:
                    Message::Request {
                        request_id,
                        request,
                        channel,
                    },
                ..
            } => {
                self.on_request(peer, request_id, request, channel);
            }
            E::Message {
                message: Message::Response { request_id, response },
                ..
            } => {
                if let Some(asked) = self.requests.finish(request_id) {
                    self.on_response(asked, response);
                }
            }
            E::OutboundFailure { request_id, error, .. } => {
                if let Some(asked) = self.requests.finish(request_id) {
                    self.finish(asked, Err(request::outbound_error(error)));
                }
            }
            E::InboundFailure { request_id, error, .. } => {
                if self.requests.close(request_id) == Some(false) {
                    self.stats.requests_unanswered.up();
                }
                debug!(%error, "a request could not be answered");
            }
            E::ResponseSent { request_id, .. } => {
                self.requests.close(request_id);
            }
        }
    }

    pub(super) fn on_request(
        &mut self,
        source: libp2p::PeerId,
        id: request_response::InboundRequestId,
        frame: Frame,
        channel: request_response::ResponseChannel<Frame>,
    ) {
        self.stats.requests_in.up();
        let Some(peer) = self.admit(source) else { return };
        match frame {
            Frame::Payload(payload) => {
                // The codec has looked at it already.
                let kind = Kind::of(Channel::Request, &payload, payload.len());
                if !kind.is_ok_and(|kind| self.is_within_limits(peer, kind)) {
                    return self.refuse(channel, Refusal::Busy);
                }
                let ticket = match self.requests.admit(id, source, channel, Instant::now()) {
                    Ok(ticket) => ticket,
                    Err(channel) => return self.refuse(channel, Refusal::Busy),
                };
                if !self.outbox.offer(Event::Request {
                    from: peer,
                    ticket,
                    payload,
                }) {
                    self.stats.requests_refused.up();
                    self.answer(ticket, None);
                }
            }
            // Our own codec had no room; a peer that sends a refusal as a request gets it back.
            Frame::Refused(refusal) => self.refuse(channel, refusal),
            Frame::Bad(error) => {
                self.refuse(channel, error.refusal());
                self.on_broken(peer, &error, "request");
            }
        }
    }

    pub(super) fn refuse(&mut self, channel: request_response::ResponseChannel<Frame>, refusal: Refusal) {
        self.stats.requests_refused.up();
        let _ = self
            .swarm
            .behaviour_mut()
            .requests
            .send_response(channel, Frame::Refused(refusal));
    }

    pub(super) fn on_response(&mut self, asked: Asked, frame: Frame) {
        let peer = asked.number;
        match frame {
            Frame::Payload(payload) => {
                // The codec has looked at it already.
                if let Ok(kind) = Kind::of(Channel::Answer, &payload, payload.len()) {
                    self.stats.answer_bytes.of(kind).add(payload.len() as u64);
                }
                self.finish(asked, Ok(payload));
            }
            Frame::Refused(refusal) => self.finish(asked, Err(RequestError::Refused(refusal))),
            Frame::Bad(error) => {
                self.finish(asked, Err(RequestError::Broken(error.clone())));
                self.on_broken(peer, &error, "answer");
            }
        }
    }

    pub(super) fn finish(&mut self, asked: Asked, result: Result<Bytes, RequestError>) {
        match &result {
            Ok(_) => {}
            Err(RequestError::Timeout) => self.stats.request_timeouts.up(),
            Err(_) => self.stats.request_failures.up(),
        }
        self.respond(asked.number, asked.id, result);
    }

    pub(super) fn respond(&mut self, from: PeerId, request: RequestId, result: Result<Bytes, RequestError>) {
        self.outbox.deliver(Event::Response { from, request, result });
    }
}
