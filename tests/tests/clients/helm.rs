//! Helm, which applies on the server by default.

use anyhow::ensure;
use cluster_tests::clients::Helm;

use crate::Suite;

pub(crate) fn a_release_is_installed_upgraded_rolled_back_and_removed(
    suite: &Suite,
) -> anyhow::Result<()> {
    let kubectl = suite.kubectl("helm")?;
    let helm = Helm::new(&suite.kubeconfig(), &kubectl.namespace)?;
    // Without pods, because there are no nodes: it waits for everything else.
    helm.ok("install one CHART --set replicas=0 --wait --timeout=60s")?;
    ensure!(kubectl.field("configmap/one-settings", ".data.message")? == "hello");
    ensure!(kubectl.field("configmap/one-settings", ".data.deployments")? == "known");
    ensure!(kubectl.field("gadget/one", ".spec.colour")? == "red");
    helm.ok("upgrade one CHART --set replicas=0,message=bye,colour=green")?;
    ensure!(kubectl.field("configmap/one-settings", ".data.message")? == "bye");
    // Another owner's field stays, where the chart says nothing about it.
    kubectl.ok("label service/one kept=yes")?;
    let refusal = helm
        .run("upgrade one CHART --set replicas=0,colour=pink")?
        .failure()?;
    ensure!(
        refusal.contains("spec.colour: Unsupported value"),
        "{refusal}"
    );
    helm.ok("rollback one 1 --wait --timeout=60s")?;
    ensure!(kubectl.field("configmap/one-settings", ".data.message")? == "hello");
    ensure!(kubectl.field("service/one", ".metadata.labels.kept")? == "yes");
    let history = helm.ok("history one -o json")?;
    ensure!(history.matches("\"revision\"").count() == 4, "{history}");
    let listed = helm.ok("list -o json")?;
    ensure!(listed.contains("\"status\":\"deployed\""), "{listed}");
    let status = helm.ok("status one")?;
    ensure!(status.contains("v1/Deployment"), "{status}");
    // The older way: a merge on the client's side.
    helm.ok("upgrade --install two CHART --set replicas=0 --server-side=false")?;
    helm.ok("upgrade two CHART --set replicas=0,message=two --server-side=false")?;
    ensure!(kubectl.field("configmap/two-settings", ".data.message")? == "two");
    for release in ["one", "two"] {
        helm.ok(&format!("uninstall {release} --wait --timeout=60s"))?;
    }
    let left = kubectl.ok("get deployments,services,gadgets -o name")?;
    ensure!(left.is_empty(), "{left}");
    Ok(())
}
