//! Clients' transactions whose parent has not been heard of here yet.
//!
//! A wallet pays by one node and spends the change by another, which may hear of the second payment first. It waits for
//! the parent a moment before it is called wrong. Only clients' transactions do: what peers pass on is named by votes,
//! and asked for then.

use super::{Effects, Replica, Reply, Ticket};
use crate::{
    ledger::{CheckedTransaction, TransactionError, View, ViewError},
    pool::PoolError,
    primitives::{OutPoint, Time, TxId},
};
use std::collections::BTreeMap;

/// How long a parent may stay away.
const PATIENCE_MS: u64 = 500;
/// Transactions that wait, at most; one more is refused at once.
const MAX_ORPHANS: usize = 1_000;

#[derive(Debug)]
struct Orphan {
    ticket: Ticket,
    transaction: CheckedTransaction,
    missing: OutPoint,
    until: Time,
}

/// Those who wait, by the parent they wait for.
#[derive(Debug, Default)]
pub(super) struct Awaiting {
    by_parent: BTreeMap<TxId, Vec<Orphan>>,
    count: usize,
    /// Parents that have come, and whose children have not been looked at again.
    arrived: Vec<TxId>,
}

impl Awaiting {
    /// A transaction is here, in the pool or in a block.
    pub(super) fn on_arrival(&mut self, txid: TxId) {
        if self.by_parent.contains_key(&txid) {
            self.arrived.push(txid);
        }
    }

    /// Whether somebody need not wait any longer.
    pub(super) const fn is_due(&self) -> bool {
        !self.arrived.is_empty()
    }

    fn take(&mut self, parent: &TxId) -> Vec<Orphan> {
        let children = self.by_parent.remove(parent).unwrap_or_default();
        self.count -= children.len();
        children
    }
}

impl Replica {
    /// Lets a client's transaction wait for the parent that made `missing`, unless that parent is in a block (then the
    /// coin is spent) or too many wait. Answers whether it waits.
    pub(super) fn wait_for_parent(
        &mut self,
        now: Time,
        view: &dyn View,
        ticket: Ticket,
        transaction: &CheckedTransaction,
        missing: OutPoint,
    ) -> Result<bool, ViewError> {
        if self.awaiting.count >= MAX_ORPHANS || view.location(&missing.txid)?.is_some() {
            return Ok(false);
        }
        let until = now.plus_ms(PATIENCE_MS);
        let orphan = Orphan {
            ticket,
            transaction: transaction.clone(),
            missing,
            until,
        };
        self.awaiting.by_parent.entry(missing.txid).or_default().push(orphan);
        self.awaiting.count += 1;
        Ok(true)
    }

    /// Looks again at those whose parents have come.
    pub(super) fn adopt(&mut self, now: Time, view: &dyn View, effects: &mut Effects) -> Result<(), ViewError> {
        while let Some(parent) = self.awaiting.arrived.pop() {
            for orphan in self.awaiting.take(&parent) {
                self.on_submit(now, view, orphan.ticket, orphan.transaction, effects)?;
            }
        }
        Ok(())
    }

    /// Tells those who waited long enough that their parent is unknown.
    pub(super) fn give_up_orphans(&mut self, now: Time, effects: &mut Effects) {
        if self.awaiting.count == 0 {
            return;
        }
        let mut given_up = 0;
        for children in self.awaiting.by_parent.values_mut() {
            children.retain(|orphan| {
                let waits = orphan.until > now;
                if !waits {
                    given_up += 1;
                    let error = PoolError::Invalid(TransactionError::UnknownInput(orphan.missing));
                    effects.replies.push(Reply {
                        ticket: orphan.ticket,
                        result: Err(error),
                    });
                }
                waits
            });
        }
        self.awaiting.by_parent.retain(|_, children| !children.is_empty());
        self.awaiting.count -= given_up;
        self.counters.refused += given_up as u64;
    }
}
