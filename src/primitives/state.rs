//! What a newcomer asks for to have the state without the history: pages of coins, the digests of their buckets, and
//! the headers that closed epochs.

use super::{
    block::BlockHeader,
    certificate::{BlockCertificate, CertificateError},
    hash::{ChainId, Hash},
    keys::SignatureBatch,
    limits::MAX_UTXOS_PER_PAGE,
    message::Electorate,
    time::Height,
    transaction::{Coin, OutPoint},
    vote::Phase,
    wire::{self, DecodeError},
};
use crate::proto;
use prost::Message;

/// Bytes of a whole cursor: an outpoint.
pub const MAX_CURSOR: usize = 36;
/// Buckets that the coins are spread over.
pub const UTXO_BUCKETS: usize = 1024;

/// Coins of one height in ascending order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoinPage {
    /// They are those of the set after this block. A claim.
    pub height: Height,
    /// At most as many as were asked for.
    pub entries: Vec<(OutPoint, Coin)>,
    /// Whether there are more in the range that was asked for, after the last entry.
    pub more: bool,
}

impl CoinPage {
    pub(crate) fn to_proto(&self) -> proto::UtxoSetPage {
        let entry = |(outpoint, coin): &(OutPoint, Coin)| proto::UtxoEntry {
            outpoint: outpoint.to_bytes().to_vec(),
            coin: Some(coin.to_proto()),
        };
        let last = self.entries.last().filter(|_| self.more);
        proto::UtxoSetPage {
            height: self.height.0,
            entries: self.entries.iter().map(entry).collect(),
            next_cursor: last
                .map(|(outpoint, _)| outpoint.to_bytes().to_vec())
                .unwrap_or_default(),
        }
    }

    pub(crate) fn from_proto(message: proto::UtxoSetPage) -> Result<Self, DecodeError> {
        wire::count("coins of a page", message.entries.len(), 0, MAX_UTXOS_PER_PAGE as usize)?;
        let entries = message.entries.into_iter().map(entry_from_proto);
        let entries: Vec<(OutPoint, Coin)> = entries.collect::<Result<_, _>>()?;
        if let Some(at) = entries.windows(2).position(|pair| pair[0].0 >= pair[1].0) {
            return Err(DecodeError::Order {
                what: "coins of a page",
                position: at + 1,
            });
        }
        let more = !message.next_cursor.is_empty();
        let last = entries.last().map(|(outpoint, _)| outpoint.to_bytes());
        if more && last.is_none_or(|last| last[..] != message.next_cursor) {
            return Err(DecodeError::Malformed {
                what: "page of coins",
                reason: "its next cursor is not its last coin".to_owned(),
            });
        }
        Ok(Self {
            height: Height(message.height),
            entries,
            more,
        })
    }
}

fn entry_from_proto(message: proto::UtxoEntry) -> Result<(OutPoint, Coin), DecodeError> {
    let outpoint = OutPoint::from_bytes(&message.outpoint)?;
    let coin = Coin::from_proto(wire::required("coin of a page", message.coin)?)?;
    if outpoint.is_rejection() != coin.is_rejection() {
        return Err(DecodeError::Malformed {
            what: "page of coins",
            reason: format!("{outpoint} is a coin in the place of a rejection, or the other way round"),
        });
    }
    Ok((outpoint, coin))
}

pub(crate) fn digests_to_proto(height: Height, digests: &[Hash]) -> proto::BucketDigests {
    proto::BucketDigests {
        height: height.0,
        digests: digests.iter().flat_map(|digest| digest.0).collect(),
    }
}

pub(crate) fn digests_from_proto(message: &proto::BucketDigests) -> Result<(Height, Vec<Hash>), DecodeError> {
    if message.digests.len() != 32 * UTXO_BUCKETS {
        return Err(DecodeError::Length {
            what: "bucket digests",
            length: message.digests.len(),
            expected: 32 * UTXO_BUCKETS,
        });
    }
    let digests = message.digests.as_chunks::<32>().0.iter().map(|digest| Hash(*digest));
    Ok((Height(message.height), digests.collect()))
}

/// A header and the quorum that decided its block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertifiedHeader {
    /// The header.
    pub header: BlockHeader,
    /// The quorum.
    pub commit: BlockCertificate,
}

impl CertifiedHeader {
    /// Protobuf bytes.
    pub fn encode(&self) -> Vec<u8> {
        self.to_proto().encode_to_vec()
    }

    /// Back from [`CertifiedHeader::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::from_proto(&wire::decode("certified header", bytes)?)
    }

    pub(crate) fn to_proto(&self) -> proto::CertifiedHeader {
        proto::CertifiedHeader {
            header: self.header.encode(),
            commit: Some(self.commit.to_proto()),
        }
    }

    pub(crate) fn from_proto(message: &proto::CertifiedHeader) -> Result<Self, DecodeError> {
        let commit = wire::required("commit certificate of a header", message.commit.as_ref())?;
        Ok(Self {
            header: BlockHeader::decode(&message.header)?,
            commit: BlockCertificate::from_proto(commit)?,
        })
    }

    /// Checks that the certificate is about the header and a quorum's, that the header names the validators it should,
    /// and queues the signatures.
    pub fn queue_signatures(
        &self,
        electorate: &Electorate,
        batch: &mut SignatureBatch,
    ) -> Result<(), CertificateError> {
        let (header, commit) = (&self.header, &self.commit);
        let chain: &ChainId = &electorate.chain;
        let subject = |holds: bool, what| {
            if holds {
                Ok(())
            } else {
                Err(CertificateError::Subject(what))
            }
        };
        subject(commit.phase == Phase::Commit, "its phase is not Commit")?;
        subject(commit.height == header.height, "its height is not the header's")?;
        subject(commit.block == header.id(chain), "its block is not the header's")?;
        let (set, next) = (
            electorate.of_height(header.height),
            electorate.of_height(header.height.next()),
        );
        subject(
            header.validators_hash == set.hash(),
            "the header names other validators",
        )?;
        let follows = header.next_validators_hash == next.hash();
        subject(follows, "the header names other validators for the next block")?;
        commit.queue_signatures(chain, set, batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::primitives::{Amount, LockHash, Output, Request, Response, TxId};
    use proptest::prelude::*;

    fn entries() -> impl Strategy<Value = Vec<(OutPoint, Coin)>> {
        let entry = (any::<[u8; 32]>(), 0u32..300, 1u64.., any::<bool>(), any::<u64>());
        let entry = entry.prop_map(|(txid, index, value, rejected, height)| {
            let (txid, height) = (TxId(txid), Height(height));
            if rejected {
                return (OutPoint::rejection(txid), Coin::rejection(height));
            }
            let output = Output {
                value: Amount(value),
                lock: LockHash([3; 32]),
            };
            (OutPoint { txid, index }, Coin { output, height })
        });
        prop::collection::vec(entry, 0..20).prop_map(|mut all| {
            all.sort_unstable_by_key(|(outpoint, _)| *outpoint);
            all.dedup_by_key(|(outpoint, _)| *outpoint);
            all
        })
    }

    proptest! {
        #[test]
        fn pages_come_back_as_they_were(entries in entries(), height: u64, more: bool) {
            let more = more && !entries.is_empty();
            let page = Response::Coins(CoinPage { height: Height(height), entries, more });
            prop_assert_eq!(Response::decode(&page.encode()), Ok(page));
        }

        #[test]
        fn requests_come_back_as_they_were(cursor in prop::collection::vec(any::<u8>(), 0..=36), limit in 1u32..=1_000) {
            let request = Request::Coins { end: cursor.clone(), cursor, limit };
            prop_assert_eq!(Request::decode(&request.encode()), Ok(request));
        }
    }

    #[test]
    fn requests_beyond_the_limits_are_refused() {
        let coins = |cursor: usize, limit: u32, end: usize| Request::Coins {
            cursor: vec![1; cursor],
            limit,
            end: vec![1; end],
        };
        for (request, expected) in [
            (coins(0, 0, 0), "requested coins: 0, allowed are 1 to 1000"),
            (coins(0, 1_001, 0), "requested coins: 1001, allowed are 1 to 1000"),
            (coins(37, 1, 0), "bytes of a coin cursor: 37, allowed are 0 to 36"),
            (coins(0, 1, 37), "bytes of a coin range's end: 37, allowed are 0 to 36"),
        ] {
            let error = Request::decode(&request.encode()).expect_err(expected);
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn pages_that_no_correct_node_sends_are_refused() {
        let entry = |first: u8, index: u32, value: u64| proto::UtxoEntry {
            outpoint: OutPoint {
                txid: TxId([first; 32]),
                index,
            }
            .to_bytes()
            .to_vec(),
            coin: Some(proto::Coin {
                value,
                lock: vec![u8::from(value > 0); 32],
                height: 1,
            }),
        };
        let page = |entries: Vec<proto::UtxoEntry>, next_cursor: Vec<u8>| {
            CoinPage::from_proto(proto::UtxoSetPage {
                height: 1,
                entries,
                next_cursor,
            })
        };
        assert!(page(vec![entry(1, 0, 5), entry(2, u32::MAX, 0)], Vec::new()).is_ok());
        let last = entry(2, 0, 5).outpoint;
        assert!(page(vec![entry(1, 0, 5), entry(2, 0, 5)], last.clone()).is_ok());
        for (entries, cursor, expected) in [
            (
                vec![entry(2, 0, 5), entry(1, 0, 5)],
                Vec::new(),
                "strictly ascending order at position 1",
            ),
            (
                vec![entry(1, 0, 5), entry(1, 0, 5)],
                Vec::new(),
                "strictly ascending order at position 1",
            ),
            (
                vec![entry(1, 0, 5)],
                last.clone(),
                "its next cursor is not its last coin",
            ),
            (Vec::new(), last, "its next cursor is not its last coin"),
            (vec![entry(1, 0, 0)], Vec::new(), "in the place of a rejection"),
            (vec![entry(1, u32::MAX, 5)], Vec::new(), "in the place of a rejection"),
            (vec![entry(1, 0, 5); 1_001], Vec::new(), "coins of a page: 1001"),
        ] {
            let error = page(entries, cursor).expect_err(expected);
            assert!(error.to_string().contains(expected), "{expected}: {error}");
        }
    }
}
