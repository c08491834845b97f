//! Claims that are to become larger. What enlarges a volume of a storage plugin runs beside the
//! plugin; this controller says on the claim whom it waits for.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use watch_cache::{ObjectKey, WatchCache};

use super::matching::{requested, size};
use crate::framework::{Context, Error, EventType, Outcome, Reconciler};

const NAME: &str = "persistentvolume-expander-controller";
const EVENT_SOURCE: &str = "volume_expand";

pub(crate) fn start(context: &Context) {
    let claims = context.caches.of::<PersistentVolumeClaim>();
    let volumes = context.caches.of::<PersistentVolume>();
    context
        .controller(NAME)
        .watch(&claims, |change| {
            // Once for each size that is asked for.
            let asked = match change {
                watch_cache::Change::Applied {
                    old: Some(old),
                    new,
                } => requested(old) != requested(new),
                watch_cache::Change::Applied { .. } => true,
                watch_cache::Change::Deleted { .. } => false,
            };
            (asked && is_to_grow(change.object())).then(|| change.key())
        })
        .reads(&volumes)
        .run(
            1,
            Expander {
                context: context.clone(),
                claims,
                volumes,
            },
        );
}

/// Whether a bound claim asks for more than it has.
fn is_to_grow(claim: &PersistentVolumeClaim) -> bool {
    let Some(status) = &claim.status else {
        return false;
    };
    status.phase.as_deref() == Some("Bound") && requested(claim) > size(status.capacity.as_ref())
}

struct Expander {
    context: Context,
    claims: WatchCache<PersistentVolumeClaim>,
    volumes: WatchCache<PersistentVolume>,
}

impl Reconciler for Expander {
    type Key = ObjectKey;

    async fn sync(&self, key: &ObjectKey) -> Result<Outcome, Error> {
        let claim = self.claims.get_key(key).filter(|claim| is_to_grow(claim));
        let Some(claim) = claim else {
            return Ok(Outcome::Done);
        };
        if self.volume(&claim).is_some() {
            let message = "waiting for an external controller to expand this PVC";
            self.context.recorder.event(
                EVENT_SOURCE,
                claim.as_ref(),
                EventType::Normal,
                "ExternalExpanding",
                message,
            );
        }
        Ok(Outcome::Done)
    }
}

impl Expander {
    fn volume(&self, claim: &PersistentVolumeClaim) -> Option<Arc<PersistentVolume>> {
        let name = claim.spec.as_ref()?.volume_name.as_deref()?;
        self.volumes.get("", name)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_bound_claim_grows_when_it_asks_for_more_than_it_has() {
        let claim = |phase: &str, wanted: &str| -> PersistentVolumeClaim {
            serde_json::from_value(json!({
                "spec": {"resources": {"requests": {"storage": wanted}}},
                "status": {"phase": phase, "capacity": {"storage": "1Gi"}}}))
            .expect("a claim")
        };
        assert!(is_to_grow(&claim("Bound", "2Gi")));
        assert!(!is_to_grow(&claim("Bound", "1024Mi")));
        assert!(!is_to_grow(&claim("Pending", "2Gi")));
    }
}
