//! Threads that each serve connections of their own.
//!
//! The workers of one runtime share their tasks: whenever two connections have something to do at once, one worker wakes
//! another. Where a request is some ten microseconds of work that costs more than it gains, and most where both have the same
//! processor. A connection that is given to a lane stays there with all that is spawned for it. Its price: nobody helps a lane
//! that has much to do, so what works long at a time belongs elsewhere.

use std::cell::Cell;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::runtime::{Builder, EnterGuard, Handle};
use tokio::time::sleep;

use crate::tasks::{STOP_WAIT, Stop};

thread_local! {
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// The number of the lane that this thread is, from 1; 0 for every other thread.
#[must_use]
pub fn current() -> usize {
    CURRENT.get()
}

/// Some threads with a runtime each. They end with the process, or a second after its tasks were told to stop.
#[derive(Debug, Clone)]
pub struct Lanes(Arc<[Lane]>);

#[derive(Debug)]
struct Lane {
    handle: Handle,
    /// Connections that it has.
    open: AtomicUsize,
}

impl Lanes {
    /// Starts `count` threads, which are called `name` and their number.
    ///
    /// # Errors
    ///
    /// Fails where the system has no thread or no file descriptor left.
    pub fn start(name: &str, count: NonZeroUsize, stop: &Stop) -> io::Result<Self> {
        (1..=count.get()).map(|number| Lane::start(name, number, stop)).collect::<io::Result<_>>().map(Self)
    }

    /// A place for one connection, on the lane that has the fewest.
    #[must_use]
    pub fn place(&self) -> LanePlace {
        let open = |at: &usize| self.0.get(*at).map(|lane| lane.open.load(Ordering::Relaxed));
        // Two that ask at once may get the same one: then the next goes elsewhere.
        let at = (0..self.0.len()).min_by_key(open).unwrap_or_default();
        if let Some(lane) = self.0.get(at) {
            lane.open.fetch_add(1, Ordering::Relaxed);
        }
        LanePlace { lanes: Arc::clone(&self.0), at }
    }
}

impl Lane {
    fn start(name: &str, number: usize, stop: &Stop) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (handle, stop) = (runtime.handle().clone(), stop.stop.clone());
        thread::Builder::new().name(format!("{name}-{number}")).spawn(move || {
            CURRENT.set(number);
            runtime.block_on(async {
                stop.cancelled().await;
                // Tasks end by themselves until then.
                sleep(STOP_WAIT).await;
            });
            runtime.shutdown_background();
        })?;
        Ok(Self { handle, open: AtomicUsize::new(0) })
    }
}

/// A connection's place on its lane, until it is dropped.
#[derive(Debug)]
pub struct LanePlace {
    lanes: Arc<[Lane]>,
    at: usize,
}

impl LanePlace {
    /// Makes its lane the one for sockets, timers and tasks that this thread makes until the guard is dropped.
    #[must_use]
    pub fn enter(&self) -> Option<EnterGuard<'_>> {
        self.lanes.get(self.at).map(|lane| lane.handle.enter())
    }
}

impl Drop for LanePlace {
    fn drop(&mut self) {
        if let Some(lane) = self.lanes.get(self.at) {
            lane.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;
    use tokio::time::timeout;

    use super::*;
    use crate::tasks::Supervisor;

    const TWO: NonZeroUsize = NonZeroUsize::new(2).unwrap();

    /// Where a task runs that is spawned from a place, and one that this spawns.
    async fn lanes_of(place: &LanePlace, supervisor: &Supervisor) -> (usize, usize) {
        let (reply, first) = oneshot::channel();
        let (reply_inner, second) = oneshot::channel();
        let spawner = supervisor.child_spawner();
        {
            let _entered = place.enter();
            let inner = spawner.clone();
            spawner.spawn("outer", async move {
                let _ = reply.send(current());
                inner.spawn("inner", async move { reply_inner.send(current()) });
            });
        }
        (first.await.unwrap(), second.await.unwrap())
    }

    #[tokio::test]
    async fn connections_are_spread_and_what_they_spawn_stays_on_their_lane() {
        let supervisor = Supervisor::new();
        let lanes = Lanes::start("lane", TWO, &supervisor.stop()).unwrap();
        let places = [lanes.place(), lanes.place(), lanes.place()];
        let mut seen = Vec::new();
        for place in &places {
            let (outer, inner) = lanes_of(place, &supervisor).await;
            assert_eq!(outer, inner);
            seen.push(outer);
        }
        assert_eq!(seen, [1, 2, 1]);
        assert_eq!(current(), 0);

        let [first, second, third] = places;
        drop((first, third));
        assert_eq!(lanes_of(&lanes.place(), &supervisor).await.0, 1);
        drop(second);
    }

    #[tokio::test]
    async fn tasks_of_a_lane_end_with_those_of_the_process() {
        let supervisor = Supervisor::new();
        let lanes = Lanes::start("lane", TWO, &supervisor.stop()).unwrap();
        let place = lanes.place();
        let (held, dropped) = oneshot::channel::<()>();
        {
            let _entered = place.enter();
            supervisor.child_spawner().spawn("endless", async move {
                let _held = held;
                std::future::pending::<()>().await;
            });
        }
        supervisor.shutdown();
        supervisor.run(Duration::from_millis(10)).await.unwrap();
        assert!(timeout(Duration::from_secs(20), dropped).await.unwrap().is_err());
    }
}
