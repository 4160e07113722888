//! From settings to an open node: genesis, keys, store, safety log, replica. Everything here blocks and runs off the async
//! threads.

use super::{
    Config, clock,
    discovery::Announcer,
    http,
    metrics::{Meters, MetricsError},
    peers_file::{self, Remembered},
    run::Voice,
    safety::{Safety, SafetyError},
};
use crate::{
    api, network,
    primitives::{Genesis, PublicKey, genesis::GenesisError, limits::MAX_GENESIS_SIZE, message::Electorate},
    replica::{Core, Effects, OpenError, Records, SafetyRecord, Setup},
    signer::{KeyFile, KeyFileError, KeyKind, LocalSigner, Signer},
    store::{
        backend::StoreError,
        ledger_store::{LedgerStore, LedgerStoreError, StoreOptions},
        sled_backend::{SledBackend, SledOptions},
    },
};
use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};
use thiserror::Error;

/// Why a node does not start. Each says what to do.
#[derive(Debug, Error)]
pub enum StartError {
    /// The genesis cannot be read.
    #[error(
        "the genesis {path} cannot be read: {source}. Get it from whoever runs the network, or make one with `timecoin genesis new` (setting: genesis)"
    )]
    ReadGenesis {
        /// Where it should be.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// The genesis is none.
    #[error("the genesis {path} is not valid: {source}")]
    Genesis {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: GenesisError,
    },
    /// The data directory cannot be made.
    #[error("the data directory {path} cannot be made: {source} (setting: data_dir)")]
    DataDir {
        /// Which.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// A key.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// The files of the store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is in the store.
    #[error(transparent)]
    Ledger(#[from] LedgerStoreError),
    /// The safety log.
    #[error(transparent)]
    Safety(#[from] SafetyError),
    /// The replica.
    #[error(transparent)]
    Replica(#[from] OpenError),
    /// The network.
    #[error(transparent)]
    Network(#[from] network::NetworkError),
    /// The API.
    #[error(transparent)]
    Api(#[from] api::ServeError),
    /// Metrics and health.
    #[error(transparent)]
    Http(#[from] http::HttpError),
    /// Metrics.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// An address that is listened on cannot be told.
    #[error("an address that is listened on cannot be told: {0}")]
    Address(io::Error),
    /// A thread cannot be started.
    #[error("the thread {name} cannot be started: {source}")]
    Thread {
        /// Which.
        name: String,
        /// What the operating system says.
        source: io::Error,
    },
    /// A part of opening has panicked.
    #[error("opening the node has panicked; the message is above. This is a mistake in the program")]
    Panic,
}

/// An open node, before anything runs.
pub(super) struct Opened {
    pub genesis: Arc<Genesis>,
    pub electorate: Electorate,
    pub store: Arc<LedgerStore>,
    pub replica: Core,
    /// Of opening the replica, to be served first.
    pub first: Effects,
    pub voice: Option<Voice>,
    pub validator: Option<PublicKey>,
    /// Signs where this validator is; never a vote.
    pub announcer: Option<Announcer>,
    pub identity_seed: [u8; 32],
    /// Peers of before.
    pub remembered: Remembered,
}

/// Reads and checks a genesis file.
pub fn read_genesis(path: &Path) -> Result<Genesis, StartError> {
    let read = |source: io::Error| StartError::ReadGenesis {
        path: path.to_owned(),
        source,
    };
    let length = std::fs::metadata(path).map_err(read)?.len();
    if length > MAX_GENESIS_SIZE as u64 {
        let reason = format!("it has {length} bytes, a genesis has at most {MAX_GENESIS_SIZE}");
        return Err(read(io::Error::new(io::ErrorKind::FileTooLarge, reason)));
    }
    let bytes = std::fs::read(path).map_err(read)?;
    Genesis::decode(&bytes).map_err(|source| StartError::Genesis {
        path: path.to_owned(),
        source,
    })
}

/// Makes the empty safety log of a validator that has never voted on this chain, once, with its data directory. Never
/// done implicitly: a log that is missing otherwise means that votes are forgotten.
pub fn create_safety_log(config: &Config, key: PublicKey, genesis: &Genesis) -> Result<(), StartError> {
    make_data_dir(&config.data_dir)?;
    Ok(Safety::create(&config.safety_log(), key, genesis.chain_id())?)
}

fn make_data_dir(path: &Path) -> Result<(), StartError> {
    std::fs::create_dir_all(path).map_err(|source| StartError::DataDir {
        path: path.to_owned(),
        source,
    })
}

/// Opens everything, off the async threads.
pub(super) async fn open(config: &Config, meters: &Arc<Meters>) -> Result<Opened, StartError> {
    let (config, meters) = (config.clone(), meters.clone());
    let opened = tokio::task::spawn_blocking(move || open_blocking(&config, &meters)).await;
    opened.map_err(|_| StartError::Panic)?
}

fn open_blocking(config: &Config, meters: &Arc<Meters>) -> Result<Opened, StartError> {
    let genesis = Arc::new(read_genesis(&config.genesis)?);
    let chain = genesis.chain_id();
    make_data_dir(&config.data_dir)?;
    let key = config.validator_key.as_deref();
    let key = key.map(|path| KeyFile::load(path, KeyKind::Validator)).transpose()?;
    let options = SledOptions {
        cache_bytes: config.store.cache_bytes,
        generation_bytes: config.store.generation_bytes,
    };
    let backend = Arc::new(SledBackend::open(&config.store_dir(), options)?);
    let store = Arc::new(LedgerStore::open_with(
        backend,
        &genesis,
        StoreOptions {
            coin_cache_bytes: config.store.coin_cache_bytes,
            retain_blocks: config.store.retain_blocks,
        },
    )?);
    let identity_seed = node_key(&config.node_key())?;
    let validator = key.as_ref().map(KeyFile::public_key);
    let announcer = key.as_ref().map(|key| {
        let signer: Box<dyn Signer> = Box::new(LocalSigner::new(&key.secret));
        Arc::new(Mutex::new(signer))
    });
    let remembered = peers_file::read(&config.peers_file(), &chain);
    tracing::info!(chain = %chain, network = genesis.network, height = store.height().0, "store opened");

    let path = config.safety_log();
    let log = validator
        .map(|own| Safety::open(&path, own, chain, meters))
        .transpose()?
        .flatten();
    let (safety, records) = match (log, validator) {
        (Some((safety, records)), _) => (Some(safety), Records::Kept(records)),
        (None, Some(_)) => {
            tracing::error!(
                path = %path.display(),
                "the safety log of this validator is missing: what its key has signed is not known, so it stays silent \
                 until the next epoch. Bring the log back if it was moved; for a key that has never been used, stop \
                 and start once with --new-validator"
            );
            (None, Records::Missing)
        }
        (None, None) => (None, Records::Kept(Vec::new())),
    };
    let electorate = Electorate::new(chain, genesis.params.epoch_length, Arc::new(genesis.validators.clone()));
    let setup = Setup {
        genesis: genesis.clone(),
        electorate: electorate.clone(),
        own: validator,
        pool: config.pool.clone(),
        seed: rand::random(),
    };
    if let Some(own) = validator.filter(|own| genesis.validators.index_of(own).is_none()) {
        tracing::warn!(key = %own, "the validator key is not in the validator set: this node does not vote");
    }
    let sync = config.sync.rules().unwrap_or_default();
    let (replica, mut first) = Core::open(setup, sync, store.as_ref(), records, clock::wall())?;
    let voice = match key {
        None => None,
        Some(key) => {
            let safety = match safety {
                Some(safety) => safety,
                None => replace_lost(&path, &key, chain, meters, &replica, &mut first)?,
            };
            let signer = Box::new(LocalSigner::new(&key.secret));
            Some(Voice { safety, signer })
        }
    };
    Ok(Opened {
        genesis,
        electorate,
        store,
        replica,
        first,
        voice,
        validator,
        announcer,
        identity_seed,
        remembered,
    })
}

/// The log that takes the place of a lost one begins with what the replica says about that.
fn replace_lost(
    path: &Path,
    key: &KeyFile,
    chain: crate::primitives::ChainId,
    meters: &Arc<Meters>,
    replica: &Core,
    first: &mut Effects,
) -> Result<Safety, StartError> {
    let mut records = std::mem::take(&mut first.remember);
    if !records.iter().any(|record| matches!(record, SafetyRecord::Silent(_))) {
        records.push(SafetyRecord::Silent(replica.snapshot().epoch));
    }
    Ok(Safety::replace_lost(path, key.public_key(), chain, meters, &records)?)
}

/// The seed of the node's name among its peers; made at the first start. It signs no vote, so losing it costs nothing
/// but the name.
fn node_key(path: &Path) -> Result<[u8; 32], StartError> {
    let key = match KeyFile::load(path, KeyKind::Node) {
        Err(KeyFileError::Missing { .. }) => {
            let key = KeyFile::generate(KeyKind::Node);
            key.save(path)?;
            key
        }
        other => other?,
    };
    Ok(*key.secret.seed())
}
