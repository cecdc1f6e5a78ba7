//! What a program reaches, what it is refused, and how its spoke ends.

use anyhow::{Result, ensure};
use blueprint_common_client::{
    Destination, EstablishError, OpenError, Statistics, Stream, TunnelHandle, TunnelOptions,
};
use blueprint_common_types::Carrier;
use blueprint_tests_support::scratch;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Program, allow, runtime, soon};
use crate::fixture::{Agent, Hub, SOON, Service, Spoke};
use crate::say::metric;

/// Opens a stream as soon as something healthy is there.
pub(super) async fn healthy(tunnel: &TunnelHandle, to: &Destination) -> Result<Stream> {
    soon(&to.to_string(), async || Ok(tunnel.open_to(to).await?)).await
}

/// Asks the example service who it is.
async fn name_of(mut stream: Stream) -> Result<String> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    Ok(answer)
}

/// A machine with an example service as one of the targets of 7/42.
fn offering(hub: &Hub<'_>, name: &str) -> Result<Spoke<'static>> {
    let mut agent = Agent::join(None, name, &hub.join_line(&["--services", "7/42"])?)?;
    let service = Service::start(None, name)?;
    agent.run()?;
    agent.offer("7/42", service.address)?;
    Ok(Spoke { agent, service })
}

fn denied<T: std::fmt::Debug>(answer: Result<T, OpenError>) -> Result<String> {
    match answer {
        Err(OpenError::Denied { why }) => Ok(why),
        other => anyhow::bail!("not denied: {other:?}"),
    }
}

#[test]
fn a_program_reaches_what_the_policy_grants_and_nothing_else() -> Result<()> {
    let hub = Hub::start(&[])?;
    let (one, two) = (offering(&hub, "alpha")?, offering(&hub, "beta")?);
    hub.wait_served("42", &hub.access_token("7/42")?, SOON)?;
    let (port, other) = (one.service.address.port(), two.service.address.port());
    runtime()?.block_on(async {
        let program = Program::join(&hub, "program").await?;
        let tunnel = &program.tunnel;
        let service = "7/42".parse()?;

        // Without a grant: the same words for what is there and what is not, one audit row, a count of each.
        let words = denied(tunnel.open(service).await)?;
        let absent = denied(tunnel.open("9/9".parse()?).await)?;
        ensure!(words.replace("7/42", "9/9") == absent, "{words} and {absent} tell what is there");
        denied(tunnel.open_node("alpha", port).await)?;
        denied(tunnel.open_node("nobody", port).await)?;
        denied(tunnel.open_node("program", port).await)?;
        ensure!(metric(&hub, "hub_control_calls_refused_total{reason=\"find_denied\"}")? == 5, "count");
        let rows = hub.audit()?.into_iter().filter(|row| row.starts_with("find.refuse")).count();
        ensure!(rows == 1, "{rows} audit rows");

        // With a grant to one of the two, only that one is found.
        allow(&hub, "program", "alpha", &[port])?;
        for _ in 0..4 {
            let answer = name_of(healthy(tunnel, &Destination::Service(service)).await?).await?;
            ensure!(answer.contains("alpha"), "{answer}");
        }
        let answer = name_of(tunnel.open_node("alpha", port).await?).await?;
        ensure!(answer.contains("alpha"), "{answer}");
        denied(tunnel.open_node("alpha", port ^ 1).await)?;
        denied(tunnel.open_node("beta", other).await)?;

        // With a grant to both, they take turns; by address and id, too.
        allow(&hub, "program", "*", &[port, other])?;
        let mut named = [0u64, 0];
        soon("an answer of each", async || {
            let answer = name_of(tunnel.open(service).await?).await?;
            let at = usize::from(answer.contains("beta"));
            named[at] += 1;
            ensure!(named.iter().all(|count| *count > 0), "not both: {named:?}");
            Ok(())
        })
        .await?;
        name_of(tunnel.open_node(two.agent.id(), other).await?).await?;

        let Statistics { opened, open, denied, failed, is_alive, is_connected, carrier, .. } =
            tunnel.statistics();
        ensure!(
            (opened, open, denied, failed) == (6 + named[0] + named[1], 0, 7, 0),
            "{:?}",
            tunnel.statistics()
        );
        ensure!(is_alive && is_connected && carrier == Some("udp"), "{:?}", tunnel.statistics());

        // The machine goes: what is left is said to be unhealthy or gone, and nothing hangs.
        allow(&hub, "program", "beta", &[other])?;
        drop(two);
        soon("the end of the machine", async || match tunnel.open(service).await {
            Err(OpenError::Unavailable { .. } | OpenError::Denied { .. }) => Ok(()),
            other => anyhow::bail!("{other:?}"),
        })
        .await
    })
}

#[test]
fn a_spoke_keeps_its_identity_and_ends_with_its_handle_or_its_removal() -> Result<()> {
    let mut hub = Hub::start(&[])?;
    let one = Spoke::start(&hub, None, "alpha", "7/42")?;
    hub.wait_served("42", &hub.access_token("7/42")?, SOON)?;
    let port = one.service.address.port();
    allow(&hub, "*", "alpha", &[port])?;
    let runtime = runtime()?;
    runtime.block_on(async {
        let program = Program::join(&hub, "program").await?;
        let id = program.tunnel.identity().agent_id;
        let service = Destination::Service("7/42".parse()?);
        let mut held = healthy(&program.tunnel, &service).await?;

        // One handle at a time on one folder.
        let second = TunnelHandle::establish(program.options()).await;
        ensure!(matches!(second, Err(EstablishError::State(_))), "{second:?}");
        let nowhere = TunnelHandle::establish(TunnelOptions::new(program.folder.path().join("other")));
        ensure!(matches!(nowhere.await, Err(EstablishError::NotJoined { .. })), "no line");

        // Closed: the stream is cut, the hub knows at once, later streams fail at once.
        program.tunnel.close().await;
        let cut = held.read(&mut [0; 1]).await;
        ensure!(matches!(cut, Ok(0) | Err(_)), "{cut:?}");
        let ended = program.tunnel.open_to(&service).await;
        ensure!(matches!(ended, Err(OpenError::Ended { .. })), "{ended:?}");

        let left = program.tunnel.leave().await;
        ensure!(matches!(left, Err(OpenError::Ended { .. })), "{left:?}");

        // Again, without a line: the same machine.
        let again = TunnelHandle::establish(program.options()).await?;
        ensure!(again.identity().agent_id == id, "another identity");
        again.ready(SOON).await?;
        name_of(healthy(&again, &service).await?).await?;

        // The hub starts again: the spoke comes back by itself.
        hub.kill()?;
        hub.start_again()?;
        name_of(healthy(&again, &service).await?).await?;

        // The last handle goes: the folder is free without a goodbye.
        drop(again);
        let third =
            soon("the folder", async || Ok(TunnelHandle::establish(program.options()).await?)).await?;
        third.ready(SOON).await?;

        // Removed by the operator: it says so, now and at the next start.
        hub.json(&["node", "rm", &id.to_string()])?;
        let why = soon("the removal", async || match third.open_to(&service).await {
            Err(OpenError::Ended { why }) => Ok(why),
            other => anyhow::bail!("{other:?}"),
        });
        let why = why.await?;
        ensure!(why.contains("removed") || why.contains("no place"), "{why}");
        third.close().await;
        let revoked = TunnelHandle::establish(program.options()).await;
        ensure!(matches!(revoked, Err(EstablishError::Revoked { .. })), "{revoked:?}");
        Ok(())
    })
}

#[test]
fn a_program_where_udp_is_blocked_takes_tls() -> Result<()> {
    let hub = Hub::start(&[])?;
    let one = offering(&hub, "alpha")?;
    allow(&hub, "program", "alpha", &[one.service.address.port()])?;
    runtime()?.block_on(async {
        let folder = scratch("program")?;
        let mut options = TunnelOptions::new(folder.path().join("spoke")).name("program");
        options.carriers = [Carrier::Tls].into();
        let tunnel = TunnelHandle::establish(options.line(hub.join_line(&[])?.trim().parse()?)).await?;
        let answer = name_of(healthy(&tunnel, &Destination::Service("7/42".parse()?)).await?).await?;
        ensure!(answer.contains("alpha"), "{answer}");
        ensure!(tunnel.statistics().carrier == Some("tls"), "{:?}", tunnel.statistics());
        Ok(())
    })
}

#[test]
fn a_program_that_leaves_is_forgotten_by_its_hub() -> Result<()> {
    let hub = Hub::start(&[])?;
    runtime()?.block_on(async {
        let program = Program::join(&hub, "program").await?;
        ensure!(hub.json(&["node", "ls"])?.to_string().contains("program"), "not listed");
        program.tunnel.leave().await?;
        ensure!(!hub.json(&["node", "ls"])?.to_string().contains("program"), "still listed");
        let gone = TunnelHandle::establish(program.options()).await;
        ensure!(matches!(gone, Err(EstablishError::NotJoined { .. })), "{gone:?}");
        Ok(())
    })
}
