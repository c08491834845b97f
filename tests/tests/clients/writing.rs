//! `edit`, `patch`, `label`, `annotate`, `replace`, `create`, `delete`.

use anyhow::ensure;
use cluster_tests::clients::Kubectl;

use crate::Suite;

const MAP: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: map}\ndata: {key: value}\n";

pub(crate) fn objects_are_edited_patched_labelled_and_replaced(
    suite: &Suite,
) -> anyhow::Result<()> {
    suite.with_each("writing", |kubectl| {
        kubectl.feed("create", MAP)?;
        edits(kubectl)?;
        patches(kubectl)?;
        kubectl.says("label configmap/map a=b", "labeled")?;
        kubectl.fails("label configmap/map a=c", "--overwrite is false")?;
        kubectl.ok("label configmap/map a=c --overwrite")?;
        ensure!(kubectl.ok("get configmap -l a=c -o name")?.trim() == "configmap/map");
        kubectl.ok("label configmap --all a-")?;
        kubectl.says("annotate configmap/map note=1", "annotated")?;
        kubectl.fails(
            "annotate configmap/map note=2 --overwrite --resource-version=1",
            "Conflict",
        )?;
        let changed = kubectl
            .ok("get configmap/map -o yaml")?
            .replace("key:", "other:");
        ensure!(kubectl.feed("replace", &changed)?.contains("replaced"));
        let uid = kubectl.field("configmap/map", ".metadata.uid")?;
        kubectl.feed("replace --force", MAP)?;
        ensure!(
            kubectl.field("configmap/map", ".metadata.uid")? != uid,
            "the same object"
        );
        creations(kubectl)
    })
}

fn edits(kubectl: &Kubectl) -> anyhow::Result<()> {
    kubectl
        .edit("configmap/map", "s/key: value/key: edited/")?
        .success()?;
    ensure!(kubectl.field("configmap/map", ".data.key")? == "edited");
    let nothing = kubectl.edit("configmap/map", "s/none/none/")?;
    ensure!(
        nothing.stderr.contains("no changes made") || nothing.stdout.contains("no changes made"),
        "{nothing:?}"
    );
    // What is refused is shown to the editor again, and kept when it gives up.
    let refused = kubectl
        .edit("configmap/map", "s/  name: map/  name: other/")?
        .failure()?;
    ensure!(refused.contains("stored to"), "{refused}");
    Ok(())
}

fn patches(kubectl: &Kubectl) -> anyhow::Result<()> {
    kubectl
        .patch("configmap/map", "merge", r#"{"data":{"a":"1","b":"2"}}"#)?
        .success()?;
    kubectl
        .patch("configmap/map", "merge", r#"{"data":{"a":null}}"#)?
        .success()?;
    let test = r#"[{"op":"test","path":"/data/b","value":"2"},{"op":"move","from":"/data/b","path":"/data/c"}]"#;
    kubectl.patch("configmap/map", "json", test)?.success()?;
    ensure!(kubectl.field("configmap/map", ".data.c")? == "2");
    kubectl.patch("configmap/map", "json", test)?.failure()?;
    kubectl.ok("create deployment web --image=sample:1")?;
    let side =
        r#"{"spec":{"template":{"spec":{"containers":[{"name":"side","image":"sample:2"}]}}}}"#;
    kubectl
        .patch("deployment/web", "strategic", side)?
        .success()?;
    let containers = ".spec.template.spec.containers[*].name";
    ensure!(kubectl.field("deployment/web", containers)? == "side sample");
    let without =
        r#"{"spec":{"template":{"spec":{"containers":[{"name":"side","$patch":"delete"}]}}}}"#;
    kubectl
        .patch("deployment/web", "strategic", without)?
        .success()?;
    ensure!(kubectl.field("deployment/web", containers)? == "sample");
    // A list is one value for a merge patch.
    kubectl.patch("deployment/web", "merge", side)?.success()?;
    ensure!(kubectl.field("deployment/web", containers)? == "side");
    let wrong = kubectl.patch("deployment/web", "merge", r#"{"spec":{"replicas":"many"}}"#)?;
    ensure!(wrong.failure()?.contains("replicas"));
    if kubectl.new {
        kubectl
            .patch(
                "deployment/web --subresource=scale",
                "merge",
                r#"{"spec":{"replicas":4}}"#,
            )?
            .success()?;
        ensure!(kubectl.field("deployment/web", ".spec.replicas")? == "4");
        kubectl.ok("get deployment/web --subresource=status -o name")?;
    }
    Ok(())
}

/// Everything that `kubectl create` makes by itself, as far as this release's kinds are served.
fn creations(kubectl: &Kubectl) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("file.txt");
    std::fs::write(&file, "text\n")?;
    let file = file.display();
    for line in [
        format!("configmap files --from-file={file} --from-literal=a=b"),
        format!("secret generic opaque --from-file=key={file}"),
        "secret docker-registry pull --docker-username=u --docker-password=p --docker-server=example.com".to_owned(),
        "serviceaccount robot".to_owned(),
        "role reader --verb=get,list --resource=pods,configmaps".to_owned(),
        "rolebinding reads --role=reader --serviceaccount=default:robot".to_owned(),
        "job once --image=sample:1 -- echo".to_owned(),
        "service clusterip plain --tcp=80:8080".to_owned(),
        "service nodeport port --tcp=80".to_owned(),
        "service externalname other --external-name=example.com".to_owned(),
        "quota count --hard=services=10".to_owned(),
        "ingress way --rule=example.com/path*=plain:80,tls=secret".to_owned(),
    ] {
        kubectl.says(&format!("create {line}"), "created")?;
    }
    if kubectl.new {
        let cron = [
            "create",
            "cronjob",
            "often",
            "--image=sample:1",
            "--schedule=*/9 * * * *",
        ];
        kubectl.with(&cron, None)?.success()?;
        kubectl.says(
            "create poddisruptionbudget budget --selector=app=web --min-available=1",
            "created",
        )?;
        kubectl.says("create token robot --duration=10m", "eyJ")?;
    }
    let job = kubectl.ok("create job again --image=sample:1 --dry-run=server -o yaml")?;
    ensure!(job.contains("uid:"), "{job}");
    kubectl.ok("set serviceaccount deployment/web robot")?;
    kubectl.says(
        "delete job/once --cascade=foreground --wait=false",
        "deleted",
    )?;
    kubectl.ok("delete configmap,secret --all")?;
    kubectl.says("delete deployment web --grace-period=1", "deleted")?;
    kubectl.ok("delete configmap none --ignore-not-found")?;
    kubectl.fails("delete configmap none", "NotFound")
}

pub(crate) fn what_is_wrong_is_told_before_anything_is_stored(suite: &Suite) -> anyhow::Result<()> {
    suite.with_each("wrong", |kubectl| {
        let failure = |line: &str, manifest: &str| -> anyhow::Result<String> {
            let mut arguments: Vec<&str> = line.split_whitespace().collect();
            arguments.extend(["-f", "-"]);
            kubectl.with(&arguments, Some(manifest))?.failure()
        };
        // The old release judges by the published schema, the new one lets the server judge.
        let unknown = MAP.replace("\ndata:", "\ndta:");
        let told = failure("create", &unknown)?;
        ensure!(told.contains("dta"), "{told}");
        let typed = failure("create", "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: [{port: http}]}\n")?;
        ensure!(typed.contains("port"), "{typed}");
        let nested = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i, comand: [x]}]}}}\n";
        let told = failure("apply", nested)?;
        ensure!(told.contains("comand"), "{told}");
        let invalid = failure("apply", &nested.replace(", comand: [x]", "").replace("matchLabels: {a: b}", "matchLabels: {a: c}"))?;
        ensure!(invalid.contains("spec.template.metadata.labels: Invalid value"), "{invalid}");
        let kind = failure("apply", "apiVersion: example.com/v9\nkind: Nothing\nmetadata: {name: x}\n")?;
        ensure!(kind.contains("no matches for kind \"Nothing\" in version \"example.com/v9\""), "{kind}");
        kubectl.feed("create --validate=false", &unknown)?;
        if kubectl.new {
            let arguments = ["replace", "--validate=warn", "-f", "-"];
            let warned = kubectl.with(&arguments, Some(&unknown))?;
            ensure!(warned.stderr.contains("Warning: unknown field \"dta\""), "{warned:?}");
        }
        kubectl.fails("get pods/none", "pods \"none\" not found")?;
        kubectl.fails("get nothing", "the server doesn't have a resource type \"nothing\"")?;
        kubectl.fails("get pods -l a=b=c", "found '='")?;
        kubectl.fails("get pods --field-selector no.such=1", "field label not supported: no.such")?;
        kubectl.fails("logs none", "pods \"none\" not found")?;
        kubectl.fails("exec none -- true", "pods \"none\" not found")?;
        kubectl.fails("create namespace default", "AlreadyExists")?;
        kubectl.fails("delete namespace default", "Forbidden")
    })
}
