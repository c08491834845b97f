//! Ephemeral volumes: a claim made from a pod's own template, which goes with the pod.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use watch_cache::{ObjectKey, WatchCache};

use crate::framework::owners::{controller_of, is_controlled_by};
use crate::framework::{Context, Error, EventType, Outcome, Reconciler, act};

const NAME: &str = "ephemeral-volume-controller";

pub(crate) fn start(context: &Context) {
    let all_pods = context.caches.of::<Pod>();
    let claims = context.caches.of::<PersistentVolumeClaim>();
    context
        .controller(NAME)
        .watch(&all_pods, |change| {
            let pod = change.object();
            let alive = pod.metadata.deletion_timestamp.is_none();
            (alive && !wanted(pod).is_empty()).then(|| change.key())
        })
        .watch(&claims, |change| {
            crate::framework::related::owner_keys::<Pod, _>(change)
        })
        .run(
            context.config.workers,
            Controller {
                context: context.clone(),
                all_pods,
                claims,
            },
        );
}

/// The claims that the pod's templates describe.
fn wanted(pod: &Pod) -> Vec<PersistentVolumeClaim> {
    let volumes = pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten());
    volumes
        .filter_map(|volume| {
            let template = volume.ephemeral.as_ref()?.volume_claim_template.clone()?;
            let meta = template.metadata.unwrap_or_default();
            Some(PersistentVolumeClaim {
                metadata: ObjectMeta {
                    name: Some(format!("{}-{}", pod.name_any(), volume.name)),
                    namespace: pod.namespace(),
                    labels: meta.labels,
                    annotations: meta.annotations,
                    owner_references: Some(vec![controller_of(pod)]),
                    ..ObjectMeta::default()
                },
                spec: Some(template.spec),
                status: None,
            })
        })
        .collect()
}

struct Controller {
    context: Context,
    all_pods: WatchCache<Pod>,
    claims: WatchCache<PersistentVolumeClaim>,
}

impl Reconciler for Controller {
    type Key = ObjectKey;

    async fn sync(&self, key: &ObjectKey) -> Result<Outcome, Error> {
        let Some(pod) = self.all_pods.get_key(key) else {
            return Ok(Outcome::Done);
        };
        if pod.metadata.deletion_timestamp.is_some() {
            return Ok(Outcome::Done);
        }
        let uid = pod.uid().unwrap_or_default();
        for claim in wanted(&pod) {
            let name = claim.name_any();
            let known = self.claims.get(&key.namespace, &name);
            if let Some(known) = known {
                if !is_controlled_by(known.as_ref(), &uid) {
                    self.warn(&pod, format!("PVC {name} was not created for the pod"));
                }
                continue;
            }
            match act::create(&self.context.api(&key.namespace), &claim).await {
                Err(error) if error.is_already_exists() || error.is_namespace_terminating() => {}
                Err(error) => {
                    self.warn(&pod, format!("create PVC {name}: {}", error.message()));
                    return Err(error);
                }
                Ok(_) => {}
            }
        }
        Ok(Outcome::Done)
    }
}

impl Controller {
    fn warn(&self, pod: &Pod, message: String) {
        let kind = EventType::Warning;
        let reason = "FailedBinding";
        self.context.recorder.event(
            NAME,
            pod,
            kind,
            reason,
            format!("ephemeral volume controller: {message}"),
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_claim_is_named_after_pod_and_volume_and_goes_with_the_pod() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {"containers": [], "volumes": [{"name": "scratch", "ephemeral":
                {"volumeClaimTemplate": {"metadata": {"labels": {"a": "b"}},
                    "spec": {"accessModes": ["ReadWriteOnce"]}}}}]}}))
        .expect("a Pod");
        let claims = wanted(&pod);
        assert_eq!(claims.len(), 1);
        assert_eq!(claims[0].name_any(), "p-scratch");
        assert!(is_controlled_by(&claims[0], "u"));
    }
}
