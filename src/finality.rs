//! One payment: locks, Lock / Final / Abandon, certificates, contests.
use crate::primitives::Certificate;
/// The votes behind a certificate, not yet cut out of their batches.
#[derive(Clone, Debug)]
pub struct Proof;
impl Proof {
    /// The certificate.
    pub fn certificate(&self) -> Certificate {
        unimplemented!()
    }
}
