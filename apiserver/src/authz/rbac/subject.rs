//! Whom a binding is for.

use serde_json::Value;

use crate::authn::UserInfo;

/// A subject, ordered so that it can be a key of the index.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    User(String),
    Group(String),
    ServiceAccount { namespace: String, name: String },
}

impl Subject {
    /// From a binding's list; a service account without a namespace is in the binding's.
    pub(super) fn parse(value: &Value, binding_namespace: &str) -> Option<Subject> {
        let text = |key: &str| {
            value
                .get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        Some(match text("kind").as_str() {
            "User" => Subject::User(text("name")),
            "Group" => Subject::Group(text("name")),
            "ServiceAccount" => {
                let mut namespace = text("namespace");
                if namespace.is_empty() {
                    binding_namespace.clone_into(&mut namespace);
                }
                Subject::ServiceAccount {
                    namespace,
                    name: text("name"),
                }
            }
            _ => return None,
        })
    }

    /// Every subject that a user is.
    pub(super) fn all_of(user: &UserInfo) -> Vec<Subject> {
        let mut all = vec![Subject::User(user.name.clone())];
        if let Some((namespace, name)) = user.service_account() {
            all.push(Subject::ServiceAccount {
                namespace: namespace.into(),
                name: name.into(),
            });
        }
        all.extend(user.groups.iter().cloned().map(Subject::Group));
        all
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Subject::User(name) => write!(f, "User {name:?}"),
            Subject::Group(name) => write!(f, "Group {name:?}"),
            Subject::ServiceAccount { namespace, name } => {
                write!(f, "ServiceAccount \"{name}/{namespace}\"")
            }
        }
    }
}
