//! Stands between a launcher and its hub, and breaks their connections.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Builder;

use anyhow::Result;

/// A socket behind which another one is; it is served until the test process ends.
pub(super) struct Relay {
    open: Arc<Mutex<Vec<UnixStream>>>,
}

impl Relay {
    /// Listens at `here` and goes on to `there`.
    pub(super) fn start(here: &Path, there: &Path) -> Result<Self> {
        let (listener, there) = (UnixListener::bind(here)?, there.to_owned());
        let open = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&open);
        Builder::new().name("relay".to_owned()).spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = UnixStream::connect(&there) else { continue };
                let _ = join(near, far, &kept);
            }
        })?;
        Ok(Self { open })
    }

    /// Breaks every connection that is open, and says how many those were; new ones are taken.
    pub(super) fn cut(&self) -> usize {
        let open = std::mem::take(&mut *self.open.lock().unwrap_or_else(PoisonError::into_inner));
        open.iter().filter(|stream| stream.shutdown(Shutdown::Both).is_ok()).count()
    }
}

fn join(near: UnixStream, far: UnixStream, kept: &Mutex<Vec<UnixStream>>) -> io::Result<()> {
    kept.lock().unwrap_or_else(PoisonError::into_inner).extend([near.try_clone()?, far.try_clone()?]);
    for (mut from, mut to) in [(near.try_clone()?, far.try_clone()?), (far, near)] {
        Builder::new().name("relay".to_owned()).spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        })?;
    }
    Ok(())
}
