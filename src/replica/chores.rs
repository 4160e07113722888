//! Noticing what was lost on the way, and asking for it. Nothing relies on gossip alone.
//!
//! | lost | noticed by | made good by |
//! |---|---|---|
//! | a vote batch | a gap in its validator's sequence, or a peer's status | asking for the range |
//! | a body | votes or a proposal that name it | asking for it |
//! | a certificate's votes, shown to some only | a payment that stays unfinished, a proposal | asking for the certificate |
//! | a block | a peer's status, a commit certificate | asking for blocks |
//! | a transaction that nobody else has seen | no certificate comes | gossiping it again |
//! | a seal | the closing block does not come | gossiping it again |

use super::{Answer, Asked, Effects, Replica, RequestId, Send, blocks::Missing, in_messages};
use crate::{
    ledger::{View, ViewError},
    primitives::{
        BlockId, Fault, Gossip, Height, PeerId, Request, Response, Status, Time, TxId, VoteKind,
        limits::{ANSWER_BYTES, MAX_TXIDS_PER_REQUEST},
    },
};
use rand::RngExt;
use std::collections::BTreeSet;

/// How often gaps are looked for.
const ASK_EVERY_MS: u64 = 100;
/// How often peers are told where this node stands.
const STATUS_EVERY_MS: u64 = 1_000;
/// How often bodies that nobody seems to have are gossiped again, and certificates asked for.
const RESEND_EVERY_MS: u64 = 2_000;
/// A body may be this late before it is asked for: it usually comes by gossip.
const BODY_PATIENCE_MS: u64 = 60;
/// A payment may be unfinished this long before its certificates are asked for.
const CERTIFICATE_PATIENCE_MS: u64 = 2_000;
/// Payments that are looked after at once.
const AT_ONCE: usize = 500;
/// Questions under way, at most.
const MAX_ASKED: usize = 256;

/// When the chores are due.
#[derive(Debug)]
pub(super) struct Due {
    ask: Time,
    status: Time,
    resend: Time,
}

impl Due {
    pub(super) const fn new(now: Time) -> Self {
        Self {
            ask: now,
            status: now,
            resend: now.plus_ms(RESEND_EVERY_MS),
        }
    }

    /// The earliest.
    pub(super) fn at(&self) -> Time {
        self.ask.min(self.status).min(self.resend)
    }

    /// Somebody can be asked for more: look at once.
    pub(super) const fn hurry_asking(&mut self) {
        self.ask = Time(0);
    }

    /// Something is known to be missing: look at once.
    pub(super) const fn hurry(&mut self) {
        self.ask = Time(0);
        self.status = Time(0);
    }
}

impl Replica {
    /// Does what is due.
    pub(super) fn do_chores(&mut self, now: Time, view: &dyn View, effects: &mut Effects) -> Result<(), ViewError> {
        if now >= self.chores.ask {
            self.chores.ask = now.plus_ms(ASK_EVERY_MS);
            self.forget_settled(now, view)?;
            self.ask_around(now, effects);
            self.give_up_orphans(now, effects);
        }
        if now >= self.chores.status {
            self.chores.status = now.plus_ms(STATUS_EVERY_MS);
            self.tell_status(effects);
        }
        if now >= self.chores.resend {
            self.chores.resend = now.plus_ms(RESEND_EVERY_MS);
            self.show_again(now, effects);
        }
        Ok(())
    }

    /// Votes that come late, or again, may name what is settled: nobody has its body any more, nobody needs it.
    fn forget_settled(&mut self, now: Time, view: &dyn View) -> Result<(), ViewError> {
        for txid in self
            .finality
            .missing_bodies(Time(now.0.saturating_sub(BODY_PATIENCE_MS)))
        {
            if view.location(&txid)?.is_some() || view.rejected(&txid)?.is_some() {
                self.finality.on_settled(txid);
            }
        }
        Ok(())
    }

    fn tell_status(&self, effects: &mut Effects) {
        if self.peers.is_empty() {
            return;
        }
        effects.send.push(Send::Gossip(Gossip::Status(Status {
            height: self.tip.height,
            round: self.consensus.stats().round,
            epoch: self.finality.epoch(),
            sequences: self.finality.sequences(),
        })));
        if self.closing()
            && let Some(seal) = &self.own_seal
        {
            effects.send.push(Send::Gossip(seal.clone()));
        }
    }

    fn ask_around(&mut self, now: Time, effects: &mut Effects) {
        while let Some((peer, first, request)) = self.next_block_request(now) {
            self.ask(peer, Asked::Blocks(first), request, effects);
        }
        let busy: BTreeSet<_> = self
            .asked
            .values()
            .filter_map(|asked| if let Asked::Votes(v) = asked { Some(*v) } else { None })
            .collect();
        for (validator, from_sequence, max_count) in self.finality.gaps() {
            if busy.contains(&validator) {
                continue;
            }
            let Some(peer) = self.any_peer() else { return };
            let epoch = self.finality.epoch();
            let request = Request::Votes {
                epoch,
                validator,
                from_sequence,
                max_count,
            };
            self.counters.votes_asked += 1;
            self.ask(peer, Asked::Votes(validator), request, effects);
        }
        let patience = Time(now.0.saturating_sub(BODY_PATIENCE_MS));
        let mut missing = Missing {
            bodies: self.finality.missing_bodies(patience),
            certificates: Vec::new(),
        };
        if self.closing() {
            let sealed = self.seals.iter().flat_map(|seal| seal.txids.iter().copied());
            missing
                .certificates
                .extend(sealed.filter(|txid| !self.finality.is_certified(txid)));
        }
        self.ask_missing(missing, effects);
    }

    fn next_block_request(&mut self, now: Time) -> Option<(PeerId, Height, Request)> {
        if self.asked.len() >= MAX_ASKED {
            return None;
        }
        let rng = &mut self.rng;
        let (peer, request) = self
            .sync
            .next_request(now, self.tip.height, |count| rng.random_range(0..count))?;
        let Request::Blocks { from, .. } = request else {
            return None;
        };
        Some((peer, from, request))
    }

    /// Asks for bodies and lock certificates, except those that somebody was asked for already.
    pub(super) fn ask_missing(&mut self, missing: Missing, effects: &mut Effects) {
        let bodies: Vec<TxId> = missing
            .bodies
            .into_iter()
            .filter(|txid| !self.bodies_asked.contains(txid))
            .collect();
        for chunk in bodies.chunks(MAX_TXIDS_PER_REQUEST) {
            let Some(peer) = self.any_peer() else { return };
            self.counters.bodies_asked += chunk.len() as u64;
            self.bodies_asked.extend(chunk);
            self.ask(
                peer,
                Asked::Bodies(chunk.to_vec()),
                Request::Transactions(chunk.to_vec()),
                effects,
            );
        }
        self.ask_certificates(VoteKind::Lock, &missing.certificates, effects);
    }

    fn ask_certificates(&mut self, kind: VoteKind, txids: &[TxId], effects: &mut Effects) {
        let busy = self
            .asked
            .values()
            .filter(|asked| matches!(asked, Asked::Certificates))
            .count();
        if txids.is_empty() || busy > 2 {
            return;
        }
        let Some(peer) = self.any_peer() else { return };
        let txids = txids.iter().take(MAX_TXIDS_PER_REQUEST).copied().collect();
        let request = Request::Certificates {
            kind,
            epoch: self.finality.epoch(),
            txids,
        };
        self.ask(peer, Asked::Certificates, request, effects);
    }

    /// Asks for a proposal that others vote for.
    pub(super) fn ask_proposal(&mut self, block: BlockId, effects: &mut Effects) {
        let Some(peer) = self.any_peer() else { return };
        self.ask(
            peer,
            Asked::Proposal,
            Request::Proposal {
                height: self.tip.height.next(),
                block,
            },
            effects,
        );
    }

    /// Shows others what they seem not to have, and asks for what may have been kept from us.
    fn show_again(&mut self, now: Time, effects: &mut Effects) {
        let before = Time(now.0.saturating_sub(RESEND_EVERY_MS));
        let bodies = self.finality.uncertified(before, AT_ONCE);
        effects.send.extend(in_messages(&bodies).map(Send::Gossip));
        let before = Time(now.0.saturating_sub(CERTIFICATE_PATIENCE_MS));
        let unfinished = self.finality.unfinished(before, AT_ONCE);
        for kind in [VoteKind::Lock, VoteKind::Final, VoteKind::Abandon] {
            self.ask_certificates(kind, &unfinished, effects);
        }
    }

    fn any_peer(&mut self) -> Option<PeerId> {
        if self.peers.is_empty() {
            return None;
        }
        let index = self.rng.random_range(0..self.peers.len());
        self.peers.iter().nth(index).copied()
    }

    fn ask(&mut self, peer: PeerId, asked: Asked, request: Request, effects: &mut Effects) {
        if self.asked.len() >= MAX_ASKED {
            if let Asked::Bodies(txids) = &asked {
                self.bodies_asked.retain(|txid| !txids.contains(txid));
            }
            return;
        }
        let id = RequestId(self.next_request);
        self.next_request += 1;
        self.asked.insert(id, asked);
        effects.send.push(Send::Ask { peer, id, request });
    }

    // ---- answers to us ------------------------------------------------------------------------------------------

    /// A peer has answered, or will not.
    pub(super) fn on_answer(
        &mut self,
        now: Time,
        view: &dyn View,
        from: PeerId,
        request: RequestId,
        answer: Option<Answer>,
        effects: &mut Effects,
    ) -> Result<(), ViewError> {
        let Some(asked) = self.asked.remove(&request) else {
            return Ok(());
        };
        match (asked, answer) {
            (Asked::Blocks(first), answer) => self.on_blocks(now, from, first, answer),
            (Asked::Votes(validator), Some(Answer::Votes(batches))) => {
                for batch in batches {
                    self.watch_own(batch.epoch, batch.validator, batch.sequence, effects);
                    drop(self.finality.on_batch(now, batch));
                }
                self.finality.on_gap_answered(validator);
            }
            (Asked::Bodies(txids), Some(Answer::Transactions(bodies))) => {
                for txid in &txids {
                    self.bodies_asked.remove(txid);
                }
                for body in bodies.into_iter().filter(|body| txids.contains(&body.txid())) {
                    if self.admit(now, view, &body, effects)?.is_err() {
                        // Not for the pool, but a proposal may list it.
                        self.strays.insert(body.txid(), body);
                    }
                }
            }
            (Asked::Bodies(txids), _) => {
                for txid in &txids {
                    self.bodies_asked.remove(txid);
                }
            }
            (Asked::Certificates, Some(Answer::Certificates(certificates))) => {
                for certificate in certificates {
                    drop(self.finality.on_certificate(now, certificate));
                }
            }
            (Asked::Proposal, Some(Answer::Proposal(proposal))) => {
                if let Err(error) = self.consensus.on_proposal(now, *proposal)
                    && error.fault() >= Fault::Careless
                {
                    effects.faults.push((from, error.fault(), error.to_string()));
                }
            }
            (Asked::Votes(_) | Asked::Certificates | Asked::Proposal, _) => {}
        }
        Ok(())
    }

    fn on_blocks(&mut self, now: Time, from: PeerId, first: Height, answer: Option<Answer>) {
        let tip = self.tip.height;
        match answer {
            Some(Answer::Pruned(kept)) => self.sync.on_pruned(now, from, first, tip, kept),
            Some(Answer::Blocks { blocks, tip: claim }) => {
                self.sync.on_answer(now, from, first, tip, Some((blocks, claim)));
                self.chores.hurry_asking();
            }
            _ => self.sync.on_answer(now, from, first, tip, None),
        }
    }

    // ---- answers to others --------------------------------------------------------------------------------------

    /// Answers a peer's question from what is in memory. What is in the store is answered by [`crate::sync::serve::answer`].
    pub(super) fn answer(&self, request: Request) -> Response {
        match request {
            Request::Votes {
                epoch,
                validator,
                from_sequence,
                max_count,
            } => {
                let mut batches = Vec::new();
                let mut bytes = 0;
                if epoch == self.finality.epoch() {
                    for batch in self.finality.batches(validator, from_sequence).take(max_count as usize) {
                        bytes += batch.votes.len() * 33 + 128;
                        if bytes > ANSWER_BYTES {
                            break;
                        }
                        batches.push((**batch).clone());
                    }
                }
                Response::Votes(batches)
            }
            Request::Transactions(txids) => {
                let mut bytes = 0;
                let fits = |body: &Vec<u8>| {
                    bytes += body.len();
                    bytes <= ANSWER_BYTES
                };
                let bodies = txids
                    .iter()
                    .filter_map(|txid| self.body(txid))
                    .map(|body| body.bytes().to_vec());
                Response::Transactions(bodies.take_while(fits).collect())
            }
            Request::Certificates { kind, epoch, txids } => {
                let here = epoch == self.finality.epoch();
                let proofs = txids
                    .iter()
                    .filter(|_| here)
                    .filter_map(|txid| self.finality.proof(kind, txid));
                Response::Certificates(proofs.take(AT_ONCE).map(|proof| proof.certificate()).collect())
            }
            Request::Proposal { height, block } => match self.consensus.proposal(height, &block) {
                Some(proposal) => Response::Proposal(Box::new(proposal.clone())),
                None => Response::Refused(format!("no proposal {} at height {height} here", block.short())),
            },
            Request::Blocks { .. } | Request::Coins { .. } | Request::Digests | Request::ClosingHeaders { .. } => {
                Response::Refused(format!("{} are in the store", request.name()))
            }
        }
    }
}
