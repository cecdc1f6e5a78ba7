//! What the blueprint writes, from the node that runs it to this program's own standard output and error.
//!
//! A line that was written here is known by its cursor, one for each node; whatever breaks off, reading goes on behind it.
//! It has a connection of its own, since a Manager that does not read holds up what is on it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use blueprint_common_types::ServiceKey;
use blueprint_proto::v1;
use blueprint_proto::v1::launcher_client::LauncherClient;
use tokio::sync::{oneshot, watch};
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};

use crate::socket;
use crate::voice::{Stream, Voice};

/// First and longest pause before it is asked again.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// A node that is silent for so long is gone; it says every five seconds that it is there.
const SILENCE: Duration = Duration::from_secs(30);

/// What is wrong for less than this is not told.
const QUIET: Duration = Duration::from_secs(5);

/// How long a node that lost the blueprint may take to give its last lines, before those of the next one come.
const LEFT_WITHIN: Duration = Duration::from_secs(2);

/// How long the last lines may take at the end.
pub(crate) const LAST_WITHIN: Duration = Duration::from_secs(5);

/// Nodes whose last line is known at most.
const MAX_NODES: usize = 64;

/// Where the blueprint is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// Id of its node; empty while it had none.
    node: String,
    /// Its first assignment.
    generation: u64,
    /// It has ended: what is there is all.
    is_over: bool,
}

/// Tells where the blueprint is.
#[derive(Debug)]
pub(crate) struct Whereabouts {
    place: watch::Sender<Place>,
    /// Closed once everything was given.
    done: oneshot::Receiver<()>,
}

impl Whereabouts {
    /// Hears what the hub says of it.
    pub(crate) fn hear(&self, state: &v1::LauncherState) {
        let generation = state.status.as_ref().map_or(0, |status| status.generation);
        self.place.send_if_modified(|place| {
            let before = place.clone();
            if place.generation == 0 {
                place.generation = generation;
            }
            if !state.node.is_empty() {
                place.node.clone_from(&state.node);
            }
            *place != before
        });
    }

    /// The blueprint has ended: waits for its last lines; false where they do not come in time.
    pub(crate) async fn finish(&mut self) -> bool {
        self.place.send_modify(|place| place.is_over = true);
        timeout(LAST_WITHIN, &mut self.done).await.is_ok()
    }

    /// Id of the node that runs it, or did last; empty while it had none.
    pub(crate) fn node(&self) -> String {
        self.place.borrow().node.clone()
    }
}

/// Reads on from line to line.
#[derive(Debug)]
pub(crate) struct Output {
    hub: PathBuf,
    service: ServiceKey,
    launcher: String,
    voice: Voice,
    place: watch::Receiver<Place>,
    /// The last line that was written here, by node.
    cursors: BTreeMap<String, v1::LogCursor>,
    /// Since when something is wrong, and what was told of it.
    trouble: Option<(Instant, String)>,
    /// Dropped at its end.
    _done: oneshot::Sender<()>,
}

impl Output {
    pub(crate) fn new(
        hub: PathBuf,
        service: ServiceKey,
        launcher: String,
        voice: Voice,
    ) -> (Self, Whereabouts) {
        let (sender, place) = watch::channel(Place::default());
        let (done, is_done) = oneshot::channel();
        let (cursors, trouble) = (BTreeMap::new(), None);
        let output = Self { hub, service, launcher, voice, place, cursors, trouble, _done: done };
        (output, Whereabouts { place: sender, done: is_done })
    }

    /// Runs until the blueprint has ended and its last line is given.
    pub(crate) async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        let mut place = self.place.borrow_and_update().clone();
        loop {
            let mut changes = self.place.clone();
            let read = async {
                if place.node.is_empty() && !place.is_over {
                    std::future::pending().await
                } else {
                    self.read(&place).await
                }
            };
            // Dropping it between two texts loses none: each is taken together with its cursor.
            let read = tokio::select! {
                biased;
                changed = changes.wait_for(|now| *now != place) => match changed {
                    Ok(now) => Err(now.clone()),
                    Err(_) => return,
                },
                read = read => Ok(read),
            };
            match read {
                Err(now) => {
                    let has_moved = now.node != place.node && !place.node.is_empty();
                    if has_moved {
                        let left = Place { is_over: true, ..place };
                        // A node that is away keeps them.
                        let _ = timeout(LEFT_WITHIN, self.read(&left)).await;
                    }
                    (place, pause) = (now, FIRST_PAUSE);
                    continue;
                }
                Ok(Ok(())) if place.is_over => return,
                Ok(Ok(())) => {}
                Ok(Err(status)) if status.code() == Code::Unimplemented => {
                    self.voice.say(
                        "this hub is older than its launcher and gives no output of blueprints: update it",
                    );
                    return;
                }
                Ok(Err(status)) => self.tell(status.message()),
            }
            let mut changes = self.place.clone();
            tokio::select! {
                biased;
                _ = changes.wait_for(|now| *now != place) => {}
                () = sleep(pause) => {}
            }
            pause =
                if self.trouble.is_some() { pause.saturating_mul(2).min(LONGEST_PAUSE) } else { FIRST_PAUSE };
        }
    }

    /// Tells what keeps lines from coming, once it lasts.
    fn tell(&mut self, why: &str) {
        let (since, told) = self.trouble.get_or_insert_with(|| (Instant::now(), String::new()));
        if since.elapsed() >= QUIET && told != why {
            *told = why.to_owned();
            self.voice.say(&format!("no output of the blueprint: {why}; it goes on behind the last line"));
        }
    }

    /// Reads one answer to its end.
    async fn read(&mut self, place: &Place) -> Result<(), Status> {
        if place.node.is_empty() {
            return Ok(());
        }
        let channel = socket::channel(&self.hub).await.map_err(Status::unavailable)?;
        let asked = v1::LauncherLogs {
            blueprint_id: self.service.blueprint,
            service_id: self.service.service,
            launcher: self.launcher.clone(),
            node: place.node.clone(),
            generation: place.generation,
            after: self.cursors.get(&place.node).copied(),
            follow: !place.is_over,
        };
        let mut pieces = LauncherClient::new(channel).logs(asked).await?.into_inner();
        loop {
            let piece = timeout(SILENCE, pieces.message()).await;
            let piece = piece.map_err(|_| Status::unavailable("its node is silent"))??;
            let piece = piece.ok_or_else(|| Status::unavailable("the hub ended it"))?;
            self.trouble = None;
            let is_last = piece.is_last;
            self.take(&place.node, piece).await;
            if is_last {
                return Ok(());
            }
        }
    }

    async fn take(&mut self, node: &str, piece: v1::LogPiece) {
        let v1::LogPiece { ring, lines, missed, reached, .. } = piece;
        if missed > 0 {
            self.voice.say(&format!(
                "{missed} lines of the blueprint were gone before they could be read; workload.log_bytes of its node says how much is kept"
            ));
        }
        let mut rest = lines.as_slice();
        while let Some(first) = rest.first() {
            let count = rest.iter().take_while(|line| line.stream == first.stream).count();
            let (run, next) = rest.split_at(count);
            let seq = run.last().map_or(first.seq, |line| line.seq);
            let Some(room) = self.voice.room().await else { return };
            self.voice.write(room, stream(first), run.iter().map(shown).collect());
            self.keep(node, v1::LogCursor { ring, seq });
            rest = next;
        }
        if let Some(seq) = reached {
            self.keep(node, v1::LogCursor { ring, seq });
        }
    }

    fn keep(&mut self, node: &str, cursor: v1::LogCursor) {
        if !self.cursors.contains_key(node) && self.cursors.len() >= MAX_NODES {
            self.cursors.pop_first();
        }
        self.cursors.insert(node.to_owned(), cursor);
    }
}

fn stream(line: &v1::LogLine) -> Stream {
    match line.stream() {
        v1::LogStream::Stdout => Stream::Out,
        v1::LogStream::Stderr | v1::LogStream::Node | v1::LogStream::Unspecified => Stream::Err,
    }
}

/// A line as it is written here. Colours stay; nothing else of it steers a terminal, or looks like another line.
fn shown(line: &v1::LogLine) -> String {
    let mut text = String::with_capacity(line.text.len().saturating_add(1));
    if line.stream() == v1::LogStream::Node {
        text.push_str("blueprint-launcher: its node says: ");
    }
    let mut rest = line.text.as_str();
    while let Some(next) = rest.chars().next() {
        let taken = match colour(rest) {
            Some(length) => rest.get(..length).unwrap_or_default(),
            None => rest.get(..next.len_utf8()).unwrap_or_default(),
        };
        if taken.len() > next.len_utf8() || next == '\t' || !next.is_control() {
            text.push_str(taken);
        } else {
            text.push(char::REPLACEMENT_CHARACTER);
        }
        rest = rest.get(taken.len()..).unwrap_or_default();
    }
    if !line.goes_on {
        text.push('\n');
    }
    text
}

/// How long the sequence is that a text begins with, if it sets colours and nothing else.
fn colour(text: &str) -> Option<usize> {
    let rest = text.strip_prefix("\u{1b}[")?;
    let length = rest.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    rest.get(length..)?.starts_with('m').then_some(length.saturating_add(3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_keeps_its_colours_and_steers_nothing_else() {
        let line = |text: &str, stream: v1::LogStream, goes_on| v1::LogLine {
            text: text.to_owned(),
            stream: stream.into(),
            goes_on,
            ..v1::LogLine::default()
        };
        let out = |text: &str| shown(&line(text, v1::LogStream::Stdout, false));
        assert_eq!(out("\u{1b}[1;32mok\u{1b}[m\ta"), "\u{1b}[1;32mok\u{1b}[m\ta\n");
        assert_eq!(out("a\u{1b}[2Jb\rc\nd\u{1b}[1"), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}d\u{fffd}[1\n");
        assert_eq!(shown(&line("half", v1::LogStream::Stdout, true)), "half");
        let node = shown(&line("3 lines left out", v1::LogStream::Node, false));
        assert_eq!(node, "blueprint-launcher: its node says: 3 lines left out\n");
    }
}
