//! The `Status` object: every error that a client sees, as upstream words it.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// One cause in a Status.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cause {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

impl Cause {
    pub fn new(
        reason: impl Into<String>,
        message: impl Into<String>,
        field: impl Into<String>,
    ) -> Self {
        Cause {
            reason: reason.into(),
            message: message.into(),
            field: field.into(),
        }
    }
}

/// What a Status is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Details {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    #[serde(skip_serializing_if = "is_zero")]
    pub retry_after_seconds: u32,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// A refusal or failure of a request, with everything that its Status says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError(Box<Parts>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Parts {
    /// Of the Status' metadata.
    continue_token: String,
    code: u16,
    reason: Cow<'static, str>,
    message: String,
    details: Option<Details>,
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for ApiError {}

impl ApiError {
    /// Any Status; the named constructors below are what code should use.
    pub fn new(
        code: u16,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
        details: Option<Details>,
    ) -> Self {
        ApiError(Box::new(Parts {
            continue_token: String::new(),
            code,
            reason: reason.into(),
            message: message.into(),
            details,
        }))
    }

    /// The Status of somebody else, such as a webhook.
    pub fn told(
        code: u16,
        reason: String,
        message: String,
        details: Option<&serde_json::Value>,
    ) -> Self {
        let details = details.and_then(|d| serde_json::from_value(d.clone()).ok());
        Self::new(code, reason, message, details)
    }

    pub fn code(&self) -> u16 {
        self.0.code
    }

    pub fn reason(&self) -> &str {
        &self.0.reason
    }

    pub fn message(&self) -> &str {
        &self.0.message
    }

    pub fn details(&self) -> Option<&Details> {
        self.0.details.as_ref()
    }

    pub fn is_not_found(&self) -> bool {
        self.0.code == 404
    }

    pub fn is_conflict(&self) -> bool {
        self.0.reason == "Conflict"
    }

    pub fn retry_after(&self) -> Option<u32> {
        self.0
            .details
            .as_ref()
            .map(|d| d.retry_after_seconds)
            .filter(|s| *s > 0)
    }

    /// The same error with another message.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        self.0.message = message.into();
        self
    }

    /// The same error with a further cause.
    #[must_use]
    pub fn with_cause(mut self, cause: Cause) -> Self {
        self.0.details.get_or_insert_default().causes.push(cause);
        self
    }

    /// The Status as a JSON tree.
    pub fn to_value(&self) -> serde_json::Value {
        let mut status = serde_json::json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.0.message,
            "code": self.0.code,
        });
        if !self.0.continue_token.is_empty() {
            status["metadata"]["continue"] = self.0.continue_token.as_str().into();
        }
        if !self.0.reason.is_empty() {
            status["reason"] = self.0.reason.as_ref().into();
        }
        if let Some(details) = &self.0.details {
            status["details"] = serde_json::to_value(details).unwrap_or_default();
        }
        status
    }

    fn about(group: &str, kind: &str, name: &str) -> Details {
        Details {
            name: name.into(),
            group: group.into(),
            kind: kind.into(),
            ..Details::default()
        }
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message, None)
    }

    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized", None)
    }

    /// `qualified` of `resource` is what people read: `deployments.apps`.
    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let message = if resource.is_empty() {
            format!("forbidden: {why}")
        } else {
            format!(
                "{} {name:?} is forbidden: {why}",
                qualified(group, resource)
            )
        };
        Self::new(
            403,
            "Forbidden",
            message,
            Some(Self::about(group, resource, name)),
        )
    }

    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {name:?} not found", qualified(group, resource));
        Self::new(
            404,
            "NotFound",
            message,
            Some(Self::about(group, resource, name)),
        )
    }

    /// No such resource or subresource in a group version that exists.
    pub fn no_such_resource() -> Self {
        let message = "the server could not find the requested resource";
        Self::new(404, "NotFound", message, Some(Details::default()))
    }

    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(405, "MethodNotAllowed", message, Some(Details::default()))
    }

    /// A verb that the resource does not have although its path exists.
    pub fn verb_not_supported(group: &str, resource: &str, verb: &str) -> Self {
        let message = format!(
            "{verb} is not supported on resources of kind {:?}",
            qualified(group, resource)
        );
        Self::new(
            405,
            "MethodNotAllowed",
            message,
            Some(Self::about(group, resource, "")),
        )
    }

    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let message = format!(
            "406: Not Acceptable\n\nAvailable representations: {}",
            accepted.join(", ")
        );
        Self::new(406, "NotAcceptable", message, Some(Details::default()))
    }

    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::new(415, "UnsupportedMediaType", message, None)
    }

    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", qualified(group, resource));
        Self::new(
            409,
            "AlreadyExists",
            message,
            Some(Self::about(group, resource, name)),
        )
    }

    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {name:?}: {why}",
            qualified(group, resource)
        );
        Self::new(
            409,
            "Conflict",
            message,
            Some(Self::about(group, resource, name)),
        )
    }

    /// The object's resourceVersion is not the newest one.
    pub fn stale(group: &str, resource: &str, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(group, resource, name, why)
    }

    /// Validation found faults: one cause each.
    pub fn invalid(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Self {
        let mut texts: Vec<String> = Vec::new();
        for cause in &causes {
            let text = format!("{}: {}", cause.field, cause.message);
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        let list = match texts.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let message = format!("{} {name:?} is invalid: {list}", qualified(group, kind));
        let details = Details {
            causes,
            ..Self::about(group, kind, name)
        };
        Self::new(422, "Invalid", message, Some(details))
    }

    /// A patch that cannot be applied, without a word on why (upstream's wording).
    pub fn unprocessable() -> Self {
        let message = "the server rejected our request due to an error in our request";
        Self::new(422, "Invalid", message, Some(Details::default()))
    }

    pub fn gone(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message, None)
    }

    /// The snapshot of a chunked list is compacted; `token` goes on with the newest state.
    pub fn expired_continue(token: String) -> Self {
        let mut error = Self::gone(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
        );
        error.0.continue_token = token;
        error
    }

    pub fn too_large() -> Self {
        let message = format!("limit is {}", crate::MAX_BODY);
        let message = format!("Request entity is too large: {message}");
        Self::new(413, "RequestEntityTooLarge", message, None)
    }

    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let details = Details {
            retry_after_seconds,
            ..Details::default()
        };
        Self::new(429, "TooManyRequests", message, Some(details))
    }

    pub fn too_large_resource_version(requested: u64, current: u64) -> Self {
        let message =
            format!("Timeout: Too large resource version: {requested}, current: {current}");
        let details = Details {
            causes: vec![Cause::new(
                "ResourceVersionTooLarge",
                "Too large resource version",
                "",
            )],
            retry_after_seconds: 1,
            ..Details::default()
        };
        Self::new(504, "Timeout", message, Some(details))
    }

    pub fn internal(message: impl std::fmt::Display) -> Self {
        let message = format!("Internal error occurred: {message}");
        let details = Details {
            causes: vec![Cause::new(
                "",
                message.trim_start_matches("Internal error occurred: "),
                "",
            )],
            ..Details::default()
        };
        Self::new(500, "InternalError", message, Some(details))
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message, None)
    }
}

/// `deployments.apps`; `pods` for the core group.
pub fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() {
        resource.to_owned()
    } else {
        format!("{resource}.{group}")
    }
}

impl From<storage::StoreError> for ApiError {
    fn from(error: storage::StoreError) -> Self {
        use storage::StoreError as E;
        match error {
            E::Conflict { .. } => Self::conflict("", "", "", "the object has been modified"),
            E::Compacted { requested, oldest } => {
                Self::gone(format!("too old resource version: {requested} ({oldest})"))
            }
            E::Future { requested, newest } => Self::too_large_resource_version(requested, newest),
            E::Corrupt { .. } => Self::internal(error),
            other => Self::unavailable(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_worded_as_upstream_words_them() {
        let e = ApiError::not_found("apps", "deployments", "x");
        assert_eq!(e.message(), "deployments.apps \"x\" not found");
        let e = ApiError::invalid(
            "",
            "Pod",
            "p",
            vec![
                Cause::new("FieldValueRequired", "Required value", "spec.a"),
                Cause::new("FieldValueInvalid", "Invalid value: 1: no", "spec.b"),
            ],
        );
        assert_eq!(
            e.message(),
            "Pod \"p\" is invalid: [spec.a: Required value, spec.b: Invalid value: 1: no]"
        );
        assert_eq!(e.to_value()["details"]["causes"][0]["field"], "spec.a");
    }
}
