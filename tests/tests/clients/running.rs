//! Workloads as far as they go without nodes, nodes without kubelets, and waiting.

use std::thread;
use std::time::Duration;

use anyhow::ensure;
use cluster_tests::clients::Kubectl;
use cluster_tests::cluster::{SOON, wait_for};

use crate::Suite;

pub(crate) fn workloads_are_scaled_exposed_and_rolled_back(suite: &Suite) -> anyhow::Result<()> {
    suite.with_each("workloads", |kubectl| {
        kubectl.ok("create deployment web --image=sample:1")?;
        revision(kubectl, "1")?;
        kubectl.fails(
            "scale deployment/web --replicas=3 --current-replicas=7",
            "Expected replicas to be 7, was 1",
        )?;
        kubectl.ok("scale deployment/web --replicas=3 --current-replicas=1")?;
        wait_for("three pods", SOON, || {
            Ok(kubectl.ok("get pods -l app=web -o name")?.lines().count() == 3)
        })?;
        kubectl.says("set image deployment/web sample=sample:2", "image updated")?;
        revision(kubectl, "2")?;
        kubectl.ok("set env deployment/web A=b --containers=*")?;
        ensure!(kubectl.ok("set env deployment/web --list")?.contains("A=b"));
        kubectl.ok("set resources deployment/web --limits=cpu=100m,memory=10Mi")?;
        ensure!(
            kubectl.field(
                "deployment/web",
                ".spec.template.spec.containers[0].resources.limits.cpu"
            )? == "100m"
        );
        kubectl.says("rollout history deployment/web --revision=1", "sample:1")?;
        kubectl.says("rollout undo deployment/web --to-revision=1", "rolled back")?;
        ensure!(
            kubectl.field("deployment/web", ".spec.template.spec.containers[0].image")?
                == "sample:1"
        );
        kubectl.ok("rollout pause deployment/web")?;
        kubectl.fails("rollout pause deployment/web", "already paused")?;
        kubectl.ok("rollout resume deployment/web")?;
        kubectl.says("rollout restart deployment/web", "restarted")?;
        let stamp = ".spec.template.metadata.annotations.kubectl\\.kubernetes\\.io/restartedAt";
        ensure!(!kubectl.field("deployment/web", stamp)?.is_empty());
        kubectl.says("rollout status deployment/web --watch=false", "Waiting for")?;
        kubectl.ok("autoscale deployment/web --min=1 --max=3")?;
        ensure!(
            kubectl.ok("get hpa web")?.contains("80%"),
            "{}",
            kubectl.ok("get hpa web")?
        );
        kubectl.says(
            "expose deployment/web --port=80 --target-port=8080",
            "exposed",
        )?;
        kubectl.ok("set selector service web app=other")?;
        ensure!(kubectl.ok("get service web -o wide")?.contains("app=other"));
        kubectl.says(
            "run lone --image=sample:1 --port=80 --restart=Never --labels=a=b",
            "pod/lone created",
        )?;
        kubectl.ok("expose pod/lone --name=lone-service")?;
        controller(kubectl)?;
        kubectl.ok("delete deployment/web --cascade=orphan")?;
        let left = kubectl.ok("get replicasets -l app=web -o name")?;
        ensure!(!left.is_empty(), "orphans went too");
        kubectl.ok("delete replicasets -l app=web")?;
        wait_for("no pods of the deployment", SOON, || {
            Ok(kubectl.ok("get pods -l app=web -o name")?.is_empty())
        })
    })
}

/// Waits until the controller has seen the latest template.
fn revision(kubectl: &Kubectl, wanted: &str) -> anyhow::Result<()> {
    wait_for("the revision", SOON, || {
        let path = ".metadata.annotations.deployment\\.kubernetes\\.io/revision";
        Ok(kubectl.field("deployment/web", path)? == wanted)
    })
}

/// The oldest of the workloads.
fn controller(kubectl: &Kubectl) -> anyhow::Result<()> {
    kubectl.feed("create", "apiVersion: v1\nkind: ReplicationController\nmetadata: {name: old}\nspec:\n  replicas: 1\n  selector: {app: old}\n  template: {metadata: {labels: {app: old}}, spec: {containers: [{name: c, image: sample}]}}\n")?;
    kubectl.ok("scale rc old --replicas=2")?;
    wait_for("two pods", SOON, || {
        Ok(kubectl.ok("get pods -l app=old -o name")?.lines().count() == 2)
    })?;
    kubectl.ok("expose rc old --name=old --port=1234 --target-port=6379")?;
    kubectl.says("describe rc old", "Replicas:")?;
    kubectl.ok("delete rc old")?;
    wait_for("no pods of the controller", SOON, || {
        Ok(kubectl.ok("get pods -l app=old -o name")?.is_empty())
    })
}

pub(crate) fn nodes_are_cordoned_tainted_and_drained(suite: &Suite) -> anyhow::Result<()> {
    suite.with_each("nodes", |kubectl| {
        let node = format!("{}-node", kubectl.namespace);
        kubectl.feed("create", &format!("apiVersion: v1\nkind: Node\nmetadata: {{name: {node}}}\nspec: {{taints: [{{key: test, effect: NoSchedule}}]}}\n"))?;
        kubectl.says(&format!("cordon {node}"), "cordoned")?;
        kubectl.says(&format!("get node {node}"), "SchedulingDisabled")?;
        kubectl.says(&format!("uncordon {node}"), "uncordoned")?;
        kubectl.says(&format!("taint node {node} key=value:NoExecute"), "tainted")?;
        kubectl.fails(&format!("taint node {node} key=other:NoExecute"), "already has")?;
        kubectl.ok(&format!("taint node {node} key=other:NoExecute --overwrite"))?;
        kubectl.says(&format!("taint node {node} key-"), "untainted")?;
        kubectl.feed("create", &format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: bare, labels: {{a: b}}}}\nspec: {{nodeName: {node}, terminationGracePeriodSeconds: 0, tolerations: [{{operator: Exists}}], containers: [{{name: c, image: sample}}]}}\n"))?;
        kubectl.fails(&format!("drain {node} --timeout=2s"), "bare")?;
        // A budget keeps the pod as long as it allows no disruption.
        kubectl.feed("create", "apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: keep}\nspec: {minAvailable: 1, selector: {matchLabels: {a: b}}}\n")?;
        if kubectl.new {
            // A pod that never ran could go all the same.
            let running = r#"{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}"#;
            kubectl.patch("pod/bare --subresource=status", "strategic", running)?.success()?;
            wait_for("the budget", SOON, || Ok(kubectl.field("pdb/keep", ".status.currentHealthy")? == "1"))?;
            kubectl.fails(&format!("drain {node} --force --timeout=3s"), "disruption budget")?;
        }
        kubectl.ok("delete pdb keep")?;
        kubectl.says(&format!("drain {node} --force --grace-period=0 --timeout=60s"), "pod/bare evicted")?;
        kubectl.fails("get pod bare", "NotFound")?;
        kubectl.says(&format!("describe node {node}"), "Unschedulable:      true")?;
        kubectl.fails("top nodes", "Metrics API not available")?;
        kubectl.fails("top pods", "Metrics API not available")?;
        kubectl.ok(&format!("delete node {node}"))?;
        Ok(())
    })
}

pub(crate) fn what_is_asked_for_is_waited_for(suite: &Suite) -> anyhow::Result<()> {
    suite.with_each("waiting", |kubectl| {
        kubectl.ok("create configmap here")?;
        kubectl.ok("run pod --image=sample:1")?;
        kubectl.fails(
            "wait --for=condition=Ready pod/pod --timeout=1s",
            "timed out",
        )?;
        kubectl.says(
            "wait --for=condition=PodScheduled=False pod/pod --timeout=30s",
            "condition met",
        )?;
        thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                kubectl.says(
                    "wait --for=delete configmap/here --timeout=60s",
                    "condition met",
                )
            });
            // Whether it waits yet or not, the end is the same.
            thread::sleep(Duration::from_millis(300));
            kubectl.ok("delete configmap here")?;
            waiting.join().map_err(|_| anyhow::anyhow!("panic"))??;
            anyhow::Ok(())
        })?;
        if kubectl.new {
            kubectl.says(
                "wait --for=jsonpath={.status.phase}=Pending pod/pod --timeout=30s",
                "condition met",
            )?;
            thread::scope(|scope| {
                let waiting = scope.spawn(|| {
                    kubectl.says(
                        "wait --for=create configmap/later --timeout=60s",
                        "condition met",
                    )
                });
                kubectl.ok("create configmap later")?;
                waiting.join().map_err(|_| anyhow::anyhow!("panic"))??;
                anyhow::Ok(())
            })?;
        }
        Ok(())
    })
}
