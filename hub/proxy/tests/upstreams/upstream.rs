//! Four kinds of services, each of which tells what it understood of every whole request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use blueprint_tests_support::{Launch, Need, Process, eventually, free_port, require, scratch};
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::rig::{Body, Rig, full};

/// Longest that a program may take to listen, and a request to be told of.
const SOON: Duration = Duration::from_secs(20);

/// What stands behind the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Nginx,
    Node,
    Python,
    Hyper,
}

/// One request as a service understood it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) trailers: Vec<(String, String)>,
    pub(crate) body: String,
}

/// A service and all that it has told.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    source: Source,
    told: usize,
    _others: Option<(Process, TempDir)>,
}

enum Source {
    Output(Process),
    Memory(Records),
}

type Records = Arc<Mutex<Vec<Record>>>;

impl Kind {
    /// Starts it; `None` where this machine does not have it.
    pub(crate) fn start(self, rig: &Rig) -> Option<Upstream> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/upstreams");
        match self {
            Self::Hyper => Some(hyper_service(rig)),
            Self::Node => require(&[Need::Program("node")])
                .then(|| script(Launch::new("node").arg(format!("{folder}/service.js")))),
            Self::Python => require(&[Need::Program("python3")])
                .then(|| script(Launch::new("python3").args(["-B", &format!("{folder}/service.py")]))),
            Self::Nginx => require(&[Need::Program("nginx")]).then(|| nginx(rig)),
        }
    }
}

impl Upstream {
    /// What it has told since the last call, once its last word is of a request to `target`.
    pub(crate) fn records_up_to(&mut self, target: &str) -> Vec<Record> {
        let all = eventually(SOON, target, || {
            let all = self.source.records();
            all.last().is_some_and(|record| record.target == target).then_some(all)
        });
        let new = all.unwrap().split_off(self.told);
        self.told += new.len();
        new
    }
}

impl Source {
    fn records(&self) -> Vec<Record> {
        match self {
            Self::Memory(records) => records.lock().clone(),
            Self::Output(process) => {
                let log = process.log();
                let whole =
                    log.split_inclusive('\n').filter(|line| line.starts_with('{') && line.ends_with('\n'));
                whole.map(|line| serde_json::from_str(line).unwrap()).collect()
            }
        }
    }
}

fn script(launch: Launch) -> Upstream {
    let mut process = launch.start().unwrap();
    let line = process.wait_for_line("listening on ", SOON).unwrap();
    let port: u16 = line.rsplit(' ').next().unwrap().parse().unwrap();
    Upstream { address: local(port), source: Source::Output(process), told: 0, _others: None }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn hyper_service(rig: &Rig) -> Upstream {
    let records = Records::default();
    let address = recorder(rig, &records);
    Upstream { address, source: Source::Memory(records), told: 0, _others: None }
}

/// Speaks HTTP/1 or HTTP/2, whichever the other end does.
fn recorder(rig: &Rig, records: &Records) -> SocketAddr {
    let records = Arc::clone(records);
    rig.raw_service(move |stream| {
        let records = Arc::clone(&records);
        async move {
            let service = service_fn(move |request| record(Arc::clone(&records), request));
            let is_http2 = starts_with(&stream, b"PRI").await;
            let io = TokioIo::new(stream);
            let _ = if is_http2 {
                http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await
            } else {
                http1::Builder::new().serve_connection(io, service).await
            };
        }
    })
}

async fn starts_with(stream: &TcpStream, text: &[u8]) -> bool {
    let mut first = [0; 3];
    stream.peek(&mut first).await.is_ok_and(|count| first[..count] == text[..count])
}

async fn record(records: Records, request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await?;
    let pairs = |headers: &HeaderMap| {
        let texts = headers.iter().map(|(name, value)| (name.to_string(), latin1(value.as_bytes())));
        texts.collect()
    };
    let record = Record {
        method: parts.method.to_string(),
        target: parts.uri.path_and_query().map_or_else(|| parts.uri.to_string(), ToString::to_string),
        headers: pairs(&parts.headers),
        trailers: body.trailers().map(pairs).unwrap_or_default(),
        body: latin1(&body.to_bytes()),
    };
    let text = serde_json::to_string(&record).unwrap();
    records.lock().push(record);
    Ok(Response::new(full(text)))
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// nginx parses, forgiving what it can be told to forgive, and passes what it understood to a recorder.
fn nginx(rig: &Rig) -> Upstream {
    let records = Records::default();
    let recorder = recorder(rig, &records);
    let folder = scratch("nginx").unwrap();
    let port = free_port().unwrap();
    let place = folder.path().display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {place}/{what};\n"))
        .concat();
    let config = format!(
        "daemon off; master_process off; pid {place}/pid; error_log stderr crit; events {{ }}\n\
         http {{ access_log off; {temporary} underscores_in_headers on; ignore_invalid_headers off;\n\
         large_client_header_buffers 8 32k; server {{ listen 127.0.0.1:{port}; location / {{\n\
         proxy_pass http://{recorder}; proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }} }}\n"
    );
    let file = folder.path().join("nginx.conf");
    std::fs::write(&file, config).unwrap();
    let launch = Launch::new("nginx").arg("-p").arg(folder.path()).arg("-c").arg(&file);
    let process = launch.args(["-e", "stderr"]).start().unwrap();
    eventually(SOON, "nginx to listen", || std::net::TcpStream::connect(local(port)).ok()).unwrap();
    let source = Source::Memory(records);
    Upstream { address: local(port), source, told: 0, _others: Some((process, folder)) }
}
