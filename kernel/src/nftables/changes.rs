//! Notices of changes, awaited.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::connection::{Error, Monitor, Notice};

struct Readable(Monitor);

impl AsRawFd for Readable {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// A [`Monitor`] in a tokio runtime.
pub struct Changes {
    monitor: AsyncFd<Readable>,
}

impl Changes {
    /// Starts to listen, in the calling thread's network namespace. Needs a tokio runtime.
    pub fn open() -> Result<Self, Error> {
        let monitor = Readable(Monitor::open()?);
        // SAFETY: the monitor owns its socket for as long as it lives and never replaces it.
        let monitor = unsafe { AsyncFd::register_with_interest(monitor, Interest::READABLE) }
            .map_err(|error| Error::Open(io::Error::from(error)))?;
        Ok(Self { monitor })
    }

    /// The next changes, at least one.
    pub async fn next(&mut self) -> Result<Vec<Notice>, Error> {
        loop {
            let mut guard = self.monitor.readable_mut().await.map_err(Error::Talk)?;
            let notices = guard.get_inner_mut().0.changes()?;
            // All that was there is read; a notice since then makes the socket readable again.
            guard.clear_ready();
            if !notices.is_empty() {
                return Ok(notices);
            }
        }
    }
}
