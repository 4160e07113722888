//! Hand-made validators, blocks and votes. Nothing is signed: signatures are checked before the machine sees anything.

use crate::{
    consensus::{Action, Config, Consensus, Mark, Statement, Work},
    ledger::Tip,
    primitives::{
        Amount, BlockCertificate, BlockHeader, BlockId, BlockVote, ChainId, Epoch, Hash, Height, LockHash, Params,
        Phase, PreparedClaim, Proposal, PublicKey, Round, RoundCertificate, Signature, Time, TxId, Validator,
        ValidatorSet, ViewChange,
        block::{rejections_root, seals_root, transactions_root},
        certificate::ViewChangeVote,
        message::Electorate,
    },
};
use std::sync::Arc;

pub const CHAIN: ChainId = ChainId([9; 32]);
pub const START: Time = Time(1_700_000_000_000);

pub fn key(index: u32) -> PublicKey {
    PublicKey([index as u8; 32])
}

/// Anything but zeros; who signed can be read off it.
pub fn signature(validator: u32) -> Signature {
    Signature([validator as u8 + 1; 64])
}

pub fn electorate(validators: u32) -> Electorate {
    let member = |index| Validator {
        public_key: key(index),
        power: 1,
        payout: LockHash([0; 32]),
    };
    let set = ValidatorSet::new((0..validators).map(member).collect()).expect("a valid set");
    Electorate::new(CHAIN, 1_000, Arc::new(set))
}

pub fn config(validators: u32, own: Option<u32>) -> Config {
    Config {
        electorate: electorate(validators),
        params: Params::default(),
        own: own.map(key),
    }
}

pub fn genesis() -> Tip {
    Tip {
        height: Height(0),
        block: BlockId(CHAIN.0),
        time: START,
        utxo_root: Hash([0; 32]),
        supply: Amount::default(),
        fees: Amount::default(),
        signed: Vec::new(),
    }
}

pub fn tip_after(proposal: &Proposal) -> Tip {
    Tip {
        height: proposal.height,
        block: proposal.block_id(&CHAIN),
        time: proposal.header.time,
        ..genesis()
    }
}

/// A block on `tip`; `salt` makes it differ from others.
pub fn block(tip: &Tip, proposer: u32, now: Time, last_commit: Option<BlockCertificate>, salt: u64) -> Proposal {
    let mut txid = [0; 32];
    txid[..8].copy_from_slice(&salt.to_be_bytes());
    let txids = vec![TxId(txid)];
    let header = BlockHeader {
        height: tip.height.next(),
        epoch: Epoch(0),
        time: now.max(tip.time.plus_ms(1)),
        parent: tip.block,
        proposer,
        utxo_root: tip.utxo_root,
        transactions_root: transactions_root(&txids),
        rejections_root: rejections_root(&[]),
        seals_root: seals_root(&CHAIN, &[]),
        last_commit_hash: last_commit.as_ref().map(BlockCertificate::hash).unwrap_or_default(),
        validators_hash: Hash([0; 32]),
        next_validators_hash: Hash([0; 32]),
    };
    Proposal {
        height: header.height,
        round: Round(0),
        header,
        txids,
        rejections: Vec::new(),
        seals: Vec::new(),
        last_commit,
        justification: None,
        leader: proposer,
        signature: signature(proposer),
    }
}

pub fn vote(height: u64, round: u32, phase: Phase, block: BlockId, validator: u32) -> BlockVote {
    BlockVote {
        height: Height(height),
        round: Round(round),
        phase,
        block,
        validator,
        signature: signature(validator),
    }
}

pub fn certificate(height: u64, round: u32, phase: Phase, block: BlockId, signers: &[u32]) -> BlockCertificate {
    BlockCertificate {
        height: Height(height),
        round: Round(round),
        phase,
        block,
        signatures: signers.iter().map(|signer| (*signer, signature(*signer))).collect(),
    }
}

/// A view change at height 1; with a claim it carries a certificate of validators 0, 1, 2.
pub fn change(round: u32, claim: Option<(u32, BlockId)>, validator: u32) -> ViewChange {
    ViewChange {
        height: Height(1),
        round: Round(round),
        prepared: claim.map(|(round, block)| PreparedClaim {
            round: Round(round),
            block,
        }),
        certificate: claim.map(|(round, block)| certificate(1, round, Phase::Prepare, block, &[0, 1, 2])),
        validator,
        signature: signature(validator),
    }
}

/// A round certificate at height 1 by validators 0, 1, 2, the first of which claims.
pub fn round_certificate(round: u32, claim: Option<(u32, BlockId)>) -> RoundCertificate {
    let part = |validator| {
        let change = change(round, claim.filter(|_| validator == 0), validator);
        ViewChangeVote {
            validator,
            prepared: change.prepared,
            signature: change.signature,
        }
    };
    RoundCertificate {
        height: Height(1),
        round: Round(round),
        votes: (0..3).map(part).collect(),
        prepared: change(round, claim, 0).certificate,
    }
}

/// What actions look like in a row of a table.
pub fn shape(action: &Action) -> String {
    match action {
        Action::Build { round, .. } => format!("build {round}"),
        Action::Validate(_) => "validate".into(),
        Action::Remember(Mark::Signed { round, phase, .. }) => format!("remember {phase:?} {round}"),
        Action::Remember(Mark::ViewChanged(change)) => format!("remember ViewChange {}", change.round),
        Action::Remember(Mark::Prepared { certificate, .. }) => format!("remember prepared {}", certificate.round),
        Action::Say(Statement::Proposal(proposal)) => format!("say Propose {}", proposal.round),
        Action::Say(Statement::BlockVote(vote)) => format!("say {:?} {}", vote.phase, vote.round),
        Action::Say(Statement::ViewChange(change)) => format!("say ViewChange {}", change.round),
        Action::Resend(gossip) => format!("resend {}", gossip.name()),
        Action::Decided { proposal, .. } => format!("decided{}", if proposal.is_some() { "" } else { " unseen" }),
        Action::Fetch { .. } => "fetch".into(),
        Action::Evidence(_) => "evidence".into(),
    }
}

pub fn shapes(machine: &mut Consensus) -> Vec<String> {
    machine.take_actions().iter().map(shape).collect()
}

/// Height 1, with something to decide.
pub fn machine(own: u32) -> Consensus {
    let mut machine = Consensus::new(config(4, Some(own)), &genesis(), &[], START);
    machine.on_work(START, Work::Some);
    machine
}
