//! Pods: what their containers amount to, in one word.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::Cells;
use super::text::{View, condition, is_true, since};

/// Sums over container statuses.
#[derive(Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, status: &Value) {
        self.count += status["restartCount"].as_i64().unwrap_or(0);
        let finished = status
            .pointer("/lastState/terminated/finishedAt")
            .and_then(Value::as_str);
        let finished: Option<Timestamp> = finished.and_then(|t| t.parse().ok());
        self.last = self.last.max(finished);
    }

    fn text(&self, now: Timestamp) -> String {
        match self.last.filter(|_| self.count != 0) {
            Some(at) => {
                let ago = since(&at.to_string().into(), now).unwrap_or_default();
                format!("{} ({ago} ago)", self.count)
            }
            None => self.count.to_string(),
        }
    }
}

/// What a walk over the containers finds.
struct Summary {
    reason: String,
    ready: usize,
    restarts: Restarts,
}

pub(super) fn cells(view: View<'_>) -> Cells {
    let sidecars = view
        .list("/spec/initContainers")
        .iter()
        .filter(|c| is_sidecar(c))
        .count();
    let total = view.list("/spec/containers").len() + sidecars;
    let own = summary(view);
    let ip = match view.list("/status/podIPs").first() {
        Some(first) => first["ip"].as_str().unwrap_or_default(),
        None => view.text("/status/podIP"),
    };
    vec![
        view.name(),
        format!("{}/{total}", own.ready).into(),
        own.reason.into(),
        own.restarts.text(view.now).into(),
        view.age(),
        if ip.is_empty() { "<none>" } else { ip }.into(),
        view.text_or("/spec/nodeName", "<none>"),
        view.text_or("/status/nominatedNodeName", "<none>"),
        readiness_gates(view),
    ]
}

/// The row's conditions: a pod that has ended is not shown by default.
pub(super) fn conditions(pod: &Value) -> Option<Value> {
    let (reason, message) = match pod["status"]["phase"].as_str()? {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return None,
    };
    Some(json!([{"type": "Completed", "status": "True", "reason": reason, "message": message}]))
}

fn is_sidecar(container: &Value) -> bool {
    container["restartPolicy"] == "Always"
}

fn readiness_gates(view: View<'_>) -> Value {
    let gates = view.list("/spec/readinessGates");
    if gates.is_empty() {
        return "<none>".into();
    }
    let conditions = view.at("/status/conditions");
    let met = gates
        .iter()
        .filter(|g| is_true(conditions, g["conditionType"].as_str().unwrap_or_default()))
        .count();
    format!("{met}/{}", gates.len()).into()
}

fn summary(view: View<'_>) -> Summary {
    let mut reason = view.text("/status/phase").to_owned();
    if !view.text("/status/reason").is_empty() {
        reason = view.text("/status/reason").into();
    }
    let conditions = view.at("/status/conditions");
    if condition(conditions, "PodScheduled").is_some_and(|c| c["reason"] == "SchedulingGated") {
        reason = "SchedulingGated".into();
    }
    let mut own = Summary {
        reason,
        ready: 0,
        restarts: Restarts::default(),
    };
    let mut sidecar_restarts = Restarts::default();
    let initializing = init_containers(view, &mut own, &mut sidecar_restarts);
    if !initializing || is_true(conditions, "Initialized") {
        own.restarts = sidecar_restarts;
        main_containers(view, &mut own);
    }
    if view.terminating() {
        if view.text("/status/reason") == "NodeLost" {
            own.reason = "Unknown".into();
        } else if !matches!(view.text("/status/phase"), "Succeeded" | "Failed") {
            own.reason = "Terminating".into();
        }
    }
    own
}

/// Says why initialization is not done, if it is not.
fn init_containers(view: View<'_>, own: &mut Summary, sidecar_restarts: &mut Restarts) -> bool {
    let specs = view.list("/spec/initContainers");
    for (i, status) in view
        .list("/status/initContainerStatuses")
        .iter()
        .enumerate()
    {
        own.restarts.add(status);
        let sidecar = specs
            .iter()
            .any(|c| c["name"] == status["name"] && is_sidecar(c));
        if sidecar {
            sidecar_restarts.add(status);
        }
        let (terminated, waiting) = (&status["state"]["terminated"], &status["state"]["waiting"]);
        if terminated.is_object() && terminated["exitCode"].as_i64().unwrap_or(0) == 0 {
            continue;
        }
        if sidecar && status["started"] == true {
            own.ready += usize::from(status["ready"] == true);
            continue;
        }
        let waiting_reason = waiting["reason"].as_str().unwrap_or_default();
        own.reason = if terminated.is_object() {
            format!("Init:{}", ended(terminated))
        } else if !waiting_reason.is_empty() && waiting_reason != "PodInitializing" {
            format!("Init:{waiting_reason}")
        } else {
            format!("Init:{i}/{}", specs.len())
        };
        return true;
    }
    false
}

fn ended(terminated: &Value) -> String {
    let reason = terminated["reason"].as_str().unwrap_or_default();
    match terminated["signal"].as_i64().unwrap_or(0) {
        _ if !reason.is_empty() => reason.into(),
        0 => format!("ExitCode:{}", terminated["exitCode"].as_i64().unwrap_or(0)),
        signal => format!("Signal:{signal}"),
    }
}

fn main_containers(view: View<'_>, own: &mut Summary) {
    let mut running = false;
    for status in view.list("/status/containerStatuses").iter().rev() {
        own.restarts.add(status);
        let state = &status["state"];
        let waiting = state["waiting"]["reason"].as_str().unwrap_or_default();
        if !waiting.is_empty() {
            own.reason = waiting.into();
        } else if state["terminated"].is_object() {
            own.reason = ended(&state["terminated"]);
        } else if status["ready"] == true && state["running"].is_object() {
            running = true;
            own.ready += 1;
        }
    }
    if own.reason == "Completed" && running {
        let ready = is_true(view.at("/status/conditions"), "Ready");
        own.reason = if ready { "Running" } else { "NotReady" }.into();
    }
}
