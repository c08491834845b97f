//! Probes: when a container is ready, and when it is started again.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::site::{
    IDLE, PATIENCE, Site, condition, container, find_condition, idle, job, pod_of, restarts, shell,
};

/// Long enough for several probes, short enough to wait for.
const SOME_PROBES: Duration = Duration::from_secs(8);

fn probed(name: &str, line: &str, probe: &str, value: Value) -> Value {
    let mut pod = job(name, line);
    pod["spec"]["restartPolicy"] = json!("Always");
    pod["spec"]["containers"][0][probe] = value;
    pod
}

/// A server whose `/cgi-bin/ten` is well for ten seconds and fails from then on.
fn failing_server(after: u32) -> String {
    format!(
        "mkdir -p /tmp/www; echo ok > /tmp/www/healthz; \
         httpd -p 8080 -h /tmp/www; sleep {after}; rm /tmp/www/healthz; {IDLE}"
    )
}

fn http_get(path: &str) -> Value {
    json!({"httpGet": {"path": path, "port": 8080}, "periodSeconds": 1,
        "initialDelaySeconds": 1, "failureThreshold": 1, "timeoutSeconds": 5})
}

pub(crate) fn liveness_by_exec_restarts_only_what_fails(site: &Site) -> anyhow::Result<()> {
    let space = site.space("probe-exec")?;
    let cat = json!({"exec": {"command": ["cat", "/tmp/health"]}, "periodSeconds": 1,
        "initialDelaySeconds": 2, "failureThreshold": 1, "timeoutSeconds": 5});
    let fails = format!("echo ok > /tmp/health; sleep 5; rm /tmp/health; {IDLE}");
    space.pod(&probed("fails", &fails, "livenessProbe", cat.clone()))?;
    let lives = format!("echo ok > /tmp/health; {IDLE}");
    space.pod(&probed("lives", &lives, "livenessProbe", cat))?;
    // A command that takes longer than its time has failed.
    let slow = json!({"exec": {"command": ["sleep", "600"]}, "initialDelaySeconds": 2,
        "timeoutSeconds": 1, "failureThreshold": 1});
    space.pod(&probed("slow", IDLE, "livenessProbe", slow))?;
    for name in ["fails", "slow"] {
        space.until(&format!("pods/{name}"), "restarted", |pod| {
            restarts(pod, "main") >= 1
        })?;
        space.event(
            &format!("pods/{name}"),
            "Unhealthy",
            "Liveness probe failed",
        )?;
        space.event(
            &format!("pods/{name}"),
            "Killing",
            "Container main failed liveness probe, will be restarted",
        )?;
    }
    let lives = space.get("pods/lives")?;
    ensure!(restarts(&lives, "main") == 0, "{}", lives["status"]);
    Ok(())
}

pub(crate) fn liveness_by_http_and_tcp_restarts_only_what_fails(site: &Site) -> anyhow::Result<()> {
    let space = site.space("probe-net")?;
    let fails = failing_server(5);
    space.pod(&probed(
        "fails",
        &fails,
        "livenessProbe",
        http_get("/healthz"),
    ))?;
    let lives = failing_server(3600);
    space.pod(&probed(
        "lives",
        &lives,
        "livenessProbe",
        http_get("/healthz"),
    ))?;
    let tcp = |port: u16| {
        json!({"tcpSocket": {"port": port}, "initialDelaySeconds": 2, "periodSeconds": 1,
            "failureThreshold": 2})
    };
    space.pod(&probed("tcp", &lives, "livenessProbe", tcp(8080)))?;
    space.pod(&probed("deaf", &lives, "livenessProbe", tcp(8081)))?;
    // The probe's own grace goes before the pod's.
    let mut stubborn = probed(
        "stubborn",
        "trap '' TERM; while true; do sleep 1; done",
        "livenessProbe",
        json!({"exec": {"command": ["false"]}, "initialDelaySeconds": 1, "failureThreshold": 1,
            "terminationGracePeriodSeconds": 3}),
    );
    stubborn["spec"]["terminationGracePeriodSeconds"] = json!(500);
    space.pod(&stubborn)?;
    for name in ["fails", "deaf", "stubborn"] {
        space.until(&format!("pods/{name}"), "restarted", |pod| {
            restarts(pod, "main") >= 1
        })?;
    }
    space.delete("pods/stubborn?gracePeriodSeconds=0")?;
    for name in ["lives", "tcp"] {
        let pod = space.get(&format!("pods/{name}"))?;
        ensure!(restarts(&pod, "main") == 0, "{name}: {}", pod["status"]);
        ensure!(
            condition(&pod, "Ready") == "True",
            "{name}: {}",
            pod["status"]
        );
    }
    Ok(())
}

/// etcd tells its health by gRPC as the probe asks for it; the machine's own serves.
pub(crate) fn liveness_by_grpc_asks_the_health_service(site: &Site) -> anyhow::Result<()> {
    let space = site.space("probe-grpc")?;
    let server = |name: &str, service: &str| {
        let line = "exec chroot /machine /usr/bin/etcd --data-dir /tmp/etcd \
            --listen-client-urls http://0.0.0.0:2379 --advertise-client-urls http://localhost:2379";
        let probe = json!({"grpc": {"port": 2379, "service": service}, "initialDelaySeconds": 5,
            "periodSeconds": 1, "failureThreshold": 2});
        let mut pod = probed(name, line, "livenessProbe", probe);
        pod["spec"]["volumes"] = json!([{"name": "machine", "hostPath": {"path": "/"}},
            {"name": "data", "emptyDir": {}}]);
        pod["spec"]["containers"][0]["volumeMounts"] = json!([
            {"name": "machine", "mountPath": "/machine", "readOnly": true},
            {"name": "data", "mountPath": "/machine/tmp"}]);
        pod
    };
    space.pod(&server("well", ""))?;
    space.pod(&server("unknown", "no.such.Service"))?;
    space.until("pods/unknown", "restarted", |pod| {
        restarts(pod, "main") >= 1
    })?;
    let well = space.get("pods/well")?;
    ensure!(restarts(&well, "main") == 0, "{}", well["status"]);
    Ok(())
}

pub(crate) fn restart_counts_only_grow(site: &Site) -> anyhow::Result<()> {
    let space = site.space("probe-count")?;
    space.pod(&probed(
        "again",
        &failing_server(1),
        "livenessProbe",
        http_get("/healthz"),
    ))?;
    let mut seen = 0;
    for wanted in 1..=3 {
        let pod = space.until("pods/again", "restarted once more", |pod| {
            restarts(pod, "main") >= wanted
        })?;
        let count = restarts(&pod, "main");
        ensure!(count >= seen, "{count} after {seen}");
        seen = count;
    }
    Ok(())
}

pub(crate) fn readiness_waits_for_its_delay_and_restarts_nothing(
    site: &Site,
) -> anyhow::Result<()> {
    let space = site.space("probe-ready")?;
    let delay = 8;
    let ready = json!({"exec": {"command": ["true"]}, "initialDelaySeconds": delay,
        "periodSeconds": 1});
    space.pod(&probed("delayed", IDLE, "readinessProbe", ready))?;
    let never = json!({"exec": {"command": ["false"]}, "periodSeconds": 1});
    space.pod(&probed("never", IDLE, "readinessProbe", never))?;
    let pod = space.ready("delayed")?;
    ensure!(restarts(&pod, "main") == 0, "{}", pod["status"]);
    let started: jiff::Timestamp =
        serde_json::from_value(container(&pod, "main")["state"]["running"]["startedAt"].clone())?;
    let ready: jiff::Timestamp =
        serde_json::from_value(find_condition(&pod, "Ready")["lastTransitionTime"].clone())?;
    let waited = ready.duration_since(started).as_secs();
    ensure!(waited >= delay - 1, "Ready {waited} s after the start");
    space.stays(
        SOME_PROBES,
        "pods/never",
        "unready without a restart",
        |pod| condition(pod, "Ready") != "True" && restarts(pod, "main") <= 0,
    )?;
    let never = space.get("pods/never")?;
    ensure!(
        container(&never, "main")["started"] == true,
        "{}",
        never["status"]
    );
    ensure!(
        find_condition(&never, "Ready")["reason"] == "ContainersNotReady",
        "{}",
        never["status"]
    );
    Ok(())
}

pub(crate) fn a_startup_probe_holds_the_others_back(site: &Site) -> anyhow::Result<()> {
    let space = site.space("probe-startup")?;
    let line = format!("sleep 6; touch /tmp/started; {IDLE}");
    let mut slow = probed(
        "slow",
        &line,
        "startupProbe",
        json!({"exec": {"command": ["cat", "/tmp/started"]}, "periodSeconds": 1, "failureThreshold": 60}),
    );
    slow["spec"]["containers"][0]["livenessProbe"] = json!({"exec": {"command": ["cat", "/tmp/started"]}, "periodSeconds": 1, "failureThreshold": 1});
    space.pod(&slow)?;
    let pod = space.until("pods/slow", "running", |pod| {
        container(pod, "main")["state"]["running"].is_object()
    })?;
    ensure!(
        container(&pod, "main")["started"] == false,
        "{}",
        pod["status"]
    );
    ensure!(condition(&pod, "Ready") == "False", "{}", pod["status"]);
    let pod = space.ready("slow")?;
    ensure!(restarts(&pod, "main") == 0, "{}", pod["status"]);
    ensure!(
        container(&pod, "main")["started"] == true,
        "{}",
        pod["status"]
    );
    // One that never passes ends the container.
    let never = json!({"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 2});
    space.pod(&probed("never", IDLE, "startupProbe", never))?;
    space.until("pods/never", "restarted", |pod| restarts(pod, "main") >= 1)?;
    space.event("pods/never", "Unhealthy", "Startup probe failed")
}

pub(crate) fn readiness_gates_are_waited_for(site: &Site) -> anyhow::Result<()> {
    let space = site.space("gates")?;
    let mut pod = idle("gated");
    let (first, second) = ("test.fairlead.io/first", "test.fairlead.io/second");
    pod["spec"]["readinessGates"] = json!([{"conditionType": first}, {"conditionType": second}]);
    space.pod(&pod)?;
    let set = |kind: &str, status: &str| {
        let patch = json!({"status": {"conditions": [{"type": kind, "status": status}]}});
        space.patch("pods/gated/status", &patch)
    };
    let unready = |wanted: &str| {
        space.until("pods/gated", wanted, |pod| {
            condition(pod, "ContainersReady") == "True"
                && condition(pod, "Ready") == "False"
                && find_condition(pod, "Ready")["reason"] == "ReadinessGatesNotReady"
        })
    };
    unready("held by two gates")?;
    set(first, "True")?;
    unready("held by one gate")?;
    set(second, "True")?;
    space.ready("gated")?;
    set(first, "False")?;
    unready("held by a gate again")?;
    Ok(())
}

pub(crate) fn an_unready_sidecar_keeps_the_pod_unready(site: &Site) -> anyhow::Result<()> {
    let space = site.space("probe-sidecar")?;
    let mut pod = pod_of("beside", json!([shell("main", IDLE)]));
    let mut sidecar = shell("side", &format!("sleep 4; touch /tmp/ready; {IDLE}"));
    sidecar["restartPolicy"] = json!("Always");
    sidecar["readinessProbe"] =
        json!({"exec": {"command": ["cat", "/tmp/ready"]}, "periodSeconds": 1});
    pod["spec"]["initContainers"] = json!([sidecar]);
    space.pod(&pod)?;
    let pod = space.until("pods/beside", "running", |pod| {
        container(pod, "main")["state"]["running"].is_object()
    })?;
    ensure!(
        condition(&pod, "Initialized") == "True",
        "{}",
        pod["status"]
    );
    ensure!(condition(&pod, "Ready") == "False", "{}", pod["status"]);
    let message = find_condition(&pod, "ContainersReady")["message"].as_str();
    let message = message.context("no message")?;
    ensure!(
        message == "containers with unready status: [side]",
        "{message}"
    );
    space
        .until_within(PATIENCE, "pods/beside", "Ready", |pod| {
            condition(pod, "Ready") == "True"
        })
        .map(drop)
}
