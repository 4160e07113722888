//! What was paid, written down before it was sent.
//!
//! One JSON object a line, each synced before the wallet goes on: first the payment with its exact bytes, later lines
//! on what became of it. A line torn by a crash is the last one and is cut off: its payment was never sent.

use super::Spendable;
use crate::primitives::{Amount, ChainId, Height, LockHash, OutPoint, Transaction, TxId};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, BufRead as _, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};
use thiserror::Error;

/// What is known of a payment's end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// Written down; perhaps sent, perhaps not; no node has answered for it.
    Unanswered,
    /// A node has it.
    Pending,
    /// Final: it will be in a block.
    Final,
    /// In the block of this height.
    Committed(Height),
    /// Refused by the rule named here before any node had taken it.
    Refused(String),
    /// Rejected by a block; never valid again.
    Rejected,
    /// One of its coins was spent otherwise.
    Conflict,
}

impl Fate {
    /// Whether it is not known how the payment ends: it must be sent again, unchanged.
    pub const fn is_open(&self) -> bool {
        matches!(self, Self::Unanswered | Self::Pending)
    }

    /// Whether the payment will never happen.
    pub const fn is_void(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Rejected | Self::Conflict)
    }
}

/// A payment of this wallet.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The payment, with the exact bytes that were signed.
    pub transaction: Transaction,
    /// To whom, as the owner wrote it.
    pub to: String,
    /// How much.
    pub amount: Amount,
    /// What it cost.
    pub fee: Amount,
    /// When it was built, in Unix milliseconds.
    pub time_ms: u64,
    /// What became of it.
    pub fate: Fate,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Line {
    Chain(ChainId),
    Paid {
        txid: TxId,
        transaction: String,
        to: String,
        amount: Amount,
        fee: Amount,
        time_ms: u64,
    },
    Became {
        txid: TxId,
        fate: Fate,
    },
}

/// Why a journal cannot be used.
#[derive(Debug, Error)]
pub enum JournalError {
    /// The file system says no.
    #[error("journal {path}: {error}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Another process pays from this wallet at this moment.
    #[error("journal {0} is in use by another process: wait until it has ended")]
    InUse(PathBuf),
    /// It is of another chain.
    #[error("journal {path} is of chain {found}, the node is on chain {expected}: use another wallet file")]
    Chain {
        /// Which file.
        path: PathBuf,
        /// The journal's.
        found: ChainId,
        /// The node's.
        expected: ChainId,
    },
    /// A line is damaged.
    #[error("journal {path}, line {line}: {reason}")]
    Line {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// The payment is not in the journal.
    #[error("payment {0} is not in the journal")]
    Unknown(TxId),
}

/// The journal of one wallet on one chain. Locked while it is open.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    entries: Vec<Entry>,
    by_txid: BTreeMap<TxId, usize>,
}

impl Journal {
    /// The journal's file beside the wallet's.
    pub fn path_of(wallet: &Path) -> PathBuf {
        let mut name = wallet.as_os_str().to_owned();
        name.push(".journal");
        name.into()
    }

    /// The chain that a journal is of; `None`: there is none yet.
    pub fn chain_of(path: &Path) -> Result<Option<ChainId>, JournalError> {
        let io = |error| JournalError::Io {
            path: path.to_owned(),
            error,
        };
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(io)?,
        };
        let mut line = String::new();
        io::BufReader::new(file).read_line(&mut line).map_err(io)?;
        match serde_json::from_str(&line) {
            Ok(Line::Chain(chain)) => Ok(Some(chain)),
            // Torn at its very first line: nothing was ever paid.
            Err(_) if !line.ends_with('\n') => Ok(None),
            _ => Err(JournalError::Line {
                path: path.to_owned(),
                line: 1,
                reason: "expected the chain's name".to_owned(),
            }),
        }
    }

    /// Opens a journal, or starts one.
    pub fn open(path: &Path, chain: &ChainId) -> Result<Self, JournalError> {
        let io = |error| JournalError::Io {
            path: path.to_owned(),
            error,
        };
        let mut options = fs::OpenOptions::new();
        options.read(true).append(true).create(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(JournalError::InUse(path.to_owned())),
            Err(fs::TryLockError::Error(error)) => return Err(io(error)),
        }
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(io)?;
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        if whole < text.len() {
            // Never synced, so what it says was never acted upon.
            file.set_len(whole as u64).map_err(io)?;
            file.seek(SeekFrom::End(0)).map_err(io)?;
        }
        let mut journal = Self {
            path: path.to_owned(),
            file,
            entries: Vec::new(),
            by_txid: BTreeMap::new(),
        };
        if whole == 0 {
            journal.append(&Line::Chain(*chain))?;
        }
        for (number, line) in (1..).zip(text[..whole].split_inclusive(|byte| *byte == b'\n')) {
            journal.replay(chain, number, line)?;
        }
        Ok(journal)
    }

    fn replay(&mut self, chain: &ChainId, number: usize, line: &[u8]) -> Result<(), JournalError> {
        let wrong = |reason: String| JournalError::Line {
            path: self.path.clone(),
            line: number,
            reason,
        };
        match serde_json::from_slice(line).map_err(|error| wrong(error.to_string()))? {
            Line::Chain(found) if found == *chain => {}
            Line::Chain(found) => {
                return Err(JournalError::Chain {
                    path: self.path.clone(),
                    found,
                    expected: *chain,
                });
            }
            Line::Paid {
                txid,
                transaction,
                to,
                amount,
                fee,
                time_ms,
            } => {
                let bytes = hex::decode(transaction).map_err(|error| wrong(error.to_string()))?;
                let transaction = Transaction::decode(chain, &bytes).map_err(|error| wrong(error.to_string()))?;
                if transaction.txid() != txid {
                    return Err(wrong(format!("says txid {txid}, its bytes say {}", transaction.txid())));
                }
                self.add(Entry {
                    transaction,
                    to,
                    amount,
                    fee,
                    time_ms,
                    fate: Fate::Unanswered,
                });
            }
            Line::Became { txid, fate } => match self.by_txid.get(&txid) {
                Some(index) => self.entries[*index].fate = fate,
                None => return Err(wrong(format!("payment {txid} was not written down before"))),
            },
        }
        Ok(())
    }

    fn add(&mut self, entry: Entry) {
        self.by_txid.insert(entry.transaction.txid(), self.entries.len());
        self.entries.push(entry);
    }

    fn append(&mut self, line: &Line) -> Result<(), JournalError> {
        let io = |error| JournalError::Io {
            path: self.path.clone(),
            error,
        };
        let mut text = serde_json::to_vec(line).map_err(|error| io(error.into()))?;
        text.push(b'\n');
        self.file.write_all(&text).map_err(io)?;
        self.file.sync_data().map_err(io)
    }

    /// Writes a payment down and syncs it. Only after this may it be sent.
    pub fn prepare(
        &mut self,
        transaction: Transaction,
        to: String,
        amount: Amount,
        fee: Amount,
        time_ms: u64,
    ) -> Result<(), JournalError> {
        self.append(&Line::Paid {
            txid: transaction.txid(),
            transaction: hex::encode(transaction.bytes()),
            to: to.clone(),
            amount,
            fee,
            time_ms,
        })?;
        self.add(Entry {
            transaction,
            to,
            amount,
            fee,
            time_ms,
            fate: Fate::Unanswered,
        });
        Ok(())
    }

    /// Writes down what became of a payment. What is final stays final or becomes committed; what is committed stays
    /// so: an answer from a node that lags behind does not turn the clock back.
    pub fn settle(&mut self, txid: &TxId, fate: Fate) -> Result<(), JournalError> {
        let index = *self.by_txid.get(txid).ok_or(JournalError::Unknown(*txid))?;
        let now = &self.entries[index].fate;
        let keeps = match now {
            Fate::Committed(_) => true,
            Fate::Final => !matches!(fate, Fate::Committed(_)),
            Fate::Pending => fate == Fate::Unanswered,
            _ => false,
        };
        if keeps || *now == fate {
            return Ok(());
        }
        self.append(&Line::Became {
            txid: *txid,
            fate: fate.clone(),
        })?;
        self.entries[index].fate = fate;
        Ok(())
    }

    /// All payments, oldest first.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// One payment.
    pub fn get(&self, txid: &TxId) -> Option<&Entry> {
        self.by_txid.get(txid).map(|index| &self.entries[*index])
    }

    /// Payments whose end is not known: to be sent again, unchanged.
    pub fn open_payments(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.fate.is_open())
    }

    /// Coins that no new payment may use: those of every payment that is not void. Coins of committed payments are
    /// among them, since a node that lags behind may still show them.
    pub fn reserved(&self) -> BTreeSet<OutPoint> {
        self.entries
            .iter()
            .filter(|entry| !entry.fate.is_void())
            .flat_map(|entry| entry.transaction.inputs().iter().copied())
            .collect()
    }

    /// Outputs of final payments that are not in a block yet and come back to `owns`: they can be spent already.
    pub fn coming(&self, owns: impl Fn(&LockHash) -> bool) -> Vec<Spendable> {
        self.entries
            .iter()
            .filter(|entry| entry.fate == Fate::Final)
            .flat_map(|entry| entry.transaction.created())
            .filter(|(_, output)| owns(&output.lock))
            .map(|(outpoint, output)| Spendable {
                outpoint,
                value: output.value,
                lock: output.lock,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::primitives::{Output, SecretKey, TransactionBody};

    const CHAIN: ChainId = ChainId([7; 32]);

    fn payment(n: u8) -> Transaction {
        let key = SecretKey::from_seed([1; 32]);
        let body = TransactionBody {
            inputs: vec![OutPoint {
                txid: TxId([n; 32]),
                index: 0,
            }],
            outputs: vec![Output {
                value: Amount(u64::from(n)),
                lock: key.public().lock(),
            }],
            memo: vec![],
        };
        Transaction::sign(&CHAIN, &body, &[&key], &[]).expect("signs")
    }

    fn prepare(journal: &mut Journal, n: u8) -> TxId {
        let transaction = payment(n);
        let txid = transaction.txid();
        journal
            .prepare(transaction, "somebody".into(), Amount(1), Amount(2), 3)
            .expect("writes");
        txid
    }

    #[test]
    fn a_payment_is_on_disk_with_its_exact_bytes_before_it_is_sent() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("journal");
        let mut journal = Journal::open(&path, &CHAIN).expect("opens");
        let txid = prepare(&mut journal, 1);
        // As after a crash: nothing else is written.
        drop(journal);
        let journal = Journal::open(&path, &CHAIN).expect("opens again");
        let entry = journal.open_payments().next().expect("it is still open");
        assert_eq!(entry.transaction.bytes(), payment(1).bytes());
        assert_eq!((entry.transaction.txid(), &entry.fate), (txid, &Fate::Unanswered));
        assert!(journal.reserved().contains(&payment(1).inputs()[0]));
    }

    #[test]
    fn coins_are_reserved_until_the_payment_is_void() {
        let rows = [
            (Fate::Unanswered, true, true),
            (Fate::Pending, true, true),
            (Fate::Final, true, false),
            (Fate::Committed(Height(3)), true, false),
            (Fate::Refused("FEE_TOO_LOW".into()), false, false),
            (Fate::Rejected, false, false),
            (Fate::Conflict, false, false),
        ];
        for (fate, reserved, open) in rows {
            let dir = tempfile::tempdir().expect("a directory");
            let path = dir.path().join("journal");
            let mut journal = Journal::open(&path, &CHAIN).expect("opens");
            let txid = prepare(&mut journal, 1);
            journal.settle(&txid, fate.clone()).expect("writes");
            for journal in [&journal, &{
                let copy = dir.path().join("copy");
                fs::copy(&path, &copy).expect("copies");
                Journal::open(&copy, &CHAIN).expect("opens again")
            }] {
                assert_eq!(journal.get(&txid).map(|entry| &entry.fate), Some(&fate));
                assert_eq!(!journal.reserved().is_empty(), reserved, "{fate:?}");
                assert_eq!(journal.open_payments().count(), usize::from(open), "{fate:?}");
            }
        }
    }

    #[test]
    fn an_answer_that_comes_late_does_not_turn_the_clock_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut journal = Journal::open(&dir.path().join("journal"), &CHAIN).expect("opens");
        let txid = prepare(&mut journal, 1);
        let steps = [
            (Fate::Pending, Fate::Pending),
            (Fate::Unanswered, Fate::Pending),
            (Fate::Final, Fate::Final),
            (Fate::Pending, Fate::Final),
            (Fate::Refused("UNKNOWN_INPUT".into()), Fate::Final),
            (Fate::Committed(Height(5)), Fate::Committed(Height(5))),
            (Fate::Conflict, Fate::Committed(Height(5))),
        ];
        for (said, expected) in steps {
            journal.settle(&txid, said).expect("writes");
            assert_eq!(journal.get(&txid).map(|entry| &entry.fate), Some(&expected));
        }
    }

    #[test]
    fn a_torn_last_line_is_cut_off_and_a_damaged_one_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("journal");
        let mut journal = Journal::open(&path, &CHAIN).expect("opens");
        prepare(&mut journal, 1);
        prepare(&mut journal, 2);
        drop(journal);
        let whole = fs::read(&path).expect("reads");
        for cut in 1..200 {
            fs::write(&path, &whole[..whole.len() - cut]).expect("writes");
            let mut journal = Journal::open(&path, &CHAIN).expect("opens");
            assert_eq!(journal.entries().len(), 1, "cut by {cut}");
            prepare(&mut journal, 3);
            drop(journal);
            assert_eq!(Journal::open(&path, &CHAIN).expect("opens").entries().len(), 2);
        }
        let mut damaged = whole.clone();
        let second_line = whole.iter().position(|byte| *byte == b'\n').expect("two lines") + 10;
        damaged[second_line] ^= 1;
        fs::write(&path, damaged).expect("writes");
        assert!(matches!(
            Journal::open(&path, &CHAIN),
            Err(JournalError::Line { line: 2, .. })
        ));
    }

    #[test]
    fn one_process_at_a_time_and_one_chain() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("journal");
        let journal = Journal::open(&path, &CHAIN).expect("opens");
        assert!(matches!(Journal::open(&path, &CHAIN), Err(JournalError::InUse(_))));
        drop(journal);
        let other = ChainId([8; 32]);
        assert_eq!(Journal::chain_of(&path).expect("reads"), Some(CHAIN));
        assert_eq!(Journal::chain_of(&dir.path().join("none")).expect("is no error"), None);
        assert!(matches!(
            Journal::open(&path, &other),
            Err(JournalError::Chain { found: CHAIN, .. })
        ));
    }

    #[test]
    fn change_of_a_final_payment_can_be_spent_before_the_block() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut journal = Journal::open(&dir.path().join("journal"), &CHAIN).expect("opens");
        let txid = prepare(&mut journal, 9);
        assert!(journal.coming(|_| true).is_empty());
        journal.settle(&txid, Fate::Final).expect("writes");
        assert_eq!(journal.coming(|_| true)[0].outpoint, OutPoint { txid, index: 0 });
        assert!(journal.coming(|_| false).is_empty());
        journal.settle(&txid, Fate::Committed(Height(1))).expect("writes");
        assert!(journal.coming(|_| true).is_empty(), "the node shows it now");
    }
}
