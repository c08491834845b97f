//! ABAC: a file with one policy a line, each allowing a subject something.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Attributes, Decision};
use crate::authn::{UserInfo, group};

/// Why a policy file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AbacError {
    #[error("the authorization policy {path}: {source}", path = .path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the authorization policy {path}, line {line}: {why}", path = .path.display())]
    Line {
        path: PathBuf,
        line: usize,
        why: String,
    },
}

const VERSION: &str = "abac.authorization.kubernetes.io/v1beta1";
const ALL: &str = "*";

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Line {
    api_version: String,
    kind: String,
    spec: Option<Policy>,
    /// Lines without a version have the policy in the place of the object.
    #[serde(flatten)]
    bare: Policy,
}

#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Policy {
    user: String,
    group: String,
    readonly: bool,
    api_group: String,
    namespace: String,
    resource: String,
    non_resource_path: String,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Abac(Vec<Policy>);

impl Abac {
    pub(super) fn read(path: &Path) -> Result<Self, AbacError> {
        let text = std::fs::read_to_string(path).map_err(|source| AbacError::Read {
            path: path.to_path_buf(),
            source,
        })?;
        Abac::parse(&text).map_err(|(line, why)| AbacError::Line {
            path: path.to_path_buf(),
            line,
            why,
        })
    }

    fn parse(text: &str) -> Result<Self, (usize, String)> {
        let mut policies = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let read: Line = serde_json::from_str(line).map_err(|e| (index + 1, e.to_string()))?;
            policies.push(read.policy().map_err(|why| (index + 1, why))?);
        }
        Ok(Abac(policies))
    }

    pub(super) fn authorize(&self, user: &UserInfo, attributes: &Attributes) -> Decision {
        let reason = String::new();
        if self.0.iter().any(|p| p.allows(user, attributes)) {
            Decision::Allow { reason }
        } else {
            Decision::NoOpinion {
                reason: "No policy matched.".into(),
            }
        }
    }
}

impl Line {
    fn policy(self) -> Result<Policy, String> {
        match (self.api_version.as_str(), self.kind.as_str(), self.spec) {
            (VERSION, "Policy", Some(spec)) => Ok(spec),
            ("", "", None) => Ok(self.bare.unversioned()),
            _ => Err(format!("it is no Policy of {VERSION}")),
        }
    }
}

impl Policy {
    /// What a line without a version means: what it leaves out it does not limit.
    fn unversioned(mut self) -> Policy {
        if self.user.is_empty() && self.group.is_empty() || self.user == ALL || self.group == ALL {
            self.user.clear();
            self.group = group::AUTHENTICATED.into();
        }
        if self.namespace.is_empty() && self.resource.is_empty() {
            self.non_resource_path = ALL.into();
        }
        for field in [&mut self.namespace, &mut self.resource, &mut self.api_group] {
            if field.is_empty() {
                ALL.clone_into(field);
            }
        }
        self
    }

    fn allows(&self, user: &UserInfo, a: &Attributes) -> bool {
        let reads = matches!(a.verb.as_str(), "get" | "list" | "watch");
        self.is_about(user) && (!self.readonly || reads) && self.covers(a)
    }

    /// A policy that names nobody is about nobody.
    fn is_about(&self, user: &UserInfo) -> bool {
        let named = |own: &str, fits: bool| own.is_empty() || own == ALL || fits;
        !(self.user.is_empty() && self.group.is_empty())
            && named(&self.user, self.user == user.name)
            && named(&self.group, user.is_in(&self.group))
    }

    fn covers(&self, a: &Attributes) -> bool {
        let fits = |own: &str, asked: &str| own == ALL || own == asked;
        if a.is_resource_request() {
            return fits(&self.namespace, &a.namespace)
                && fits(&self.resource, &a.resource)
                && fits(&self.api_group, &a.api_group);
        }
        match self.non_resource_path.strip_suffix('*') {
            Some(prefix) => a.path.starts_with(prefix),
            None => self.non_resource_path == a.path,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(line: &str, user: &UserInfo, a: &Attributes) -> bool {
        let abac = Abac::parse(line).unwrap();
        abac.authorize(user, a).is_allowed()
    }

    fn versioned(spec: &str) -> String {
        format!(r#"{{"apiVersion": "{VERSION}", "kind": "Policy", "spec": {spec}}}"#)
    }

    #[test]
    fn policies_limit_whom_what_and_how() {
        let alice = UserInfo::new("alice", ["dev", group::AUTHENTICATED]);
        let get = Attributes::resource("get", "", "pods", "n", "p");
        let delete = Attributes::resource("delete", "", "pods", "n", "p");
        let path = Attributes {
            verb: "get".into(),
            path: "/metrics/x".into(),
            ..Attributes::default()
        };
        let check = |spec: &str, a: &Attributes, expect: bool| {
            assert_eq!(allows(&versioned(spec), &alice, a), expect, "{spec}");
        };
        let all = r#"{"user": "alice", "namespace": "*", "resource": "*", "apiGroup": "*"}"#;
        check(all, &delete, true);
        check(all, &path, false);
        check(
            r#"{"namespace": "*", "resource": "*", "apiGroup": "*"}"#,
            &get,
            false,
        );
        check(
            r#"{"user": "bob", "namespace": "*", "resource": "*", "apiGroup": "*"}"#,
            &get,
            false,
        );
        check(
            r#"{"user": "alice", "group": "ops", "namespace": "*", "resource": "*"}"#,
            &get,
            false,
        );
        let read = r#"{"group": "dev", "readonly": true, "namespace": "n", "resource": "pods"}"#;
        check(read, &get, true);
        check(read, &delete, false);
        check(
            r#"{"user": "*", "nonResourcePath": "/metrics/*"}"#,
            &path,
            true,
        );
        check(
            r#"{"user": "*", "nonResourcePath": "/metrics"}"#,
            &path,
            false,
        );
    }

    #[test]
    fn lines_without_a_version_allow_what_they_do_not_limit() {
        let alice = UserInfo::new("alice", [group::AUTHENTICATED]);
        let nobody = UserInfo::anonymous();
        let get = Attributes::resource("get", "apps", "deployments", "n", "d");
        assert!(allows(r#"{"user": "alice"}"#, &alice, &get));
        assert!(allows("{}", &alice, &get));
        assert!(!allows("{}", &nobody, &get));
        assert!(!allows(
            r#"{"user": "alice", "resource": "pods"}"#,
            &alice,
            &get
        ));
    }

    #[test]
    fn a_line_that_is_no_policy_is_named() {
        let text = format!("# first\n\n{}\nno", versioned(r#"{"user": "a"}"#));
        assert_eq!(
            Abac::parse(&text).map(drop).map_err(|(line, _)| line),
            Err(4)
        );
        let other = r#"{"apiVersion": "v1", "kind": "Policy", "spec": {}}"#;
        assert!(Abac::parse(other).is_err());
    }
}
