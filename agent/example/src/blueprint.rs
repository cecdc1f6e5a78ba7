//! `run`: the example as a blueprint runs: it greets its bridge, asks for a port, registers, serves and greets on.
//!
//! It reads what the Blueprint Manager gives to every blueprint and nothing of this project, so that it runs under
//! either.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use blueprint_proto::blueprint_manager_bridge::blueprint_manager_bridge_client::BlueprintManagerBridgeClient;
use blueprint_proto::blueprint_manager_bridge::{
    AddOwnerToServiceRequest, KeyType, PortRequest, RegisterBlueprintServiceProxyRequest,
    RemoveOwnerFromServiceRequest, ServiceOwner, UpdateBlueprintServiceTlsProfileRequest,
};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, UnixStream};
use tonic::transport::{Channel, Endpoint};

use crate::routes::Routes;
use crate::serve;
use crate::tls::Files;

/// How long a blueprint tries to greet its bridge.
const GREETING: Duration = Duration::from_secs(480);

/// Pause between two tries, and between two heartbeats.
const PAUSE: Duration = Duration::from_millis(200);
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Variables that say what to do; all begin so.
const OWN: &str = "EXAMPLE_";

/// Runs the example as a blueprint until `stop`.
pub(crate) async fn run(stop: impl Future<Output = ()>) -> Result<()> {
    if let Some(output) = variable("REGISTRATION_OUTPUT_PATH") {
        return std::fs::write(&output, b"registration inputs of the example")
            .with_context(|| format!("cannot write {output}"));
    }
    let service: u64 = need("SERVICE_ID")?.parse().context("SERVICE_ID is no number")?;
    let data = PathBuf::from(need("DATA_DIR")?);
    let starts = count_start(&data)?;
    let is_test = std::env::args().any(|argument| argument == "--test-mode");
    if is_test {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        serve::serve(listener, Routes::new("test".to_owned()).telling(told(starts, 0)), stop).await;
        return Ok(());
    }
    let mut bridge = connect(need("BRIDGE_SOCKET_PATH")?.into()).await?;
    greet(&mut bridge).await?;
    let port = bridge.request_port(PortRequest { preferred_port: 0 }).await?.into_inner().port;
    let port = u16::try_from(port).context("the bridge gave no port")?;
    // In a container loopback is nobody else's.
    let address = variable(&format!("{OWN}LISTEN")).unwrap_or_else(|| "127.0.0.1".to_owned());
    let listener = TcpListener::bind((address.as_str(), port)).await.context("cannot listen on its port")?;
    register(&mut bridge, service, port).await?;
    let owner = variable(&format!("{OWN}OWNER")).unwrap_or_else(|| "nobody".to_owned());
    crate::say(&format!("service {service} listens on port {port} for {owner}"));
    let mut told = told(starts, port);
    if variable(&format!("{OWN}CALLS")).is_some()
        && let Some(fields) = told.as_object_mut()
    {
        fields.insert("calls".to_owned(), calls(&mut bridge, service).await);
    }
    let name = variable(&format!("{OWN}NAME")).unwrap_or_else(|| format!("service {service}"));
    let is_broken = variable(&format!("{OWN}BROKEN")).is_some();
    let routes = Routes::new(name).telling(told).breaking(is_broken);
    let mut heart = bridge.clone();
    let heartbeat = async {
        loop {
            tokio::time::sleep(HEARTBEAT).await;
            if let Err(status) = heart.ping(()).await {
                crate::say(&format!("heartbeat failed: {status}"));
            }
        }
    };
    let tls = match Files::from_environment()? {
        Some(files) => files.keep(bridge.clone(), service).boxed(),
        None => std::future::pending().boxed(),
    };
    tokio::select! {
        () = serve::serve(listener, routes, stop) => Ok(()),
        () = heartbeat => Ok(()),
        ended = tls => ended,
    }
}

pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

pub(crate) fn need(name: &str) -> Result<String> {
    variable(name).with_context(|| format!("{name} is not set: a blueprint is started by its manager"))
}

/// Counts the starts in the data folder, which lasts.
fn count_start(data: &Path) -> Result<u64> {
    let path = data.join("starts");
    let before: u64 =
        std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let starts = before.saturating_add(1);
    std::fs::write(&path, starts.to_string()).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(starts)
}

async fn connect(socket: PathBuf) -> Result<BlueprintManagerBridgeClient<Channel>> {
    let connector = Socket(socket.clone());
    // The authority is never looked up; other clients of bridges use the same.
    let channel = Endpoint::from_static("http://[::]:50051").connect_with_connector(connector).await;
    let channel = channel.with_context(|| format!("no bridge at {}", socket.display()))?;
    Ok(BlueprintManagerBridgeClient::new(channel))
}

async fn greet(bridge: &mut BlueprintManagerBridgeClient<Channel>) -> Result<()> {
    let greeted = async {
        while bridge.ping(()).await.is_err() {
            tokio::time::sleep(PAUSE).await;
        }
    };
    if tokio::time::timeout(GREETING, greeted).await.is_err() {
        bail!("the bridge does not answer");
    }
    Ok(())
}

async fn register(bridge: &mut BlueprintManagerBridgeClient<Channel>, service: u64, port: u16) -> Result<()> {
    // Tests make it ask for what is not its own.
    let service_id = match variable(&format!("{OWN}REGISTER_AS")) {
        Some(other) => other.parse()?,
        None => service,
    };
    let upstream_url =
        variable(&format!("{OWN}UPSTREAM")).unwrap_or_else(|| format!("http://localhost:{port}"));
    let owners = match variable(&format!("{OWN}OWNER")) {
        Some(digits) => vec![ServiceOwner { key_type: KeyType::Ecdsa.into(), key_bytes: hex(&digits)? }],
        None => Vec::new(),
    };
    let request = RegisterBlueprintServiceProxyRequest {
        service_id,
        api_key_prefix: "example_".to_owned(),
        upstream_url,
        owners,
        tls_profile: None,
    };
    bridge.register_blueprint_service_proxy(request).await.context("not registered")?;
    Ok(())
}

/// Asks for everything that may follow a registration; gives the answers, for `/blueprint`.
async fn calls(bridge: &mut BlueprintManagerBridgeClient<Channel>, service_id: u64) -> Value {
    let owner = Some(ServiceOwner { key_type: KeyType::Ecdsa.into(), key_bytes: vec![2; 33] });
    let add = AddOwnerToServiceRequest { service_id, owner_to_add: owner.clone() };
    let remove = RemoveOwnerFromServiceRequest { service_id, owner_to_remove: owner };
    let tls = UpdateBlueprintServiceTlsProfileRequest { service_id, tls_profile: None };
    let said = |answer: Result<tonic::Response<()>, tonic::Status>| match answer {
        Ok(_) => "done".to_owned(),
        Err(status) => format!("{:?}: {}", status.code(), status.message()),
    };
    json!({
        "add_owner": said(bridge.add_owner_to_service(add).await),
        "remove_owner": said(bridge.remove_owner_from_service(remove).await),
        "update_tls": said(bridge.update_blueprint_service_tls_profile(tls).await),
    })
}

pub(crate) fn hex(digits: &str) -> Result<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?)).collect()
}

/// What it was given, for `/blueprint`; names of keys, never their contents.
fn told(starts: u64, port: u16) -> Value {
    let names =
        ["BLUEPRINT_ID", "SERVICE_ID", "DATA_DIR", "KEYSTORE_URI", "CHAIN", "PROTOCOL", "HTTP_RPC_URL"];
    let env: std::collections::BTreeMap<_, _> = names.iter().map(|name| (*name, variable(name))).collect();
    let keystore = variable("KEYSTORE_URI").map(PathBuf::from).unwrap_or_default();
    json!({
        "env": env,
        "args": std::env::args().skip(1).collect::<Vec<_>>(),
        "keys": keys(&keystore),
        "starts": starts,
        "port": port,
        "pid": std::process::id(),
    })
}

fn keys(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() {
            found.extend(keys(&entry.path()).into_iter().map(|inner| format!("{name}/{inner}")));
        } else {
            found.push(name);
        }
    }
    found.sort();
    found
}

/// Connects to the socket, whatever address is asked for.
struct Socket(PathBuf);

impl tower_service::Service<http::Uri> for Socket {
    type Response = TokioIo<UnixStream>;
    type Error = std::io::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let path = self.0.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }.boxed()
    }
}
