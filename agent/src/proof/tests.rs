//! Against metadata services on loopback that speak as those of clouds do.

use std::cell::RefCell;

use blueprint_common_types::{CaPin, ProofBinding, WgPublicKey};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::*;

const CLOUDS: [ProofKind; 3] = [ProofKind::Aws, ProofKind::Gcp, ProofKind::Azure];

fn binding() -> ProofBinding {
    ProofBinding::new(CaPin::of_spki(b"hub"), b"nonce", b"request", &WgPublicKey::from_bytes([1; 32]))
}

/// What is made of it where a service answers each request by its head; and the heads, in lower case.
async fn made_by(
    answer: fn(&str) -> String,
    choice: ProofChoice,
    kinds: &[ProofKind],
) -> (Result<(ProofKind, Vec<u8>), String>, Vec<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let metadata = listener.local_addr().unwrap();
    let heads = RefCell::new(Vec::new());
    let service = async {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                let mut piece = [0u8; 1024];
                let count = stream.read(&mut piece).await.unwrap();
                head.push_str(&String::from_utf8_lossy(&piece[..count]).to_lowercase());
            }
            let answer = answer(&head);
            heads.borrow_mut().push(head);
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    };
    let prover = CloudProver { choice, metadata, token: "/nonexistent/token".into(), sts: None };
    let made = tokio::select! {
        made = prover.prove(ProofAsk { binding: binding(), kinds: kinds.to_vec() }) => made,
        () = service => unreachable!("a service does not end"),
    };
    (made.map(|made| (made.kind, made.document.expose().clone())), heads.take())
}

fn page(status: u16, body: &str) -> String {
    format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn google_is_asked_for_the_audience_of_this_challenge() {
    let answer =
        |head: &str| page(if head.contains("metadata-flavor: google\r\n") { 200 } else { 403 }, "a.b.c");
    let (made, heads) = made_by(answer, ProofChoice::One(ProofKind::Gcp), &CLOUDS).await;
    assert_eq!(made, Ok((ProofKind::Gcp, b"a.b.c".to_vec())));
    let path = "get /computemetadata/v1/instance/service-accounts/default/identity?audience=";
    let start = format!("{path}{}&format=full http/1.1\r\n", binding().audience());
    assert!(
        heads[0].starts_with(&start) && heads[0].contains("host: metadata.google.internal\r\n"),
        "{heads:?}"
    );
}

#[tokio::test]
async fn azure_is_asked_with_a_short_nonce() {
    let (made, heads) =
        made_by(|_| page(200, r#"{"encoding":"pkcs7"}"#), ProofChoice::One(ProofKind::Azure), &CLOUDS).await;
    assert_eq!(made.unwrap().0, ProofKind::Azure);
    let start = format!(
        "get /metadata/attested/document?api-version=2020-09-01&nonce={} http/1.1\r\n",
        binding().short()
    );
    assert!(heads[0].starts_with(&start) && heads[0].contains("metadata: true\r\n"), "{heads:?}");
}

#[tokio::test]
async fn the_cloud_that_answers_is_found_and_the_hub_is_shown_no_other() {
    let aws = |head: &str| match head.split(' ').nth(1) {
        Some("/latest/api/token") => page(200, "session"),
        Some(path)
            if path.ends_with("/rsa2048") && head.contains("x-aws-ec2-metadata-token: session\r\n") =>
        {
            page(200, "MIAG")
        }
        _ => page(404, ""),
    };
    let (made, _) = made_by(aws, ProofChoice::Auto, &[ProofKind::Azure, ProofKind::Aws]).await;
    assert_eq!(made, Ok((ProofKind::Aws, b"MIAG".to_vec())));
    let (made, heads) = made_by(aws, ProofChoice::One(ProofKind::Aws), &[ProofKind::Gcp]).await;
    assert_eq!(made.unwrap_err(), "aws: the hub takes no identity of it");
    assert!(heads.is_empty(), "nobody is asked in vain");
}

#[tokio::test]
async fn why_there_is_no_proof_is_told_for_each_cloud() {
    let (made, _) = made_by(|_| page(404, ""), ProofChoice::Auto, &ProofKind::ALL).await;
    let why = made.unwrap_err();
    for kind in ProofKind::ALL {
        assert!(why.contains(&format!("{kind}: ")), "{why}");
    }
    assert!(why.contains("404") && why.contains("/nonexistent/token"), "{why}");
    let long = |_: &str| page(200, &"x".repeat(MAX_DOCUMENT + 1));
    let (made, _) = made_by(long, ProofChoice::One(ProofKind::Gcp), &CLOUDS).await;
    assert!(made.unwrap_err().contains("too much"));
    let (made, _) = made_by(|_| "220 mail\r\n".to_owned(), ProofChoice::One(ProofKind::Gcp), &CLOUDS).await;
    assert!(made.unwrap_err().contains("does not speak HTTP"));
}
