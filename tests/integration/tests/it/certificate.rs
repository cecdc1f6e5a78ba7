//! Certificates that stand for themselves, made by OpenSSL as people make them.

use std::path::Path;

use anyhow::{Result, ensure};
use blueprint_tests_support::Launch;

use crate::fixture::CALL;

/// Makes a key of P-256 and a certificate of it for `name`, good for two days; `host` is what clients call it. Needs
/// `Need::Program("openssl")`.
///
/// # Errors
///
/// Fails where OpenSSL does; the error shows what it said.
pub(crate) fn self_signed(name: &str, host: Option<&str>, key: &Path, certificate: &Path) -> Result<()> {
    let kind =
        ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
    let mut launch = Launch::new("openssl").args(kind).args(["-subj".to_owned(), format!("/CN={name}")]);
    if let Some(host) = host {
        launch = launch.args(["-addext".to_owned(), format!("subjectAltName=DNS:{host}")]);
    }
    let made = launch.arg("-keyout").arg(key).arg("-out").arg(certificate).run(CALL)?;
    ensure!(made.code == Some(0), "openssl: {}", made.stderr);
    Ok(())
}
