//! A hub as infrastructure: deploy, status, tunnel, resources, cost, terminate.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use blueprint_common_client::{
    DeploymentSpec, Destination, HubProvider, HubProviderError, InstanceState, RemoteInfrastructureProvider,
    TunnelHub, TunnelOptions,
};
use blueprint_common_types::workload::{Source, WorkloadSpec};
use blueprint_common_types::{Micros, Secret};
use blueprint_tests_support::{Need, require, scratch};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::reach::healthy;
use super::{allow, runtime, soon};
use crate::fixture::{Hub, SOON};
use crate::workloads::rig::{self, Node};

/// A cost is a machine's, with where its price is from; what fits nowhere has none.
async fn prices(provider: &HubProvider, spec: &DeploymentSpec) -> Result<()> {
    let cost = provider.estimate_cost(spec).await?;
    let is_right =
        cost.hourly > Micros::ZERO && cost.monthly >= cost.hourly.times(730) && cost.currency == "USD";
    ensure!(is_right && !cost.machine.is_empty() && !cost.price.is_empty(), "{cost:?}");
    let mut more = spec.clone();
    more.workload.limits.cpu_millis = spec.workload.limits.cpu_millis * 8;
    ensure!(provider.estimate_cost(&more).await?.hourly > cost.hourly, "more is not dearer than {cost:?}");
    more.workload.limits.memory_bytes = 1 << 49;
    let none = provider.estimate_cost(&more).await;
    ensure!(matches!(&none, Err(HubProviderError::NoPrice { missing }) if missing.len() > 10), "{none:?}");
    Ok(())
}

#[test]
fn an_instance_is_deployed_reached_and_terminated() -> Result<()> {
    if !require(&[Need::Root]) {
        return Ok(());
    }
    // The list of prices grows old; this test is not about that.
    let hub = Hub::start(&["provision.max_price_age_days=3650"])?;
    let provider = HubProvider::new(hub.state());
    let folder = scratch("program")?;
    let service = "7/42".parse()?;
    let runtime = runtime()?;
    let spec = |program: &Path| {
        let source = Source::Testing { path: program.display().to_string() };
        DeploymentSpec::new(service, WorkloadSpec::new(source))
    };

    // Nothing has joined: it is stored, and said to wait.
    let early = runtime.block_on(provider.deploy_instance(spec(Path::new("/nonexistent"))))?;
    ensure!(early.status.state == InstanceState::Unplaced && !early.status.reason.is_empty(), "{early:?}");
    let taken = runtime.block_on(provider.deploy_instance(spec(Path::new("/nonexistent"))));
    ensure!(matches!(taken, Err(HubProviderError::AlreadyDeployed { .. })), "{taken:?}");
    runtime.block_on(provider.terminate_instance(&early.id))?;
    ensure!(runtime.block_on(provider.get_available_resources())?.nodes.is_empty(), "nodes from nowhere");

    let node = Node::start(&hub, None, "one")?;
    let program = rig::program(&node)?;
    runtime.block_on(async {
        let mut spec = spec(&program);
        spec.nodes = vec!["one".to_owned()];
        spec.keystore.insert("Ecdsa/ab12".to_owned(), Secret::new(b"[[1],[2]]".to_vec()));
        prices(&provider, &spec).await?;
        let instance = provider.deploy_instance(spec).await?;
        ensure!(instance.id == service, "{instance:?}");
        let status = soon("the instance", async || {
            let status = provider.get_instance_status(&instance.id).await?;
            ensure!(status.state.is_running(), "{status:?}");
            Ok(status)
        });
        let status = status.await?;
        ensure!(status.node.as_deref() == Some("one"), "{status:?}");

        // Through a tunnel whose token the provider had made, once the policy lets it.
        let network = TunnelHub { options: TunnelOptions::new(folder.path().join("spoke")).name("program") };
        let tunnel = provider.establish_tunnel(&network).await?;
        tunnel.ready(SOON).await?;
        let offered = hub.json(&["service", "show", "7/42"])?;
        let port = offered.pointer("/targets/0/address").and_then(serde_json::Value::as_str);
        let port = port.and_then(|address| address.rsplit(':').next()).context("no target")?.parse()?;
        allow(&hub, "program", "one", &[port])?;
        let mut stream = healthy(&tunnel, &Destination::Service(service)).await?;
        stream.write_all(b"GET /blueprint HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        ensure!(answer.contains("\"Ecdsa/ab12\"") && answer.contains("\"BLUEPRINT_ID\":\"7\""), "{answer}");

        let told = soon("a sample of the node", async || {
            let resources = provider.get_available_resources().await?;
            let told = resources.nodes.into_iter().find(|node| node.name == "one").context("no node")?;
            ensure!(told.memory_total_bytes.is_some(), "{told:?}");
            Ok(told)
        });
        let told = told.await?;
        ensure!(
            told.is_up && told.workloads == 1 && told.memory_total_bytes > told.memory_used_bytes,
            "{told:?}"
        );
        tunnel.leave().await?;

        provider.terminate_instance(&instance.id).await?;
        provider.terminate_instance(&instance.id).await?;
        let gone = provider.get_instance_status(&instance.id).await;
        ensure!(matches!(gone, Err(HubProviderError::NotFound { .. })), "{gone:?}");
        let none = HubProvider::at("/nonexistent/hub.sock".into()).get_available_resources().await;
        ensure!(matches!(none, Err(HubProviderError::Api { .. })), "{none:?}");
        Ok(())
    })
}
