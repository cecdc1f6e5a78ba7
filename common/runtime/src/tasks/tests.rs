//! The supervisor on paused time, and with real signals in a process of its own.

use std::convert::Infallible;
use std::future::pending;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::*;

const GRACE: Duration = Duration::from_secs(20);

/// Waits for `token` and ends well.
async fn until(token: CancellationToken) -> Result<(), Infallible> {
    token.cancelled().await;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn without_tasks_a_shutdown_ends_at_once() {
    let supervisor = Supervisor::new();
    let started_at = Instant::now();
    supervisor.shutdown();
    supervisor.run(GRACE).await.unwrap();
    assert_eq!(started_at.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn an_essential_task_that_ends_drains_the_others_and_fails_the_run() {
    let supervisor = Supervisor::new();
    let stop = supervisor.stop();
    supervisor.spawn_essential("short", async { Ok::<_, Infallible>(()) });
    supervisor.spawn_essential("long", until(stop.drain.clone()));
    let error = supervisor.run(GRACE).await.unwrap_err();
    assert!(matches!(error, TaskError::Ended { name: "short" }), "{error}");
    assert!(stop.drain.is_cancelled() && stop.stop.is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn an_essential_error_and_an_essential_panic_keep_their_text() {
    let supervisor = Supervisor::new();
    supervisor.spawn_essential("store", async { Err(io::Error::other("disk is gone")) });
    let error = supervisor.run(GRACE).await.unwrap_err();
    assert_eq!(Chain(&error).to_string(), "task store failed: disk is gone");

    let supervisor = Supervisor::new();
    supervisor.spawn_essential("engine", async {
        if GRACE > Duration::ZERO {
            panic!("out of {}", "order");
        }
        Ok::<_, Infallible>(())
    });
    let error = supervisor.run(GRACE).await.unwrap_err();
    assert_eq!(error.to_string(), "task engine panicked: out of order");
}

#[tokio::test(start_paused = true)]
async fn a_failure_while_draining_does_not_fail_the_run() {
    let supervisor = Supervisor::new();
    let stop = supervisor.stop();
    supervisor.spawn_essential("late", async move {
        stop.drain.cancelled().await;
        Err(io::Error::other("too late to matter"))
    });
    supervisor.shutdown();
    supervisor.run(GRACE).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_restartable_task_is_restarted_later_each_time_after_errors_and_panics() {
    let supervisor = Supervisor::new();
    let (starts, mut started) = mpsc::unbounded_channel();
    let count = AtomicUsize::new(0);
    supervisor.spawn_restartable("flaky", move || {
        let run = count.fetch_add(1, Ordering::Relaxed);
        starts.send(Instant::now()).unwrap();
        // The ninth run lasts long enough to be forgiven the eight before it.
        let lasts = if run == 8 { RESTART_LONGEST } else { Duration::ZERO };
        async move {
            sleep(lasts).await;
            assert!(!run.is_multiple_of(2), "an even run panics");
            Err::<(), _>(io::Error::other("an odd run fails"))
        }
    });
    let mut at = Vec::new();
    for _ in 0..10 {
        at.push(started.recv().await.unwrap());
    }
    let pauses: Vec<_> = at.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
    // tokio's timer ticks in milliseconds, so each pause may be one longer.
    let expected = [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_100];
    for (pause, expected) in pauses.iter().zip(expected) {
        assert!((expected..=expected + 2).contains(pause), "{pauses:?}");
    }
    supervisor.shutdown();
    supervisor.run(GRACE).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_restartable_task_that_succeeds_is_done() {
    let supervisor = Supervisor::new();
    supervisor.spawn_restartable("once", || async { Ok::<_, Infallible>(()) });
    supervisor.shared.idle().await;
    assert!(!supervisor.stop().drain.is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn draining_waits_for_tasks_but_not_longer_than_grace() {
    let supervisor = Supervisor::new();
    let stop = supervisor.stop();
    supervisor.spawn_essential("slow", until(stop.stop.clone()));
    supervisor.shutdown();
    let started_at = Instant::now();
    supervisor.run(GRACE).await.unwrap();
    assert!((GRACE..GRACE + Duration::from_millis(10)).contains(&started_at.elapsed()));
}

#[tokio::test(start_paused = true)]
async fn a_connection_finishes_within_grace_and_is_dropped_at_stop() {
    struct Gone(Option<oneshot::Sender<()>>);
    impl Drop for Gone {
        fn drop(&mut self) {
            let _ = self.0.take().unwrap().send(());
        }
    }

    let supervisor = Supervisor::new();
    let spawner = supervisor.child_spawner();
    let (finished, mut is_finished) = oneshot::channel();
    let (gone, mut is_gone) = oneshot::channel();
    spawner.spawn("short", async move {
        sleep(GRACE / 2).await;
        finished.send(()).unwrap();
    });
    let gone = Gone(Some(gone));
    spawner.spawn("endless", async move {
        let _gone = gone;
        pending::<()>().await;
    });
    assert_eq!(spawner.open(), 2);
    supervisor.shutdown();
    supervisor.run(GRACE).await.unwrap();
    is_finished.try_recv().unwrap();
    is_gone.try_recv().unwrap();
    assert_eq!(spawner.open(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_to_be_finished_is_finished_also_where_nobody_waits() {
    let supervisor = Supervisor::new();
    let spawner = supervisor.child_spawner();
    assert_eq!(spawner.finish("change", async { 7 }).await, Some(7));
    let (go, begun) = oneshot::channel::<()>();
    let (done, ended) = oneshot::channel();
    let change = spawner.finish("change", async move {
        begun.await.unwrap();
        done.send(()).unwrap();
    });
    // Asked once, and left.
    assert_eq!(change.now_or_never(), None);
    go.send(()).unwrap();
    ended.await.unwrap();
    supervisor.stop().stop.cancel();
    assert_eq!(spawner.finish("change", pending::<()>()).await, None);
}

#[tokio::test(start_paused = true)]
async fn the_panic_of_a_connection_touches_nothing_else() {
    let supervisor = Supervisor::new();
    let spawner = supervisor.child_spawner();
    spawner.spawn("bad", async { panic!("bad request") });
    supervisor.shared.idle().await;
    assert!(!supervisor.stop().drain.is_cancelled());
    supervisor.shutdown();
    supervisor.run(GRACE).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn tasks_that_ignore_stop_are_aborted_and_named() {
    let supervisor = Supervisor::new();
    supervisor.spawn_essential("stuck-b", pending::<Result<(), Infallible>>());
    supervisor.spawn_restartable("stuck-a", pending::<Result<(), Infallible>>);
    supervisor.shutdown();
    let started_at = Instant::now();
    let shared = Arc::clone(&supervisor.shared);
    let error = supervisor.run(GRACE).await.unwrap_err();
    assert_eq!(error.to_string(), "tasks did not stop and were aborted: stuck-a, stuck-b");
    assert!(started_at.elapsed() >= GRACE + STOP_WAIT);
    shared.idle().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_spawned_after_the_abort_is_aborted_too() {
    let supervisor = Supervisor::new();
    supervisor.shared.abort_all();
    supervisor.spawn_essential("late", pending::<Result<(), Infallible>>());
    supervisor.shared.idle().await;
}

/// Body of the process that the signal tests start; it does nothing when run with the other tests.
#[tokio::test]
async fn supervised_process() {
    if std::env::var_os("SUPERVISED_PROCESS").is_none() {
        return;
    }
    let supervisor = Supervisor::new();
    let stop = supervisor.stop();
    supervisor.spawn_essential("slow", async move {
        stop.drain.cancelled().await;
        crate::cli::print_line("draining");
        stop.stop.cancelled().await;
        Ok::<_, Infallible>(())
    });
    let stop = supervisor.stop();
    let spawner = supervisor.child_spawner();
    // Polled after `run` was, which listens to signals before it first waits.
    spawner.spawn("ready", async {
        tokio::task::yield_now().await;
        crate::cli::print_line("ready");
    });
    supervisor.run(Duration::from_secs(600)).await.unwrap();
    assert!(stop.stop.is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn the_drain_does_not_wait_for_a_base_task_and_ends_it_last() {
    let supervisor = Supervisor::new();
    let stop = supervisor.stop();
    let ended = Arc::new(Mutex::new(Vec::new()));
    let (base, open) = (Arc::clone(&ended), Arc::clone(&ended));
    let until = stop.stop.clone();
    supervisor.spawn_base("base", async move {
        until.cancelled().await;
        base.lock().push("base");
        Ok::<_, io::Error>(())
    });
    let until = stop.drain.clone();
    supervisor.child_spawner().spawn("request", async move {
        until.cancelled().await;
        sleep(Duration::from_secs(2)).await;
        open.lock().push("request");
    });
    let started_at = Instant::now();
    supervisor.shutdown();
    supervisor.run(Duration::from_secs(600)).await.unwrap();
    assert_eq!(*ended.lock(), ["request", "base"]);
    assert!(started_at.elapsed() < Duration::from_secs(3));
}

/// A process that does not outlive its test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts this test binary with [`supervised_process`] alone.
fn start_process() -> (Killed, impl FnMut(&str)) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tasks::tests::supervised_process", "--nocapture"])
        .env("SUPERVISED_PROCESS", "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let wait_for = move |wanted: &str| {
        // The harness writes its own words before ours on the same line.
        assert!(lines.any(|line| line.unwrap().ends_with(wanted)), "no line {wanted:?}");
    };
    (Killed(child), wait_for)
}

#[test]
fn a_first_signal_drains_and_a_second_one_stops() {
    let (mut child, mut wait_for) = start_process();
    let pid = Pid::from_raw(i32::try_from(child.0.id()).unwrap());
    wait_for("ready");
    kill(pid, Signal::SIGTERM).unwrap();
    wait_for("draining");
    kill(pid, Signal::SIGINT).unwrap();
    assert!(child.0.wait().unwrap().success());
}
