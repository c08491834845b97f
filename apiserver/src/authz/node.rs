//! What a node's kubelet may do: what concerns itself and the pods bound to it.

use std::sync::Arc;

use serde_json::Value;

use super::rbac::Rule;
use super::{Attributes, Decision};
use crate::authn::UserInfo;
use crate::bootstrap::policy;
use crate::registry::cache::{Filter, object_key};
use crate::registry::object::Object;
use crate::registry::{Cacher, FieldSelector};

/// The role whose rules hold for every node, apart from what is restricted here.
const ROLE: &str = "system:node";

/// See the module's documentation.
pub(super) struct NodeAuthorizer {
    cacher: Arc<Cacher>,
    rules: Vec<Rule>,
}

fn allow() -> Decision {
    Decision::Allow {
        reason: String::new(),
    }
}

fn no_opinion(reason: &str) -> Decision {
    Decision::NoOpinion {
        reason: reason.to_owned(),
    }
}

impl NodeAuthorizer {
    pub(super) fn new(cacher: Arc<Cacher>) -> Self {
        NodeAuthorizer {
            cacher,
            rules: policy::cluster_role(ROLE),
        }
    }

    pub(super) fn authorize(&self, user: &UserInfo, asked: &Attributes) -> Decision {
        let Some(node) = user.node_name() else {
            return no_opinion("");
        };
        if !asked.is_resource_request() {
            return self.by_rules(asked);
        }
        match (asked.api_group.as_str(), asked.resource.as_str()) {
            ("", "secrets") => {
                self.read_related(node, asked, &["get", "list", "watch"], secret_names)
            }
            ("", "configmaps") => {
                self.read_related(node, asked, &["get", "list", "watch"], config_map_names)
            }
            ("", "persistentvolumeclaims") if asked.subresource == "status" => {
                self.related(node, asked, &["get", "update", "patch"], claim_names)
            }
            ("", "persistentvolumeclaims") => self.read_related(node, asked, &["get"], claim_names),
            ("", "persistentvolumes") => self.read_volume(node, asked),
            ("", "serviceaccounts") if asked.subresource == "token" => {
                self.related(node, asked, &["create"], account_names)
            }
            ("", "serviceaccounts") => self.read_related(node, asked, &["get"], account_names),
            ("", "nodes") => self.node(node, asked),
            ("", "pods") => self.pod(node, asked),
            ("storage.k8s.io", "volumeattachments") => self.attachment(node, asked),
            ("resource.k8s.io", "resourceclaims") => {
                self.read_related(node, asked, &["get"], resource_claim_names)
            }
            ("resource.k8s.io", "resourceslices") => self.slice(node, asked),
            ("coordination.k8s.io", "leases") => own(node, asked, "kube-node-lease"),
            ("storage.k8s.io", "csinodes") => own(node, asked, ""),
            _ => self.by_rules(asked),
        }
    }

    fn by_rules(&self, asked: &Attributes) -> Decision {
        if self.rules.iter().any(|rule| rule.allows(asked)) {
            allow()
        } else {
            no_opinion("")
        }
    }

    /// The pods bound to the node; of one namespace, or of all when it is empty.
    fn pods(&self, node: &str, namespace: &str) -> Vec<Arc<Object>> {
        let cache = self.cacher.resource("", "pods");
        let mut fields = FieldSelector::default();
        fields.require("spec.nodeName", node);
        let filter = Filter {
            namespace: namespace.to_owned(),
            fields,
            known: cache.fields(),
            ..Filter::default()
        };
        cache.list(&filter, None, 0, self.cacher.applied()).objects
    }

    fn read_related(
        &self,
        node: &str,
        asked: &Attributes,
        verbs: &[&str],
        names: fn(&Value) -> Vec<String>,
    ) -> Decision {
        if !asked.subresource.is_empty() {
            return no_opinion("cannot get subresource");
        }
        self.related(node, asked, verbs, names)
    }

    /// Allowed when a pod on the node refers to the object.
    fn related(
        &self,
        node: &str,
        asked: &Attributes,
        verbs: &[&str],
        names: fn(&Value) -> Vec<String>,
    ) -> Decision {
        if !verbs.contains(&asked.verb.as_str()) {
            return no_opinion(&format!(
                "can only {} resources of this type",
                verbs.join("/")
            ));
        }
        if asked.namespace.is_empty() || asked.name.is_empty() {
            return no_opinion("can only read namespaced object of this type");
        }
        let mut pods = self.pods(node, &asked.namespace).into_iter();
        if pods.any(|pod| names(&pod.value()).contains(&asked.name)) {
            return allow();
        }
        unrelated(node)
    }

    fn read_volume(&self, node: &str, asked: &Attributes) -> Decision {
        if asked.verb != "get" || !asked.subresource.is_empty() {
            return no_opinion("can only get individual resources of this type");
        }
        let claims = self.cacher.resource("", "persistentvolumeclaims");
        let uses = |pod: &Arc<Object>| {
            claim_names(&pod.value()).iter().any(|claim| {
                let key = object_key("", "persistentvolumeclaims", pod.namespace(), claim);
                claims
                    .get(&key)
                    .is_some_and(|claim| says(&claim, "volumeName", &asked.name))
            })
        };
        if self.pods(node, "").iter().any(uses) {
            allow()
        } else {
            unrelated(node)
        }
    }

    fn attachment(&self, node: &str, asked: &Attributes) -> Decision {
        if asked.verb != "get" || !asked.subresource.is_empty() {
            return no_opinion("can only get individual resources of this type");
        }
        let key = object_key("storage.k8s.io", "volumeattachments", "", &asked.name);
        let found = self
            .cacher
            .resource("storage.k8s.io", "volumeattachments")
            .get(&key);
        let ours = |object: Arc<Object>| says(&object, "nodeName", node);
        if found.is_some_and(ours) {
            allow()
        } else {
            unrelated(node)
        }
    }

    fn node(&self, node: &str, asked: &Attributes) -> Decision {
        // Reading the others, where a node needs it, is granted by roles.
        let reads = matches!(asked.verb.as_str(), "get" | "list" | "watch");
        if reads && asked.name != node {
            return no_opinion(&format!(
                "node '{node}' cannot read '{}', only its own Node object",
                asked.name
            ));
        }
        self.by_rules(asked)
    }

    fn pod(&self, node: &str, asked: &Attributes) -> Decision {
        let selects_own = asked.field_selector.iter().any(|requirement| {
            requirement.key == "spec.nodeName"
                && requirement.operator == "In"
                && requirement.values.iter().all(|value| value == node)
        });
        match (asked.verb.as_str(), asked.subresource.as_str()) {
            ("list" | "watch", "") if selects_own => allow(),
            ("get" | "watch", "") if !asked.name.is_empty() => {
                let key = object_key("", "pods", &asked.namespace, &asked.name);
                let found = self.cacher.resource("", "pods").get(&key);
                let ours = |pod: Arc<Object>| says(&pod, "nodeName", node);
                if found.is_some_and(ours) {
                    allow()
                } else {
                    unrelated(node)
                }
            }
            ("get" | "list" | "watch", "") => {
                no_opinion("can only list/watch pods with spec.nodeName field selector")
            }
            // What a node may create, change and delete is for admission to restrict.
            _ => self.by_rules(asked),
        }
    }

    fn slice(&self, node: &str, asked: &Attributes) -> Decision {
        let selects_own = asked.field_selector.iter().any(|requirement| {
            requirement.key == "spec.nodeName" && requirement.values.iter().all(|v| v == node)
        });
        match asked.verb.as_str() {
            _ if !asked.subresource.is_empty() => no_opinion("cannot access subresource"),
            "create" => allow(),
            "list" | "watch" | "deletecollection" if selects_own => allow(),
            "get" | "update" | "patch" | "delete" => {
                let key = object_key("resource.k8s.io", "resourceslices", "", &asked.name);
                let found = self
                    .cacher
                    .resource("resource.k8s.io", "resourceslices")
                    .get(&key);
                let ours = |slice: Arc<Object>| says(&slice, "nodeName", node);
                if found.is_some_and(ours) {
                    allow()
                } else {
                    unrelated(node)
                }
            }
            _ => no_opinion(
                "only the following verbs are allowed with a spec.nodeName selector: list/watch/deletecollection",
            ),
        }
    }
}

/// Whether a member of the object's spec has this text.
fn says(object: &Object, member: &str, text: &str) -> bool {
    object.value()["spec"][member].as_str() == Some(text)
}

fn unrelated(node: &str) -> Decision {
    no_opinion(&format!(
        "no relationship found between node '{node}' and this object"
    ))
}

/// Objects that carry the node's own name, in one namespace.
fn own(node: &str, asked: &Attributes, namespace: &str) -> Decision {
    let verb = asked.verb.as_str();
    if !matches!(verb, "get" | "create" | "update" | "patch" | "delete")
        || !asked.subresource.is_empty()
    {
        return no_opinion(
            "can only get, create, update, patch, or delete its own object of this type",
        );
    }
    if asked.namespace != namespace {
        return no_opinion(&format!(
            "can only access objects in the {namespace:?} namespace"
        ));
    }
    // The name of an object to be created stands in its body; admission compares it.
    if asked.name == node || (verb == "create" && asked.name.is_empty()) {
        return allow();
    }
    no_opinion("can only access an object with the same name as the requesting node")
}

/// Calls the visitor with every member of every object in the tree.
fn members<'a>(value: &'a Value, visit: &mut dyn FnMut(&'a str, &'a Value)) {
    match value {
        Value::Object(map) => {
            for (key, member) in map {
                visit(key, member);
                members(member, visit);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| members(item, visit)),
        _ => {}
    }
}

/// `NAME` of `{"KEY": {"name": NAME}}` for any of the keys, and of `{"KEY": NAME}` for `plain`.
fn references(pod: &Value, keys: &[&str], plain: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    members(&pod["spec"], &mut |key, member| {
        let name = if keys.contains(&key) {
            member["name"].as_str()
        } else if plain.contains(&key) {
            member.as_str()
        } else {
            None
        };
        found.extend(name.map(str::to_owned));
    });
    found
}

fn secret_names(pod: &Value) -> Vec<String> {
    let keys = [
        "secretRef",
        "secretKeyRef",
        "nodePublishSecretRef",
        "secret",
    ];
    let mut names = references(pod, &keys, &["secretName"]);
    let pulls = pod["spec"]["imagePullSecrets"]
        .as_array()
        .into_iter()
        .flatten();
    names.extend(
        pulls
            .filter_map(|pull| pull["name"].as_str())
            .map(str::to_owned),
    );
    names
}

fn config_map_names(pod: &Value) -> Vec<String> {
    references(pod, &["configMap", "configMapRef", "configMapKeyRef"], &[])
}

fn claim_names(pod: &Value) -> Vec<String> {
    let mut names = references(pod, &[], &["claimName"]);
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default();
    names.extend(
        volumes
            .filter(|volume| !volume["ephemeral"].is_null())
            .filter_map(|volume| volume["name"].as_str())
            .map(|volume| format!("{pod_name}-{volume}")),
    );
    names
}

fn account_names(pod: &Value) -> Vec<String> {
    references(pod, &[], &["serviceAccountName"])
}

fn resource_claim_names(pod: &Value) -> Vec<String> {
    let mut names = references(pod, &[], &["resourceClaimName"]);
    let statuses = pod["status"]["resourceClaimStatuses"]
        .as_array()
        .into_iter()
        .flatten();
    names.extend(
        statuses
            .filter_map(|s| s["resourceClaimName"].as_str())
            .map(str::to_owned),
    );
    names
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_s_references_are_found_wherever_they_stand() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {
            "serviceAccountName": "acc",
            "imagePullSecrets": [{"name": "pull"}],
            "containers": [{
                "env": [
                    {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s1", "key": "k"}}},
                    {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "c1", "key": "k"}}},
                ],
                "envFrom": [{"secretRef": {"name": "s2"}}, {"configMapRef": {"name": "c2"}}],
            }],
            "volumes": [
                {"name": "v1", "secret": {"secretName": "s3"}},
                {"name": "v2", "configMap": {"name": "c3"}},
                {"name": "v3", "projected": {"sources": [
                    {"secret": {"name": "s4"}}, {"configMap": {"name": "c4"}},
                ]}},
                {"name": "v4", "persistentVolumeClaim": {"claimName": "claim"}},
                {"name": "v5", "ephemeral": {"volumeClaimTemplate": {}}},
            ],
        }});
        assert_eq!(secret_names(&pod), ["s1", "s2", "s3", "s4", "pull"]);
        assert_eq!(config_map_names(&pod), ["c1", "c2", "c3", "c4"]);
        assert_eq!(claim_names(&pod), ["claim", "p-v5"]);
        assert_eq!(account_names(&pod), ["acc"]);
    }

    #[test]
    fn a_node_has_its_own_lease_alone() {
        let check = |verb: &str, namespace: &str, name: &str, expected: bool| {
            let asked =
                Attributes::resource(verb, "coordination.k8s.io", "leases", namespace, name);
            assert_eq!(
                own("n1", &asked, "kube-node-lease").is_allowed(),
                expected,
                "{verb} {name}"
            );
        };
        check("get", "kube-node-lease", "n1", true);
        check("create", "kube-node-lease", "", true);
        check("get", "kube-node-lease", "n2", false);
        check("list", "kube-node-lease", "", false);
        check("get", "kube-system", "n1", false);
    }
}
