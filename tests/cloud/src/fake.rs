//! The fake cloud: one world, one dialect, and the faults that are due.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::server::{Answer, Reply, Request, serve};
use crate::world::{Fault, Kind, Nonsense, Refusal, Throttling, World};

/// How one cloud says things, and which rules it has.
pub trait Dialect: Send + 'static {
    /// What a request is for.
    fn kind(&self, request: &Request) -> Kind;

    /// Does what is asked and answers.
    fn answer(&mut self, world: &mut World, request: &Request) -> Answer;

    /// Says no. A body may repeat the request, as real ones do.
    fn refuse(&self, world: &World, request: &Request, refusal: Refusal) -> Answer;

    /// The rules of the cloud's documentation that a request breaks, in words. `earlier` are the requests before it.
    fn broken_rules(&mut self, world: &World, request: &Request, earlier: &[Asked]) -> Vec<String>;

    /// The ways in which this cloud asks for a pause.
    fn throttlings(&self) -> Vec<Throttling>;

    /// An answer with the right shape and the wrong types.
    fn wrong_types(&self, answer: Answer) -> Answer;
}

/// A request that came, and what was answered.
#[derive(Debug, Clone)]
pub struct Asked {
    /// What it was for.
    pub kind: Kind,
    /// The request.
    pub request: Request,
    /// The answer; `None` where the connection was broken.
    pub answer: Option<Answer>,
    /// When.
    pub at: Instant,
}

struct Inner {
    world: World,
    dialect: Box<dyn Dialect>,
    faults: VecDeque<(Kind, Fault)>,
    /// How many requests come until one goes wrong, that one with them.
    nth: Option<(usize, Fault)>,
    asked: Vec<Asked>,
    broken: Vec<String>,
}

/// A cloud on loopback.
///
/// Dropping it fails the test where a rule of the cloud was broken.
pub struct FakeCloud {
    address: SocketAddr,
    inner: Arc<Mutex<Inner>>,
    tasks: JoinSet<()>,
}

impl fmt::Debug for FakeCloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeCloud").field("address", &self.address).finish_non_exhaustive()
    }
}

impl FakeCloud {
    /// Starts one that knows `token`.
    pub async fn start(dialect: impl Dialect, token: &str) -> Self {
        let inner = Arc::new(Mutex::new(Inner {
            world: World::new(token),
            dialect: Box::new(dialect),
            faults: VecDeque::new(),
            nth: None,
            asked: Vec::new(),
            broken: Vec::new(),
        }));
        let mut tasks = JoinSet::new();
        let deciding = Arc::clone(&inner);
        let address = serve(&mut tasks, move |request| deciding.lock().decide(request)).await;
        Self { address, inner, tasks }
    }

    /// Its URL, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Looks at the world, or changes it.
    pub fn world<T>(&self, look: impl FnOnce(&mut World) -> T) -> T {
        look(&mut self.inner.lock().world)
    }

    /// Has the next request of this kind go wrong; several wait for their turn.
    pub fn fail(&self, kind: Kind, fault: Fault) {
        self.inner.lock().faults.push_back((kind, fault));
    }

    /// Has the request with this number go wrong, whatever it is for: 1 is the next one. It takes the place of an earlier word of
    /// this kind.
    pub fn fail_nth(&self, number: usize, fault: Fault) {
        self.inner.lock().nth = Some((number, fault));
    }

    /// Faults that no request met yet.
    #[must_use]
    pub fn faults_left(&self) -> usize {
        let inner = self.inner.lock();
        inner.faults.len() + usize::from(inner.nth.is_some())
    }

    /// Every request so far.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        self.inner.lock().asked.clone()
    }

    /// How many requests of a kind came so far.
    #[must_use]
    pub fn count(&self, kind: Kind) -> usize {
        self.inner.lock().asked.iter().filter(|asked| asked.kind == kind).count()
    }

    /// The ways in which it asks for a pause.
    #[must_use]
    pub fn throttlings(&self) -> Vec<Throttling> {
        self.inner.lock().dialect.throttlings()
    }

    /// Rules that were broken so far; they do not fail the test any more.
    #[must_use]
    pub fn take_broken_rules(&self) -> Vec<String> {
        std::mem::take(&mut self.inner.lock().broken)
    }

    /// Ends it: nothing listens there any more.
    pub async fn shut(&mut self) {
        self.tasks.shutdown().await;
    }
}

impl Drop for FakeCloud {
    fn drop(&mut self) {
        let broken = self.take_broken_rules();
        if !std::thread::panicking() {
            assert!(broken.is_empty(), "rules of the cloud were broken:\n  {}", broken.join("\n  "));
        }
    }
}

impl Inner {
    fn decide(&mut self, request: Request) -> Reply {
        let kind = self.dialect.kind(&request);
        let broken = self.dialect.broken_rules(&self.world, &request, &self.asked);
        self.broken
            .extend(broken.into_iter().map(|rule| format!("{} {}: {rule}", request.method, request.path)));
        let at = self.faults.iter().position(|(due, _)| *due == kind);
        let fault =
            at.and_then(|at| self.faults.remove(at)).map(|(_, fault)| fault).or_else(|| self.count_down());
        let (answer, after) = self.reply(&request, fault);
        self.asked.push(Asked { kind, request, answer: answer.clone(), at: Instant::now() });
        (answer, after)
    }

    fn count_down(&mut self) -> Option<Fault> {
        let (left, fault) = self.nth.take()?;
        if left > 1 {
            self.nth = Some((left - 1, fault));
            return None;
        }
        Some(fault)
    }

    fn reply(&mut self, request: &Request, fault: Option<Fault>) -> Reply {
        let mut done = || self.dialect.answer(&mut self.world, request);
        let now = Duration::ZERO;
        let reply = match fault {
            None => (Some(done()), now),
            Some(Fault::Refuse(refusal)) => (Some(self.dialect.refuse(&self.world, request, refusal)), now),
            Some(Fault::DoAndRefuse(refusal)) => {
                done();
                (Some(self.dialect.refuse(&self.world, request, refusal)), now)
            }
            Some(Fault::DoAndBreak) => {
                done();
                (None, now)
            }
            Some(Fault::Break) => (None, now),
            Some(Fault::Twice) => {
                done();
                (Some(done()), now)
            }
            Some(Fault::Slow(after)) => (Some(done()), after),
            Some(Fault::Say(nonsense)) => {
                let answer = done();
                (Some(self.garble(answer, nonsense)), now)
            }
        };
        let date = httpdate::fmt_http_date(self.world.now());
        (reply.0.map(|answer| answer.header("date", date)), reply.1)
    }

    fn garble(&self, answer: Answer, nonsense: Nonsense) -> Answer {
        let with = |body: Bytes| Answer { body, ..answer.clone() };
        match nonsense {
            Nonsense::Html => Answer {
                headers: vec![("content-type", "text/html".to_owned())],
                body: Bytes::from_static(b"<!doctype html><html><body><h1>Welcome</h1></body></html>"),
                ..answer
            },
            Nonsense::Truncated => with(answer.body.slice(..answer.body.len() / 2)),
            Nonsense::WrongTypes => self.dialect.wrong_types(answer),
            Nonsense::Empty => with(Bytes::new()),
            Nonsense::Huge => with(Bytes::from(vec![b' '; 20_000_000])),
        }
    }
}
