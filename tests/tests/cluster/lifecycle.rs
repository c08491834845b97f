//! From the first init container to the end of the grace period.

use std::time::{Duration, Instant};

use anyhow::ensure;
use cluster_tests::cluster::{Cluster, SOON, wait_for};
use cluster_tests::pods::{IMAGE, client, server};
use serde_json::json;

pub(crate) fn init_containers_run_in_order_before_the_others(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let namespace = cluster.namespace("init")?;
    let mut pod = server("prepared");
    let mounts = json!([{ "name": "shared", "mountPath": "/shared" }]);
    pod["spec"]["initContainers"] = json!([
        { "name": "first", "image": IMAGE, "args": ["write", "/shared/a", "one"], "volumeMounts": mounts },
        { "name": "second", "image": IMAGE, "args": ["read", "/shared/a"], "volumeMounts": mounts },
    ]);
    pod["spec"]["containers"] = json!([
        { "name": "server", "image": IMAGE, "volumeMounts": mounts },
        { "name": "beside", "image": IMAGE, "args": ["sleep"], "volumeMounts": mounts },
    ]);
    pod["spec"]["volumes"] = json!([{ "name": "shared", "emptyDir": {} }]);
    namespace.start_pod(&pod)?;
    let log = namespace.kubectl("logs prepared -c second")?.success()?;
    ensure!(log.trim() == "one", "{log}");
    let shared = namespace
        .kubectl("exec prepared -c beside -- /testserver read /shared/a")?
        .success()?;
    ensure!(shared == "one", "{shared}");
    Ok(())
}

pub(crate) fn a_failing_container_is_restarted_with_back_off(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let namespace = cluster.namespace("backoff")?;
    let mut pod = client("failing", &["exit", "3"]);
    pod["spec"]["restartPolicy"] = json!("Always");
    namespace.apply(&pod.to_string())?;
    wait_for("back-off after several restarts", SOON, || {
        let status = namespace.get("pod failing")?["status"]["containerStatuses"][0].clone();
        Ok(status["restartCount"].as_i64() >= Some(2)
            && status["state"]["waiting"]["reason"] == "CrashLoopBackOff"
            && status["lastState"]["terminated"]["exitCode"] == 3)
    })?;
    namespace.apply(&client("never", &["exit", "4"]).to_string())?;
    wait_for("the failed pod", SOON, || {
        let pod = namespace.get("pod never")?;
        Ok(pod["status"]["phase"] == "Failed"
            && pod["status"]["containerStatuses"][0]["restartCount"] == 0)
    })
}

pub(crate) fn a_failing_liveness_probe_restarts_and_readiness_takes_out_of_services(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let namespace = cluster.namespace("probes")?;
    let mut pod = server("watched");
    pod["spec"]["containers"][0]["livenessProbe"] = json!({ "httpGet": { "path": "/healthz", "port": "http" }, "periodSeconds": 1, "failureThreshold": 2 });
    pod["spec"]["containers"][0]["readinessProbe"] =
        json!({ "httpGet": { "path": "/readyz", "port": 8080 }, "periodSeconds": 1 });
    pod["spec"]["containers"][0]["args"] = json!(["serve", "--delay-ready", "4"]);
    namespace.apply(&pod.to_string())?;
    namespace
        .kubectl("expose pod watched --port=80 --target-port=8080")?
        .success()?;
    let endpoints = || -> anyhow::Result<String> {
        let slices = namespace.get("endpointslices -l kubernetes.io/service-name=watched")?;
        Ok(slices["items"][0]["endpoints"][0]["conditions"]["ready"].to_string())
    };
    wait_for("an endpoint that is not ready", SOON, || {
        Ok(endpoints()? == "false")
    })?;
    namespace.ready("watched")?;
    wait_for("an endpoint that is ready", SOON, || {
        Ok(endpoints()? == "true")
    })?;
    namespace
        .ask("watched", "get http://localhost:8080/unhealthy")?
        .success()?;
    wait_for("the restart", SOON, || {
        let status = namespace.get("pod watched")?["status"]["containerStatuses"][0].clone();
        Ok(status["restartCount"].as_i64() >= Some(1) && status["ready"] == true)
    })
}

pub(crate) fn probes_of_all_kinds_pass(cluster: &Cluster) -> anyhow::Result<()> {
    let namespace = cluster.namespace("allprobes")?;
    let mut pod = server("probed");
    let container = &mut pod["spec"]["containers"][0];
    container["startupProbe"] = json!({ "tcpSocket": { "port": 8082 }, "periodSeconds": 1 });
    container["readinessProbe"] = json!({ "exec": { "command": ["/testserver", "get", "http://localhost:8080/readyz"] }, "periodSeconds": 1 });
    container["livenessProbe"] =
        json!({ "httpGet": { "path": "/healthz", "port": "http" }, "periodSeconds": 1 });
    namespace.start_pod(&pod)?;
    let status = namespace.get("pod probed")?["status"]["containerStatuses"][0].clone();
    ensure!(
        status["started"] == true && status["restartCount"] == 0,
        "{status}"
    );
    // A probe that never passes keeps the pod out.
    let mut grpc = server("grpc");
    grpc["spec"]["containers"][0]["readinessProbe"] =
        json!({ "grpc": { "port": 8080 }, "periodSeconds": 1 });
    namespace.apply(&grpc.to_string())?;
    wait_for("an event that tells of the failing probe", SOON, || {
        let events = namespace.get("events --field-selector involvedObject.name=grpc")?;
        Ok(events.to_string().contains("Unhealthy"))
    })
}

pub(crate) fn hooks_run_and_the_grace_period_is_kept(cluster: &Cluster) -> anyhow::Result<()> {
    let namespace = cluster.namespace("hooks")?;
    let mut pod = server("hooked");
    pod["spec"]["containers"][0]["args"] = json!(["serve", "--shutdown-delay", "60"]);
    pod["spec"]["terminationGracePeriodSeconds"] = json!(4);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "own", "mountPath": "/own" }]);
    pod["spec"]["volumes"] = json!([{ "name": "own", "emptyDir": {} }]);
    pod["spec"]["containers"][0]["lifecycle"] = json!({
        "postStart": { "exec": { "command": ["/testserver", "write", "/own/started", "yes"] } },
        "preStop": { "httpGet": { "path": "/wait?ms=1000", "port": 8080 } },
    });
    namespace.start_pod(&pod)?;
    let started = namespace.ask("hooked", "read /own/started")?.success()?;
    ensure!(started == "yes", "{started}");
    let start = Instant::now();
    namespace.kubectl("delete pod hooked")?.success()?;
    let took = start.elapsed();
    ensure!(
        took >= Duration::from_secs(3),
        "it ended after {took:?}, before its time"
    );
    ensure!(took < Duration::from_secs(20), "it was given {took:?}");
    Ok(())
}

pub(crate) fn pull_policies_and_secrets_are_kept_to(cluster: &Cluster) -> anyhow::Result<()> {
    let namespace = cluster.namespace("pulls")?;
    let private = "private.lab:5001/fairlead/testserver:2";
    let waiting = |pod: &str, reasons: [&str; 2]| {
        wait_for(&format!("{pod} to wait for its image"), SOON, || {
            let pod = namespace.get(&format!("pod {pod}"))?;
            let reason = &pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"];
            Ok(reasons.iter().any(|wanted| reason == wanted))
        })
    };
    let with = |name: &str, image: &str, policy: &str| {
        let mut pod = server(name);
        pod["spec"]["containers"][0]["image"] = json!(image);
        pod["spec"]["containers"][0]["imagePullPolicy"] = json!(policy);
        pod
    };
    namespace.apply(&with("never", "fairlead/no-such-image:1", "Never").to_string())?;
    waiting("never", ["ErrImageNeverPull", "ErrImageNeverPull"])?;
    namespace.apply(&with("refused", private, "Always").to_string())?;
    waiting("refused", ["ErrImagePull", "ImagePullBackOff"])?;
    namespace
        .kubectl(
            "create secret docker-registry pull --docker-server=private.lab:5001 \
             --docker-username=lab --docker-password=sail-locker",
        )?
        .success()?;
    let mut pod = with("allowed", private, "Always");
    pod["spec"]["imagePullSecrets"] = json!([{ "name": "pull" }]);
    namespace.start_pod(&pod)?;
    namespace.start_pod(&with("present", IMAGE, "IfNotPresent"))
}
