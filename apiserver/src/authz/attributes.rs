//! The question and the answer of authorization.

use async_trait::async_trait;

use super::rbac::{RoleReference, Rule};
use crate::authn::UserInfo;

/// What a request wants to do. Empty strings stand for "none".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`
    /// and special verbs for resources; the lower-case HTTP method for other paths.
    pub verb: String,
    pub api_group: String,
    pub api_version: String,
    pub namespace: String,
    pub resource: String,
    pub subresource: String,
    pub name: String,
    /// The path of a request that is not for a resource; then all above but `verb` is empty.
    pub path: String,
    /// Requirements of the request's field selector; empty when there is none or it does not parse.
    pub field_selector: Vec<SelectorRequirement>,
    pub label_selector: Vec<SelectorRequirement>,
}

/// One requirement of a selector, as SubjectAccessReview spells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelectorRequirement {
    pub key: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub operator: String,
    pub values: Vec<String>,
}

impl Attributes {
    /// The question for one named (or with an empty name, any) object.
    pub fn resource(verb: &str, group: &str, resource: &str, namespace: &str, name: &str) -> Self {
        Attributes {
            verb: verb.into(),
            api_group: group.into(),
            resource: resource.into(),
            namespace: namespace.into(),
            name: name.into(),
            ..Attributes::default()
        }
    }

    pub fn is_resource_request(&self) -> bool {
        self.path.is_empty()
    }
}

/// What an authorizer says. The reason is for SubjectAccessReview and the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Allow {
        reason: String,
    },
    /// Denied for good: nobody further down the chain is asked.
    Deny {
        reason: String,
    },
    /// Nothing allows it. Denied unless another authorizer allows it.
    NoOpinion {
        reason: String,
    },
}

impl Decision {
    pub fn is_allowed(&self) -> bool {
        matches!(self, Decision::Allow { .. })
    }

    pub fn reason(&self) -> &str {
        match self {
            Decision::Allow { reason }
            | Decision::Deny { reason }
            | Decision::NoOpinion { reason } => reason,
        }
    }
}

/// Answers whether a user may do something.
#[async_trait]
pub trait Authorizer: Send + Sync + 'static {
    async fn authorize(&self, user: &UserInfo, attributes: &Attributes) -> Decision;

    /// The rules that a user has in a namespace, as far as rules say what he may.
    fn rules_of(&self, _user: &UserInfo, _namespace: &str) -> Vec<Rule> {
        Vec::new()
    }

    /// The rules of a role that a binding in a namespace refers to.
    fn role(&self, _reference: &RoleReference, _namespace: &str) -> Option<Vec<Rule>> {
        None
    }
}
