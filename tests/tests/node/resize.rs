//! Resources of running pods are changed (KEP-1287).

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::pods::generation;
use crate::site::{
    IDLE, Site, Space, condition, container, find_condition, pod_of, restarts, shell,
};

pub(crate) fn resources(requests: Value, limits: Value) -> Value {
    let mut resources = json!({});
    if !requests.is_null() {
        resources["requests"] = requests;
    }
    if !limits.is_null() {
        resources["limits"] = limits;
    }
    resources
}

pub(crate) fn cpu_memory(cpu: &str, memory: &str) -> Value {
    json!({"cpu": cpu, "memory": memory})
}

pub(crate) fn resizable(name: &str, containers: &[(&str, Value)]) -> Value {
    let containers: Vec<Value> = containers
        .iter()
        .map(|(name, resources)| {
            let mut made = shell(name, IDLE);
            made["resources"] = resources.clone();
            made
        })
        .collect();
    let mut pod = pod_of(name, json!(containers));
    pod["spec"]["restartPolicy"] = json!("OnFailure");
    pod
}

/// Patches `/resize` and waits until the status, and the kernel, have it.
fn resize(space: &Space<'_>, pod: &str, wanted: &[(&str, Value)]) -> anyhow::Result<Value> {
    let list: Vec<Value> = wanted
        .iter()
        .map(|(name, resources)| json!({"name": name, "resources": resources}))
        .collect();
    space.patch(
        &format!("pods/{pod}/resize"),
        &json!({"spec": {"containers": list}}),
    )?;
    resized(space, pod, wanted)
}

fn resized(space: &Space<'_>, pod: &str, wanted: &[(&str, Value)]) -> anyhow::Result<Value> {
    let found = space.until(&format!("pods/{pod}"), "resized", |pod| {
        let same =
            |(name, resources): &(&str, Value)| container(pod, name)["resources"] == *resources;
        wanted.iter().all(same)
            && find_condition(pod, "PodResizePending").is_null()
            && find_condition(pod, "PodResizeInProgress").is_null()
            && condition(pod, "Ready") == "True"
    })?;
    for (name, resources) in wanted {
        in_the_kernel(space, pod, name, resources)?;
    }
    Ok(found)
}

/// The cgroup files, as the container itself sees them.
fn in_the_kernel(
    space: &Space<'_>,
    pod: &str,
    name: &str,
    resources: &Value,
) -> anyhow::Result<()> {
    let line = "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/memory/memory.limit_in_bytes \
        || cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/memory.max";
    let text = space.exec(pod, name, line)?.success()?;
    let numbers: Vec<i64> = text
        .lines()
        .map(|line| {
            let first = line.split(' ').next().unwrap_or_default();
            first.parse().unwrap_or(-1)
        })
        .collect();
    let milli = |text: &str| text.trim_end_matches('m').parse::<i64>().unwrap_or(0);
    let mebi = |text: &str| text.trim_end_matches("Mi").parse::<i64>().unwrap_or(0) << 20;
    // The kernel takes no quota below a millisecond.
    let quota = resources["limits"]["cpu"]
        .as_str()
        .map(|cpu| (milli(cpu) * 100).max(1000));
    ensure!(
        numbers.first() == quota.or(Some(-1)).as_ref(),
        "{name}: {text} for {resources}"
    );
    if let Some(memory) = resources["limits"]["memory"].as_str() {
        ensure!(
            numbers.get(1) == Some(&mebi(memory)),
            "{name}: {text} for {resources}"
        );
    }
    Ok(())
}

pub(crate) fn resources_are_resized_in_place(site: &Site) -> anyhow::Result<()> {
    let space = site.space("resize")?;
    let none = || Value::Null;
    let before = [
        ("c1", resources(json!({"cpu": "20m"}), none())),
        ("c2", resources(json!({"memory": "20Mi"}), none())),
        ("c3", resources(cpu_memory("20m", "20Mi"), none())),
        ("c4", resources(json!({"cpu": "20m"}), none())),
        ("c5", resources(json!({"memory": "20Mi"}), none())),
        ("c6", resources(json!({"cpu": "20m"}), none())),
    ];
    let after = [
        (
            "c1",
            resources(json!({"cpu": "25m"}), json!({"cpu": "35m"})),
        ),
        (
            "c2",
            resources(json!({"memory": "15Mi"}), json!({"memory": "35Mi"})),
        ),
        ("c3", resources(cpu_memory("20m", "15Mi"), none())),
        ("c4", resources(cpu_memory("15m", "20Mi"), none())),
        ("c5", resources(cpu_memory("20m", "25Mi"), none())),
        ("c6", resources(json!({"cpu": "20m"}), none())),
    ];
    space.start(&resizable("mixed", &before))?;
    let pod = resize(&space, "mixed", &after)?;
    for (name, _) in &after {
        ensure!(restarts(&pod, name) == 0, "{}", pod["status"]);
    }
    ensure!(generation(&pod) == 2, "{}", pod["metadata"]);

    // Guaranteed pods, where the whole pod has limits: up, and down again.
    let given =
        |cpu: &str, memory: &str| resources(cpu_memory(cpu, memory), cpu_memory(cpu, memory));
    let first = [
        ("c1", given("20m", "20Mi")),
        ("c2", given("22m", "22Mi")),
        ("c3", given("24m", "24Mi")),
    ];
    let less = [
        ("c1", given("25m", "25Mi")),
        ("c2", given("15m", "15Mi")),
        ("c3", given("15m", "15Mi")),
    ];
    let more = [
        ("c1", given("45m", "45Mi")),
        ("c2", given("40m", "30Mi")),
        ("c3", given("15m", "16Mi")),
    ];
    space.start(&resizable("sure", &first))?;
    for step in [&less, &more, &first] {
        resize(&space, "sure", step)?;
    }
    // Other words for the same amount, and amounts below what the kernel can tell apart.
    space.start(&resizable(
        "equal",
        &[("c1", resources(json!({"cpu": "2m"}), json!({"cpu": "10m"})))],
    ))?;
    resize(
        &space,
        "equal",
        &[("c1", resources(json!({"cpu": "1m"}), json!({"cpu": "5m"})))],
    )?;
    Ok(())
}

pub(crate) fn a_resize_restarts_where_the_policy_asks_for_it(site: &Site) -> anyhow::Result<()> {
    let space = site.space("resize-restart")?;
    let given =
        |cpu: &str, memory: &str| resources(cpu_memory(cpu, memory), cpu_memory(cpu, memory));
    let mut pod = resizable("picky", &[("main", given("50m", "40Mi"))]);
    pod["spec"]["containers"][0]["resizePolicy"] = json!([
        {"resourceName": "cpu", "restartPolicy": "NotRequired"},
        {"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    space.start(&pod)?;
    let pod = resize(&space, "picky", &[("main", given("100m", "40Mi"))])?;
    ensure!(restarts(&pod, "main") == 0, "{}", pod["status"]);
    let pod = resize(&space, "picky", &[("main", given("200m", "60Mi"))])?;
    ensure!(restarts(&pod, "main") == 1, "{}", pod["status"]);
    let pod = resize(&space, "picky", &[("main", given("30m", "30Mi"))])?;
    ensure!(restarts(&pod, "main") == 2, "{}", pod["status"]);
    // By PUT, and more than the node has.
    let path = space.path("pods/picky/resize");
    let mut whole = space.get("pods/picky")?;
    whole["spec"]["containers"][0]["resources"] = given("35m", "30Mi");
    let put = site.replace(&path, &whole)?;
    ensure!(
        put["spec"]["containers"][0]["resources"] == given("35m", "30Mi"),
        "{}",
        put["spec"]
    );
    resized(&space, "picky", &[("main", given("35m", "30Mi"))])?;
    let patch =
        json!({"spec": {"containers": [{"name": "main", "resources": given("1000", "30Mi")}]}});
    space.patch("pods/picky/resize", &patch)?;
    let pod = space.until("pods/picky", "infeasible", |pod| {
        find_condition(pod, "PodResizePending")["reason"] == "Infeasible"
    })?;
    ensure!(
        container(&pod, "main")["resources"] == given("35m", "30Mi"),
        "{}",
        pod["status"]
    );
    // What cannot be resized is refused.
    for (patch, part) in [
        (
            json!({"name": "main", "resources": {"$retainKeys": ["requests"], "requests": {"cpu": "20m", "memory": "20Mi"}}}),
            "resource limits cannot be removed",
        ),
        (
            json!({"name": "main", "resources": {"requests": {"cpu": "20m"}}}),
            "Pod QOS Class may not change as a result of resizing",
        ),
    ] {
        let patch = json!({"spec": {"containers": [patch]}});
        let refusal = space.patch("pods/picky/resize", &patch);
        let message = format!("{:#}", refusal.err().context("was accepted")?);
        ensure!(message.contains(part), "{message}");
    }
    Ok(())
}
