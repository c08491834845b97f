//! The status of a Deployment: counts, availability, and how its rollout goes.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::sets::{Set, Sets, spec};
use super::strategy::Bounds;
use crate::framework::pods::until;

pub(crate) const PROGRESSING: &str = "Progressing";
pub(crate) const AVAILABLE: &str = "Available";
pub(crate) const REPLICA_FAILURE: &str = "ReplicaFailure";
pub(crate) const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
pub(crate) const TIMED_OUT: &str = "ProgressDeadlineExceeded";
pub(crate) const PAUSED: &str = "DeploymentPaused";
pub(crate) const RESUMED: &str = "DeploymentResumed";

/// A condition as of now.
pub(crate) fn condition(
    kind: &str,
    status: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) -> DeploymentCondition {
    DeploymentCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

pub(crate) fn find<'a>(
    status: &'a DeploymentStatus,
    kind: &str,
) -> Option<&'a DeploymentCondition> {
    status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == kind)
}

/// Puts a condition in, unless the one there says the same; a transition is a change of status.
pub(crate) fn set(status: &mut DeploymentStatus, mut condition: DeploymentCondition) {
    if let Some(known) = find(status, &condition.type_) {
        if known.status == condition.status && known.reason == condition.reason {
            return;
        }
        if known.status == condition.status {
            condition.last_transition_time = known.last_transition_time.clone();
        }
    }
    remove(status, &condition.type_);
    status.conditions.get_or_insert_default().push(condition);
}

pub(crate) fn remove(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_ != kind);
    }
}

/// A deadline of the highest possible number means that there is none.
fn deadline(deployment: &Deployment) -> Option<Duration> {
    let seconds = spec(deployment)
        .progress_deadline_seconds
        .filter(|s| *s != i32::MAX)?;
    u64::try_from(seconds).ok().map(Duration::from_secs)
}

/// The counts and the Available condition.
pub(crate) fn calculate(
    deployment: &Deployment,
    sets: &Sets,
    bounds: Bounds,
    now: Timestamp,
) -> DeploymentStatus {
    let sum = |count: fn(&k8s_openapi::api::apps::v1::ReplicaSetStatus) -> i32| -> i32 {
        sets.all()
            .filter_map(|set| set.object.status.as_ref())
            .map(count)
            .sum()
    };
    let some = |count: i32| (count != 0).then_some(count);
    let available = sets.available();
    let updated = sets.new.as_ref().and_then(|set| set.object.status.as_ref());
    let old = deployment.status.clone().unwrap_or_default();
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some(sum(|status| status.replicas)),
        updated_replicas: some(updated.map_or(0, |status| status.replicas)),
        ready_replicas: some(sum(|status| status.ready_replicas.unwrap_or(0))),
        available_replicas: some(available),
        unavailable_replicas: some((sets.replicas() - available).max(0)),
        terminating_replicas: Some(sum(|status| status.terminating_replicas.unwrap_or(0))),
        collision_count: old.collision_count,
        conditions: old.conditions,
    };
    let enough = available >= bounds.min_available();
    let (value, reason, message) = if enough {
        (
            "True",
            "MinimumReplicasAvailable",
            "Deployment has minimum availability.",
        )
    } else {
        (
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.",
        )
    };
    set(
        &mut status,
        condition(AVAILABLE, value, reason, message.to_owned(), now),
    );
    status
}

/// Whether all pods are of the new template, available, and as many as wanted.
pub(crate) fn is_complete(
    deployment: &Deployment,
    status: &DeploymentStatus,
    bounds: Bounds,
) -> bool {
    let all = Some(bounds.wanted).filter(|wanted| *wanted != 0);
    status.updated_replicas == all
        && status.replicas == all
        && status.available_replicas == all
        && status.observed_generation >= deployment.metadata.generation
}

fn is_progressing(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let number = |count: Option<i32>| count.unwrap_or(0);
    let outdated =
        |status: &DeploymentStatus| number(status.replicas) - number(status.updated_replicas);
    number(new.updated_replicas) > number(old.updated_replicas)
        || outdated(new) < outdated(old)
        || number(new.ready_replicas) > number(old.ready_replicas)
        || number(new.available_replicas) > number(old.available_replicas)
}

fn is_timed_out(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> bool {
    let Some(known) = find(status, PROGRESSING) else {
        return false;
    };
    match known.reason.as_deref() {
        Some(TIMED_OUT) => true,
        Some(NEW_SET_AVAILABLE) => false,
        _ => time_left(deployment, status, now) == Some(None),
    }
}

/// None: there is no deadline. Some(None): it has passed.
fn time_left(
    deployment: &Deployment,
    status: &DeploymentStatus,
    now: Timestamp,
) -> Option<Option<Duration>> {
    let deadline = deadline(deployment)?;
    let since = find(status, PROGRESSING)?.last_update_time.as_ref()?.0;
    Some(until(since + deadline, now))
}

/// The status during a rollout, with the Progressing and ReplicaFailure conditions.
pub(crate) fn rollout(
    deployment: &Deployment,
    sets: &Sets,
    bounds: Bounds,
    now: Timestamp,
) -> DeploymentStatus {
    let mut status = calculate(deployment, sets, bounds, now);
    let before = deployment.status.clone().unwrap_or_default();
    let known = find(&before, PROGRESSING).cloned();
    if deadline(deployment).is_none() {
        remove(&mut status, PROGRESSING);
    } else if !is_settled(&status, known.as_ref()) {
        let subject = match &sets.new {
            Some(new) => format!("ReplicaSet \"{}\"", new.name()),
            None => format!("Deployment \"{}\"", deployment.name_any()),
        };
        if is_complete(deployment, &status, bounds) {
            let message = format!("{subject} has successfully progressed.");
            set(
                &mut status,
                condition(PROGRESSING, "True", NEW_SET_AVAILABLE, message, now),
            );
        } else if is_progressing(&before, &status) {
            let message = format!("{subject} is progressing.");
            let mut fresh = condition(PROGRESSING, "True", "ReplicaSetUpdated", message, now);
            if let Some(known) = known.filter(|known| known.status == "True") {
                fresh.last_transition_time = known.last_transition_time;
            }
            // Removed first: even without news the time of the last progress is told.
            remove(&mut status, PROGRESSING);
            set(&mut status, fresh);
        } else if is_timed_out(deployment, &status, now) {
            let message = format!("{subject} has timed out progressing.");
            set(
                &mut status,
                condition(PROGRESSING, "False", TIMED_OUT, message, now),
            );
        }
    }
    match failure(sets) {
        Some((reason, message)) => {
            set(
                &mut status,
                condition(REPLICA_FAILURE, "True", &reason, message, now),
            );
        }
        None => remove(&mut status, REPLICA_FAILURE),
    }
    status
}

/// A rollout that was told to be complete stays so while only availability varies.
fn is_settled(status: &DeploymentStatus, known: Option<&DeploymentCondition>) -> bool {
    status.replicas == status.updated_replicas
        && known.is_some_and(|known| known.reason.as_deref() == Some(NEW_SET_AVAILABLE))
}

fn failure(sets: &Sets) -> Option<(String, String)> {
    let of = |set: &Set| {
        let conditions = set.object.status.as_ref()?.conditions.as_ref()?;
        let failure = conditions
            .iter()
            .find(|condition| condition.type_ == REPLICA_FAILURE)?;
        let reason = failure.reason.clone().unwrap_or_default();
        Some((reason, failure.message.clone().unwrap_or_default()))
    };
    sets.new
        .as_ref()
        .and_then(of)
        .or_else(|| sets.old.iter().find_map(of))
}

/// When to look whether the rollout has run out of time.
pub(crate) fn deadline_check(
    deployment: &Deployment,
    status: &DeploymentStatus,
    bounds: Bounds,
    now: Timestamp,
) -> Option<Duration> {
    let known = find(status, PROGRESSING)?;
    let over = matches!(known.reason.as_deref(), Some(TIMED_OUT | NEW_SET_AVAILABLE));
    if over || is_complete(deployment, status, bounds) {
        return None;
    }
    let rest = time_left(deployment, status, now)?.unwrap_or_default();
    Some(rest + Duration::from_secs(1))
}

/// Tells a pause or its end; while a deadline is missed that stays told.
pub(crate) fn note_pause(deployment: &Deployment, now: Timestamp) -> Option<DeploymentStatus> {
    deadline(deployment)?;
    let mut status = deployment.status.clone().unwrap_or_default();
    let reason = find(&status, PROGRESSING).and_then(|known| known.reason.clone());
    let reason = reason.unwrap_or_default();
    if reason == TIMED_OUT {
        return None;
    }
    let paused = spec(deployment).paused == Some(true);
    let (new, message) = match (paused, reason == PAUSED) {
        (true, false) => (PAUSED, "Deployment is paused"),
        (false, true) => (RESUMED, "Deployment is resumed"),
        _ => return None,
    };
    set(
        &mut status,
        condition(PROGRESSING, "Unknown", new, message.to_owned(), now),
    );
    Some(status)
}
