//! Levels, and the labels by which a namespace chooses them.

use std::fmt;

use serde_json::Value;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    #[default]
    Privileged,
    Baseline,
    Restricted,
}

/// A level as of a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) level: Level,
    /// `latest` or `v1.N`.
    pub(super) version: String,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            level: Level::Privileged,
            version: "latest".into(),
        }
    }
}

impl Policy {
    /// The minor release; the newest when none is named.
    pub(super) fn minor(&self) -> u32 {
        let named = self.version.strip_prefix("v1.");
        named.and_then(|n| n.parse().ok()).unwrap_or(u32::MAX)
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        write!(f, "{level}:{}", self.version)
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Policies {
    pub(super) enforce: Policy,
    pub(super) audit: Policy,
    pub(super) warn: Policy,
}

const PREFIX: &str = "pod-security.kubernetes.io/";

impl Policies {
    /// Also tells which labels are wrong: field and fault. What cannot be read is as strict as
    /// can be where it enforces, and says nothing elsewhere.
    pub(super) fn of(labels: &Value) -> (Self, Vec<(String, String)>) {
        let mut faults = Vec::new();
        let mut read = |mode: &str, broken: Level| {
            let mut policy = Policy::default();
            let key = format!("{PREFIX}{mode}");
            if let Some(text) = labels[&key].as_str() {
                policy.level = match text {
                    "privileged" => Level::Privileged,
                    "baseline" => Level::Baseline,
                    "restricted" => Level::Restricted,
                    _ => {
                        let why = "must be one of privileged, baseline, restricted";
                        faults.push(fault(&key, text, why));
                        broken
                    }
                };
            }
            let key = format!("{key}-version");
            if let Some(text) = labels[&key].as_str() {
                if is_version(text) {
                    policy.version = text.to_owned();
                } else {
                    faults.push(fault(&key, text, "must be \"latest\" or \"v1.x\""));
                }
            }
            policy
        };
        let policies = Policies {
            enforce: read("enforce", Level::Restricted),
            audit: read("audit", Level::Privileged),
            warn: read("warn", Level::Privileged),
        };
        (policies, faults)
    }
}

fn fault(key: &str, text: &str, why: &str) -> (String, String) {
    (
        format!("metadata.labels[{key}]"),
        format!("Invalid value: {text:?}: {why}"),
    )
}

fn is_version(text: &str) -> bool {
    text == "latest"
        || text.strip_prefix("v1.").is_some_and(|n| {
            !n.is_empty()
                && n.bytes().all(|b| b.is_ascii_digit())
                && (n == "0" || !n.starts_with('0'))
        })
}
