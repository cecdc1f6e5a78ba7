//! Who gets through, and what of a request does.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_types::{AccessToken, Health};
use blueprint_hub_proxy::tls::{Material, TlsHandle};
use http::StatusCode;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use tokio_rustls::TlsConnector;

use crate::rig::{Rig, empty, full, mirror, text};

/// A service that counts its connections.
pub(crate) fn counted(rig: &Rig) -> (SocketAddr, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    let address = rig.raw_service(move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        async {}
    });
    (address, count)
}

#[tokio::test]
async fn a_request_without_a_token_is_told_what_to_do_and_reaches_nobody() {
    let rig = Rig::new().await;
    let (address, connections) = counted(&rig);
    rig.route(&[address]);
    let mut client = rig.http1().await;
    let mut request = rig.request("GET", "/", empty());
    request.headers_mut().remove("authorization");
    let response = client.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(response.headers()["www-authenticate"], "Bearer realm=\"blueprint-hub\"");
    assert_eq!(response.headers()["content-type"], "application/json");
    let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    let body: serde_json::Value = serde_json::from_str(&text(response).await).unwrap();
    let error = &body["error"];
    assert_eq!(error["code"], "missing_token");
    assert_eq!(error["message"], "this request carries no access token");
    assert!(error["hint"].as_str().unwrap().contains("Authorization: Bearer"));
    assert_eq!(error["request_id"], id);
    assert_eq!(connections.load(Ordering::SeqCst), 0);
    rig.assert_metric("hub_proxy_requests_refused_total{reason=\"missing_token\"} 1");
}

#[tokio::test]
async fn a_refused_head_has_no_body_in_any_version() {
    let rig = Rig::new().await;
    rig.route(&[]);
    for is_admitted in [false, true] {
        let request = || {
            let mut request = rig.request("HEAD", "http://hub/", empty());
            if !is_admitted {
                request.headers_mut().remove("authorization");
            }
            request
        };
        let of_http1 = rig.http1().await.send_request(request()).await.unwrap();
        let of_http2 = rig.http2().await.send_request(request()).await.unwrap();
        assert_eq!(of_http1.status(), of_http2.status());
        assert!(of_http2.status().is_client_error() || of_http2.status().is_server_error());
        // The client's library takes data in such an answer for an error, as curl does.
        assert_eq!((text(of_http1).await, text(of_http2).await), (String::new(), String::new()));
    }
}

#[tokio::test]
async fn a_wrong_token_is_refused_without_a_reason_why() {
    let rig = Rig::new().await;
    let (address, connections) = counted(&rig);
    rig.route(&[address]);
    let stranger = AccessToken::random().unwrap();
    let mut client = rig.http1().await;
    let mut request = rig.request("GET", "/", empty());
    let value = format!("Bearer {}", stranger.expose_text().expose()).parse().unwrap();
    request.headers_mut().insert("authorization", value);
    let response = client.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    let body = text(response).await;
    assert!(body.contains("invalid_token"), "{body}");
    assert!(!body.contains(stranger.expose_text().expose().as_str()));
    assert_eq!(connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_token_lets_a_request_through_over_both_versions_of_http() {
    let rig = Rig::new().await;
    rig.route(&[rig.service(mirror)]);
    let mut http1 = rig.http1().await;
    let mut http2 = rig.http2().await;
    let first = http1.send_request(rig.request("POST", "/a/../b?x=1", full("hello"))).await.unwrap();
    let request = rig.request("POST", "http://hub/a/../b?x=1", full("hello"));
    let second = http2.send_request(request).await.unwrap();
    for response in [first, second] {
        assert_eq!(response.status(), StatusCode::OK);
        assert!(response.headers().contains_key("x-request-id"));
        let seen = text(response).await;
        assert!(seen.starts_with("POST /b?x=1\n") && seen.ends_with("\nhello"), "{seen}");
        assert!(seen.contains("\ncontent-length: 5\n"), "{seen}");
        let identity = format!("\nx-tenant-id: {}\n", rig.token.id());
        for said in
            [identity.as_str(), "x-tenant-name: acme", "x-forwarded-for: 127.0.0.1", "x-auth-method: token"]
        {
            assert!(seen.contains(said), "{said} is not in {seen}");
        }
        let secret = rig.token.expose_text();
        assert!(!seen.contains(secret.expose().as_str()) && !seen.contains("x-service-id"), "{seen}");
    }
    rig.assert_metric("hub_proxy_requests_total{class=\"2xx\"} 2");
}

#[tokio::test]
async fn many_streams_share_one_http2_connection() {
    let rig = Rig::new().await;
    rig.route(&[rig.service(mirror)]);
    let client = rig.http2().await;
    let requests = (0..50).map(|number| {
        let (mut client, rig) = (client.clone(), &rig);
        async move {
            let request = rig.request("GET", &format!("http://hub/{number}"), empty());
            let seen = text(client.send_request(request).await.unwrap()).await;
            assert!(seen.starts_with(&format!("GET /{number}\n")), "{seen}");
        }
    });
    futures_util::future::join_all(requests).await;
}

#[tokio::test]
async fn identity_headers_of_a_client_never_reach_the_service() {
    let rig = Rig::new().await;
    rig.route(&[rig.service(mirror)]);
    let forged = "X-Tenant-Id: forged\r\nX_TENANT_ID: forged\r\nx_tenant-id: forged\r\nx.tenant.name: forged\r\n\
        X-Scopes: forged\r\nX_Scope: forged\r\nX-Client-Cert-Subject: forged\r\nX-Auth-Method: forged\r\n\
        X-Forwarded-For: forged\r\nX_Forwarded_For: forged\r\nForwarded: for=forged\r\nX-Real-IP: forged\r\n\
        X-Original-URL: /forged\r\nProxy: forged\r\nProxy-Authorization: forged\r\nX-Hop: forged\r\n\
        Connection: close, X-Hop, x-tenant-id, x-forwarded-for, x-auth-method\r\nX-Kept: kept\r\n";
    let answer = rig.raw(&format!("GET / HTTP/1.1\r\n{}{forged}\r\n", rig.admitted())).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(answer.contains("x-kept: kept") && !answer.contains("forged"), "{answer}");
    for said in [format!("x-tenant-id: {}", rig.token.id()), "x-forwarded-for: 127.0.0.1".to_owned()] {
        assert_eq!(answer.matches(&said).count(), 1, "{said} in {answer}");
    }
}

#[tokio::test]
async fn forged_trailers_are_dropped_too() {
    let rig = Rig::new().await;
    // A raw service shows the bytes of the trailers as they are.
    let address = rig.raw_service(|mut stream| async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut seen = Vec::new();
        while !seen.ends_with(b"0\r\n\r\n") && !seen.ends_with(b"\r\n\r\n\r\n") {
            if stream.read_buf(&mut seen).await.unwrap_or(0) == 0 {
                break;
            }
        }
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", seen.len());
        let _ = stream.write_all(&[head.as_bytes(), &seen].concat()).await;
    });
    rig.route(&[address]);
    let request = format!(
        "POST / HTTP/1.1\r\n{}Connection: close\r\nTrailer: X-Tenant-Id\r\nTransfer-Encoding: chunked\r\n\r\n\
         2\r\nhi\r\n0\r\nX-Tenant-Id: forged\r\nx_tenant_id: forged\r\n\r\n",
        rig.admitted()
    );
    let answer = rig.raw(&request).await;
    assert!(answer.contains("hi") && !answer.contains("forged"), "{answer}");
}

#[tokio::test]
async fn a_service_without_a_healthy_target_is_unavailable_and_says_why() {
    let rig = Rig::new().await;
    let mut client = rig.http1().await;
    let ask = rig.request("GET", "/", empty());
    let response = client.send_request(ask).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(text(response).await.contains("service 7/42 has no healthy target: no agent offers it now"));

    let (address, connections) = counted(&rig);
    rig.route_as(&[address], Health::Unhealthy, "GET /healthz answered 500");
    let response = client.send_request(rig.request("GET", "/", empty())).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["retry-after"], "2");
    assert!(text(response).await.contains("1 target, none healthy; unhealthy: GET /healthz answered 500"));
    assert_eq!(connections.load(Ordering::SeqCst), 0);
    rig.assert_metric("hub_proxy_requests_refused_total{reason=\"no_healthy_target\"} 2");
}

#[tokio::test]
async fn a_request_with_two_lengths_smuggles_nothing() {
    let rig = Rig::new().await;
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&seen);
    let service = move |request| {
        counter.fetch_add(1, Ordering::SeqCst);
        mirror(request)
    };
    rig.route(&[rig.service(service)]);
    let admitted = rig.admitted();
    let smuggled = format!("GET /smuggled HTTP/1.1\r\n{admitted}\r\n");
    for framing in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Transfer-Encoding: gzip, chunked\r\nConnection: close\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Content-Length: +5\r\n",
    ] {
        let before = seen.load(Ordering::SeqCst);
        let answer = rig.raw(&format!("POST / HTTP/1.1\r\n{admitted}{framing}\r\n0\r\n\r\n{smuggled}")).await;
        let requests = seen.load(Ordering::SeqCst) - before;
        assert!(!answer.contains("/smuggled"), "{framing}: {answer}");
        let is_refused = answer.starts_with("HTTP/1.1 400");
        assert!(is_refused && requests == 0, "{framing}: {answer}");
    }
}

#[tokio::test]
async fn odd_paths_are_refused_before_anybody_is_asked() {
    let rig = Rig::new().await;
    let (address, connections) = counted(&rig);
    rig.route(&[address]);
    for path in ["/%2e%2e/x", "/a%2f..%2fb", "/a;/..;/b", "/a%00", "/a%5cb"] {
        let admitted = rig.admitted();
        let answer = rig.raw(&format!("GET {path} HTTP/1.1\r\n{admitted}Connection: close\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("malformed_path"), "{path}: {answer}");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn tls_and_alpn_lead_to_the_same_answers() {
    let made = rcgen::generate_simple_self_signed(["hub.example".to_owned()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let material = Material::from_der(vec![made.cert.der().clone()], key.into()).unwrap();
    let handle = TlsHandle::new(Some(material), &Metrics::new()).unwrap();
    let rig = Rig::with(|config| config.tls = Some(handle)).await;
    rig.route(&[rig.service(mirror)]);

    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let mut client = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    client.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from("hub.example").unwrap();
    let stream = TlsConnector::from(Arc::new(client)).connect(name, rig.connect().await).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(executor, TokioIo::new(stream)).await.unwrap();
    rig.spawner.spawn("test client", connection);
    let response = sender.send_request(rig.request("GET", "https://hub/", empty())).await.unwrap();
    let seen = text(response).await;
    assert!(seen.contains("x-forwarded-proto: https"), "{seen}");

    let plain = rig.raw("GET / HTTP/1.1\r\nHost: hub\r\n\r\n").await;
    assert!(!plain.contains("HTTP/1.1"), "{plain}");
    rig.assert_metric("hub_proxy_connections_cut_total{reason=\"tls\"} 1");
}
