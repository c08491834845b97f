//! Bad requests get the standard Status, and the server lives on.

use anyhow::ensure;
use cluster_tests::api::Api;
use serde_json::json;

use crate::Suite;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn api(suite: &Suite) -> anyhow::Result<Api> {
    Api::of(&suite.server.kubeconfig())
}

pub(crate) fn anonymous_requests_reach_only_what_tells_of_health(
    suite: &Suite,
) -> anyhow::Result<()> {
    let api = api(suite)?;
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        ensure!(api.anonymous(path)?.code == 200, "{path}");
    }
    for path in [
        "/api",
        "/api/v1/namespaces",
        "/apis/apps/v1/deployments",
        "/metrics",
    ] {
        let answer = api.anonymous(path)?;
        ensure!(answer.is_status(403, "Forbidden"), "{path}: {answer:?}");
    }
    Ok(())
}

pub(crate) fn metrics_count_requests_and_objects(suite: &Suite) -> anyhow::Result<()> {
    let api = api(suite)?;
    ensure!(api.get("/api/v1/namespaces")?.code == 200);
    let metrics = api.get("/metrics")?;
    ensure!(metrics.code == 200, "{metrics:?}");
    let text = metrics.body.as_str().unwrap_or_default();
    for series in [
        "apiserver_request_total{verb=\"LIST\",group=\"\",version=\"v1\",resource=\"namespaces\"",
        "apiserver_storage_objects{resource=\"namespaces\"}",
        "process_resident_memory_bytes",
    ] {
        ensure!(text.contains(series), "{series} is not in\n{text}");
    }
    Ok(())
}

pub(crate) fn malformed_bodies_are_refused_with_the_standard_status(
    suite: &Suite,
) -> anyhow::Result<()> {
    let api = api(suite)?;
    let cut = br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"cut"#;
    let answer = api.send("POST", MAPS, "application/json", cut)?;
    ensure!(answer.is_status(400, "BadRequest"), "cut off: {answer:?}");
    let invalid = b"{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"a\"},\"data\":{\"a\":\"\xff\xfe\"}}";
    let answer = api.send("POST", MAPS, "application/json", invalid)?;
    // As upstream's decoder: the replacement character stands for what is no text.
    ensure!(
        answer.code == 201 && answer.body["data"]["a"] == "\u{fffd}\u{fffd}",
        "invalid UTF-8: {answer:?}"
    );
    let large = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "large" },
        "data": { "a": "x".repeat(4 << 20) },
    });
    let answer = api.json("POST", MAPS, &large)?;
    ensure!(
        answer.code == 413,
        "too large: {} {}",
        answer.code,
        answer.reason()
    );
    let answer = api.send("POST", MAPS, "text/plain", b"hello")?;
    ensure!(
        answer.is_status(415, "UnsupportedMediaType"),
        "not JSON: {answer:?}"
    );
    ensure!(api.get("/readyz")?.code == 200);
    Ok(())
}

pub(crate) fn invalid_objects_are_refused_with_the_standard_status(
    suite: &Suite,
) -> anyhow::Result<()> {
    let api = api(suite)?;
    let map = |name: &str| json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name } });
    let mut unknown = map("unknown");
    unknown["dta"] = json!({ "a": "b" });
    let strict = format!("{MAPS}?fieldValidation=Strict");
    let answer = api.json("POST", &strict, &unknown)?;
    ensure!(
        answer.is_status(400, "BadRequest"),
        "unknown field: {answer:?}"
    );
    ensure!(
        answer.body["message"]
            .as_str()
            .is_some_and(|text| text.contains("dta")),
        "{answer:?}"
    );
    let mut wrong = map("wrong");
    wrong["data"] = json!({ "a": 1 });
    let answer = api.json("POST", MAPS, &wrong)?;
    ensure!(
        answer.is_status(400, "BadRequest"),
        "wrong type: {answer:?}"
    );
    let answer = api.json("POST", MAPS, &map("Not_A_Name"))?;
    ensure!(answer.is_status(422, "Invalid"), "name: {answer:?}");
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "lacking" },
        "spec": { "template": { "metadata": { "labels": { "a": "b" } },
                                "spec": { "containers": [{ "name": "c", "image": "i" }] } } },
    });
    let answer = api.json(
        "POST",
        "/apis/apps/v1/namespaces/default/deployments",
        &deployment,
    )?;
    ensure!(
        answer.is_status(422, "Invalid"),
        "missing selector: {answer:?}"
    );
    ensure!(
        answer.body["details"]["causes"]
            .to_string()
            .contains("spec.selector"),
        "{answer:?}"
    );
    let answer = api.get(&format!("{MAPS}/absent"))?;
    ensure!(answer.is_status(404, "NotFound"), "absent: {answer:?}");
    let answer = api.json("POST", MAPS, &map("twice"))?;
    ensure!(answer.code == 201, "{answer:?}");
    let answer = api.json("POST", MAPS, &map("twice"))?;
    ensure!(answer.is_status(409, "AlreadyExists"), "twice: {answer:?}");
    Ok(())
}

pub(crate) fn what_is_not_in_its_namespace_is_not_found(suite: &Suite) -> anyhow::Result<()> {
    let api = api(suite)?;
    for (method, path, code) in [
        ("GET", "/api/v1/pods/one", 404),
        ("DELETE", "/api/v1/pods/one", 404),
        ("POST", "/api/v1/pods", 405),
        ("DELETE", "/api/v1/pods", 405),
    ] {
        let answer = api.json(method, path, &json!({}))?;
        ensure!(answer.code == code, "{method} {path}: {answer:?}");
    }
    Ok(())
}

pub(crate) fn stale_writes_conflict(suite: &Suite) -> anyhow::Result<()> {
    let api = api(suite)?;
    let path = format!("{MAPS}/stale");
    let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "stale" } });
    let old = api.json("POST", MAPS, &map)?.body;
    let mut next = old.clone();
    next["data"] = json!({ "a": "1" });
    ensure!(api.json("PUT", &path, &next)?.code == 200);
    let answer = api.json("PUT", &path, &old)?;
    ensure!(answer.is_status(409, "Conflict"), "{answer:?}");
    Ok(())
}

pub(crate) fn a_watch_from_a_compacted_revision_is_gone(suite: &Suite) -> anyhow::Result<()> {
    let api = api(suite)?;
    let list = api.get(&format!("{MAPS}?limit=1"))?;
    ensure!(
        list.body["metadata"]["resourceVersion"].is_string(),
        "{list:?}"
    );
    // Revision 1 was before anything; it is kept for a while only if nothing was compacted.
    let answer = api.get(&format!(
        "{MAPS}?watch=1&resourceVersion=1&timeoutSeconds=1"
    ))?;
    let gone = answer.code == 410 || answer.body["object"]["code"] == 410;
    ensure!(gone || answer.code == 200, "{answer:?}");
    let future = api.get(&format!(
        "{MAPS}?resourceVersion=999999999&resourceVersionMatch=NotOlderThan"
    ))?;
    ensure!(future.code == 504, "{future:?}");
    Ok(())
}
