//! `timecoin wallet`: pays through a node, and never twice.

use super::{Nodes, now, query::state_name, say};
use crate::{
    api::{
        Refusal,
        client::{Client, ClientError, Submitted},
    },
    primitives::{Address, Amount, ChainId, Height, LockHash, Multisig, Output, Transaction, TxId, address::PREFIXES},
    proto::{PaymentState, Wait},
    wallet::{
        Entry, Fate, Journal, Spendable, Wallet,
        file::Key,
        spend::{self, Order},
    },
};
use anyhow::{Context as _, bail, ensure};
use serde_json::json;
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tonic::Code;

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    nodes: Nodes,
    /// The wallet file.
    #[arg(long = "wallet", global = true, env = "TIMECOIN_WALLET", value_name = "FILE")]
    path: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Make a new wallet with one key.
    New {
        /// The network that it is for.
        #[arg(long, default_value = "time", value_parser = PREFIXES)]
        network: String,
        /// Name of the first key.
        #[arg(long, default_value = "main")]
        label: String,
    },
    /// Add a key.
    NewKey {
        /// Its name.
        #[arg(long)]
        label: String,
    },
    /// Add a shared address: K of N keys together open its coins.
    Multisig {
        /// Its name.
        #[arg(long)]
        label: String,
        /// Signatures needed.
        #[arg(long)]
        threshold: u32,
        /// Addresses of the keys, of this wallet and of others.
        #[arg(required = true)]
        keys: Vec<String>,
    },
    /// Show the addresses.
    Address,
    /// Show what there is to spend.
    Balance,
    /// Pay.
    Send {
        /// Address of the payee.
        #[arg(long)]
        to: String,
        /// TIME, with up to 8 decimals.
        #[arg(long, value_parser = positive_amount)]
        amount: Amount,
        /// A text that goes with the payment, at most 256 bytes; everybody can read it.
        #[arg(long, default_value = "")]
        memo: String,
        /// Pay from this shared address (its label) instead of the single keys.
        #[arg(long, value_name = "LABEL")]
        from: Option<String>,
        #[command(flatten)]
        delivery: Delivery,
    },
    /// What was paid, and what became of it.
    History {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Give up a payment that no node knows and that cannot come through, so that its coins can be spent otherwise.
    Abandon {
        /// Which one, as `wallet history` names it.
        txid: TxId,
    },
    /// Submit every payment again whose end is not known: the same bytes, so that nothing is ever paid twice.
    Resend {
        #[command(flatten)]
        delivery: Delivery,
    },
}

/// How long to follow a payment.
#[derive(clap::Args, Clone)]
struct Delivery {
    /// Wait until it is so far.
    #[arg(long, value_enum, default_value_t = Until::Final)]
    wait: Until,
    /// Give up waiting after so many seconds; the payment itself goes on.
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    timeout: u64,
    /// Write the proof of finality to this file.
    #[arg(long, value_name = "FILE")]
    receipt: Option<PathBuf>,
}

#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq)]
enum Until {
    Accepted,
    Final,
    Committed,
}

impl From<Until> for Wait {
    fn from(until: Until) -> Self {
        match until {
            Until::Accepted => Self::Accepted,
            Until::Final => Self::Final,
            Until::Committed => Self::Committed,
        }
    }
}

fn positive_amount(text: &str) -> Result<Amount, String> {
    match text.parse::<Amount>() {
        Ok(Amount::ZERO) => Err("expected more than 0".to_owned()),
        Ok(amount) => Ok(amount),
        Err(error) => Err(error.to_string()),
    }
}

fn default_path() -> anyhow::Result<PathBuf> {
    let home = std::env::home_dir().context("no home directory is known: name the wallet with --wallet FILE")?;
    Ok(home.join(".timecoin").join("wallet.json"))
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let path = match args.path {
        Some(path) => path,
        None => default_path()?,
    };
    let open = || Wallet::open(&path).context("make one with `timecoin wallet new`");
    match args.command {
        Command::New { network, label } => {
            let wallet = Wallet::create(&path, &network, vec![Key::random(&label)])?;
            say!("wrote {}", path.display())?;
            addresses(&wallet)
        }
        Command::NewKey { label } => {
            let address = open()?.add_key(Key::random(&label))?;
            Ok(say!("{address}")?)
        }
        Command::Multisig { label, threshold, keys } => multisig(open()?, &label, threshold, &keys),
        Command::Address => addresses(&open()?),
        Command::Balance => balance(&open()?, &args.nodes).await,
        Command::Send {
            to,
            amount,
            memo,
            from,
            delivery,
        } => {
            let mut session = Session::open(open()?, &args.nodes).await?;
            session.send(&to, amount, &memo, from.as_deref(), &delivery).await
        }
        Command::History { json } => {
            let wallet = open()?;
            match Session::open(wallet, &args.nodes).await {
                Ok(session) => session.history(json).await,
                Err(error) => offline_history(&path, json, &error),
            }
        }
        Command::Abandon { txid } => {
            let mut session = Session::open(open()?, &args.nodes).await?;
            session.abandon(&txid).await
        }
        Command::Resend { delivery } => {
            let mut session = Session::open(open()?, &args.nodes).await?;
            session.resend(&delivery).await
        }
    }
}

/// One payment by the wallet at `path`, final before this returns; its receipt is written to a file.
pub(super) async fn pay_once(
    path: &Path,
    nodes: &[String],
    to: &str,
    amount: Amount,
    receipt: &Path,
) -> anyhow::Result<()> {
    let nodes = Nodes {
        addresses: nodes.to_vec(),
    };
    let delivery = Delivery {
        wait: Until::Final,
        timeout: 30,
        receipt: Some(receipt.to_owned()),
    };
    let mut session = Session::open(Wallet::open(path)?, &nodes).await?;
    session.send(to, amount, "", None, &delivery).await
}

fn addresses(wallet: &Wallet) -> anyhow::Result<()> {
    for key in wallet.keys() {
        say!("{}  {}", Address::new(wallet.network(), key.lock), key.label)?;
    }
    for policy in wallet.policies() {
        let keys = policy.policy.key_hashes().len();
        say!(
            "{}  {} ({} of {keys})",
            Address::new(wallet.network(), policy.policy.lock()),
            policy.label,
            policy.policy.threshold()
        )?;
    }
    Ok(())
}

fn multisig(mut wallet: Wallet, label: &str, threshold: u32, keys: &[String]) -> anyhow::Result<()> {
    let lock = |text: &String| Address::parse(text, wallet.network()).map(|address| address.lock);
    let locks = keys.iter().map(lock).collect::<Result<Vec<_>, _>>()?;
    let policy = Multisig::new(threshold, locks).context("this is not a policy")?;
    let address = wallet.add_policy(label, policy)?;
    Ok(say!("{address}")?)
}

async fn balance(wallet: &Wallet, nodes: &Nodes) -> anyhow::Result<()> {
    let client = nodes.connect().await?;
    let mut total = Amount::ZERO;
    let policies = wallet
        .policies()
        .iter()
        .map(|policy| (policy.policy.lock(), &policy.label));
    for (lock, label) in wallet.keys().iter().map(|key| (key.lock, &key.label)).chain(policies) {
        let answer = client.balance(&lock).await?;
        let balance = Amount(answer.balance);
        total = total.checked_add(balance).context("more than there can be")?;
        let address = Address::new(wallet.network(), lock);
        say!("{balance:>24} TIME  {:>6} coins  {address}  {label}", answer.coins)?;
    }
    Ok(say!("{total:>24} TIME  in all")?)
}

/// Coins of one lock that are looked at. A wallet with more pays with the first ones the node names.
const MAX_COINS: usize = 10_000;
/// Between two attempts to get an answer.
const PAUSE: Duration = Duration::from_millis(300);
/// How long one attempt may wait at the node.
const ATTEMPT: Duration = Duration::from_secs(20);

/// A wallet, its journal, and nodes to talk to.
struct Session {
    wallet: Wallet,
    journal: Journal,
    clients: Vec<Client>,
    chain: ChainId,
    fee_rate: u64,
}

/// How an attempt to deliver a payment ended.
enum Delivered {
    /// As far as was wanted.
    Reached(Submitted),
    /// A node has it, but time is up.
    OnTheWay,
    /// No node answered.
    Unanswered(String),
    /// It will never happen.
    Void(Refusal),
}

impl Session {
    /// Opens the journal beside the wallet, for the chain that the nodes are on.
    async fn open(wallet: Wallet, nodes: &Nodes) -> anyhow::Result<Self> {
        let first = nodes.connect().await?;
        let status = first.status().await?;
        ensure!(
            status.network == wallet.network(),
            "the wallet is of network '{}', the node of '{}'",
            wallet.network(),
            status.network
        );
        let chain =
            ChainId::try_from(status.chain_id.as_slice()).context("the node sent a chain id that is not one")?;
        let clients = nodes
            .addresses
            .iter()
            .map(|address| Client::lazy(address))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            journal: Journal::open(&Journal::path_of(wallet.path()), &chain)?,
            wallet,
            clients,
            chain,
            fee_rate: status.params.unwrap_or_default().min_fee_rate,
        })
    }

    /// Asks the nodes in turn until one answers.
    async fn ask<T, F>(&self, question: impl Fn(Client) -> F) -> anyhow::Result<T>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let mut last = None;
        for client in &self.clients {
            match question(client.clone()).await {
                Err(error @ (ClientError::NoAnswer(_) | ClientError::Connect { .. })) => last = Some(error),
                other => return Ok(other?),
            }
        }
        Err(last.context("no node is given")?.into())
    }

    /// Coins that can be spent: the nodes', and change of final payments that no block has yet.
    async fn coins(&self, from: Option<&LockHash>) -> anyhow::Result<Vec<Spendable>> {
        let locks: Vec<LockHash> = match from {
            Some(lock) => vec![*lock],
            None => self.wallet.keys().iter().map(|key| key.lock).collect(),
        };
        let mut coins = self.journal.coming(|lock| locks.contains(lock));
        for lock in locks {
            let found = self
                .ask(|client| async move { client.coins(&lock, MAX_COINS).await })
                .await?;
            coins.extend(found.iter().map(|coin| Spendable {
                outpoint: coin.outpoint,
                value: coin.value,
                lock,
            }));
        }
        Ok(coins)
    }

    /// Asks what became of payments whose end is not known, so that their coins need not wait longer than they must.
    async fn refresh(&mut self) -> anyhow::Result<()> {
        let open: Vec<TxId> = self
            .journal
            .entries()
            .iter()
            .filter(|entry| entry.fate.is_open() || entry.fate == Fate::Final)
            .map(|entry| entry.transaction.txid())
            .collect();
        for txid in open {
            let answer = self
                .ask(|client| async move { client.transaction(&txid, false, false).await })
                .await?;
            if let Some(answer) = answer {
                let fate = fate_of(answer.state(), Height(answer.height));
                self.journal.settle(&txid, fate)?;
            }
        }
        Ok(())
    }

    async fn send(
        &mut self,
        to: &str,
        amount: Amount,
        memo: &str,
        from: Option<&str>,
        delivery: &Delivery,
    ) -> anyhow::Result<()> {
        let payee = Address::parse(to, self.wallet.network())?;
        let from = from.map(|label| self.policy_lock(label)).transpose()?;
        self.refresh().await?;
        let coins = self.coins(from.as_ref()).await?;
        let own = self.wallet.keys().first().context("the wallet has no keys")?.lock;
        let order = Order {
            outputs: vec![Output {
                value: amount,
                lock: payee.lock,
            }],
            memo: memo.as_bytes().to_vec(),
            change: from.unwrap_or(own),
            fee_rate: self.fee_rate,
        };
        let reserved = self.journal.reserved();
        let plan = spend::plan(&self.wallet, &self.chain, &coins, &reserved, from.as_ref(), &order)?;
        let transaction = plan.transaction.clone();
        // On disk first: whatever happens from here on, these bytes are the payment.
        self.journal
            .prepare(transaction.clone(), to.to_owned(), amount, plan.fee, now().0)?;
        say!("payment {} of {amount} TIME, fee {} TIME", transaction.txid(), plan.fee)?;
        let started = Instant::now();
        let submitted = self.follow(&transaction, delivery, true).await?;
        say!(
            "{} after {:.1} ms",
            describe(&submitted),
            started.elapsed().as_secs_f64() * 1e3
        )?;
        self.save_receipt(submitted.receipt, &submitted.txid, delivery).await
    }

    fn policy_lock(&self, label: &str) -> anyhow::Result<LockHash> {
        let policy = self.wallet.policies().iter().find(|policy| policy.label == label);
        policy
            .map(|policy| policy.policy.lock())
            .with_context(|| format!("the wallet has no shared address '{label}'"))
    }

    /// Delivers a payment that is in the journal, and writes down what is learned. `fresh`: it was never sent before.
    async fn follow(
        &mut self,
        transaction: &Transaction,
        delivery: &Delivery,
        fresh: bool,
    ) -> anyhow::Result<Submitted> {
        let txid = transaction.txid();
        match self.deliver(transaction, delivery, fresh).await {
            Delivered::Reached(submitted) => {
                let fate = fate_of(submitted.state, submitted.height.unwrap_or_default());
                self.journal.settle(&txid, fate)?;
                Ok(submitted)
            }
            Delivered::OnTheWay => {
                self.journal.settle(&txid, Fate::Pending)?;
                bail!(
                    "the payment is on its way but not yet where it was wanted after {} s; its coins stay reserved: \
                     see `wallet history`, or follow it with `wallet resend`",
                    delivery.timeout
                )
            }
            Delivered::Unanswered(error) => bail!(
                "no node answered ({error}). The payment is written down and may have arrived: submit it again with \
                 `wallet resend`, which cannot pay twice"
            ),
            Delivered::Void(refusal) => {
                let fate = match refusal.reason.as_str() {
                    "REJECTED" => Fate::Rejected,
                    "CONFLICT" if refusal.code == Code::Aborted => Fate::Conflict,
                    reason => Fate::Refused(reason.to_owned()),
                };
                self.journal.settle(&txid, fate)?;
                Err(anyhow::Error::from(refusal).context("the payment was refused"))
            }
        }
    }

    /// Submits the same bytes, node after node, until an answer comes or time is up.
    ///
    /// A rule that is broken ends a fresh payment: nobody has taken it. When an earlier attempt may have got through,
    /// the same answer may just come from a node that lags behind, so it ends nothing.
    async fn deliver(&self, transaction: &Transaction, delivery: &Delivery, fresh: bool) -> Delivered {
        let deadline = Instant::now() + Duration::from_secs(delivery.timeout);
        let mut known = false;
        let mut fresh = fresh;
        let mut last = "no node is given".to_owned();
        for client in self.clients.iter().cycle() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let wait = Wait::from(delivery.wait);
            let receipt = delivery.receipt.is_some();
            match client
                .submit(transaction.bytes(), wait, left.min(ATTEMPT), receipt)
                .await
            {
                Ok(submitted) if submitted.reached => return Delivered::Reached(submitted),
                Ok(_) => known = true,
                Err(ClientError::Refused(refusal)) if ends(&refusal, fresh && !known) => {
                    return Delivered::Void(refusal);
                }
                Err(error) => {
                    fresh &= matches!(error, ClientError::Connect { .. });
                    last = error.to_string();
                    tokio::time::sleep(PAUSE.min(left)).await;
                }
            }
        }
        if known {
            Delivered::OnTheWay
        } else {
            Delivered::Unanswered(last)
        }
    }

    async fn abandon(&mut self, txid: &TxId) -> anyhow::Result<()> {
        self.refresh().await?;
        let entry = self
            .journal
            .get(txid)
            .with_context(|| format!("payment {txid} is not in the journal"))?;
        ensure!(
            entry.fate == Fate::Unanswered,
            "payment {txid} is {}: only one that no node knows can be given up",
            fate_text(&entry.fate)
        );
        let txid = *txid;
        for client in &self.clients {
            let known = client.transaction(&txid, false, false).await?;
            ensure!(
                known.is_none(),
                "a node knows payment {txid}: follow it with `wallet resend`"
            );
        }
        self.journal.settle(&txid, Fate::Refused("ABANDONED".to_owned()))?;
        Ok(say!(
            "payment {txid} is given up; if a node gets it nevertheless, it may still come through"
        )?)
    }

    async fn save_receipt(
        &self,
        receipt: Option<crate::primitives::Certificate>,
        txid: &TxId,
        delivery: &Delivery,
    ) -> anyhow::Result<()> {
        let Some(path) = &delivery.receipt else {
            return Ok(());
        };
        let txid = *txid;
        let receipt = match receipt {
            Some(receipt) => Some(receipt),
            None => self
                .ask(|client| async move { client.transaction(&txid, false, true).await })
                .await?
                .and_then(|answer| answer.receipt)
                .map(|receipt| crate::primitives::Certificate::from_proto(&receipt))
                .transpose()?,
        };
        let receipt = receipt.context("the payment is done, but the node has no receipt for it: ask another one")?;
        super::receipt::write(path, &self.chain, &receipt)?;
        say!("receipt written to {}", path.display())?;
        Ok(())
    }

    async fn resend(&mut self, delivery: &Delivery) -> anyhow::Result<()> {
        self.refresh().await?;
        let open: Vec<Transaction> = self
            .journal
            .open_payments()
            .map(|entry| entry.transaction.clone())
            .collect();
        if open.is_empty() {
            return Ok(say!("nothing to send again: the end of every payment is known")?);
        }
        let mut failed = 0;
        for transaction in &open {
            match self.follow(transaction, delivery, false).await {
                Ok(submitted) => say!("payment {}: {}", submitted.txid, describe(&submitted))?,
                Err(error) => {
                    failed += 1;
                    say!("payment {}: {error:#}", transaction.txid())?;
                }
            }
        }
        ensure!(failed == 0, "{failed} of {} payments have not come through", open.len());
        Ok(())
    }

    async fn history(mut self, as_json: bool) -> anyhow::Result<()> {
        self.refresh().await?;
        print_history(&self.journal, as_json)
    }
}

/// What the journal alone knows, when no node can be asked.
fn offline_history(wallet: &Path, as_json: bool, reason: &anyhow::Error) -> anyhow::Result<()> {
    use std::io::Write as _;
    let path = Journal::path_of(wallet);
    let Some(chain) = Journal::chain_of(&path)? else {
        return Ok(());
    };
    let journal = Journal::open(&path, &chain)?;
    writeln!(
        std::io::stderr().lock(),
        "as of the last time a node was asked ({reason:#})"
    )?;
    print_history(&journal, as_json)
}

fn print_history(journal: &Journal, as_json: bool) -> anyhow::Result<()> {
    for entry in journal.entries() {
        if as_json {
            say!("{}", entry_json(entry))?;
        } else {
            say!(
                "{}  {:>20} TIME  to {}  fee {}  {}",
                entry.transaction.txid(),
                entry.amount,
                entry.to,
                entry.fee,
                fate_text(&entry.fate)
            )?;
        }
    }
    Ok(())
}

/// Whether a refusal means that the payment will never happen. `fresh`: no earlier attempt can have got through.
fn ends(refusal: &Refusal, fresh: bool) -> bool {
    match refusal.code {
        // Rejected by a block, or its coins were spent by one.
        Code::Aborted => true,
        // It breaks a rule, as far as this node knows.
        Code::InvalidArgument | Code::FailedPrecondition => fresh,
        // Too much to do, or something failed: try again.
        _ => false,
    }
}

fn entry_json(entry: &Entry) -> serde_json::Value {
    json!({
        "txid": entry.transaction.txid(),
        "to": entry.to,
        "amount": entry.amount.to_string(),
        "fee": entry.fee.to_string(),
        "time_ms": entry.time_ms,
        "fate": fate_text(&entry.fate),
    })
}

fn fate_text(fate: &Fate) -> String {
    match fate {
        Fate::Unanswered => "UNANSWERED: `wallet resend`".to_owned(),
        Fate::Pending => "PENDING".to_owned(),
        Fate::Final => "FINAL".to_owned(),
        Fate::Committed(height) => format!("COMMITTED in block {height}"),
        Fate::Refused(reason) => format!("REFUSED: {reason}"),
        Fate::Rejected => "REJECTED".to_owned(),
        Fate::Conflict => "CONFLICT".to_owned(),
    }
}

fn fate_of(state: PaymentState, height: Height) -> Fate {
    match state {
        PaymentState::Final => Fate::Final,
        PaymentState::Committed => Fate::Committed(height),
        PaymentState::Rejected => Fate::Rejected,
        PaymentState::Conflict => Fate::Conflict,
        PaymentState::Unspecified | PaymentState::Pending | PaymentState::Contested | PaymentState::Certified => {
            Fate::Pending
        }
    }
}

fn describe(submitted: &Submitted) -> String {
    match submitted.height {
        Some(height) => format!("COMMITTED in block {height}"),
        None => state_name(submitted.state).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_cannot_have_got_through_is_given_up() {
        let refusal = |code| Refusal {
            code,
            reason: "X".into(),
            message: String::new(),
            metadata: Default::default(),
        };
        let rows = [
            (Code::Aborted, true, true),
            (Code::Aborted, false, true),
            (Code::FailedPrecondition, true, true),
            (Code::FailedPrecondition, false, false),
            (Code::InvalidArgument, true, true),
            (Code::ResourceExhausted, true, false),
            (Code::Internal, true, false),
        ];
        for (code, fresh, expected) in rows {
            assert_eq!(ends(&refusal(code), fresh), expected, "{code:?} {fresh}");
        }
    }

    #[test]
    fn amounts_above_zero() {
        assert_eq!(positive_amount("0.5"), Ok(Amount(50_000_000)));
        assert!(positive_amount("0").is_err() && positive_amount("-1").is_err());
    }
}
