use serde_json::{Value, json};

use super::super::memory::{Ending, Probed, Waiting};
use super::super::observed::{Exit, Record, Sandbox, State, TerminationMessage};
use super::*;
use crate::testing::{at, pod};

fn record(name: &str, attempt: u32, state: State) -> Record {
    Record {
        id: format!("{name}{attempt}"),
        name: name.into(),
        sandbox_id: "s0".into(),
        attempt,
        hash: String::new(),
        state,
        created_at: at(0),
        image: "img".into(),
        image_ref: "sha256:1".into(),
        log_path: String::new(),
        limits: None,
        user: None,
        stop_signal: None,
        termination: TerminationMessage::default(),
    }
}

fn exited(code: i32) -> State {
    State::Exited(Exit {
        started_at: at(0),
        finished_at: at(1),
        exit_code: code,
        reason: String::new(),
        message: String::new(),
    })
}

fn running() -> State {
    State::Running { started_at: at(0) }
}

fn made(pod: &Pod, records: Vec<Record>, memory: &Memory, ended: bool) -> PodStatus {
    let mut observed = Observed {
        sandboxes: vec![Sandbox {
            id: "s0".into(),
            attempt: 0,
            ready: !ended,
            created_at: at(0),
            ips: vec!["10.0.0.5".parse().unwrap()],
        }],
        containers: records,
    };
    observed.sort();
    let host_ips = ["192.168.0.1".parse().unwrap()];
    generate(&Inputs {
        pod,
        observed: &observed,
        memory,
        host_ips: &host_ips,
        ended,
        now: at(9),
    })
}

fn two(policy: &str) -> Pod {
    pod(json!({
        "metadata": {"generation": 3},
        "spec": {"restartPolicy": policy, "containers": [{"name": "a"}, {"name": "b"}]},
    }))
}

fn phase(policy: &str, a: State, b: State, ended: bool) -> String {
    let records = vec![record("a", 0, a), record("b", 0, b)];
    made(&two(policy), records, &Memory::default(), ended)
        .phase
        .unwrap()
}

#[test]
fn phases_follow_the_containers_and_the_policy() {
    for (policy, a, b, ended, expected) in [
        ("Always", running(), running(), false, "Running"),
        ("Always", exited(0), running(), false, "Running"),
        ("Always", exited(0), exited(0), false, "Running"),
        ("Never", exited(0), exited(0), false, "Succeeded"),
        ("Never", exited(0), exited(1), false, "Failed"),
        ("Never", running(), exited(1), false, "Running"),
        ("OnFailure", exited(0), exited(1), false, "Running"),
        ("OnFailure", exited(0), exited(0), false, "Succeeded"),
        ("Always", exited(0), exited(0), true, "Succeeded"),
        ("Always", exited(0), exited(137), true, "Failed"),
        ("Always", State::Created, running(), false, "Pending"),
    ] {
        let shown = format!("{policy} {a:?} {b:?} {ended}");
        assert_eq!(phase(policy, a, b, ended), expected, "{shown}");
    }
}

fn condition<'a>(status: &'a PodStatus, kind: &str) -> &'a PodCondition {
    status
        .conditions
        .as_ref()
        .unwrap()
        .iter()
        .find(|condition| condition.type_ == kind)
        .unwrap()
}

#[test]
fn readiness_is_the_containers_and_the_gates() {
    let mut memory = Memory::default();
    memory.probed.insert(
        "a0".into(),
        Probed {
            started: true,
            ready: true,
        },
    );
    memory.probed.insert(
        "b0".into(),
        Probed {
            started: true,
            ready: false,
        },
    );
    let records = || vec![record("a", 0, running()), record("b", 0, running())];
    let status = made(&two("Always"), records(), &memory, false);
    let ready = condition(&status, "Ready");
    assert_eq!(
        (ready.status.as_str(), ready.reason.as_deref()),
        ("False", Some("ContainersNotReady"))
    );
    assert_eq!(
        ready.message.as_deref(),
        Some("containers with unready status: [b]")
    );
    assert_eq!(ready.observed_generation, Some(3));
    memory.probed.insert(
        "b0".into(),
        Probed {
            started: true,
            ready: true,
        },
    );
    assert_eq!(
        condition(&made(&two("Always"), records(), &memory, false), "Ready").status,
        "True"
    );
    let mut gated = two("Always");
    gated.spec.as_mut().unwrap().readiness_gates =
        serde_json::from_value(json!([{"conditionType": "x/y"}])).unwrap();
    let status = made(&gated, records(), &memory, false);
    assert_eq!(
        condition(&status, "Ready").reason.as_deref(),
        Some("ReadinessGatesNotReady")
    );
    assert_eq!(condition(&status, "ContainersReady").status, "True");
}

#[test]
fn a_condition_keeps_its_time_while_its_status_stays() {
    let old = "2020-01-01T00:00:00Z";
    let mut pod = two("Always");
    pod.status = serde_json::from_value(json!({"conditions": [
        {"type": "Ready", "status": "False", "lastTransitionTime": old},
        {"type": "Initialized", "status": "False", "lastTransitionTime": old},
    ]}))
    .unwrap();
    let status = made(&pod, vec![], &Memory::default(), false);
    let time = |kind| serde_json::to_value(&condition(&status, kind).last_transition_time).unwrap();
    assert_eq!(time("Ready"), json!(old));
    assert_ne!(
        time("Initialized"),
        json!(old),
        "without init containers it is true at once"
    );
}

#[test]
fn a_crashing_container_waits_with_its_last_end() {
    let mut memory = Memory::default();
    memory
        .waiting
        .insert("a".into(), Waiting::new("CrashLoopBackOff", "back-off 10s"));
    memory.last_words.insert("a1".into(), "bye".into());
    let records = vec![
        record("a", 1, exited(2)),
        record("a", 0, exited(1)),
        record("b", 0, running()),
    ];
    let status = made(&two("Always"), records, &memory, false);
    let a = &status.container_statuses.unwrap()[0];
    let shown = serde_json::to_value(a).unwrap();
    assert_eq!(shown["state"]["waiting"]["reason"], "CrashLoopBackOff");
    assert_eq!(shown["lastState"]["terminated"]["exitCode"], 2);
    assert_eq!(shown["lastState"]["terminated"]["message"], "bye");
    assert_eq!(shown["lastState"]["terminated"]["reason"], "Error");
    assert_eq!(a.restart_count, 1);
}

#[test]
fn a_pod_in_initialization_says_what_is_incomplete() {
    let pod = pod(json!({"spec": {
        "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}],
        "containers": [{"name": "a"}]}}));
    let status = made(
        &pod,
        vec![record("i", 0, running())],
        &Memory::default(),
        false,
    );
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    let initialized = condition(&status, "Initialized");
    assert_eq!(
        initialized.message.as_deref(),
        Some("containers with incomplete status: [i s]")
    );
    let main = serde_json::to_value(&status.container_statuses).unwrap();
    assert_eq!(main[0]["state"]["waiting"]["reason"], "PodInitializing");
    let failed = made(
        &pod,
        vec![record("i", 0, exited(1))],
        &Memory::default(),
        true,
    );
    assert_eq!(failed.phase.as_deref(), Some("Failed"));
}

#[test]
fn an_ended_pod_leaves_no_container_without_an_end() {
    let memory = Memory::default();
    let status = made(
        &two("Always"),
        vec![record("a", 0, exited(0))],
        &memory,
        true,
    );
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    let b: Value = serde_json::to_value(&status.container_statuses.unwrap()[1]).unwrap();
    assert_eq!(b["state"]["terminated"]["reason"], "ContainerStatusUnknown");
}

#[test]
fn a_pod_that_ended_before_its_containers_came_says_the_same_a_second_time() {
    let mut pod = two("Always");
    let memory = Memory::default();
    let first = made(&pod, vec![], &memory, true);
    pod.status = Some(first.clone());
    let second = made(&pod, vec![], &memory, true);
    assert_eq!(second.phase.as_deref(), Some("Failed"));
    assert_eq!(second.container_statuses, first.container_statuses);
}

#[test]
fn an_evicted_pod_fails_with_the_reason_and_a_condition() {
    let ending = Ending {
        reason: "Evicted".into(),
        message: "low on memory".into(),
        grace: Some(0),
        disrupted: true,
    };
    let memory = Memory {
        ending: Some(ending),
        ..Memory::default()
    };
    let records = vec![record("a", 0, exited(0)), record("b", 0, exited(0))];
    let status = made(&two("Always"), records, &memory, true);
    assert_eq!(
        (status.phase.as_deref(), status.reason.as_deref()),
        (Some("Failed"), Some("Evicted"))
    );
    assert_eq!(condition(&status, "DisruptionTarget").status, "True");
}

#[test]
fn addresses_and_class_are_reported() {
    let status = made(&two("Always"), vec![], &Memory::default(), false);
    assert_eq!(status.pod_ip.as_deref(), Some("10.0.0.5"));
    assert_eq!(status.host_ip.as_deref(), Some("192.168.0.1"));
    assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));
}

#[test]
fn containers_are_told_by_name_and_init_containers_in_their_order() {
    let pod = pod(json!({"spec": {
        "initContainers": [{"name": "z"}, {"name": "b"}],
        "containers": [{"name": "y"}, {"name": "a"}],
    }}));
    let status = made(&pod, Vec::new(), &Memory::default(), false);
    let names = |list: Option<Vec<ContainerStatus>>| -> Vec<String> {
        list.unwrap()
            .into_iter()
            .map(|status| status.name)
            .collect()
    };
    assert_eq!(names(status.container_statuses), ["a", "y"]);
    assert_eq!(names(status.init_container_statuses), ["z", "b"]);
}

#[test]
fn a_container_that_is_made_anew_waits_and_does_not_end() {
    let mut memory = Memory::default();
    memory.replace.insert("a".into());
    for policy in ["Never", "OnFailure", "Always"] {
        let records = vec![record("a", 0, exited(0)), record("b", 0, exited(0))];
        let status = made(&two(policy), records, &memory, false);
        assert_eq!(status.phase.as_deref(), Some("Running"), "{policy}");
        let statuses = status.container_statuses.unwrap();
        let state = statuses[0].state.as_ref().unwrap();
        assert!(state.waiting.is_some(), "{policy} {state:?}");
        let last = statuses[0].last_state.as_ref().unwrap();
        assert!(last.terminated.is_some(), "{policy} {last:?}");
    }
}
