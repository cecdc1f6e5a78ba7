//! Requests that never stop, and when they were answered.

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::http::Request;
use blueprint_tests_support::{Host, eventually, eventually_ok};

use crate::fixture::SOON;

/// Time between the end of one call and the begin of the next.
const PACE: Duration = Duration::from_millis(20);

/// One request.
#[derive(Debug, Clone)]
struct Call {
    begin: Instant,
    end: Instant,
    failure: Option<String>,
}

/// One client that calls a service again and again until dropped.
#[derive(Debug)]
pub(crate) struct Load {
    calls: Arc<Mutex<Vec<Call>>>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    /// Starts it on `host`; a call that takes longer than `patience` has failed.
    pub(crate) fn start(
        host: &Host,
        proxy: SocketAddr,
        (service, token): (&str, &str),
        patience: Duration,
    ) -> Result<Self> {
        let request = Request::get("/").header("x-service-id", service).bearer(token);
        let calls = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = channel();
        let made = Arc::clone(&calls);
        let work = move || run(&request, (proxy, patience), &made, &stopped);
        // A thread is in the namespace of the thread that made it.
        let thread = host.enter(|| Builder::new().name("load".to_owned()).spawn(work))??;
        Ok(Self { calls, stop: Some(stop), thread: Some(thread) })
    }

    /// Starts it on this machine.
    pub(crate) fn here(
        proxy: SocketAddr,
        (service, token): (&str, &str),
        patience: Duration,
    ) -> Result<Self> {
        Self::of("/", proxy, (service, token), patience)
    }

    /// Starts it on this machine with calls of this path.
    pub(crate) fn of(
        path: &str,
        proxy: SocketAddr,
        (service, token): (&str, &str),
        patience: Duration,
    ) -> Result<Self> {
        let request = Request::get(path).header("x-service-id", service).bearer(token);
        let calls = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = channel();
        let made = Arc::clone(&calls);
        let work = move || run(&request, (proxy, patience), &made, &stopped);
        let thread = Builder::new().name("load".to_owned()).spawn(work)?;
        Ok(Self { calls, stop: Some(stop), thread: Some(thread) })
    }

    fn calls(&self) -> MutexGuard<'_, Vec<Call>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until that many calls were made, and fails where one of them did.
    pub(crate) fn wait_for_calls(&self, count: usize) -> Result<()> {
        eventually_ok(SOON, "calls", || {
            ensure!(self.calls().len() >= count, "only {}", self.calls().len());
            Ok(())
        })?;
        ensure!(self.failures().is_empty(), "before anything happened: {:?}", self.failures());
        Ok(())
    }

    /// Waits until a call fails.
    pub(crate) fn wait_for_failure(&self) -> Result<()> {
        eventually(SOON, "a call that fails", || {
            self.calls().last().is_some_and(|call| call.failure.is_some()).then_some(())
        })
    }

    /// Time from `moment` to the end of the first answered call that began after it.
    pub(crate) fn first_answer_after(&self, moment: Instant, within: Duration) -> Result<Duration> {
        let found = eventually(within, "an answer", || {
            let calls = self.calls();
            let mut later = calls.iter().filter(|call| call.begin >= moment);
            later.find(|call| call.failure.is_none()).map(|call| call.end.saturating_duration_since(moment))
        });
        found.with_context(|| format!("the last calls: {:?}", self.failures().iter().rev().take(3)))
    }

    /// Why calls failed.
    pub(crate) fn failures(&self) -> Vec<String> {
        self.calls().iter().filter_map(|call| call.failure.clone()).collect()
    }

    /// Why calls failed that had ended before `moment`.
    pub(crate) fn failures_before(&self, moment: Instant) -> Vec<String> {
        let calls = self.calls();
        calls.iter().filter(|call| call.end < moment).filter_map(|call| call.failure.clone()).collect()
    }

    /// Why calls failed that began at `moment` or later.
    pub(crate) fn failures_after(&self, moment: Instant) -> Vec<String> {
        let calls = self.calls();
        calls.iter().filter(|call| call.begin >= moment).filter_map(|call| call.failure.clone()).collect()
    }

    /// Calls so far, and the longest time that one took.
    pub(crate) fn summary(&self) -> (usize, Duration) {
        let calls = self.calls();
        let times = calls.iter().map(|call| call.end.saturating_duration_since(call.begin));
        (calls.len(), times.max().unwrap_or_default())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(
    request: &Request,
    (proxy, patience): (SocketAddr, Duration),
    calls: &Mutex<Vec<Call>>,
    stopped: &Receiver<()>,
) {
    loop {
        let begin = Instant::now();
        let failure = match request.send(proxy, patience) {
            Ok(response) if response.status == 200 => None,
            Ok(response) => Some(format!("{} {}", response.status, response.text())),
            Err(error) => Some(format!("{error:#}")),
        };
        let call = Call { begin, end: Instant::now(), failure };
        calls.lock().unwrap_or_else(PoisonError::into_inner).push(call);
        match stopped.recv_timeout(PACE) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
