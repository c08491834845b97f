//! Follows the definitions: accepts names, registers resources, removes objects with their kind.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use storage::{Expect, Mutation, StoreError, Transaction};

use super::naming;
use crate::registry::managed::Writer;
use crate::registry::object::{self, Object};
use crate::registry::{Registry, Resource, meta};
use crate::response::ApiError;

const GROUP: &str = "apiextensions.k8s.io";
const RESOURCE: &str = "customresourcedefinitions";
const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";
const PAUSE: Duration = Duration::from_millis(500);

/// Registers what is there, then follows the changes until shutdown.
pub(crate) async fn start(registry: &Arc<Registry>) {
    let mut known = BTreeMap::new();
    let cache = registry.cacher.resource(GROUP, RESOURCE);
    let mut seen = cache.touched();
    reconcile(registry, &mut known).await;
    let registry = registry.clone();
    tokio::spawn(async move {
        loop {
            let applied = registry.cacher.applied();
            let touched = cache.touched();
            if touched != seen {
                seen = touched;
                if !reconcile(&registry, &mut known).await {
                    // Something is left to do that no event may announce.
                    seen = 0;
                    tokio::time::sleep(PAUSE).await;
                    if registry.shutdown.is_cancelled() {
                        return;
                    }
                }
                continue;
            }
            tokio::select! {
                () = registry.shutdown.cancelled() => return,
                () = registry.cacher.beyond(applied) => {}
            }
        }
    });
}

/// What is registered: the definition's revision by its name, with its group and plural.
type Known = BTreeMap<String, (u64, String, String)>;

/// Brings catalog and definitions in line; false when it has to be tried again.
async fn reconcile(registry: &Registry, known: &mut Known) -> bool {
    let objects = registry.list(GROUP, RESOURCE, "");
    let mut all: Vec<(Arc<Object>, Value)> = objects
        .into_iter()
        .map(|o| (o.clone(), o.value()))
        .collect();
    all.sort_by_key(|(_, d)| meta::text(d, "creationTimestamp").to_owned());
    let mut done = true;
    for (stored, definition) in &all {
        let outcome = if meta::is_deleting(definition) {
            terminate(registry, stored, definition).await
        } else {
            accept(registry, stored, definition, &all).await
        };
        if let Err(error) = outcome {
            tracing::warn!(definition = meta::name(definition), %error, "a custom resource definition is tried again");
            done = false;
        }
    }
    register(registry, &all, known);
    done
}

/// Makes the catalog show what the definitions say.
fn register(registry: &Registry, all: &[(Arc<Object>, Value)], known: &mut Known) {
    let mut gone: Known = std::mem::take(known);
    for (stored, definition) in all {
        let name = meta::name(definition).to_owned();
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let (group, plural) = (
            text(&definition["spec"]["group"]),
            text(&definition["spec"]["names"]["plural"]),
        );
        let before = gone.remove(&name);
        if before
            .as_ref()
            .is_some_and(|(revision, ..)| *revision == stored.revision)
        {
            known.insert(name, (stored.revision, group, plural));
            continue;
        }
        if !naming::is_true(definition, "Established") {
            continue;
        }
        let resources: Vec<Resource> = super::resources(definition, &registry.cacher);
        registry.catalog.replace(&group, &plural, resources);
        known.insert(name, (stored.revision, group, plural));
    }
    for (_, group, plural) in gone.into_values() {
        registry.catalog.remove(&group, &plural);
    }
}

async fn accept(
    registry: &Registry,
    stored: &Object,
    definition: &Value,
    all: &[(Arc<Object>, Value)],
) -> Result<(), ApiError> {
    let others: Vec<Value> = all
        .iter()
        .map(|(_, d)| d)
        .filter(|d| {
            d["spec"]["group"] == definition["spec"]["group"]
                && meta::name(d) != meta::name(definition)
        })
        .cloned()
        .collect();
    let mut new = definition.clone();
    new["status"] = naming::decide_status(definition, &others);
    let has = meta::finalizers(&new).contains(&FINALIZER);
    if !has {
        let mut finalizers: Vec<String> = meta::finalizers(&new)
            .iter()
            .map(|f| (*f).to_owned())
            .collect();
        finalizers.push(FINALIZER.into());
        meta::of_mut(&mut new).insert("finalizers".into(), finalizers.into());
    }
    write(registry, stored, definition, new).await
}

/// Removes the objects of a definition that is being deleted, then lets it go.
async fn terminate(
    registry: &Registry,
    stored: &Object,
    definition: &Value,
) -> Result<(), ApiError> {
    if !meta::finalizers(definition).contains(&FINALIZER) {
        return Ok(());
    }
    let mut new = definition.clone();
    new["status"] = naming::terminating_status(definition);
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let (group, plural) = (
        text(&definition["spec"]["group"]),
        text(&definition["spec"]["names"]["plural"]),
    );
    let instances = registry.list(&group, &plural, "");
    let mut left = 0;
    for instance in &instances {
        left += usize::from(!remove(registry, instance).await?);
    }
    if left > 0 {
        write(registry, stored, definition, new).await?;
        return Err(ApiError::unavailable(format!(
            "{left} objects wait for their finalizers"
        )));
    }
    let finalizers: Vec<String> = meta::finalizers(&new)
        .iter()
        .filter(|f| **f != FINALIZER)
        .map(|f| (*f).to_owned())
        .collect();
    if finalizers.is_empty() {
        let key = stored.key.clone();
        return commit(registry, stored, Mutation::Delete { key }).await;
    }
    meta::of_mut(&mut new).insert("finalizers".into(), finalizers.into());
    write(registry, stored, definition, new).await
}

/// Deletes an object, or marks it where it has finalizers; true when it is gone.
async fn remove(registry: &Registry, instance: &Object) -> Result<bool, ApiError> {
    let value = instance.value();
    if meta::finalizers(&value).is_empty() {
        commit(
            registry,
            instance,
            Mutation::Delete {
                key: instance.key.clone(),
            },
        )
        .await?;
        return Ok(true);
    }
    if !meta::is_deleting(&value) {
        let mut marked = value;
        let metadata = meta::of_mut(&mut marked);
        metadata.insert("deletionTimestamp".into(), meta::now().into());
        metadata.insert("deletionGracePeriodSeconds".into(), 0.into());
        let value = Bytes::from(object::encode(&marked));
        commit(
            registry,
            instance,
            Mutation::Put {
                key: instance.key.clone(),
                value,
            },
        )
        .await?;
    }
    Ok(false)
}

/// Writes the server's own change of a definition.
async fn write(
    registry: &Registry,
    stored: &Object,
    old: &Value,
    mut new: Value,
) -> Result<(), ApiError> {
    if new == *old {
        return Ok(());
    }
    if let Some(resource) = registry.catalog.get(GROUP, "v1", RESOURCE) {
        let writer = Writer {
            shape: &resource.shape,
            manager: "kube-apiserver".into(),
            api_version: resource.api_version(),
            subresource: "status".into(),
            reset: &[&["f:spec"], &["f:metadata"]],
            now: meta::now(),
        };
        writer.update(old, &mut new, false);
    }
    let value = Bytes::from(object::encode(&new));
    commit(
        registry,
        stored,
        Mutation::Put {
            key: stored.key.clone(),
            value,
        },
    )
    .await
}

async fn commit(registry: &Registry, stored: &Object, mutation: Mutation) -> Result<(), ApiError> {
    let transaction = Transaction {
        expect: vec![(stored.key.clone(), Expect::ModRevision(stored.revision))],
        mutations: vec![mutation],
    };
    match registry.cacher.store().commit(transaction).await {
        // Whoever changed it meanwhile has made an event that leads here again.
        Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
