//! Services, their endpoints, and policies: addresses, mostly.

use serde_json::Value;

use super::{cidr, ip, items};

fn texts<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = (usize, &'a str)> + use<'a> {
    items(value, name).filter_map(|(i, v)| Some((i, v.as_str()?)))
}

pub(super) fn service(object: &Value, out: &mut Vec<String>) {
    let spec = &object["spec"];
    let text = |field: &str| spec[field].as_str().unwrap_or_default();
    if !object["metadata"]["annotations"]["service.kubernetes.io/topology-aware-hints"].is_null() {
        let text = "annotation service.kubernetes.io/topology-aware-hints is deprecated, please use service.kubernetes.io/topology-mode instead";
        out.push(text.into());
    }
    if !matches!(text("clusterIP"), "" | "None") {
        for (i, own) in texts(spec, "clusterIPs") {
            ip(&format!("spec.clusterIPs[{i}]"), own, out);
        }
    }
    let is_external = text("type") == "ExternalName";
    let is_headless = text("type") == "ClusterIP" && text("clusterIP") == "None";
    let has_external_ips = texts(spec, "externalIPs").next().is_some();
    if is_headless {
        headless(spec, has_external_ips, out);
    }
    for (i, own) in texts(spec, "externalIPs") {
        ip(&format!("spec.externalIPs[{i}]"), own, out);
    }
    if has_external_ips && !is_headless && !is_external {
        let text =
            "spec.externalIPs is deprecated and may no longer be implemented in some clusters";
        out.push(text.into());
    }
    ip("spec.loadBalancerIP", text("loadBalancerIP"), out);
    for (i, own) in texts(spec, "loadBalancerSourceRanges") {
        cidr(&format!("spec.loadBalancerSourceRanges[{i}]"), own, out);
    }
    if is_external && has_external_ips {
        out.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".into());
    }
    if !is_external && !text("externalName").is_empty() {
        out.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".into());
    }
    if text("trafficDistribution") == "PreferClose" {
        let text =
            "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"";
        out.push(text.into());
    }
}

fn headless(spec: &Value, has_external_ips: bool, out: &mut Vec<String>) {
    let mut ignored =
        |field: &str| out.push(format!("spec.{field} is ignored for headless services"));
    if spec["loadBalancerIP"]
        .as_str()
        .is_some_and(|t| !t.is_empty())
    {
        ignored("loadBalancerIP");
    }
    if has_external_ips {
        ignored("externalIPs");
    }
    if spec["sessionAffinity"] != "None" {
        ignored("SessionAffinity");
    }
}

pub(super) fn endpoints(object: &Value, out: &mut Vec<String>) {
    for (i, subset) in items(object, "subsets") {
        for list in ["addresses", "notReadyAddresses"] {
            for (j, own) in items(subset, list) {
                let text = own["ip"].as_str().unwrap_or_default();
                ip(&format!("subsets[{i}].{list}[{j}].ip"), text, out);
            }
        }
    }
}

pub(super) fn slice(object: &Value, out: &mut Vec<String>) {
    if object["addressType"] == "FQDN" {
        out.push("addressType: FQDN endpoints are deprecated".into());
        return;
    }
    for (i, endpoint) in items(object, "endpoints") {
        for (j, own) in texts(endpoint, "addresses") {
            ip(&format!("endpoints[{i}].addresses[{j}]"), own, out);
        }
    }
}

pub(super) fn policy(object: &Value, out: &mut Vec<String>) {
    for (rules, peers) in [("ingress", "from"), ("egress", "to")] {
        for (i, rule) in items(&object["spec"], rules) {
            for (j, peer) in items(rule, peers) {
                let block = &peer["ipBlock"];
                let path = format!("spec.{rules}[{i}].{peers}[{j}].ipBlock");
                let own = block["cidr"].as_str().unwrap_or_default();
                cidr(&format!("{path}.cidr"), own, out);
                for (k, own) in texts(block, "except") {
                    cidr(&format!("{path}.except[{k}]"), own, out);
                }
            }
        }
    }
}
