//! A stand-in for an API, for tests: documents by path and query.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use blueprint_hub_provider_kit::{HttpClient, HttpConfig};
use serde_json::Value;

/// A client that may call it.
pub(crate) fn client() -> HttpClient {
    HttpClient::new(HttpConfig::default()).unwrap()
}

/// Serves these documents on loopback until the test ends, with 404 for everything else; gives the endpoint.
pub(crate) fn served(documents: Vec<(&'static str, Value)>) -> String {
    let documents: BTreeMap<_, _> =
        documents.into_iter().map(|(path, document)| (path, document.to_string())).collect();
    served_by(move |path, stream| {
        let (status, body) = match documents.get(path) {
            Some(body) => ("200 OK", body.as_str()),
            None => ("404 Not Found", "{}"),
        };
        let length = body.len();
        let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}");
    })
}

/// Has `answer` write what it likes to each request for a path, one after the other; gives the endpoint.
pub(crate) fn served_by(answer: impl Fn(&str, &mut TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let serve = move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut head = [0u8; 4096];
            let count = stream.read(&mut head).unwrap_or(0);
            let head = String::from_utf8_lossy(head.get(..count).unwrap_or_default()).into_owned();
            answer(head.split(' ').nth(1).unwrap_or_default(), &mut stream);
        }
    };
    std::thread::Builder::new().name("stand-in".to_owned()).spawn(serve).unwrap();
    endpoint
}
