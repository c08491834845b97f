//! ValidatingAdmissionPolicy status: says which generation of a policy has been looked at.
//! Expressions are compiled by the API server when a policy is written, which refuses those
//! that do not compile; there are no further warnings to tell here.

use k8s_openapi::api::admissionregistration::v1::{
    TypeChecking, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyStatus,
};
use watch_cache::WatchCache;

use crate::framework::{Context, Error, Outcome, Reconciler, Tolerate, act};

pub(crate) fn start(context: &Context) {
    let policies = context.caches.of::<ValidatingAdmissionPolicy>();
    context
        .controller("validatingadmissionpolicy-status-controller")
        .watch(&policies, |change| [change.key().name])
        .run(
            1,
            Controller {
                context: context.clone(),
                policies,
            },
        );
}

struct Controller {
    context: Context,
    policies: WatchCache<ValidatingAdmissionPolicy>,
}

impl Reconciler for Controller {
    type Key = String;

    async fn sync(&self, name: &String) -> Result<Outcome, Error> {
        let Some(policy) = self.policies.get("", name) else {
            return Ok(Outcome::Done);
        };
        let told = policy
            .status
            .as_ref()
            .and_then(|status| status.observed_generation);
        if told == policy.metadata.generation && told.is_some() {
            return Ok(Outcome::Done);
        }
        let mut policy = policy.as_ref().clone();
        policy.status = Some(ValidatingAdmissionPolicyStatus {
            observed_generation: policy.metadata.generation,
            type_checking: Some(TypeChecking::default()),
            conditions: policy.status.and_then(|status| status.conditions),
        });
        act::replace_status(&self.context.cluster_api(), &policy)
            .await
            .unless_gone()?;
        Ok(Outcome::Done)
    }
}
