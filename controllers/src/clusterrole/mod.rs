//! ClusterRole aggregation: a role with an aggregation rule has the rules of the roles that
//! it selects.

use std::sync::Arc;

use api_rules::selector::label_selector_matches;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::ResourceExt;
use serde_json::json;
use watch_cache::WatchCache;

use crate::framework::{Context, Error, Outcome, Reconciler, Tolerate, act};

pub(crate) fn start(context: &Context) {
    let roles = context.caches.of::<ClusterRole>();
    let all = roles.clone();
    context
        .controller("clusterrole-aggregation-controller")
        // Which roles select the changed one depends on its labels before and after: all with
        // a rule are looked at, and there are few.
        .watch(&roles, move |_| {
            let all = all.list();
            let aggregating = all.iter().filter(|role| role.aggregation_rule.is_some());
            aggregating.map(|role| role.name_any()).collect::<Vec<_>>()
        })
        .run(
            1,
            Controller {
                context: context.clone(),
                roles,
            },
        );
}

/// The rules of the selected roles, in the order of their names, each once.
fn aggregate(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Vec<PolicyRule> {
    let rule = role.aggregation_rule.clone().unwrap_or_default();
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in rule.cluster_role_selectors.iter().flatten() {
        let mut selected: Vec<_> = all
            .iter()
            .filter(|other| other.metadata.name != role.metadata.name)
            .filter(|other| label_selector_matches(selector, other.labels()))
            .collect();
        selected.sort_by_key(|role| role.name_any());
        for rule in selected.iter().flat_map(|role| role.rules.iter().flatten()) {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    rules
}

struct Controller {
    context: Context,
    roles: WatchCache<ClusterRole>,
}

impl Reconciler for Controller {
    type Key = String;

    async fn sync(&self, name: &String) -> Result<Outcome, Error> {
        let Some(role) = self.roles.get("", name) else {
            return Ok(Outcome::Done);
        };
        if role.aggregation_rule.is_none() {
            return Ok(Outcome::Done);
        }
        let rules = aggregate(&role, &self.roles.list());
        if role.rules.as_deref().unwrap_or_default() != rules {
            let api = self.context.cluster_api::<ClusterRole>();
            act::merge(&api, role.as_ref(), json!({"rules": rules}))
                .await
                .unless_gone()?;
        }
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_selected_roles_are_taken_once_and_in_order() {
        let role = |name: &str, label: &str, verb: &str| -> Arc<ClusterRole> {
            let role = json!({"metadata": {"name": name, "labels": {"to": label}},
                "rules": [{"verbs": [verb], "apiGroups": [""], "resources": ["pods"]}]});
            Arc::new(serde_json::from_value(role).expect("a ClusterRole"))
        };
        let admin: ClusterRole = serde_json::from_value(json!({
            "metadata": {"name": "admin", "labels": {"to": "admin"}},
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "admin"}}]}}))
        .expect("a ClusterRole");
        let all = [
            Arc::new(admin.clone()),
            role("b", "admin", "get"),
            role("a", "admin", "list"),
            role("c", "admin", "get"),
            role("d", "other", "delete"),
        ];
        let verbs: Vec<String> = aggregate(&admin, &all)
            .iter()
            .map(|rule| rule.verbs[0].clone())
            .collect();
        assert_eq!(verbs, ["list", "get"]);
    }
}
