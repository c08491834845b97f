//! What to do for a Job: which pods to make and delete, and which conditions to tell.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::indexes::Indexes;
use super::policy::{self, failures_before, index};
use super::tally::{Tally, ended_at, is_indexed, replaces_only_failed, spec};
use crate::framework::pods::{rank_for_deletion, restarts, until};

const BURST: i32 = 500;
const FIRST_DELAY: Duration = Duration::from_secs(10);
const LONGEST_DELAY: Duration = Duration::from_secs(600);

/// Pods in a row that failed, and when the last one did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Backoff {
    pub failures: u32,
    pub last: Option<Timestamp>,
}

impl Backoff {
    /// Takes newly ended pods into account, in the order in which they ended.
    pub(crate) fn after(
        mut self,
        succeeded: &[Arc<Pod>],
        failed: &[Arc<Pod>],
        now: Timestamp,
    ) -> Self {
        let ends = |pods: &[Arc<Pod>], good: bool| -> Vec<(Timestamp, bool)> {
            pods.iter()
                .map(|pod| (ended_at(pod).unwrap_or(now), good))
                .collect()
        };
        let mut all = ends(succeeded, true);
        all.extend(ends(failed, false));
        all.sort();
        for (at, good) in all {
            if good {
                self = Self::default();
            } else {
                self.failures = self.failures.saturating_add(1);
                self.last = Some(at);
            }
        }
        self
    }

    /// How long no pod is made.
    pub(crate) fn remaining(self, now: Timestamp) -> Option<Duration> {
        until(self.last? + delay(self.failures), now)
    }
}

fn delay(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        n => FIRST_DELAY
            .saturating_mul(2u32.saturating_pow(n - 1))
            .min(LONGEST_DELAY),
    }
}

/// A pod to make: of an index, which had failed so often, or of none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NewPod {
    pub index: Option<i32>,
    pub failures: Option<i32>,
}

#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub create: Vec<NewPod>,
    pub delete: Vec<Arc<Pod>>,
    /// The status with its conditions; the counts of ended pods are tracked apart.
    pub status: JobStatus,
    pub wait: Option<Duration>,
    /// Reasons of conditions that are told for the first time.
    pub news: Vec<(&'static str, String)>,
}

pub(crate) fn find<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a JobCondition> {
    let mut conditions = status.conditions.iter().flatten();
    conditions.find(|condition| condition.type_ == kind && condition.status == "True")
}

pub(crate) fn is_finished(status: &JobStatus) -> bool {
    find(status, "Complete").is_some() || find(status, "Failed").is_some()
}

fn tell(
    status: &mut JobStatus,
    kind: &str,
    value: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) -> bool {
    let conditions = status.conditions.get_or_insert_default();
    let known = conditions
        .iter_mut()
        .find(|condition| condition.type_ == kind);
    if known
        .as_ref()
        .is_some_and(|known| known.status == value && known.reason.as_deref() == Some(reason))
    {
        return false;
    }
    let fresh = JobCondition {
        type_: kind.to_owned(),
        status: value.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    };
    match known {
        Some(known) => *known = fresh,
        // What never was true need not be told to be false.
        None if value == "False" => return false,
        None => conditions.push(fresh),
    }
    true
}

/// How a Job ends.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    Success { reason: String, message: String },
    Failure { reason: String, message: String },
}

struct Decider<'a> {
    job: &'a Job,
    tally: &'a Tally,
    backoff: Backoff,
    now: Timestamp,
    plan: Plan,
}

pub(crate) fn plan(job: &Job, tally: &Tally, backoff: Backoff, now: Timestamp) -> Plan {
    let status = job.status.clone().unwrap_or_default();
    let plan = Plan {
        status,
        ..Plan::default()
    };
    let mut decider = Decider {
        job,
        tally,
        backoff,
        now,
        plan,
    };
    decider.decide();
    decider.plan
}

impl Decider<'_> {
    fn decide(&mut self) {
        let suspended = spec(self.job).suspend == Some(true);
        if self.plan.status.start_time.is_none() && !suspended {
            self.plan.status.start_time = Some(Time(self.now));
        }
        match self.end() {
            Some(end) => {
                self.plan.delete = self.tally.active.clone();
                self.finish(end);
            }
            None => self.go_on(suspended),
        }
        let some = |count: i32| (count != 0).then_some(count);
        let gone = i32::try_from(self.plan.delete.len()).unwrap_or(0);
        let made = i32::try_from(self.plan.create.len()).unwrap_or(0);
        let active = i32::try_from(self.tally.active.len()).unwrap_or(0);
        self.plan.status.active = some((active - gone + made).max(0));
        self.plan.status.ready = Some(self.tally.ready);
        self.plan.status.terminating = Some(self.tally.terminating + gone);
    }

    /// Whether the Job has come to its end, by what was told before or by what is counted.
    fn end(&self) -> Option<End> {
        let status = &self.plan.status;
        let told = |kind: &str| {
            find(status, kind).map(|condition| {
                let reason = condition.reason.clone().unwrap_or_default();
                (reason, condition.message.clone().unwrap_or_default())
            })
        };
        if let Some((reason, message)) = told("FailureTarget") {
            return Some(End::Failure { reason, message });
        }
        if let Some((reason, message)) = told("SuccessCriteriaMet") {
            return Some(End::Success { reason, message });
        }
        self.failure().map_or_else(
            || self.success(),
            |(reason, message)| {
                Some(End::Failure {
                    reason: reason.to_owned(),
                    message,
                })
            },
        )
    }

    fn failure(&self) -> Option<(&'static str, String)> {
        let spec = spec(self.job);
        if let Some(why) = &self.tally.fail_job {
            return Some(("PodFailurePolicy", why.clone()));
        }
        // With a limit for each index, the whole has none unless it is given.
        let default = if spec.backoff_limit_per_index.is_some() {
            i32::MAX
        } else {
            6
        };
        let limit = spec.backoff_limit.unwrap_or(default);
        if self.tally.failed > limit || self.restarted_too_often(limit) {
            let message = "Job has reached the specified backoff limit".to_owned();
            return Some(("BackoffLimitExceeded", message));
        }
        if self.deadline_left() == Some(None) {
            let message = "Job was active longer than specified deadline".to_owned();
            return Some(("DeadlineExceeded", message));
        }
        let failed = self.tally.failed_indexes.as_ref()?;
        if spec
            .max_failed_indexes
            .is_some_and(|most| failed.total() > most)
        {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return Some(("MaxFailedIndexesExceeded", message.to_owned()));
        }
        let all = spec.completions.unwrap_or(0);
        let settled = self.tally.succeeded_indexes.total() + failed.total() >= all;
        (failed.total() > 0 && settled)
            .then(|| ("FailedIndexes", "Job has failed indexes".to_owned()))
    }

    /// Containers that are restarted in place count as failures of the pod.
    fn restarted_too_often(&self, limit: i32) -> bool {
        let template = spec(self.job).template.spec;
        let policy = template.and_then(|template| template.restart_policy);
        if policy.as_deref() != Some("OnFailure") {
            return false;
        }
        let restarts: i32 = self.tally.active.iter().map(|pod| restarts(pod)).sum();
        if limit == 0 {
            restarts > 0
        } else {
            restarts >= limit
        }
    }

    /// None: no deadline, or not started. Some(None): it has passed.
    fn deadline_left(&self) -> Option<Option<Duration>> {
        let spec = spec(self.job);
        if spec.suspend == Some(true) {
            return None;
        }
        let seconds = u64::try_from(spec.active_deadline_seconds?).ok()?;
        let start = self.plan.status.start_time.as_ref()?.0;
        Some(until(start + Duration::from_secs(seconds), self.now))
    }

    fn success(&self) -> Option<End> {
        let spec = spec(self.job);
        if is_indexed(self.job) {
            let all = spec.completions.unwrap_or(0);
            let met = policy::success(self.job, &self.tally.succeeded_indexes, all);
            if let Some(message) = met {
                return Some(End::Success {
                    reason: "SuccessPolicy".to_owned(),
                    message,
                });
            }
        }
        let complete = match spec.completions {
            // One success says that the work is done; those that still run may end it.
            None => self.tally.succeeded > 0 && self.tally.active.is_empty(),
            Some(all) => self.tally.succeeded >= all,
        };
        complete.then(|| End::Success {
            reason: "CompletionsReached".to_owned(),
            message: "Reached expected number of succeeded pods".to_owned(),
        })
    }

    /// Tells the end in two steps: first that it will come, and when no pod is left, that it
    /// is there.
    fn finish(&mut self, end: End) {
        let over = self.tally.active.is_empty() && self.tally.terminating == 0;
        let (first, last, reason, message) = match end {
            End::Success { reason, message } => ("SuccessCriteriaMet", "Complete", reason, message),
            End::Failure { reason, message } => ("FailureTarget", "Failed", reason, message),
        };
        let now = self.now;
        tell(
            &mut self.plan.status,
            first,
            "True",
            &reason,
            message.clone(),
            now,
        );
        if !over {
            return;
        }
        if tell(
            &mut self.plan.status,
            last,
            "True",
            &reason,
            message.clone(),
            now,
        ) {
            let news = if last == "Complete" {
                "Completed"
            } else {
                "Failed"
            };
            self.plan.news.push((news, message));
        }
        if last == "Complete" {
            self.plan.status.completion_time = Some(Time(now));
        }
    }

    fn go_on(&mut self, suspended: bool) {
        let now = self.now;
        if suspended {
            self.plan.delete = self.tally.active.clone();
            let message = "Job suspended".to_owned();
            if tell(
                &mut self.plan.status,
                "Suspended",
                "True",
                "JobSuspended",
                message.clone(),
                now,
            ) {
                self.plan.news.push(("Suspended", message));
            }
            self.plan.status.start_time = None;
            return;
        }
        let message = "Job resumed".to_owned();
        if tell(
            &mut self.plan.status,
            "Suspended",
            "False",
            "JobResumed",
            message.clone(),
            now,
        ) {
            self.plan.status.start_time = Some(Time(now));
            self.plan.news.push(("Resumed", message));
        }
        self.plan.wait = self.deadline_left().flatten();
        self.size();
    }

    fn wanted_active(&self) -> i32 {
        let spec = spec(self.job);
        let parallelism = spec.parallelism.unwrap_or(1);
        let active = i32::try_from(self.tally.active.len()).unwrap_or(i32::MAX);
        match spec.completions {
            None if self.tally.succeeded > 0 => active.min(parallelism),
            None => parallelism,
            Some(all) => {
                let failed = self.tally.failed_indexes.as_ref().map_or(0, Indexes::total);
                parallelism.min((all - self.tally.succeeded - failed).max(0))
            }
        }
    }

    fn size(&mut self) {
        let wanted = self.wanted_active();
        let active = i32::try_from(self.tally.active.len()).unwrap_or(i32::MAX);
        let delete = self.surplus(usize::try_from((active - wanted).max(0)).unwrap_or(0));
        if !delete.is_empty() {
            self.plan.delete = delete;
            return;
        }
        let waiting = if replaces_only_failed(self.job) {
            self.tally.terminating
        } else {
            0
        };
        let missing = (wanted - active - waiting).min(BURST);
        if missing <= 0 {
            return;
        }
        if spec(self.job).backoff_limit_per_index.is_none()
            && let Some(rest) = self.backoff.remaining(self.now)
        {
            self.plan.wait = self.plan.wait.into_iter().chain([rest]).min();
            return;
        }
        let missing = usize::try_from(missing).unwrap_or(0);
        self.plan.create = if is_indexed(self.job) {
            self.pending_indexes(missing)
        } else {
            vec![
                NewPod {
                    index: None,
                    failures: None
                };
                missing
            ]
        };
    }

    /// Pods too many: first those whose index has another pod, none, or one that is settled.
    fn surplus(&self, count: usize) -> Vec<Arc<Pod>> {
        let ranked = rank_for_deletion(&self.tally.active, &self.tally.active, self.now);
        if !is_indexed(self.job) {
            return ranked.into_iter().take(count).collect();
        }
        let all = spec(self.job).completions.unwrap_or(0);
        let mut seen: BTreeMap<i32, ()> = BTreeMap::new();
        let (mut go, mut rest) = (Vec::new(), Vec::new());
        // The best pod of an index is the last in rank.
        for pod in ranked.into_iter().rev() {
            let own = index(&pod)
                .filter(|index| *index < all && !self.tally.succeeded_indexes.contains(*index));
            match own {
                Some(own) if seen.insert(own, ()).is_none() => rest.push(pod),
                _ => go.push(pod),
            }
        }
        rest.reverse();
        let more = count.saturating_sub(go.len());
        go.extend(rest.into_iter().take(more));
        go
    }

    fn pending_indexes(&mut self, count: usize) -> Vec<NewPod> {
        let spec = spec(self.job);
        let active: Indexes = self
            .tally
            .active
            .iter()
            .filter_map(|pod| index(pod))
            .collect();
        let per_index = spec.backoff_limit_per_index.is_some();
        let mut chosen = Vec::new();
        for at in 0..spec.completions.unwrap_or(0) {
            if chosen.len() == count {
                break;
            }
            let failed = self
                .tally
                .failed_indexes
                .as_ref()
                .is_some_and(|f| f.contains(at));
            if active.contains(at) || self.tally.succeeded_indexes.contains(at) || failed {
                continue;
            }
            if replaces_only_failed(self.job) && self.tally.terminating_indexes.contains(at) {
                continue;
            }
            let failures = match self.retry(at) {
                Ok(failures) => failures,
                Err(rest) => {
                    self.plan.wait = self.plan.wait.into_iter().chain([rest]).min();
                    continue;
                }
            };
            chosen.push(NewPod {
                index: Some(at),
                failures: per_index.then_some(failures),
            });
        }
        chosen
    }

    /// How often an index has failed, or how long it is to wait for its next try.
    fn retry(&self, at: i32) -> Result<i32, Duration> {
        let last = self
            .tally
            .remembered
            .iter()
            .filter(|pod| index(pod) == Some(at))
            .max_by_key(|pod| (failures_before(pod), ended_at(pod)));
        let Some(last) = last else { return Ok(0) };
        let counted = !self.tally.ignored.iter().any(|pod| Arc::ptr_eq(pod, last));
        let failures = failures_before(last) + i32::from(counted);
        let since = ended_at(last).unwrap_or(self.now);
        let tries = u32::try_from(failures_before(last) + 1).unwrap_or(1);
        match until(since + delay(tries), self.now) {
            Some(rest) => Err(rest),
            None => Ok(failures),
        }
    }
}

#[cfg(test)]
mod tests;
