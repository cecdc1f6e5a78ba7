//! A blueprint that knows its bridge by the Blueprint Manager's published client alone: prints a line `CALL STATUS` for
//! each of the seven calls, and serves on the port that it was given.

use std::env::var;
use std::path::Path;

use blueprint_auth::models::{ServiceOwnerModel, TlsProfile};
use blueprint_auth::tls_envelope::{TlsEnvelope, TlsEnvelopeKey};
use blueprint_auth::types::KeyType;
use blueprint_manager_bridge::Error;
use blueprint_manager_bridge::client::Bridge;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn tell<T>(call: &str, answer: Result<T, Error>) -> Option<T> {
    match answer {
        Ok(value) => {
            println!("{call} OK");
            Some(value)
        }
        Err(Error::Status(status)) => {
            println!("{call} {:?}", status.code());
            None
        }
        Err(other) => {
            println!("{call} {other}");
            None
        }
    }
}

/// What upstream's proxy would store: sealed with the key that the manager shares with the blueprint.
fn profile(envelope: &TlsEnvelope) -> TlsProfile {
    let seal = |name: &str| {
        let content = std::fs::read(var(name).expect(name)).expect(name);
        envelope.encrypt(&content).expect("sealed")
    };
    TlsProfile {
        tls_enabled: true,
        encrypted_server_cert: seal("PUBLISHED_CERTIFICATE"),
        encrypted_server_key: seal("PUBLISHED_KEY"),
        ..TlsProfile::default()
    }
}

#[tokio::main]
async fn main() {
    let service: u64 = var("SERVICE_ID").expect("SERVICE_ID").parse().expect("a number");
    let owner = |digits: &str| ServiceOwnerModel {
        key_type: KeyType::Ecdsa as i32,
        key_bytes: hex::decode(digits).expect("digits"),
    };
    let socket = var("BRIDGE_SOCKET_PATH").expect("BRIDGE_SOCKET_PATH");
    let (first, second) = (owner(&var("PUBLISHED_OWNER").expect("an owner")), owner(&"02".repeat(33)));
    let key = TlsEnvelopeKey::from_hex(&var("TLS_ENVELOPE_KEY").expect("TLS_ENVELOPE_KEY")).expect("a key");
    let envelope = TlsEnvelope::with_key(key);

    let bridge = tell("connect", Bridge::connect(Some(Path::new(&socket))).await).expect("a bridge");
    tell("ping", bridge.ping().await);
    let port = tell("port", bridge.request_port(None).await).expect("a port");
    tell("port-again", bridge.request_port(Some(port)).await.map(|again| assert_eq!(again, port)));
    let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("its port");
    let url = format!("http://localhost:{port}");
    let owners = [first.clone()];
    tell("add-before", bridge.add_owner_to_service(service, second.clone()).await);
    tell("register-other", bridge.register_blueprint_service_proxy(service + 1, None, &url, &owners, None).await);
    tell("register", bridge.register_blueprint_service_proxy(service, Some("pub_"), &url, &owners, None).await);
    tell("add", bridge.add_owner_to_service(service, second.clone()).await);
    tell("remove", bridge.remove_owner_from_service(service, second).await);
    tell("tls", bridge.update_blueprint_service_tls_profile(service, Some(profile(&envelope))).await);
    tell("tls-none", bridge.update_blueprint_service_tls_profile(service, None).await);
    tell("unregister", bridge.unregister_blueprint_service_proxy(service).await);
    tell("unregister-again", bridge.unregister_blueprint_service_proxy(service).await);
    let last = Some(profile(&envelope));
    tell("register-with-tls", bridge.register_blueprint_service_proxy(service, Some("pub_"), &url, &owners, last).await);
    println!("done OK");
    loop {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        tokio::spawn(async move {
            let mut head = [0; 4096];
            while matches!(stream.read(&mut head).await, Ok(length) if length > 0) {
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\npublished";
                if stream.write_all(answer).await.is_err() {
                    return;
                }
            }
        });
    }
}
