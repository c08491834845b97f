//! `kubectl apply` in both ways, and `diff`.

use anyhow::ensure;
use cluster_tests::clients::Kubectl;

use crate::Suite;

fn deployment(name: &str, image: &str, extra: &str) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  {extra}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      containers:
      - {{name: main, image: \"{image}\", env: [{{name: A, value: a}}, {{name: B, value: b}}]}}
"
    )
}

/// `kubectl diff` ends with 1 when there is a difference.
fn diff(kubectl: &Kubectl, line: &str, manifest: &str) -> anyhow::Result<(Option<i32>, String)> {
    let mut arguments: Vec<&str> = line.split_whitespace().collect();
    arguments.extend(["-f", "-"]);
    let outcome = kubectl.with(&arguments, Some(manifest))?;
    ensure!(outcome.code < Some(2), "{outcome:?}");
    Ok((outcome.code, outcome.stdout))
}

pub(crate) fn a_client_applies_and_sees_differences(suite: &Suite) -> anyhow::Result<()> {
    suite.with_each("apply", |kubectl| {
        let first = deployment("web", "sample:1", "replicas: 2");
        let applied = kubectl.feed("apply", &first)?;
        ensure!(applied.contains("deployment.apps/web created"), "{applied}");
        ensure!(kubectl.feed("apply", &first)?.contains("unchanged"));
        ensure!(diff(kubectl, "diff", &first)?.0 == Some(0));

        let second = deployment("web", "sample:2", "replicas: 2").replace("{name: B, value: b}", "{name: C, value: c}");
        let (code, shown) = diff(kubectl, "diff", &second)?;
        ensure!(code == Some(1), "{shown}");
        for line in ["-        image: sample:1", "+        image: sample:2", "-        - name: B", "+        - name: C"] {
            let line = line.replacen("        ", "", 1);
            let found = shown.lines().any(|l| l.starts_with(&line[..1]) && l.contains(line[1..].trim()));
            ensure!(found, "no {line:?} in {shown}");
        }
        // What another one set stays; what was applied before and is not any more goes.
        kubectl.ok("set env deployment/web X=y")?;
        ensure!(kubectl.feed("apply", &second)?.contains("configured"));
        let names = kubectl.field("deployment/web", ".spec.template.spec.containers[0].env[*].name")?;
        let mut names: Vec<&str> = names.split_whitespace().collect();
        names.sort_unstable();
        ensure!(names == ["A", "C", "X"], "{names:?}");
        kubectl.says("apply view-last-applied deployment/web", "sample:2")?;
        let dry = kubectl.feed("apply --dry-run=server -o name", &deployment("dry", "sample:1", ""))?;
        ensure!(dry.contains("deployment.apps/dry"), "{dry}");
        kubectl.fails("get deployment dry", "NotFound")?;
        // What is no longer among the manifests is pruned.
        let pair = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one, labels: {set: a}}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: two, labels: {set: a}}\n";
        kubectl.feed("apply", pair)?;
        let single = pair.split("---\n").next().unwrap_or_default();
        let option = if kubectl.new { "allowlist" } else { "whitelist" };
        let line = format!("apply --prune -l set=a --prune-{option}=core/v1/ConfigMap");
        kubectl.feed(&line, single)?;
        kubectl.fails("get configmap two", "NotFound")?;
        kubectl.ok("get configmap one")?;
        kustomize(kubectl)
    })
}

fn kustomize(kubectl: &Kubectl) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text);
    write(
        "kustomization.yaml",
        "namePrefix: my-\nresources: [web.yaml]\nconfigMapGenerator:\n- name: settings\n  literals: [a=b]\nimages:\n- {name: sample, newTag: \"9\"}\n",
    )?;
    write("web.yaml", &deployment("kustom", "sample:1", "replicas: 0"))?;
    let path = directory.path().display();
    kubectl.says(&format!("kustomize {path}"), "image: sample:9")?;
    let applied = kubectl.ok(&format!("apply -k {path}"))?;
    ensure!(
        applied.contains("deployment.apps/my-kustom created"),
        "{applied}"
    );
    ensure!(applied.contains("configmap/my-settings-"), "{applied}");
    kubectl.ok(&format!("delete -k {path}"))?;
    Ok(())
}

pub(crate) fn a_server_applies_with_owners_and_conflicts(suite: &Suite) -> anyhow::Result<()> {
    suite.with_each("ssa", |kubectl| {
        let first = deployment("web", "sample:1", "replicas: 2");
        let applied = kubectl.feed("apply --server-side", &first)?;
        ensure!(applied.contains("serverside-applied"), "{applied}");
        kubectl.ok("scale deployment/web --replicas=3")?;
        let conflict = {
            let arguments = ["apply", "--server-side", "-f", "-"];
            kubectl.with(&arguments, Some(&first))?.failure()?
        };
        ensure!(conflict.contains("conflict") && conflict.contains(".spec.replicas"), "{conflict}");
        // Without the field there is nothing to fight about.
        kubectl.feed("apply --server-side", &deployment("web", "sample:2", ""))?;
        ensure!(kubectl.field("deployment/web", ".spec.replicas")? == "3");
        kubectl.feed("apply --server-side --force-conflicts", &first)?;
        ensure!(kubectl.field("deployment/web", ".spec.replicas")? == "2");
        let other = deployment("web", "sample:3", "");
        let arguments = ["apply", "--server-side", "--field-manager=other", "-f", "-"];
        let conflict = kubectl.with(&arguments, Some(&other))?.failure()?;
        ensure!(conflict.contains("image"), "{conflict}");
        let (code, shown) = diff(kubectl, "diff --server-side --force-conflicts", &other)?;
        ensure!(code == Some(1) && shown.contains("sample:3"), "{shown}");
        // From the client's way to the server's: what was applied before is known to be own.
        kubectl.feed("apply", &deployment("moved", "sample:1", "replicas: 1"))?;
        kubectl.feed("apply --server-side", &deployment("moved", "sample:2", ""))?;
        if kubectl.new {
            let managers = kubectl.ok("get deployment/moved --show-managed-fields -o jsonpath={.metadata.managedFields[*].operation}")?;
            ensure!(managers.contains("Apply"), "{managers}");
        }
        Ok(())
    })
}
