//! ACME against a server that has no certificate to give. One that has is in the integration tests.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_runtime::state::StateDir;
use blueprint_common_runtime::tasks::Supervisor;
use blueprint_common_types::Timestamp;
use blueprint_hub_proxy::acme::{Acme, AcmeConfig, AcmeError, AcmeState};
use blueprint_hub_proxy::tls::TlsHandle;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::rig::LONG;

/// A server by TLS that gives every client the same answer; its certificate and its port.
async fn server(answer: &'static str) -> (CertificateDer<'static>, u16) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let certificate = made.cert.der().clone();
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key.into())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    Supervisor::new().child_spawner().spawn("acme server", async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        }
    });
    (certificate, port)
}

fn config(port: u16, roots: Vec<CertificateDer<'static>>) -> AcmeConfig {
    AcmeConfig {
        directory: format!("https://localhost:{port}/dir"),
        contact: Vec::new(),
        names: BTreeSet::from(["hub.example".to_owned()]),
        roots,
    }
}

/// How things are once the first order has failed.
async fn failed(answer: &'static str, is_known: bool) -> (AcmeState, Metrics) {
    let (certificate, port) = server(answer).await;
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert.der().clone();
    let folder = tempfile::tempdir().unwrap();
    let state = StateDir::open(folder.path().join("state")).unwrap();
    let metrics = Metrics::new();
    let handle = TlsHandle::new(None, &metrics).unwrap();
    let roots = vec![if is_known { certificate } else { other }];
    let acme = Acme::new(config(port, roots), state, handle, &metrics).unwrap();
    let status = acme.status();
    let stop = CancellationToken::new();
    let waited = async {
        while status.state().failures == 0 || status.state().next_at <= Timestamp::from(SystemTime::now()) {
            tokio::task::yield_now().await;
        }
        stop.cancel();
    };
    let both = async { tokio::join!(acme.run(stop.clone()), waited) };
    tokio::time::timeout(LONG, both).await.unwrap();
    (status.state(), metrics)
}

fn wait(state: &AcmeState) -> Duration {
    state.next_at.since(Timestamp::from(SystemTime::now()))
}

#[tokio::test]
async fn a_server_that_wants_to_be_left_alone_is_left_alone() {
    let busy = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7200\r\nContent-Length: 2\r\n\r\n{}";
    let (state, metrics) = failed(busy, true).await;
    assert!(wait(&state) > Duration::from_secs(7100), "{state:?}");
    assert!(state.error.is_some() && state.not_after.is_none());
    assert!(metrics.encode().contains("hub_proxy_acme_orders_total{result=\"failed\"} 1"));
}

#[tokio::test]
async fn an_answer_that_is_none_is_tried_again_in_minutes() {
    let long = "HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n{";
    for answer in ["", "SSH-2.0-x\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", long] {
        let (state, _) = failed(answer, true).await;
        let wait = wait(&state);
        assert!(wait > Duration::from_secs(100) && wait < Duration::from_secs(140), "{answer}: {state:?}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_known_is_not_asked() {
    let (state, _) = failed("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", false).await;
    let error = state.error.unwrap();
    assert!(error.contains("cannot reach localhost") && error.contains("certificate"), "{error}");

    let folder = tempfile::tempdir().unwrap();
    let state = StateDir::open(folder.path().join("state")).unwrap();
    let metrics = Metrics::new();
    let handle = TlsHandle::new(None, &metrics).unwrap();
    let none = Acme::new(config(1, Vec::new()), state, handle, &metrics);
    assert!(matches!(none, Err(AcmeError::Roots)));
}
