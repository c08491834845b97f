//! Garbage collector: deletes objects whose owners are all gone, in the foreground or in the
//! background, and lets dependants go free where they are to be orphaned.
//!
//! [`graph`] holds who depends on whom and judges; [`monitor`] feeds it from metadata watches
//! of every kind; this module asks the API for the truth before every deletion: the graph
//! may lag, so it only ever says where to look.

mod graph;
mod monitor;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{
    Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, PropagationPolicy,
};
use kube::core::PartialObjectMeta;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::framework::discovery::Kind;
use crate::framework::{Context, During, Error, Outcome, Reconciler, Tolerate};
use graph::{FOREGROUND, Judgement, Node, ORPHAN, Owner, Place, Todo, Uid, group_of};
use monitor::World;

const NAME: &str = "garbage-collector-controller";
/// Owners known to be gone that are remembered, to spare look-ups.
const ABSENT: usize = 500;

type Meta = PartialObjectMeta<DynamicObject>;

pub(crate) fn start(context: &Context) {
    let (ready, listed) = watch::channel(false);
    let builder = context.controller::<Todo>(NAME);
    let world = Arc::new(World::new(builder.queue()));
    context.spawn(monitor::supervise(
        context.client.clone(),
        world.clone(),
        ready,
    ));
    let collector = Collector {
        context: context.clone(),
        world,
        absent: Mutex::default(),
        listed,
    };
    builder.run(context.config.workers * 4, collector);
}

struct Collector {
    context: Context,
    world: Arc<World>,
    absent: Mutex<Vec<Uid>>,
    listed: watch::Receiver<bool>,
}

impl Reconciler for Collector {
    type Key = Todo;

    async fn sync(&self, todo: &Todo) -> Result<Outcome, Error> {
        // Before everything is listed, an owner may only seem to be missing.
        let mut listed = self.listed.clone();
        if listed.wait_for(|listed| *listed).await.is_err() {
            return Ok(Outcome::Done);
        }
        match todo {
            Todo::Judge(uid) => self.judge(uid).await?,
            Todo::Orphan(uid) => self.orphan(uid).await?,
        }
        Ok(Outcome::Done)
    }
}

fn has_finalizer(meta: &Meta, name: &str) -> bool {
    meta.metadata
        .finalizers
        .iter()
        .flatten()
        .any(|finalizer| finalizer == name)
}

fn label(place: &Place) -> String {
    format!("{} {}/{}", place.kind, place.namespace, place.name)
}

impl Collector {
    fn kind(&self, group: &str, kind: &str) -> Option<Kind> {
        self.world
            .kinds
            .lock()
            .get(&(group.to_owned(), kind.to_owned()))
            .cloned()
    }

    fn api(&self, kind: &Kind, namespace: &str) -> Api<DynamicObject> {
        let client = self.context.client.clone();
        if kind.namespaced {
            Api::namespaced_with(client, namespace, &kind.resource)
        } else {
            Api::all_with(client, &kind.resource)
        }
    }

    fn api_of(&self, place: &Place) -> Result<Api<DynamicObject>, Error> {
        match self.kind(&place.group, &place.kind) {
            Some(kind) => Ok(self.api(&kind, &place.namespace)),
            None => Err(Error::Invalid {
                object: label(place),
                field: "kind",
                reason: "the API does not serve it (yet)".to_owned(),
            }),
        }
    }

    /// The object as the server has it, if it still is the one with this uid.
    async fn live(&self, place: &Place, uid: &str) -> Result<Option<Meta>, Error> {
        let found = self.api_of(place)?.get_metadata_opt(&place.name).await;
        let found = found.during("reading", label(place))?;
        Ok(found.filter(|meta| meta.metadata.uid.as_deref() == Some(uid)))
    }

    fn remember_absent(&self, uid: &str) {
        let mut absent = self.absent.lock();
        if absent.len() >= ABSENT {
            absent.remove(0);
        }
        absent.push(uid.to_owned());
    }

    async fn judge(&self, uid: &Uid) -> Result<(), Error> {
        let Some(node) = self.world.graph.lock().get(uid).cloned() else {
            return Ok(());
        };
        if node.deleting && !node.foreground {
            return Ok(());
        }
        let Some(live) = self.live(&node.place, uid).await? else {
            self.remember_absent(uid);
            self.world.gone(uid);
            return Ok(());
        };
        if node.foreground {
            return self.wait_for_dependents(uid, &node, &live).await;
        }
        let owners = live.metadata.owner_references.clone().unwrap_or_default();
        let mut states = BTreeMap::new();
        for owner in &owners {
            states.insert(owner.uid.clone(), self.state(owner, &node.place).await?);
        }
        let dependents = self.world.graph.lock().dependents(uid);
        match graph::judge(&states, &dependents) {
            Judgement::Keep => Ok(()),
            Judgement::Drop(gone) => self.drop_owners(&node.place, &live, &gone).await,
            Judgement::Delete => {
                let policy = if has_finalizer(&live, ORPHAN) {
                    PropagationPolicy::Orphan
                } else if has_finalizer(&live, FOREGROUND) {
                    PropagationPolicy::Foreground
                } else {
                    PropagationPolicy::Background
                };
                self.delete(&node.place, &live, policy).await
            }
            Judgement::DeleteForeground { unblock } => {
                let mut live = live;
                if unblock {
                    match self.unblock_owners(&node.place, &live).await? {
                        Some(unblocked) => live = unblocked,
                        None => return Ok(()),
                    }
                }
                self.delete(&node.place, &live, PropagationPolicy::Foreground)
                    .await
            }
        }
    }

    async fn state(&self, owner: &OwnerReference, place: &Place) -> Result<Owner, Error> {
        if self.absent.lock().contains(&owner.uid) {
            return Ok(Owner::Dangling);
        }
        let group = group_of(&owner.api_version);
        let at = Place {
            group: group.to_owned(),
            kind: owner.kind.clone(),
            namespace: place.namespace.clone(),
            name: owner.name.clone(),
        };
        // An object without namespace cannot have an owner that has one: nobody can say
        // which is meant, so it is left alone.
        let lost = self
            .kind(group, &owner.kind)
            .is_some_and(|kind| kind.namespaced)
            && place.namespace.is_empty();
        if lost {
            return Ok(Owner::Solid);
        }
        let Some(live) = self.live(&at, &owner.uid).await? else {
            self.remember_absent(&owner.uid);
            return Ok(Owner::Dangling);
        };
        let going = live.metadata.deletion_timestamp.is_some();
        Ok(if going && has_finalizer(&live, FOREGROUND) {
            Owner::Waiting
        } else {
            Owner::Solid
        })
    }

    /// A foreground deletion ends when no dependant blocks it any more.
    async fn wait_for_dependents(&self, uid: &Uid, node: &Node, live: &Meta) -> Result<(), Error> {
        let blocking = self.world.graph.lock().blocking(uid);
        if blocking.is_empty() {
            return self.drop_finalizer(&node.place, live, FOREGROUND).await;
        }
        for (dependent, node) in blocking {
            if !node.foreground {
                self.world.queue.add(Todo::Judge(dependent));
            }
        }
        Ok(())
    }

    async fn orphan(&self, uid: &Uid) -> Result<(), Error> {
        let Some(node) = self.world.graph.lock().get(uid).cloned() else {
            return Ok(());
        };
        let dependents = self.world.graph.lock().dependents(uid);
        for (dependent, node) in dependents {
            if let Some(live) = self.live(&node.place, &dependent).await? {
                self.drop_owners(&node.place, &live, std::slice::from_ref(uid))
                    .await?;
            }
        }
        if let Some(live) = self.live(&node.place, uid).await? {
            self.drop_finalizer(&node.place, &live, ORPHAN).await?;
        }
        Ok(())
    }

    async fn drop_owners(&self, place: &Place, live: &Meta, gone: &[Uid]) -> Result<(), Error> {
        let mut owners = live.metadata.owner_references.clone().unwrap_or_default();
        let before = owners.len();
        owners.retain(|owner| !gone.contains(&owner.uid));
        if owners.len() < before {
            self.patch(place, live, json!({"ownerReferences": owners}))
                .await?;
        }
        Ok(())
    }

    async fn unblock_owners(&self, place: &Place, live: &Meta) -> Result<Option<Meta>, Error> {
        let mut owners = live.metadata.owner_references.clone().unwrap_or_default();
        for owner in &mut owners {
            owner.block_owner_deletion = Some(false);
        }
        self.patch(place, live, json!({"ownerReferences": owners}))
            .await
    }

    async fn drop_finalizer(&self, place: &Place, live: &Meta, name: &str) -> Result<(), Error> {
        let mut finalizers = live.metadata.finalizers.clone().unwrap_or_default();
        let before = finalizers.len();
        finalizers.retain(|finalizer| finalizer != name);
        if finalizers.len() < before {
            self.patch(place, live, json!({"finalizers": finalizers}))
                .await?;
        }
        Ok(())
    }

    /// Changes metadata of exactly the object that was read.
    async fn patch(
        &self,
        place: &Place,
        live: &Meta,
        mut metadata: Value,
    ) -> Result<Option<Meta>, Error> {
        metadata["uid"] = json!(live.metadata.uid);
        metadata["resourceVersion"] = json!(live.metadata.resource_version);
        let change = json!({"metadata": metadata});
        self.api_of(place)?
            .patch_metadata(&place.name, &PatchParams::default(), &Patch::Merge(&change))
            .await
            .during("patching", label(place))
            .unless_gone()
    }

    async fn delete(
        &self,
        place: &Place,
        live: &Meta,
        policy: PropagationPolicy,
    ) -> Result<(), Error> {
        let params = DeleteParams {
            propagation_policy: Some(policy),
            preconditions: Some(Preconditions {
                uid: live.metadata.uid.clone(),
                resource_version: live.metadata.resource_version.clone(),
            }),
            ..DeleteParams::default()
        };
        let deleted = self.api_of(place)?.delete(&place.name, &params).await;
        deleted.during("deleting", label(place)).unless_gone()?;
        Ok(())
    }
}
