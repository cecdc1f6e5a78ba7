//! Reads whose answer is late go to a second target, where a service wants that.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use blueprint_hub_proxy_core::ServiceSettings;
use blueprint_hub_proxy_core::upstream::UpstreamSettings;
use http::{Response, StatusCode};

use crate::rig::{Rig, empty, full, read_head, text};

/// What the slow target takes: far above what the other needs on a busy machine.
const SLOW: Duration = Duration::from_secs(8);

struct Backend {
    address: SocketAddr,
    hits: Arc<AtomicUsize>,
}

impl Backend {
    fn answering_after(rig: &Rig, wait: Duration, name: &'static str) -> Self {
        let hits = Arc::<AtomicUsize>::default();
        let counter = Arc::clone(&hits);
        let address = rig.service(move |_| {
            counter.fetch_add(1, Ordering::SeqCst);
            async move {
                tokio::time::sleep(wait).await;
                Response::new(full(name))
            }
        });
        Self { address, hits }
    }

    fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }
}

fn settle(rig: &Rig, hedge_after_millis: u64) {
    let upstream = UpstreamSettings { hedge_after_millis, ..UpstreamSettings::default() };
    rig.settle(ServiceSettings { upstream, ..ServiceSettings::default() });
}

async fn ask(rig: &Rig, method: &str, body: crate::rig::Body) -> (StatusCode, String, Duration) {
    let mut client = rig.http1().await;
    let began = Instant::now();
    let response = client.send_request(rig.request(method, "/", body)).await.unwrap();
    let status = response.status();
    (status, text(response).await, began.elapsed())
}

#[tokio::test]
async fn a_read_that_is_late_goes_to_a_second_target_and_nothing_else_does() {
    let rig = Rig::new().await;
    let slow = Backend::answering_after(&rig, SLOW, "slow");
    let quick = Backend::answering_after(&rig, Duration::ZERO, "quick");
    rig.route(&[slow.address, quick.address]);
    settle(&rig, 50);
    while slow.hits() < 3 {
        let (status, body, took) = ask(&rig, "GET", empty()).await;
        assert_eq!((status, body.as_str()), (StatusCode::OK, "quick"));
        assert!(took < SLOW, "{took:?}");
    }
    assert!(rig.metrics.encode().contains("hub_proxy_upstream_hedges_total 3\n"));

    // Whatever may change something, or has a body, is asked once.
    let (posts, before) = (4, slow.hits() + quick.hits());
    for _ in 0..posts {
        let wait = tokio::time::timeout(Duration::from_millis(400), ask(&rig, "POST", full("body"))).await;
        drop(wait);
    }
    assert_eq!(slow.hits() + quick.hits() - before, posts);
    assert!(rig.metrics.encode().contains("hub_proxy_upstream_hedges_total 3\n"));
}

#[tokio::test]
async fn without_the_setting_a_late_answer_is_waited_for() {
    let rig = Rig::new().await;
    let one = Backend::answering_after(&rig, Duration::from_millis(300), "one");
    let other = Backend::answering_after(&rig, Duration::from_millis(300), "other");
    rig.route(&[one.address, other.address]);
    for _ in 0..4 {
        assert_eq!(ask(&rig, "GET", empty()).await.0, StatusCode::OK);
    }
    assert_eq!(one.hits() + other.hits(), 4);
}

#[tokio::test]
async fn a_first_target_that_fails_late_leaves_the_answer_to_the_second() {
    let rig = Rig::new().await;
    // Both take longer than the wait; the broken one gives up first.
    let broken = rig.raw_service(|mut stream| async move {
        let _ = read_head(&mut stream).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    });
    let fine = Backend::answering_after(&rig, Duration::from_millis(600), "fine");
    rig.route(&[broken, fine.address]);
    settle(&rig, 50);
    for _ in 0..6 {
        let (status, body, _) = ask(&rig, "GET", empty()).await;
        assert_eq!((status, body.as_str()), (StatusCode::OK, "fine"));
    }
    assert_eq!(fine.hits(), 6, "no read was answered by more than one try there");
}

#[tokio::test]
async fn hedges_end_with_the_budget_of_retries() {
    let rig = Rig::new().await;
    let one = Backend::answering_after(&rig, Duration::from_millis(20), "one");
    let other = Backend::answering_after(&rig, Duration::from_millis(20), "other");
    rig.route(&[one.address, other.address]);
    settle(&rig, 1);
    for _ in 0..100 {
        assert_eq!(ask(&rig, "GET", empty()).await.0, StatusCode::OK);
    }
    let hits = one.hits() + other.hits();
    // A fifth of 100, thirty more, and thirty for each further window of a slow machine.
    assert!((110..=180).contains(&hits), "{hits} for 100 requests");
    assert!(!rig.metrics.encode().contains("hub_proxy_upstream_retries_over_budget_total 0\n"));
}

#[tokio::test]
async fn a_second_target_that_fails_fast_does_not_answer_for_a_slow_good_one() {
    let rig = Rig::new().await;
    let good = Backend::answering_after(&rig, Duration::from_millis(200), "good");
    let broken = rig.service(|_| async {
        let mut response = Response::new(full("broken"));
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response
    });
    rig.route(&[good.address, broken]);
    settle(&rig, 20);
    for _ in 0..4 {
        let before = good.hits();
        let (status, ..) = ask(&rig, "GET", empty()).await;
        // As without hedging: those that begin at the broken one get its answer, and no others.
        assert_eq!(status == StatusCode::OK, good.hits() > before);
    }
}
