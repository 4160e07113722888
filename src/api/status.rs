//! The node's status, made of its latest snapshot.

use super::Api;
use crate::{
    proto,
    replica::{Counters, PoolStats},
};

impl Api {
    pub(super) fn status(&self) -> proto::GetStatusResponse {
        let snapshot = self.context.snapshot.load();
        let genesis = &self.context.genesis;
        let electorate = &self.context.electorate;
        proto::GetStatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            chain_id: electorate.chain.0.to_vec(),
            network: genesis.network.clone(),
            params: Some(genesis.params.to_proto()),
            height: snapshot.height.0,
            block_id: snapshot.block.0.to_vec(),
            block_time_ms: snapshot.block_time.0,
            supply: snapshot.supply.0,
            epoch: snapshot.epoch.0,
            round: snapshot.round.0,
            phase: snapshot.phase.number(),
            is_validator: snapshot.validator.is_some(),
            validator: snapshot.validator.unwrap_or_default(),
            voting: snapshot.voting,
            silent_reason: snapshot.silent_reason.clone(),
            ready: *self.context.ready.borrow(),
            catching_up: snapshot.catching_up,
            claimed_height: snapshot.claimed_height.0,
            peers: u32::try_from(snapshot.peers).unwrap_or(u32::MAX),
            pool: Some(pool(&snapshot.pool)),
            counters: Some(counters(&snapshot.counters)),
            validators: electorate
                .of_epoch(snapshot.epoch)
                .iter()
                .map(|(_, validator)| validator.to_proto())
                .collect(),
        }
    }
}

fn pool(stats: &PoolStats) -> proto::PoolStatus {
    proto::PoolStatus {
        pending: stats.pending,
        bytes: stats.bytes,
        average_fee_rate_milli: stats.average_fee_rate_milli,
        oldest_ms: stats.oldest.map_or(0, |time| time.0),
        certified: stats.certified,
        finals: stats.final_,
        contested: stats.contested,
    }
}

fn counters(counters: &Counters) -> proto::FinalityCounters {
    proto::FinalityCounters {
        admitted: counters.admitted,
        refused: counters.refused,
        evicted: counters.evicted,
        finals: counters.finals,
        committed: counters.committed,
        rejected: counters.rejected,
        blocks: counters.blocks,
        payment_votes: counters.payment_votes,
        block_votes: counters.block_votes,
        round_timeouts: counters.round_timeouts,
        evidence: counters.evidence,
    }
}
