use tonic::{Code, Status};

/// A call to the runtime that failed. `Unreachable` and `Deadline` are worth a retry.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The runtime's socket does not answer.
    #[error("the container runtime at {socket} does not answer {call}: {reason}")]
    Unreachable {
        socket: String,
        call: &'static str,
        reason: String,
    },
    /// The runtime did not answer in time.
    #[error("the container runtime did not finish {call} in time")]
    Deadline { call: &'static str },
    /// The runtime knows no such object.
    #[error("{call}: {message}")]
    NotFound { call: &'static str, message: String },
    /// The runtime is too old for the call.
    #[error("the container runtime has no {call}")]
    Unimplemented { call: &'static str },
    /// The runtime refused or failed.
    #[error("{message}")]
    Failed {
        call: &'static str,
        code: Code,
        message: String,
    },
}

impl Error {
    pub(crate) fn from_status(socket: &str, call: &'static str, status: &Status) -> Self {
        let message = status.message().to_owned();
        match status.code() {
            Code::NotFound => Self::NotFound { call, message },
            Code::Unimplemented => Self::Unimplemented { call },
            Code::DeadlineExceeded => Self::Deadline { call },
            Code::Unavailable => Self::Unreachable {
                socket: socket.to_owned(),
                call,
                reason: message,
            },
            code => Self::Failed {
                call,
                code,
                message,
            },
        }
    }

    /// Whether the object that the call named is unknown to the runtime.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether the runtime itself is away, rather than the call being wrong.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}
