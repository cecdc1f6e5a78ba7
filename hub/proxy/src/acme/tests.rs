//! A certificate on a disk that does not take it: in use at once, and stored as soon as it can be.

use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

use super::*;

const NAME: &str = "hub.example";

/// A chain and its key, as a server gives it.
fn issued() -> Secret<String> {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new([NAME.to_owned()]).unwrap().self_signed(&key).unwrap();
    Secret::new(format!("{}\n{}", certificate.pem(), key.serialize_pem()))
}

fn acme(folder: &TempDir) -> Acme {
    let config = AcmeConfig {
        directory: "https://localhost:1/dir".to_owned(),
        contact: Vec::new(),
        names: BTreeSet::from([NAME.to_owned()]),
        roots: vec![rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert.der().clone()],
    };
    let metrics = Metrics::new();
    let handle = TlsHandle::new(None, &metrics).unwrap();
    Acme::new(config, StateDir::open(folder.path().join("state")).unwrap(), handle, &metrics).unwrap()
}

#[tokio::test]
async fn what_the_disk_does_not_take_is_in_use_and_is_stored_once_it_can_be() {
    let folder = tempfile::tempdir().unwrap();
    let acme = acme(&folder);
    // No file takes the place of a folder, also for root.
    let blocked = folder.path().join("state").join(CERTIFICATE);
    std::fs::create_dir_all(blocked.join("x")).unwrap();
    let pem = issued();
    let until = acme.use_and_keep(&pem).unwrap();
    assert_eq!(acme.status.state().not_after, Some(until), "in use");
    assert!(acme.life().is_some(), "and not ordered again");

    // What is due was due before, so that one round is made; the next ones come each minute.
    let due = Timestamp::from_millis(1);
    acme.wait(due).await;
    let why = acme.status.state().unsaved.unwrap();
    assert!(why.starts_with("acme.pem: "), "{why}");
    assert_eq!(acme.files.read(CERTIFICATE).unwrap().unwrap().expose(), pem.expose().as_bytes());

    std::fs::remove_dir_all(&blocked).unwrap();
    acme.wait(due).await;
    assert_eq!(acme.status.state().unsaved, None);
    assert_eq!(std::fs::read(&blocked).unwrap(), pem.expose().as_bytes());
}
