//! The few ways in which controllers change objects.

use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use watch_cache::ObjectKey;

use super::error::{During, Error, Tolerate};
use super::owners::{Claim, with_owner, without_owner};

/// What a controller can write.
pub trait Object:
    Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
}
impl<K> Object for K where
    K: Resource<DynamicType = ()>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

fn name_of<K: Resource<DynamicType = ()>>(object: &K) -> String {
    format!("{} {}", K::kind(&()), ObjectKey::of(object))
}

pub async fn create<K: Object>(api: &Api<K>, object: &K) -> Result<K, Error> {
    api.create(&PostParams::default(), object)
        .await
        .during("creating", name_of(object))
}

/// Writes the object's status; fails with a conflict if the object has changed meanwhile.
pub async fn replace_status<K: Object>(api: &Api<K>, object: &K) -> Result<K, Error> {
    api.replace_status(&object.name_any(), &PostParams::default(), object)
        .await
        .during("updating the status of", name_of(object))
}

/// Writes the object; fails with a conflict if the object has changed meanwhile.
pub async fn replace<K: Object>(api: &Api<K>, object: &K) -> Result<K, Error> {
    api.replace(&object.name_any(), &PostParams::default(), object)
        .await
        .during("updating", name_of(object))
}

/// Changes parts of the object as it was read; fails with a conflict if it has changed.
pub async fn merge<K: Object>(api: &Api<K>, object: &K, mut change: Value) -> Result<K, Error> {
    change["metadata"]["resourceVersion"] = json!(object.meta().resource_version);
    change["metadata"]["uid"] = json!(object.meta().uid);
    patch(api, object, &change).await
}

/// Changes parts of the object whatever else happened to it.
pub async fn patch<K: Object>(api: &Api<K>, object: &K, change: &Value) -> Result<K, Error> {
    api.patch(
        &object.name_any(),
        &PatchParams::default(),
        &Patch::Merge(change),
    )
    .await
    .during("patching", name_of(object))
}

/// Deletes exactly this object, not one that took its name; an absent one is fine.
/// True if it was there.
pub async fn delete<K: Object>(
    api: &Api<K>,
    object: &K,
    mut params: DeleteParams,
) -> Result<bool, Error> {
    params.preconditions = Some(Preconditions {
        uid: object.meta().uid.clone(),
        resource_version: None,
    });
    let deleted = api
        .delete(&object.name_any(), &params)
        .await
        .during("deleting", name_of(object))
        .unless_gone();
    match deleted {
        Ok(answer) => Ok(answer.is_some()),
        // The precondition failed: another object has the name now.
        Err(error) if error.is_conflict() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Carries a claim out. `confirm` reads the owner from the server before the first adoption,
/// since the cache may not know yet that the owner is being deleted. What was taken over is
/// returned together with what was owned; `note` sees every answer.
pub async fn claim<K: Object>(
    api: &Api<K>,
    owner: &OwnerReference,
    claim: Claim<K>,
    confirm: impl Future<Output = Result<bool, Error>>,
    note: impl Fn(&K),
) -> Result<Vec<Arc<K>>, Error> {
    let mut owned = claim.owned;
    for object in &claim.release {
        let owners = without_owner(object.as_ref(), &owner.uid);
        let change = json!({"metadata": {"ownerReferences": owners}});
        if let Some(released) = merge(api, object.as_ref(), change).await.unless_gone()? {
            note(&released);
        }
    }
    if claim.adopt.is_empty() || !confirm.await? {
        return Ok(owned);
    }
    for object in &claim.adopt {
        let owners = with_owner(object.as_ref(), owner);
        let change = json!({"metadata": {"ownerReferences": owners}});
        if let Some(adopted) = merge(api, object.as_ref(), change).await.unless_gone()? {
            note(&adopted);
            owned.push(Arc::new(adopted));
        }
    }
    Ok(owned)
}

/// Whether the owner is still the one in the cache and not being deleted, as the server has it.
pub async fn still_there<K: Object>(api: &Api<K>, owner: &K) -> Result<bool, Error> {
    let live = api
        .get_opt(&owner.name_any())
        .await
        .during("reading", name_of(owner))?;
    Ok(live.is_some_and(|live| {
        live.meta().uid == owner.meta().uid && live.meta().deletion_timestamp.is_none()
    }))
}
