//! Jobs are played through: pods end as the test says, the plan and the books are applied.

use std::collections::BTreeSet;

use kube::ResourceExt;
use serde_json::{Value, json};

use super::super::tally::{self, FINALIZER, is_tracked};
use super::super::{create, track};
use super::*;

struct World {
    job: Job,
    pods: Vec<Pod>,
    made: usize,
    now: Timestamp,
    backoff: Backoff,
    news: Vec<&'static str>,
}

fn start() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().expect("a time")
}

impl World {
    fn new(spec: Value) -> Self {
        let mut full = json!({"template": {"spec": {"containers": [], "restartPolicy": "Never"}}});
        for (key, value) in spec.as_object().expect("an object") {
            full[key] = value.clone();
        }
        let job = serde_json::from_value(json!({
            "metadata": {"name": "j", "namespace": "ns", "uid": "u"}, "spec": full}));
        Self {
            job: job.expect("a Job"),
            pods: Vec::new(),
            made: 0,
            now: start(),
            backoff: Backoff::default(),
            news: Vec::new(),
        }
    }

    fn status(&self) -> JobStatus {
        self.job.status.clone().unwrap_or_default()
    }

    /// One sync, as the controller does it; false if it changed nothing.
    fn step(&mut self) -> bool {
        if is_finished(&self.status()) {
            return false;
        }
        let pods: Vec<Arc<Pod>> = self.pods.iter().cloned().map(Arc::new).collect();
        let tally = tally::count(&self.job, &pods);
        let backoff = self
            .backoff
            .after(&tally.new_succeeded, &tally.new_failed, self.now);
        let plan = plan(&self.job, &tally, backoff, self.now);
        self.backoff = backoff;
        self.news
            .extend(plan.news.iter().map(|(reason, _)| *reason));
        let first = track::first(&self.job, &tally, &plan.status);
        let released: BTreeSet<_> = track::releasable(&first, &tally, &pods)
            .iter()
            .filter_map(|pod| pod.uid())
            .collect();
        for pod in &mut self.pods {
            if released.contains(&pod.uid().unwrap_or_default()) {
                pod.metadata.finalizers = None;
            }
        }
        let tracked = self
            .pods
            .iter()
            .filter(|pod| is_tracked(pod))
            .filter_map(|pod| pod.uid())
            .collect();
        let second = track::second(&self.job, &first, &plan.status, &tracked);
        let mut changed = !track::same(&self.status(), &second);
        changed |= !plan.create.is_empty() || !plan.delete.is_empty() || !released.is_empty();
        self.job.status = Some(second);
        for new in &plan.create {
            self.made += 1;
            let mut pod = create::pod(&self.job, *new);
            pod.metadata.name = Some(format!("p{}", self.made));
            pod.metadata.uid = Some(format!("p{}", self.made));
            self.pods.push(pod);
        }
        for gone in &plan.delete {
            self.end(&gone.name_any(), "Failed", 143);
        }
        changed
    }

    fn settle(&mut self) {
        for _ in 0..50 {
            if !self.step() {
                return;
            }
        }
        panic!("the job does not come to rest: {:?}", self.status());
    }

    fn end(&mut self, name: &str, phase: &str, code: i32) {
        let ended = json!({"phase": phase, "containerStatuses": [{"name": "c", "image": "",
            "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": code, "finishedAt": self.now.to_string()}}}]});
        let pod = self
            .pods
            .iter_mut()
            .find(|pod| pod.name_any() == name)
            .expect("a pod");
        pod.status = serde_json::from_value(ended).expect("a status");
    }

    fn running(&self) -> Vec<String> {
        let active = |pod: &&Pod| crate::framework::pods::is_active(pod);
        self.pods
            .iter()
            .filter(active)
            .map(|pod| pod.name_any())
            .collect()
    }

    fn indexes(&self) -> Vec<i32> {
        let active = |pod: &&Pod| crate::framework::pods::is_active(pod);
        let mut indexes: Vec<i32> = self
            .pods
            .iter()
            .filter(active)
            .filter_map(super::super::policy::index)
            .collect();
        indexes.sort_unstable();
        indexes
    }

    fn later(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    fn reason(&self, kind: &str) -> Option<String> {
        find(&self.status(), kind).and_then(|condition| condition.reason.clone())
    }
}

#[test]
fn a_job_runs_to_its_completions_with_its_parallelism() {
    let mut world = World::new(json!({"completions": 5, "parallelism": 2}));
    let mut most = 0;
    for _ in 0..20 {
        world.settle();
        most = most.max(world.running().len());
        if let Some(name) = world.running().first() {
            world.end(&name.clone(), "Succeeded", 0);
        }
    }
    assert_eq!(most, 2);
    assert_eq!(world.status().succeeded, Some(5));
    assert_eq!(
        world.reason("Complete").as_deref(),
        Some("CompletionsReached")
    );
    assert!(world.status().completion_time.is_some());
    assert!(world.pods.iter().all(|pod| !is_tracked(pod)));
    assert_eq!(world.made, 5);
}

#[test]
fn a_work_queue_job_is_complete_when_its_pods_have_ended_after_a_success() {
    let mut world = World::new(json!({"parallelism": 3}));
    world.settle();
    world.end("p1", "Succeeded", 0);
    world.settle();
    assert_eq!(world.running().len(), 2);
    world.end("p2", "Succeeded", 0);
    world.end("p3", "Succeeded", 0);
    world.settle();
    assert!(is_finished(&world.status()));
    assert_eq!((world.status().succeeded, world.made), (Some(3), 3));
}

#[test]
fn failures_are_tried_again_ever_more_slowly_up_to_the_limit() {
    let mut world = World::new(json!({"completions": 1, "parallelism": 1, "backoffLimit": 2}));
    for (failure, wait) in [(1, 10), (2, 20)] {
        world.settle();
        let name = world.running()[0].clone();
        world.end(&name, "Failed", 1);
        world.settle();
        assert!(
            world.running().is_empty(),
            "failure {failure} is not retried at once"
        );
        world.later(wait - 1);
        world.settle();
        assert!(world.running().is_empty());
        world.later(1);
    }
    world.settle();
    let name = world.running()[0].clone();
    world.end(&name, "Failed", 1);
    world.settle();
    assert_eq!(
        world.reason("Failed").as_deref(),
        Some("BackoffLimitExceeded")
    );
    assert_eq!(world.status().failed, Some(3));
}

#[test]
fn an_indexed_job_runs_every_index_once() {
    let spec = json!({"completions": 4, "parallelism": 3, "completionMode": "Indexed"});
    let mut world = World::new(spec);
    world.settle();
    assert_eq!(world.indexes(), [0, 1, 2]);
    world.end("p2", "Succeeded", 0);
    world.settle();
    assert_eq!(world.indexes(), [0, 2, 3]);
    assert_eq!(world.status().completed_indexes.as_deref(), Some("1"));
    for name in world.running() {
        world.end(&name, "Succeeded", 0);
    }
    world.settle();
    assert_eq!(world.status().completed_indexes.as_deref(), Some("0-3"));
    assert_eq!(world.status().succeeded, Some(4));
    assert!(world.reason("Complete").is_some());
}

#[test]
fn a_limit_for_each_index_fails_indexes_alone() {
    let spec = json!({"completions": 2, "parallelism": 2, "completionMode": "Indexed",
        "backoffLimitPerIndex": 1});
    let mut world = World::new(spec);
    world.settle();
    world.end("p1", "Failed", 1);
    world.settle();
    assert_eq!(world.indexes(), [1]);
    world.later(10);
    world.settle();
    assert_eq!(world.indexes(), [0, 1]);
    world.end("p3", "Failed", 1);
    world.end("p2", "Succeeded", 0);
    world.settle();
    assert_eq!(world.status().failed_indexes.as_deref(), Some("0"));
    assert_eq!(world.status().completed_indexes.as_deref(), Some("1"));
    assert_eq!(world.reason("Failed").as_deref(), Some("FailedIndexes"));
    assert_eq!(world.status().failed, Some(2));
    assert!(world.pods.iter().all(|pod| !is_tracked(pod)));
}

#[test]
fn the_failure_policy_ignores_fails_indexes_and_fails_jobs() {
    let rules = json!({"rules": [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}]});
    let spec = json!({"completions": 1, "parallelism": 1, "backoffLimit": 0,
        "podFailurePolicy": rules});
    let mut world = World::new(spec);
    world.settle();
    world.end("p1", "Failed", 1);
    let status = world.pods[0].status.as_mut().expect("a status");
    status.conditions =
        serde_json::from_value(json!([{"type": "DisruptionTarget", "status": "True"}]))
            .expect("conditions");
    world.settle();
    assert_eq!(world.running().len(), 1, "an ignored failure is replaced");
    assert_eq!(world.status().failed, None);
    let name = world.running()[0].clone();
    world.end(&name, "Failed", 42);
    world.settle();
    assert_eq!(world.reason("Failed").as_deref(), Some("PodFailurePolicy"));
}

#[test]
fn a_success_policy_ends_the_job_early() {
    let spec = json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed",
        "successPolicy": {"rules": [{"succeededIndexes": "0"}]}});
    let mut world = World::new(spec);
    world.settle();
    world.end("p1", "Succeeded", 0);
    world.settle();
    assert_eq!(world.reason("Complete").as_deref(), Some("SuccessPolicy"));
    assert!(world.running().is_empty());
}

#[test]
fn a_suspended_job_has_no_pods_and_no_start() {
    let mut world = World::new(json!({"completions": 1, "parallelism": 1, "suspend": true}));
    world.settle();
    assert!(world.running().is_empty());
    assert_eq!(world.status().start_time, None);
    assert_eq!(world.reason("Suspended").as_deref(), Some("JobSuspended"));
    world.job.spec.as_mut().expect("a spec").suspend = Some(false);
    world.settle();
    assert_eq!(world.running().len(), 1);
    assert!(world.status().start_time.is_some());
    world.job.spec.as_mut().expect("a spec").suspend = Some(true);
    world.settle();
    assert!(world.running().is_empty());
    assert_eq!(world.news, ["Suspended", "Resumed", "Suspended"]);
}

#[test]
fn a_deadline_ends_a_job_that_runs_too_long() {
    let spec = json!({"completions": 1, "parallelism": 1, "activeDeadlineSeconds": 60});
    let mut world = World::new(spec);
    world.settle();
    world.later(61);
    world.settle();
    assert_eq!(world.reason("Failed").as_deref(), Some("DeadlineExceeded"));
}

#[test]
fn fewer_parallel_pods_and_doubled_indexes_are_taken_back() {
    let spec = json!({"completions": 5, "parallelism": 3, "completionMode": "Indexed"});
    let mut world = World::new(spec);
    world.settle();
    let mut double = world.pods[0].clone();
    double.metadata.name = Some("double".to_owned());
    double.metadata.uid = Some("double".to_owned());
    world.pods.push(double);
    world.step();
    assert_eq!(world.indexes(), [0, 1, 2]);
    world.job.spec.as_mut().expect("a spec").parallelism = Some(1);
    world.step();
    assert_eq!(world.indexes().len(), 1);
}

#[test]
fn a_crash_between_the_writes_counts_no_pod_twice() {
    let mut world = World::new(json!({"completions": 2, "parallelism": 1}));
    world.settle();
    world.end("p1", "Succeeded", 0);
    // The first write and the finalizer went through, the second write did not.
    let pods: Vec<Arc<Pod>> = world.pods.iter().cloned().map(Arc::new).collect();
    let tally = tally::count(&world.job, &pods);
    let plan = plan(&world.job, &tally, Backoff::default(), world.now);
    world.job.status = Some(track::first(&world.job, &tally, &plan.status));
    world.pods.retain(|pod| pod.name_any() != "p1");
    world.settle();
    assert_eq!(world.status().succeeded, Some(1));
    assert_eq!(world.running().len(), 1);
    assert!(world.pods.iter().all(|pod| pod.finalizers() == [FINALIZER]));
}
