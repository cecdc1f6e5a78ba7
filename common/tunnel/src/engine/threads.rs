//! Starting and ending threads: their time slices, and the waits that only a signal ends.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use super::receive;
use super::shared::Shared;
use crate::sys::sched;
use crate::sys::tun::TunQueue;

/// Time slice of packet threads: a tenth of the system's, so that a sparse flow's packet that wakes a thread is not
/// behind a bulk flow's; shorter ones cost throughput (bench/README.md).
pub(crate) const SLICE: Duration = Duration::from_micros(300);
/// The same for those that read a port: no longer than they work before they give way, which gives up the rest of a slice.
pub(super) const RX_SLICE: Duration = receive::STINT;
/// Pause between two tries to end a thread's wait.
const END_PAUSE: Duration = Duration::from_millis(2);

/// Ends the threads when it is dropped.
pub(super) struct Ending {
    shared: Arc<Shared>,
    /// Where threads wait that, as at sockets, only a signal wakes; `None` once they are being woken.
    queues: Option<Vec<Arc<TunQueue>>>,
}

impl Ending {
    /// Made to end the threads that `shared` serves, among them those that wait at `queues`.
    pub(super) const fn new(shared: Arc<Shared>, queues: Vec<Arc<TunQueue>>) -> Self {
        Self { shared, queues: Some(queues) }
    }

    /// Tells the threads to end, and returns the one that wakes them: whoever calls this may be a task, which is not to wait.
    pub(super) fn begin(&mut self) -> Option<JoinHandle<()>> {
        let queues = self.queues.take()?;
        self.shared.stop();
        let ended = CancellationToken::new();
        let (shared, to_wake) = (Arc::clone(&self.shared), queues.clone());
        let thread = start("tunnel-end", &ended, move || end_waits(&shared, &to_wake));
        if thread.is_none() {
            end_waits(&self.shared, &queues);
        }
        thread
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        drop(self.begin());
    }
}

fn end_waits(shared: &Shared, queues: &[Arc<TunQueue>]) {
    let of_queues = || queues.iter().filter(|queue| queue.interrupt()).count() > 0;
    while [shared.wire.interrupt(), of_queues()].contains(&true) {
        std::thread::sleep(END_PAUSE);
    }
}

/// Starts a thread whose end, a panic too, cancels `ended`; `None`, and a line in the log, where the system has none.
pub(super) fn start(
    name: &str,
    ended: &CancellationToken,
    run: impl FnOnce() + Send + 'static,
) -> Option<JoinHandle<()>> {
    let ending = ended.clone().drop_guard();
    let run = move || {
        let _ending = ending;
        run();
    };
    match std::thread::Builder::new().name(name.to_owned()).spawn(run) {
        Ok(thread) => Some(thread),
        Err(error) => {
            error!(%error, name, "cannot start a thread");
            None
        }
    }
}

/// Lets the calling packet thread be served soon after it wakes.
pub(crate) fn shorten_slice(slice: Duration) {
    if let Err(error) = sched::set_slice(slice) {
        debug!(%error, "packet threads keep the system's time slice");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_a_thread_is_told_whichever_way_it_ends() {
        for panics in [false, true] {
            let ended = CancellationToken::new();
            let (go, gone) = std::sync::mpsc::channel::<()>();
            let thread = start("tunnel-test", &ended, move || {
                let _ = gone.recv();
                assert!(!panics, "a test wants a panic");
            });
            assert!(!ended.is_cancelled());
            drop(go);
            tokio::time::timeout(Duration::from_secs(20), ended.cancelled()).await.unwrap();
            assert_eq!(thread.unwrap().join().is_err(), panics);
        }
    }
}
