//! Errors as the specification wants them on standard output.

use serde::{Deserialize, Serialize};

use crate::version::Version;

/// The codes of the specification (below 100) and the plugin's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Code {
    IncompatibleVersion = 1,
    UnsupportedField = 2,
    UnknownContainer = 3,
    InvalidEnvironment = 4,
    Io = 5,
    Decode = 6,
    InvalidConfig = 7,
    TryAgain = 11,
    NotAvailable = 50,
    LimitedConnectivity = 51,
    /// No address is left in a range.
    Exhausted = 100,
    /// The address asked for belongs to somebody else, or is in no range.
    AddressUnavailable = 101,
    /// CHECK found something that is not as ADD left it.
    CheckFailed = 102,
    /// The kernel refused a change.
    Kernel = 103,
    /// The delegated plugin failed.
    Delegate = 104,
    /// The interface is there already.
    InterfaceExists = 105,
    /// A host port is taken.
    PortTaken = 106,
}

/// What a failed invocation says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}{}", details.as_ref().map(|text| format!(": {text}")).unwrap_or_default())]
pub struct Error {
    pub code: u32,
    pub message: String,
    pub details: Option<String>,
}

/// The error object of the specification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorObject {
    #[serde(
        rename = "cniVersion",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub cni_version: Option<String>,
    pub code: u32,
    pub msg: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<String>,
}

impl Error {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code: code as u32,
            message: message.into(),
            details: None,
        }
    }

    pub fn with_details(mut self, details: impl ToString) -> Self {
        self.details = Some(details.to_string());
        self
    }

    pub fn io(what: impl Into<String>, error: &std::io::Error) -> Self {
        Self::new(Code::Io, what).with_details(error)
    }

    pub fn kernel(what: impl Into<String>, error: impl ToString) -> Self {
        Self::new(Code::Kernel, what).with_details(error)
    }

    pub fn is(&self, code: Code) -> bool {
        self.code == code as u32
    }

    pub fn object(&self, version: Version) -> ErrorObject {
        ErrorObject {
            cni_version: Some(version.to_string()),
            code: self.code,
            msg: self.message.clone(),
            details: self.details.clone(),
        }
    }
}

/// All errors as one: the first one's code, everybody's words.
pub fn join(mut errors: Vec<Error>) -> Result<(), Error> {
    if errors.len() < 2 {
        return errors.pop().map_or(Ok(()), Err);
    }
    let code = errors[0].code;
    let all: Vec<String> = errors.iter().map(Error::to_string).collect();
    let message = format!("{} things failed", errors.len());
    Err(Error {
        code,
        message,
        details: Some(all.join("; ")),
    })
}
