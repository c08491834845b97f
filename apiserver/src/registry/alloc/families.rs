//! Which IP families a Service has.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde_json::{Value, json};

use crate::response::Cause;

pub(super) fn family_of(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// The cluster's families, the default one first.
pub(super) fn cluster_families(ranges: &[IpNetwork]) -> Vec<&'static str> {
    let mut families: Vec<&'static str> = Vec::new();
    for range in ranges {
        let family = family_of(range.ip());
        if !families.contains(&family) {
            families.push(family);
        }
    }
    families
}

/// Fills in `ipFamilies` and `ipFamilyPolicy`; the families in order.
pub(super) fn decide(
    spec: &mut Value,
    ranges: &[IpNetwork],
    given: &[IpAddr],
) -> Result<Vec<String>, Vec<Cause>> {
    let cluster = cluster_families(ranges);
    let selector_less_headless = spec["clusterIP"] == "None"
        && spec["selector"]
            .as_object()
            .is_none_or(serde_json::Map::is_empty);
    let policy = spec["ipFamilyPolicy"].as_str().unwrap_or(
        if selector_less_headless && spec.get("ipFamilies").is_none() {
            "RequireDualStack"
        } else {
            "SingleStack"
        },
    );
    let policy = policy.to_owned();
    let mut families: Vec<String> = spec["ipFamilies"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|f| f.as_str().map(str::to_owned))
        .collect();
    let mut causes = Vec::new();
    if policy == "RequireDualStack" && cluster.len() < 2 && !selector_less_headless {
        causes.push(Cause::new(
            "FieldValueInvalid",
            "Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services",
            "spec.ipFamilyPolicy",
        ));
    }
    for (i, family) in families.iter().enumerate() {
        if !cluster.contains(&family.as_str()) && !selector_less_headless {
            causes.push(Cause::new(
                "FieldValueInvalid",
                format!(
                    "Invalid value: {}: not configured on this cluster",
                    Value::from(family.as_str())
                ),
                format!("spec.ipFamilies[{i}]"),
            ));
        }
    }
    if !causes.is_empty() {
        return Err(causes);
    }
    for address in given {
        let family = family_of(*address);
        if !families.iter().any(|f| f == family) {
            families.push(family.into());
        }
    }
    let default = cluster.first().copied().unwrap_or("IPv4");
    if families.is_empty() {
        families.push(default.into());
    }
    let wanted = match policy.as_str() {
        "RequireDualStack" => 2,
        "PreferDualStack" => cluster.len().min(2),
        _ => families.len().max(1),
    };
    if families.len() < wanted {
        let other = if families[0] == "IPv4" {
            "IPv6"
        } else {
            "IPv4"
        };
        families.push(other.into());
    }
    spec["ipFamilyPolicy"] = policy.into();
    spec["ipFamilies"] = json!(families);
    Ok(families)
}
