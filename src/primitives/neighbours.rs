//! Whom a node hears first hand: what it tells the peers beside it, so that they need not relay what it gets anyway.

use super::{
    limits::{MAX_NEIGHBOURS, MAX_PEER_BYTES},
    wire::{self, DecodeError},
};
use crate::proto;
use prost::Message;

/// The peers whose own gossip reaches a node straight from them. Peer ids are libp2p's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbours {
    /// At most [`MAX_NEIGHBOURS`] of 1 to 64 bytes.
    pub peers: Vec<Vec<u8>>,
}

impl Neighbours {
    /// The bytes of a gossip message that says it.
    pub fn to_gossip(&self) -> Vec<u8> {
        let kind = proto::gossip::Kind::Neighbours(proto::Neighbours {
            peers: self.peers.clone(),
        });
        proto::Gossip { kind: Some(kind) }.encode_to_vec()
    }

    /// Back from [`Neighbours::to_gossip`].
    pub fn from_gossip(bytes: &[u8]) -> Result<Self, DecodeError> {
        let message: proto::Gossip = wire::decode("gossip", bytes)?;
        let Some(proto::gossip::Kind::Neighbours(neighbours)) = message.kind else {
            return Err(DecodeError::Missing { what: "neighbours" });
        };
        wire::count("neighbours", neighbours.peers.len(), 0, MAX_NEIGHBOURS)?;
        for peer in &neighbours.peers {
            wire::count("bytes of a peer id", peer.len(), 1, MAX_PEER_BYTES)?;
        }
        Ok(Self {
            peers: neighbours.peers,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::primitives::kinds::{Channel, Kind, Topic};

    #[test]
    fn comes_back_and_is_of_its_type() {
        for count in [0, 1, MAX_NEIGHBOURS] {
            let neighbours = Neighbours {
                peers: vec![vec![7; MAX_PEER_BYTES]; count],
            };
            let bytes = neighbours.to_gossip();
            assert_eq!(
                Kind::check(Channel::Gossip(Topic::Consensus), &bytes),
                Ok(Kind::NEIGHBOURS)
            );
            assert_eq!(Neighbours::from_gossip(&bytes), Ok(neighbours));
        }
    }

    #[test]
    fn too_many_too_long_and_empty_are_refused() {
        let refused = |peers: Vec<Vec<u8>>| Neighbours::from_gossip(&Neighbours { peers }.to_gossip()).is_err();
        assert!(refused(vec![vec![7; 38]; MAX_NEIGHBOURS + 1]));
        assert!(refused(vec![vec![7; MAX_PEER_BYTES + 1]]));
        assert!(refused(vec![vec![]]));
        assert!(Neighbours::from_gossip(&[]).is_err());
    }
}
