//! The options of requests: read from the query (and for deletions from the body), checked with
//! upstream's refusals.

use serde_json::{Value, json};

use crate::request::Query;
use crate::response::{ApiError, Cause};

/// What happens to unknown and duplicate fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

/// Options of create, update, patch and apply.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteOptions {
    pub dry_run: bool,
    pub field_manager: String,
    pub field_validation: FieldValidation,
    /// Of apply.
    pub force: Option<bool>,
}

/// `resourceVersionMatch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionMatch {
    Exact,
    NotOlderThan,
}

/// Options of list and watch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// `None`: not given (or empty).
    pub resource_version: Option<u64>,
    pub version_match: Option<VersionMatch>,
    pub limit: usize,
    pub continue_token: String,
    pub send_initial_events: Option<bool>,
    pub bookmarks: bool,
    pub timeout_seconds: Option<u64>,
}

/// `propagationPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    Orphan,
    Background,
    Foreground,
}

/// Options of delete and deletecollection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    pub dry_run: bool,
    pub grace_period_seconds: Option<i64>,
    pub propagation: Option<Propagation>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
}

fn invalid(kind: &str, causes: Vec<Cause>) -> ApiError {
    ApiError::invalid("meta.k8s.io", kind, "", causes)
}

fn check_dry_run(values: &[&str], causes: &mut Vec<Cause>) -> bool {
    if values.is_empty() {
        return false;
    }
    if values.iter().any(|v| *v != "All") {
        let shown = values
            .iter()
            .map(|v| format!("{v:?}"))
            .collect::<Vec<_>>()
            .join(",");
        causes.push(Cause::new(
            "FieldValueNotSupported",
            format!("Unsupported value: [{shown}]: supported values: \"All\""),
            "dryRun",
        ));
    }
    true
}

impl WriteOptions {
    /// `kind` is what refusals name: `CreateOptions`, `UpdateOptions` or `PatchOptions`.
    pub fn parse(query: &Query, kind: &'static str, is_apply: bool) -> Result<Self, ApiError> {
        let mut causes = Vec::new();
        let force = query.get("force").map(|_| query.flag("force"));
        let field_manager = query.get("fieldManager").unwrap_or_default().to_owned();
        if kind == "PatchOptions" {
            if is_apply && field_manager.is_empty() {
                causes.push(Cause::new(
                    "FieldValueRequired",
                    "Required value: is required for apply patch",
                    "fieldManager",
                ));
            }
            if !is_apply && force.is_some() {
                causes.push(Cause::new(
                    "FieldValueForbidden",
                    "Forbidden: may not be specified for non-apply patch",
                    "force",
                ));
            }
        }
        if field_manager.len() > 128 {
            causes.push(Cause::new(
                "FieldValueTooLong",
                "Too long: may not be more than 128 bytes",
                "fieldManager",
            ));
        }
        if let Some((at, c)) = field_manager.char_indices().find(|(_, c)| c.is_control()) {
            let _ = c;
            causes.push(Cause::new(
                "FieldValueInvalid",
                format!("Invalid value: {field_manager:?}: invalid character at {at}: should be printable"),
                "fieldManager",
            ));
        }
        let dry_run = check_dry_run(&query.all("dryRun").collect::<Vec<_>>(), &mut causes);
        let field_validation = match query.get("fieldValidation").unwrap_or_default() {
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            other => {
                causes.push(Cause::new(
                    "FieldValueNotSupported",
                    format!("Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""),
                    "fieldValidation",
                ));
                FieldValidation::Warn
            }
        };
        if !causes.is_empty() {
            return Err(invalid(kind, causes));
        }
        Ok(WriteOptions {
            dry_run,
            field_manager,
            field_validation,
            force,
        })
    }
}

/// A resourceVersion from a client: `None` when empty.
pub fn parse_resource_version(text: &str) -> Result<Option<u64>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    if !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_digit())
        && let Ok(version) = text.parse()
    {
        return Ok(Some(version));
    }
    let why = if text.bytes().all(|b| b.is_ascii_digit()) {
        "value out of range"
    } else {
        "invalid syntax"
    };
    Err(ApiError::bad_request(format!(
        "invalid resource version: resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: {why}"
    )))
}

impl ListOptions {
    pub fn parse(query: &Query, watch: bool) -> Result<Self, ApiError> {
        let text = query.get("resourceVersion").unwrap_or_default();
        let version_match = query.get("resourceVersionMatch").unwrap_or_default();
        let initial = query
            .get("sendInitialEvents")
            .map(|_| query.flag("sendInitialEvents"));
        let continue_token = query.get("continue").unwrap_or_default().to_owned();
        let causes = if watch {
            watch_causes(version_match, initial)
        } else {
            list_causes(version_match, text, initial, &continue_token)
        };
        if !causes.is_empty() {
            return Err(invalid("ListOptions", causes));
        }
        if !watch && !continue_token.is_empty() && !matches!(text, "" | "0") {
            return Err(ApiError::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let limit = query
            .get("limit")
            .and_then(|l| l.parse::<i64>().ok())
            .unwrap_or(0);
        Ok(ListOptions {
            resource_version: parse_resource_version(text)?,
            version_match: match version_match {
                "Exact" => Some(VersionMatch::Exact),
                "NotOlderThan" => Some(VersionMatch::NotOlderThan),
                _ => None,
            },
            limit: usize::try_from(limit).unwrap_or(0),
            continue_token,
            send_initial_events: initial,
            bookmarks: query.flag("allowWatchBookmarks"),
            timeout_seconds: query.get("timeoutSeconds").and_then(|t| t.parse().ok()),
        })
    }
}

const MATCH: &str = "resourceVersionMatch";

fn forbidden(message: &str, field: &str) -> Cause {
    Cause::new(
        "FieldValueForbidden",
        format!("Forbidden: {message}"),
        field,
    )
}

fn watch_causes(version_match: &str, initial: Option<bool>) -> Vec<Cause> {
    let mut causes = Vec::new();
    if initial.is_some() && version_match.is_empty() {
        causes.push(forbidden(
            "resourceVersionMatch is required when sendInitialEvents is set",
            MATCH,
        ));
    }
    if version_match.is_empty() {
        return causes;
    }
    if initial.is_none() {
        causes.push(forbidden(
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            MATCH,
        ));
    }
    if version_match != "NotOlderThan" {
        causes.push(Cause::new(
            "FieldValueNotSupported",
            format!("Unsupported value: {version_match:?}: supported values: \"NotOlderThan\""),
            MATCH,
        ));
    }
    causes
}

fn list_causes(version_match: &str, text: &str, initial: Option<bool>, token: &str) -> Vec<Cause> {
    let mut causes = Vec::new();
    if !version_match.is_empty() {
        if text.is_empty() {
            causes.push(forbidden(
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
                MATCH,
            ));
        }
        if !token.is_empty() {
            causes.push(forbidden(
                "resourceVersionMatch is forbidden when continue is provided",
                MATCH,
            ));
        }
        if !matches!(version_match, "Exact" | "NotOlderThan") {
            causes.push(Cause::new(
                "FieldValueNotSupported",
                format!("Unsupported value: {version_match:?}: supported values: \"Exact\", \"NotOlderThan\""),
                MATCH,
            ));
        }
        if version_match == "Exact" && text == "0" {
            causes.push(forbidden(
                "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                MATCH,
            ));
        }
    }
    if initial.is_some() {
        causes.push(forbidden(
            "sendInitialEvents is forbidden for list",
            "sendInitialEvents",
        ));
    }
    causes
}

impl DeleteOptions {
    /// As an object, for whoever is asked about the deletion.
    pub fn to_value(&self) -> Value {
        let mut value = json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"});
        if self.dry_run {
            value["dryRun"] = json!(["All"]);
        }
        if let Some(seconds) = self.grace_period_seconds {
            value["gracePeriodSeconds"] = seconds.into();
        }
        if let Some(policy) = self.propagation {
            value["propagationPolicy"] = format!("{policy:?}").into();
        }
        for (field, text) in [
            ("uid", &self.uid),
            ("resourceVersion", &self.resource_version),
        ] {
            if let Some(text) = text {
                value["preconditions"][field] = text.as_str().into();
            }
        }
        value
    }

    /// The body wins over the query.
    pub fn parse(query: &Query, body: Option<&Value>) -> Result<Self, ApiError> {
        let mut causes = Vec::new();
        let mut options = DeleteOptions::default();
        let (propagation, orphan, dry_run);
        if let Some(body) = body {
            propagation = body["propagationPolicy"].as_str().map(str::to_owned);
            orphan = body["orphanDependents"].as_bool();
            let values: Vec<&str> = body["dryRun"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            dry_run = check_dry_run(&values, &mut causes);
            options.grace_period_seconds = body["gracePeriodSeconds"].as_i64();
            options.uid = body["preconditions"]["uid"].as_str().map(str::to_owned);
            options.resource_version = body["preconditions"]["resourceVersion"]
                .as_str()
                .map(str::to_owned);
        } else {
            propagation = query.get("propagationPolicy").map(str::to_owned);
            orphan = query
                .get("orphanDependents")
                .map(|_| query.flag("orphanDependents"));
            dry_run = check_dry_run(&query.all("dryRun").collect::<Vec<_>>(), &mut causes);
            options.grace_period_seconds =
                query.get("gracePeriodSeconds").and_then(|s| s.parse().ok());
        }
        options.dry_run = dry_run;
        options.propagation = match (propagation.as_deref(), orphan) {
            (Some(policy), Some(_)) => {
                causes.push(Cause::new(
                    "FieldValueInvalid",
                    format!("Invalid value: {policy:?}: orphanDependents and deletionPropagation cannot be both set"),
                    "propagationPolicy",
                ));
                None
            }
            (Some("Orphan"), _) | (None, Some(true)) => Some(Propagation::Orphan),
            (Some("Background"), _) | (None, Some(false)) => Some(Propagation::Background),
            (Some("Foreground"), _) => Some(Propagation::Foreground),
            (Some(other), _) => {
                causes.push(Cause::new(
                    "FieldValueNotSupported",
                    format!(
                        "Unsupported value: {other:?}: supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\""
                    ),
                    "propagationPolicy",
                ));
                None
            }
            (None, None) => None,
        };
        if causes.is_empty() {
            Ok(options)
        } else {
            Err(invalid("DeleteOptions", causes))
        }
    }
}
