//! Everything that is not a resource: discovery, OpenAPI, version, health.

use http::HeaderMap;
use http::header::{ACCEPT, ETAG, HeaderValue, IF_NONE_MATCH};
use http::request::Parts;
use schema::discovery::{self, AggregatedVersion};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::aggregation;
use crate::registry::Registry;
use crate::request::{Query, RequestInfo};
use crate::response::{self, Accepted, ApiError, ApiResponse, Body, negotiate};

/// Answers a path outside of the resources.
pub(crate) fn answer(
    registry: &Registry,
    parts: &Parts,
    info: &RequestInfo,
    query: &Query,
) -> Result<ApiResponse, ApiError> {
    let headers = &parts.headers;
    let path = info.path.trim_end_matches('/');
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match segments.as_slice() {
        ["healthz" | "livez" | "readyz", ..] => Ok(response::text(200, "ok")),
        ["version"] => json(&version(), headers, query),
        ["api"] | ["apis"] => groups(registry, segments[0] == "api", headers, query),
        ["api", version] => resources(registry, "", version, headers, query),
        ["apis", group, version] => resources(registry, group, version, headers, query),
        ["apis", group] => {
            let local = discovery::group(&registry.catalog.table(), group);
            let entries = registry.aggregation.entries();
            match aggregation::group_document(local, &entries, group) {
                Some(document) => json(&document, headers, query),
                None => not_found(),
            }
        }
        ["openapi", "v2"] => crate::openapi::v2(registry, headers)?.map_or_else(not_found, Ok),
        ["openapi", "v3", rest @ ..] => {
            crate::openapi::v3(registry, &rest.join("/"), headers, query)?
                .map_or_else(not_found, Ok)
        }
        [""] => json(&json!({"paths": paths(registry)}), headers, query),
        _ => not_found(),
    }
}

fn not_found() -> Result<ApiResponse, ApiError> {
    Ok(response::text(404, "404 page not found\n"))
}

fn json(document: &Value, headers: &HeaderMap, query: &Query) -> Result<ApiResponse, ApiError> {
    let accepted = negotiate::accepted(headers, negotiate::BUILT_IN)?;
    let pretty = accepted.pretty || negotiate::wants_pretty(query, headers);
    Ok(response::value(
        200,
        document,
        Accepted { pretty, ..accepted },
    ))
}

fn resources(
    registry: &Registry,
    group: &str,
    version: &str,
    headers: &HeaderMap,
    query: &Query,
) -> Result<ApiResponse, ApiError> {
    match discovery::resource_list(&registry.catalog.table(), group, version) {
        Some(document) => json(&document, headers, query),
        None => not_found(),
    }
}

/// `/api` and `/apis`: legacy, or aggregated for those who ask for it first.
fn groups(
    registry: &Registry,
    core: bool,
    headers: &HeaderMap,
    query: &Query,
) -> Result<ApiResponse, ApiError> {
    let table = registry.catalog.table();
    let entries = registry.aggregation.entries();
    let Some(version) = wants_aggregated(headers) else {
        let document = if core {
            discovery::api_versions(&registry.server_address())
        } else {
            let mut document = discovery::group_list(&table);
            aggregation::add_groups(&mut document, &entries, |g| group_priority(registry, g));
            document
        };
        return json(&document, headers, query);
    };
    let mut document = discovery::aggregated(&table, core, version);
    if !core {
        aggregation::add_aggregated(&mut document, &entries, |g| group_priority(registry, g));
    }
    let bytes = serde_json::to_vec(&document).unwrap_or_default();
    let tag = format!("\"{}\"", hex::encode_upper(Sha256::digest(&bytes)));
    let known = headers
        .get(IF_NONE_MATCH)
        .is_some_and(|seen| seen.as_bytes() == tag.as_bytes());
    let mut answer = if known {
        response::with_type(304, version.content_type(), Body::empty())
    } else {
        response::with_type(200, version.content_type(), Body::from(bytes))
    };
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        answer.headers_mut().insert(ETAG, tag);
    }
    Ok(answer)
}

/// How important a group is, as its `APIService` objects say; their own group has none and comes
/// first.
fn group_priority(registry: &Registry, group: &str) -> i64 {
    if group == "apiregistration.k8s.io" {
        return i64::MAX;
    }
    let services = registry.list("apiregistration.k8s.io", "apiservices", "");
    let own = services.iter().map(|s| s.value());
    own.filter(|s| s["spec"]["group"] == group)
        .filter_map(|s| s["spec"]["groupPriorityMinimum"].as_i64())
        .max()
        .unwrap_or(0)
}

/// The aggregated version that the client prefers to the legacy documents.
fn wants_aggregated(headers: &HeaderMap) -> Option<AggregatedVersion> {
    let accept = headers.get(ACCEPT)?.to_str().ok()?;
    for clause in accept.split(',') {
        let mut parts = clause.split(';').map(str::trim);
        if !matches!(parts.next(), Some("application/json" | "*/*")) {
            continue;
        }
        let parameters: Vec<&str> = parts.collect();
        if parameters.contains(&"as=APIGroupDiscoveryList")
            && parameters.contains(&"g=apidiscovery.k8s.io")
        {
            if parameters.contains(&"v=v2") {
                return Some(AggregatedVersion::V2);
            }
            if parameters.contains(&"v=v2beta1") {
                return Some(AggregatedVersion::V2Beta1);
            }
        } else if parameters.is_empty() {
            return None;
        }
    }
    None
}

/// `/version`
fn version() -> Value {
    json!({
        "major": "1",
        "minor": "36",
        "emulationMajor": "1",
        "emulationMinor": "36",
        "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "35",
        "gitVersion": concat!("v1.36.2+fairlead.", env!("CARGO_PKG_VERSION")),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none",
        "compiler": "rustc",
        "platform": concat!("linux/", "amd64"),
    })
}

/// The root document: every path that begins something.
fn paths(registry: &Registry) -> Vec<String> {
    let mut paths = vec![
        "/api".to_owned(),
        "/api/v1".into(),
        "/apis".into(),
        "/apis/".into(),
    ];
    for (group, version) in registry.catalog.group_versions() {
        if !group.is_empty() {
            paths.push(format!("/apis/{group}"));
            paths.push(format!("/apis/{group}/{version}"));
        }
    }
    paths.extend(
        [
            "/healthz",
            "/livez",
            "/metrics",
            "/openapi/v2",
            "/openapi/v3",
            "/readyz",
            "/version",
        ]
        .map(str::to_owned),
    );
    paths.dedup();
    paths
}
