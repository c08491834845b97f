//! The definition of ClusterNetworkPolicy, for clusters that do not have it.

use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

pub(crate) const DEFINITION: &str = "clusternetworkpolicies.policy.networking.k8s.io";
/// A server that has just started may not take it yet.
const RETRY: Duration = Duration::from_millis(500);

/// Makes the kind known to the cluster; one that is there stays as it is. Ends when it is there.
pub async fn install(client: Client, shutdown: CancellationToken) {
    let api: Api<CustomResourceDefinition> = Api::all(client);
    loop {
        let result = match api.get_opt(DEFINITION).await {
            Ok(Some(_)) => return,
            Ok(None) => {
                let definition = Patch::Apply(definition());
                let parameters = PatchParams::apply("fairlead");
                api.patch(DEFINITION, &parameters, &definition)
                    .await
                    .map(|_| ())
            }
            Err(error) => Err(error),
        };
        let Err(error) = result else { return };
        tracing::warn!(%error, "the definition of ClusterNetworkPolicy is not taken, it is tried again");
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

/// The definition itself, for those who apply it by other means.
pub fn definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": DEFINITION,
            // The group belongs to Kubernetes: servers ask for who approved the definition.
            "annotations": {
                "api-approved.kubernetes.io":
                    "https://github.com/kubernetes-sigs/network-policy-api/pull/30",
            },
        },
        "spec": {
            "group": "policy.networking.k8s.io",
            "names": {
                "kind": "ClusterNetworkPolicy",
                "listKind": "ClusterNetworkPolicyList",
                "plural": "clusternetworkpolicies",
                "singular": "clusternetworkpolicy",
                "shortNames": ["cnp"],
            },
            "scope": "Cluster",
            "versions": [{
                "name": "v1alpha2",
                "served": true,
                "storage": true,
                "subresources": { "status": {} },
                "additionalPrinterColumns": [
                    { "name": "Tier", "type": "string", "jsonPath": ".spec.tier" },
                    { "name": "Priority", "type": "string", "jsonPath": ".spec.priority" },
                    { "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp" },
                ],
                "schema": { "openAPIV3Schema": schema() },
            }],
        },
    })
}

fn schema() -> Value {
    let peers = json!({ "namespaces": selector(), "pods": pods() });
    let mut targets = peers.clone();
    targets["nodes"] = selector();
    targets["networks"] = strings(&json!({ "type": "string", "maxLength": 43 }));
    targets["domainNames"] = strings(&json!({
        "type": "string",
        "pattern": "^(\\*\\.)?([a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\\.)+[a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\\.?$",
    }));
    json!({
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": { "type": "string" },
            "kind": { "type": "string" },
            "metadata": { "type": "object" },
            "spec": {
                "type": "object",
                "required": ["priority", "subject", "tier"],
                "properties": {
                    "tier": { "type": "string", "enum": ["Admin", "Baseline"] },
                    "priority": { "type": "integer", "format": "int32", "minimum": 0, "maximum": 1000 },
                    "subject": one_of(&peers),
                    "ingress": rules("from", &peers),
                    "egress": rules("to", &targets),
                },
            },
            "status": {
                "type": "object",
                "required": ["conditions"],
                "properties": { "conditions": {
                    "type": "array",
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["type"],
                    "items": condition(),
                } },
            },
        },
    })
}

fn rules(peers_field: &str, peers: &Value) -> Value {
    let mut properties = json!({
        "name": { "type": "string", "maxLength": 100 },
        "action": { "type": "string", "enum": ["Accept", "Deny", "Pass"] },
        "protocols": list(&one_of(&protocols())),
    });
    properties[peers_field] = list(&one_of(peers));
    json!({
        "type": "array",
        "maxItems": 25,
        "items": {
            "type": "object",
            "required": ["action", peers_field],
            "properties": properties,
        },
    })
}

fn protocols() -> Value {
    let number = json!({ "type": "integer", "format": "int32", "minimum": 1, "maximum": 65535 });
    let range = json!({
        "type": "object",
        "required": ["start", "end"],
        "properties": { "start": number, "end": number },
        "x-kubernetes-validations": [{
            "rule": "self.start < self.end",
            "message": "start has to be less than end",
        }],
    });
    let port = one_of(&json!({ "number": number, "range": range }));
    let destination = json!({
        "type": "object",
        "properties": { "destinationPort": port },
    });
    json!({
        "tcp": destination,
        "udp": destination,
        "sctp": destination,
        "destinationNamedPort": { "type": "string" },
    })
}

/// An object of which exactly one field is set.
fn one_of(properties: &Value) -> Value {
    json!({
        "type": "object",
        "minProperties": 1,
        "maxProperties": 1,
        "properties": properties,
    })
}

fn list(items: &Value) -> Value {
    json!({ "type": "array", "minItems": 1, "maxItems": 25, "items": items })
}

fn strings(item: &Value) -> Value {
    let mut set = list(item);
    set["x-kubernetes-list-type"] = json!("set");
    set
}

fn pods() -> Value {
    json!({
        "type": "object",
        "required": ["podSelector"],
        "properties": { "namespaceSelector": selector(), "podSelector": selector() },
    })
}

fn selector() -> Value {
    let text = json!({ "type": "string" });
    json!({
        "type": "object",
        "x-kubernetes-map-type": "atomic",
        "properties": {
            "matchLabels": { "type": "object", "additionalProperties": text },
            "matchExpressions": {
                "type": "array",
                "x-kubernetes-list-type": "atomic",
                "items": {
                    "type": "object",
                    "required": ["key", "operator"],
                    "properties": {
                        "key": text,
                        "operator": text,
                        "values": {
                            "type": "array",
                            "x-kubernetes-list-type": "atomic",
                            "items": text,
                        },
                    },
                },
            },
        },
    })
}

fn condition() -> Value {
    json!({
        "type": "object",
        "required": ["lastTransitionTime", "message", "reason", "status", "type"],
        "properties": {
            "lastTransitionTime": { "type": "string", "format": "date-time" },
            "message": { "type": "string", "maxLength": 32768 },
            "observedGeneration": { "type": "integer", "format": "int64", "minimum": 0 },
            "reason": { "type": "string", "minLength": 1, "maxLength": 1024 },
            "status": { "type": "string", "enum": ["True", "False", "Unknown"] },
            "type": { "type": "string", "maxLength": 316 },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_one() {
        let typed: CustomResourceDefinition = serde_json::from_value(definition()).unwrap();
        let schema = typed.spec.versions[0].schema.clone().unwrap();
        let properties = schema.open_api_v3_schema.unwrap().properties.unwrap();
        assert!(
            properties["spec"]
                .properties
                .as_ref()
                .unwrap()
                .contains_key("egress")
        );
    }
}
