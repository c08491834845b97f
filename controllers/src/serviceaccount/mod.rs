//! What every namespace is given: the `default` ServiceAccount and the ConfigMap by which
//! pods trust the API server.

pub(crate) mod legacy_tokens;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;
use watch_cache::{Cacheable, Change, WatchCache};

use crate::framework::{Context, Error, Outcome, Reconciler, act};

const ROOT_CA_NAME: &str = "kube-root-ca.crt";
const ROOT_CA_KEY: &str = "ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";
/// The text that upstream gives the ConfigMap; tools compare it.
const ROOT_CA_DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

fn is_active(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_none()
        && namespace
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref())
            != Some("Terminating")
}

fn namespace_of<K: Cacheable>(change: &Change<K>) -> [String; 1] {
    [change.object().meta().namespace.clone().unwrap_or_default()]
}

fn name_of(change: &Change<Namespace>) -> [String; 1] {
    [change.object().metadata.name.clone().unwrap_or_default()]
}

/// Starts the controller that gives every namespace its `default` ServiceAccount.
pub(crate) fn start_accounts(context: &Context) {
    let namespaces = context.caches.of::<Namespace>();
    let accounts = context
        .caches
        .selected::<ServiceAccount>("metadata.name=default");
    context
        .controller("serviceaccount-controller")
        .watch(&namespaces, name_of)
        .watch(&accounts, namespace_of)
        .run(
            context.config.workers,
            Accounts {
                context: context.clone(),
                namespaces,
                accounts,
            },
        );
}

struct Accounts {
    context: Context,
    namespaces: WatchCache<Namespace>,
    accounts: WatchCache<ServiceAccount>,
}

impl Reconciler for Accounts {
    type Key = String;

    async fn sync(&self, name: &String) -> Result<Outcome, Error> {
        let active = self
            .namespaces
            .get("", name)
            .is_some_and(|found| is_active(&found));
        if !active || self.accounts.get(name, "default").is_some() {
            return Ok(Outcome::Done);
        }
        let account = ServiceAccount {
            metadata: ObjectMeta {
                name: Some("default".to_owned()),
                namespace: Some(name.clone()),
                ..ObjectMeta::default()
            },
            ..ServiceAccount::default()
        };
        ensure(act::create(&self.context.api(name), &account).await)
    }
}

/// Whoever made it, it is there; and a namespace that goes away needs nothing.
fn ensure<T>(created: Result<T, Error>) -> Result<Outcome, Error> {
    match created {
        Err(error)
            if !(error.is_already_exists()
                || error.is_namespace_terminating()
                || error.is_not_found()) =>
        {
            Err(error)
        }
        _ => Ok(Outcome::Done),
    }
}

/// Starts the publisher of the root CA; without one in the configuration there is nothing to
/// publish.
pub(crate) fn start_root_ca(context: &Context) {
    if context.config.root_ca_pem.is_empty() {
        return;
    }
    let namespaces = context.caches.of::<Namespace>();
    let selector = format!("metadata.name={ROOT_CA_NAME}");
    let published = context.caches.selected::<ConfigMap>(&selector);
    context
        .controller("root-ca-certificate-publisher-controller")
        .watch(&namespaces, name_of)
        .watch(&published, namespace_of)
        .run(
            context.config.workers,
            RootCa {
                context: context.clone(),
                namespaces,
                published,
            },
        );
}

struct RootCa {
    context: Context,
    namespaces: WatchCache<Namespace>,
    published: WatchCache<ConfigMap>,
}

impl Reconciler for RootCa {
    type Key = String;

    async fn sync(&self, name: &String) -> Result<Outcome, Error> {
        if !self
            .namespaces
            .get("", name)
            .is_some_and(|found| is_active(&found))
        {
            return Ok(Outcome::Done);
        }
        let api = self.context.api::<ConfigMap>(name);
        let pem = &self.context.config.root_ca_pem;
        let Some(found) = self.published.get(name, ROOT_CA_NAME) else {
            return ensure(act::create(&api, &root_ca(name, pem)).await);
        };
        if is_right(&found, pem) {
            return Ok(Outcome::Done);
        }
        let mut right = found.as_ref().clone();
        right.data = Some(BTreeMap::from([(ROOT_CA_KEY.to_owned(), pem.clone())]));
        right.binary_data = None;
        let notes = right.metadata.annotations.get_or_insert_default();
        notes.insert(DESCRIPTION.to_owned(), ROOT_CA_DESCRIPTION.to_owned());
        ensure(act::replace(&api, &right).await)
    }
}

fn is_right(found: &ConfigMap, pem: &str) -> bool {
    let data = found.data.as_ref();
    data.is_some_and(|data| data.len() == 1 && data.get(ROOT_CA_KEY).is_some_and(|is| is == pem))
        && found
            .metadata
            .annotations
            .as_ref()
            .and_then(|notes| notes.get(DESCRIPTION))
            .is_some()
}

fn root_ca(namespace: &str, pem: &str) -> ConfigMap {
    serde_json::from_value(json!({
        "metadata": {"name": ROOT_CA_NAME, "namespace": namespace,
            "annotations": {DESCRIPTION: ROOT_CA_DESCRIPTION}},
        "data": {ROOT_CA_KEY: pem},
    }))
    .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_root_ca_is_noticed() {
        let right = root_ca("ns", "PEM");
        assert!(is_right(&right, "PEM"));
        assert!(!is_right(&right, "OTHER"));
        let mut more = right.clone();
        more.data
            .get_or_insert_default()
            .insert("x".to_owned(), "y".to_owned());
        assert!(!is_right(&more, "PEM"));
        assert!(!is_right(&ConfigMap::default(), "PEM"));
    }

    #[test]
    fn a_namespace_on_its_way_out_is_not_active() {
        let namespace = |value| -> Namespace { serde_json::from_value(value).expect("JSON") };
        assert!(is_active(&namespace(json!({"metadata": {"name": "a"}}))));
        assert!(!is_active(&namespace(
            json!({"status": {"phase": "Terminating"}})
        )));
        let going = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
        assert!(!is_active(&namespace(going)));
    }
}
