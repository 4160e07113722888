//! A past for a test network: blocks that its validators might have made, by the rules of the ledger and with their
//! keys, written into their stores before they start.
//!
//! Each payment has one input and two outputs, so the set of coins grows by one with each. A thread signs and checks the
//! payments of the next blocks, another applies and writes them.

use super::layout::Layout;
use crate::{
    cli::{
        load::payers::{self, Coin},
        read_genesis,
    },
    ledger::{
        Batch, CheckedTransaction, Commitment, Content, View as _,
        apply::{apply_block, build_header},
        check,
    },
    node::Config,
    primitives::{
        Amount, Block, BlockCertificate, ChainId, CommittedBlock, EpochSeal, Genesis, Height, LockHash, OutPoint,
        Output, Phase, Round, SecretKey, Signature, ValidatorIndex, keys::KeySigner, message::Electorate,
        vote::block_vote_digest,
    },
    signer::{KeyFile, KeyKind},
    store::{
        ledger_store::{LedgerStore, StoreOptions},
        sled_backend::{SledBackend, SledOptions},
    },
    wallet::Wallet,
};
use anyhow::{Context as _, ensure};
use serde::Deserialize;
use std::{
    collections::VecDeque,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
};

/// Keys that the coins are spread over.
const PAYERS: u8 = 100;
/// Blocks whose payments lie ready, at most.
const BLOCKS_AHEAD: usize = 16;
/// First coins, in blocks of payments: so a coin is not spent right after it was made.
const BLOCKS_OF_FIRST_COINS: usize = 2;

/// A chain that has been going on for a while.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct History {
    /// Blocks so far.
    pub(super) blocks: u64,
    /// Payments in each.
    pub(super) payments: usize,
}

/// A validator that was away for the last blocks of the history.
#[derive(Clone, Copy, Debug)]
pub(super) struct Away {
    /// Its number.
    pub(super) validator: usize,
    /// How many blocks it lacks.
    pub(super) blocks: u64,
}

/// Writes the history into the stores of all validators, if they have none.
pub(super) fn forge(layout: &Layout, history: &History, away: &[Away]) -> anyhow::Result<()> {
    let genesis = Arc::new(read_genesis(&layout.genesis())?);
    let present = (0..layout.nodes.len())
        .find(|number| away.iter().all(|away| away.validator != *number))
        .context("nobody was there for the whole history")?;
    let (_, first) = open_store(layout, present, &genesis)?;
    let found = first.height();
    ensure!(
        found == Height(0) || found.0 >= history.blocks,
        "the network in {} has {found} blocks, the history is to have {}: take another directory",
        layout.dir.display(),
        history.blocks
    );
    if found > Height(0) {
        return Ok(());
    }
    drop(first);
    // Directories are copied while no store is open.
    let mut stops: Vec<u64> = away
        .iter()
        .map(|away| history.blocks.saturating_sub(away.blocks))
        .collect();
    stops.push(history.blocks);
    stops.sort_unstable();
    stops.dedup();
    let payments = Payments::new(layout, &genesis, history)?;
    let payments = payments.sign_ahead(history.blocks);
    let mut forge = Forge::new(layout, &genesis)?;
    for stop in stops {
        forge.extend_to(Height(stop), || open_store(layout, present, &genesis), &payments)?;
        let leaves = away
            .iter()
            .filter(|away| history.blocks.saturating_sub(away.blocks) == stop);
        for away in leaves {
            copy_store(layout, present, away.validator)?;
        }
    }
    let others = (0..layout.nodes.len()).filter(|number| *number != present);
    for number in others.filter(|number| away.iter().all(|away| away.validator != *number)) {
        copy_store(layout, present, number)?;
    }
    Ok(())
}

fn open_store(layout: &Layout, number: usize, genesis: &Genesis) -> anyhow::Result<(Arc<SledBackend>, LedgerStore)> {
    let dir = store_dir(layout, number)?;
    let backend = Arc::new(SledBackend::open(&dir, SledOptions::default())?);
    let store = LedgerStore::open_with(backend.clone(), genesis, StoreOptions::default())?;
    Ok((backend, store))
}

fn store_dir(layout: &Layout, number: usize) -> anyhow::Result<PathBuf> {
    let (config, _) = Config::load(Some(&layout.nodes[number].config()), [], &[])?;
    Ok(config.store_dir())
}

fn copy_store(layout: &Layout, from: usize, to: usize) -> anyhow::Result<()> {
    let (from, to) = (store_dir(layout, from)?, store_dir(layout, to)?);
    copy_dir(&from, &to).with_context(|| format!("{} cannot be copied to {}", from.display(), to.display()))
}

fn copy_dir(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_dir(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Makes the payments, block by block.
struct Payments {
    chain: ChainId,
    /// Opens the first coins.
    faucet: KeySigner,
    payers: Vec<KeySigner>,
    locks: Vec<LockHash>,
    /// Unspent, the oldest first, and whose they are: `None` for the faucet's.
    coins: VecDeque<(Coin, Option<u8>)>,
    fee: Amount,
    /// In each block.
    count: usize,
    /// Turns through the payers.
    turn: u8,
}

impl Payments {
    fn new(layout: &Layout, genesis: &Genesis, history: &History) -> anyhow::Result<Self> {
        let wallet = Wallet::open(&layout.faucet())?;
        let key = wallet.keys().first().context("the faucet has no key")?;
        let wanted = BLOCKS_OF_FIRST_COINS * history.payments;
        let coins: VecDeque<(Coin, Option<u8>)> = genesis
            .named_coins()
            .filter(|(_, coin)| coin.output.lock == key.lock)
            .take(wanted)
            .map(|(outpoint, coin)| {
                let value = coin.output.value;
                (Coin { outpoint, value }, None)
            })
            .collect();
        ensure!(
            coins.len() == wanted,
            "the faucet has {} coins, {wanted} are needed for {} payments in a block",
            coins.len(),
            history.payments
        );
        let payers: Vec<KeySigner> = (0..PAYERS).map(|_| payers::new_signer()).collect();
        Ok(Self {
            chain: genesis.chain_id(),
            faucet: key.secret.signer(),
            locks: payers.iter().map(|signer| signer.public().lock()).collect(),
            payers,
            coins,
            fee: Amount(genesis.params.min_fee_rate * payers::PAYMENT_BYTES),
            count: history.payments,
            turn: 0,
        })
    }

    /// A payment out of the oldest coin: half to the next payer, half to the one after.
    fn next(&mut self) -> anyhow::Result<Vec<u8>> {
        let (coin, owner) = self.coins.pop_front().context("all coins are spent")?;
        let rest = coin.value.checked_sub(self.fee).unwrap_or_default();
        let half = Amount(rest.0 / 2);
        ensure!(
            half > Amount::ZERO,
            "coin {} of {} units is too small to be paid with",
            coin.outpoint,
            coin.value.0
        );
        let values = [half, Amount(rest.0 - half.0)];
        let owners = values.map(|_| {
            self.turn = (self.turn + 1) % PAYERS;
            self.turn
        });
        let output = |(value, owner): (Amount, u8)| Output {
            value,
            lock: self.locks[usize::from(owner)],
        };
        let signer = owner.map_or(&self.faucet, |owner| &self.payers[usize::from(owner)]);
        let outputs = values.into_iter().zip(owners).map(output).collect();
        let payment = payers::sign(&self.chain, signer, coin.outpoint, outputs);
        for ((value, owner), index) in values.into_iter().zip(owners).zip(0..) {
            let outpoint = OutPoint {
                txid: payment.txid,
                index,
            };
            self.coins.push_back((Coin { outpoint, value }, Some(owner)));
        }
        Ok(payment.bytes)
    }

    fn next_block(&mut self) -> anyhow::Result<Vec<CheckedTransaction>> {
        let bytes: Vec<Vec<u8>> = (0..self.count).map(|_| self.next()).collect::<anyhow::Result<_>>()?;
        let checked = check::check_all(&self.chain, &bytes).into_iter();
        Ok(checked.collect::<Result<_, _>>()?)
    }

    /// Makes the payments of so many blocks on a thread, which ends when nobody takes them any more.
    fn sign_ahead(mut self, blocks: u64) -> mpsc::Receiver<anyhow::Result<Vec<CheckedTransaction>>> {
        let (sender, receiver) = mpsc::sync_channel(BLOCKS_AHEAD);
        std::thread::spawn(move || {
            for _ in 0..blocks {
                if sender.send(self.next_block()).is_err() {
                    return;
                }
            }
        });
        receiver
    }
}

/// Makes blocks, and has all validators agree.
struct Forge {
    genesis: Arc<Genesis>,
    electorate: Electorate,
    /// By index in the set.
    validators: Vec<KeySigner>,
}

impl Forge {
    fn new(layout: &Layout, genesis: &Arc<Genesis>) -> anyhow::Result<Self> {
        let mut validators: Vec<SecretKey> = Vec::new();
        for node in &layout.nodes {
            validators.push(KeyFile::load(&node.dir.join("validator.key"), KeyKind::Validator)?.secret);
        }
        validators.sort_by_key(SecretKey::public);
        let (chain, length) = (genesis.chain_id(), genesis.params.epoch_length);
        Ok(Self {
            electorate: Electorate::new(chain, length, Arc::new(genesis.validators.clone())),
            validators: validators.iter().map(SecretKey::signer).collect(),
            genesis: genesis.clone(),
        })
    }

    /// Makes the blocks up to a height, and closes the store.
    fn extend_to(
        &mut self,
        height: Height,
        open: impl Fn() -> anyhow::Result<(Arc<SledBackend>, LedgerStore)>,
        payments: &mpsc::Receiver<anyhow::Result<Vec<CheckedTransaction>>>,
    ) -> anyhow::Result<()> {
        let (backend, store) = open()?;
        let mut commitment = Commitment::load(&store)?;
        let mut last_commit = store.block(store.height())?.map(|block| block.commit);
        while store.height() < height {
            let transactions = payments.recv().context("the payments have ended too early")??;
            let content = self.content(&store, transactions, last_commit.take())?;
            let params = &self.genesis.params;
            let applied = apply_block(&store, &commitment, params, &self.electorate, &content)?;
            commitment.commit(&applied);
            let commit = self.certificate(&content);
            last_commit = Some(commit.clone());
            let block = committed(content, commit);
            store.apply(&Batch { applied, block })?;
        }
        // A validator that has been running has no long journals to read when it starts.
        Ok(backend.settle()?)
    }

    /// The next block: each validator leads in its turn, one block interval after the last.
    fn content(
        &self,
        store: &LedgerStore,
        transactions: Vec<CheckedTransaction>,
        last_commit: Option<BlockCertificate>,
    ) -> anyhow::Result<Content> {
        let (tip, params) = (store.tip()?, &self.genesis.params);
        let proposer = (tip.height.0 % self.validators.len() as u64) as ValidatorIndex;
        let seals = self.seals(tip.height.next());
        let header = build_header(
            &tip,
            params,
            &self.electorate,
            proposer,
            tip.time.plus_ms(params.block_interval_ms),
            &transactions,
            &[],
            &seals,
            last_commit.as_ref(),
        );
        Ok(Content {
            header,
            transactions,
            rejections: vec![],
            seals,
            last_commit,
        })
    }

    /// Of all validators, when the block closes an epoch: everything that was final is in blocks.
    fn seals(&self, height: Height) -> Vec<EpochSeal> {
        let length = self.genesis.params.epoch_length;
        if !height.closes_epoch(length) {
            return vec![];
        }
        let seal = |(validator, signer): (ValidatorIndex, &KeySigner)| {
            let mut seal = EpochSeal {
                epoch: height.epoch(length),
                validator,
                txids: vec![],
                signature: Signature([0; 64]),
            };
            seal.signature = signer.sign(&seal.digest(&self.electorate.chain));
            seal
        };
        (0..).zip(&self.validators).map(seal).collect()
    }

    fn certificate(&self, content: &Content) -> BlockCertificate {
        let (height, round) = (content.header.height, Round(0));
        let block = content.header.id(&self.electorate.chain);
        let digest = block_vote_digest(&self.electorate.chain, Phase::Commit, height, round, &block);
        let signatures = (0..).zip(&self.validators);
        BlockCertificate {
            height,
            round,
            phase: Phase::Commit,
            block,
            signatures: signatures
                .map(|(validator, signer)| (validator, signer.sign(&digest)))
                .collect(),
        }
    }
}

fn committed(content: Content, commit: BlockCertificate) -> CommittedBlock {
    let bytes = content
        .transactions
        .iter()
        .map(|transaction| transaction.bytes().to_vec());
    let block = Block {
        transactions: bytes.collect(),
        header: content.header,
        rejections: content.rejections,
        seals: content.seals,
        last_commit: content.last_commit,
    };
    CommittedBlock { block, commit }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cli::testnet::layout::Blueprint, ledger::StateView as _, primitives::Params};

    #[test]
    fn a_history_is_a_chain_by_the_rules_that_newcomers_can_check() {
        let dir = tempfile::tempdir().expect("a directory");
        let blueprint = Blueprint {
            validators: 4,
            params: Params {
                epoch_length: 5,
                ..Params::default()
            },
            age_ms: 12_000,
        };
        let layout = Layout::open_or_create(&dir.path().join("net"), &blueprint).expect("a network");
        let history = History {
            blocks: 12,
            payments: 20,
        };
        let away = Away {
            validator: 3,
            blocks: 4,
        };
        forge(&layout, &history, &[away]).expect("a history");
        let genesis = Arc::new(read_genesis(&layout.genesis()).expect("a genesis"));
        let heights: Vec<u64> = (0..4)
            .map(|number| open_store(&layout, number, &genesis).expect("opens").1.height().0)
            .collect();
        assert_eq!(heights, [12, 12, 12, 8]);
        let (_, store) = open_store(&layout, 2, &genesis).expect("opens");
        let tip = store.tip().expect("a tip");
        assert_eq!(Commitment::load(&store).expect("buckets").root(), tip.utxo_root);
        let (_, coins) = store.coins_after(&[], usize::MAX >> 1).expect("coins");
        let paid = genesis.validators.len(); // of each closed epoch, all four have signed
        assert_eq!(coins.len(), genesis.coins.len() + 12 * 20 + 2 * paid);
        let forge_ = Forge::new(&layout, &genesis).expect("keys");
        for height in 1..=12 {
            let block = store.block(Height(height)).expect("reads").expect("is there");
            check::check_certified(&forge_.electorate, &block).expect("certified, all signatures right");
        }
        assert!(
            store
                .closing_header(crate::primitives::Epoch(1))
                .expect("reads")
                .is_some()
        );
        forge(&layout, &history, &[away]).expect("is there already");
        let longer = History { blocks: 13, ..history };
        let error = forge(&layout, &longer, &[away]).expect_err("too short").to_string();
        assert!(error.contains("has 12 blocks") && error.contains("13"), "{error}");
    }
}
