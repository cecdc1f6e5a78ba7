//! Containers that nobody looks after any more: looked for at the start of an agent, and each minute.
//!
//! An engine may be away when a container is to be removed, or when the agent starts. What carries the label of this node
//! and is claimed by no workload is removed, whoever left it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::WorkloadConfig;
use crate::container::{Engine, EngineError};

/// Pause between two sweeps.
const EVERY: Duration = Duration::from_secs(60);

/// Pause after one that failed.
const AGAIN: Duration = Duration::from_secs(5);

/// Names of containers that workloads look after.
#[derive(Debug, Clone, Default)]
pub(crate) struct Claims(Arc<Mutex<BTreeMap<String, u32>>>);

/// A container that is looked after until this is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    claims: Claims,
    name: String,
}

impl Claims {
    /// Claims a name, before there is a container of it.
    pub(crate) fn claim(&self, name: String) -> Claim {
        let mut claims = self.0.lock();
        let count = claims.entry(name.clone()).or_default();
        *count = count.saturating_add(1);
        drop(claims);
        Claim { claims: self.clone(), name }
    }

    fn has(&self, name: &str) -> bool {
        self.0.lock().contains_key(name)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut claims = self.claims.0.lock();
        if let Some(count) = claims.get_mut(&self.name) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                claims.remove(&self.name);
            }
        }
    }
}

/// Sweeps until it is dropped.
pub(crate) async fn sweep(engine: Engine, config: WorkloadConfig, claims: Claims) {
    let mut said = None;
    loop {
        let swept = if config.engine.exists() { round(&engine, &config.node, &claims).await } else { Ok(()) };
        let error = swept.err();
        if error != said
            && let Some(error) = &error
        {
            warn!(%error, "containers that were left are not removed; it is tried again");
        }
        sleep(if error.is_some() { AGAIN } else { EVERY }).await;
        said = error;
    }
}

/// Removes what is there and not claimed; the error is the first of several.
async fn round(engine: &Engine, node: &str, claims: &Claims) -> Result<(), EngineError> {
    let mut failed = Ok(());
    for container in engine.leftovers(node).await? {
        // Looked at after the list: who makes a container has claimed its name before.
        if claims.has(&container.name) {
            continue;
        }
        match engine.remove(&container.id).await {
            Ok(()) => info!(container = container.name, "a container that was left is removed"),
            Err(error) => failed = failed.and(Err(error)),
        }
    }
    failed
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_name_is_claimed_until_the_last_claim_is_dropped() {
        let claims = Claims::default();
        let first = claims.claim("svc-7-42".to_owned());
        let second = claims.claim("svc-7-42".to_owned());
        drop(first);
        assert!(claims.has("svc-7-42") && !claims.has("svc-7-43"));
        drop(second);
        assert!(!claims.has("svc-7-42"));
    }

    /// Answers each connection by what its request begins with, and gives the lines that were asked.
    fn engine(listener: UnixListener, answers: usize) -> std::thread::JoinHandle<Vec<String>> {
        let row = |id: &str, name: &str| {
            format!(
                r#"{{"Id":"{id}","Names":["/{name}"],"Labels":{{"blueprint.node":"n1"}},"State":"running"}}"#
            )
        };
        let list = format!("[{},{}]", row("c1", "svc-7-42"), row("c2", "svc-7-43"));
        let serve = move || {
            let mut asked = Vec::new();
            for _ in 0..answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut head = [0; 4096];
                let count = stream.read(&mut head).unwrap();
                let line = String::from_utf8_lossy(&head[..count]).lines().next().unwrap().to_owned();
                let body = match line.split(['?', ' ']).nth(1).unwrap() {
                    "/version" => r#"{"Version":"1","ApiVersion":"1.43","MinAPIVersion":"1.12"}"#,
                    "/v1.41/containers/json" => &list,
                    _ => "",
                };
                let answer = format!("HTTP/1.1 200 X\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).unwrap();
                asked.push(line);
            }
            asked
        };
        std::thread::Builder::new().spawn(serve).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_that_comes_late_is_swept_and_what_is_claimed_stays() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("e.sock");
        // There, and nobody listens.
        drop(UnixListener::bind(&socket).unwrap());
        let claims = Claims::default();
        let _claim = claims.claim("svc-7-42".to_owned());
        let engine_here = Engine::new(socket.clone());
        assert_eq!(round(&engine_here, "n1", &claims).await.unwrap_err().reason(), "no_engine");
        std::fs::remove_file(&socket).unwrap();
        let asked = engine(UnixListener::bind(&socket).unwrap(), 4);
        tokio::time::resume();
        round(&engine_here, "n1", &claims).await.unwrap();
        let asked = asked.join().unwrap();
        assert_eq!(asked[3], "DELETE /v1.41/containers/c2?force=1&v=1 HTTP/1.1", "{asked:?}");
    }
}
