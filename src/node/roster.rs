//! Where the validators are: their announcements, checked, the latest of each; told to whoever asks, and to the network,
//! which stays connected to all of them when this node is a validator itself.

use crate::{
    network::Commands,
    primitives::{Announcement, ChainId, DecodeError, Fault, PublicKey, ValidatorSet, keys},
};
use libp2p::Multiaddr;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use thiserror::Error;

/// Why an announcement counts for nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AnnouncementError {
    /// Its form is wrong.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The key does not vote; or not yet, or no longer.
    #[error("the key {0} is not in the validator set of this epoch")]
    NotAValidator(PublicKey),
    /// Somebody else says so.
    #[error("the announcement of validator {0} is not signed by it")]
    Signature(PublicKey),
    /// The signed bytes name no peer, or no address.
    #[error("the announcement of validator {validator} has {what} that cannot be read")]
    Unreadable {
        /// Whose.
        validator: PublicKey,
        /// What.
        what: &'static str,
    },
}

impl AnnouncementError {
    /// What it says about whoever passed it on. A node that is behind, or ahead, has another validator set.
    pub const fn fault(&self) -> Fault {
        match self {
            Self::NotAValidator(_) => Fault::Late,
            Self::Decode(error) => error.fault(),
            Self::Signature(_) | Self::Unreadable { .. } => Fault::Hostile,
        }
    }
}

/// A peer, and where it is.
type Place = (libp2p::PeerId, Vec<Multiaddr>);

struct Entry {
    announcement: Announcement,
    place: Place,
}

/// Tells the validator set of the epoch.
pub type PresentSet = Box<dyn Fn() -> Arc<ValidatorSet> + Send + Sync>;

/// All announcements held: at most one of each validator of the present set.
pub struct Roster {
    chain: ChainId,
    present: PresentSet,
    own: Option<PublicKey>,
    commands: Commands,
    latest: Mutex<BTreeMap<PublicKey, Entry>>,
}

impl Roster {
    /// Empty. `own`: the key of this node, if it is a validator.
    pub fn new(chain: ChainId, present: PresentSet, own: Option<PublicKey>, commands: Commands) -> Self {
        Self {
            chain,
            present,
            own,
            commands,
            latest: Mutex::default(),
        }
    }

    /// Checks an announcement and keeps it if it is news. Whether it was.
    ///
    /// # Errors
    /// [`AnnouncementError`], and then nothing has changed.
    pub fn take(&self, announcement: Announcement) -> Result<bool, AnnouncementError> {
        let validator = announcement.validator;
        let set = (self.present)();
        if set.index_of(&validator).is_none() {
            return Err(AnnouncementError::NotAValidator(validator));
        }
        let known = |latest: &BTreeMap<PublicKey, Entry>| {
            let held = latest.get(&validator);
            held.is_some_and(|held| held.announcement.counter >= announcement.counter)
        };
        // What is old costs no signature.
        if known(&self.lock()) {
            return Ok(false);
        }
        if !keys::verify(&validator, &announcement.digest(&self.chain), &announcement.signature) {
            return Err(AnnouncementError::Signature(validator));
        }
        let place = place(&announcement)?;
        let mut latest = self.lock();
        if known(&latest) {
            return Ok(false);
        }
        latest.retain(|key, _| set.index_of(key).is_some());
        tracing::info!(%validator, identity = %place.0, addresses = ?place.1, "a validator says where it is");
        latest.insert(validator, Entry { announcement, place });
        self.keep(&latest, &set);
        Ok(true)
    }

    /// The answer for whoever asks for all of them.
    pub fn answer(&self) -> Vec<u8> {
        Announcement::answer(self.lock().values().map(|entry| &entry.announcement))
    }

    /// All of them.
    pub fn all(&self) -> Vec<Announcement> {
        self.lock().values().map(|entry| entry.announcement.clone()).collect()
    }

    /// Whether a validator beside this one has not been heard of.
    pub fn is_incomplete(&self) -> bool {
        let (set, latest) = ((self.present)(), self.lock());
        set.iter()
            .any(|(_, member)| Some(member.public_key) != self.own && !latest.contains_key(&member.public_key))
    }

    /// Validators stay connected to one another; other nodes have no need of all of them.
    fn keep(&self, latest: &BTreeMap<PublicKey, Entry>, set: &ValidatorSet) {
        let Some(own) = self.own.filter(|own| set.index_of(own).is_some()) else {
            return;
        };
        let others = latest.iter().filter(|(key, _)| **key != own);
        self.commands
            .keep(others.map(|(_, entry)| entry.place.clone()).collect());
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PublicKey, Entry>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place(announcement: &Announcement) -> Result<Place, AnnouncementError> {
    let unreadable = |what| AnnouncementError::Unreadable {
        validator: announcement.validator,
        what,
    };
    let peer = libp2p::PeerId::from_bytes(&announcement.peer).map_err(|_| unreadable("a peer id"))?;
    let read = |bytes: &Vec<u8>| Multiaddr::try_from(bytes.clone()).map_err(|_| unreadable("an address"));
    let addresses = announcement.addresses.iter().map(read).collect::<Result<_, _>>()?;
    Ok((peer, addresses))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        network,
        primitives::{LockHash, SecretKey, Signature, Validator},
    };
    use tokio_util::sync::CancellationToken;

    const CHAIN: ChainId = ChainId([9; 32]);

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_seed([seed; 32])
    }

    /// The roster of validator 1 of 1, 2 and 3.
    async fn roster() -> (Roster, network::Network) {
        let config = network::Config {
            listen: Vec::new(),
            ..network::Config::default()
        };
        let network = network::spawn(config, [1; 32], CHAIN.0, vec![], CancellationToken::new()).await;
        let network = network.expect("starts");
        let validator = |seed| Validator {
            public_key: key(seed).public(),
            power: 1,
            payout: LockHash([0; 32]),
        };
        let set = Arc::new(ValidatorSet::new((1..=3).map(validator).collect()).expect("a set"));
        let own = Some(key(1).public());
        let roster = Roster::new(CHAIN, Box::new(move || set.clone()), own, network.commands.clone());
        (roster, network)
    }

    fn said(seed: u8, counter: u64) -> Announcement {
        let address: Multiaddr = "/ip4/192.0.2.1/tcp/7310".parse().expect("an address");
        let mut announcement = Announcement {
            validator: key(seed).public(),
            peer: network::identity([seed; 32]).to_bytes(),
            addresses: vec![address.to_vec()],
            counter,
            signature: Signature([0; 64]),
        };
        announcement.signature = key(seed).sign(&announcement.digest(&CHAIN));
        announcement
    }

    #[tokio::test]
    async fn the_latest_counts_and_an_old_one_played_back_does_not() {
        let (roster, _network) = roster().await;
        assert!(roster.is_incomplete());
        assert_eq!(roster.take(said(2, 10)), Ok(true));
        assert_eq!(roster.take(said(2, 10)), Ok(false));
        assert_eq!(roster.take(said(2, 9)), Ok(false));
        assert_eq!(roster.take(said(2, 11)), Ok(true));
        assert_eq!(roster.all(), [said(2, 11)]);
        assert!(roster.is_incomplete());
        assert_eq!(roster.take(said(3, 1)), Ok(true));
        assert!(!roster.is_incomplete(), "its own is not missed");
        let answered = Announcement::from_answer(&roster.answer()).expect("decodes");
        assert_eq!(answered.len(), 2);
    }

    #[tokio::test]
    async fn only_validators_are_taken_in_and_only_their_own_word() {
        let (roster, _network) = roster().await;
        let stranger = roster.take(said(4, 1)).expect_err("not of the set");
        assert_eq!(
            (stranger.clone(), stranger.fault()),
            (AnnouncementError::NotAValidator(key(4).public()), Fault::Late)
        );
        let mut forged = said(2, 1);
        forged.signature = key(3).sign(&forged.digest(&CHAIN));
        let forged = roster.take(forged).expect_err("another's signature");
        assert_eq!(forged.fault(), Fault::Hostile);
        let mut elsewhere = said(2, 1);
        elsewhere.signature = key(2).sign(&elsewhere.digest(&ChainId([8; 32])));
        assert!(
            matches!(roster.take(elsewhere), Err(AnnouncementError::Signature(_))),
            "for another chain"
        );
        let mut nonsense = said(2, 1);
        nonsense.addresses = vec![vec![0xFF; 9]];
        nonsense.signature = key(2).sign(&nonsense.digest(&CHAIN));
        assert!(matches!(
            roster.take(nonsense),
            Err(AnnouncementError::Unreadable { .. })
        ));
        assert!(roster.all().is_empty());
    }
}
