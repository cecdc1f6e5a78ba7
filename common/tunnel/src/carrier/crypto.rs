//! The order in which cipher suites are offered on carriers.

use std::sync::Arc;

use rustls::CipherSuite;
use rustls::crypto::{CryptoProvider, ring};

/// The cryptography for both ends of a carrier: TLS 1.3, the fastest suite of this machine first.
///
/// What is inside is WireGuard, so the outer layer need not be stronger than AES-128; with AES
/// instructions that takes half the time of ChaCha20-Poly1305, without them several times as long.
/// The client's order decides.
pub fn crypto_provider() -> Arc<CryptoProvider> {
    let mut provider = ring::default_provider();
    provider.cipher_suites.retain(|suite| suite.tls13().is_some());
    let fastest = if has_aes() {
        CipherSuite::TLS13_AES_128_GCM_SHA256
    } else {
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
    };
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != fastest);
    Arc::new(provider)
}

#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
fn has_aes() -> bool {
    std::arch::is_x86_feature_detected!("aes")
}

#[cfg(target_arch = "aarch64")]
fn has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
}

#[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
const fn has_aes() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fastest_suite_comes_first_and_none_is_older_than_tls_1_3() {
        let suites: Vec<_> = crypto_provider().cipher_suites.iter().map(|suite| suite.suite()).collect();
        let first = if has_aes() {
            CipherSuite::TLS13_AES_128_GCM_SHA256
        } else {
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
        };
        assert_eq!(suites.first(), Some(&first));
        assert_eq!(suites.len(), 3);
    }
}
