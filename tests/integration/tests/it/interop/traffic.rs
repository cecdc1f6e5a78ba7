//! TCP from one end to the other, whichever kinds they are.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::Builder;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use blueprint_tests_support::Host;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::ours::Ours;
use crate::fixture::SOON;

/// Enough for some hundred full packets each way, with windows that open.
const BYTES: usize = 512 << 10;
/// Longest pause inside a transfer.
const PAUSE: Duration = Duration::from_secs(10);

/// One end of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place<'a> {
    /// Programs of a host, which see a device.
    Host(&'a Host),
    /// The TCP/IP inside our tunnel.
    Stack(&'a Ours<'a>),
}

/// Sends bytes from `client` to `address` at `server`, and has all of them sent back.
pub(super) fn exchange(client: Place<'_>, server: Place<'_>, address: SocketAddr) -> Result<()> {
    let sent: Vec<u8> = (0..BYTES).map(|at| u8::try_from(at % 251).unwrap_or(0)).collect();
    let what = || format!("from {client:?} to {address}").chars().take(200).collect::<String>();
    let serving = serve(server, address)?;
    let received = match client {
        Place::Host(host) => host.enter(|| call(address, &sent))?,
        Place::Stack(ours) => ours.runtime.block_on(async {
            let stream = ours.tunnel.connect(address, SOON).await?;
            tokio::time::timeout(SOON, call_async(stream, &sent)).await?
        }),
    };
    let received = received.with_context(what)?;
    ensure!(received == sent, "{} of {BYTES} bytes came back {}", received.len(), what());
    serving()
}

/// Waits for one connection and sends back what comes; what is returned waits for its end.
fn serve(place: Place<'_>, address: SocketAddr) -> Result<Box<dyn FnOnce() -> Result<()> + '_>> {
    match place {
        Place::Host(host) => {
            let listener = host.enter(|| TcpListener::bind(address))?.with_context(|| address.to_string())?;
            let thread = Builder::new().name("echo".to_owned()).spawn(move || echo(&listener))?;
            Ok(Box::new(move || thread.join().map_err(|_| anyhow!("the echo panicked"))?))
        }
        Place::Stack(ours) => {
            let mut listener = ours.runtime.block_on(ours.tunnel.listen(address.port()))?;
            let task = ours.runtime.spawn(async move {
                let stream = listener.accept().await.context("nobody called")?;
                let (mut from, mut to) = tokio::io::split(stream);
                tokio::io::copy(&mut from, &mut to).await?;
                Ok(to.shutdown().await?)
            });
            Ok(Box::new(move || ours.runtime.block_on(async { tokio::time::timeout(SOON, task).await?? })))
        }
    }
}

fn echo(listener: &TcpListener) -> Result<()> {
    let (stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(PAUSE))?;
    std::io::copy(&mut &stream, &mut &stream)?;
    Ok(stream.shutdown(Shutdown::Write)?)
}

fn call(address: SocketAddr, bytes: &[u8]) -> Result<Vec<u8>> {
    let stream = TcpStream::connect_timeout(&address, SOON)?;
    stream.set_read_timeout(Some(PAUSE))?;
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            (&stream).write_all(bytes)?;
            stream.shutdown(Shutdown::Write)
        });
        let mut received = Vec::with_capacity(bytes.len());
        (&stream).read_to_end(&mut received)?;
        writer.join().map_err(|_| anyhow!("the writer panicked"))??;
        Ok(received)
    })
}

async fn call_async(stream: impl AsyncRead + AsyncWrite, bytes: &[u8]) -> Result<Vec<u8>> {
    let (mut from, mut to) = tokio::io::split(stream);
    let mut received = Vec::with_capacity(bytes.len());
    let write = async {
        to.write_all(bytes).await?;
        to.shutdown().await
    };
    let (read, written) = tokio::join!(from.read_to_end(&mut received), write);
    read?;
    written?;
    Ok(received)
}

/// Both addresses of an end with a port.
pub(super) fn at(addresses: [IpAddr; 2], port: u16) -> [SocketAddr; 2] {
    addresses.map(|address| SocketAddr::new(address, port))
}
