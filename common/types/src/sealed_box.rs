//! Bytes for one reader: sealed to a tunnel key, opened by its private half alone.
//!
//! X25519 with a key of the sender's that is used once, HKDF-SHA256 (RFC 5869) over what both know, and
//! ChaCha20-Poly1305 (RFC 8439). The context is bound in, so that what was sealed for one purpose opens for no
//! other. The tunnel's handshakes hash their own protocol's name, so neither can be taken for the other.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use x25519_dalek::{PublicKey, StaticSecret};

use crate::{Secret, WgPrivateKey, WgPublicKey};

const PROTOCOL: &[u8] = b"blueprint-hub sealed box v1";

/// Bytes of the sender's key, in front of what is sealed.
const KEY_BYTES: usize = 32;

/// Seals `plaintext` for the owner of `reader`; it is longer by 48 bytes afterwards.
///
/// # Errors
///
/// Fails only where the system has no source of randomness, or for a key that nobody can own.
pub fn seal(reader: &WgPublicKey, context: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, std::io::Error> {
    let mut bytes = [0u8; 32];
    crate::fill_random(&mut bytes)?;
    let once = Secret::new(bytes);
    let sender = StaticSecret::from(*once.expose());
    let public = PublicKey::from(&sender).to_bytes();
    let shared = sender.diffie_hellman(&PublicKey::from(*reader.as_bytes()));
    let broken = || std::io::Error::other("the reader's key cannot be used");
    if !shared.was_contributory() {
        return Err(broken());
    }
    let key = key(shared.as_bytes(), [&public, reader.as_bytes(), context]).ok_or_else(broken)?;
    let mut sealed = plaintext.to_vec();
    // The key is used once, so the nonce may be any.
    let nonce = Nonce::assume_unique_for_key([0; 12]);
    key.seal_in_place_append_tag(nonce, Aad::empty(), &mut sealed).map_err(|_| broken())?;
    Ok([&public[..], &sealed].concat())
}

/// Opens what was sealed for the owner of `reader` in this context; `None` for anything else.
#[must_use]
pub fn open(reader: &WgPrivateKey, context: &[u8], sealed: &[u8]) -> Option<Secret<Vec<u8>>> {
    let (public, sealed) = sealed.split_at_checked(KEY_BYTES)?;
    let public: [u8; KEY_BYTES] = public.try_into().ok()?;
    let shared = StaticSecret::from(*reader.expose()).diffie_hellman(&PublicKey::from(public));
    if !shared.was_contributory() {
        return None;
    }
    let key = key(shared.as_bytes(), [&public, reader.public_key().as_bytes(), context])?;
    let mut buffer = sealed.to_vec();
    let nonce = Nonce::assume_unique_for_key([0; 12]);
    let length = key.open_in_place(nonce, Aad::empty(), &mut buffer).ok()?.len();
    buffer.truncate(length);
    Some(Secret::new(buffer))
}

fn key(shared: &[u8; 32], about: [&[u8]; 3]) -> Option<LessSafeKey> {
    let extracted = Salt::new(HKDF_SHA256, PROTOCOL).extract(shared);
    let expanded = extracted.expand(&about, &CHACHA20_POLY1305).ok()?;
    Some(LessSafeKey::new(UnboundKey::from(expanded)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_for_its_reader_in_its_context_and_whole() {
        let (reader, other) = (WgPrivateKey::random().unwrap(), WgPrivateKey::random().unwrap());
        for text in [&b""[..], b"keys"] {
            let mut sealed = seal(&reader.public_key(), b"7/42", text).unwrap();
            assert_eq!(open(&reader, b"7/42", &sealed).unwrap().expose(), text);
            assert!(open(&other, b"7/42", &sealed).is_none());
            assert!(open(&reader, b"7/43", &sealed).is_none());
            for length in 0..sealed.len() {
                assert!(open(&reader, b"7/42", &sealed[..length]).is_none(), "cut at {length}");
            }
            for position in [0, 31, 32, sealed.len() - 1] {
                sealed[position] ^= 1;
                assert!(open(&reader, b"7/42", &sealed).is_none(), "changed at {position}");
                sealed[position] ^= 1;
            }
        }
        assert!(seal(&WgPublicKey::from_bytes([0; 32]), b"", b"").is_err(), "a key of small order");
    }
}
