//! Whether it is time for a Job, and which Jobs are over. Pure.

use std::sync::Arc;
use std::time::Duration;

use events::reference;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::ResourceExt;

use super::schedule::Schedule;
use crate::framework::owners::controller_of;
use crate::framework::pods::until;
use crate::job::is_finished;

const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

pub(crate) fn spec(cron: &CronJob) -> CronJobSpec {
    cron.spec.clone()
}

/// The schedule and its zone; the error is for people.
pub(crate) fn schedule(cron: &CronJob) -> Result<(Schedule, TimeZone), (&'static str, String)> {
    let spec = spec(cron);
    let zone = match spec.time_zone.as_deref() {
        None | Some("" | "Etc/UTC" | "UTC") => TimeZone::UTC,
        Some(name) => TimeZone::get(name).map_err(|_| {
            let message = format!("invalid timeZone: \"{name}\"");
            ("UnknownTimeZone", message)
        })?,
    };
    let schedule = spec
        .schedule
        .parse()
        .map_err(|error: super::schedule::InvalidSchedule| {
            (
                "UnparseableSchedule",
                format!("unparseable schedule: {error}"),
            )
        })?;
    Ok((schedule, zone))
}

/// What the clock says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Not now; when to look again.
    Wait(Option<Duration>),
    /// It was time, but too long ago.
    Missed {
        at: Timestamp,
        wait: Option<Duration>,
    },
    /// An earlier Job still runs, and it must not be disturbed.
    Busy { wait: Option<Duration> },
    /// Make a Job; delete those that run first, if `replace`.
    Run {
        at: Timestamp,
        replace: bool,
        wait: Option<Duration>,
    },
}

pub(crate) fn decide(
    cron: &CronJob,
    schedule: &Schedule,
    zone: &TimeZone,
    active: usize,
    now: Timestamp,
) -> Verdict {
    let spec = spec(cron);
    let wait = schedule.next(now, zone).and_then(|next| until(next, now));
    // A timer may end a little early.
    let wait = wait.map(|wait| wait + Duration::from_millis(100));
    if spec.suspend == Some(true) || cron.metadata.deletion_timestamp.is_some() {
        return Verdict::Wait(None);
    }
    let last = cron
        .status
        .as_ref()
        .and_then(|status| status.last_schedule_time.as_ref());
    let created = cron.metadata.creation_timestamp.as_ref();
    let since = last.or(created).map_or(now, |time| time.0);
    let Some(at) = schedule.latest(since, now, zone) else {
        return Verdict::Wait(wait);
    };
    let deadline = spec
        .starting_deadline_seconds
        .and_then(|s| u64::try_from(s).ok());
    if deadline.is_some_and(|seconds| until(at + Duration::from_secs(seconds), now).is_none()) {
        return Verdict::Missed { at, wait };
    }
    match spec.concurrency_policy.as_deref() {
        Some("Forbid") if active > 0 => Verdict::Busy { wait },
        policy => Verdict::Run {
            at,
            replace: policy == Some("Replace"),
            wait,
        },
    }
}

/// The Job of a time. Its name follows from the time, so that it is made once.
pub(crate) fn job(cron: &CronJob, at: Timestamp, zone: &TimeZone) -> Job {
    let template = spec(cron).job_template;
    let meta = template.metadata.unwrap_or_default();
    let mut notes = meta.annotations.unwrap_or_default();
    let local = at.to_zoned(zone.clone());
    let stamp = match zone == &TimeZone::UTC {
        true => at.to_string(),
        false => local.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
    };
    notes.insert(SCHEDULED.to_owned(), stamp);
    Job {
        metadata: ObjectMeta {
            name: Some(format!("{}-{}", cron.name_any(), at.as_second() / 60)),
            namespace: cron.namespace(),
            labels: meta.labels,
            annotations: Some(notes),
            owner_references: Some(vec![controller_of(cron)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

/// The references of the Jobs that still run, oldest first, and the end of the last good one.
pub(crate) fn observe(cron: &CronJob, jobs: &[Arc<Job>]) -> (Vec<ObjectReference>, Option<Time>) {
    let mut running: Vec<&Arc<Job>> = jobs
        .iter()
        .filter(|job| !job.status.as_ref().is_some_and(is_finished))
        .collect();
    running.sort_by_key(|job| (job.creation_timestamp(), job.name_any()));
    let active = running
        .into_iter()
        .map(|job| reference(job.as_ref()))
        .collect();
    let ends = jobs
        .iter()
        .filter_map(|job| job.status.as_ref()?.completion_time.clone());
    let told = cron
        .status
        .as_ref()
        .and_then(|status| status.last_successful_time.clone());
    (active, ends.chain(told).max())
}

/// Ended Jobs beyond the history limits, oldest first.
pub(crate) fn surplus(cron: &CronJob, jobs: &[Arc<Job>]) -> Vec<Arc<Job>> {
    let spec = spec(cron);
    let ended = |kind: &str| -> Vec<Arc<Job>> {
        let mut ended: Vec<Arc<Job>> = jobs
            .iter()
            .filter(|job| {
                let status = job.status.as_ref();
                status.is_some_and(|status| crate::job::find_condition(status, kind).is_some())
            })
            .cloned()
            .collect();
        ended.sort_by_key(|job| {
            let start = job
                .status
                .as_ref()
                .and_then(|status| status.start_time.clone());
            (start, job.name_any())
        });
        ended
    };
    let over = |mut ended: Vec<Arc<Job>>, limit: Option<i32>| {
        let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(0));
        ended.truncate(ended.len().saturating_sub(limit));
        ended
    };
    let mut surplus = over(ended("Complete"), spec.successful_jobs_history_limit);
    surplus.extend(over(ended("Failed"), spec.failed_jobs_history_limit));
    surplus
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn cron(spec: Value, last: Option<&str>) -> CronJob {
        let mut full = json!({"schedule": "*/10 * * * *", "jobTemplate": {}});
        for (key, value) in spec.as_object().expect("an object") {
            full[key] = value.clone();
        }
        serde_json::from_value(json!({
            "metadata": {"name": "c", "namespace": "ns", "uid": "u",
                "creationTimestamp": "2026-01-01T00:01:00Z"},
            "spec": full, "status": {"lastScheduleTime": last}}))
        .expect("a CronJob")
    }

    fn decide_at(cron: &CronJob, active: usize, now: &str) -> Verdict {
        let (schedule, zone) = schedule(cron).expect("a schedule");
        decide(cron, &schedule, &zone, active, now.parse().expect("a time"))
    }

    #[test]
    fn a_job_is_made_when_its_time_has_come_and_once() {
        let fresh = cron(json!({}), None);
        let wait = decide_at(&fresh, 0, "2026-01-01T00:09:00Z");
        assert_eq!(wait, Verdict::Wait(Some(Duration::from_millis(60_100))));
        let run = decide_at(&fresh, 0, "2026-01-01T00:10:01Z");
        let Verdict::Run {
            at, replace: false, ..
        } = run
        else {
            panic!("{run:?}")
        };
        assert_eq!(at.to_string(), "2026-01-01T00:10:00Z");
        let again = cron(json!({}), Some("2026-01-01T00:10:00Z"));
        assert!(matches!(
            decide_at(&again, 1, "2026-01-01T00:10:02Z"),
            Verdict::Wait(Some(_))
        ));
    }

    #[test]
    fn of_several_missed_times_the_last_one_runs() {
        let run = decide_at(&cron(json!({}), None), 0, "2026-01-01T05:05:00Z");
        let Verdict::Run { at, .. } = run else {
            panic!("{run:?}")
        };
        assert_eq!(at.to_string(), "2026-01-01T05:00:00Z");
        let strict = cron(json!({"startingDeadlineSeconds": 60}), None);
        let missed = decide_at(&strict, 0, "2026-01-01T05:05:00Z");
        assert!(matches!(missed, Verdict::Missed { .. }), "{missed:?}");
    }

    #[test]
    fn concurrency_policies_and_suspension_are_kept() {
        let now = "2026-01-01T00:10:01Z";
        let policy = |policy: &str| cron(json!({"concurrencyPolicy": policy}), None);
        assert!(matches!(
            decide_at(&policy("Forbid"), 1, now),
            Verdict::Busy { .. }
        ));
        assert!(matches!(
            decide_at(&policy("Forbid"), 0, now),
            Verdict::Run { .. }
        ));
        assert!(matches!(
            decide_at(&policy("Replace"), 1, now),
            Verdict::Run { replace: true, .. }
        ));
        assert!(matches!(
            decide_at(&policy("Allow"), 1, now),
            Verdict::Run { replace: false, .. }
        ));
        let suspended = cron(json!({"suspend": true}), None);
        assert_eq!(decide_at(&suspended, 0, now), Verdict::Wait(None));
    }

    #[test]
    fn history_limits_keep_the_youngest() {
        let job = |name: &str, kind: &str, start: &str| -> Arc<Job> {
            let job = json!({"metadata": {"name": name}, "status": {"startTime": start,
                "conditions": [{"type": kind, "status": "True"}]}});
            Arc::new(serde_json::from_value(job).expect("a Job"))
        };
        let jobs = [
            job("a", "Complete", "2026-01-01T00:00:00Z"),
            job("b", "Complete", "2026-01-01T00:10:00Z"),
            job("c", "Failed", "2026-01-01T00:20:00Z"),
            job("d", "Suspended", "2026-01-01T00:30:00Z"),
        ];
        let limits = json!({"successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 0});
        let names: Vec<String> = surplus(&cron(limits, None), &jobs)
            .iter()
            .map(|job| job.name_any())
            .collect();
        assert_eq!(names, ["a", "c"]);
        assert_eq!(observe(&cron(json!({}), None), &jobs).0.len(), 1);
    }

    #[test]
    fn the_name_of_a_job_follows_from_its_time() {
        let at = "2026-01-01T00:10:00Z".parse().expect("a time");
        let job = job(&cron(json!({}), None), at, &TimeZone::UTC);
        assert_eq!(job.name_any(), "c-29453770");
        assert_eq!(job.annotations()[SCHEDULED], "2026-01-01T00:10:00Z");
    }
}
