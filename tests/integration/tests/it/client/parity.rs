//! The same traffic over a Unix socket, a virtual machine's socket and the tunnel has the same answers.
//!
//! A machine has virtual sockets that lead to itself where its kernel has `vsock_loopback`, which is told by binding their
//! address. Where it has not, that row is left out aloud; where it has, it must hold.

use anyhow::{Context, Result, ensure};
use blueprint_common_client::{Connector, Destination, TransportType};
use blueprint_proto::blueprint_manager_bridge as wire;
use blueprint_proto::blueprint_manager_bridge::blueprint_manager_bridge_client::BlueprintManagerBridgeClient;
use bytes::Bytes;
use futures_util::future::try_join_all;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tonic::Status;

use super::server::{LOCAL, Listener, Served, serve};
use super::{Program, allow, runtime};
use crate::fixture::{Agent, Hub};
use blueprint_tests_support::{left_out, scratch};

/// Requests at once.
const AT_ONCE: usize = 24;

/// Bytes of the largest body, several windows of every transport.
const LARGE: usize = 5 << 20;

const ALL: [Served; 3] = [Served::Bridge, Served::Echo, Served::Raw];

/// How each of the three is reached over one transport.
struct Ways {
    name: &'static str,
    bridge: (TransportType, Destination),
    echo: (TransportType, Destination),
    raw: (TransportType, Destination),
}

impl Ways {
    /// From the ways to [`ALL`], in their order.
    fn new(name: &'static str, ways: Vec<(TransportType, Destination)>) -> Result<Self> {
        let [bridge, echo, raw] = <[_; 3]>::try_from(ways).ok().context("three ways")?;
        Ok(Self { name, bridge, echo, raw })
    }
}

fn destination(served: Served) -> Result<Destination> {
    let service = match served {
        Served::Bridge => "7/42",
        Served::Echo => "7/43",
        Served::Raw => "7/44",
    };
    Ok(Destination::Service(service.parse()?))
}

/// What a call came to, in words that are the same for the same answer.
fn said<T: std::fmt::Debug>(answer: Result<tonic::Response<T>, Status>) -> String {
    match answer {
        Ok(answer) => format!("{:?}", answer.into_inner()),
        Err(status) => format!("{:?}: {}", status.code(), status.message()),
    }
}

async fn bridge(ways: &Ways) -> Result<Vec<String>> {
    let (transport, to) = &ways.bridge;
    let channel = Connector::new(transport.clone()).channel(to)?;
    let mut client = BlueprintManagerBridgeClient::new(channel);
    let register = |service_id| wire::RegisterBlueprintServiceProxyRequest {
        service_id,
        api_key_prefix: "test_".to_owned(),
        upstream_url: "http://127.0.0.1:8080".to_owned(),
        owners: vec![wire::ServiceOwner { key_type: 1, key_bytes: vec![2; 33] }; 500],
        tls_profile: None,
    };
    let owner = |owner_to_add| wire::AddOwnerToServiceRequest { service_id: 42, owner_to_add };
    let remove = wire::RemoveOwnerFromServiceRequest { service_id: 42, owner_to_remove: None };
    let someone = Some(wire::ServiceOwner { key_type: 2, key_bytes: vec![3; 32] });
    let profile = wire::TlsProfileConfig { encrypted_server_cert: vec![7; 64 << 10], ..Default::default() };
    let tls = wire::UpdateBlueprintServiceTlsProfileRequest { service_id: 42, tls_profile: Some(profile) };
    let port = |preferred_port| wire::PortRequest { preferred_port };
    let unregister = wire::UnregisterBlueprintServiceProxyRequest { service_id: 42 };
    let mut answers = vec![
        said(client.ping(()).await),
        said(client.request_port(port(0)).await),
        said(client.request_port(port(8080)).await),
        said(client.request_port(port(70_000)).await),
        said(client.add_owner_to_service(owner(someone.clone())).await),
        said(client.unregister_blueprint_service_proxy(unregister).await),
        said(client.register_blueprint_service_proxy(register(43)).await),
        said(client.register_blueprint_service_proxy(register(42)).await),
        said(client.add_owner_to_service(owner(someone)).await),
        said(client.add_owner_to_service(owner(None)).await),
        said(client.remove_owner_from_service(remove).await),
        said(client.update_blueprint_service_tls_profile(tls).await),
        said(client.unregister_blueprint_service_proxy(unregister).await),
    ];
    let pings = (0..AT_ONCE).map(|_| {
        let mut client = client.clone();
        async move { client.ping(()).await }
    });
    answers.push(format!("{} pings", try_join_all(pings).await?.len()));
    Ok(answers)
}

async fn echo(ways: &Ways) -> Result<Vec<String>> {
    let (transport, to) = &ways.echo;
    let client = Client::builder(TokioExecutor::new()).build(Connector::new(transport.clone()));
    let exchange = |method: &'static str, path: String, body: Bytes| {
        let request = http::Request::builder().method(method).uri(format!("http://{to}{path}"));
        let request = request.header("x-test", "parity").body(Full::new(body));
        let client = client.clone();
        async move {
            let (head, body) = client.request(request?).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            let x_echo = head.headers.get("x-echo").is_some();
            let text = String::from_utf8(body.to_vec()).ok().filter(|text| text.len() < 200);
            let text = text.unwrap_or_else(|| format!("{} bytes", body.len()));
            Ok::<_, anyhow::Error>(format!("{} {x_echo} {text}", head.status))
        }
    };
    let large: Bytes = (0..LARGE).map(|at| u8::try_from(at % 251).unwrap_or(0)).collect::<Vec<_>>().into();
    let mut answers = Vec::new();
    for (method, path, body) in [
        ("GET", "/", Bytes::new()),
        ("POST", "/text", Bytes::from_static(b"some text")),
        ("POST", "/large", large.clone()),
        ("PUT", "/large", large),
        ("DELETE", "/status/204", Bytes::new()),
        ("GET", "/status/404", Bytes::new()),
        ("POST", "/status/503", Bytes::from_static(b"x")),
    ] {
        answers
            .push(exchange(method, path.to_owned(), body).await.with_context(|| format!("{method} {path}"))?);
    }
    let many = (0..AT_ONCE).map(|at| exchange("POST", format!("/{at}"), Bytes::from(vec![1; at * 1000])));
    answers.extend(try_join_all(many).await?);
    Ok(answers)
}

/// Both directions end by themselves, and bytes come back whole.
async fn raw(ways: &Ways) -> Result<Vec<String>> {
    let (transport, to) = &ways.raw;
    let mut answers = Vec::new();
    for size in [0usize, 1, 70_000, LARGE] {
        let mut stream = transport.connect(to).await?;
        let request: Vec<u8> = (0..size).map(|at| u8::try_from(at % 253).unwrap_or(0)).collect();
        stream.write_all(&request).await?;
        stream.shutdown().await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        let is_reversed = answer.iter().eq(request.iter().rev());
        answers.push(format!("{size}: {} bytes, reversed {is_reversed}", answer.len()));
    }
    Ok(answers)
}

async fn transcript(ways: &Ways) -> Result<Vec<String>> {
    let mut answers = bridge(ways).await.with_context(|| format!("{}: bridge", ways.name))?;
    answers.extend(echo(ways).await.with_context(|| format!("{}: echo", ways.name))?);
    answers.extend(raw(ways).await.with_context(|| format!("{}: raw", ways.name))?);
    Ok(answers)
}

#[test]
fn bridge_and_service_traffic_is_the_same_over_every_transport() -> Result<()> {
    let hub = Hub::start(&[])?;
    let mut machine = Agent::join(None, "machine", &hub.join_line(&[])?)?;
    machine.run()?;
    let sockets = scratch("parity")?;
    runtime()?.block_on(async {
        let mut servers = JoinSet::new();
        let (mut over_unix, mut over_tunnel, mut over_vsock) = (Vec::new(), Vec::new(), Vec::new());
        let program = Program::join(&hub, "program").await?;
        let mut ports = Vec::new();
        for served in ALL {
            let to = destination(served)?;
            let path = sockets.path().join(format!("{served:?}"));
            servers.spawn(serve(Listener::unix(&path)?, served));
            over_unix.push((TransportType::UnixSocket(path), to.clone()));

            let (listener, address) = Listener::tcp().await?;
            servers.spawn(serve(listener, served));
            let Destination::Service(service) = &to else { unreachable!("a service") };
            let (service, local) = (service.to_string(), address.to_string());
            machine.json(&["service", "add", &service, "--local", &local, "--check", "tcp"])?;
            ports.push(address.port());
            over_tunnel.push((TransportType::Tunnel(program.tunnel.clone()), to.clone()));

            if let Some((listener, port)) = Listener::vsock()? {
                servers.spawn(serve(listener, served));
                over_vsock.push((TransportType::Vsock(LOCAL, port), to));
            }
        }
        allow(&hub, "program", "machine", &ports)?;
        for served in ALL {
            super::reach::healthy(&program.tunnel, &destination(served)?).await?;
        }

        // Until the targets were healthy some streams failed.
        let before = program.tunnel.statistics();
        let wanted = transcript(&Ways::new("Unix socket", over_unix)?).await?;
        check_words(&wanted)?;
        let found = transcript(&Ways::new("tunnel", over_tunnel)?).await?;
        ensure!(found == wanted, "the tunnel differs:\n{found:#?}\nis not\n{wanted:#?}");
        if over_vsock.is_empty() {
            left_out(
                "vsock: this kernel has no vsock_loopback, so no virtual socket leads to this machine itself",
            );
        } else {
            let found = transcript(&Ways::new("vsock", over_vsock)?).await?;
            ensure!(found == wanted, "vsock differs:\n{found:#?}\nis not\n{wanted:#?}");
        }
        let statistics = program.tunnel.statistics();
        let is_smooth = (statistics.denied, statistics.failed) == (before.denied, before.failed);
        ensure!(statistics.opened > 5 && is_smooth, "{before:?} became {statistics:?}");
        let least = u64::try_from(2 * LARGE)?;
        ensure!(statistics.sent_bytes > least && statistics.received_bytes > least, "{statistics:?}");
        Ok(())
    })
}

/// That the transcript is what it should be, and not the same failure everywhere.
fn check_words(answers: &[String]) -> Result<()> {
    for words in [
        "()",
        "PortResponse { port: 40000 }",
        "PortResponse { port: 8080 }",
        "InvalidArgument: 70000 is no port",
        "FailedPrecondition: register first",
        "PermissionDenied: this bridge belongs to service 42",
        "InvalidArgument: the owner is missing",
        "24 pings",
        "200 OK true GET / x-test=parity 0 bytes, sum 0",
        "200 OK true 5242880 bytes",
        "404 Not Found true GET /status/404 x-test=parity 0 bytes, sum 0",
        "0: 0 bytes, reversed true",
        "5242880: 5242880 bytes, reversed true",
    ] {
        ensure!(answers.iter().any(|answer| answer == words), "{words:?} is not in {answers:#?}");
    }
    Ok(())
}
