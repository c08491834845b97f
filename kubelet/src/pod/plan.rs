//! What to do next for one pod.
//!
//! The decisions follow upstream's: one sandbox; init containers one after the other, the
//! ones that stay (sidecars) started before the next; then all containers; each restarted
//! by its policy after a growing pause. Operations that are under way are in
//! [`Memory`], so that a decision can be taken at any moment: deciding twice on the same
//! state starts nothing twice.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use super::containers::{self, Kind, Spec};
use super::memory::{Cause, Memory, Volumes, Waiting};
use super::observed::{Observed, Record, Sandbox, State};
use super::resize;

/// Changes of a pod often come one after the other: its containers are made anew once, when
/// this long nothing has changed.
const SETTLE: SignedDuration = SignedDuration::from_secs(1);

/// How far the pod is meant to get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    Run,
    /// Everything stops within so many seconds of `since`.
    Stop {
        since: Timestamp,
        grace: i64,
    },
    /// The API has no such pod any more: nothing may be left.
    Vanish {
        since: Timestamp,
        grace: i64,
    },
}

/// One step for the worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    PrepareVolumes,
    CreateSandbox {
        attempt: u32,
    },
    /// Make and start containers, in this order, one after the other.
    Start(Vec<Start>),
    Kill(Kill),
    Resize {
        name: String,
        id: String,
    },
    StopSandbox {
        id: String,
    },
    RemoveSandbox {
        id: String,
    },
    RemoveContainer {
        id: String,
    },
    /// Start nothing more; what is being started is given up where that is safe.
    CancelStarts,
    /// Unmount the volumes and remove the cgroups: nothing runs any more.
    TearDown,
    /// Nothing of the pod is left in the runtime: remove its directories.
    Erase,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    pub name: String,
    pub attempt: u32,
    /// A container that was made but never ran, and is in the way.
    pub replaces: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kill {
    pub id: String,
    pub name: String,
    pub message: String,
    pub deadline: Timestamp,
}

/// The steps, and what to remember with them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    pub ops: Vec<Op>,
    /// When to look again though nothing has happened.
    pub wake: Option<Timestamp>,
    /// Why containers wait, by name; replaces what was remembered for these.
    pub waiting: Vec<(String, Waiting)>,
}

impl Plan {
    fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    fn kill(&mut self, memory: &Memory, record: &Record, message: &str, deadline: Timestamp) {
        // A deadline that moved to an earlier moment is a new order.
        let ordered = memory.stopping.get(&record.id);
        let sooner = |old: &Timestamp| deadline + SignedDuration::from_secs(1) < *old;
        if ordered.is_none_or(sooner) {
            self.ops.push(Op::Kill(Kill {
                id: record.id.clone(),
                name: record.name.clone(),
                message: message.to_owned(),
                deadline,
            }));
        }
    }
}

/// Why a container that is to run does not start now.
struct Hold {
    until: Timestamp,
    /// What the container waits for; until that is told, its status says how it ended.
    shows: Option<Waiting>,
}

impl Hold {
    /// Puts it into the plan.
    fn tell(self, name: String, plan: &mut Plan) {
        plan.wake_at(self.until);
        plan.waiting
            .extend(self.shows.map(|waiting| (name, waiting)));
    }
}

/// For so long a container that crashed is told to have ended, before it is told to wait: whoever
/// looks every other second sees its exit code.
const ENDED_SHOWN: SignedDuration = SignedDuration::from_secs(3);

/// The steps from what is there to the goal.
pub fn plan(pod: &Pod, observed: &Observed, memory: &Memory, goal: Goal, now: Timestamp) -> Plan {
    match goal {
        Goal::Run => run(pod, observed, memory, now),
        Goal::Stop { since, grace } => {
            stop(observed, memory, deadline(since, grace), Depth::Processes)
        }
        Goal::Vanish { since, grace } => {
            stop(observed, memory, deadline(since, grace), Depth::Everything)
        }
    }
}

fn deadline(since: Timestamp, grace: i64) -> Timestamp {
    since + SignedDuration::from_secs(grace.clamp(0, 1 << 31))
}

#[derive(PartialEq, Eq)]
enum Depth {
    Processes,
    Everything,
}

fn stop(observed: &Observed, memory: &Memory, deadline: Timestamp, depth: Depth) -> Plan {
    let mut plan = Plan::default();
    if memory.starting || memory.volumes == Volumes::Preparing {
        plan.ops.push(Op::CancelStarts);
    }
    for record in observed.alive() {
        plan.kill(memory, record, "Stopping container", deadline);
    }
    if memory.is_busy() || observed.alive().next().is_some() {
        return plan;
    }
    if let Some(sandbox) = observed.sandboxes.iter().find(|sandbox| sandbox.ready) {
        plan.ops.push(Op::StopSandbox {
            id: sandbox.id.clone(),
        });
        return plan;
    }
    // A sandbox that died by itself still has its network until it is stopped.
    if let Some(sandbox) = observed.sandbox().filter(|_| !memory.sandbox_stopped) {
        plan.ops.push(Op::StopSandbox {
            id: sandbox.id.clone(),
        });
        return plan;
    }
    if memory.volumes != Volumes::Gone {
        plan.ops.push(Op::TearDown);
    }
    if depth == Depth::Processes {
        return plan;
    }
    let dead = observed.containers.iter().map(|record| &record.id);
    plan.ops.extend(
        dead.filter(|id| !memory.removing.contains(*id))
            .map(|id| Op::RemoveContainer { id: id.clone() }),
    );
    if observed.containers.is_empty() {
        let dead = observed.sandboxes.iter().map(|sandbox| &sandbox.id);
        plan.ops.extend(
            dead.filter(|id| !memory.removing.contains(*id))
                .map(|id| Op::RemoveSandbox { id: id.clone() }),
        );
        if observed.sandboxes.is_empty() && memory.volumes == Volumes::Gone {
            plan.ops.push(Op::Erase);
        }
    }
    plan
}

fn run(pod: &Pod, observed: &Observed, memory: &Memory, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let usable = observed.sandbox().filter(|sandbox| is_usable(pod, sandbox));
    let Some(sandbox) = usable else {
        renew_sandbox(pod, observed, memory, now, &mut plan);
        return plan;
    };
    for record in observed
        .alive()
        .filter(|record| record.sandbox_id != sandbox.id)
    {
        plan.kill(memory, record, "The pod's sandbox was replaced", now);
    }
    collect_garbage(pod, observed, memory, &mut plan);
    let mut starts = Vec::new();
    for spec in containers::ephemeral(pod) {
        if observed.newest(spec.name()).is_none() {
            starts.push(Start {
                name: spec.name().to_owned(),
                attempt: 0,
                replaces: None,
            });
        }
    }
    let initialized = step_init(pod, observed, memory, now, &mut plan, &mut starts);
    if initialized {
        for spec in containers::main(pod) {
            step_container(pod, &spec, observed, memory, now, &mut plan, &mut starts);
        }
    }
    // After a restart of the kubelet the volumes of running containers have to be known
    // again, to keep them up to date.
    let adopted = memory.volumes == Volumes::Absent && observed.alive().next().is_some();
    if memory.starting || (starts.is_empty() && !adopted) {
        return plan;
    }
    match memory.volumes {
        Volumes::Ready => plan.ops.push(Op::Start(starts)),
        Volumes::Preparing => {}
        Volumes::Failed { retry_at } if now < retry_at => plan.wake_at(retry_at),
        Volumes::Absent | Volumes::Failed { .. } | Volumes::Gone => {
            plan.ops.push(Op::PrepareVolumes)
        }
    }
    plan
}

fn is_usable(pod: &Pod, sandbox: &Sandbox) -> bool {
    sandbox.ready && (containers::is_host_network(pod) || !sandbox.ips.is_empty())
}

/// There is no sandbox, or only dead ones: end what still runs and make a new one, if
/// something is left to run in it.
fn renew_sandbox(pod: &Pod, observed: &Observed, memory: &Memory, now: Timestamp, plan: &mut Plan) {
    let grace = containers::grace_period(pod);
    for record in observed.alive() {
        plan.kill(
            memory,
            record,
            "The pod's sandbox is gone",
            deadline(now, grace),
        );
    }
    let wanted = observed.sandbox().is_none() || has_work_left(pod, observed);
    if memory.is_busy() || observed.alive().next().is_some() || !wanted {
        return;
    }
    if let Some(sandbox) = observed.sandbox().filter(|_| !memory.sandbox_stopped) {
        plan.ops.push(Op::StopSandbox {
            id: sandbox.id.clone(),
        });
        return;
    }
    match memory.volumes {
        Volumes::Ready => {}
        Volumes::Preparing => return,
        Volumes::Failed { retry_at } if now < retry_at => return plan.wake_at(retry_at),
        Volumes::Absent | Volumes::Failed { .. } | Volumes::Gone => {
            plan.ops.push(Op::PrepareVolumes);
            return;
        }
    }
    let pause = SignedDuration::from_secs(3);
    match memory.sandbox_failed {
        Some(failed) if now < failed + pause => plan.wake_at(failed + pause),
        _ => {
            let attempt = observed.sandbox().map_or(0, |sandbox| sandbox.attempt + 1);
            plan.ops.push(Op::CreateSandbox { attempt });
        }
    }
}

/// Whether the pod has done its work: all of its containers have ended and none is started
/// again, or its initialization has failed for good.
pub fn is_finished(pod: &Pod, observed: &Observed, memory: &Memory) -> bool {
    if init_failed(pod, observed) {
        return true;
    }
    let specs = containers::main(pod);
    !specs.is_empty()
        && specs.iter().all(|spec| {
            let exit = observed.newest(spec.name()).and_then(Record::exit);
            exit.is_some_and(|exit| {
                !spec.restarts_after(pod, exit.exit_code) && !memory.replace.contains(spec.name())
            })
        })
}

fn init_failed(pod: &Pod, observed: &Observed) -> bool {
    containers::init(pod).iter().any(|spec| {
        spec.kind == Kind::Init
            && observed
                .newest(spec.name())
                .and_then(Record::exit)
                .is_some_and(|exit| {
                    exit.exit_code != 0 && !spec.restarts_after(pod, exit.exit_code)
                })
    })
}

/// Whether a new sandbox would have something to run.
fn has_work_left(pod: &Pod, observed: &Observed) -> bool {
    if observed.containers.is_empty() {
        return true;
    }
    !init_failed(pod, observed)
        && containers::main(pod)
            .iter()
            .any(|spec| match observed.newest(spec.name()) {
                None => true,
                Some(record) => record
                    .exit()
                    .is_none_or(|exit| spec.restarts_after(pod, exit.exit_code)),
            })
}

/// Walks the init containers; true when the pod's containers may run.
fn step_init(
    pod: &Pod,
    observed: &Observed,
    memory: &Memory,
    now: Timestamp,
    plan: &mut Plan,
    starts: &mut Vec<Start>,
) -> bool {
    let specs = containers::init(pod);
    let initialized = containers::main(pod)
        .iter()
        .any(|spec| observed.current(spec.name()).is_some());
    // What came before an init container that has a record is done, though its own record
    // may have been removed.
    let furthest = specs
        .iter()
        .rposition(|spec| observed.current(spec.name()).is_some());
    for (index, spec) in specs.iter().enumerate() {
        let record = observed.current(spec.name());
        match spec.kind {
            Kind::Sidecar => {
                step_container(pod, spec, observed, memory, now, plan, starts);
                let started = record.is_some_and(|r| r.is_running() && memory.is_started(&r.id));
                if !started && !initialized {
                    return false;
                }
            }
            _ if initialized => {}
            _ => match record.map(|record| &record.state) {
                Some(State::Exited(exit)) if exit.exit_code == 0 => {}
                None if furthest.is_some_and(|furthest| index < furthest) => {}
                _ => {
                    step_container(pod, spec, observed, memory, now, plan, starts);
                    return false;
                }
            },
        }
    }
    true
}

/// One container that is to run: starts, stops or leaves it.
fn step_container(
    pod: &Pod,
    spec: &Spec<'_>,
    observed: &Observed,
    memory: &Memory,
    now: Timestamp,
    plan: &mut Plan,
    starts: &mut Vec<Start>,
) {
    let name = spec.name().to_owned();
    let current = observed.current(&name);
    let attempt = observed
        .newest(&name)
        .map_or(0, |record| record.attempt + 1);
    let Some(record) = current else {
        match hold(spec, None, memory, now) {
            Some(hold) => hold.tell(name, plan),
            None => starts.push(Start {
                name,
                attempt,
                replaces: None,
            }),
        }
        return;
    };
    match &record.state {
        State::Running { .. } => keep_running(pod, spec, record, memory, now, plan),
        State::Created => starts.push(Start {
            name,
            attempt: record.attempt,
            replaces: Some(record.id.clone()),
        }),
        State::Unknown => plan.kill(memory, record, "The container's state is unknown", now),
        State::Exited(exit) => {
            let wanted = spec.restarts_after(pod, exit.exit_code) || memory.replace.contains(&name);
            if !wanted {
                return;
            }
            match hold(spec, Some((pod, exit.finished_at)), memory, now) {
                Some(hold) => hold.tell(name, plan),
                None => starts.push(Start {
                    name,
                    attempt,
                    replaces: None,
                }),
            }
        }
    }
}

fn keep_running(
    pod: &Pod,
    spec: &Spec<'_>,
    record: &Record,
    memory: &Memory,
    now: Timestamp,
    plan: &mut Plan,
) {
    let deadline = deadline(now, probe_grace(pod, spec, record, memory));
    if record.hash != spec.hash() {
        let settled = memory.changed_at.map(|at| at + SETTLE);
        if let Some(settled) = settled.filter(|settled| now < *settled) {
            plan.wake_at(settled);
            return;
        }
        let message = format!(
            "Container {} definition changed, will be restarted",
            record.name
        );
        plan.kill(memory, record, &message, deadline);
    } else if let Some(reason) = memory.condemned.get(&record.id) {
        plan.kill(memory, record, reason, deadline);
    } else if resize::is_wanted(spec, memory) {
        match memory
            .resize_pending
            .as_ref()
            .map(|pending| pending.retry_at)
        {
            Some(retry_at) if now < retry_at => plan.wake_at(retry_at),
            _ => plan.ops.push(Op::Resize {
                name: record.name.clone(),
                id: record.id.clone(),
            }),
        }
    }
}

/// A failed probe may have a grace period of its own.
fn probe_grace(pod: &Pod, spec: &Spec<'_>, record: &Record, memory: &Memory) -> i64 {
    let condemned = memory.condemned.contains_key(&record.id);
    let started = memory
        .probed
        .get(&record.id)
        .is_some_and(|probed| probed.started);
    let probe = match (condemned, started) {
        (false, _) => None,
        (true, true) => spec.container.liveness_probe.as_ref(),
        (true, false) => spec.container.startup_probe.as_ref(),
    };
    let own = probe.and_then(|probe| probe.termination_grace_period_seconds);
    own.or(containers::spec(pod).termination_grace_period_seconds)
        .unwrap_or(30)
}

/// The pause before the next start: after a crash, or after a failed pull.
fn hold(
    spec: &Spec<'_>,
    exited: Option<(&Pod, Timestamp)>,
    memory: &Memory,
    now: Timestamp,
) -> Option<Hold> {
    let name = spec.name();
    if let Some((pod, finished_at)) = exited
        && !memory.replace.contains(name)
        && let Some(hold) = after_crash(pod, name, finished_at, memory, now)
    {
        return Some(hold);
    }
    let failed = memory
        .failed_starts
        .get(name)
        .filter(|failed| now < failed.retry_at)?;
    let shown = memory
        .waiting
        .get(name)
        .cloned()
        .unwrap_or_else(|| Waiting::new("ContainerCreating", ""));
    if failed.cause == Cause::Config || shown.reason != "ErrImagePull" {
        return Some(Hold {
            until: failed.retry_at,
            shows: Some(shown),
        });
    }
    // The first report of a failed pull says what failed; the pause shows when it lasts.
    let shortly = failed.at + SignedDuration::from_secs(2);
    if now < shortly {
        return Some(Hold {
            until: shortly.min(failed.retry_at),
            shows: Some(shown),
        });
    }
    let image = spec.container.image.as_deref().unwrap_or_default();
    let message = format!(
        "Back-off pulling image \"{image}\": ErrImagePull: {}",
        shown.message
    );
    Some(Hold {
        until: failed.retry_at,
        shows: Some(Waiting::new("ImagePullBackOff", message)),
    })
}

/// The pause after a crash: none after the first one, then longer each time.
fn after_crash(
    pod: &Pod,
    name: &str,
    finished_at: Timestamp,
    memory: &Memory,
    now: Timestamp,
) -> Option<Hold> {
    let allowed = memory.restarts.allowed_at(name, finished_at);
    let shortly = allowed.min(finished_at + ENDED_SHOWN);
    if now < shortly {
        return Some(Hold {
            until: shortly,
            shows: None,
        });
    }
    if allowed <= now {
        return None;
    }
    let meta = &pod.metadata;
    let message = format!(
        "back-off {} restarting failed container={name} pod={}_{}({})",
        pause_text(memory.restarts.pause(name).as_secs()),
        meta.name.as_deref().unwrap_or_default(),
        meta.namespace.as_deref().unwrap_or_default(),
        meta.uid.as_deref().unwrap_or_default(),
    );
    Some(Hold {
        until: allowed,
        shows: Some(Waiting::new("CrashLoopBackOff", message)),
    })
}

fn pause_text(seconds: i64) -> String {
    match (seconds / 60, seconds % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}

/// Old containers and sandboxes: of each name the newest and the one before it stay, for
/// the status and the logs.
fn collect_garbage(pod: &Pod, observed: &Observed, memory: &Memory, plan: &mut Plan) {
    let names: Vec<String> = containers::all(pod)
        .iter()
        .map(|spec| spec.name().to_owned())
        .collect();
    for record in observed
        .containers
        .iter()
        .filter(|record| !record.is_alive())
    {
        let rank = observed
            .containers
            .iter()
            .filter(|other| other.name == record.name)
            .position(|other| other.id == record.id);
        let stale = rank.is_some_and(|rank| rank > 1) || !names.contains(&record.name);
        if stale && !memory.removing.contains(&record.id) {
            plan.ops.push(Op::RemoveContainer {
                id: record.id.clone(),
            });
        }
    }
    for sandbox in observed.sandboxes.iter().skip(1) {
        if sandbox.ready {
            if !memory.stopping_sandbox {
                plan.ops.push(Op::StopSandbox {
                    id: sandbox.id.clone(),
                });
            }
            continue;
        }
        let used = observed
            .containers
            .iter()
            .any(|record| record.sandbox_id == sandbox.id);
        if !used && !memory.removing.contains(&sandbox.id) {
            plan.ops.push(Op::RemoveSandbox {
                id: sandbox.id.clone(),
            });
        }
    }
}

#[cfg(test)]
mod tests;
