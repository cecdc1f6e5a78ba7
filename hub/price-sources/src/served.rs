//! A stand-in for an API, for tests: documents by path and query.

use std::collections::BTreeMap;

use blueprint_hub_provider_kit::{HttpClient, HttpConfig};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A client that may call it.
pub(crate) fn client() -> HttpClient {
    HttpClient::new(HttpConfig::default()).unwrap()
}

/// Serves these documents on loopback until the test ends, with 404 for everything else; gives the endpoint.
pub(crate) async fn served(documents: Vec<(&'static str, Value)>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let documents: BTreeMap<_, _> =
        documents.into_iter().map(|(path, document)| (path, document.to_string())).collect();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.is_ok_and(|n| n > 0) {}
            let head = String::from_utf8(head).unwrap();
            let path = head.split(' ').nth(1).unwrap_or_default();
            let (status, body) = match documents.get(path) {
                Some(body) => ("200 OK", body.as_str()),
                None => ("404 Not Found", "{}"),
            };
            let length = body.len();
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    endpoint
}
