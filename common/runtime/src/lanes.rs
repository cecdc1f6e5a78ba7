//! Threads that each serve connections of their own.
//!
//! The workers of one runtime share their tasks: whenever two connections have something to do at once, one worker wakes
//! another. Where a request is some ten microseconds of work that costs more than it gains, and most where both have the same
//! processor. A connection that is given to a lane stays there with all that is spawned for it. Its price: nobody helps a lane
//! that has much to do, so what works long at a time belongs elsewhere.

use std::cell::OnceCell;
use std::io;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use tokio::runtime::{Builder, EnterGuard, Handle};
use tokio::time::sleep;

use crate::tasks::{STOP_WAIT, Stop};

thread_local! {
    static CURRENT: OnceCell<(usize, Open)> = const { OnceCell::new() };
}

/// Connections that a lane has.
type Open = Arc<AtomicUsize>;

/// The number of the lane that this thread is, from 1; 0 for every other thread.
#[must_use]
pub fn current() -> usize {
    CURRENT.with(|lane| lane.get().map_or(0, |(number, _)| *number))
}

/// One of something for each lane that a process has by default, one a processor, and one for all other threads.
#[derive(Debug, Clone)]
pub struct PerLane<T> {
    outside: T,
    lanes: Vec<T>,
}

impl<T> PerLane<T> {
    /// Makes each of them.
    pub fn new(mut make: impl FnMut() -> T) -> Self {
        let count = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self { outside: make(), lanes: std::iter::repeat_with(make).take(count).collect() }
    }

    /// That of this thread; where there are more lanes than processors, some share.
    pub fn own(&self) -> &T {
        let at = current().checked_sub(1).and_then(|at| at.checked_rem(self.lanes.len()));
        at.and_then(|at| self.lanes.get(at)).unwrap_or(&self.outside)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        std::iter::once(&self.outside).chain(&self.lanes)
    }

    /// How many lanes have one.
    #[must_use]
    pub fn lanes(&self) -> usize {
        self.lanes.len()
    }
}

/// Counts one connection more on the lane that this thread is, until it is dropped: for what lives on after the connection that
/// it came from.
#[must_use]
pub fn hold() -> Held {
    CURRENT.with(|lane| Held::new(lane.get().map(|(_, open)| open), 1))
}

/// Counts one connection less there, until it is dropped: for one that another thread serves meanwhile.
#[must_use]
pub fn away() -> Held {
    CURRENT.with(|lane| Held::new(lane.get().map(|(_, open)| open), -1))
}

/// A change of what a lane counts, until it is dropped.
#[derive(Debug)]
pub struct Held {
    open: Option<Open>,
    change: isize,
}

impl Held {
    fn new(open: Option<&Open>, change: isize) -> Self {
        let open = open.map(Arc::clone);
        if let Some(open) = &open {
            add(open, change);
        }
        Self { open, change }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(open) = &self.open {
            add(open, self.change.wrapping_neg());
        }
    }
}

/// What is added is taken away again, in whichever order, so that the sum is right where it went below zero between.
fn add(open: &AtomicUsize, change: isize) {
    open.fetch_add(change.cast_unsigned(), Ordering::Relaxed);
}

/// Some threads with a runtime each. They end with the process, or a second after its tasks were told to stop.
#[derive(Debug, Clone)]
pub struct Lanes {
    lanes: Arc<[Lane]>,
    next: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Lane {
    handle: Handle,
    open: Open,
}

impl Lanes {
    /// Starts `count` threads, which are called `name` and their number, and waits until they are there.
    ///
    /// # Errors
    ///
    /// Fails where the system has no thread or no file descriptor left.
    pub fn start(name: &str, count: NonZeroUsize, stop: &Stop) -> io::Result<Self> {
        let lanes =
            (1..=count.get()).map(|number| Lane::start(name, number, stop)).collect::<io::Result<_>>()?;
        Ok(Self { lanes, next: Arc::default() })
    }

    /// A place for one connection, on the lane that has the fewest; of several that have, on each in turn.
    #[must_use]
    pub fn place(&self) -> LanePlace {
        let first =
            self.next.fetch_add(1, Ordering::Relaxed).checked_rem(self.lanes.len()).unwrap_or_default();
        let (before, from) = self.lanes.split_at(first);
        let lanes = from.iter().chain(before);
        // Two that ask at once may get the same one: then the next goes elsewhere.
        let lane = lanes.min_by_key(|lane| lane.open.load(Ordering::Relaxed).cast_signed());
        LanePlace {
            handle: lane.map(|lane| lane.handle.clone()),
            _held: Held::new(lane.map(|lane| &lane.open), 1),
        }
    }
}

impl Lane {
    fn start(name: &str, number: usize, stop: &Stop) -> io::Result<Self> {
        let (open, stop) = (Open::default(), stop.stop.clone());
        let (tell, told) = mpsc::sync_channel(1);
        let own = Arc::clone(&open);
        // Its runtime is made there: who starts it may be a task, and may not drop one.
        thread::Builder::new().name(format!("{name}-{number}")).spawn(move || {
            let runtime = match Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(tell.send(Err(error))),
            };
            CURRENT.with(|lane| drop(lane.set((number, own))));
            drop(tell.send(Ok(runtime.handle().clone())));
            runtime.block_on(async {
                stop.cancelled().await;
                // Tasks end by themselves until then.
                sleep(STOP_WAIT).await;
            });
            runtime.shutdown_background();
        })?;
        let handle = told.recv().map_err(|_| io::Error::other("the thread ended at once"))??;
        Ok(Self { handle, open })
    }
}

/// A connection's place on its lane, until it is dropped.
#[derive(Debug)]
pub struct LanePlace {
    handle: Option<Handle>,
    _held: Held,
}

impl LanePlace {
    /// Makes its lane the one for sockets, timers and tasks that this thread makes until the guard is dropped.
    #[must_use]
    pub fn enter(&self) -> Option<EnterGuard<'_>> {
        self.handle.as_ref().map(Handle::enter)
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
        let more = [lanes.place(), lanes.place()];
        assert_eq!(lanes_of(&more[0], &supervisor).await.0, 1);
        drop((second, more));
    }

    #[tokio::test]
    async fn what_outlives_its_connection_counts_on_and_what_is_served_elsewhere_does_not() {
        let supervisor = Supervisor::new();
        let lanes = Lanes::start("lane", TWO, &supervisor.stop()).unwrap();
        let open = || lanes.lanes.iter().map(|lane| lane.open.load(Ordering::Relaxed)).collect::<Vec<_>>();
        let (reply, held) = oneshot::channel();
        let place = lanes.place();
        {
            let _entered = place.enter();
            supervisor.child_spawner().spawn("task", async move { reply.send((hold(), hold(), away())) });
        }
        let (first, second, less) = held.await.unwrap();
        assert_eq!(open(), [2, 0]);
        drop(place);
        assert_eq!(open(), [1, 0]);
        drop(first);
        assert_eq!(open().first().map(|open| open.cast_signed()), Some(0));
        drop((second, less));
        assert_eq!(open(), [0, 0]);
        // Where there is no lane there is nothing to count.
        drop((hold(), away()));
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
