//! What this program writes: its own words and the lines of the blueprint, in one order, by a thread of their own.
//!
//! A Manager that does not read holds up this thread, and with it the lines, which are waited for. The launcher itself
//! goes on: its own words are left out then, and counted.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use blueprint_common_runtime::cli::{eprint_raw, print_raw};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout;

/// Own words that wait; more are left out.
const WORDS: usize = 64;

/// Texts of the blueprint that wait, of about 40 KiB at most each; more are waited for.
const TEXTS: usize = 4;

/// Where something is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Out,
    Err,
}

enum Message {
    Word(String),
    Text(Stream, String, OwnedSemaphorePermit),
    /// Told once everything before it is written.
    Mark(oneshot::Sender<()>, OwnedSemaphorePermit),
}

/// Room for one text.
#[derive(Debug)]
pub(crate) struct Room(OwnedSemaphorePermit);

/// Access to the thread; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Voice {
    queue: mpsc::Sender<Message>,
    texts: Arc<Semaphore>,
    /// Own words that were left out and not told of yet.
    left_out: Arc<AtomicU64>,
}

impl Voice {
    /// Starts the thread; it ends with the last of its handles, or with the process where nobody reads.
    pub(crate) fn start() -> io::Result<Self> {
        Self::start_with(|stream, text| match stream {
            Stream::Out => print_raw(text),
            Stream::Err => eprint_raw(text),
        })
    }

    fn start_with(write: impl FnMut(Stream, &str) + Send + 'static) -> io::Result<Self> {
        let (queue, messages) = mpsc::channel(WORDS.saturating_add(TEXTS));
        thread::Builder::new().name("voice".to_owned()).spawn(move || speak(messages, write))?;
        Ok(Self { queue, texts: Arc::new(Semaphore::new(TEXTS)), left_out: Arc::default() })
    }

    /// Says one line to whoever reads the Manager's log.
    pub(crate) fn say(&self, text: &str) {
        let left_out = self.left_out.swap(0, Ordering::Relaxed);
        let before = if left_out == 0 {
            String::new()
        } else {
            format!("blueprint-launcher: {left_out} lines were left out here, nobody read them\n")
        };
        // Places for texts stay free: words are as many as are not texts at most.
        let has_room = self.queue.capacity() > self.texts.available_permits();
        let word = Message::Word(format!("{before}blueprint-launcher: {text}\n"));
        if !has_room || self.queue.try_send(word).is_err() {
            self.left_out.fetch_add(left_out.saturating_add(1), Ordering::Relaxed);
        }
    }

    /// Waits until a text may be written.
    ///
    /// # Cancel safety
    ///
    /// Dropping it takes no room.
    pub(crate) async fn room(&self) -> Option<Room> {
        Arc::clone(&self.texts).acquire_owned().await.ok().map(Room)
    }

    /// Writes a text behind everything that was said before.
    pub(crate) fn write(&self, room: Room, stream: Stream, text: String) {
        // There is room, and the thread lives as long as this.
        let _ = self.queue.try_send(Message::Text(stream, text, room.0));
    }

    /// Waits until everything is written; false where that takes longer.
    pub(crate) async fn settle(&self, within: Duration) -> bool {
        let settled = async {
            let room = self.room().await?;
            let (mark, reached) = oneshot::channel();
            self.queue.try_send(Message::Mark(mark, room.0)).ok()?;
            reached.await.ok()
        };
        timeout(within, settled).await.ok().flatten().is_some()
    }
}

fn speak(mut messages: mpsc::Receiver<Message>, mut write: impl FnMut(Stream, &str)) {
    while let Some(message) = messages.blocking_recv() {
        match message {
            Message::Word(text) => write(Stream::Err, &text),
            Message::Text(stream, text, _room) => write(stream, &text),
            Message::Mark(mark, _room) => {
                // Whoever waited may have given up.
                let _ = mark.send(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[tokio::test]
    async fn a_reader_that_is_stuck_holds_up_the_lines_and_nothing_else() {
        let (gate, opened) = sync_channel::<()>(0);
        let (sender, written) = std::sync::mpsc::channel();
        let voice = Voice::start_with(move |stream, text| {
            let _ = opened.recv();
            let _ = sender.send((stream, text.to_owned()));
        })
        .unwrap();
        voice.say("first");
        for number in 0..TEXTS {
            let room = voice.room().await.unwrap();
            voice.write(room, Stream::Out, format!("line {number}\n"));
        }
        let short = Duration::from_millis(50);
        assert!(timeout(short, voice.room()).await.is_err(), "the next line waits");
        for _ in 0..WORDS + 10 {
            voice.say("again");
        }
        assert!(!voice.settle(short).await);
        let left_out = voice.left_out.load(Ordering::Relaxed);
        assert!((10..=12).contains(&left_out), "{left_out}");

        drop(gate);
        assert!(voice.settle(Duration::from_secs(5)).await);
        voice.say("last");
        assert!(voice.settle(Duration::from_secs(5)).await);
        let all: Vec<(Stream, String)> = written.try_iter().collect();
        assert_eq!(all.first().unwrap(), &(Stream::Err, "blueprint-launcher: first\n".to_owned()));
        let lines: Vec<_> = all.iter().filter(|(stream, _)| *stream == Stream::Out).collect();
        assert_eq!(lines.len(), TEXTS);
        let last = &all.last().unwrap().1;
        assert!(last.contains(&format!("{left_out} lines were left out")), "{last}");
    }
}
