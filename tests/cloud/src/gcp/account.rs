//! A service account as its owner has it: an address, and a key that openssl made for this test.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::PROJECT;

/// A key, and its public half.
#[derive(Debug, Clone)]
pub struct ServiceAccount {
    /// The address.
    pub email: String,
    /// The key as Google's console writes it.
    pub json: String,
    /// The public half as ring reads it.
    pub public_key: Vec<u8>,
}

impl ServiceAccount {
    /// Makes a key of 2048 bits in `folder`; takes the program `openssl`.
    ///
    /// # Errors
    ///
    /// Where openssl is not there, or fails.
    pub fn make(folder: &Path) -> Result<Self> {
        let (private, public) = (folder.join("private.pem"), folder.join("public.der"));
        let run = |arguments: &[&str]| -> Result<()> {
            let done = Command::new("openssl").args(arguments).output().context("openssl does not start")?;
            ensure!(done.status.success(), "openssl: {}", String::from_utf8_lossy(&done.stderr));
            Ok(())
        };
        let (at, to) = (private.to_str().context("a path")?, public.to_str().context("a path")?);
        run(&["genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", at])?;
        run(&["rsa", "-in", at, "-RSAPublicKey_out", "-outform", "DER", "-out", to])?;
        let email = format!("hub@{PROJECT}.iam.gserviceaccount.com");
        let key = json!({
            "type": "service_account",
            "project_id": PROJECT,
            "private_key_id": "0123456789abcdef0123456789abcdef01234567",
            "private_key": std::fs::read_to_string(&private)?,
            "client_email": email,
            "client_id": "100000000000000000000",
            "auth_uri": "https://accounts.google.com/o/oauth2/auth",
            "token_uri": "https://oauth2.googleapis.com/token",
            "auth_provider_x509_cert_url": "https://www.googleapis.com/oauth2/v1/certs",
            "universe_domain": "googleapis.com",
        });
        let json = serde_json::to_string_pretty(&key)?;
        Ok(Self { email, json, public_key: std::fs::read(&public)? })
    }
}
