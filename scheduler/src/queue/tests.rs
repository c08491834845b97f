use k8s_openapi::api::core::v1::{Pod, PodSchedulingGate, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::*;

fn pod(name: &str, priority: i32) -> Arc<PodInfo> {
    let metadata = ObjectMeta {
        namespace: Some("default".into()),
        name: Some(name.into()),
        uid: Some(name.into()),
        ..Default::default()
    };
    let spec = PodSpec {
        priority: Some(priority),
        ..Default::default()
    };
    Arc::new(PodInfo::new(Arc::new(Pod {
        metadata,
        spec: Some(spec),
        status: None,
    })))
}

fn popped(queue: &mut Queue, now: Instant) -> Option<String> {
    queue.pop(now).map(|pod| pod.key.name.clone())
}

fn plugins(plugin: Plugin) -> BTreeSet<Plugin> {
    BTreeSet::from([plugin])
}

#[test]
fn more_important_pods_come_first_and_equals_in_order() {
    let mut queue = Queue::default();
    let now = Instant::now();
    for (name, priority) in [("a", 0), ("b", 10), ("c", 0)] {
        queue.set(pod(name, priority));
    }
    let order: Vec<_> = std::iter::from_fn(|| popped(&mut queue, now)).collect();
    assert_eq!(order, ["b", "a", "c"]);
}

#[test]
fn a_pod_that_does_not_fit_waits_for_an_event_that_helps() {
    let mut queue = Queue::default();
    let now = Instant::now();
    queue.set(pod("a", 0));
    let key = queue.pop(now).map(|pod| pod.key.clone()).unwrap();
    queue.failed(&key, plugins(Plugin::NodeResourcesFit), now);
    queue.event(ClusterEvent::NodeLabels, now + Duration::from_secs(60));
    assert_eq!(popped(&mut queue, now + Duration::from_secs(60)), None);
    queue.event(ClusterEvent::RoomMade, now + Duration::from_secs(60));
    assert_eq!(
        popped(&mut queue, now + Duration::from_secs(60)).as_deref(),
        Some("a")
    );
}

#[test]
fn an_event_during_the_attempt_is_not_missed() {
    let mut queue = Queue::default();
    let now = Instant::now();
    queue.set(pod("a", 0));
    let key = queue.pop(now).map(|pod| pod.key.clone()).unwrap();
    queue.event(ClusterEvent::RoomMade, now);
    queue.failed(&key, plugins(Plugin::NodeResourcesFit), now);
    assert_eq!(popped(&mut queue, now), None);
    assert_eq!(queue.next_due(), Some(now + FIRST_BACKOFF));
    assert_eq!(
        popped(&mut queue, now + FIRST_BACKOFF).as_deref(),
        Some("a")
    );
}

#[test]
fn backoff_doubles_up_to_its_limit() {
    let seconds: Vec<u64> = (1..7).map(|attempts| backoff(attempts).as_secs()).collect();
    assert_eq!(seconds, [1, 2, 4, 8, 10, 10]);
}

#[test]
fn a_gated_pod_waits_until_its_gates_are_gone() {
    let mut queue = Queue::default();
    let now = Instant::now();
    let mut gated = (*pod("a", 0)).clone();
    let mut object = (*gated.pod).clone();
    let gates = vec![PodSchedulingGate {
        name: "wait".into(),
    }];
    object.spec = Some(PodSpec {
        scheduling_gates: Some(gates),
        ..Default::default()
    });
    gated.pod = Arc::new(object);
    queue.set(Arc::new(gated));
    assert_eq!(popped(&mut queue, now), None);
    queue.set(pod("a", 0));
    assert_eq!(popped(&mut queue, now).as_deref(), Some("a"));
}

#[test]
fn a_pod_that_waited_too_long_is_tried_again() {
    let mut queue = Queue::default();
    let now = Instant::now();
    queue.set(pod("a", 0));
    let key = queue.pop(now).map(|pod| pod.key.clone()).unwrap();
    queue.failed(&key, plugins(Plugin::NodeAffinity), now);
    let longest = Duration::from_secs(300);
    queue.flush(longest, now + Duration::from_secs(299));
    assert_eq!(popped(&mut queue, now + Duration::from_secs(299)), None);
    queue.flush(longest, now + longest);
    assert_eq!(popped(&mut queue, now + longest).as_deref(), Some("a"));
}

#[test]
fn a_new_pod_of_the_same_name_replaces_the_old_one() {
    let mut queue = Queue::default();
    let now = Instant::now();
    queue.set(pod("a", 0));
    let mut second = (*pod("a", 5)).clone();
    second.uid = "another".into();
    queue.set(Arc::new(second));
    assert_eq!(
        queue.pop(now).map(|pod| pod.uid.clone()).as_deref(),
        Some("another")
    );
    assert_eq!(popped(&mut queue, now), None);
}

#[test]
fn pods_that_are_gone_leave_every_part_of_the_queue() {
    let mut queue = Queue::default();
    let now = Instant::now();
    for name in ["a", "b", "c"] {
        queue.set(pod(name, 0));
    }
    let key = queue.pop(now).map(|pod| pod.key.clone()).unwrap();
    queue.failed(&key, BTreeSet::new(), now);
    let key = queue.pop(now).map(|pod| pod.key.clone()).unwrap();
    queue.failed(&key, plugins(Plugin::NodeAffinity), now);
    let counts = queue.counts();
    assert_eq!(
        (counts.active, counts.backoff, counts.unschedulable),
        (1, 1, 1)
    );
    queue.retain(|pod| pod.uid == "b");
    assert_eq!(queue.len(), 1);
    assert_eq!(queue.next_due(), None);
    assert_eq!(popped(&mut queue, now + Duration::from_secs(60)), None);
    queue.event(ClusterEvent::NodeLabels, now + Duration::from_secs(60));
    assert_eq!(
        popped(&mut queue, now + Duration::from_secs(60)).as_deref(),
        Some("b")
    );
}
