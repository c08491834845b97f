//! The phase of a pod, from the statuses of its containers.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::containers::{self, Kind, RestartPolicy};

/// Whether the pod's containers may still be started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Alive,
    /// The kubelet has stopped the pod for good.
    Ended,
}

#[derive(Default)]
struct Counts {
    pending_init: u32,
    pending_sidecars: u32,
    failed_init: u32,
    unknown: u32,
    running: u32,
    waiting: u32,
    stopped: u32,
    succeeded: u32,
}

fn status<'a>(statuses: &'a [ContainerStatus], name: &str) -> Option<&'a ContainerStatus> {
    statuses.iter().find(|status| status.name == name)
}

fn last_exit(status: &ContainerStatus) -> Option<i32> {
    Some(status.last_state.as_ref()?.terminated.as_ref()?.exit_code)
}

fn count_init(status: Option<&ContainerStatus>, counts: &mut Counts) {
    let state = status.and_then(|status| status.state.as_ref());
    let exit = state
        .and_then(|state| state.terminated.as_ref())
        .map(|terminated| terminated.exit_code)
        .or_else(|| {
            let waiting = state.is_some_and(|state| state.waiting.is_some());
            status.filter(|_| waiting).and_then(last_exit)
        });
    match exit {
        Some(0) => {}
        Some(_) => counts.failed_init += 1,
        None => counts.pending_init += 1,
    }
}

fn count_sidecar(status: Option<&ContainerStatus>, counts: &mut Counts) {
    let Some(status) = status else {
        counts.unknown += 1;
        return;
    };
    let state = status.state.as_ref();
    if state.is_some_and(|state| state.running.is_some()) {
        counts.pending_sidecars += u32::from(status.started != Some(true));
        counts.running += 1;
    } else if state.is_none_or(|state| state.terminated.is_none()) && last_exit(status).is_none() {
        counts.pending_sidecars += 1;
        counts.waiting += 1;
    }
}

fn count_main(status: Option<&ContainerStatus>, counts: &mut Counts) {
    let Some(status) = status else {
        counts.unknown += 1;
        return;
    };
    let Some(state) = &status.state else {
        counts.unknown += 1;
        return;
    };
    if state.running.is_some() {
        counts.running += 1;
    } else if let Some(terminated) = &state.terminated {
        counts.stopped += 1;
        counts.succeeded += u32::from(terminated.exit_code == 0);
    } else if last_exit(status).is_some() {
        counts.stopped += 1;
    } else {
        counts.waiting += 1;
    }
}

/// The phase. `initialized` says that the pod's own containers have been started once.
pub(super) fn of(
    pod: &Pod,
    init: &[ContainerStatus],
    main: &[ContainerStatus],
    stage: Stage,
    initialized: bool,
) -> &'static str {
    let mut counts = Counts::default();
    for spec in containers::init(pod) {
        let status = status(init, spec.name());
        match spec.kind {
            Kind::Sidecar => count_sidecar(status, &mut counts),
            _ if initialized && status.is_none() => {}
            _ => count_init(status, &mut counts),
        }
    }
    for spec in containers::main(pod) {
        count_main(status(main, spec.name()), &mut counts);
    }
    let policy = containers::restart_policy(pod);
    let gives_up = policy == RestartPolicy::Never || stage == Stage::Ended;
    if counts.failed_init > 0 && gives_up {
        return "Failed";
    }
    let initializing = counts.pending_init > 0
        || counts.failed_init > 0
        || (counts.pending_sidecars > 0 && !initialized);
    if initializing || counts.waiting > 0 || counts.unknown > 0 {
        return "Pending";
    }
    if counts.running > 0 {
        return "Running";
    }
    let all_succeeded = counts.stopped == counts.succeeded;
    match (counts.stopped, stage) {
        (0, _) => "Pending",
        (_, Stage::Ended) if all_succeeded => "Succeeded",
        (_, Stage::Ended) => "Failed",
        (_, Stage::Alive) => restartable(pod, main, all_succeeded),
    }
}

/// All containers have exited: the pod goes on as long as one of them is started again.
fn restartable(pod: &Pod, main: &[ContainerStatus], all_succeeded: bool) -> &'static str {
    let again = containers::main(pod).iter().any(|spec| {
        let exit = status(main, spec.name()).and_then(|status| {
            let state = status.state.as_ref()?;
            state
                .terminated
                .as_ref()
                .map(|exit| exit.exit_code)
                .or_else(|| last_exit(status))
        });
        exit.is_none_or(|code| spec.restarts_after(pod, code))
    });
    match (again, all_succeeded) {
        (true, _) => "Running",
        (false, true) => "Succeeded",
        (false, false) => "Failed",
    }
}
