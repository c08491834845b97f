use serde_json::{Value, json};

use super::super::memory::{FailedStart, Probed};
use super::super::observed::Exit;
use super::*;
use crate::testing::{at, pod};

fn sandbox(attempt: u32, ready: bool) -> Sandbox {
    Sandbox {
        id: format!("s{attempt}"),
        attempt,
        ready,
        created_at: at(0),
        ips: vec!["10.0.0.1".parse().unwrap()],
    }
}

fn record(name: &str, attempt: u32, state: State) -> Record {
    Record {
        id: format!("{name}{attempt}"),
        name: name.into(),
        sandbox_id: "s0".into(),
        attempt,
        hash: containers::find(&sample(json!({})), name)
            .map(|spec| spec.hash())
            .unwrap_or_default(),
        state,
        created_at: at(0),
        image: String::new(),
        image_ref: String::new(),
        log_path: String::new(),
        limits: None,
        user: None,
        stop_signal: None,
        termination: super::super::observed::TerminationMessage::default(),
    }
}

fn running() -> State {
    State::Running { started_at: at(0) }
}

fn exited(code: i32, seconds: i64) -> State {
    State::Exited(Exit {
        started_at: at(0),
        finished_at: at(seconds),
        exit_code: code,
        reason: String::new(),
        message: String::new(),
    })
}

/// Containers a and b after an init container i and a sidecar s, changed by `over`.
fn sample(over: Value) -> Pod {
    let mut spec = json!({
        "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}],
        "containers": [{"name": "a"}, {"name": "b"}],
    });
    for (key, value) in over.as_object().unwrap() {
        spec[key] = value.clone();
    }
    pod(json!({"spec": spec}))
}

fn simple(policy: &str) -> Pod {
    sample(json!({"initContainers": [], "containers": [{"name": "a"}], "restartPolicy": policy}))
}

fn ready_memory() -> Memory {
    Memory {
        volumes: Volumes::Ready,
        cgroups_ready: true,
        ..Memory::default()
    }
}

fn observed(containers: Vec<Record>) -> Observed {
    let mut observed = Observed {
        sandboxes: vec![sandbox(0, true)],
        containers,
    };
    observed.sort();
    observed
}

fn ops(pod: &Pod, observed: &Observed, memory: &Memory, now: i64) -> Vec<Op> {
    plan(pod, observed, memory, Goal::Run, at(now)).ops
}

fn start(names: &[(&str, u32)]) -> Op {
    let start = |(name, attempt): &(&str, u32)| Start {
        name: (*name).into(),
        attempt: *attempt,
        replaces: None,
    };
    Op::Start(names.iter().map(start).collect())
}

#[test]
fn a_new_pod_gets_volumes_then_a_sandbox_then_its_containers() {
    let pod = simple("Always");
    let mut memory = Memory::default();
    let none = Observed::default();
    assert_eq!(ops(&pod, &none, &memory, 0), [Op::PrepareVolumes]);
    memory.volumes = Volumes::Preparing;
    assert_eq!(ops(&pod, &none, &memory, 0), []);
    memory.volumes = Volumes::Ready;
    assert_eq!(
        ops(&pod, &none, &memory, 0),
        [Op::CreateSandbox { attempt: 0 }]
    );
    memory.starting = true;
    assert_eq!(ops(&pod, &none, &memory, 0), []);
    memory.starting = false;
    assert_eq!(
        ops(&pod, &observed(vec![]), &memory, 0),
        [start(&[("a", 0)])]
    );
    let done = observed(vec![record("a", 0, running())]);
    assert_eq!(ops(&pod, &done, &memory, 0), [], "what runs is left alone");
}

#[test]
fn init_containers_run_one_after_the_other_and_sidecars_stay() {
    let pod = sample(json!({}));
    let mut memory = ready_memory();
    assert_eq!(
        ops(&pod, &observed(vec![]), &memory, 0),
        [start(&[("i", 0)])]
    );
    let mut seen = observed(vec![record("i", 0, running())]);
    assert_eq!(ops(&pod, &seen, &memory, 0), []);
    seen = observed(vec![record("i", 0, exited(0, 1))]);
    assert_eq!(ops(&pod, &seen, &memory, 1), [start(&[("s", 0)])]);
    seen = observed(vec![
        record("i", 0, exited(0, 1)),
        record("s", 0, running()),
    ]);
    assert_eq!(
        ops(&pod, &seen, &memory, 1),
        [],
        "the sidecar has not started yet"
    );
    memory.probed.insert(
        "s0".into(),
        Probed {
            started: true,
            ready: false,
        },
    );
    assert_eq!(ops(&pod, &seen, &memory, 1), [start(&[("a", 0), ("b", 0)])]);
    seen = observed(vec![
        record("s", 0, exited(0, 5)),
        record("a", 0, running()),
        record("b", 0, running()),
    ]);
    assert_eq!(
        ops(&pod, &seen, &memory, 5),
        [start(&[("s", 1)])],
        "a sidecar is always restarted"
    );
}

#[test]
fn a_failed_init_container_is_retried_unless_the_pod_gives_up() {
    let memory = ready_memory();
    let seen = observed(vec![record("i", 0, exited(1, 1))]);
    assert_eq!(
        ops(&sample(json!({})), &seen, &memory, 1),
        [start(&[("i", 1)])]
    );
    assert_eq!(
        ops(
            &sample(json!({"restartPolicy": "Never"})),
            &seen,
            &memory,
            1
        ),
        []
    );
}

#[test]
fn exits_are_restarted_by_policy_after_a_growing_pause() {
    let mut memory = ready_memory();
    let seen = observed(vec![record("a", 0, exited(0, 10))]);
    assert_eq!(
        ops(&simple("Always"), &seen, &memory, 10),
        [start(&[("a", 1)])]
    );
    assert_eq!(ops(&simple("OnFailure"), &seen, &memory, 10), []);
    assert_eq!(ops(&simple("Never"), &seen, &memory, 10), []);
    memory.restarts.attempt("a", at(10));
    let again = observed(vec![record("a", 1, exited(1, 20))]);
    let ended = plan(&simple("Always"), &again, &memory, Goal::Run, at(21));
    assert_eq!((ended.ops, ended.wake), (vec![], Some(at(23))));
    assert!(ended.waiting.is_empty(), "its end is shown first");
    let waits = plan(&simple("Always"), &again, &memory, Goal::Run, at(23));
    assert_eq!((waits.ops, waits.wake), (vec![], Some(at(30))));
    assert_eq!(waits.waiting[0].1.reason, "CrashLoopBackOff");
    assert!(
        waits.waiting[0]
            .1
            .message
            .starts_with("back-off 10s restarting failed container=a pod=p_ns(u1)")
    );
    assert_eq!(
        ops(&simple("Always"), &again, &memory, 30),
        [start(&[("a", 2)])]
    );
}

#[test]
fn a_changed_image_and_a_failed_probe_stop_the_container() {
    let mut memory = ready_memory();
    let mut changed = record("a", 0, running());
    changed.hash = "other".into();
    let pod = sample(
        json!({"initContainers": [], "containers": [{"name": "a"}], "terminationGracePeriodSeconds": 7}),
    );
    let kill = |message: &str| {
        Op::Kill(Kill {
            id: "a0".into(),
            name: "a".into(),
            message: message.into(),
            deadline: at(7),
        })
    };
    let message = "Container a definition changed, will be restarted";
    assert_eq!(
        ops(&pod, &observed(vec![changed]), &memory, 0),
        [kill(message)]
    );
    memory.condemned.insert("a0".into(), "failed".into());
    let seen = observed(vec![record("a", 0, running())]);
    assert_eq!(ops(&pod, &seen, &memory, 0), [kill("failed")]);
    memory.stopping.insert("a0".into(), at(7));
    assert_eq!(
        ops(&pod, &seen, &memory, 3),
        [],
        "it is being stopped already"
    );
}

#[test]
fn changes_that_follow_each_other_make_a_container_anew_once() {
    let mut memory = ready_memory();
    memory.changed_at = Some(at(10));
    let mut changed = record("a", 0, running());
    changed.hash = "other".into();
    let seen = observed(vec![changed]);
    let waits = plan(&simple("Always"), &seen, &memory, Goal::Run, at(10));
    assert_eq!((waits.ops, waits.wake), (vec![], Some(at(11))));
    let kills = ops(&simple("Always"), &seen, &memory, 11);
    assert!(matches!(kills.as_slice(), [Op::Kill(_)]), "{kills:?}");
}

#[test]
fn a_dead_sandbox_is_replaced_with_everything_in_it() {
    let pod = simple("Always");
    let mut memory = ready_memory();
    let mut seen = observed(vec![record("a", 0, running())]);
    seen.sandboxes = vec![sandbox(0, false)];
    assert!(matches!(&ops(&pod, &seen, &memory, 0)[..], [Op::Kill(kill)] if kill.id == "a0"));
    seen.containers = vec![record("a", 0, exited(137, 1))];
    assert_eq!(
        ops(&pod, &seen, &memory, 1),
        [Op::StopSandbox { id: "s0".into() }]
    );
    memory.sandbox_stopped = true;
    assert_eq!(
        ops(&pod, &seen, &memory, 1),
        [Op::CreateSandbox { attempt: 1 }]
    );
    assert_eq!(
        ops(&simple("Never"), &seen, &memory, 1),
        [],
        "nothing is left to run"
    );
}

#[test]
fn a_failed_pull_shows_its_error_then_the_pause() {
    let mut memory = ready_memory();
    let retry_at = at(10);
    memory.failed_starts.insert(
        "a".into(),
        FailedStart {
            at: at(0),
            retry_at,
            cause: Cause::Image,
        },
    );
    memory
        .waiting
        .insert("a".into(), Waiting::new("ErrImagePull", "no such host"));
    let step = |memory: &Memory, now| {
        plan(
            &simple("Always"),
            &observed(vec![]),
            memory,
            Goal::Run,
            at(now),
        )
    };
    assert_eq!(step(&memory, 0).waiting[0].1.reason, "ErrImagePull");
    let later = step(&memory, 3);
    assert_eq!(later.waiting[0].1.reason, "ImagePullBackOff");
    assert_eq!((later.ops, later.wake), (vec![], Some(retry_at)));
    assert_eq!(step(&memory, 10).ops, [start(&[("a", 0)])]);
}

#[test]
fn stopping_kills_then_takes_the_sandbox_and_the_volumes_down() {
    let pod = simple("Always");
    let mut memory = ready_memory();
    let goal = Goal::Stop {
        since: at(0),
        grace: 30,
    };
    let mut seen = observed(vec![record("a", 0, running())]);
    let step = |seen: &Observed, memory: &Memory, goal| plan(&pod, seen, memory, goal, at(0)).ops;
    assert!(matches!(&step(&seen, &memory, goal)[..], [Op::Kill(kill)] if kill.deadline == at(30)));
    memory.stopping.insert("a0".into(), at(30));
    assert_eq!(step(&seen, &memory, goal), []);
    let sooner = Goal::Stop {
        since: at(0),
        grace: 1,
    };
    assert!(
        matches!(&step(&seen, &memory, sooner)[..], [Op::Kill(_)]),
        "a shorter grace is a new order"
    );
    memory.stopping.clear();
    seen.containers = vec![record("a", 0, exited(0, 1))];
    assert_eq!(
        step(&seen, &memory, goal),
        [Op::StopSandbox { id: "s0".into() }]
    );
    seen.sandboxes[0].ready = false;
    memory.sandbox_stopped = true;
    assert_eq!(step(&seen, &memory, goal), [Op::TearDown]);
    memory.volumes = Volumes::Gone;
    assert_eq!(step(&seen, &memory, goal), []);
    let vanish = Goal::Vanish {
        since: at(0),
        grace: 30,
    };
    assert_eq!(
        step(&seen, &memory, vanish),
        [Op::RemoveContainer { id: "a0".into() }]
    );
    seen.containers.clear();
    assert_eq!(
        step(&seen, &memory, vanish),
        [Op::RemoveSandbox { id: "s0".into() }]
    );
    seen.sandboxes.clear();
    assert_eq!(step(&seen, &memory, vanish), [Op::Erase]);
}

#[test]
fn only_the_newest_two_containers_of_a_name_are_kept() {
    let seen = observed(vec![
        record("a", 2, running()),
        record("a", 1, exited(1, 2)),
        record("a", 0, exited(1, 1)),
    ]);
    let ops = ops(&simple("Always"), &seen, &ready_memory(), 5);
    assert_eq!(ops, [Op::RemoveContainer { id: "a0".into() }]);
}

#[test]
fn a_container_that_never_ran_is_made_anew_in_the_same_attempt() {
    let seen = observed(vec![record("a", 0, State::Created)]);
    let expected = Start {
        name: "a".into(),
        attempt: 0,
        replaces: Some("a0".into()),
    };
    assert_eq!(
        ops(&simple("Always"), &seen, &ready_memory(), 0),
        [Op::Start(vec![expected])]
    );
}
