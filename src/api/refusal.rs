//! Refusals: a rule by name, the offending values, a sentence. The same in a status and in the reply of a stream.

use super::SubmitError;
use crate::{
    ledger::{CheckError, TransactionError},
    pool::PoolError,
    primitives::{DecodeError, Height, TxId},
    proto,
    replica::Dropped,
};
use std::collections::HashMap;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// Domain of the ErrorInfo that statuses carry.
pub(super) const DOMAIN: &str = "timecoin";

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// gRPC status code.
    pub code: Code,
    /// Name of the rule, as in `FEE_TOO_LOW`. Names do not change.
    pub reason: String,
    /// For people.
    pub message: String,
    /// The offending values.
    pub metadata: HashMap<String, String>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.message, self.reason)
    }
}

impl std::error::Error for Refusal {}

type Values = Vec<(&'static str, String)>;

impl Refusal {
    fn new(code: Code, reason: &str, message: impl Into<String>, values: Values) -> Self {
        Self {
            code,
            reason: reason.to_owned(),
            message: message.into(),
            metadata: values.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        }
    }

    /// Something in the request has the wrong form.
    pub(super) fn invalid(reason: &str, message: impl Into<String>, values: Values) -> Self {
        Self::new(Code::InvalidArgument, reason, message, values)
    }

    pub(super) fn not_found(reason: &str, message: impl Into<String>, values: Values) -> Self {
        Self::new(Code::NotFound, reason, message, values)
    }

    pub(super) fn too_many(reason: &str, what: &str, limit: usize) -> Self {
        let message = format!("too many {what}: the limit is {limit}");
        Self::new(
            Code::ResourceExhausted,
            reason,
            message,
            vec![("limit", limit.to_string())],
        )
    }

    pub(super) fn overloaded(message: impl Into<String>) -> Self {
        Self::new(Code::ResourceExhausted, "OVERLOADED", message, vec![])
    }

    /// The verdict on a submission did not come in time: what becomes of it is not known.
    pub(super) fn no_verdict() -> Self {
        let message = "the submission was not checked in time; it may still be: submit it again, unchanged";
        Self::new(Code::DeadlineExceeded, "NO_VERDICT", message, vec![])
    }

    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(Code::Internal, "INTERNAL", message, vec![])
    }

    pub(super) fn shutting_down() -> Self {
        SubmitError::ShuttingDown.into()
    }

    /// A payment that ended without being committed.
    pub(super) fn dropped(txid: &TxId, reason: Dropped, height: Option<Height>) -> Self {
        let (code, name, message) = match reason {
            Dropped::Rejected => (
                Code::Aborted,
                "REJECTED",
                "was rejected by a block and is never valid again: build a new one",
            ),
            Dropped::Conflict => (
                Code::Aborted,
                "CONFLICT",
                "can never be committed: another transaction in a block spent one of its coins",
            ),
            Dropped::Evicted => (
                Code::ResourceExhausted,
                "EVICTED",
                "was evicted from the full pool by better paying ones: submit it again later, unchanged",
            ),
        };
        let mut values = vec![("txid", txid.to_string())];
        values.extend(height.map(|height| ("height", height.to_string())));
        Self::new(code, name, format!("transaction {txid} {message}"), values)
    }

    pub(super) fn into_status(self) -> Status {
        let details = ErrorDetails::with_error_info(self.reason, DOMAIN, self.metadata);
        Status::with_error_details(self.code, self.message, details)
    }

    pub(super) fn into_proto(self) -> proto::SubmitRefusal {
        proto::SubmitRefusal {
            code: i32::from(self.code).unsigned_abs(),
            reason: self.reason,
            message: self.message,
            metadata: self.metadata,
        }
    }

    /// Reads what a stream replies.
    pub fn from_proto(message: proto::SubmitRefusal) -> Self {
        Self {
            code: i32::try_from(message.code).map_or(Code::Unknown, Code::from_i32),
            reason: message.reason,
            message: message.message,
            metadata: message.metadata,
        }
    }

    /// What a status says; `None` when it carries no reason of ours (a broken connection, another kind of server).
    pub(super) fn from_status(status: &Status) -> Option<Self> {
        let info = status
            .get_error_details()
            .error_info()
            .filter(|info| info.domain == DOMAIN)?
            .clone();
        Some(Self {
            code: status.code(),
            reason: info.reason,
            message: status.message().to_owned(),
            metadata: info.metadata,
        })
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        refusal.into_status()
    }
}

impl From<SubmitError> for Refusal {
    fn from(error: SubmitError) -> Self {
        let message = error.to_string();
        let (code, reason, values) = match &error {
            SubmitError::Check(error) => check_rule(error),
            SubmitError::Pool(error) => pool_rule(error),
            SubmitError::Overloaded => (Code::ResourceExhausted, "OVERLOADED", vec![]),
            SubmitError::ShuttingDown => (Code::Unavailable, "SHUTTING_DOWN", vec![]),
        };
        Self::new(code, reason, message, values)
    }
}

type Rule = (Code, &'static str, Values);

fn check_rule(error: &CheckError) -> Rule {
    let (reason, values) = match error {
        CheckError::Decode(error) => decode_rule(error),
        CheckError::DuplicateInput { txid, outpoint } => (
            "DUPLICATE_INPUT",
            vec![("txid", txid.to_string()), ("outpoint", outpoint.to_string())],
        ),
        CheckError::OutputOverflow(txid) => ("OUTPUT_OVERFLOW", vec![("txid", txid.to_string())]),
        CheckError::Signature { txid, public_key } => (
            "BAD_SIGNATURE",
            vec![("txid", txid.to_string()), ("public_key", public_key.to_string())],
        ),
    };
    (Code::InvalidArgument, reason, values)
}

pub(super) fn decode_rule(error: &DecodeError) -> (&'static str, Values) {
    match error {
        DecodeError::Malformed { what, .. } => ("MALFORMED", vec![("what", (*what).to_owned())]),
        DecodeError::NonCanonical { what } => ("NON_CANONICAL", vec![("what", (*what).to_owned())]),
        DecodeError::Length { what, length, expected } => (
            "WRONG_LENGTH",
            vec![
                ("what", (*what).to_owned()),
                ("length", length.to_string()),
                ("expected", expected.to_string()),
            ],
        ),
        DecodeError::Count { what, count, min, max } => (
            "OUT_OF_LIMITS",
            vec![
                ("what", (*what).to_owned()),
                ("count", count.to_string()),
                ("min", min.to_string()),
                ("max", max.to_string()),
            ],
        ),
        DecodeError::TooLarge { what, bytes, max } => (
            "TOO_LARGE",
            vec![
                ("what", (*what).to_owned()),
                ("bytes", bytes.to_string()),
                ("max", max.to_string()),
            ],
        ),
        DecodeError::UnknownKind { what, field } => (
            "UNKNOWN_TYPE",
            vec![("what", (*what).to_owned()), ("field", field.to_string())],
        ),
        DecodeError::Missing { what } => ("MISSING", vec![("what", (*what).to_owned())]),
        DecodeError::Unknown { what, value } => (
            "UNKNOWN_VALUE",
            vec![("what", (*what).to_owned()), ("value", value.to_string())],
        ),
        DecodeError::Order { what, position } => (
            "WRONG_ORDER",
            vec![("what", (*what).to_owned()), ("position", position.to_string())],
        ),
    }
}

fn pool_rule(error: &PoolError) -> Rule {
    match error {
        PoolError::Invalid(error) => transaction_rule(error),
        PoolError::Conflict { outpoint, by } => (
            Code::FailedPrecondition,
            "CONFLICT",
            vec![("outpoint", outpoint.to_string()), ("by", by.to_string())],
        ),
        PoolError::Rejected(txid) => (Code::Aborted, "REJECTED", vec![("txid", txid.to_string())]),
        PoolError::Syncing => (Code::Unavailable, "SYNCING", Vec::new()),
        PoolError::Full {
            txid,
            rate_milli,
            floor_milli,
        } => (
            Code::ResourceExhausted,
            "POOL_FULL",
            vec![
                ("txid", txid.to_string()),
                ("rate_milli", rate_milli.to_string()),
                ("floor_milli", floor_milli.to_string()),
            ],
        ),
    }
}

fn transaction_rule(error: &TransactionError) -> Rule {
    let (reason, values) = match error {
        TransactionError::UnknownInput(outpoint) => ("UNKNOWN_INPUT", vec![("outpoint", outpoint.to_string())]),
        TransactionError::Locked { outpoint, lock } => (
            "LOCKED",
            vec![("outpoint", outpoint.to_string()), ("lock", lock.to_string())],
        ),
        TransactionError::Threshold { lock, threshold, found } => (
            "THRESHOLD",
            vec![
                ("lock", lock.to_string()),
                ("threshold", threshold.to_string()),
                ("found", found.to_string()),
            ],
        ),
        TransactionError::SharedWitness { public_key, policy, .. } => (
            "SHARED_WITNESS",
            vec![("public_key", public_key.to_string()), ("policy", policy.to_string())],
        ),
        TransactionError::UnneededWitness(key) => ("UNNEEDED_WITNESS", vec![("public_key", key.to_string())]),
        TransactionError::UnneededPolicy(lock) => ("UNNEEDED_POLICY", vec![("lock", lock.to_string())]),
        TransactionError::InputOverflow => ("INPUT_OVERFLOW", vec![]),
        TransactionError::Overspent { inputs, outputs } => (
            "OVERSPENT",
            vec![("inputs", inputs.0.to_string()), ("outputs", outputs.0.to_string())],
        ),
        TransactionError::FeeTooLow { fee, size, rate } => (
            "FEE_TOO_LOW",
            vec![
                ("fee", fee.0.to_string()),
                ("required", rate.saturating_mul(*size as u64).to_string()),
                ("size", size.to_string()),
                ("rate", rate.to_string()),
            ],
        ),
        TransactionError::View(_) => return (Code::Internal, "INTERNAL", vec![]),
    };
    (Code::FailedPrecondition, reason, values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::primitives::{Amount, OutPoint};

    #[test]
    fn a_status_carries_the_rule_and_the_values_and_comes_back_whole() {
        let outpoint = OutPoint {
            txid: TxId([3; 32]),
            index: 4,
        };
        let rows: [(SubmitError, Code, &str, &str, String); 6] = [
            (
                PoolError::Invalid(TransactionError::UnknownInput(outpoint)).into(),
                Code::FailedPrecondition,
                "UNKNOWN_INPUT",
                "outpoint",
                outpoint.to_string(),
            ),
            (
                PoolError::Invalid(TransactionError::FeeTooLow {
                    fee: Amount(7),
                    size: 250,
                    rate: 2,
                })
                .into(),
                Code::FailedPrecondition,
                "FEE_TOO_LOW",
                "required",
                "500".into(),
            ),
            (
                PoolError::Conflict {
                    outpoint,
                    by: TxId([9; 32]),
                }
                .into(),
                Code::FailedPrecondition,
                "CONFLICT",
                "by",
                TxId([9; 32]).to_string(),
            ),
            (
                CheckError::Decode(DecodeError::NonCanonical { what: "body" }).into(),
                Code::InvalidArgument,
                "NON_CANONICAL",
                "what",
                "body".into(),
            ),
            (
                CheckError::DuplicateInput {
                    txid: TxId([1; 32]),
                    outpoint,
                }
                .into(),
                Code::InvalidArgument,
                "DUPLICATE_INPUT",
                "outpoint",
                outpoint.to_string(),
            ),
            (
                PoolError::Full {
                    txid: TxId([1; 32]),
                    rate_milli: 1_000,
                    floor_milli: 2_000,
                }
                .into(),
                Code::ResourceExhausted,
                "POOL_FULL",
                "floor_milli",
                "2000".into(),
            ),
        ];
        for (error, code, reason, key, value) in rows {
            let refusal = Refusal::from(error);
            assert_eq!((refusal.code, refusal.reason.as_str()), (code, reason));
            assert_eq!(refusal.metadata.get(key), Some(&value), "{reason}");
            let status = refusal.clone().into_status();
            assert_eq!(Refusal::from_status(&status), Some(refusal.clone()));
            assert_eq!(Refusal::from_proto(refusal.clone().into_proto()), refusal);
        }
    }

    #[test]
    fn foreign_statuses_are_not_taken_for_refusals() {
        assert_eq!(Refusal::from_status(&Status::unavailable("connection reset")), None);
    }
}
