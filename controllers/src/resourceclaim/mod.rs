//! ResourceClaims from templates: a pod that names a template gets a claim of its own, is told the
//! claim's name in its status, and takes the claim along when it goes or ends.

use k8s_openapi::api::core::v1::{Pod, PodResourceClaim, PodStatus};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimTemplate};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use watch_cache::{ObjectKey, WatchCache};

use crate::framework::owners::{controller_of, is_controlled_by};
use crate::framework::pods::is_terminal;
use crate::framework::related::owner_keys;
use crate::framework::{Context, During, Error, EventType, Outcome, Reconciler, Tolerate, act};

const NAME: &str = "resourceclaim-controller";
/// Which of its pod's entries a claim was made for.
const ENTRY: &str = "resource.kubernetes.io/pod-claim-name";

pub(crate) fn start(context: &Context) {
    let pods = context.caches.of::<Pod>();
    let claims = context.caches.of::<ResourceClaim>();
    let templates = context.caches.of::<ResourceClaimTemplate>();
    let waiting = pods.clone();
    context
        .controller(NAME)
        .watch(&pods, |change| {
            (entries(change.object()).next().is_some()).then(|| change.key())
        })
        .watch(&claims, owner_keys::<Pod, ResourceClaim>)
        .watch(&templates, move |change| {
            let template = change.key();
            let all = waiting.list_namespace(&template.namespace).into_iter();
            let using = all.filter(|pod| {
                let mut entries = entries(pod);
                entries.any(|entry| {
                    entry.resource_claim_template_name.as_ref() == Some(&template.name)
                })
            });
            using
                .map(|pod| ObjectKey::of(pod.as_ref()))
                .collect::<Vec<_>>()
        })
        .run(
            context.config.workers,
            Controller {
                context: context.clone(),
                pods,
                claims,
                templates,
            },
        );
}

/// The pod's entries that name a template.
fn entries(pod: &Pod) -> impl Iterator<Item = &PodResourceClaim> {
    let claims = pod.spec.iter();
    claims
        .flat_map(|spec| spec.resource_claims.iter().flatten())
        .filter(|entry| entry.resource_claim_template_name.is_some())
}

/// The claim that the pod's status names for an entry; the inner value is none where none is needed.
fn told<'a>(status: Option<&'a PodStatus>, entry: &str) -> Option<Option<&'a str>> {
    let statuses = status?.resource_claim_statuses.as_ref()?;
    let found = statuses.iter().find(|status| status.name == entry)?;
    Some(found.resource_claim_name.as_deref())
}

fn claim_of(pod: &Pod, entry: &str, template: &ResourceClaimTemplate) -> ResourceClaim {
    let meta = template.spec.metadata.clone().unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.insert(ENTRY.to_owned(), entry.to_owned());
    ResourceClaim {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-{entry}-", pod.name_any())),
            namespace: pod.namespace(),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![controller_of(pod)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.spec.clone(),
        status: None,
    }
}

struct Controller {
    context: Context,
    pods: WatchCache<Pod>,
    claims: WatchCache<ResourceClaim>,
    templates: WatchCache<ResourceClaimTemplate>,
}

impl Reconciler for Controller {
    type Key = ObjectKey;

    async fn sync(&self, key: &ObjectKey) -> Result<Outcome, Error> {
        let Some(pod) = self.pods.get_key(key) else {
            return Ok(Outcome::Done);
        };
        if is_terminal(&pod) {
            self.release(key, &pod).await?;
            return Ok(Outcome::Done);
        }
        if pod.metadata.deletion_timestamp.is_some() {
            return Ok(Outcome::Done);
        }
        for entry in entries(&pod) {
            if told(pod.status.as_ref(), &entry.name).is_none() {
                self.provide(key, &pod, entry).await?;
            }
        }
        Ok(Outcome::Done)
    }
}

impl Controller {
    /// The claims that were made for the pod.
    fn own(&self, key: &ObjectKey, pod: &Pod) -> Vec<std::sync::Arc<ResourceClaim>> {
        let uid = pod.uid().unwrap_or_default();
        let mut claims = self.claims.list_namespace(&key.namespace);
        claims.retain(|claim| is_controlled_by(claim.as_ref(), &uid));
        claims
    }

    /// Makes the entry's claim unless it is there, and tells its name.
    async fn provide(
        &self,
        key: &ObjectKey,
        pod: &Pod,
        entry: &PodResourceClaim,
    ) -> Result<(), Error> {
        let made = self.own(key, pod).into_iter().find(|claim| {
            claim.annotations().get(ENTRY) == Some(&entry.name)
                && claim.metadata.deletion_timestamp.is_none()
        });
        let name = match made {
            Some(claim) => claim.name_any(),
            None => match self.make(key, pod, entry).await? {
                Some(name) => name,
                None => return Ok(()),
            },
        };
        let change = json!({
            "metadata": { "uid": pod.metadata.uid },
            "status": { "resourceClaimStatuses": [
                { "name": entry.name, "resourceClaimName": name },
            ]},
        });
        // By name, so that several entries and the kubelet's part do not disturb each other.
        self.context
            .api::<Pod>(&key.namespace)
            .patch_status(
                &key.name,
                &PatchParams::default(),
                &Patch::Strategic(&change),
            )
            .await
            .during("telling its claims to Pod", key)
            .unless_gone()?;
        Ok(())
    }

    async fn make(
        &self,
        key: &ObjectKey,
        pod: &Pod,
        entry: &PodResourceClaim,
    ) -> Result<Option<String>, Error> {
        let template = entry.resource_claim_template_name.as_deref();
        let template = template.unwrap_or_default();
        let Some(template) = self.templates.get(&key.namespace, template) else {
            let message = format!("resource claim template {template:?} not found");
            self.context.recorder.event(
                NAME,
                pod,
                EventType::Warning,
                "FailedResourceClaimCreation",
                message,
            );
            // Its coming is a change that brings the pod back.
            return Ok(None);
        };
        let claim = claim_of(pod, &entry.name, &template);
        match act::create(&self.context.api(&key.namespace), &claim).await {
            Err(error) if error.is_namespace_terminating() => Ok(None),
            Err(error) => {
                let message = format!("PodResourceClaim {}: {}", entry.name, error.message());
                self.context.recorder.event(
                    NAME,
                    pod,
                    EventType::Warning,
                    "FailedResourceClaimCreation",
                    message,
                );
                Err(error)
            }
            Ok(made) => Ok(Some(made.name_any())),
        }
    }

    /// A pod that has ended needs its claims no more.
    async fn release(&self, key: &ObjectKey, pod: &Pod) -> Result<(), Error> {
        let api = self.context.api::<ResourceClaim>(&key.namespace);
        for claim in self.own(key, pod) {
            if claim.metadata.deletion_timestamp.is_none() {
                act::delete(&api, claim.as_ref(), DeleteParams::default()).await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {"containers": [], "resourceClaims": [
                {"name": "own", "resourceClaimTemplateName": "t"},
                {"name": "shared", "resourceClaimName": "c"}]},
            "status": {"resourceClaimStatuses": [
                {"name": "own", "resourceClaimName": "p-own-x"}, {"name": "none"}]}}))
        .expect("a Pod")
    }

    #[test]
    fn only_entries_with_a_template_get_a_claim_of_their_own() {
        let pod = pod();
        let names: Vec<_> = entries(&pod).map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["own"]);
    }

    #[test]
    fn what_a_pod_was_told_is_read_from_its_status() {
        let pod = pod();
        let status = pod.status.as_ref();
        assert_eq!(told(status, "own"), Some(Some("p-own-x")));
        assert_eq!(told(status, "none"), Some(None));
        assert_eq!(told(status, "other"), None);
    }

    #[test]
    fn a_claim_has_the_templates_labels_and_goes_with_the_pod() {
        let template: ResourceClaimTemplate = serde_json::from_value(json!({
            "metadata": {"name": "t"},
            "spec": {"metadata": {"labels": {"a": "b"}}, "spec": {}}}))
        .expect("a template");
        let claim = claim_of(&pod(), "own", &template);
        assert_eq!(claim.metadata.generate_name.as_deref(), Some("p-own-"));
        assert_eq!(claim.labels().get("a").map(String::as_str), Some("b"));
        assert_eq!(
            claim.annotations().get(ENTRY).map(String::as_str),
            Some("own")
        );
        assert!(is_controlled_by(&claim, "u"));
    }
}
