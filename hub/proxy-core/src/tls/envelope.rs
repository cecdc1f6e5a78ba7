//! Envelopes in which blueprints hand over certificates and keys (`encrypted_*` of the bridge's TLS profile):
//! ChaCha20-Poly1305 (RFC 8439) with the nonce in front.

use blueprint_common_types::Secret;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

/// Longest envelope that is opened, in bytes.
const MAX_ENVELOPE: usize = 64 * 1024;

/// Opens an envelope; `None` where it was not sealed with this key, or is too long.
#[must_use]
pub fn open_envelope(key: &Secret<[u8; 32]>, envelope: &[u8]) -> Option<Secret<Vec<u8>>> {
    if envelope.len() > MAX_ENVELOPE {
        return None;
    }
    let (nonce, sealed) = envelope.split_at_checked(NONCE_LEN)?;
    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key.expose()).ok()?);
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let mut buffer = sealed.to_vec();
    let length = key.open_in_place(nonce, Aad::empty(), &mut buffer).ok()?.len();
    buffer.truncate(length);
    Some(Secret::new(buffer))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(key: [u8; 32], nonce: [u8; NONCE_LEN], text: &[u8]) -> Vec<u8> {
        let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &key).unwrap());
        let mut buffer = text.to_vec();
        let nonce_of = Nonce::assume_unique_for_key(nonce);
        key.seal_in_place_append_tag(nonce_of, Aad::empty(), &mut buffer).unwrap();
        [&nonce[..], &buffer].concat()
    }

    #[test]
    fn an_envelope_is_opened_whole_and_by_its_key_alone() {
        let (key, other) = (Secret::new([1; 32]), Secret::new([2; 32]));
        for text in [&b""[..], b"-----BEGIN CERTIFICATE-----"] {
            let mut envelope = seal([1; 32], [7; NONCE_LEN], text);
            assert_eq!(open_envelope(&key, &envelope).unwrap().expose(), text);
            assert_eq!(open_envelope(&other, &envelope), None);
            for length in 0..envelope.len() {
                assert_eq!(open_envelope(&key, &envelope[..length]), None, "cut at {length}");
            }
            envelope[NONCE_LEN] ^= 1;
            assert_eq!(open_envelope(&key, &envelope), None);
        }
        assert_eq!(open_envelope(&key, &vec![0; MAX_ENVELOPE + 1]), None);
    }
}
