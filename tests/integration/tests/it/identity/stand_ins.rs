//! What clouds have: metadata services, hosts with certificates, and keys. Every signature is made by OpenSSL.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use blueprint_common_types::Timestamp;
use blueprint_tests_support::{Launch, scratch};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::openssl;
use crate::fixture::{CALL, text};

/// Longest silence of a client.
const SILENCE: Duration = Duration::from_secs(10);

/// What is answered to a request, head and body as one text: a status and a body.
pub(super) type Answer = Box<dyn Fn(&str) -> Result<(u16, String)> + Send>;

/// The request of a stream, as far as its head says that it goes.
fn request(stream: &mut impl Read) -> Result<String> {
    let (mut all, mut piece) = (String::new(), [0u8; 4096]);
    loop {
        let count = stream.read(&mut piece)?;
        ensure!(count > 0, "a request that is cut off");
        all.push_str(&String::from_utf8_lossy(piece.get(..count).unwrap_or_default()));
        let Some((head, body)) = all.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        if body.len() >= length.unwrap_or(0) {
            return Ok(all);
        }
    }
}

fn converse(mut stream: impl Read + Write, answer: &Answer) -> Result<()> {
    let request = request(&mut stream)?;
    let (status, body) = answer(&request).unwrap_or_else(|error| (500, format!("{error:#}")));
    let length = body.len();
    write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")?;
    stream.flush()?;
    Ok(())
}

/// Starts the metadata service of a machine on loopback.
pub(super) fn metadata(answer: Answer) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let place = listener.local_addr()?;
    std::thread::Builder::new().spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = stream.set_read_timeout(Some(SILENCE));
            let _ = converse(stream, &answer);
        }
    })?;
    Ok(place)
}

/// A host on loopback with a certificate of its own authority.
pub(super) struct Https {
    pub(super) place: SocketAddr,
    folder: TempDir,
}

impl Https {
    pub(super) fn start(answer: Answer) -> Result<Self> {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        let leaf = CertificateParams::new(["127.0.0.1".to_owned()])?.signed_by(&key, &authority)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let chain: Vec<CertificateDer<'static>> = vec![leaf.der().clone()];
        let der = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let config = Arc::new(config.with_no_client_auth().with_single_cert(chain, der)?);
        let folder = scratch("https")?;
        std::fs::write(folder.path().join("ca.pem"), authority.pem())?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let place = listener.local_addr()?;
        std::thread::Builder::new().spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = stream.set_read_timeout(Some(SILENCE));
                let Ok(connection) = ServerConnection::new(Arc::clone(&config)) else { continue };
                let _ = converse(StreamOwned::new(connection, stream), &answer);
            }
        })?;
        Ok(Self { place, folder })
    }

    /// The setting that has the hub trust it.
    pub(super) fn trusted(&self) -> String {
        format!("join.identity.ca={}", self.folder.path().join("ca.pem").display())
    }
}

/// A key of a cloud that signs tokens.
pub(super) struct TokenKey(TempDir);

impl TokenKey {
    pub(super) fn new() -> Result<Self> {
        let key = Self(scratch("key")?);
        openssl(key.0.path(), "genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out key.pem")?;
        Ok(key)
    }

    /// Its public half in a set, as issuers publish it.
    pub(super) fn published(&self) -> Result<String> {
        let folder = self.0.path();
        let shown =
            Launch::new("openssl").folder(folder).args(["rsa", "-in", "key.pem", "-noout", "-modulus"]);
        let shown = shown.run(CALL)?;
        let digits = shown.stdout.trim().strip_prefix("Modulus=").context("a modulus")?.to_owned();
        let byte = |at: usize| {
            let digits = digits.get(at..at + 2).context("two digits")?;
            Ok(u8::from_str_radix(digits, 16)?)
        };
        let modulus: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect::<Result<_>>()?;
        let key = json!({ "kty": "RSA", "alg": "RS256", "use": "sig", "kid": "k1", "e": "AQAB",
                          "n": URL_SAFE_NO_PAD.encode(modulus) });
        Ok(json!({ "keys": [key] }).to_string())
    }

    /// A token of these claims with RS256.
    pub(super) fn sign(&self, claims: &Value) -> Result<String> {
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed =
            format!("{}.{}", encode(&json!({ "alg": "RS256", "kid": "k1", "typ": "JWT" })), encode(claims));
        let folder = self.0.path();
        std::fs::write(folder.join("signed"), &signed)?;
        openssl(folder, "dgst -sha256 -sign key.pem -out signature signed")?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(std::fs::read(folder.join("signature"))?)))
    }
}

/// An authority, and a certificate of it by which Azure signs.
pub(super) struct AzureSigner(TempDir);

impl AzureSigner {
    pub(super) fn new() -> Result<Self> {
        let signer = Self(scratch("azure")?);
        let folder = signer.0.path();
        let new = "-newkey rsa:2048 -nodes -sha256";
        openssl(folder, &format!("req -x509 {new} -days 10 -subj /CN=Root -keyout root.key -out root.pem"))?;
        openssl(folder, &format!("req {new} -subj /CN=metadata.azure.com -keyout leaf.key -out leaf.csr"))?;
        let names =
            "basicConstraints=CA:FALSE\nsubjectAltName=DNS:metadata.azure.com\nextendedKeyUsage=serverAuth\n";
        std::fs::write(folder.join("names"), names)?;
        openssl(
            folder,
            "x509 -req -in leaf.csr -CA root.pem -CAkey root.key -CAcreateserial -days 5 -sha256 -extfile names -out leaf.pem",
        )?;
        Ok(signer)
    }

    /// The setting that has the hub trust it.
    pub(super) fn trusted(&self) -> String {
        format!("join.identity.azure_roots={}", self.0.path().join("root.pem").display())
    }

    /// The attested document of a machine, as its metadata service answers.
    pub(super) fn attested(&self, subscription: &str, machine: &str, nonce: &str) -> Result<String> {
        let now = Timestamp::from(std::time::SystemTime::now());
        let date = |at: Timestamp| -> Result<String> {
            let text = at.to_string();
            let part = |range: std::ops::Range<usize>| text.get(range).context("a date");
            let (day, time) = (format!("{}/{}/{}", part(5..7)?, part(8..10)?, part(2..4)?), part(11..19)?);
            Ok(format!("{day} {time} -0000"))
        };
        let document = json!({
            "licenseType": "", "nonce": nonce, "plan": { "name": "", "product": "", "publisher": "" },
            "sku": "server", "subscriptionId": subscription, "vmId": machine,
            "timeStamp": { "createdOn": date(now)?, "expiresOn": date(now.plus(Duration::from_secs(6 * 3600)))? },
        });
        let folder = self.0.path();
        std::fs::write(folder.join("document.json"), document.to_string())?;
        openssl(
            folder,
            "cms -sign -binary -nodetach -md sha256 -outform DER -in document.json -out document.der -signer leaf.pem \
             -inkey leaf.key",
        )?;
        let signature = STANDARD.encode(std::fs::read(folder.join("document.der"))?);
        Ok(json!({ "encoding": "pkcs7", "signature": signature }).to_string())
    }
}

/// The value of a parameter in the first line of a request.
pub(super) fn parameter<'r>(request: &'r str, name: &str) -> Option<&'r str> {
    let target = request.split(' ').nth(1)?;
    target.split_once('?')?.1.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

/// The file of a name in user data.
pub(super) fn file_of(user_data: &str, path: &str) -> Result<String> {
    let document = user_data.strip_prefix("#cloud-config\n").context("no #cloud-config")?;
    let document: Value = serde_json::from_str(document)?;
    let files = document.pointer("/write_files").and_then(Value::as_array).context("no files")?;
    let file = files.iter().find(|file| file.pointer("/path") == Some(&path.into()));
    Ok(text(file.with_context(|| format!("no {path}"))?, "/content")?.trim().to_owned())
}

/// A file with what a test writes into it.
pub(super) fn file_with(folder: &TempDir, name: &str, content: &str) -> Result<PathBuf> {
    let path = folder.path().join(name);
    std::fs::write(&path, content)?;
    Ok(path)
}
