//! The replica's words and the network's: the same things under two names, since neither knows the other.

use super::metrics::Meters;
use crate::{
    network::{self, PeerTable, Topic},
    primitives::{Fault, Gossip, Response},
    replica::Verdict,
};
use std::time::Instant;

/// The longest reason that a refusal carries, in bytes.
const MAX_REASON: usize = 500;

/// The topic that a message belongs to.
pub const fn topic(message: &Gossip) -> Topic {
    match message {
        Gossip::Transactions(_) => Topic::Transactions,
        Gossip::Votes(_) => Topic::Votes,
        Gossip::Proposal(_) | Gossip::BlockVote(_) | Gossip::ViewChange(_) | Gossip::Seal(_) | Gossip::Status(_) => {
            Topic::Consensus
        }
    }
}

/// The replica's verdict for the network.
pub const fn verdict(verdict: Verdict) -> network::Verdict {
    match verdict {
        Verdict::Accept => network::Verdict::Accept,
        Verdict::Ignore => network::Verdict::Ignore,
        Verdict::Reject => network::Verdict::Reject,
    }
}

/// A fault for the network.
pub const fn fault(fault: Fault) -> network::Fault {
    match fault {
        Fault::None => network::Fault::None,
        Fault::Late => network::Fault::Late,
        Fault::Careless => network::Fault::Careless,
        Fault::Hostile => network::Fault::Hostile,
    }
}

/// Counts a fault.
pub fn count_fault(meters: &Meters, fault: Fault) {
    match fault {
        Fault::None | Fault::Late => {}
        Fault::Careless => meters.faults_careless.add(1),
        Fault::Hostile => meters.faults_hostile.add(1),
    }
}

/// A peer as people know it: its identity and where it is, or its number when it is forgotten already.
pub fn name(peers: &PeerTable, peer: network::PeerId) -> String {
    match peers.get(peer, Instant::now()) {
        Some(info) => match info.address {
            Some(address) => format!("{} at {address}", info.identity),
            None => info.identity.to_string(),
        },
        None => peer.to_string(),
    }
}

/// The bytes of an answer that says why there is none.
pub fn refusal(reason: &str) -> Vec<u8> {
    let end = (0..=MAX_REASON.min(reason.len()))
        .rev()
        .find(|end| reason.is_char_boundary(*end));
    Response::Refused(reason[..end.unwrap_or(0)].to_owned()).encode()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let bytes = refusal(&"ü".repeat(MAX_REASON));
        let Ok(Response::Refused(reason)) = Response::decode(&bytes) else {
            panic!("not a refusal");
        };
        assert_eq!(reason.len(), MAX_REASON);
    }
}
