//! What a way into the kernel must be able to do.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use crate::model::{ServiceKey, ServicePicture};
use crate::picture::Changes;

/// All Services, as they are to be in the kernel.
pub type Pictures = BTreeMap<ServiceKey, Arc<ServicePicture>>;

/// Everything that is to be in the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    pub services: Pictures,
    /// Where cluster IPs come from.
    pub service_cidrs: Vec<IpNetwork>,
}

/// Why the kernel could not be changed or read. All of it can be tried again.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    #[error(transparent)]
    Iptables(#[from] kernel::iptables::Error),
    #[error(transparent)]
    Nftables(#[from] kernel::nftables::Error),
    #[error(transparent)]
    Sysctl(#[from] kernel::sysctl::Error),
    #[error(transparent)]
    Ipvs(#[from] kernel::ipvs::Error),
    #[error(transparent)]
    Netlink(#[from] kernel::netlink::Error),
}

/// What became of a batch: Services that the kernel refused, with what it said. Everything
/// else is in the kernel.
#[derive(Debug, Default)]
pub struct Outcome {
    pub failed: BTreeMap<ServiceKey, String>,
    /// Somebody else had changed what was written, which nobody has been told yet. After
    /// [`Backend::apply`] everything has to be written anew.
    pub foreign: bool,
}

/// One way of bringing the picture into the kernel. All calls block.
pub trait Backend: Send {
    /// Writes everything, over whatever is there. Working rules stay until they are replaced.
    fn resync(&mut self, desired: &Desired) -> Result<Outcome, BackendError>;

    /// Writes what changed since the last call that succeeded. After a failure the kernel may
    /// not be what it was taken for: then everything has to be written anew.
    fn apply(&mut self, changes: &Changes) -> Result<Outcome, BackendError>;

    /// Whether the kernel still holds what was written. Cheap where nothing has changed.
    fn intact(&mut self) -> Result<bool, BackendError>;

    /// Another backend has taken over: gives up at once what would get in its way, takes no
    /// new connections, and removes everything when the established ones have ended. Answers
    /// with whether nothing is left; is called again until then.
    fn retire(&mut self) -> Result<bool, BackendError> {
        self.cleanup().map(|()| true)
    }

    /// Removes everything of this backend.
    fn cleanup(&mut self) -> Result<(), BackendError>;
}
