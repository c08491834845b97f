//! ValidatingAdmissionPolicies and MutatingAdmissionPolicies.

use anyhow::ensure;
use cluster_tests::site::{PATIENCE, Site, Space, idle_spec, refused, workload};
use serde_json::{Value, json};

const API: &str = "/apis/admissionregistration.k8s.io/v1";

fn deployments(operations: &[&str]) -> Value {
    json!({"resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"],
        "operations": operations, "resources": ["deployments"]}]})
}

fn only_here(space: &Space<'_>) -> Value {
    json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": space.name}}})
}

/// Tries to make a Deployment until it is answered as wanted; a policy takes a moment.
fn until(
    space: &Space<'_>,
    deployment: &Value,
    is_so: impl Fn(&cluster_tests::site::Answer) -> bool,
) -> anyhow::Result<()> {
    cluster_tests::cluster::wait_for("the policy", PATIENCE, || {
        let answer = space.site.ask(
            "POST",
            &format!("{}?dryRun=All", space.path("deployments")),
            deployment,
        )?;
        Ok(is_so(&answer))
    })
}

pub(crate) fn admission_policies_judge_and_change(site: &Site) -> anyhow::Result<()> {
    let space = site.space("policies")?;
    validates(site, &space)?;
    mutates(site, &space)
}

fn validates(site: &Site, space: &Space<'_>) -> anyhow::Result<()> {
    let policy = json!({"metadata": {"name": "svc-replicas"}, "spec": {
        "matchConstraints": deployments(&["CREATE", "UPDATE"]),
        "variables": [{"name": "replicas", "expression": "object.spec.replicas"},
            {"name": "odd", "expression": "variables.replicas % 2 == 1"}],
        "validations": [
            {"expression": "variables.replicas > 1", "messageExpression":
                "'wants ' + string(variables.replicas) + ' replicas'"},
            {"expression": "variables.odd", "message": "not odd"}]}});
    site.create(&format!("{API}/validatingadmissionpolicies"), &policy)?;
    let place = format!("{API}/validatingadmissionpolicies/svc-replicas");
    site.until(&place, "observed", |policy| {
        policy["status"]["observedGeneration"] == 1
    })?;
    let binding = json!({"metadata": {"name": "svc-replicas"}, "spec": {
        "policyName": "svc-replicas", "validationActions": ["Deny"],
        "matchResources": only_here(space)}});
    site.create(
        &format!("{API}/validatingadmissionpolicybindings"),
        &binding,
    )?;
    until(
        space,
        &workload("Deployment", "d", 1, idle_spec()),
        Result::is_err,
    )?;
    let refusal = refused(
        "one",
        space.post("deployments", &workload("Deployment", "d", 1, idle_spec()))?,
    )?;
    ensure!(
        refusal.code == 422 && refusal.message.contains("wants 1 replicas"),
        "{refusal:?}"
    );
    let refusal = refused(
        "two",
        space.post("deployments", &workload("Deployment", "d", 2, idle_spec()))?,
    )?;
    ensure!(refusal.message.contains("not odd"), "{refusal:?}");
    space.create("deployments", &workload("Deployment", "d", 3, idle_spec()))?;
    for kind in [
        "validatingadmissionpolicybindings",
        "validatingadmissionpolicies",
    ] {
        let place = format!("{API}/{kind}/svc-replicas");
        site.merge(&place, &json!({"metadata": {"labels": {"v": "svc"}}}))?;
        ensure!(
            site.list(&format!("{API}/{kind}?labelSelector=v%3Dsvc"))?
                .len()
                == 1
        );
        site.delete(&format!("{API}/{kind}?labelSelector=v%3Dsvc"))?;
        site.until_gone(&place)?;
    }
    space.create(
        "deployments",
        &workload("Deployment", "free", 1, idle_spec()),
    )?;
    Ok(())
}

fn mutates(site: &Site, space: &Space<'_>) -> anyhow::Result<()> {
    let policy = |name: &str, mutation: &str| {
        json!({"metadata": {"name": name}, "spec": {
            "matchConstraints": deployments(&["CREATE"]),
            "variables": [{"name": "number", "expression": "5"}],
            "reinvocationPolicy": "Never",
            "mutations": [{"patchType": "ApplyConfiguration",
                "applyConfiguration": {"expression": mutation}}]}})
    };
    let policies = [
        policy(
            "svc-five",
            "Object{spec: Object.spec{replicas: variables.number}}",
        ),
        policy(
            "svc-note",
            "Object{metadata: Object.metadata{annotations: {\"note\": \"by a policy\"}}}",
        ),
    ];
    for policy in &policies {
        let name = &policy["metadata"]["name"];
        site.create(&format!("{API}/mutatingadmissionpolicies"), policy)?;
        let binding = json!({"metadata": {"name": name}, "spec": {"policyName": name,
            "matchResources": only_here(space)}});
        site.create(&format!("{API}/mutatingadmissionpolicybindings"), &binding)?;
    }
    until(
        space,
        &workload("Deployment", "m", 1, idle_spec()),
        |answer| {
            let Ok(made) = answer else { return false };
            made["spec"]["replicas"] == 5
                && made["metadata"]["annotations"]["note"] == "by a policy"
        },
    )?;
    for kind in [
        "mutatingadmissionpolicybindings",
        "mutatingadmissionpolicies",
    ] {
        for name in ["svc-five", "svc-note"] {
            let place = format!("{API}/{kind}/{name}");
            site.merge(&place, &json!({"metadata": {"labels": {"v": "svc"}}}))?;
        }
        site.delete(&format!("{API}/{kind}?labelSelector=v%3Dsvc"))?;
        site.until_gone(&format!("{API}/{kind}/svc-five"))?;
    }
    Ok(())
}
