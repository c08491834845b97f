//! The authenticated user, as authorization and admission see it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Well-known groups.
pub mod group {
    /// Members may do everything; no rule can take that away.
    pub const MASTERS: &str = "system:masters";
    pub const AUTHENTICATED: &str = "system:authenticated";
    pub const UNAUTHENTICATED: &str = "system:unauthenticated";
    pub const NODES: &str = "system:nodes";
    pub const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";
    pub const BOOTSTRAPPERS: &str = "system:bootstrappers";
}

/// Well-known user names.
pub mod user_name {
    pub const ANONYMOUS: &str = "system:anonymous";
    pub const API_SERVER: &str = "system:apiserver";
    pub const SCHEDULER: &str = "system:kube-scheduler";
    pub const CONTROLLER_MANAGER: &str = "system:kube-controller-manager";
    pub const PROXY: &str = "system:kube-proxy";
    pub const NODE_PREFIX: &str = "system:node:";
    pub const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";
    pub const BOOTSTRAP_PREFIX: &str = "system:bootstrap:";
}

/// What request extensions hold: `request.extensions().get::<SharedUser>()`.
pub type SharedUser = Arc<UserInfo>;

/// A user as `authentication.k8s.io/v1` `UserInfo` spells it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserInfo {
    #[serde(rename = "username", default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// A user with these groups, no uid and no extras.
    pub fn new<G: Into<String>>(
        name: impl Into<String>,
        groups: impl IntoIterator<Item = G>,
    ) -> Self {
        UserInfo {
            name: name.into(),
            groups: groups.into_iter().map(Into::into).collect(),
            ..UserInfo::default()
        }
    }

    /// The user of requests without credentials.
    pub fn anonymous() -> Self {
        UserInfo::new(user_name::ANONYMOUS, [group::UNAUTHENTICATED])
    }

    /// The API server itself: its own writes at bootstrap and its loopback client.
    pub fn api_server() -> Self {
        UserInfo::new(
            user_name::API_SERVER,
            [group::MASTERS, group::AUTHENTICATED],
        )
    }

    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// `NAME` of a node's user `system:node:NAME` in the nodes' group.
    pub fn node_name(&self) -> Option<&str> {
        let name = self.name.strip_prefix(user_name::NODE_PREFIX)?;
        (!name.is_empty() && self.is_in(group::NODES)).then_some(name)
    }

    /// Namespace and name of a service account's user.
    pub fn service_account(&self) -> Option<(&str, &str)> {
        self.name
            .strip_prefix(user_name::SERVICE_ACCOUNT_PREFIX)?
            .split_once(':')
    }
}
