//! `get` in all its forms, `describe`, `explain`, `auth`, `proxy`, and what the API says of itself.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use cluster_tests::clients::Kubectl;
use cluster_tests::cluster::{SOON, wait_for};
use cluster_tests::command::{command, outcome};
use cluster_tests::objects::{kind_of, objects};
use serde_json::{Value, json};

use crate::Suite;

/// The samples, without the one that announces a server that is not there: it would make
/// discovery fail in part for everybody.
fn samples(namespace: &str) -> anyhow::Result<Vec<Value>> {
    let mut all = objects(namespace)?;
    all.retain(|o| o["kind"] != "APIService" && o["kind"] != "CustomResourceDefinition");
    Ok(all)
}

pub(crate) fn every_kind_is_made_shown_described_and_deleted(suite: &Suite) -> anyhow::Result<()> {
    suite.with_newest("kinds", |kubectl| {
        let all = samples(&kubectl.namespace)?;
        let text = json!({"apiVersion": "v1", "kind": "List", "items": all}).to_string();
        let applied = kubectl.feed("apply", &text)?;
        ensure!(applied.lines().count() == all.len(), "{applied}");
        for object in &all {
            let (version, kind) = kind_of(object);
            let group = version.split_once('/').map_or("", |(group, _)| group);
            let version = version.rsplit('/').next().unwrap_or_default();
            let name = object["metadata"]["name"].as_str().context("a name")?;
            let what = format!("{kind}.{version}.{group} {name}");
            for form in ["wide", "yaml", "name", "custom-columns=A:.metadata.name,B:.spec"] {
                let shown = kubectl.ok(&format!("get {what} -o {form}"))?;
                ensure!(shown.contains(name), "{what} -o {form}: {shown}");
            }
            let listed = kubectl.ok(&format!("get {kind}.{version}.{group} -o name"))?;
            ensure!(listed.contains(name), "{what}: {listed}");
            // The old release describes these in versions that are served no longer.
            let gone = ["CronJob", "EndpointSlice", "PodDisruptionBudget"];
            if kubectl.new || !gone.contains(&kind.as_str()) {
                let described = kubectl.ok(&format!("describe {what}"))?;
                ensure!(described.contains(name), "{what}: {described}");
            }
        }
        let again = kubectl.feed("apply", &text)?;
        let changed: Vec<&str> = again.lines().filter(|l| !l.ends_with("unchanged")).collect();
        // Controllers write into some of them between the two.
        ensure!(changed.iter().all(|l| l.ends_with("configured")), "{again}");
        kubectl.feed("delete --wait=false --ignore-not-found", &text)?;
        // What the StatefulSet claimed holds a volume, and is kept when it goes.
        kubectl.ok("delete pvc --all --wait=false")?;
        wait_for("the samples to be gone", SOON, || {
            let left = kubectl.ok("get namespace,node,pv,storageclass,clusterrole,csr sample --ignore-not-found -o name")?;
            Ok(left.is_empty())
        })
    })
}

pub(crate) fn lists_are_printed_as_asked(suite: &Suite) -> anyhow::Result<()> {
    suite.with_each("lists", |kubectl| {
        let maps: Vec<String> = (0..12)
            .map(|n| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: m{n:02}, labels: {{half: h{}}}}}\ndata: {{rank: \"{}\"}}", n % 2, 20 - n))
            .collect();
        kubectl.feed("create", &maps.join("\n---\n"))?;
        let chunked = kubectl.ok("get configmaps --chunk-size=5 -l half -o name")?;
        ensure!(chunked.lines().count() == 12, "{chunked}");
        let sorted = kubectl.ok("get configmaps -l half=h1 --sort-by=.data.rank -o jsonpath={.items[*].metadata.name}")?;
        ensure!(sorted.trim() == "m11 m09 m07 m05 m03 m01", "{sorted}");
        let columns = kubectl.ok("get configmap m03 -o custom-columns=NAME:.metadata.name,N:.data.rank,NONE:.x --no-headers")?;
        ensure!(columns.split_whitespace().collect::<Vec<_>>() == ["m03", "17", "<none>"], "{columns}");
        let template = kubectl.ok("get configmaps -l half=h0 -o go-template={{len(.items)}}");
        ensure!(template.is_err() || template.as_deref().is_ok_and(|t| t.contains('6')));
        let labelled = kubectl.ok("get configmaps -l half=h0 -L half --show-labels")?;
        ensure!(labelled.contains("HALF") && labelled.contains("half=h0"), "{labelled}");
        let fields = kubectl.ok("get configmaps --field-selector metadata.name=m05 -o name")?;
        ensure!(fields.trim() == "configmap/m05", "{fields}");
        kubectl.says("get configmaps -l half=none", "No resources found")?;
        let several = kubectl.ok("get configmap/m01 serviceaccount/default -o name")?;
        ensure!(several.lines().count() == 2, "{several}");
        kubectl.says("get all,events -A -o wide", "service/kubernetes")?;
        kubectl.ok("get --raw /api/v1/namespaces/default")?;
        watched(kubectl)?;
        kubectl.ok("run lone --image=sample:1")?;
        wait_for("an event", SOON, || {
            let events = kubectl.ok("get events --field-selector=involvedObject.name=lone")?;
            Ok(events.contains("FailedScheduling"))
        })?;
        if kubectl.new {
            kubectl.says("events --for=pod/lone", "FailedScheduling")?;
        }
        kubectl.says("describe pod lone", "FailedScheduling")?;
        Ok(())
    })
}

/// What `get --watch` prints while others write.
fn watched(kubectl: &Kubectl) -> anyhow::Result<()> {
    let mut watching = kubectl.command();
    watching.args([
        "get",
        "configmaps",
        "-l",
        "half=h1",
        "--watch-only",
        "--output-watch-events",
        "--no-headers",
    ]);
    let mut watching = watching
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let lines = BufReader::new(watching.stdout.take().context("no output")?).lines();
    let seen = thread::scope(|scope| {
        let reader = scope.spawn(move || lines.map_while(Result::ok).take(3).collect::<Vec<_>>());
        // The watch begins some time after its program: what is written before is not seen.
        for _ in 0..100 {
            if reader.is_finished() {
                break;
            }
            let _ = kubectl.run("label configmap m01 half=h0 --overwrite");
            let _ = kubectl.run("label configmap m01 half=h1 --overwrite");
            thread::sleep(Duration::from_millis(50));
        }
        reader.join()
    });
    watching.kill()?;
    watching.wait()?;
    let seen = seen.map_err(|_| anyhow::anyhow!("panic"))?;
    ensure!(seen.len() == 3, "{seen:?}");
    let kinds: Vec<&str> = seen
        .iter()
        .filter_map(|l| l.split_whitespace().next())
        .collect();
    ensure!(
        kinds == ["DELETED", "ADDED", "DELETED"] || kinds == ["ADDED", "DELETED", "ADDED"],
        "{seen:?}"
    );
    Ok(())
}

pub(crate) fn the_api_explains_itself(suite: &Suite) -> anyhow::Result<()> {
    suite.with_each("explains", |kubectl| {
        let resources = kubectl.ok("api-resources --verbs=list -o name")?;
        // The old release reads the whole document for each: some have to do.
        let step = if kubectl.new { 1 } else { 9 };
        for resource in resources.lines().step_by(step) {
            // The old release reads a group behind the name as a path of fields, the new one too
            // where the name alone is a kind as well.
            let plain = resource.split('.').next().unwrap_or_default();
            let short = !kubectl.new || plain == "events";
            let resource = if short { plain } else { resource };
            let said = kubectl.ok(&format!("explain {resource} --recursive"))?;
            ensure!(
                said.contains("FIELDS:") && said.contains("metadata"),
                "{resource}: {said}"
            );
        }
        let said =
            kubectl.ok("explain deployment.spec.template.spec.containers.resources.limits")?;
        ensure!(
            said.contains("Limits describes the maximum amount"),
            "{said}"
        );
        kubectl.says("explain widgets.spec.colour", "The colour of its case.")?;
        kubectl.fails("explain pods.nothing", "does not exist")?;
        kubectl.says("api-versions", "apps/v1")?;
        kubectl.says(
            "api-resources --namespaced=false --api-group=rbac.authorization.k8s.io -o wide",
            "clusterroles",
        )?;
        kubectl.says("api-resources", "widgets")?;
        kubectl.says("cluster-info", "https://127.0.0.1")?;
        let directory = tempfile::tempdir()?;
        kubectl.ok(&format!(
            "cluster-info dump --namespaces={} --output-directory={}",
            kubectl.namespace,
            directory.path().display()
        ))?;
        ensure!(directory.path().join("nodes.json").exists());
        let version: Value = serde_json::from_str(&kubectl.ok("version -o json")?)?;
        ensure!(version["serverVersion"]["major"] == "1", "{version}");
        Ok(())
    })
}

pub(crate) fn rights_are_asked_and_reconciled(suite: &Suite) -> anyhow::Result<()> {
    // Nobody whom another case gives rights.
    suite.with_each("rights", |kubectl| {
        kubectl.says("auth can-i create deployments.apps", "yes")?;
        let refused = kubectl.run("auth can-i get secrets --as=asker")?;
        ensure!(refused.stdout.trim() == "no" && refused.code == Some(1), "{refused:?}");
        let roles = "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: reads, namespace: HERE}\nrules: [{apiGroups: [\"\"], resources: [secrets], verbs: [get]}]\n---\napiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: reads, namespace: HERE}\nroleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reads}\nsubjects: [{kind: User, name: asker, apiGroup: rbac.authorization.k8s.io}]\n";
        let roles = roles.replace("HERE", &kubectl.namespace);
        let reconciled = kubectl.feed("auth reconcile", &roles)?;
        ensure!(reconciled.contains("reconciled"), "{reconciled}");
        wait_for("the right", SOON, || {
            Ok(kubectl.run("auth can-i get secrets --as=asker")?.stdout.trim() == "yes")
        })?;
        kubectl.says("auth can-i --list --as=asker", "secrets")?;
        kubectl.fails("get pods --as=asker", "cannot list resource \"pods\"")?;
        kubectl.fails("get secret none --as=asker", "NotFound")?;
        kubectl.ok("create rolebinding more --role=reads --user=other")?;
        kubectl.ok("set subject rolebinding more --group=people")?;
        let known = kubectl.run("auth can-i get secrets --as=nobody --as-group=people")?;
        ensure!(known.stdout.trim() == "yes", "{known:?}");
        if kubectl.new {
            kubectl.says("auth whoami", "system:masters")?;
            kubectl.says("auth whoami --as=asker --as-group=people", "people")?;
        }
        certificates(kubectl)
    })
}

fn certificates(kubectl: &Kubectl) -> anyhow::Result<()> {
    let all = objects(&kubectl.namespace)?;
    let sample = all
        .iter()
        .find(|o| o["kind"] == "CertificateSigningRequest");
    let mut request = sample.context("no request among the samples")?.clone();
    for (name, verb) in [("good", "approve"), ("bad", "deny")] {
        let name = format!("{}-{name}", kubectl.namespace);
        request["metadata"]["name"] = name.clone().into();
        kubectl.feed("create", &request.to_string())?;
        kubectl.says(&format!("get csr {name}"), "Pending")?;
        kubectl.ok(&format!("certificate {verb} {name}"))?;
        let condition = if verb == "approve" {
            "Approved"
        } else {
            "Denied"
        };
        kubectl.says(&format!("get csr {name}"), condition)?;
        kubectl.says(&format!("describe csr {name}"), condition)?;
        kubectl.ok(&format!("delete csr {name}"))?;
    }
    Ok(())
}

pub(crate) fn the_proxy_of_kubectl_serves_a_port_and_a_socket(suite: &Suite) -> anyhow::Result<()> {
    suite.with_each("proxy", |kubectl| {
        let mut proxy = kubectl.command();
        let mut proxy = proxy
            .args(["proxy", "--port=0"])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(proxy.stdout.take().context("no output")?).read_line(&mut line)?;
        let address = line
            .trim()
            .rsplit(' ')
            .next()
            .unwrap_or_default()
            .to_owned();
        let mut curl = command("curl");
        curl.args(["-sf", "--max-time", "20"])
            .arg(format!("http://{address}/api/"));
        let answer = outcome(&mut curl, None)?.success();
        proxy.kill()?;
        proxy.wait()?;
        ensure!(answer?.contains("APIVersions"), "{line}");

        let directory = tempfile::tempdir()?;
        let socket = directory.path().join("socket");
        let mut proxy = kubectl.command();
        let mut proxy = proxy
            .arg("proxy")
            .arg(format!("--unix-socket={}", socket.display()))
            .stdout(Stdio::null())
            .spawn()?;
        let answer = wait_for("the socket", SOON, || {
            let mut curl = command("curl");
            curl.args([
                "-sf",
                "--max-time",
                "20",
                "http://localhost/api/",
                "--unix-socket",
            ])
            .arg(&socket);
            Ok(outcome(&mut curl, None)?.success()?.contains("APIVersions"))
        });
        proxy.kill()?;
        proxy.wait()?;
        answer
    })
}
