//! One verification rule everywhere: ZIP-215, whether a signature is checked alone, in a batch of its like, or among
//! honest ones. A single signature that two nodes judge differently would split the network.
//!
//! Three judges are compared: the crate's single check, its batch, and the cofactored equation of ZIP-215 written out
//! here with plain curve arithmetic.

use curve25519_dalek::{
    constants::{ED25519_BASEPOINT_POINT, EIGHT_TORSION},
    edwards::{CompressedEdwardsY, EdwardsPoint},
    scalar::Scalar,
    traits::IsIdentity,
};
use proptest::prelude::*;
use serde::Deserialize;
use sha2::{Digest, Sha512};
use timecoin::primitives::{PublicKey, SecretKey, Signature, SignatureBatch, keys::verify};

/// A key, a digest, and a signature that may be over it.
type Case = (PublicKey, [u8; 32], Signature);

// ---- the rule, written out -------------------------------------------------------------------------------------

/// `k = SHA-512(R ‖ A ‖ M) mod l`, over the bytes as they were received.
fn challenge(r: &[u8], a: &[u8; 32], message: &[u8]) -> Scalar {
    let hash = Sha512::new()
        .chain_update(r)
        .chain_update(a)
        .chain_update(message)
        .finalize();
    Scalar::from_bytes_mod_order_wide(&hash.into())
}

/// ZIP-215: `A` and `R` decode (canonically or not), `s < l`, and `[8]([s]B − R − [k]A)` is the identity.
fn by_the_book(key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
    let (r_bytes, s_bytes) = signature.0.split_at(32);
    let point = |bytes: &[u8]| CompressedEdwardsY(bytes.try_into().expect("32 bytes")).decompress();
    let s: Option<Scalar> = Scalar::from_canonical_bytes(s_bytes.try_into().expect("32 bytes")).into();
    let (Some(a), Some(r), Some(s)) = (point(&key.0), point(r_bytes), s) else {
        return false;
    };
    let k = challenge(r_bytes, &key.0, message);
    (ED25519_BASEPOINT_POINT * s - r - a * k)
        .mul_by_cofactor()
        .is_identity()
}

/// The rule that most libraries follow instead: no cofactor. What it refuses and ZIP-215 accepts is what could split us.
fn without_cofactor((key, digest, signature): &Case) -> bool {
    let (r_bytes, s_bytes) = signature.0.split_at(32);
    let point = |bytes: &[u8]| CompressedEdwardsY(bytes.try_into().expect("32 bytes")).decompress();
    let s: Option<Scalar> = Scalar::from_canonical_bytes(s_bytes.try_into().expect("32 bytes")).into();
    let (Some(a), Some(r), Some(s)) = (point(&key.0), point(r_bytes), s) else {
        return false;
    };
    (ED25519_BASEPOINT_POINT * s - r - a * challenge(r_bytes, &key.0, digest)).is_identity()
}

// ---- comparing the judges --------------------------------------------------------------------------------------

fn batch_of<'a>(cases: impl IntoIterator<Item = &'a Case>) -> SignatureBatch {
    let mut batch = SignatureBatch::new();
    for (key, digest, signature) in cases {
        batch.queue(*key, *digest, *signature);
    }
    batch
}

fn honest(number: u8) -> Case {
    let (key, digest) = (SecretKey::from_seed([number; 32]), [number ^ 0x55; 32]);
    (key.public(), digest, key.sign(&digest))
}

/// The one verdict that everybody has on a case: alone, in a batch with itself, and among honest signatures.
fn verdict(case: &Case) -> bool {
    let (key, digest, signature) = case;
    let single = verify(key, digest, signature);
    assert_eq!(
        single,
        by_the_book(key, digest, signature),
        "single against the book: {case:?}"
    );
    for copies in [1, 2, 3, 8] {
        let batch = batch_of(std::iter::repeat_n(case, copies));
        assert_eq!(batch.all_valid(), single, "{copies} copies: {case:?}");
        assert_eq!(batch.verify(), vec![single; copies], "{copies} copies: {case:?}");
    }
    for place in [0, 3, 7] {
        let mut cases: Vec<Case> = (0..7).map(honest).collect();
        cases.insert(place, *case);
        let batch = batch_of(&cases);
        assert_eq!(batch.all_valid(), single, "among honest ones at {place}: {case:?}");
        let expected: Vec<bool> = (0..8).map(|index| index != place || single).collect();
        assert_eq!(batch.verify(), expected, "among honest ones at {place}: {case:?}");
    }
    single
}

// ---- published cases -------------------------------------------------------------------------------------------

#[derive(Deserialize)]
struct Vectors {
    vectors: Vec<Vector>,
}

#[derive(Deserialize)]
struct Vector {
    public_key: PublicKey,
    message: String,
    signature: String,
    valid: bool,
}

impl Vector {
    fn message(&self) -> Vec<u8> {
        hex::decode(&self.message).expect("hex in the vector file")
    }

    fn signature(&self) -> Signature {
        let bytes = hex::decode(&self.signature).expect("hex in the vector file");
        Signature(bytes.try_into().expect("64 bytes in the vector file"))
    }
}

fn vectors(json: &str) -> Vec<Vector> {
    serde_json::from_str::<Vectors>(json)
        .expect("a readable vector file")
        .vectors
}

/// The fourteen encodings of the eight points of small order: eight canonical ones; for the two points with x = 0 the
/// other sign bit too; and y + p where that fits 255 bits, with either sign bit.
fn small_order_encodings() -> Vec<[u8; 32]> {
    let with_sign = |mut bytes: [u8; 32]| {
        bytes[31] |= 0x80;
        bytes
    };
    let canonical = EIGHT_TORSION.iter().map(|point| point.compress().to_bytes());
    let one = EIGHT_TORSION[0].compress().to_bytes();
    let minus_one = EIGHT_TORSION[4].compress().to_bytes();
    // p = 2^255 − 19 and p + 1, little-endian.
    let mut p = [0xff; 32];
    (p[0], p[31]) = (0xed, 0x7f);
    let mut p_plus_one = p;
    p_plus_one[0] = 0xee;
    let others = [
        with_sign(one),
        with_sign(minus_one),
        p,
        with_sign(p),
        p_plus_one,
        with_sign(p_plus_one),
    ];
    canonical.chain(others).collect()
}

#[test]
fn the_196_small_order_cases_of_zip_215() {
    let published = vectors(include_str!("vectors/zip215.json"));
    let encodings = small_order_encodings();
    let pairs = encodings.iter().flat_map(|a| encodings.iter().map(move |r| (*a, *r)));
    assert_eq!(published.len(), 196);
    let mut digests = Vec::new();
    for (vector, (a, r)) in published.iter().zip(pairs) {
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&r);
        assert_eq!(
            (vector.public_key, vector.signature()),
            (PublicKey(a), Signature(bytes))
        );
        assert!(vector.valid && vector.message() == b"Zcash");
        // The published message has five bytes, and the chain only ever signs digests of 32: the library's own door
        // for the one, the crate's for the other.
        let key = ed25519_zebra::VerificationKey::try_from(a).expect("small order points are keys");
        let signature = ed25519_zebra::Signature::from_bytes(&bytes);
        assert!(key.verify(&signature, b"Zcash").is_ok() && by_the_book(&PublicKey(a), b"Zcash", &Signature(bytes)));
        let case = (PublicKey(a), [0x5a; 32], Signature(bytes));
        assert!(verdict(&case), "{case:?}");
        digests.push(case);
    }
    assert!(batch_of(&digests).all_valid(), "all 196 in one batch");
    let refused_elsewhere = digests.iter().filter(|case| !without_cofactor(case)).count();
    assert!(
        refused_elsewhere > 100,
        "the cases tell the rules apart: {refused_elsewhere}"
    );
    let with_s = |s: u8| {
        digests.iter().map(move |(key, digest, signature)| {
            let mut signature = *signature;
            signature.0[32] = s;
            (*key, *digest, signature)
        })
    };
    assert!(with_s(1).all(|case| !verdict(&case)), "with s = 1 none is valid");
}

#[test]
fn the_12_cases_of_taming_the_many_eddsas() {
    let published = vectors(include_str!("vectors/speccheck.json"));
    let expected: Vec<bool> = published.iter().map(|vector| vector.valid).collect();
    // 6 and 7 have s ≥ l; 8 is signed over the reduced R, and ZIP-215 hashes the bytes as they came.
    assert_eq!(
        expected,
        [
            true, true, true, true, true, true, false, false, false, true, true, true
        ]
    );
    let case = |vector: &Vector| {
        let digest = vector.message().try_into().expect("their messages have 32 bytes");
        (vector.public_key, digest, vector.signature())
    };
    let cases: Vec<Case> = published.iter().map(case).collect();
    assert_eq!(cases.iter().map(verdict).collect::<Vec<_>>(), expected);
    assert_eq!(batch_of(&cases).verify(), expected);
}

// ---- random mixes ----------------------------------------------------------------------------------------------

/// What is done to an honest signature.
#[derive(Clone, Copy, Debug)]
enum Tweak {
    None,
    /// Points of small order added to R and to A before the challenge is made: valid under ZIP-215 only.
    Torsion {
        r: usize,
        a: usize,
    },
    /// A point of small order added to R after signing: another challenge, so not valid.
    LateTorsion(usize),
    /// s + l: the same scalar, not canonical.
    LargeS,
    /// One bit of key, digest or signature flipped.
    Flip(usize),
    /// Another encoding of a small-order key, with R and s made for it.
    SmallKey {
        a: usize,
        r: usize,
    },
}

fn tweak() -> impl Strategy<Value = Tweak> {
    prop_oneof![
        3 => Just(Tweak::None),
        3 => (0usize..8, 0usize..8).prop_map(|(r, a)| Tweak::Torsion { r, a }),
        1 => (1usize..8).prop_map(Tweak::LateTorsion),
        1 => Just(Tweak::LargeS),
        2 => (0usize..(32 + 32 + 64) * 8).prop_map(Tweak::Flip),
        1 => (0usize..14, 0usize..14).prop_map(|(a, r)| Tweak::SmallKey { a, r }),
    ]
}

/// Signs with a key and a nonce as given, both points shifted by points of small order.
fn sign_shifted(secret: Scalar, nonce: Scalar, digest: [u8; 32], r: EdwardsPoint, a: EdwardsPoint) -> Case {
    let a_bytes = (ED25519_BASEPOINT_POINT * secret + a).compress().to_bytes();
    let r_bytes = (ED25519_BASEPOINT_POINT * nonce + r).compress().to_bytes();
    let s = nonce + challenge(&r_bytes, &a_bytes, &digest) * secret;
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(&r_bytes);
    signature[32..].copy_from_slice(&s.to_bytes());
    (PublicKey(a_bytes), digest, Signature(signature))
}

fn flip((mut key, mut digest, mut signature): Case, bit: usize) -> Case {
    let (byte, mask) = (bit / 8, 1 << (bit % 8));
    match byte {
        0..32 => key.0[byte] ^= mask,
        32..64 => digest[byte - 32] ^= mask,
        _ => signature.0[byte - 64] ^= mask,
    }
    (key, digest, signature)
}

/// Adds l to s.
fn enlarge((key, digest, mut signature): Case) -> Case {
    const L: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut carry = 0;
    for (byte, add) in signature.0[32..].iter_mut().zip(L) {
        let sum = u16::from(*byte) + u16::from(add) + carry;
        (*byte, carry) = (sum as u8, sum >> 8);
    }
    (key, digest, signature)
}

fn build(tweak: Tweak, secret: [u8; 32], digest: [u8; 32]) -> Case {
    let scalar = |purpose: &[u8]| {
        let hash = Sha512::new()
            .chain_update(purpose)
            .chain_update(secret)
            .chain_update(digest)
            .finalize();
        Scalar::from_bytes_mod_order_wide(&hash.into())
    };
    let shifted = |r: usize, a: usize| {
        sign_shifted(
            scalar(b"secret"),
            scalar(b"nonce"),
            digest,
            EIGHT_TORSION[r],
            EIGHT_TORSION[a],
        )
    };
    let honest = || {
        let key = SecretKey::from_seed(secret);
        (key.public(), digest, key.sign(&digest))
    };
    match tweak {
        Tweak::None => honest(),
        Tweak::Torsion { r, a } => shifted(r, a),
        Tweak::LateTorsion(r) => {
            let (key, digest, mut signature) = honest();
            let point = CompressedEdwardsY(signature.0[..32].try_into().expect("32 bytes")).decompress();
            let moved = point.expect("an honest R is a point") + EIGHT_TORSION[r];
            signature.0[..32].copy_from_slice(moved.compress().as_bytes());
            (key, digest, signature)
        }
        Tweak::LargeS => enlarge(honest()),
        Tweak::Flip(bit) => flip(honest(), bit),
        Tweak::SmallKey { a, r } => {
            let encodings = small_order_encodings();
            let mut signature = [0; 64];
            signature[..32].copy_from_slice(&encodings[r]);
            (PublicKey(encodings[a]), digest, Signature(signature))
        }
    }
}

fn is_valid(tweak: Tweak) -> bool {
    match tweak {
        Tweak::None | Tweak::Torsion { .. } | Tweak::SmallKey { .. } => true,
        Tweak::LateTorsion(_) | Tweak::LargeS | Tweak::Flip(_) => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn single_and_batch_agree_on_every_mix(
        members in prop::collection::vec((tweak(), 0u8..6, any::<u8>()), 0..24),
        all_kept: bool,
    ) {
        // Few secrets, so that keys repeat: a batch adds up what belongs to one key.
        let cases: Vec<(Tweak, Case)> = members
            .iter()
            .map(|(tweak, secret, digest)| (*tweak, build(*tweak, [*secret; 32], [*digest; 32])))
            .filter(|(tweak, _)| all_kept || is_valid(*tweak))
            .collect();
        let expected: Vec<bool> = cases.iter().map(|(tweak, _)| is_valid(*tweak)).collect();
        let single: Vec<bool> = cases.iter().map(|(_, (key, digest, signature))| verify(key, digest, signature)).collect();
        let book: Vec<bool> = cases.iter().map(|(_, (key, digest, signature))| by_the_book(key, digest, signature)).collect();
        let batch = batch_of(cases.iter().map(|(_, case)| case));
        prop_assert_eq!(&single, &expected);
        prop_assert_eq!(&book, &expected);
        prop_assert_eq!(batch.verify(), expected);
        prop_assert_eq!(batch.all_valid(), single.iter().all(|valid| *valid));
    }
}
