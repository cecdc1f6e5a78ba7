//! One stream to the hub: what it tells of the blueprint, and what the blueprint asks of its Manager.

use std::future::pending;
use std::time::Instant;

use blueprint_proto::v1;
use blueprint_proto::v1::launcher_client::LauncherClient;
use blueprint_proto::v1::launcher_event::Body as Event;
use blueprint_proto::v1::launcher_message::Body as Message;
use tokio::sync::mpsc;
use tokio::time::sleep_until;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::launch::{Launch, Outcome};
use crate::{registration, socket};

/// Messages on their way to the hub.
const WAITING: usize = 64;

/// State of a blueprint that no node can take.
const UNPLACED: &str = "unplaced";

type Say = mpsc::Sender<v1::LauncherMessage>;

/// What happened while it was waited.
enum Input {
    Signal,
    Overdue,
    Event(Box<Result<Option<v1::LauncherEvent>, Status>>),
}

impl Launch {
    /// Has the hub run the blueprint until either is over.
    pub(crate) async fn attempt(&mut self) -> Outcome {
        self.suspend();
        let channel = match socket::channel(&self.plan.hub).await {
            Ok(channel) => channel,
            Err(why) => return Outcome::Lost(why),
        };
        let (outbox, receiver) = mpsc::channel(WAITING);
        let start = v1::LauncherMessage { body: Some(Message::Start(self.plan.start.clone())) };
        // The channel is new and empty.
        let _ = outbox.try_send(start);
        let mut events = match LauncherClient::new(channel).run(ReceiverStream::new(receiver)).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return ended(status),
        };
        if !self.is_accepted {
            self.voice.say(&format!("{} is run by the hub", self.plan.service));
        }
        (self.was_up, self.is_accepted) = (true, true);
        if self.deadline.is_some() {
            let _ = outbox.try_send(stop());
        }
        loop {
            while self.tasks.try_join_next().is_some() {}
            let deadline = self.deadline.or_else(|| self.given_up_at());
            let due = async {
                match deadline {
                    Some(at) => sleep_until(at.into()).await,
                    None => pending().await,
                }
            };
            let input = tokio::select! {
                biased;
                () = self.signals.next() => Input::Signal,
                event = events.message() => Input::Event(Box::new(event)),
                () = due => Input::Overdue,
            };
            let event = match input {
                Input::Signal if self.deadline.is_some() => return Outcome::Overdue,
                Input::Signal => {
                    self.voice.say("asked to end; the blueprint is asked, too");
                    self.deadline = self.overdue_at().or_else(|| Some(Instant::now()));
                    // A full channel means a hub that does not read: the deadline ends that.
                    let _ = outbox.try_send(stop());
                    continue;
                }
                Input::Overdue if self.give_up() => {
                    self.deadline = self.overdue_at().or_else(|| Some(Instant::now()));
                    let _ = outbox.try_send(stop());
                    continue;
                }
                Input::Overdue => return Outcome::Overdue,
                Input::Event(event) => match *event {
                    Ok(Some(event)) => event,
                    Ok(None) => return Outcome::Lost("it closed the stream".to_owned()),
                    Err(status) => return ended(status),
                },
            };
            match event.body {
                Some(Event::Exit(exit)) => return Outcome::Exit(exit),
                Some(Event::State(state)) => self.hear(&state),
                Some(Event::Greeted(_)) => self.greet(),
                Some(Event::Call(call)) => self.ask(call, outbox.clone()),
                Some(Event::Captured(captured)) => {
                    let answer = self.keep(captured);
                    // A hub that is gone has the node ask again.
                    let _ = outbox.try_send(v1::LauncherMessage { body: Some(Message::Answer(answer)) });
                }
                // The word of a newer hub: it changes nothing.
                None => {}
            }
        }
    }

    /// Tells how it is doing, and takes note of where.
    fn hear(&mut self, state: &v1::LauncherState) {
        self.whereabouts.hear(state);
        let Some(status) = &state.status else { return };
        self.wait_for_node((status.state == UNPLACED).then(|| status.reason.clone()));
        self.voice.say(&told(status, &state.node));
    }

    /// Greets the Manager, once.
    fn greet(&mut self) {
        if let Some(manager) = self.manager.clone().filter(|_| !std::mem::replace(&mut self.is_greeted, true))
        {
            self.tasks.spawn(manager.greet(self.voice.clone()));
        }
    }

    /// Keeps what the blueprint captured for its registration: the node forgets it with the answer.
    fn keep(&mut self, captured: v1::LauncherCaptured) -> v1::LauncherAnswer {
        let v1::LauncherCaptured { id, content, failure } = captured;
        let answer = |code: Code, message: String| v1::LauncherAnswer { id, code: code.into(), message };
        let Some(path) = &self.plan.registration else {
            return answer(
                Code::FailedPrecondition,
                "the launcher was not started for a registration".into(),
            );
        };
        if !failure.is_empty() {
            self.captured = Err(failure);
            return answer(Code::Ok, String::new());
        }
        match registration::write(path, &content) {
            Ok(()) => {
                self.captured = Ok(content.len());
                answer(Code::Ok, String::new())
            }
            Err(error) => {
                let why = format!("{}: {error}", path.display());
                self.voice.say(&format!("the registration inputs cannot be kept: {why}"));
                let answer = answer(Code::Unavailable, format!("the launcher cannot keep them: {why}"));
                self.captured = Err(why);
                answer
            }
        }
    }

    /// Asks the Manager, and hands its answer back.
    fn ask(&mut self, call: v1::LauncherCall, outbox: Say) {
        let v1::LauncherCall { id, request } = call;
        let (manager, here) = (self.manager.clone(), self.here);
        self.tasks.spawn(async move {
            let answer = match (manager, request.and_then(|request| request.call)) {
                (Some(manager), Some(call)) => manager.ask(call, here).await,
                (None, _) => Err(Status::unavailable("the launcher has no bridge of a Manager")),
                (_, None) => Err(Status::unimplemented("the launcher does not know this call")),
            };
            let (code, message) = match answer {
                Ok(()) => (Code::Ok, String::new()),
                Err(status) => (status.code(), status.message().to_owned()),
            };
            let answer = v1::LauncherAnswer { id, code: code.into(), message };
            // A hub that is gone told the blueprint to try again.
            let _ = outbox.send(v1::LauncherMessage { body: Some(Message::Answer(answer)) }).await;
        });
    }
}

const fn stop() -> v1::LauncherMessage {
    v1::LauncherMessage { body: Some(Message::Stop(v1::LauncherStop {})) }
}

/// What the end of a stream means.
fn ended(status: Status) -> Outcome {
    match status.code() {
        Code::FailedPrecondition => Outcome::Held(status),
        Code::AlreadyExists
        | Code::Aborted
        | Code::NotFound
        | Code::InvalidArgument
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::Unimplemented => Outcome::Refused(status),
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::OutOfRange
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => Outcome::Lost(status.message().to_owned()),
    }
}

fn told(status: &v1::WorkloadStatus, node: &str) -> String {
    let pid = status.pid.map(|pid| format!(" as process {pid}")).unwrap_or_default();
    let reason = if status.reason.is_empty() { String::new() } else { format!(": {}", status.reason) };
    let v1::WorkloadStatus { blueprint_id, service_id, state: label, .. } = status;
    let node = if node.is_empty() { String::new() } else { format!(" on node {node}") };
    format!("{blueprint_id}/{service_id} is {label}{node}{pid}{reason}")
}
