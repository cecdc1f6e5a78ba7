//! BLS signatures over BN254, as the `Bn254Bls` keys of Blueprint owners make them.
//!
//! Keys are in G2 and signatures in G1, both in the compressed form of arkworks. A message is mapped
//! to G1 by its SHA-256 as the first `x` to try.

use ark_bn254::{Bn254, Fq, G1Affine, G1Projective, G2Affine};
use ark_ec::pairing::Pairing;
use ark_ec::{AffineRepr, CurveGroup};
use ark_ff::{Field, PrimeField};
use ark_serialize::CanonicalDeserialize;
use sha2::{Digest, Sha256};

/// Half of all `x` are on the curve: 256 misses in a row do not happen.
const MAX_TRIES: u32 = 256;

/// Reads a key: on the curve, in the right subgroup, not the neutral element.
pub(crate) fn public_key(bytes: &[u8]) -> Option<G2Affine> {
    let key = G2Affine::deserialize_compressed(&mut exact(bytes, 64)?).ok()?;
    (!key.is_zero()).then_some(key)
}

/// Whether `signature` belongs to `key` and `message`.
pub(crate) fn verifies(key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let signature =
        exact(signature, 32).and_then(|bytes| G1Affine::deserialize_compressed(&mut &*bytes).ok());
    let (Some(key), Some(signature), Some(point)) = (public_key(key), signature, hash_to_curve(message))
    else {
        return false;
    };
    !signature.is_zero() && Bn254::pairing(point, key) == Bn254::pairing(signature, G2Affine::generator())
}

/// Reading from a longer slice would leave its end unread.
fn exact(bytes: &[u8], length: usize) -> Option<&[u8]> {
    (bytes.len() == length).then_some(bytes)
}

/// The point of a message: `x` is its SHA-256, and goes up by one until `x³ + 3` is a square.
pub(crate) fn hash_to_curve(message: &[u8]) -> Option<G1Affine> {
    let mut x = Fq::from_be_bytes_mod_order(&Sha256::digest(message));
    for _ in 0..MAX_TRIES {
        let square = x.square() * x + Fq::from(3u64);
        if let Some(y) = square.sqrt() {
            return Some(G1Projective::new(x, y, Fq::ONE).into_affine());
        }
        x += Fq::ONE;
    }
    None
}
