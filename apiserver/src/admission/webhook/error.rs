//! Why a call to a webhook did not come to an answer, in upstream's words.

use serde_json::Value;

use crate::response::ApiError;

/// A call that failed; whether that matters is up to the failure policy.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error("failed to call webhook: {0}")]
    Request(String),
    #[error("received invalid webhook response: {0}")]
    Response(String),
    #[error("unsupported patch type {0:?}")]
    PatchType(String),
}

impl CallError {
    /// What the client is told when the webhook may not be passed over.
    pub(super) fn refusal(&self, webhook: &str) -> ApiError {
        ApiError::internal(self.describe(webhook))
    }

    pub(super) fn describe(&self, webhook: &str) -> String {
        format!("failed calling webhook {webhook:?}: {self}")
    }
}

/// The refusal of a webhook: its own Status, with its name before the message.
pub(super) fn denied(webhook: &str, status: &Value) -> ApiError {
    let by = format!("admission webhook {webhook:?} denied the request");
    let text = |field: &str| status[field].as_str().unwrap_or_default();
    let message = match (text("message"), text("reason")) {
        ("", "") => format!("{by} without explanation"),
        ("", reason) => format!("{by}: {reason}"),
        (message, _) => format!("{by}: {message}"),
    };
    let code = status["code"]
        .as_u64()
        .and_then(|c| u16::try_from(c).ok())
        .filter(|code| (400..600).contains(code))
        .unwrap_or(400);
    ApiError::told(
        code,
        text("reason").to_owned(),
        message,
        status.get("details"),
    )
}
