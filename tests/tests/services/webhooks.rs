//! Webhooks and aggregated servers that are pods of the cluster, reached through their Services.

use anyhow::{Context, ensure};
use cluster_tests::site::{
    Answer, PATIENCE, Site, Space, idle_spec, name, pod, refused, server_spec,
};
use serde_json::{Value, json};

use crate::webhook_server::{Served, serve};

const API: &str = "/apis/admissionregistration.k8s.io/v1";
const VALIDATING: &str = "validatingwebhookconfigurations";
const MUTATING: &str = "mutatingwebhookconfigurations";
const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// The place of the webhooks and of what they are asked about.
struct Hooks<'a> {
    space: &'a Space<'a>,
    served: Served,
}

impl Hooks<'_> {
    fn site(&self) -> &Site {
        self.space.site
    }

    /// A webhook of a path, asked about the objects of this case alone.
    fn hook(&self, path: &str, operations: &[&str], group: &str, resource: &str) -> Value {
        json!({
            "name": format!("{}.k8s.io", path.trim_start_matches('/').replace('/', "-")),
            "rules": [{ "operations": operations, "apiGroups": [group], "apiVersions": ["*"],
                "resources": [resource] }],
            "clientConfig": {
                "service": { "namespace": self.space.name, "name": "webhook", "path": path,
                    "port": 443 },
                "caBundle": self.served.ca_bundle,
            },
            "sideEffects": "None",
            "admissionReviewVersions": ["v1", "v1beta1"],
            "namespaceSelector": { "matchLabels": { "webhooks": "yes" } },
            "failurePolicy": "Fail",
        })
    }

    /// Registers webhooks, lets `work` run when they are in force, and removes them.
    fn with(
        &self,
        kind: &str,
        hooks: &[Value],
        work: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let configuration = json!({"metadata": {"name": "svc-hooks", "labels": {"e2e": "svc"}},
            "webhooks": hooks});
        self.site()
            .create(&format!("{API}/{kind}"), &configuration)?;
        let result = work();
        self.site()
            .delete(&format!("{API}/{kind}?labelSelector=e2e%3Dsvc"))?;
        result
    }

    fn refused(&self, what: &str, object: &Value, part: &str) -> anyhow::Result<()> {
        denied(what, self.space.post(what, object)?, part)
    }
}

fn denied(what: &str, answer: Answer, part: &str) -> anyhow::Result<()> {
    let refusal = refused(what, answer)?;
    ensure!(refusal.message.contains(part), "{what}: {refusal:?}");
    Ok(())
}

fn map(name: &str, data: Value) -> Value {
    json!({ "metadata": { "name": name }, "data": data })
}

pub(crate) fn everything_about_webhooks(site: &Site) -> anyhow::Result<()> {
    let space = site.space_with("webhooks", json!({ "webhooks": "yes" }))?;
    let served = serve(&space, "webhook")?;
    let hooks = Hooks {
        space: &space,
        served,
    };
    validating(&hooks).context("validating")?;
    mutating(&hooks).context("mutating")?;
    timeouts(&hooks).context("timeouts")?;
    changed(&hooks).context("changed configurations")?;
    conditions(&hooks).context("match conditions")?;
    custom_resources(&hooks).context("custom resources")?;
    space.create("configmaps", &map("free", json!({"mutation-start": "yes"})))?;
    Ok(())
}

fn validating(hooks: &Hooks<'_>) -> anyhow::Result<()> {
    let space = hooks.space;
    let registered = [
        hooks.hook("/pods", &["CREATE"], "", "pods"),
        hooks.hook(
            "/configmaps",
            &["CREATE", "UPDATE", "DELETE"],
            "",
            "configmaps",
        ),
        hooks.hook("/pods/attach", &["CONNECT"], "", "pods/attach"),
    ];
    let bad = json!({ "webhook-e2e-test": "webhook-disallow" });
    hooks.with(VALIDATING, &registered, || {
        let mut labelled = pod("disallowed", idle_spec());
        labelled["metadata"]["labels"] = bad.clone();
        labelled["spec"]["containers"][0]["name"] = json!("webhook-disallow");
        hooks.refused("pods", &labelled, "the pod contains unwanted label")?;
        hooks.refused(
            "pods",
            &labelled,
            "the pod contains unwanted container name",
        )?;
        hooks.refused(
            "configmaps",
            &map("bad", bad.clone()),
            "unwanted key and value",
        )?;
        space.create("configmaps", &map("good", json!({ "a": "b" })))?;
        let place = space.path("configmaps/good");
        let mut changed = space.get("configmaps/good")?;
        changed["data"] = bad.clone();
        denied(
            "an update",
            hooks.site().ask("PUT", &place, &changed)?,
            "unwanted key",
        )?;
        let patched = space.merge("configmaps/good", &json!({ "data": bad }));
        ensure!(patched.is_err(), "a patch was accepted");
        let outside = format!("/api/v1/namespaces/default/{}", "configmaps");
        hooks
            .site()
            .create(&outside, &map("svc-outside", bad.clone()))?;
        hooks.site().delete(&format!("{outside}/svc-outside"))?;
        let name = "to-be-attached-pod";
        space.start(&pod(name, idle_spec()))?;
        let attach = space.path(&format!("pods/{name}/attach?stdout=true"));
        denied(
            "attach",
            hooks.site().ask("POST", &attach, &Value::Null)?,
            "is not allowed",
        )
    })?;
    // A webhook that nobody answers for closes what it is asked about.
    let mut nobody = hooks.hook("/configmaps", &["CREATE"], "", "configmaps");
    nobody["clientConfig"]["service"]["name"] = json!("nobody");
    hooks.with(VALIDATING, &[nobody], || {
        hooks.refused(
            "configmaps",
            &map("closed", json!({})),
            "failed calling webhook",
        )
    })?;
    // Webhooks do not judge about webhooks.
    let mut all = hooks.hook("/always-deny", &["*"], "admissionregistration.k8s.io", "*");
    all["namespaceSelector"] = json!({});
    hooks.with(VALIDATING, &[all], || {
        let dummy = json!({"metadata": {"name": "svc-dummy"}, "webhooks": []});
        for kind in [VALIDATING, MUTATING] {
            hooks.site().create(&format!("{API}/{kind}"), &dummy)?;
            hooks.site().delete(&format!("{API}/{kind}/svc-dummy"))?;
        }
        Ok(())
    })
}

fn mutating(hooks: &Hooks<'_>) -> anyhow::Result<()> {
    let space = hooks.space;
    let mut second = hooks.hook("/mutating-configmaps", &["CREATE"], "", "configmaps");
    second["name"] = json!("second.k8s.io");
    let registered = [
        hooks.hook("/mutating-configmaps", &["CREATE"], "", "configmaps"),
        second,
        hooks.hook("/mutating-pods", &["CREATE"], "", "pods"),
    ];
    hooks.with(MUTATING, &registered, || {
        let made = space.create(
            "configmaps",
            &map("staged", json!({"mutation-start": "yes"})),
        )?;
        let wanted = json!({"mutation-start": "yes", "mutation-stage-1": "yes",
            "mutation-stage-2": "yes"});
        ensure!(made["data"] == wanted, "{}", made["data"]);
        let made = space.create("pods", &pod("changed", server_spec()))?;
        let init = &made["spec"]["initContainers"][0];
        ensure!(
            init["name"] == "webhook-added-init-container",
            "{}",
            made["spec"]
        );
        ensure!(init["terminationMessagePolicy"] == "File", "{init}");
        space.delete("pods/changed")?;
        Ok(())
    })
}

fn timeouts(hooks: &Hooks<'_>) -> anyhow::Result<()> {
    let slow = |seconds: Value, policy: &str| {
        let mut hook = hooks.hook("/always-allow-delay-5s", &["CREATE"], "", "configmaps");
        if !seconds.is_null() {
            hook["timeoutSeconds"] = seconds;
        }
        hook["failurePolicy"] = json!(policy);
        hook
    };
    hooks.with(VALIDATING, &[slow(json!(1), "Fail")], || {
        hooks.refused(
            "configmaps",
            &map("slow", json!({})),
            "context deadline exceeded",
        )
    })?;
    hooks.with(VALIDATING, &[slow(json!(1), "Ignore")], || {
        hooks
            .space
            .create("configmaps", &map("slow-1", json!({})))
            .map(drop)
    })?;
    hooks.with(VALIDATING, &[slow(Value::Null, "Fail")], || {
        let place = format!("{API}/{VALIDATING}/svc-hooks");
        let found = hooks.site().get(&place)?;
        ensure!(found["webhooks"][0]["timeoutSeconds"] == 10, "{found}");
        hooks
            .space
            .create("configmaps", &map("slow-2", json!({})))
            .map(drop)
    })
}

fn changed(hooks: &Hooks<'_>) -> anyhow::Result<()> {
    let bad = map(
        "changing",
        json!({ "webhook-e2e-test": "webhook-disallow" }),
    );
    let registered = [hooks.hook("/configmaps", &["CREATE"], "", "configmaps")];
    hooks.with(VALIDATING, &registered, || {
        let place = format!("{API}/{VALIDATING}/svc-hooks");
        let operations = |list: Value| {
            let patch = json!([{"op": "replace", "path": "/webhooks/0/rules/0/operations",
                "value": list}]);
            hooks
                .site()
                .patch(&place, cluster_tests::site::Patch::Json, &patch)
        };
        hooks.refused("configmaps", &bad, "unwanted")?;
        hooks.site().change(&place, |found| {
            found["webhooks"][0]["rules"][0]["operations"] = json!(["UPDATE"]);
        })?;
        hooks.space.create("configmaps", &bad)?;
        hooks.space.delete("configmaps/changing")?;
        operations(json!(["CREATE"]))?;
        hooks.refused("configmaps", &bad, "unwanted")
    })?;
    hooks.space.create("configmaps", &bad)?;
    hooks.space.delete("configmaps/changing").map(drop)
}

fn conditions(hooks: &Hooks<'_>) -> anyhow::Result<()> {
    let mut hook = hooks.hook("/always-deny", &["CREATE"], "", "configmaps");
    hook["matchConditions"] = json!([{ "name": "but-some",
        "expression": "object.metadata.name != 'skip-me'" }]);
    for kind in [VALIDATING, MUTATING] {
        hooks.with(kind, std::slice::from_ref(&hook), || {
            hooks.refused(
                "configmaps",
                &map("not-me", json!({})),
                "denied the request",
            )?;
            hooks
                .space
                .create("configmaps", &map("skip-me", json!({})))?;
            hooks.space.delete("configmaps/skip-me")?;
            let place = format!("{API}/{kind}/svc-hooks");
            let changed = hooks.site().change(&place, |found| {
                found["webhooks"][0]["matchConditions"] = json!([
                    { "name": "other", "expression": "object.metadata.name == 'me'" }]);
            })?;
            ensure!(changed["webhooks"][0]["matchConditions"][0]["name"] == "other");
            hooks.space.create("configmaps", &map("now", json!({})))?;
            hooks.space.delete("configmaps/now")?;
            let mut broken = hooks.site().get(&place)?;
            broken["webhooks"][0]["matchConditions"][0]["expression"] = json!("... [] bad");
            denied(
                "bad CEL",
                hooks.site().ask("PUT", &place, &broken)?,
                "compilation failed",
            )
        })?;
    }
    Ok(())
}

fn definition(plural: &str, kind: &str, versions: Value) -> Value {
    json!({
        "metadata": { "name": format!("{plural}.svc.example.com") },
        "spec": { "group": "svc.example.com", "scope": "Namespaced", "versions": versions,
            "names": { "plural": plural, "singular": kind.to_lowercase(), "kind": kind,
                "listKind": format!("{kind}List") } },
    })
}

fn version(name: &str, storage: bool, properties: Value) -> Value {
    json!({ "name": name, "served": true, "storage": storage, "schema": { "openAPIV3Schema": {
        "type": "object", "properties": properties } } })
}

fn define(site: &Site, definition: &Value) -> anyhow::Result<String> {
    let name = name(definition);
    site.create(CRDS, definition)?;
    let place = format!("{CRDS}/{name}");
    site.until(&place, "established", |crd| {
        cluster_tests::site::condition(crd, "Established") == "True"
    })?;
    Ok(place)
}

fn custom_resources(hooks: &Hooks<'_>) -> anyhow::Result<()> {
    let site = hooks.site();
    let data =
        json!({ "data": { "type": "object", "additionalProperties": { "type": "string" } } });
    let some = json!({ "data": { "type": "object", "properties": {
        "mutation-start": { "type": "string" }, "mutation-stage-1": { "type": "string" } } } });
    let things = definition("things", "Thing", json!([version("v1", true, data)]));
    let pruned = definition("prunes", "Prune", json!([version("v1", true, some)]));
    let (things, pruned) = (define(site, &things)?, define(site, &pruned)?);
    let space = &hooks.space.name;
    let path = |plural: &str| format!("/apis/svc.example.com/v1/namespaces/{space}/{plural}");
    let object = |kind: &str, data: Value| {
        json!({"apiVersion": "svc.example.com/v1", "kind": kind, "metadata": {"name": "x"},
            "data": data})
    };
    let judged = [hooks.hook(
        "/custom-resource",
        &["CREATE", "UPDATE", "DELETE"],
        "svc.example.com",
        "things",
    )];
    hooks.with(VALIDATING, &judged, || {
        let bad = json!({ "webhook-e2e-test": "webhook-disallow" });
        let answer = site.ask("POST", &path("things"), &object("Thing", bad))?;
        denied("a custom resource", answer, "unwanted key and value")?;
        site.create(&path("things"), &object("Thing", json!({})))?;
        let change = json!({"data": {"webhook-e2e-test": "webhook-disallow"}});
        ensure!(
            site.merge(&format!("{}/x", path("things")), &change)
                .is_err()
        );
        site.delete(&format!("{}/x", path("things"))).map(drop)
    })?;
    let changed = [
        hooks.hook(
            "/mutating-custom-resource",
            &["CREATE"],
            "svc.example.com",
            "things",
        ),
        hooks.hook(
            "/mutating-configmaps",
            &["CREATE"],
            "svc.example.com",
            "prunes",
        ),
    ];
    let mut third = changed[1].clone();
    third["name"] = json!("third.k8s.io");
    hooks.with(
        MUTATING,
        &[changed[0].clone(), changed[1].clone(), third],
        || {
            let start = json!({ "mutation-start": "yes" });
            let made = site.create(&path("things"), &object("Thing", start.clone()))?;
            ensure!(made["data"]["mutation-stage-1"] == "yes", "{made}");
            // What the schema does not know is pruned also when a webhook added it.
            let made = site.create(&path("prunes"), &object("Prune", start))?;
            let wanted = json!({"mutation-start": "yes", "mutation-stage-1": "yes"});
            ensure!(made["data"] == wanted, "{made}");
            Ok(())
        },
    )?;
    let mut denies = hooks.hook(
        "/crd",
        &["CREATE"],
        "apiextensions.k8s.io",
        "customresourcedefinitions",
    );
    denies["namespaceSelector"] = json!({});
    hooks.with(VALIDATING, &[denies], || {
        let mut crd = definition("bads", "Bad", json!([version("v1", true, json!({}))]));
        crd["metadata"]["labels"] = json!({ "webhook-e2e-test": "webhook-disallow" });
        denied(
            "a CRD",
            site.ask("POST", CRDS, &crd)?,
            "the crd contains unwanted label",
        )
    })?;
    site.delete(&things)?;
    site.delete(&pruned).map(drop)
}

pub(crate) fn custom_resources_are_converted_by_a_webhook(site: &Site) -> anyhow::Result<()> {
    let space = site.space("conversion")?;
    let served = serve(&space, "convert")?;
    let text = json!({ "type": "string" });
    let mut v1 = version("v1", true, json!({ "hostPort": text }));
    v1["selectableFields"] = json!([{ "jsonPath": ".hostPort" }]);
    let mut v2 = version("v2", false, json!({ "host": text, "port": text }));
    v2["selectableFields"] = json!([{ "jsonPath": ".host" }]);
    let mut crd = definition("ports", "Port", json!([v1, v2]));
    crd["spec"]["conversion"] = json!({ "strategy": "Webhook", "webhook": {
        "clientConfig": { "caBundle": served.ca_bundle, "service": {
            "namespace": space.name, "name": "convert", "path": "/crdconvert", "port": 443 } },
        "conversionReviewVersions": ["v1", "v1beta1"] } });
    let place = define(site, &crd)?;
    let path =
        |version: &str| format!("/apis/svc.example.com/{version}/namespaces/conversion/ports");
    let first = json!({"apiVersion": "svc.example.com/v1", "kind": "Port",
        "metadata": {"name": "one"}, "hostPort": "localhost:8080"});
    site.create(&path("v1"), &first)?;
    let read = site.get(&format!("{}/one", path("v2")))?;
    ensure!(
        read["host"] == "localhost" && read["port"] == "8080",
        "{read}"
    );
    ensure!(
        read["hostPort"].is_null() && read["apiVersion"] == "svc.example.com/v2",
        "{read}"
    );
    // Objects that were stored in both versions are listed in either.
    site.change(&place, |crd| {
        crd["spec"]["versions"][0]["storage"] = json!(false);
        crd["spec"]["versions"][1]["storage"] = json!(true);
    })?;
    let second = json!({"apiVersion": "svc.example.com/v2", "kind": "Port",
        "metadata": {"name": "two"}, "host": "example.com", "port": "80"});
    site.create(&path("v2"), &second)?;
    for version in ["v1", "v2"] {
        let items = site.list(&path(version))?;
        let right = |item: &Value| match version {
            "v1" => item["host"].is_null() && item["hostPort"].is_string(),
            _ => item["hostPort"].is_null() && item["host"].is_string(),
        };
        ensure!(items.len() == 2 && items.iter().all(right), "{items:?}");
    }
    let chosen = site.list(&format!("{}?fieldSelector=host%3Dexample.com", path("v2")))?;
    ensure!(
        chosen.iter().map(name).collect::<Vec<_>>() == ["two"],
        "{chosen:?}"
    );
    let chosen = site.list(&format!(
        "{}?fieldSelector=hostPort%3Dlocalhost:8080",
        path("v1")
    ))?;
    ensure!(
        chosen.iter().map(name).collect::<Vec<_>>() == ["one"],
        "{chosen:?}"
    );
    let unknown = site.ask(
        "GET",
        &format!("{}?fieldSelector=port%3D80", path("v2")),
        &Value::Null,
    )?;
    ensure!(refused("an unknown field", unknown)?.code == 400);
    site.delete(&place).map(drop)
}

pub(crate) fn an_api_server_in_a_pod_is_aggregated(site: &Site) -> anyhow::Result<()> {
    let space = site.space("aggregation")?;
    let served = serve(&space, "sample-api")?;
    let services = "/apis/apiregistration.k8s.io/v1/apiservices";
    let object = json!({"metadata": {"name": "v1alpha1.wardle.example.com"}, "spec": {
        "service": {"namespace": space.name, "name": "sample-api", "port": 443},
        "group": "wardle.example.com", "version": "v1alpha1", "caBundle": served.ca_bundle,
        "groupPriorityMinimum": 2000, "versionPriority": 200}});
    site.create(services, &object)?;
    let place = format!("{services}/v1alpha1.wardle.example.com");
    site.until(&place, "available", |service| {
        cluster_tests::site::condition(service, "Available") == "True"
    })?;
    let path = "/apis/wardle.example.com/v1alpha1/namespaces/aggregation/flunders";
    let flunder = json!({"apiVersion": "wardle.example.com/v1alpha1", "kind": "Flunder",
        "metadata": {"name": "one", "labels": {"sample-label": "true"}}});
    let made = site.create(path, &flunder)?;
    ensure!(
        made["metadata"]["annotations"]["asked-by"].is_string(),
        "{made}"
    );
    ensure!(site.list(path)?.len() == 1);
    let groups = site.get("/apis")?;
    ensure!(
        groups.to_string().contains("wardle.example.com"),
        "not in /apis"
    );
    cluster_tests::cluster::wait_for("kubectl to know flunders", PATIENCE, || {
        let outcome = site
            .cluster
            .kubectl("get flunders -n aggregation -o name")?;
        Ok(outcome.stdout.contains("flunder.wardle.example.com/one"))
    })?;
    site.delete(&format!("{path}/one"))?;
    ensure!(site.list(path)?.is_empty());
    let status = format!("{place}/status");
    let own = json!({"type": "StatusUpdated", "status": "True", "reason": "E2E", "message": "m",
        "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let updated = site.change(&status, |service| {
        if let Some(conditions) = service["status"]["conditions"].as_array_mut() {
            conditions.push(own.clone());
        }
    })?;
    ensure!(
        cluster_tests::site::condition(&updated, "StatusUpdated") == "True",
        "{updated}"
    );
    site.merge(
        &place,
        &json!({"metadata": {"labels": {"apiservice": "patched"}}}),
    )?;
    site.delete(&format!("{services}?labelSelector=apiservice%3Dpatched"))?;
    site.until_gone(&place)?;
    cluster_tests::cluster::wait_for("the group to go", PATIENCE, || {
        Ok(!site
            .get("/apis")?
            .to_string()
            .contains("wardle.example.com"))
    })
}
