//! A small HTTP service of the kind a blueprint runs, for demonstrations and tests.
//!
//! It answers every request that reaches it: who may call is the proxy's business. With `run` as its first argument
//! it is a blueprint: it finds its manager, asks for a port and registers.

mod blueprint;
mod routes;
mod serve;
mod tls;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Parser;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// Answers HTTP/1.1 and HTTP/2 with a greeting, echoes, byte streams and slow answers.
#[derive(Debug, Parser)]
#[command(name = "blueprint-example-service", version)]
struct Arguments {
    /// Address and TCP port to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// File that gets the port in decimal once the service listens.
    #[arg(long, value_name = "PATH")]
    port_file: Option<PathBuf>,
    /// Name in the greeting.
    #[arg(long, default_value = "example")]
    name: String,
    /// End when standard input ends, as it does when the process that started this one is gone.
    #[arg(long)]
    exit_on_stdin_close: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    if std::env::args().nth(1).as_deref() == Some("run") {
        return blueprint::run(stop_signal(false)?).await;
    }
    let arguments = Arguments::parse();
    let listener = TcpListener::bind(arguments.listen)
        .await
        .with_context(|| format!("cannot listen on {}", arguments.listen))?;
    let address = listener.local_addr().context("cannot tell the own address")?;
    // Handlers stand before the port is told: whoever reads it may signal at once.
    let stop = stop_signal(arguments.exit_on_stdin_close)?;
    say(&format!("{} listens on http://{address}", arguments.name));
    if let Some(path) = &arguments.port_file {
        write_port(path, address.port()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    serve::serve(listener, routes::Routes::new(arguments.name), stop).await;
    Ok(())
}

/// Writes the port beside `path` and renames it, so that a reader never sees half of it.
fn write_port(path: &Path, port: u16) -> io::Result<()> {
    let beside = path.with_extension("new");
    std::fs::write(&beside, format!("{port}\n"))?;
    std::fs::rename(beside, path)
}

/// A future that ends at SIGTERM or SIGINT, and at the end of standard input where that is wanted.
fn stop_signal(on_stdin_close: bool) -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let (closed, stdin) = oneshot::channel::<()>();
    if on_stdin_close {
        // Not the runtime's own standard input: a read that cannot be interrupted would hold up its end.
        std::thread::Builder::new()
            .name("stdin".to_owned())
            .spawn(move || {
                let _ = io::copy(&mut io::stdin(), &mut io::sink());
                drop(closed);
            })
            .context("cannot start the thread that reads standard input")?;
    }
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = stdin, if on_stdin_close => {}
        }
    })
}

#[expect(clippy::print_stderr, reason = "the one line that says where the service is")]
fn say(line: &str) {
    eprintln!("{line}");
}
