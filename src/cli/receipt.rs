//! `timecoin receipt`: proofs of finality, checked without any node.

use super::say;
use crate::primitives::{Certificate, ChainId, Genesis, TxId, VoteKind};
use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Check a receipt against the validators of a genesis. Exits with 1 when it proves nothing.
    Verify {
        /// The receipt, as `wallet send --receipt` or `query tx --receipt` wrote it, or the bare Protobuf Certificate.
        receipt: PathBuf,
        /// The chain's genesis file.
        #[arg(long, value_name = "FILE")]
        genesis: PathBuf,
        /// The payment that it must be about.
        #[arg(long)]
        txid: Option<TxId>,
    },
}

/// A receipt as it is written to a file.
#[derive(Serialize, Deserialize)]
struct File {
    chain_id: ChainId,
    txid: TxId,
    /// Protobuf Certificate, in hex.
    certificate: String,
}

/// Writes a receipt to a file.
pub(super) fn write(path: &Path, chain: &ChainId, receipt: &Certificate) -> anyhow::Result<()> {
    let file = File {
        chain_id: *chain,
        txid: receipt.txid,
        certificate: hex::encode(receipt.encode()),
    };
    let mut text = serde_json::to_string_pretty(&file)?;
    text.push('\n');
    std::fs::write(path, text).with_context(|| format!("receipt {} cannot be written", path.display()))
}

/// Reads a receipt from a file in either form.
fn read(path: &Path, chain: &ChainId) -> anyhow::Result<Certificate> {
    let bytes = std::fs::read(path).with_context(|| format!("receipt {} cannot be read", path.display()))?;
    if bytes.first() != Some(&b'{') {
        return Certificate::decode(&bytes).context("the receipt is neither JSON nor a Protobuf certificate");
    }
    let file: File = serde_json::from_slice(&bytes).context("the receipt is not the JSON that it should be")?;
    ensure!(
        file.chain_id == *chain,
        "the receipt is of chain {}, the genesis is of chain {chain}",
        file.chain_id
    );
    let certificate = hex::decode(&file.certificate).context("the receipt's certificate is not hex")?;
    let certificate = Certificate::decode(&certificate).context("the receipt's certificate is not decodable")?;
    ensure!(
        certificate.txid == file.txid,
        "the receipt says it is about {}, its certificate is about {}",
        file.txid,
        certificate.txid
    );
    Ok(certificate)
}

/// Checks that a receipt proves a payment final on the chain of a genesis.
pub(super) fn verify(receipt: &Certificate, genesis: &Genesis, txid: Option<&TxId>) -> anyhow::Result<()> {
    if let Some(expected) = txid {
        ensure!(
            receipt.txid == *expected,
            "the receipt is about {}, expected {expected}",
            receipt.txid
        );
    }
    if receipt.kind != VoteKind::Final {
        bail!(
            "the votes are of kind {:?}; only Final votes make a payment final",
            receipt.kind
        );
    }
    receipt
        .verify(&genesis.chain_id(), &genesis.validators)
        .context("the receipt proves nothing")
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let Command::Verify { receipt, genesis, txid } = &args.command;
    let genesis = super::read_genesis(genesis)?;
    check_file(receipt, &genesis, txid.as_ref()).map(drop)
}

/// Checks a receipt from a file and says who voted. Answers which payment it is for.
pub(super) fn check_file(path: &Path, genesis: &Genesis, txid: Option<&TxId>) -> anyhow::Result<TxId> {
    let receipt = read(path, &genesis.chain_id())?;
    verify(&receipt, genesis, txid)?;
    let set = &genesis.validators;
    let power: u128 = receipt.votes.iter().map(|vote| set.power(vote.validator)).sum();
    say!("payment {} is FINAL", receipt.txid)?;
    say!("chain   {}", genesis.chain_id())?;
    say!("epoch   {}", receipt.epoch)?;
    for vote in &receipt.votes {
        let key = set
            .get(vote.validator)
            .map(|validator| validator.public_key.to_string());
        say!(
            "  validator {:>3}  key {}  power {}",
            vote.validator,
            key.unwrap_or_default(),
            set.power(vote.validator)
        )?;
    }
    say!(
        "{} of {} validators voted, power {power} of {} (more than two thirds are needed)",
        receipt.votes.len(),
        set.len(),
        set.total_power()
    )?;
    Ok(receipt.txid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::primitives::{
        Epoch, Height, LockHash, Params, SecretKey, Signature, Time, Validator, ValidatorSet, Vote, VoteBatch,
        VoteProof,
    };

    fn keys() -> Vec<SecretKey> {
        (1..=4).map(|n| SecretKey::from_seed([n; 32])).collect()
    }

    fn genesis() -> Genesis {
        let validator = |key: &SecretKey| Validator {
            public_key: key.public(),
            power: 1,
            payout: LockHash([1; 32]),
        };
        Genesis {
            network: "ltime".into(),
            time: Time(1),
            params: Params::default(),
            validators: ValidatorSet::new(keys().iter().map(validator).collect()).expect("a valid set"),
            coins: vec![],
        }
    }

    fn receipt(genesis: &Genesis, kind: VoteKind, voters: usize) -> Certificate {
        let txid = TxId([5; 32]);
        let vote = |key: &SecretKey| {
            let mut batch = VoteBatch {
                epoch: Epoch(0),
                validator: genesis.validators.index_of(&key.public()).expect("a validator"),
                sequence: 3,
                height: Height(2),
                votes: vec![Vote { kind, txid }],
                signature: Signature([0; 64]),
            };
            batch.signature = key.sign(&batch.head().digest(&genesis.chain_id()));
            VoteProof::cut(&batch, 0).expect("has a vote")
        };
        let mut votes: Vec<VoteProof> = keys().iter().take(voters).map(vote).collect();
        votes.sort_by_key(|vote| vote.validator);
        Certificate {
            kind,
            txid,
            epoch: Epoch(0),
            votes,
        }
    }

    #[test]
    fn a_receipt_comes_back_from_either_form_and_proves_finality() {
        let dir = tempfile::tempdir().expect("a directory");
        let genesis = genesis();
        let chain = genesis.chain_id();
        let receipt = receipt(&genesis, VoteKind::Final, 3);
        let (json, bare) = (dir.path().join("r.json"), dir.path().join("r.bin"));
        write(&json, &chain, &receipt).expect("writes");
        std::fs::write(&bare, receipt.encode()).expect("writes");
        for path in [json, bare] {
            let read = read(&path, &chain).expect("reads");
            assert_eq!(read, receipt);
            verify(&read, &genesis, Some(&receipt.txid)).expect("is final");
        }
    }

    #[test]
    fn what_proves_nothing_is_refused() {
        let genesis = genesis();
        let mut forged = receipt(&genesis, VoteKind::Final, 3);
        forged.votes[1].signature.0[5] ^= 1;
        let mut renamed = receipt(&genesis, VoteKind::Final, 3);
        renamed.txid = TxId([6; 32]);
        let other_chain = Genesis {
            time: Time(2),
            ..genesis.clone()
        };
        let rows = [
            ("two of four", receipt(&genesis, VoteKind::Final, 2)),
            ("Lock is not Final", receipt(&genesis, VoteKind::Lock, 4)),
            ("a forged signature", forged),
            ("another payment", renamed),
            ("another chain", receipt(&other_chain, VoteKind::Final, 4)),
        ];
        for (what, receipt) in rows {
            assert!(verify(&receipt, &genesis, None).is_err(), "{what}");
        }
        let good = receipt(&genesis, VoteKind::Final, 3);
        assert!(verify(&good, &genesis, Some(&TxId([6; 32]))).is_err());
    }

    #[test]
    fn files_of_another_chain_or_about_another_payment_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let genesis = genesis();
        let receipt = receipt(&genesis, VoteKind::Final, 3);
        let path = dir.path().join("r.json");
        write(&path, &ChainId([1; 32]), &receipt).expect("writes");
        assert!(read(&path, &genesis.chain_id()).is_err());
        write(&path, &genesis.chain_id(), &receipt).expect("writes");
        let text = std::fs::read_to_string(&path).expect("reads");
        std::fs::write(
            &path,
            text.replacen(&receipt.txid.to_string(), &TxId([6; 32]).to_string(), 1),
        )
        .expect("writes");
        assert!(read(&path, &genesis.chain_id()).is_err());
    }
}
