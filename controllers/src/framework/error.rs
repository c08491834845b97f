//! What can go wrong in a sync. Every variant is retried with back-off by the runtime.

use kube::core::Status;

/// A failed sync. The runtime logs it and tries the key again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused a request or was not reached.
    #[error("{action} {object}: {source}")]
    Api {
        action: &'static str,
        object: String,
        #[source]
        source: Box<kube::Error>,
    },
    /// An object that a controller read has a field it cannot work with.
    #[error("{object}: {field} is invalid: {reason}")]
    Invalid {
        object: String,
        field: &'static str,
        reason: String,
    },
    /// A value did not become JSON.
    #[error("encoding {object}")]
    Encode {
        object: String,
        #[source]
        source: serde_json::Error,
    },
    /// A certificate could not be made.
    #[error("signing {object}: {reason}")]
    Sign { object: String, reason: String },
}

impl Error {
    fn status(&self) -> Option<&Status> {
        match self {
            Error::Api { source, .. } => api_status(source),
            _ => None,
        }
    }

    pub fn is_not_found(&self) -> bool {
        self.status().is_some_and(|status| status.code == 404)
    }

    pub fn is_already_exists(&self) -> bool {
        self.status().is_some_and(Status::is_already_exists)
    }

    /// The object changed since it was read; a retry sees the newer one.
    pub fn is_conflict(&self) -> bool {
        self.status()
            .is_some_and(|status| status.code == 409 && !status.is_already_exists())
    }

    pub fn is_forbidden(&self) -> bool {
        self.status().is_some_and(|status| status.code == 403)
    }

    /// The namespace is being deleted, so that nothing can be made in it.
    pub fn is_namespace_terminating(&self) -> bool {
        self.status().is_some_and(|status| {
            let causes = status
                .details
                .as_ref()
                .map(|details| details.causes.as_slice());
            status.code == 403
                && (causes
                    .unwrap_or_default()
                    .iter()
                    .any(|cause| cause.reason == "NamespaceTerminating")
                    || status.message.contains("because it is being terminated"))
        })
    }

    /// What the API server said, or the whole error.
    pub fn message(&self) -> String {
        match self.status() {
            Some(status) => status.message.clone(),
            None => self.to_string(),
        }
    }
}

/// The Status object behind a client error, if the server sent one.
pub fn api_status(error: &kube::Error) -> Option<&Status> {
    match error {
        kube::Error::Api(status) => Some(status),
        _ => None,
    }
}

/// Names the failed operation in errors of the client.
pub trait During<T> {
    fn during(self, action: &'static str, object: impl std::fmt::Display) -> Result<T, Error>;
}

impl<T> During<T> for Result<T, kube::Error> {
    fn during(self, action: &'static str, object: impl std::fmt::Display) -> Result<T, Error> {
        self.map_err(|source| Error::Api {
            action,
            object: object.to_string(),
            source: Box::new(source),
        })
    }
}

/// Turns answers that mean "somebody was faster" into success.
pub trait Tolerate<T> {
    /// None where the object is not there (any more).
    fn unless_gone(self) -> Result<Option<T>, Error>;
}

impl<T> Tolerate<T> for Result<T, Error> {
    fn unless_gone(self) -> Result<Option<T>, Error> {
        match self {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}
