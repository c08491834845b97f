//! Escalation checks: who writes a role or a binding has to have what it grants, or the
//! right to `escalate` or `bind`; who writes an admission policy, the right to read its parameters.

use serde_json::Value;

use super::rbac::{EscalationError, GROUP, RoleReference, Rule, uncovered};
use super::{Attributes, Authorizer, parameters};
use crate::authn::{UserInfo, group};
use crate::registry::Call;
use crate::response::ApiError;

/// Refuses a write of RBAC or of a policy that would give more than its author has. `old`: what it
/// replaces. To be asked for every kind; others pass.
pub async fn check(call: &Call, new: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    let resource = &call.resource;
    let guarded = resource.group == GROUP || resource.group == parameters::GROUP;
    if !guarded || !call.info.subresource.is_empty() || call.user.is_in(group::MASTERS) {
        return Ok(());
    }
    if resource.group == parameters::GROUP {
        return parameters::check(call, new, old).await;
    }
    let check = Check {
        authorizer: &*call.registry.authorizer,
        user: &call.user,
        resource: &resource.plural,
        namespace: new["metadata"]["namespace"].as_str().unwrap_or_default(),
        name: new["metadata"]["name"].as_str().unwrap_or_default(),
    };
    match &*resource.plural {
        "roles" | "clusterroles" => check.role(new, old).await,
        "rolebindings" | "clusterrolebindings" => check.binding(new, old).await,
        _ => Ok(()),
    }
}

struct Check<'a> {
    authorizer: &'a dyn Authorizer,
    user: &'a UserInfo,
    resource: &'a str,
    namespace: &'a str,
    name: &'a str,
}

impl Check<'_> {
    async fn role(&self, new: &Value, old: Option<&Value>) -> Result<(), ApiError> {
        let same = old.is_some_and(|old| {
            old["rules"] == new["rules"] && old["aggregationRule"] == new["aggregationRule"]
        });
        if same || self.may("escalate", self.resource, self.name).await {
            return Ok(());
        }
        // Nobody knows what an aggregating role will have one day.
        let aggregates = !new["aggregationRule"].is_null()
            && old.is_none_or(|old| old["aggregationRule"] != new["aggregationRule"]);
        let wanted = if aggregates {
            everything()
        } else {
            rules(&new["rules"])
        };
        self.has(&wanted)
    }

    async fn binding(&self, new: &Value, old: Option<&Value>) -> Result<(), ApiError> {
        let same = old.is_some_and(|old| {
            old["roleRef"] == new["roleRef"] && old["subjects"] == new["subjects"]
        });
        let reference = serde_json::from_value::<RoleReference>(new["roleRef"].clone());
        let Ok(reference) = reference else {
            return Ok(());
        };
        let resource = if reference.kind == "ClusterRole" {
            "clusterroles"
        } else {
            "roles"
        };
        if same || self.may("bind", resource, &reference.name).await {
            return Ok(());
        }
        match self.authorizer.role(&reference, self.namespace) {
            Some(wanted) => self.has(&wanted),
            None => Err(ApiError::not_found(GROUP, self.resource, &reference.name)),
        }
    }

    async fn may(&self, verb: &str, resource: &str, name: &str) -> bool {
        let asked = Attributes::resource(verb, GROUP, resource, self.namespace, name);
        self.authorizer
            .authorize(self.user, &asked)
            .await
            .is_allowed()
    }

    fn has(&self, wanted: &[Rule]) -> Result<(), ApiError> {
        let held = self.authorizer.rules_of(self.user, self.namespace);
        let missing = uncovered(&held, wanted);
        if missing.is_empty() {
            return Ok(());
        }
        let why = EscalationError::new(self.user, &missing).to_string();
        Err(ApiError::forbidden(GROUP, self.resource, self.name, &why))
    }
}

fn rules(value: &Value) -> Vec<Rule> {
    serde_json::from_value(value.clone()).unwrap_or_default()
}

fn everything() -> Vec<Rule> {
    let all = || vec!["*".to_owned()];
    let resources = Rule {
        verbs: all(),
        api_groups: all(),
        resources: all(),
        ..Rule::default()
    };
    let paths = Rule {
        verbs: all(),
        non_resource_urls: all(),
        ..Rule::default()
    };
    vec![resources, paths]
}
