//! A typed client of the API, for the wallet commands and for tools.

use super::Refusal;
use crate::{
    primitives::{Amount, Certificate, DecodeError, Height, LockHash, OutPoint, TxId},
    proto::{self, PaymentState, Wait, get_coins_request, node_client::NodeClient},
};
use futures::Stream;
use std::time::Duration;
use thiserror::Error;
use tonic::{
    Code, Status, Streaming,
    transport::{Channel, Endpoint},
};

/// How long to try to connect.
const CONNECT: Duration = Duration::from_secs(5);
/// How much longer than the node itself a call waits for the node's answer.
const GRACE: Duration = Duration::from_secs(5);
/// How long a simple question may take.
const ANSWER: Duration = Duration::from_secs(30);

/// Why a call failed.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The address has the wrong form.
    #[error("'{0}' is not an address of a node: expected host:port, as in 127.0.0.1:7401")]
    Address(String),
    /// No connection.
    #[error("cannot connect to {address}: {error}")]
    Connect {
        /// Where.
        address: String,
        /// What the system says.
        error: String,
    },
    /// The node says no, and why.
    #[error(transparent)]
    Refused(Refusal),
    /// The connection broke, or time is up: what became of the call is not known.
    #[error("no answer: {0}")]
    NoAnswer(String),
    /// The node answers what makes no sense.
    #[error("the node's answer makes no sense: {0}")]
    Answer(#[from] DecodeError),
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        match Refusal::from_status(&status) {
            // Refused is only what is known not to happen.
            Some(refusal) if matches!(refusal.code, Code::Unavailable | Code::DeadlineExceeded) => {
                Self::NoAnswer(refusal.message)
            }
            Some(refusal) => Self::Refused(refusal),
            None => Self::NoAnswer(format!("{} ({:?})", status.message(), status.code())),
        }
    }
}

/// What became of a submission.
#[derive(Clone, Debug)]
pub struct Submitted {
    /// The payment.
    pub txid: TxId,
    /// How far it has come.
    pub state: PaymentState,
    /// Whether it came as far as was wanted in time.
    pub reached: bool,
    /// The block that it is in, when committed.
    pub height: Option<Height>,
    /// Proof of finality, when wanted and known.
    pub receipt: Option<Certificate>,
}

impl Submitted {
    /// Reads the node's answer.
    pub fn from_proto(message: &proto::SubmitResponse) -> Result<Self, DecodeError> {
        let state = state_from(message.state)?;
        Ok(Self {
            txid: TxId(crate::primitives::wire::array("txid", &message.txid)?),
            state,
            reached: message.reached,
            height: (state == PaymentState::Committed).then_some(Height(message.height)),
            receipt: message.receipt.as_ref().map(Certificate::from_proto).transpose()?,
        })
    }
}

/// The state behind its number on the wire.
pub fn state_from(number: i32) -> Result<PaymentState, DecodeError> {
    PaymentState::try_from(number).map_err(|_| DecodeError::Unknown {
        what: "payment state",
        value: number.into(),
    })
}

/// An unspent coin of somebody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnedCoin {
    /// Its name.
    pub outpoint: OutPoint,
    /// Its value.
    pub value: Amount,
}

impl OwnedCoin {
    fn from_proto(message: &proto::OwnedCoin) -> Result<Self, DecodeError> {
        let outpoint = crate::primitives::wire::required("outpoint", message.outpoint.as_ref())?;
        Ok(Self {
            outpoint: OutPoint {
                txid: TxId(crate::primitives::wire::array("outpoint txid", &outpoint.txid)?),
                index: outpoint.index,
            },
            value: Amount(message.value),
        })
    }
}

/// A connection to one node. Cheap to clone; clones share the connection.
#[derive(Clone, Debug)]
pub struct Client {
    inner: NodeClient<Channel>,
}

impl Client {
    /// Connects to a node at `host:port`.
    pub async fn connect(address: &str) -> Result<Self, ClientError> {
        let channel = Self::endpoint(address)?
            .connect()
            .await
            .map_err(|error| ClientError::Connect {
                address: address.to_owned(),
                error: causes(&error),
            })?;
        Ok(Self::over(channel))
    }

    /// A client that connects when it is first used, and again whenever the connection is lost.
    pub fn lazy(address: &str) -> Result<Self, ClientError> {
        Ok(Self::over(Self::endpoint(address)?.connect_lazy()))
    }

    fn endpoint(address: &str) -> Result<Endpoint, ClientError> {
        let uri = if address.contains("://") {
            address.to_owned()
        } else {
            format!("http://{address}")
        };
        let endpoint = Endpoint::from_shared(uri).map_err(|_| ClientError::Address(address.to_owned()))?;
        Ok(endpoint
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(8 << 20)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_while_idle(true))
    }

    fn over(channel: Channel) -> Self {
        Self {
            inner: NodeClient::new(channel).max_decoding_message_size(crate::primitives::limits::MAX_MESSAGE_SIZE),
        }
    }

    async fn in_time<T>(
        limit: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, ClientError> {
        match tokio::time::timeout(limit, call).await {
            Ok(answer) => Ok(answer?.into_inner()),
            Err(_) => Err(ClientError::NoAnswer(format!("within {} s", limit.as_secs()))),
        }
    }

    /// Submits a payment and waits for it. Safe to repeat with the same bytes.
    pub async fn submit(
        &self,
        transaction: &[u8],
        wait: Wait,
        timeout: Duration,
        want_receipt: bool,
    ) -> Result<Submitted, ClientError> {
        let request = proto::SubmitRequest {
            transaction: transaction.to_vec(),
            wait: wait.into(),
            timeout_ms: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX),
            want_receipt,
        };
        let answer = Self::in_time(timeout + GRACE, self.inner.clone().submit(request)).await?;
        Ok(Submitted::from_proto(&answer)?)
    }

    /// A stream of submissions, and of replies.
    pub async fn submit_stream(
        &self,
        batches: impl Stream<Item = proto::SubmitBatch> + Send + 'static,
    ) -> Result<Streaming<proto::SubmitReplies>, ClientError> {
        Ok(self.inner.clone().submit_stream(batches).await?.into_inner())
    }

    /// Where the node stands.
    pub async fn status(&self) -> Result<proto::GetStatusResponse, ClientError> {
        Self::in_time(ANSWER, self.inner.clone().get_status(proto::GetStatusRequest {})).await
    }

    /// How far a payment has come; `None`: the node does not know it.
    pub async fn transaction(
        &self,
        txid: &TxId,
        want_body: bool,
        want_receipt: bool,
    ) -> Result<Option<proto::GetTransactionResponse>, ClientError> {
        let request = proto::GetTransactionRequest {
            txid: txid.0.to_vec(),
            want_body,
            want_receipt,
        };
        let answer = Self::in_time(ANSWER, self.inner.clone().get_transaction(request)).await;
        none_when(answer, "UNKNOWN_TRANSACTION")
    }

    /// One page of the unspent coins under a lock; with where to go on, if there are more.
    pub async fn coins_page(
        &self,
        lock: &LockHash,
        limit: u32,
        cursor: Vec<u8>,
    ) -> Result<(Vec<OwnedCoin>, Option<Vec<u8>>), ClientError> {
        let request = proto::GetCoinsRequest {
            owner: Some(get_coins_request::Owner::Lock(lock.0.to_vec())),
            limit,
            cursor,
        };
        let page = Self::in_time(ANSWER, self.inner.clone().get_coins(request)).await?;
        let coins = page
            .coins
            .iter()
            .map(OwnedCoin::from_proto)
            .collect::<Result<_, DecodeError>>()?;
        Ok((coins, Some(page.next_cursor).filter(|cursor| !cursor.is_empty())))
    }

    /// The unspent coins under a lock, page by page, at most `max` of them.
    pub async fn coins(&self, lock: &LockHash, max: usize) -> Result<Vec<OwnedCoin>, ClientError> {
        let (mut coins, mut cursor) = (Vec::new(), Vec::new());
        loop {
            let (mut page, next) = self.coins_page(lock, 0, cursor).await?;
            coins.append(&mut page);
            match next {
                Some(next) if coins.len() < max => cursor = next,
                _ => break,
            }
        }
        coins.truncate(max);
        Ok(coins)
    }

    /// Sum of the unspent coins under a lock.
    pub async fn balance(&self, lock: &LockHash) -> Result<proto::GetBalanceResponse, ClientError> {
        let request = proto::GetBalanceRequest {
            owner: Some(proto::get_balance_request::Owner::Lock(lock.0.to_vec())),
        };
        Self::in_time(ANSWER, self.inner.clone().get_balance(request)).await
    }

    /// A block; `None`: the node does not have it.
    pub async fn block(
        &self,
        which: proto::get_block_request::Which,
        want_bodies: bool,
    ) -> Result<Option<proto::GetBlockResponse>, ClientError> {
        let request = proto::GetBlockRequest {
            which: Some(which),
            want_bodies,
        };
        let answer = Self::in_time(ANSWER, self.inner.clone().get_block(request)).await;
        none_when(answer, "UNKNOWN_BLOCK")
    }

    /// Events from now on.
    pub async fn subscribe(
        &self,
        request: proto::SubscribeRequest,
    ) -> Result<Streaming<proto::SubscribeResponse>, ClientError> {
        Self::in_time(ANSWER, self.inner.clone().subscribe(request)).await
    }
}

fn none_when<T>(answer: Result<T, ClientError>, reason: &str) -> Result<Option<T>, ClientError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(ClientError::Refused(refusal)) if refusal.reason == reason => Ok(None),
        Err(error) => Err(error),
    }
}

/// An error with all its causes: the transport's own text is just "transport error".
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whether_the_outcome_is_known_can_be_told() {
        let refused: ClientError = Refusal::invalid("MALFORMED", "no", vec![]).into_status().into();
        assert!(matches!(refused, ClientError::Refused(refusal) if refusal.reason == "MALFORMED"));
        let stopping: ClientError = Refusal::shutting_down().into_status().into();
        assert!(matches!(stopping, ClientError::NoAnswer(_)));
        let unchecked: ClientError = Refusal::no_verdict().into_status().into();
        assert!(matches!(unchecked, ClientError::NoAnswer(_)));
        let broken: ClientError = Status::unavailable("connection reset").into();
        assert!(matches!(broken, ClientError::NoAnswer(_)));
    }

    #[test]
    fn addresses_of_nodes() {
        assert!(Client::endpoint("127.0.0.1:7401").is_ok() && Client::endpoint("http://localhost:1").is_ok());
        assert!(matches!(
            Client::endpoint("not an address"),
            Err(ClientError::Address(_))
        ));
    }
}
