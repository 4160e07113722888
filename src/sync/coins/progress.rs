//! What survives a stop: how far a state sync has come.
//!
//! It is written in one batch with what it speaks of, so it never promises more than there is.

use crate::{
    ledger::{UTXO_BUCKETS, commitment::bucket_start},
    primitives::{BlockId, DecodeError, Epoch, Height, OutPoint, wire},
    proto,
};
use prost::Message as _;

/// What is stored of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing.
    Nothing,
    /// Its coins up to this one.
    Begun(OutPoint),
    /// All its coins.
    Whole,
}

/// A bucket and the heights that its pages were read at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bucket {
    pub(super) stage: Stage,
    /// The lowest; what came after it has to be replayed.
    pub(super) low: Height,
    /// The highest; the bucket says nothing of earlier ones.
    pub(super) high: Height,
}

impl Bucket {
    pub(super) const EMPTY: Self = Self {
        stage: Stage::Nothing,
        low: Height(u64::MAX),
        high: Height(0),
    };

    pub(super) fn is_whole(&self) -> bool {
        self.stage == Stage::Whole
    }

    /// A page of it was read at this height.
    pub(super) fn read_at(&mut self, height: Height) {
        self.low = self.low.min(height);
        self.high = self.high.max(height);
    }
}

/// How far it has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    /// The old state is still being taken away.
    pub(super) wiping: bool,
    /// Closing headers of earlier epochs are verified.
    pub(super) next_epoch: Epoch,
    /// Where the blocks begin: the last closing block, 0 when no epoch was closed. `None`: not chosen yet.
    pub(super) base: Option<(Height, BlockId)>,
    /// Blocks from the base on are stored up to here.
    pub(super) blocks_to: Height,
    /// The name of the last of them.
    pub(super) last_id: BlockId,
    /// By number.
    pub(super) buckets: Vec<Bucket>,
    /// Coins fetched, those thrown away again included.
    pub(super) coins: u64,
}

impl Progress {
    /// At the very beginning.
    pub(super) fn new(first_epoch: Epoch) -> Self {
        Self {
            wiping: true,
            next_epoch: first_epoch,
            base: None,
            blocks_to: Height(0),
            last_id: BlockId([0; 32]),
            buckets: vec![Bucket::EMPTY; UTXO_BUCKETS],
            coins: 0,
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let state = |bucket: &Bucket| match bucket.stage {
            Stage::Nothing => 0,
            Stage::Begun(_) => 1,
            Stage::Whole => 2,
        };
        let cursor = |bucket: &Bucket| match bucket.stage {
            Stage::Begun(cursor) => Some(cursor.to_bytes().to_vec()),
            _ => None,
        };
        let (base, base_id) = self.base.unwrap_or((Height(0), BlockId([0; 32])));
        proto::SyncProgress {
            wiping: self.wiping,
            next_epoch: self.next_epoch.0,
            chosen: self.base.is_some(),
            base: base.0,
            base_id: base_id.0.to_vec(),
            blocks_to: self.blocks_to.0,
            last_id: self.last_id.0.to_vec(),
            states: self.buckets.iter().map(state).collect(),
            lows: self.buckets.iter().map(|bucket| bucket.low.0).collect(),
            highs: self.buckets.iter().map(|bucket| bucket.high.0).collect(),
            cursors: self.buckets.iter().filter_map(cursor).collect(),
            coins: self.coins,
        }
        .encode_to_vec()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let message: proto::SyncProgress = wire::decode("sync progress", bytes)?;
        for count in [message.states.len(), message.lows.len(), message.highs.len()] {
            wire::count("buckets of a sync progress", count, UTXO_BUCKETS, UTXO_BUCKETS)?;
        }
        let mut cursors = message.cursors.iter();
        let mut buckets = Vec::with_capacity(UTXO_BUCKETS);
        for ((state, low), high) in message.states.iter().zip(&message.lows).zip(&message.highs) {
            let stage = match state {
                0 => Stage::Nothing,
                1 => Stage::Begun(OutPoint::from_bytes(wire::required(
                    "cursor of a bucket",
                    cursors.next(),
                )?)?),
                2 => Stage::Whole,
                other => {
                    return Err(DecodeError::Unknown {
                        what: "state of a bucket",
                        value: i64::from(*other),
                    });
                }
            };
            buckets.push(Bucket {
                stage,
                low: Height(*low),
                high: Height(*high),
            });
        }
        let base = (
            Height(message.base),
            BlockId(wire::array("base of a sync", &message.base_id)?),
        );
        Ok(Self {
            wiping: message.wiping,
            next_epoch: Epoch(message.next_epoch),
            base: message.chosen.then_some(base),
            blocks_to: Height(message.blocks_to),
            last_id: BlockId(wire::array("last block of a sync", &message.last_id)?),
            buckets,
            coins: message.coins,
        })
    }

    /// The next block to store.
    pub(super) fn next_block(&self) -> Height {
        match self.base {
            Some((base, _)) if self.blocks_to < base => base,
            _ => self.blocks_to.next(),
        }
    }

    /// Where reading a bucket goes on.
    pub(super) fn cursor(&self, bucket: u16) -> Vec<u8> {
        match self.buckets[usize::from(bucket)].stage {
            Stage::Begun(cursor) => cursor.to_bytes().to_vec(),
            _ => bucket_start(usize::from(bucket)),
        }
    }

    /// How many buckets are whole.
    pub(super) fn whole(&self) -> usize {
        self.buckets.iter().filter(|bucket| bucket.is_whole()).count()
    }

    /// The lowest height that something was read at: replaying begins after it.
    pub(super) fn lowest(&self) -> Height {
        self.buckets.iter().map(|bucket| bucket.low).min().unwrap_or_default()
    }

    /// The highest height that something was read at.
    pub(super) fn highest(&self) -> Height {
        self.buckets.iter().map(|bucket| bucket.high).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::primitives::TxId;

    #[test]
    fn progress_comes_back_as_it_was() {
        let mut progress = Progress::new(Epoch(3));
        let cursor = OutPoint {
            txid: TxId([7; 32]),
            index: 9,
        };
        progress.buckets[28].stage = Stage::Begun(cursor);
        progress.buckets[28].read_at(Height(40));
        progress.buckets[28].read_at(Height(38));
        progress.buckets[1023].stage = Stage::Whole;
        assert_eq!(Progress::decode(&progress.encode()), Ok(progress.clone()));
        progress.base = Some((Height(30), BlockId([4; 32])));
        (progress.blocks_to, progress.last_id, progress.coins) = (Height(35), BlockId([5; 32]), 1_000);
        assert_eq!(Progress::decode(&progress.encode()), Ok(progress.clone()));
        assert_eq!((progress.lowest(), progress.highest()), (Height(38), Height(40)));
        assert_eq!(progress.cursor(28), cursor.to_bytes());
        assert_eq!(progress.cursor(29), bucket_start(29));
        assert_eq!(progress.whole(), 1);
    }

    #[test]
    fn damaged_progress_is_refused() {
        let message = |change: fn(&mut proto::SyncProgress)| {
            let mut message = proto::SyncProgress::decode(&Progress::new(Epoch(0)).encode()[..]).expect("decodes");
            change(&mut message);
            Progress::decode(&message.encode_to_vec())
        };
        assert!(message(|_| {}).is_ok());
        assert!(message(|message| message.states.truncate(5)).is_err());
        assert!(message(|message| message.states[5] = 1).is_err(), "no cursor");
        assert!(message(|message| message.states[5] = 3).is_err());
        assert!(message(|message| message.base_id.truncate(31)).is_err());
    }

    #[test]
    fn blocks_begin_with_the_base() {
        let mut progress = Progress::new(Epoch(0));
        progress.base = Some((Height(0), BlockId([1; 32])));
        assert_eq!(progress.next_block(), Height(1));
        progress.base = Some((Height(30), BlockId([1; 32])));
        assert_eq!(progress.next_block(), Height(30));
        progress.blocks_to = Height(30);
        assert_eq!(progress.next_block(), Height(31));
    }
}
