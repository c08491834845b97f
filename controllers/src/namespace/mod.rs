//! Namespace: empties a namespace that is being deleted, then lets it go.
//!
//! Pods go first and everything else waits for them, so that a pod never outlives what keeps
//! it in check (its NetworkPolicy, its Secrets). [`plan`] turns what is left into conditions.

mod plan;

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, PostParams};
use kube::core::PartialObjectMeta;
use kube::{Resource, ResourceExt};
use watch_cache::WatchCache;

use crate::framework::discovery::{self, Kind};
use crate::framework::{Context, During, Error, Outcome, Reconciler, Tolerate, act};
use plan::{FINALIZER, Findings, Left};

pub(crate) fn start(context: &Context) {
    let namespaces = context.caches.of::<Namespace>();
    let pods = context.caches.of::<Pod>();
    let going = namespaces.clone();
    context
        .controller("namespace-controller")
        .watch(&namespaces, |change| [change.key().name])
        .watch(&pods, move |change| {
            let namespace = change.key().namespace;
            let empty = matches!(change, watch_cache::Change::Deleted { .. });
            let found = going.get("", &namespace).filter(|_| empty);
            found
                .filter(|found| found.metadata.deletion_timestamp.is_some())
                .map(|_| namespace)
        })
        .run(
            context.config.workers,
            Controller {
                context: context.clone(),
                namespaces,
            },
        );
}

struct Controller {
    context: Context,
    namespaces: WatchCache<Namespace>,
}

impl Reconciler for Controller {
    type Key = String;

    async fn sync(&self, name: &String) -> Result<Outcome, Error> {
        let Some(cached) = self.namespaces.get("", name) else {
            return Ok(Outcome::Done);
        };
        if cached.metadata.deletion_timestamp.is_none() {
            return Ok(Outcome::Done);
        }
        let api = self.context.cluster_api::<Namespace>();
        let Some(mut namespace) = api.get_opt(name).await.during("reading Namespace", name)? else {
            return Ok(Outcome::Done);
        };
        if namespace.metadata.deletion_timestamp.is_none() || plan::is_finalized(&namespace) {
            return Ok(Outcome::Done);
        }
        if let Some(terminating) = plan::terminating(&namespace) {
            namespace = act::replace_status(&api, &terminating).await?;
        }
        let findings = self.empty(name).await;
        if let Some(told) = plan::conditions(&namespace, &findings, Timestamp::now()) {
            match act::replace_status(&api, &told).await.unless_gone()? {
                Some(written) => namespace = written,
                None => return Ok(Outcome::Done),
            }
        }
        if let Some(wait) = findings.wait() {
            return Ok(Outcome::After(wait));
        }
        self.finalize(&api, namespace).await?;
        Ok(Outcome::Done)
    }
}

impl Controller {
    /// Deletes what can be deleted now and reports what is left.
    async fn empty(&self, name: &str) -> Findings {
        let mut findings = Findings::default();
        // Pods use what the others are; while there are any, nobody needs to know all kinds.
        self.empty_kind(name, &Kind::pods(), &mut findings).await;
        if findings.wait().is_some() {
            return findings;
        }
        let kinds = match discovery::kinds(&self.context.client).await {
            Ok(kinds) => kinds,
            Err(error) => {
                findings.discovery_failed = Some(error.message());
                return findings;
            }
        };
        let namespaced = |kind: &&Kind| kind.namespaced && kind.supports("delete");
        for kind in kinds.iter().filter(namespaced) {
            self.empty_kind(name, kind, &mut findings).await;
        }
        findings
    }

    async fn empty_kind(&self, name: &str, kind: &Kind, findings: &mut Findings) {
        let label = plan::label(&kind.resource);
        match self.delete_all(name, kind).await {
            Ok(left) if left.is_empty() => {}
            Ok(left) => findings.left.push(Left::of(label, &left, Timestamp::now())),
            Err(error) => findings
                .failures
                .push(format!("{label}: {}", error.message())),
        }
    }

    async fn delete_all(
        &self,
        name: &str,
        kind: &Kind,
    ) -> Result<Vec<PartialObjectMeta<DynamicObject>>, Error> {
        let label = plan::label(&kind.resource);
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.context.client.clone(), name, &kind.resource);
        let found = api
            .list_metadata(&ListParams::default())
            .await
            .during("listing", &label)?;
        if found.items.is_empty() {
            return Ok(Vec::new());
        }
        let params = DeleteParams::background();
        if kind.supports("deletecollection") {
            api.delete_collection(&params, &ListParams::default())
                .await
                .during("deleting all", &label)?;
        } else {
            for object in &found.items {
                let deleted = api.delete(&object.name_any(), &params).await;
                deleted.during("deleting", &label).unless_gone()?;
            }
        }
        let left = api
            .list_metadata(&ListParams::default())
            .await
            .during("listing", &label)?;
        Ok(left.items)
    }

    /// Takes our finalizer away; the server deletes a namespace that has none.
    async fn finalize(&self, api: &Api<Namespace>, mut namespace: Namespace) -> Result<(), Error> {
        let name = namespace.name_any();
        if let Some(spec) = &mut namespace.spec {
            let finalizers = spec.finalizers.get_or_insert_default();
            finalizers.retain(|finalizer| finalizer != FINALIZER);
        }
        debug_assert!(namespace.meta().name.is_some());
        api.replace_subresource("finalize", &name, &PostParams::default(), &namespace)
            .await
            .during("finalizing Namespace", &name)
            .unless_gone()?;
        Ok(())
    }
}

/// How long something with a finalizer of somebody else is given before it is looked at again.
const FINALIZER_ESTIMATE: Duration = Duration::from_secs(15);
