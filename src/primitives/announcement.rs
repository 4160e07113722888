//! A validator's word on where its node is reached: ties the key that votes to the identity and addresses that peers
//! connect to.
//!
//! The network's own handshake proves that a peer has the identity it claims; this proves whose node that is. Nobody
//! but the validator can say so, on this chain only, and what is said later (by its counter) replaces what was said
//! before, so an old announcement that is played back changes nothing.

use super::{
    hash::ChainId,
    keys::{PublicKey, Signature, signing_digest},
    limits::{MAX_ADDRESS_BYTES, MAX_ADDRESSES_PER_ANNOUNCEMENT, MAX_PEER_BYTES, MAX_VALIDATORS},
    wire::{self, DecodeError},
};
use crate::proto;
use prost::Message;

/// Where a validator's node is. Peer id and addresses are libp2p's bytes; what they mean is for the network to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// The key that votes.
    pub validator: PublicKey,
    /// The identity of its node, 1 to 64 bytes.
    pub peer: Vec<u8>,
    /// 1 to 8 addresses of 1 to 256 bytes.
    pub addresses: Vec<Vec<u8>>,
    /// Higher than in every announcement before.
    pub counter: u64,
    /// Over [`Announcement::digest`]; zeros until it is signed.
    pub signature: Signature,
}

impl Announcement {
    /// What the validator signs: `H("timecoin/announcement", chain_id, validator, counter, lengths and bytes)`.
    pub fn digest(&self, chain: &ChainId) -> [u8; 32] {
        let mut body = Vec::new();
        for bytes in std::iter::once(&self.peer).chain(&self.addresses) {
            body.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
            body.extend_from_slice(bytes);
        }
        signing_digest(
            "timecoin/announcement",
            chain,
            &[&self.validator.0, &self.counter.to_be_bytes(), &body],
        )
    }

    /// The bytes of a gossip message that says it.
    pub fn to_gossip(&self) -> Vec<u8> {
        let kind = proto::gossip::Kind::Announcement(self.to_proto());
        proto::Gossip { kind: Some(kind) }.encode_to_vec()
    }

    /// Back from [`Announcement::to_gossip`].
    pub fn from_gossip(bytes: &[u8]) -> Result<Self, DecodeError> {
        let message: proto::Gossip = wire::decode("gossip", bytes)?;
        match message.kind {
            Some(proto::gossip::Kind::Announcement(announcement)) => Self::from_proto(&announcement),
            _ => Err(DecodeError::Missing { what: "announcement" }),
        }
    }

    /// The bytes of the request for all of them.
    pub fn request() -> Vec<u8> {
        let kind = proto::request::Kind::Announcements(proto::GetAnnouncements {});
        proto::Request { kind: Some(kind) }.encode_to_vec()
    }

    /// The bytes of an answer with many; at most [`MAX_VALIDATORS`] of them.
    pub fn answer<'a>(all: impl Iterator<Item = &'a Self>) -> Vec<u8> {
        let announcements = all.take(MAX_VALIDATORS).map(Self::to_proto).collect();
        let kind = proto::response::Kind::Announcements(proto::Announcements { announcements });
        proto::Response { kind: Some(kind) }.encode_to_vec()
    }

    /// Back from [`Announcement::answer`]; none if the peer refused.
    pub fn from_answer(bytes: &[u8]) -> Result<Vec<Self>, DecodeError> {
        let message: proto::Response = wire::decode("response", bytes)?;
        match message.kind {
            Some(proto::response::Kind::Announcements(all)) => {
                wire::count("announcements", all.announcements.len(), 0, MAX_VALIDATORS)?;
                all.announcements.iter().map(Self::from_proto).collect()
            }
            Some(proto::response::Kind::Refused(_)) => Ok(Vec::new()),
            _ => Err(DecodeError::Missing { what: "announcements" }),
        }
    }

    fn to_proto(&self) -> proto::Announcement {
        proto::Announcement {
            validator: self.validator.0.to_vec(),
            peer: self.peer.clone(),
            addresses: self.addresses.clone(),
            counter: self.counter,
            signature: self.signature.0.to_vec(),
        }
    }

    fn from_proto(message: &proto::Announcement) -> Result<Self, DecodeError> {
        wire::count("bytes of a peer id", message.peer.len(), 1, MAX_PEER_BYTES)?;
        wire::count("addresses", message.addresses.len(), 1, MAX_ADDRESSES_PER_ANNOUNCEMENT)?;
        for address in &message.addresses {
            wire::count("bytes of an address", address.len(), 1, MAX_ADDRESS_BYTES)?;
        }
        Ok(Self {
            validator: PublicKey(wire::array("validator key", &message.validator)?),
            peer: message.peer.clone(),
            addresses: message.addresses.clone(),
            counter: message.counter,
            signature: Signature(wire::array("announcement signature", &message.signature)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::primitives::{
        SecretKey,
        keys::verify,
        kinds::{Channel, Kind, Topic},
    };

    const CHAIN: ChainId = ChainId([9; 32]);

    fn signed() -> Announcement {
        let key = SecretKey::from_seed([4; 32]);
        let mut announcement = Announcement {
            validator: key.public(),
            peer: vec![1; 38],
            addresses: vec![vec![2; 8], vec![3; 20]],
            counter: 77,
            signature: Signature([0; 64]),
        };
        announcement.signature = key.sign(&announcement.digest(&CHAIN));
        announcement
    }

    #[test]
    fn it_comes_back_by_gossip_and_by_answer() {
        let one = signed();
        let gossip = one.to_gossip();
        assert_eq!(
            Kind::check(Channel::Gossip(Topic::Consensus), &gossip),
            Ok(Kind::ANNOUNCEMENT)
        );
        assert_eq!(Announcement::from_gossip(&gossip), Ok(one.clone()));
        let answer = Announcement::answer([&one, &one].into_iter());
        assert_eq!(Kind::check(Channel::Answer, &answer), Ok(Kind::ANNOUNCEMENTS));
        assert_eq!(Announcement::from_answer(&answer), Ok(vec![one.clone(), one]));
        assert_eq!(
            Kind::check(Channel::Request, &Announcement::request()),
            Ok(Kind::GET_ANNOUNCEMENTS)
        );
        assert_eq!(Announcement::from_answer(&[0x32, 1, b'n']), Ok(vec![]), "refused");
    }

    #[test]
    fn the_signature_covers_every_part_and_the_chain() {
        type Change = fn(&mut Announcement);
        let one = signed();
        assert!(verify(&one.validator, &one.digest(&CHAIN), &one.signature));
        assert!(!verify(&one.validator, &one.digest(&ChainId([8; 32])), &one.signature));
        let changes: [Change; 6] = [
            |a| a.peer[0] ^= 1,
            |a| a.addresses[1][0] ^= 1,
            |a| a.counter += 1,
            |a| a.addresses.truncate(1),
            |a| a.validator.0[0] ^= 1,
            // A byte moved from one address to the next must not give the same digest.
            |a| {
                let byte = a.addresses[0].pop().expect("eight bytes");
                a.addresses[1].insert(0, byte);
            },
        ];
        for change in changes {
            let mut other = one.clone();
            change(&mut other);
            assert_ne!(other.digest(&CHAIN), one.digest(&CHAIN));
        }
    }

    #[test]
    fn what_is_too_long_or_missing_is_named() {
        type Change = fn(&mut Announcement);
        let rows: [(&str, Change); 5] = [
            ("bytes of a peer id", |a| a.peer = vec![0; 65]),
            ("bytes of a peer id", |a| a.peer.clear()),
            ("addresses", |a| a.addresses = vec![vec![1]; 9]),
            ("addresses", |a| a.addresses.clear()),
            ("bytes of an address", |a| a.addresses[0] = vec![0; 257]),
        ];
        for (what, change) in rows {
            let mut wrong = signed();
            change(&mut wrong);
            let error = Announcement::from_gossip(&wrong.to_gossip()).expect_err(what);
            assert!(error.to_string().starts_with(what), "{error}");
        }
    }
}
