//! Against a real HTTPS server that plays Google's keys and the API of a cluster.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use blueprint_common_runtime::tasks::Supervisor;
use blueprint_common_types::WgPublicKey;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::config::GcpIdentity;

const SIGNER: &[u8] = include_bytes!("../../identity-core/tests/data/signer.pk8");
const KEY: WgPublicKey = WgPublicKey::from_bytes([7; 32]);

type Answer = Arc<dyn Fn(&str) -> (u16, String) + Send + Sync>;

/// A host with a certificate of its own authority.
struct Host {
    address: SocketAddr,
    folder: TempDir,
    asked: Arc<AtomicUsize>,
    supervisor: Supervisor,
}

impl Host {
    /// Answers each request, head and body as one text.
    async fn start(answer: Answer) -> Self {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf =
            CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let der = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let chain: Vec<CertificateDer<'static>> = vec![leaf.der().clone()];
        let config = config.with_no_client_auth().with_single_cert(chain, der).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
        std::fs::write(folder.path().join("token"), "hub-token\n").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, supervisor) = (Arc::<AtomicUsize>::default(), Supervisor::new());
        let count = Arc::clone(&asked);
        supervisor.child_spawner().spawn("host", async move {
            let acceptor = TlsAcceptor::from(Arc::new(config));
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let request = read(&mut stream).await;
                count.fetch_add(1, Ordering::Relaxed);
                let (status, body) = answer(&request);
                let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
                let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
        Self { address, folder, asked, supervisor }
    }

    fn identities(&self, settings: IdentitySettings) -> CloudIdentities {
        let settings = IdentitySettings { ca: Some(self.path("ca.pem")), ..settings };
        let ordered = Arc::<OrderedMachines>::default();
        let spawner = self.supervisor.child_spawner();
        CloudIdentities::new(&settings, CaPin::of_spki(b"hub"), ordered, spawner).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

async fn read(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut text = String::new();
    let mut piece = [0u8; 4096];
    loop {
        let count = stream.read(&mut piece).await.unwrap_or(0);
        text.push_str(std::str::from_utf8(&piece[..count]).unwrap());
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        if count == 0 || body.len() >= length.unwrap_or(0) {
            return text;
        }
    }
}

fn off() -> IdentitySettings {
    IdentitySettings {
        aws: None,
        gcp: None,
        azure: None,
        kubernetes: None,
        ca: None,
        ordered: Vec::new(),
        unordered: Vec::new(),
        services: "none".parse().unwrap(),
    }
}

fn gcp_settings(host: &Host) -> IdentitySettings {
    let keys = format!("https://{}/keys", host.address);
    let gcp = GcpIdentity {
        projects: ["project-1".to_owned()].into_iter().collect(),
        regions: Default::default(),
        service_accounts: Default::default(),
        keys: JwksUrl::parse(&keys).unwrap(),
    };
    IdentitySettings { gcp: Some(gcp), unordered: vec![ProofKind::Gcp], ..off() }
}

fn key_set(kid: &str) -> String {
    let pair = RsaKeyPair::from_pkcs8(SIGNER).unwrap();
    let public = PublicKeyComponents::<Vec<u8>>::from(pair.public());
    let [n, e] = [public.n, public.e].map(|bytes| URL_SAFE_NO_PAD.encode(bytes));
    json!({ "keys": [{ "kty": "RSA", "alg": "RS256", "use": "sig", "kid": kid, "n": n, "e": e }] })
        .to_string()
}

fn token(audience: &str, kid: &str) -> Vec<u8> {
    let now = Timestamp::from(SystemTime::now()).as_secs();
    let claims = json!({
        "aud": audience, "iss": "https://accounts.google.com", "iat": now, "exp": now + 3600,
        "google": { "compute_engine": {
            "instance_id": "4711", "instance_name": "vm-1", "project_id": "project-1", "zone": "europe-west3-a" } },
    });
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", encode(&json!({ "alg": "RS256", "kid": kid })), encode(&claims));
    let pair = RsaKeyPair::from_pkcs8(SIGNER).unwrap();
    let mut signature = vec![0; pair.public().modulus_len()];
    pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)).into_bytes()
}

/// A token of a pod as far as the hub reads one; RSA-signed by nobody.
fn pod_token(issuer: &str) -> String {
    let claims =
        json!({ "iss": issuer, "aud": ["blueprint-hub"], "sub": "system:serviceaccount:blueprint:agent" });
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.c2ln", encode(&json!({ "alg": "RS256", "kid": "k1" })), encode(&claims))
}

fn proof(kind: ProofKind, nonce: &[u8], document: Vec<u8>) -> Proof {
    let (nonce, document) = (nonce.to_vec(), Secret::new(document));
    let name = "machine".to_owned();
    Proof { kind, name, nonce, document, certificate_request: b"request".to_vec(), key: KEY }
}

fn audience(nonce: &[u8]) -> String {
    ProofBinding::new(CaPin::of_spki(b"hub"), nonce, b"request", &KEY).audience()
}

async fn code(identities: &CloudIdentities, proof: Proof) -> &'static str {
    match identities.check(proof).await {
        Ok(_) => "taken",
        Err(ProofFailure::Refused(refusal)) => refusal.code(),
        Err(ProofFailure::Unavailable(_)) => "unavailable",
    }
}

#[tokio::test]
async fn a_token_of_google_is_taken_once_and_for_its_own_keys() {
    let host = Host::start(Arc::new(|_| (200, key_set("k1")))).await;
    let hub = host.identities(gcp_settings(&host));
    assert_eq!(hub.kinds(), [ProofKind::Gcp]);
    let nonce = hub.challenge().unwrap();
    let good = || proof(ProofKind::Gcp, &nonce, token(&audience(&nonce), "k1"));
    let stolen = Proof { key: WgPublicKey::from_bytes([8; 32]), ..good() };
    assert_eq!(code(&hub, stolen).await, "identity_audience");
    let other = Proof { certificate_request: b"other".to_vec(), ..good() };
    assert_eq!(code(&hub, other).await, "identity_audience");
    assert_eq!(code(&hub, Proof { nonce: hub.challenge().unwrap(), ..good() }).await, "identity_audience");
    assert_eq!(code(&hub, Proof { nonce: vec![0; 56], ..good() }).await, "identity_challenge");
    assert_eq!(code(&hub, proof(ProofKind::Aws, &nonce, b"x".to_vec())).await, "identity_off");
    let identity = hub.check(good()).await.unwrap();
    assert_eq!(identity.to_string(), "gcp/project-1/4711");
    assert_eq!(identity.provider_ids, ["europe-west3-a/4711"], "as its provider calls it");
    assert_eq!(identity.unordered, Some("none".parse().unwrap()), "a rule lets it in, to offer nothing");
    assert_eq!(code(&hub, good()).await, "identity_replayed");
    assert_eq!(host.asked.load(Ordering::Relaxed), 1, "one fetch for all of them");
}

#[tokio::test]
async fn a_key_that_is_new_is_fetched_and_one_that_is_unknown_is_refused() {
    let rotated = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&rotated);
    let host = Host::start(Arc::new(move |_| {
        (200, key_set(if seen.fetch_add(1, Ordering::Relaxed) == 0 { "old" } else { "new" }))
    }))
    .await;
    let hub = host.identities(gcp_settings(&host));
    for (kid, expected) in
        [("old", "taken"), ("new", "taken"), ("old", "identity_signature"), ("none", "identity_signature")]
    {
        let nonce = hub.challenge().unwrap();
        let proof = proof(ProofKind::Gcp, &nonce, token(&audience(&nonce), kid));
        assert_eq!(code(&hub, proof).await, expected, "{kid}");
    }
    assert_eq!(
        rotated.load(Ordering::Relaxed),
        2,
        "who names keys that are not there cannot make the hub ask"
    );
}

#[tokio::test]
async fn without_keys_nobody_is_let_in_and_nobody_is_refused() {
    let host = Host::start(Arc::new(|_| (503, String::new()))).await;
    let hub = host.identities(gcp_settings(&host));
    let nonce = hub.challenge().unwrap();
    let proof = proof(ProofKind::Gcp, &nonce, token(&audience(&nonce), "k1"));
    assert_eq!(code(&hub, proof).await, "unavailable");
}

#[tokio::test]
async fn a_cluster_is_asked_about_a_token_with_the_hubs_own() {
    let host = Host::start(Arc::new(|request: &str| {
        let is_hub = request.contains("authorization: Bearer hub-token\r\n");
        if !is_hub || !request.starts_with("POST /apis/authentication.k8s.io/v1/tokenreviews ") {
            return (403, String::new());
        }
        let is_good = request.contains(&pod_token("https://good"));
        let status = json!({
            "authenticated": is_good, "audiences": ["blueprint-hub"],
            "user": { "username": "system:serviceaccount:blueprint:agent",
                      "extra": { "authentication.kubernetes.io/pod-uid": ["uid-1"] } },
        });
        (201, json!({ "kind": "TokenReview", "status": status }).to_string())
    }))
    .await;
    let settings = |token: PathBuf| {
        let kubernetes = KubernetesIdentity {
            accounts: ["blueprint:agent".to_owned()].into_iter().collect(),
            api: format!("https://{}", host.address),
            token,
            audience: "blueprint-hub".to_owned(),
        };
        IdentitySettings { kubernetes: Some(kubernetes), ..off() }
    };
    let hub = host.identities(settings(host.path("token")));
    let of =
        |document: &str, nonce: Vec<u8>| proof(ProofKind::Kubernetes, &nonce, document.as_bytes().to_vec());
    let (good, bad) = (pod_token("https://good"), pod_token("https://bad"));
    let identity = hub.check(of(&format!("{good}\n"), hub.challenge().unwrap())).await.unwrap();
    assert_eq!(
        (identity.to_string().as_str(), identity.unordered),
        ("kubernetes/blueprint:agent/uid-1", None)
    );
    assert_eq!(code(&hub, of(&bad, hub.challenge().unwrap())).await, "identity_signature");
    let asked = host.asked.load(Ordering::Relaxed);
    assert_eq!(code(&hub, of("no token", hub.challenge().unwrap())).await, "identity_malformed");
    assert_eq!(host.asked.load(Ordering::Relaxed), asked, "the cluster is left alone");
    let hub = host.identities(settings(host.path("ca.pem")));
    assert_eq!(code(&hub, of(&good, hub.challenge().unwrap())).await, "unavailable", "no token of its own");
}

#[test]
fn keys_of_google_are_asked_for_with_public_authorities_alone() {
    for (url, are) in [
        (gcp::KEYS, true),
        ("https://www.googleapis.com:443/oauth2/v3/certs", true),
        ("https://www.googleapis.com.example.org/oauth2/v3/certs", false),
        ("https://127.0.0.1:8443/keys", false),
    ] {
        assert_eq!(are_googles(&JwksUrl::parse(url).unwrap()), are, "{url}");
    }
}

#[tokio::test]
async fn nothing_is_taken_by_default() {
    let (pin, spawner) = (CaPin::of_spki(b"hub"), Supervisor::new().child_spawner());
    let hub = CloudIdentities::new(&off(), pin, Arc::default(), spawner).unwrap();
    assert_eq!(hub.kinds(), []);
    for kind in ProofKind::ALL {
        let nonce = hub.challenge().unwrap();
        assert_eq!(code(&hub, proof(kind, &nonce, b"x".to_vec())).await, "identity_off");
    }
}
