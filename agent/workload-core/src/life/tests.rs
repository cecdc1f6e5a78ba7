#![expect(clippy::disallowed_methods, reason = "virtual time needs one first instant")]

use blueprint_common_types::workload::{HealthSettings, Recovery, Source};
use proptest::prelude::*;

use super::*;
use crate::backoff::{FIRST_WAIT, LONGEST_WAIT};

fn spec() -> WorkloadSpec {
    WorkloadSpec::new(Source::Testing { path: "/bin/b".to_owned() })
}

fn with_recovery(recovery: Recovery) -> WorkloadSpec {
    let health = HealthSettings { recovery, ..HealthSettings::default() };
    WorkloadSpec { health, ..spec() }
}

fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Brings it to a process that greeted its bridge.
fn run(life: &mut Life, now: Instant) {
    assert_eq!(life.next_step(now), Step::Prepare);
    assert_eq!(life.state(), WorkloadState::Fetching);
    life.handle_prepared(Ok(()), now);
    assert_eq!(life.next_step(now), Step::Start);
    assert_eq!(life.state(), WorkloadState::Starting);
    life.handle_ready(now);
    assert_eq!(life.next_step(now), Step::Wait(None));
    assert_eq!(life.state(), WorkloadState::Running);
}

#[test]
fn one_that_crashes_comes_back_later_and_later_and_sooner_after_a_good_run() {
    let mut now = Instant::now();
    let mut life = Life::new(&with_recovery(Recovery { restarts: 100, ..Recovery::default() }));
    run(&mut life, now);
    let mut waits = Vec::new();
    for _ in 0..9 {
        life.handle_exit(Exit::Code(1), None, now);
        assert_eq!((life.state(), life.reason()), (WorkloadState::BackingOff, "exited with code 1"));
        let Step::Wait(Some(until)) = life.next_step(now) else { unreachable!("it rests") };
        waits.push(until - now);
        now = until;
        assert_eq!(life.next_step(now), Step::Start);
    }
    assert_eq!(waits.first(), Some(&FIRST_WAIT));
    assert!(waits.is_sorted() && waits.last() == Some(&LONGEST_WAIT), "{waits:?}");
    assert_eq!(life.restarts(), 9);
    now += secs(61);
    life.handle_exit(Exit::Signal(9), None, now);
    assert_eq!(life.next_step(now), Step::Wait(Some(now + FIRST_WAIT)));
}

#[test]
fn one_that_is_not_wanted_is_asked_and_then_killed() {
    let now = Instant::now();
    let mut life = Life::new(&spec());
    run(&mut life, now);
    life.handle_stop(now);
    assert_eq!(life.next_step(now), Step::Terminate);
    let kill_at = now + secs(10);
    assert_eq!(life.next_step(now), Step::Wait(Some(kill_at)));
    assert_eq!(life.next_step(kill_at), Step::Kill);
    assert_eq!(life.next_step(kill_at), Step::Wait(None));
    life.handle_exit(Exit::Signal(9), None, kill_at);
    assert_eq!(life.next_step(kill_at), Step::Done);
    assert_eq!(life.state(), WorkloadState::Ended);
    assert_eq!(life.next_step(kill_at + secs(1000)), Step::Wait(None));
}

#[test]
fn one_that_never_greets_its_bridge_is_started_again() {
    let now = Instant::now();
    let mut life = Life::new(&spec());
    let _ = life.next_step(now);
    life.handle_prepared(Ok(()), now);
    assert_eq!(life.next_step(now), Step::Start);
    let late = now + READY_TIMEOUT;
    assert_eq!(life.next_step(now), Step::Wait(Some(late)));
    assert_eq!(life.next_step(late), Step::Terminate);
    life.handle_exit(Exit::Code(0), None, late);
    assert_eq!(life.state(), WorkloadState::BackingOff);
    assert_eq!(life.reason(), "did not greet its bridge within 480 s");
    let mut test = Life::new(&WorkloadSpec { test_mode: true, ..spec() });
    let _ = test.next_step(now);
    test.handle_prepared(Ok(()), now);
    assert_eq!((test.next_step(now), test.state()), (Step::Start, WorkloadState::Running));
}

#[test]
fn what_cannot_get_better_is_not_tried_again() {
    let now = Instant::now();
    let failed = |may_pass| PrepareFailed { reason: "x".to_owned(), may_pass, is_of_node: false };
    let mut life = Life::new(&spec());
    let _ = life.next_step(now);
    life.handle_prepared(Err(failed(true)), now);
    assert_eq!(life.state(), WorkloadState::BackingOff);
    let later = now + secs(1);
    assert_eq!(life.next_step(later), Step::Prepare);
    life.handle_prepared(Err(failed(false)), later);
    assert_eq!((life.state(), life.reason()), (WorkloadState::Failed, "x"));
    assert_eq!(life.next_step(later), Step::Done);
}

#[test]
fn a_node_refuses_what_it_cannot_run_as_it_is_or_could_not_for_a_while_before_it_ever_ran() {
    let mut now = Instant::now();
    let here = || PrepareFailed::here("no such limit".to_owned());
    let away = || PrepareFailed::here_for_now("no engine".to_owned());
    let mut life = Life::new(&spec());
    let _ = life.next_step(now);
    life.handle_prepared(Err(here()), now);
    assert_eq!((life.state(), life.is_refused()), (WorkloadState::Failed, true));
    let mut wrong = Life::new(&spec());
    let _ = wrong.next_step(now);
    wrong.handle_prepared(Err(PrepareFailed::for_good("a digest".to_owned())), now);
    assert_eq!((wrong.state(), wrong.is_refused()), (WorkloadState::Failed, false));

    let again = |life: &mut Life, now: &mut Instant| {
        while let Step::Wait(Some(until)) = life.next_step(*now) {
            *now = until;
        }
        life.handle_prepared(Err(away()), *now);
        assert_eq!(life.state(), WorkloadState::BackingOff);
        life.is_refused()
    };
    let (mut fresh, mut known, began) = (Life::new(&spec()), Life::new(&spec()), now);
    let refused: Vec<_> = (0..5).map(|_| again(&mut fresh, &mut now)).collect();
    assert_eq!(refused, [false, false, false, false, true]);
    assert_eq!(now - began, FIRST_WAIT * 15, "the pauses between them");
    // Another reason begins the count anew, and a start ends it.
    now += LONGEST_WAIT;
    let _ = fresh.next_step(now);
    fresh.handle_prepared(Err(PrepareFailed::for_now("a server".to_owned())), now);
    assert!(!fresh.is_refused() && !again(&mut fresh, &mut now));
    known.handle_started();
    assert!((0..20).all(|_| !again(&mut known, &mut now)), "what it keeps is here");
    let _ = known.next_step(now + LONGEST_WAIT);
    known.handle_prepared(Err(here()), now);
    assert!(known.is_refused(), "it cannot run here any more");
}

#[test]
fn the_policy_says_who_comes_back() {
    let now = Instant::now();
    for (restart, exit, state) in [
        (RestartPolicy::Always, Exit::Code(0), WorkloadState::BackingOff),
        (RestartPolicy::OnFailure, Exit::Code(0), WorkloadState::Ended),
        (RestartPolicy::OnFailure, Exit::OutOfMemory, WorkloadState::BackingOff),
        (RestartPolicy::Never, Exit::Code(0), WorkloadState::Ended),
        (RestartPolicy::Never, Exit::Code(3), WorkloadState::Failed),
    ] {
        let mut life = Life::new(&WorkloadSpec { restart, ..spec() });
        run(&mut life, now);
        life.handle_exit(exit, None, now);
        assert_eq!(life.state(), state, "{restart:?} {exit:?}");
    }
}

proptest! {
    /// Whatever happens in whatever order: never two processes, none after the end was asked for, and an end.
    #[test]
    fn there_is_never_a_second_process(events in proptest::collection::vec((0u8..7, 0u64..40), 1..200), stop_at in 0usize..200) {
        let mut now = Instant::now();
        let mut life = Life::new(&spec());
        let (mut runs, mut stopped, mut done) = (false, false, false);
        for (position, (event, pause)) in events.into_iter().enumerate() {
            now += secs(pause);
            if position == stop_at {
                life.handle_stop(now);
                stopped = true;
            }
            match life.next_step(now) {
                Step::Start => {
                    prop_assert!(!runs && !stopped && !done);
                    runs = true;
                }
                Step::Prepare | Step::Redeploy => prop_assert!(!runs && !done),
                Step::Terminate | Step::Kill => prop_assert!(runs),
                Step::Done => {
                    prop_assert!(!runs && !done);
                    done = true;
                }
                Step::Wait(_) => {}
            }
            let failed = |may_pass| PrepareFailed { reason: String::new(), may_pass, is_of_node: false };
            match event {
                0 => life.handle_prepared(Ok(()), now),
                1 => life.handle_prepared(Err(failed(true)), now),
                2 => life.handle_ready(now),
                6 => life.handle_health(Some((Health::Unhealthy, "ill")), now),
                3 | 4 if runs => {
                    runs = false;
                    life.handle_exit(Exit::Code(event.into()), None, now);
                }
                5 if runs && life.state() == WorkloadState::Starting => {
                    runs = false;
                    life.handle_not_started(failed(true), now);
                }
                _ => {}
            }
        }
        life.handle_stop(now);
        for _ in 0..6 {
            now += secs(601);
            match life.next_step(now) {
                Step::Prepare | Step::Redeploy | Step::Start => prop_assert!(false, "started after its end"),
                Step::Done => done = true,
                Step::Terminate | Step::Kill | Step::Wait(_) => {}
            }
            life.handle_prepared(Ok(()), now);
            if runs {
                runs = false;
                life.handle_exit(Exit::Signal(9), None, now);
            }
        }
        prop_assert!(done);
    }
}

#[test]
fn its_exit_code_is_told_also_where_its_end_was_asked_for() {
    let now = Instant::now();
    for (exit, code) in [(Exit::Code(7), 7), (Exit::Signal(15), 143), (Exit::Code(0), 0)] {
        let mut life = Life::new(&spec());
        run(&mut life, now);
        assert_eq!(life.exit_code(), None);
        life.handle_stop(now);
        assert_eq!(life.next_step(now), Step::Terminate);
        life.handle_exit(exit, None, now);
        assert_eq!((life.next_step(now), life.state()), (Step::Done, WorkloadState::Ended));
        assert_eq!(life.exit_code(), Some(code));
    }
}

/// Ends the process that was asked to, and goes on to the next one that runs and greeted; says how it was prepared.
fn go_on(life: &mut Life, now: &mut Instant) -> Step {
    assert_eq!(life.next_step(*now), Step::Terminate);
    life.handle_exit(Exit::Signal(15), None, *now);
    let Step::Wait(Some(until)) = life.next_step(*now) else { unreachable!("it rests") };
    *now = until;
    let step = life.next_step(*now);
    if step != Step::Start {
        life.handle_prepared(Ok(()), *now);
        assert_eq!(life.next_step(*now), Step::Start);
    }
    life.handle_ready(*now);
    step
}

#[test]
fn one_that_runs_and_stays_unhealthy_is_restarted_deployed_anew_and_then_left_for_another_node() {
    let mut now = Instant::now();
    let recovery = Recovery { restarts: 1, redeploys: 1, patience_secs: 10, ..Recovery::default() };
    let mut life = Life::new(&with_recovery(recovery));
    run(&mut life, now);
    let mut steps = Vec::new();
    for _ in 0..2 {
        life.handle_health(Some((Health::Unhealthy, "answers 503")), now);
        assert_eq!(life.next_step(now), Step::Wait(Some(now + secs(10))));
        now += secs(10);
        steps.push(go_on(&mut life, &mut now));
    }
    assert_eq!(steps, [Step::Start, Step::Redeploy]);
    life.handle_health(Some((Health::Unhealthy, "answers 503")), now);
    now += secs(10);
    assert_eq!(life.next_step(now), Step::Wait(None), "it is left as it is");
    assert!(life.asks_move());
    let done = life.take_done();
    let kinds: Vec<_> = done.iter().map(|done| done.kind).collect();
    assert_eq!(kinds, [RecoveryKind::Restart, RecoveryKind::Redeploy, RecoveryKind::AskMove]);
    assert_eq!(done[0].reason, "unhealthy for 10 s: answers 503");
    // Well for long enough, it is as new.
    life.handle_health(Some((Health::Healthy, "")), now);
    assert_eq!(life.next_step(now), Step::Wait(Some(now + secs(600))));
    now += secs(600);
    assert_eq!(life.next_step(now), Step::Wait(None));
    assert!(!life.asks_move());
    assert_eq!(life.take_done()[0].kind, RecoveryKind::Settled);
}

#[test]
fn a_short_illness_is_nobody_elses_business_and_one_that_is_never_restarted_is_left_alone() {
    let mut now = Instant::now();
    let mut life = Life::new(&spec());
    run(&mut life, now);
    for _ in 0..20 {
        life.handle_health(Some((Health::Unhealthy, "refused")), now);
        now += secs(59);
        assert!(matches!(life.next_step(now), Step::Wait(Some(_))));
        life.handle_health(Some((Health::Healthy, "")), now);
    }
    assert!(life.take_done().is_empty() && life.restarts() == 0);
    let mut never = Life::new(&WorkloadSpec { restart: RestartPolicy::Never, ..spec() });
    run(&mut never, now);
    never.handle_health(Some((Health::Unhealthy, "refused")), now);
    assert_eq!(never.next_step(now + secs(10_000)), Step::Wait(None));
    assert_eq!((never.health(), never.health_reason()), (Some(Health::Unhealthy), "refused"));
}

#[test]
fn one_that_crashes_again_and_again_goes_up_the_same_rungs_and_is_still_started_afterwards() {
    use RecoveryKind::{AskMove, Redeploy, Restart};
    let mut now = Instant::now();
    let recovery = Recovery { restarts: 2, redeploys: 1, ..Recovery::default() };
    let mut life = Life::new(&with_recovery(recovery));
    run(&mut life, now);
    let mut steps = Vec::new();
    for _ in 0..5 {
        life.handle_exit(Exit::Code(1), Some("out of luck"), now);
        let Step::Wait(Some(until)) = life.next_step(now) else { unreachable!("it rests") };
        now = until;
        let step = life.next_step(now);
        if step != Step::Start {
            life.handle_prepared(Ok(()), now);
            assert_eq!(life.next_step(now), Step::Start);
        }
        steps.push(step);
    }
    assert_eq!(steps, [Step::Start, Step::Start, Step::Redeploy, Step::Start, Step::Start]);
    let kinds: Vec<_> = life.take_done().into_iter().map(|done| done.kind).collect();
    assert_eq!(kinds, [Restart, Restart, Redeploy, AskMove], "the hub is asked once");
    // What ends while the hub is away is not held against its node.
    let mut alone = Life::new(&with_recovery(Recovery { restarts: 1, redeploys: 0, ..Recovery::default() }));
    run(&mut alone, now);
    for is_away in [true, true, true, false] {
        assert!(!alone.asks_move());
        alone.handle_hub(is_away);
        alone.handle_exit(Exit::Code(1), None, now);
        let Step::Wait(Some(until)) = alone.next_step(now) else { unreachable!("it rests") };
        now = until;
        assert_eq!(alone.next_step(now), Step::Start);
    }
    assert!(alone.asks_move());
    assert!(life.asks_move());
}

#[test]
fn one_that_keeps_too_much_is_ended_soon_and_says_so_until_there_is_room() {
    let mut now = Instant::now();
    let mut life = Life::new(&WorkloadSpec { stop_grace_secs: 600, ..spec() });
    run(&mut life, now);
    life.handle_over_storage("over its storage limit".to_owned(), now);
    assert_eq!(life.next_step(now), Step::Terminate);
    assert_eq!(life.state(), WorkloadState::Stopping);
    now += OVER_STORAGE_GRACE;
    assert_eq!(life.next_step(now), Step::Kill);
    life.handle_exit(Exit::Signal(9), Some("bye"), now);
    assert_eq!((life.state(), life.reason()), (WorkloadState::BackingOff, "over its storage limit"));
    for _ in 0..3 {
        let Step::Wait(Some(until)) = life.next_step(now) else { panic!("a pause") };
        now = until;
        assert_eq!(life.next_step(now), Step::Start);
        let failed = PrepareFailed::for_now("over its storage limit".to_owned());
        life.handle_not_started(failed, now);
        assert_eq!(life.state(), WorkloadState::BackingOff);
    }
    // Before it is started there is nothing to end.
    life.handle_over_storage("late".to_owned(), now);
    assert_eq!(life.reason(), "over its storage limit");
}
