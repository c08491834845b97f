//! What can go wrong between us and the kernel.

use std::io;

use nix::errno::Errno;

/// A failed exchange with the kernel. The text names the operation and the object.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No socket: the process lacks the right, or the kernel lacks the protocol.
    #[error("cannot open a netlink socket of protocol {protocol}: {source}")]
    Open { protocol: isize, source: io::Error },
    /// The kernel answered the request with an error. Whether a retry helps depends on
    /// [`Error::errno`].
    #[error("cannot {operation} {object}: {errno}{}", explain(.message))]
    Refused {
        operation: &'static str,
        object: String,
        errno: Errno,
        message: Option<String>,
    },
    /// The request did not reach the kernel.
    #[error("cannot {operation} {object}: sending failed: {source}")]
    Send {
        operation: &'static str,
        object: String,
        source: io::Error,
    },
    /// The answer did not reach us; whether the request took effect is not known. Read the
    /// state again and plan anew.
    #[error("cannot {operation} {object}: no answer: {source}")]
    Receive {
        operation: &'static str,
        object: String,
        source: io::Error,
    },
    /// The kernel's state changed during each of many attempts to read it. Retryable.
    #[error("cannot {operation} {object}: the state kept changing while it was read")]
    Interrupted {
        operation: &'static str,
        object: String,
    },
    /// The kernel answered with bytes that are no netlink message.
    #[error("cannot {operation} {object}: the answer cannot be read: {reason}")]
    Decode {
        operation: &'static str,
        object: String,
        reason: String,
    },
}

fn explain(message: &Option<String>) -> String {
    message
        .as_ref()
        .map(|text| format!(" ({text})"))
        .unwrap_or_default()
}

impl Error {
    /// The kernel's error number, where it answered with one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::Open { source, .. }
            | Self::Send { source, .. }
            | Self::Receive { source, .. } => source.raw_os_error().map(Errno::from_raw),
            Self::Interrupted { .. } | Self::Decode { .. } => None,
        }
    }

    /// The object to change or delete is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(
            self.errno(),
            Some(
                Errno::ENOENT | Errno::ESRCH | Errno::ENODEV | Errno::EADDRNOTAVAIL | Errno::ENXIO
            )
        )
    }

    /// The object to create is there already.
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(Errno::EEXIST)
    }
}

/// Makes a second deletion of the same object a success.
pub fn ignore_not_found(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}
