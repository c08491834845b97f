//! TTL after finished: deletes Jobs some time after their end.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use kube::api::DeleteParams;
use watch_cache::{ObjectKey, WatchCache};

use super::plan::find;
use crate::framework::pods::until;
use crate::framework::{Context, During, Error, Outcome, Reconciler, act};

pub(crate) fn start(context: &Context) {
    let jobs = context.caches.of::<Job>();
    context
        .controller("ttl-after-finished-controller")
        .watch(&jobs, |change| {
            let job = change.object();
            expiry(job).is_some().then(|| change.key())
        })
        .run(
            context.config.workers,
            Controller {
                context: context.clone(),
                jobs,
            },
        );
}

/// When the Job is to go; None if it has not ended or is to stay.
fn expiry(job: &Job) -> Option<Timestamp> {
    let ttl = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let status = job.status.as_ref()?;
    let ended = find(status, "Complete").or_else(|| find(status, "Failed"))?;
    let at = ended.last_transition_time.as_ref()?.0;
    at.checked_add(Duration::from_secs(u64::try_from(ttl).unwrap_or(0)))
        .ok()
}

struct Controller {
    context: Context,
    jobs: WatchCache<Job>,
}

impl Reconciler for Controller {
    type Key = ObjectKey;

    async fn sync(&self, key: &ObjectKey) -> Result<Outcome, Error> {
        let Some(job) = self.jobs.get_key(key) else {
            return Ok(Outcome::Done);
        };
        let due = |job: &Job| {
            let at = expiry(job).filter(|_| job.metadata.deletion_timestamp.is_none());
            at.map(|at| until(at, Timestamp::now()))
        };
        match due(&job) {
            None => return Ok(Outcome::Done),
            Some(Some(rest)) => return Ok(Outcome::After(rest)),
            Some(None) => {}
        }
        // The time may have been lengthened meanwhile: the server decides.
        let api = self.context.api::<Job>(&key.namespace);
        let live = api.get_opt(&key.name).await.during("reading Job", key)?;
        match live.as_ref().map(|live| (live, due(live))) {
            Some((live, Some(None))) => {
                act::delete(&api, live, DeleteParams::foreground()).await?;
                Ok(Outcome::Done)
            }
            Some((_, Some(Some(rest)))) => Ok(Outcome::After(rest)),
            _ => Ok(Outcome::Done),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_finished_job_with_a_time_to_live_expires() {
        let job = |ttl: Option<i32>, kind: &str| -> Job {
            serde_json::from_value(json!({
                "spec": {"ttlSecondsAfterFinished": ttl, "template": {}},
                "status": {"conditions": [{"type": kind, "status": "True",
                    "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}))
            .expect("a Job")
        };
        let at = Some("2026-01-01T00:01:00Z".parse().expect("a time"));
        assert_eq!(expiry(&job(Some(60), "Complete")), at);
        assert_eq!(expiry(&job(Some(60), "Failed")), at);
        assert_eq!(expiry(&job(Some(60), "Suspended")), None);
        assert_eq!(expiry(&job(None, "Complete")), None);
    }
}
