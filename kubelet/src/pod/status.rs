//! The status of a pod in the words of the API.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus};

use super::container_status::{Context, lost, time};
use super::containers::{self, Kind};
use super::memory::Memory;
use super::observed::Observed;
use super::phase::{self, Stage};
use super::{qos, resize};

pub use super::container_status::{qualified, unqualified};

/// What a status is made from.
pub struct Inputs<'a> {
    pub pod: &'a Pod,
    pub observed: &'a Observed,
    pub memory: &'a Memory,
    pub host_ips: &'a [IpAddr],
    /// Everything has stopped for good.
    pub ended: bool,
    pub now: Timestamp,
}

/// The whole status that the kubelet answers for.
pub fn generate(inputs: &Inputs<'_>) -> PodStatus {
    let Inputs {
        pod,
        observed,
        memory,
        ..
    } = *inputs;
    let before = pod.status.clone().unwrap_or_default();
    let stage = if inputs.ended {
        Stage::Ended
    } else {
        Stage::Alive
    };
    let context = Context {
        pod,
        observed,
        memory,
        stage,
    };
    let list = |specs: Vec<containers::Spec<'_>>| -> Vec<ContainerStatus> {
        specs.iter().map(|spec| context.status(spec)).collect()
    };
    let init = list(containers::init(pod));
    let mut main = list(containers::main(pod));
    let mut ephemeral = list(containers::ephemeral(pod));
    let initialized = main.iter().any(|status| status.container_id.is_some());
    let terminal = containers::is_phase_terminal(pod);
    let mut phase = match before.phase.as_deref() {
        Some(phase) if terminal => phase.to_owned(),
        _ => phase::of(pod, &init, &main, stage, initialized).to_owned(),
    };
    // What was stopped to be made anew starts again, whatever the policy says of its exit.
    let renewed = containers::main(pod)
        .iter()
        .any(|spec| memory.replace.contains(spec.name()));
    if renewed && !inputs.ended && !terminal && matches!(phase.as_str(), "Succeeded" | "Failed") {
        phase = "Running".to_owned();
    }
    // Also of a pod whose phase is final already: the API takes back no end that it was told.
    if inputs.ended && !init_failed(pod, &init) {
        settle(&mut main);
    }
    if inputs.ended && !terminal {
        // What has stopped for good without having succeeded has failed.
        let succeeded = phase == "Succeeded" && memory.ending.is_none();
        phase = if succeeded { "Succeeded" } else { "Failed" }.to_owned();
    }
    let mut status = PodStatus {
        phase: Some(phase.clone()),
        ..PodStatus::default()
    };
    if let Some(ending) = &memory.ending {
        status.reason = Some(ending.reason.clone());
        status.message = Some(ending.message.clone()).filter(|message| !message.is_empty());
        if inputs.ended || memory.rejected {
            status.phase = Some("Failed".to_owned());
        }
    } else {
        status.reason = before.reason.clone();
        status.message = before.message.clone();
    }
    addresses(inputs, &before, &mut status);
    status.qos_class = Some(
        before
            .qos_class
            .clone()
            .unwrap_or_else(|| qos::class(pod).as_str().into()),
    );
    status.start_time = before
        .start_time
        .clone()
        .or_else(|| memory.started_at.map(time));
    status.observed_generation = pod.metadata.generation;
    if memory.rejected {
        // Nothing of it ever ran, so there is nothing to say of its containers.
        return status;
    }
    status.conditions = Some(conditions(inputs, &init, &main, &phase));
    // Init containers are told in the order in which they run, the others by name.
    main.sort_by(|a, b| a.name.cmp(&b.name));
    ephemeral.sort_by(|a, b| a.name.cmp(&b.name));
    status.init_container_statuses = Some(init).filter(|list| !list.is_empty());
    status.container_statuses = Some(main);
    status.ephemeral_container_statuses = Some(ephemeral).filter(|list| !list.is_empty());
    status
}

/// Whether the initialization itself failed, which describes the pod well enough.
fn init_failed(pod: &Pod, init: &[ContainerStatus]) -> bool {
    containers::init(pod)
        .iter()
        .zip(init)
        .any(|(spec, status)| {
            let exit = status
                .state
                .as_ref()
                .and_then(|state| state.terminated.as_ref());
            spec.kind == Kind::Init && exit.is_some_and(|exit| exit.exit_code != 0)
        })
}

/// At the end of a pod no container is left without an end.
fn settle(main: &mut [ContainerStatus]) {
    for status in main {
        if status
            .state
            .as_ref()
            .is_none_or(|state| state.terminated.is_none())
        {
            let message = "The container could not be located when the pod was terminated";
            status.state = Some(lost(message, status.container_id.clone()));
            status.ready = false;
            status.started = Some(false);
        }
    }
}

fn addresses(inputs: &Inputs<'_>, before: &PodStatus, status: &mut PodStatus) {
    let mut host_ips = inputs.host_ips.to_vec();
    host_ips.truncate(2);
    status.host_ip = host_ips.first().map(ToString::to_string);
    let hosts: Vec<_> = host_ips
        .iter()
        .map(|ip| HostIP { ip: ip.to_string() })
        .collect();
    status.host_ips = Some(hosts).filter(|hosts| !hosts.is_empty());
    let sandbox = inputs.observed.sandbox();
    let ips: Vec<IpAddr> = match sandbox {
        Some(_) if containers::is_host_network(inputs.pod) => host_ips,
        Some(sandbox) => sandbox.ips.clone(),
        None => Vec::new(),
    };
    if ips.is_empty() {
        status.pod_ip.clone_from(&before.pod_ip);
        status.pod_ips.clone_from(&before.pod_ips);
    } else {
        status.pod_ip = ips.first().map(ToString::to_string);
        status.pod_ips = Some(ips.iter().map(|ip| PodIP { ip: ip.to_string() }).collect());
    }
}

struct Verdict {
    status: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Verdict {
    const TRUE: Self = Self {
        status: true,
        reason: None,
        message: None,
    };

    fn no(reason: &'static str, message: Option<String>) -> Self {
        Self {
            status: false,
            reason: Some(reason),
            message,
        }
    }
}

fn conditions(
    inputs: &Inputs<'_>,
    init: &[ContainerStatus],
    main: &[ContainerStatus],
    phase: &str,
) -> Vec<PodCondition> {
    let pod = inputs.pod;
    let containers_ready = containers_ready(pod, init, main, phase);
    let ready = ready(pod, &containers_ready);
    let mut verdicts = vec![
        ("PodReadyToStartContainers", sandbox_ready(inputs)),
        ("Initialized", initialized(pod, init, main, phase)),
        ("Ready", ready),
        ("ContainersReady", containers_ready),
        ("PodScheduled", Verdict::TRUE),
    ];
    if let Some(ending) = inputs
        .memory
        .ending
        .as_ref()
        .filter(|ending| ending.disrupted)
    {
        let message = Some(ending.message.clone());
        let verdict = Verdict {
            status: true,
            reason: Some("TerminationByKubelet"),
            message,
        };
        verdicts.push(("DisruptionTarget", verdict));
    }
    verdicts.extend(resizing(inputs));
    verdicts
        .into_iter()
        .map(|(kind, verdict)| condition(inputs, kind, verdict))
        .collect()
}

/// A condition keeps its time as long as its status stays.
fn condition(inputs: &Inputs<'_>, kind: &str, verdict: Verdict) -> PodCondition {
    let before = inputs
        .pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    let before = before.and_then(|list| list.iter().find(|condition| condition.type_ == kind));
    let status = if verdict.status { "True" } else { "False" };
    let kept = before.filter(|before| before.status == status);
    PodCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: verdict.reason.map(str::to_owned),
        message: verdict.message,
        last_transition_time: kept
            .and_then(|before| before.last_transition_time.clone())
            .or_else(|| Some(time(inputs.now))),
        last_probe_time: None,
        observed_generation: inputs.pod.metadata.generation,
    }
}

fn sandbox_ready(inputs: &Inputs<'_>) -> Verdict {
    let ready = inputs.observed.sandbox().is_some_and(|sandbox| {
        sandbox.ready && (containers::is_host_network(inputs.pod) || !sandbox.ips.is_empty())
    });
    Verdict {
        status: ready,
        reason: None,
        message: None,
    }
}

fn find<'a>(statuses: &'a [ContainerStatus], name: &str) -> Option<&'a ContainerStatus> {
    statuses.iter().find(|status| status.name == name)
}

fn names(list: &[String]) -> String {
    format!("[{}]", list.join(" "))
}

fn initialized(
    pod: &Pod,
    init: &[ContainerStatus],
    main: &[ContainerStatus],
    phase: &str,
) -> Verdict {
    if phase == "Succeeded" {
        return Verdict {
            reason: Some("PodCompleted"),
            ..Verdict::TRUE
        };
    }
    if main.iter().any(|status| status.container_id.is_some()) {
        return Verdict::TRUE;
    }
    let incomplete: Vec<String> = containers::init(pod)
        .iter()
        .filter(|spec| {
            let status = find(init, spec.name());
            !match spec.kind {
                Kind::Sidecar => status.is_some_and(|status| status.started == Some(true)),
                _ => status.is_some_and(|status| status.ready),
            }
        })
        .map(|spec| spec.name().to_owned())
        .collect();
    if incomplete.is_empty() {
        return Verdict::TRUE;
    }
    let message = format!("containers with incomplete status: {}", names(&incomplete));
    Verdict::no("ContainersNotInitialized", Some(message))
}

fn containers_ready(
    pod: &Pod,
    init: &[ContainerStatus],
    main: &[ContainerStatus],
    phase: &str,
) -> Verdict {
    match phase {
        "Succeeded" => return Verdict::no("PodCompleted", None),
        "Failed" => return Verdict::no("PodFailed", None),
        _ => {}
    }
    let sidecars = containers::init(pod)
        .into_iter()
        .filter(|spec| spec.kind == Kind::Sidecar);
    let unready: Vec<String> = sidecars
        .map(|spec| {
            (
                spec.name().to_owned(),
                find(init, spec.name()).is_some_and(|s| s.ready),
            )
        })
        .chain(containers::main(pod).into_iter().map(|spec| {
            (
                spec.name().to_owned(),
                find(main, spec.name()).is_some_and(|s| s.ready),
            )
        }))
        .filter(|(_, ready)| !ready)
        .map(|(name, _)| name)
        .collect();
    if unready.is_empty() {
        return Verdict::TRUE;
    }
    let message = format!("containers with unready status: {}", names(&unready));
    Verdict::no("ContainersNotReady", Some(message))
}

fn ready(pod: &Pod, containers_ready: &Verdict) -> Verdict {
    if !containers_ready.status {
        return Verdict {
            status: false,
            reason: containers_ready.reason,
            message: containers_ready.message.clone(),
        };
    }
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    let complaints: Vec<String> = containers::spec(pod)
        .readiness_gates
        .iter()
        .flatten()
        .filter_map(|gate| {
            let kind = &gate.condition_type;
            let found = conditions.and_then(|list| list.iter().find(|c| c.type_ == *kind));
            match found {
                None => Some(format!(
                    "corresponding condition of pod readiness gate \"{kind}\" does not exist."
                )),
                Some(condition) if condition.status != "True" => Some(format!(
                    "the status of pod readiness gate \"{kind}\" is not \"True\", but {}",
                    condition.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    if complaints.is_empty() {
        Verdict::TRUE
    } else {
        Verdict::no("ReadinessGatesNotReady", Some(complaints.join(", ")))
    }
}

fn resizing(inputs: &Inputs<'_>) -> Vec<(&'static str, Verdict)> {
    let wanted = containers::all(inputs.pod)
        .iter()
        .any(|spec| resize::is_wanted(spec, inputs.memory));
    if !wanted {
        return Vec::new();
    }
    let found = match (&inputs.memory.resize_error, &inputs.memory.resize_pending) {
        (Some(error), _) => (
            "PodResizeInProgress",
            Verdict {
                status: true,
                reason: Some("Error"),
                message: Some(error.clone()),
            },
        ),
        (None, Some(pending)) => (
            "PodResizePending",
            Verdict {
                status: true,
                reason: Some(match pending.reason.as_str() {
                    "Infeasible" => "Infeasible",
                    _ => "Deferred",
                }),
                message: Some(pending.message.clone()),
            },
        ),
        (None, None) => ("PodResizeInProgress", Verdict::TRUE),
    };
    vec![found]
}

#[cfg(test)]
mod tests;
