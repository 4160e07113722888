//! The service itself: requests checked and translated; the work is done in the neighbouring files.

use super::{Api, Refusal, reads::ReadError};
use crate::{
    ledger::view::Query,
    primitives::{
        Address, Amount, BlockId, Certificate, Coin, CommittedBlock, Height, LockHash, OutPoint, TxId, transaction,
    },
    proto::{self, PaymentState, get_balance_request, get_block_request, get_coins_request, node_server::Node},
    replica::State,
};
use futures::stream::BoxStream;
use prost::Message as _;
use std::{ops::Deref, sync::Arc};
use tonic::{Request, Response, Status, Streaming};

/// Coins in one page.
const MAX_PAGE: usize = 1_000;
/// Coins that a balance is summed over.
const MAX_BALANCE_COINS: usize = 100_000;

/// The gRPC service over the shared [`Api`].
#[derive(Clone)]
pub(super) struct Service(pub(super) Arc<Api>);

impl Deref for Service {
    type Target = Arc<Api>;
    fn deref(&self) -> &Arc<Api> {
        &self.0
    }
}

#[tonic::async_trait]
impl Node for Service {
    async fn submit(&self, request: Request<proto::SubmitRequest>) -> Result<Response<proto::SubmitResponse>, Status> {
        Ok(Response::new(Api::submit(self, request.into_inner()).await?))
    }

    type SubmitStreamStream = BoxStream<'static, Result<proto::SubmitReplies, Status>>;

    async fn submit_stream(
        &self,
        request: Request<Streaming<proto::SubmitBatch>>,
    ) -> Result<Response<Self::SubmitStreamStream>, Status> {
        let replies = Api::submit_stream(self.0.clone(), request.into_inner());
        Ok(Response::new(Box::pin(replies)))
    }

    async fn get_transaction(
        &self,
        request: Request<proto::GetTransactionRequest>,
    ) -> Result<Response<proto::GetTransactionResponse>, Status> {
        Ok(Response::new(self.transaction(request.into_inner()).await?))
    }

    async fn get_coins(
        &self,
        request: Request<proto::GetCoinsRequest>,
    ) -> Result<Response<proto::GetCoinsResponse>, Status> {
        Ok(Response::new(self.coins(request.into_inner()).await?))
    }

    async fn get_balance(
        &self,
        request: Request<proto::GetBalanceRequest>,
    ) -> Result<Response<proto::GetBalanceResponse>, Status> {
        Ok(Response::new(self.balance(request.into_inner()).await?))
    }

    async fn get_block(
        &self,
        request: Request<proto::GetBlockRequest>,
    ) -> Result<Response<proto::GetBlockResponse>, Status> {
        Ok(Response::new(self.block(request.into_inner()).await?))
    }

    async fn get_status(
        &self,
        _request: Request<proto::GetStatusRequest>,
    ) -> Result<Response<proto::GetStatusResponse>, Status> {
        Ok(Response::new(self.status()))
    }

    type SubscribeStream = BoxStream<'static, Result<proto::SubscribeResponse, Status>>;

    async fn subscribe(
        &self,
        request: Request<proto::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let events = Api::subscribe(self.0.clone(), request.get_ref())?;
        Ok(Response::new(Box::pin(events)))
    }
}

/// The lock behind an address of this network.
pub(super) fn lock_of_address(text: &str, network: &str) -> Result<LockHash, Refusal> {
    Address::parse(text, network)
        .map(|address| address.lock)
        .map_err(|error| {
            Refusal::invalid(
                "BAD_ADDRESS",
                error.to_string(),
                vec![("address", text.to_owned()), ("network", network.to_owned())],
            )
        })
}

fn hash<T: for<'a> TryFrom<&'a [u8]>>(what: &'static str, bytes: &[u8]) -> Result<T, Refusal> {
    T::try_from(bytes).map_err(|_| {
        Refusal::invalid(
            "WRONG_LENGTH",
            format!("{what}: {} bytes, expected 32", bytes.len()),
            vec![
                ("what", what.to_owned()),
                ("length", bytes.len().to_string()),
                ("expected", "32".to_owned()),
            ],
        )
    })
}

fn missing(what: &'static str) -> Refusal {
    Refusal::invalid("MISSING", format!("{what} is missing"), vec![("what", what.to_owned())])
}

impl Api {
    fn lock_of(&self, address: Option<&str>, lock: Option<&[u8]>) -> Result<LockHash, Refusal> {
        match (address, lock) {
            (Some(text), _) => lock_of_address(text, &self.context.genesis.network),
            (None, Some(bytes)) => hash("lock", bytes),
            (None, None) => Err(missing("owner: an address or a lock")),
        }
    }

    async fn transaction(
        &self,
        request: proto::GetTransactionRequest,
    ) -> Result<proto::GetTransactionResponse, Refusal> {
        let txid: TxId = hash("txid", &request.txid)?;
        let known = self.context.payments.get(&txid);
        let standing = match &known {
            Some(known) if !matches!(known.state, State::Committed(_)) => self.standing(txid).await?,
            _ => {
                let stored = self
                    .reads
                    .run(move |chain| Ok(super::submit::stored(chain, &txid)?))
                    .await?;
                // Just committed in memory and not found in the store: it was asked between the two.
                match stored {
                    Some(stored) => Some(stored),
                    None => self.standing(txid).await?,
                }
            }
        };
        let Some(standing) = standing else {
            return Err(Refusal::not_found(
                "UNKNOWN_TRANSACTION",
                format!("transaction {txid} is not known to this node"),
                vec![("txid", txid.to_string())],
            ));
        };
        let transaction = match &known {
            _ if !request.want_body => vec![],
            Some(known) => known.transaction.bytes().to_vec(),
            None if standing.state() == PaymentState::Committed => {
                self.reads.run(move |chain| body_of(chain, &txid)).await?
            }
            None => vec![],
        };
        let receipt = known.filter(|_| request.want_receipt).and_then(|known| known.receipt());
        Ok(proto::GetTransactionResponse {
            txid: txid.0.to_vec(),
            state: standing.state().into(),
            height: standing.height(),
            index: standing.index.unwrap_or_default(),
            transaction,
            receipt: receipt.as_ref().map(Certificate::to_proto),
        })
    }

    async fn coins(&self, request: proto::GetCoinsRequest) -> Result<proto::GetCoinsResponse, Refusal> {
        use get_coins_request::Owner;
        let lock = match &request.owner {
            Some(Owner::Address(text)) => self.lock_of(Some(text), None)?,
            Some(Owner::Lock(bytes)) => self.lock_of(None, Some(bytes))?,
            None => self.lock_of(None, None)?,
        };
        let limit = match request.limit as usize {
            0 => MAX_PAGE,
            limit if limit <= MAX_PAGE => limit,
            limit => {
                return Err(Refusal::invalid(
                    "OUT_OF_LIMITS",
                    format!("limit: {limit}, allowed are 1 to {MAX_PAGE}"),
                    vec![
                        ("what", "limit".into()),
                        ("count", limit.to_string()),
                        ("max", MAX_PAGE.to_string()),
                    ],
                ));
            }
        };
        let after = match request.cursor.as_slice() {
            [] => None,
            bytes => Some(OutPoint::from_bytes(bytes).map_err(|error| {
                let (_, values) = super::refusal::decode_rule(&error);
                Refusal::invalid("BAD_CURSOR", format!("cursor: {error}"), values)
            })?),
        };
        let read = move |chain: &dyn Query| {
            let height = chain.tip()?.height;
            Ok((height, chain.coins_of(&lock, after.as_ref(), limit)?))
        };
        let (height, coins) = self.reads.run(read).await?;
        let next_cursor = match coins.last() {
            Some((outpoint, _)) if coins.len() == limit => outpoint.to_bytes().to_vec(),
            _ => vec![],
        };
        Ok(proto::GetCoinsResponse {
            coins: coins.iter().map(owned_coin).collect(),
            next_cursor,
            height: height.0,
        })
    }

    async fn balance(&self, request: proto::GetBalanceRequest) -> Result<proto::GetBalanceResponse, Refusal> {
        use get_balance_request::Owner;
        let lock = match &request.owner {
            Some(Owner::Address(text)) => self.lock_of(Some(text), None)?,
            Some(Owner::Lock(bytes)) => self.lock_of(None, Some(bytes))?,
            None => self.lock_of(None, None)?,
        };
        self.reads.run(move |chain| sum_of(chain, &lock)).await
    }

    async fn block(&self, request: proto::GetBlockRequest) -> Result<proto::GetBlockResponse, Refusal> {
        use get_block_request::Which;
        let which = request.which.ok_or_else(|| missing("which: a height or a block id"))?;
        let id = match &which {
            Which::BlockId(bytes) => Some(hash::<BlockId>("block id", bytes)?),
            Which::Height(_) => None,
        };
        let chain_id = self.context.electorate.chain;
        let read = move |chain: &dyn Query| {
            let height = match (&which, &id) {
                (Which::Height(0), _) => Some(chain.tip()?.height),
                (Which::Height(height), _) => Some(Height(*height)),
                (_, Some(id)) => chain.height_of(id)?,
                (_, None) => None,
            };
            let block = match height {
                Some(height) => chain.block(height)?,
                None => None,
            };
            let name = || match (&which, &id) {
                (_, Some(id)) => id.to_string(),
                (Which::Height(height), None) => height.to_string(),
                (_, None) => String::new(),
            };
            let Some(block) = block else {
                return Err(ReadError::Refused(Refusal::not_found(
                    "UNKNOWN_BLOCK",
                    format!("block {} is not known to this node", name()),
                    vec![("block", name())],
                )));
            };
            block_response(&chain_id, block, request.want_bodies).map_err(ReadError::Refused)
        };
        self.reads.run(read).await
    }
}

fn owned_coin((outpoint, coin): &(OutPoint, Coin)) -> proto::OwnedCoin {
    proto::OwnedCoin {
        outpoint: Some(proto::OutPoint {
            txid: outpoint.txid.0.to_vec(),
            index: outpoint.index,
        }),
        value: coin.output.value.0,
        height: coin.height.0,
    }
}

fn sum_of(chain: &dyn Query, lock: &LockHash) -> Result<proto::GetBalanceResponse, ReadError> {
    let height = chain.tip()?.height;
    let (mut balance, mut coins, mut after) = (Amount::ZERO, 0, None);
    loop {
        let page = chain.coins_of(lock, after.as_ref(), MAX_PAGE)?;
        coins += page.len();
        if coins > MAX_BALANCE_COINS {
            return Err(Refusal::too_many("TOO_MANY_COINS", "coins to sum up", MAX_BALANCE_COINS).into());
        }
        let values = page.iter().map(|(_, coin)| coin.output.value);
        balance = Amount::sum(std::iter::once(balance).chain(values))
            .ok_or_else(|| Refusal::internal("the coins of one lock add up to more than 2^64 - 1 units"))?;
        match page.last() {
            Some((outpoint, _)) if page.len() == MAX_PAGE => after = Some(*outpoint),
            _ => break,
        }
    }
    Ok(proto::GetBalanceResponse {
        balance: balance.0,
        coins: coins as u64,
        height: height.0,
    })
}

/// The bytes of a committed payment; empty when its block is not here any more.
fn body_of(chain: &dyn Query, txid: &TxId) -> Result<Vec<u8>, ReadError> {
    let Some(location) = chain.location(txid)? else {
        return Ok(vec![]);
    };
    let Some(block) = chain.block(location.height)? else {
        return Ok(vec![]);
    };
    let mut transactions = block.block.transactions;
    let index = location.index as usize;
    if index < transactions.len() {
        Ok(transactions.swap_remove(index))
    } else {
        Err(Refusal::internal(format!("block {} has no transaction {index}", location.height)).into())
    }
}

fn block_response(
    chain: &crate::primitives::ChainId,
    block: CommittedBlock,
    want_bodies: bool,
) -> Result<proto::GetBlockResponse, Refusal> {
    let CommittedBlock { block, commit } = block;
    let txid = |bytes: &Vec<u8>| {
        let message = proto::SignedTransaction::decode(bytes.as_slice())
            .map_err(|error| Refusal::internal(format!("a stored transaction is not decodable: {error}")))?;
        Ok(transaction::txid(chain, &message.body).0.to_vec())
    };
    Ok(proto::GetBlockResponse {
        block_id: block.header.id(chain).0.to_vec(),
        header: block.header.encode(),
        txids: block.transactions.iter().map(txid).collect::<Result<_, Refusal>>()?,
        rejected: block
            .rejections
            .iter()
            .map(|rejection| rejection.txid.0.to_vec())
            .collect(),
        commit: Some(commit.to_proto()),
        transaction_bytes: block.transactions.iter().map(|bytes| bytes.len() as u64).sum(),
        transactions: if want_bodies { block.transactions } else { vec![] },
    })
}
