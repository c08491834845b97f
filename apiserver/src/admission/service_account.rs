//! Pods run as a service account, with its token mounted unless they decline.

use std::time::Duration;

use serde_json::{Value, json};

use super::Attributes;
use crate::registry::meta;
use crate::response::ApiError;

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
const MIRROR: &str = "kubernetes.io/config.mirror";

/// The account of a new namespace is made a moment after it; this long is waited for it.
const ATTEMPTS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(100);

pub(super) async fn mutate(a: &mut Attributes<'_>) -> Result<(), ApiError> {
    if !a.is_create_of("", "pods") {
        return Ok(());
    }
    let Some(pod) = a.object.as_deref() else {
        return Ok(());
    };
    if !pod["metadata"]["annotations"][MIRROR].is_null() {
        if !pod["spec"]["serviceAccountName"]
            .as_str()
            .unwrap_or_default()
            .is_empty()
        {
            return Err(a.forbidden("a mirror pod may not reference service accounts"));
        }
        return Ok(());
    }
    let name = match pod["spec"]["serviceAccountName"].as_str() {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => "default".to_owned(),
    };
    let namespace = a.call.namespace().to_owned();
    let Some(account) = find(a, &namespace, &name).await else {
        return Err(a.forbidden(&format!(
            "error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
        )));
    };
    if let Some(pod) = a.object.as_deref_mut() {
        inject(pod, &name, &account);
    }
    Ok(())
}

async fn find(a: &Attributes<'_>, namespace: &str, name: &str) -> Option<Value> {
    let registry = &a.call.registry;
    for attempt in 0..ATTEMPTS {
        if let Some(found) = registry.lookup("", "serviceaccounts", namespace, name) {
            return Some(found.value());
        }
        if name != "default" && attempt > 0 {
            return None;
        }
        tokio::time::sleep(PAUSE).await;
    }
    None
}

fn inject(pod: &mut Value, name: &str, account: &Value) {
    pod["spec"]["serviceAccountName"] = name.into();
    pod["spec"]["serviceAccount"] = name.into();
    let automount = pod["spec"]["automountServiceAccountToken"]
        .as_bool()
        .or_else(|| account["automountServiceAccountToken"].as_bool())
        .unwrap_or(true);
    if automount {
        mount_token(&mut pod["spec"]);
    }
    let without_secrets = pod["spec"]["imagePullSecrets"]
        .as_array()
        .is_none_or(Vec::is_empty);
    if let Some(secrets) = account["imagePullSecrets"].as_array()
        && without_secrets
        && !secrets.is_empty()
    {
        pod["spec"]["imagePullSecrets"] = secrets.clone().into();
    }
}

fn mount_token(spec: &mut Value) {
    let volumes: Vec<Value> = spec["volumes"].as_array().cloned().unwrap_or_default();
    let existing = volumes
        .iter()
        .filter_map(|v| v["name"].as_str())
        .find(|name| name.starts_with(VOLUME_PREFIX))
        .map(str::to_owned);
    let is_new = existing.is_none();
    let volume = existing.unwrap_or_else(|| format!("{VOLUME_PREFIX}{}", meta::random_suffix(5)));
    let mut mounted = false;
    for list in ["initContainers", "containers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let mut mounts = container["volumeMounts"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            if mounts.iter().any(|m| m["mountPath"] == MOUNT_PATH) {
                continue;
            }
            mounts.push(json!({"name": volume, "readOnly": true, "mountPath": MOUNT_PATH}));
            container["volumeMounts"] = mounts.into();
            mounted = true;
        }
    }
    if mounted && is_new {
        let mut volumes = volumes;
        volumes.push(token_volume(&volume));
        spec["volumes"] = volumes.into();
    }
}

/// Token, CA certificate and namespace.
fn token_volume(name: &str) -> Value {
    json!({
        "name": name,
        "projected": {
            "defaultMode": 420,
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {
                    "name": "kube-root-ca.crt",
                    "items": [{"key": "ca.crt", "path": "ca.crt"}],
                }},
                {"downwardAPI": {
                    "items": [{
                        "path": "namespace",
                        "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
                    }],
                }},
            ],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_mounted_where_nothing_else_is() {
        let mut pod = json!({"spec": {"containers": [
            {"name": "a"},
            {"name": "b", "volumeMounts": [{"name": "own", "mountPath": MOUNT_PATH}]},
        ]}});
        inject(
            &mut pod,
            "default",
            &json!({"imagePullSecrets": [{"name": "s"}]}),
        );
        assert_eq!(
            pod["spec"]["containers"][0]["volumeMounts"][0]["mountPath"],
            MOUNT_PATH
        );
        assert_eq!(
            pod["spec"]["containers"][1]["volumeMounts"][0]["name"],
            "own"
        );
        assert_eq!(pod["spec"]["volumes"].as_array().map(Vec::len), Some(1));
        assert_eq!(pod["spec"]["imagePullSecrets"], json!([{"name": "s"}]));
    }

    #[test]
    fn the_pod_decides_before_the_account() {
        for (pod, account, expect) in [
            (json!(null), json!(false), false),
            (json!(true), json!(false), true),
            (json!(false), json!(true), false),
            (json!(null), json!(null), true),
        ] {
            let mut own = json!({"spec": {"containers": [{"name": "a"}], "automountServiceAccountToken": pod}});
            inject(
                &mut own,
                "x",
                &json!({"automountServiceAccountToken": account}),
            );
            assert_eq!(own["spec"].get("volumes").is_some(), expect);
        }
    }
}
