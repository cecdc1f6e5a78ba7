//! The TLS profile of the example: a certificate and a key from files, sealed for its manager, given again when they change.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use blueprint_proto::blueprint_manager_bridge::blueprint_manager_bridge_client::BlueprintManagerBridgeClient;
use blueprint_proto::blueprint_manager_bridge::{TlsProfileConfig, UpdateBlueprintServiceTlsProfileRequest};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use tonic::transport::Channel;

use crate::blueprint::{hex, need, variable};

/// Pause between two looks at the files.
const LOOK: Duration = Duration::from_millis(100);

/// Files in PEM, as `EXAMPLE_TLS_CERTIFICATE` and `EXAMPLE_TLS_KEY` name them, and what seals them.
pub(crate) struct Files {
    certificate: PathBuf,
    key: PathBuf,
    seal: LessSafeKey,
}

impl Files {
    /// Those that the environment names; `None` where it names no certificate.
    pub(crate) fn from_environment() -> Result<Option<Self>> {
        let Some(certificate) = variable("EXAMPLE_TLS_CERTIFICATE") else {
            return Ok(None);
        };
        let bytes = hex(&need("TLS_ENVELOPE_KEY")?).context("TLS_ENVELOPE_KEY")?;
        let seal = UnboundKey::new(&CHACHA20_POLY1305, &bytes)
            .map_err(|_| anyhow!("TLS_ENVELOPE_KEY has {} bytes, not 32", bytes.len()))?;
        Ok(Some(Self {
            certificate: certificate.into(),
            key: need("EXAMPLE_TLS_KEY")?.into(),
            seal: LessSafeKey::new(seal),
        }))
    }

    /// Certificate and key as they are now.
    fn read(&self) -> Result<[Vec<u8>; 2]> {
        let read =
            |path: &PathBuf| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        Ok([read(&self.certificate)?, read(&self.key)?])
    }

    /// A nonce, and behind it what is sealed: the Manager's envelope.
    fn envelope(&self, mut content: Vec<u8>) -> Result<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| anyhow!("no randomness"))?;
        self.seal
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut content)
            .map_err(|_| anyhow!("too much to seal"))?;
        Ok([&nonce[..], &content].concat())
    }

    /// Gives them to the manager, and again each time they change. Ends only with an error.
    pub(crate) async fn keep(
        self,
        mut bridge: BlueprintManagerBridgeClient<Channel>,
        service_id: u64,
    ) -> Result<()> {
        let mut given = None;
        loop {
            let now = self.read()?;
            if given.as_ref() != Some(&now) {
                let [certificate, key] = now.clone();
                let profile = TlsProfileConfig {
                    tls_enabled: true,
                    encrypted_server_cert: self.envelope(certificate)?,
                    encrypted_server_key: self.envelope(key)?,
                    ..TlsProfileConfig::default()
                };
                let request =
                    UpdateBlueprintServiceTlsProfileRequest { service_id, tls_profile: Some(profile) };
                match bridge.update_blueprint_service_tls_profile(request).await {
                    Ok(_) => crate::say("the TLS profile is in force"),
                    Err(status) => crate::say(&format!("no TLS profile: {status}")),
                }
                given = Some(now);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}
