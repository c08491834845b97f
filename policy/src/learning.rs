//! What the cluster DNS answers becomes peers of rules that name domains; kept across a restart,
//! since clients keep the answers too.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;

use crate::index::{Index, Learnt};

/// An answer of the cluster DNS: the name that was asked for, its addresses with their time to live,
/// and who waits until they are in the kernel.
pub type Answered = (String, Vec<(IpAddr, Duration)>, oneshot::Sender<()>);

/// A file with what is learnt.
pub(crate) struct Memory {
    path: PathBuf,
    written: Learnt,
}

impl Memory {
    /// What is there; nothing if it was cut off: then names are asked for again.
    pub(crate) fn open(path: &Path) -> Self {
        let learnt = std::fs::read(path).ok();
        let learnt = learnt.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Self {
            path: path.to_owned(),
            written: learnt.unwrap_or_default(),
        }
    }

    pub(crate) fn learnt(&self) -> Learnt {
        self.written.clone()
    }

    pub(crate) fn keep(&mut self, learnt: &Learnt) -> io::Result<()> {
        if self.written == *learnt {
            return Ok(());
        }
        let new = self.path.with_extension("new");
        std::fs::write(&new, serde_json::to_vec(learnt)?)?;
        std::fs::rename(new, &self.path)?;
        self.written = learnt.clone();
        Ok(())
    }
}

/// How long until a lease may have ended.
pub(crate) fn until_next_end(index: &Index, now: SystemTime) -> Duration {
    const LONGEST: Duration = Duration::from_secs(3600);
    let next = index.learnt().next_end();
    next.map_or(LONGEST, |end| end.duration_since(now).unwrap_or_default())
}
