//! The addresses and ports of one Service.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use rand::Rng;
use serde_json::{Value, json};

use super::families::{decide, family_of};
use super::{Taken, ports};
use crate::registry::meta;
use crate::response::{ApiError, Cause};

/// The first addresses of a range are left to those who choose.
const CHOSEN_BY_HAND: u128 = 256;

fn service_type(spec: &Value) -> &str {
    spec["type"].as_str().unwrap_or("ClusterIP")
}

fn has_node_ports(spec: &Value) -> bool {
    service_type(spec) == "NodePort"
        || (service_type(spec) == "LoadBalancer" && spec["allocateLoadBalancerNodePorts"] != false)
}

fn needs_health_port(spec: &Value) -> bool {
    service_type(spec) == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local"
}

/// The cluster's addresses of a stored Service.
pub(super) fn addresses(service: &Value) -> Vec<IpAddr> {
    let list = service["spec"]["clusterIPs"].as_array();
    list.into_iter()
        .flatten()
        .filter_map(|a| a.as_str()?.parse().ok())
        .collect()
}

/// The node ports of a stored Service.
pub(super) fn node_ports(service: &Value) -> Vec<(u16, &'static str)> {
    let spec = &service["spec"];
    let mut all = Vec::new();
    for port in spec["ports"].as_array().into_iter().flatten() {
        if let Some(number) = number(&port["nodePort"]) {
            all.push((number, protocol(port)));
        }
    }
    if let Some(number) = number(&spec["healthCheckNodePort"]) {
        all.push((number, "TCP"));
    }
    all
}

fn number(value: &Value) -> Option<u16> {
    value
        .as_u64()
        .and_then(|n| u16::try_from(n).ok())
        .filter(|n| *n != 0)
}

fn protocol(port: &Value) -> &'static str {
    match port["protocol"].as_str() {
        Some("UDP") => "UDP",
        Some("SCTP") => "SCTP",
        _ => "TCP",
    }
}

/// What an update leaves out stays as it was, and what its new type does not have goes.
pub(super) fn carry_over(new: &mut Value, old: &Value) {
    let before = &old["spec"];
    if !new["spec"].is_object() {
        new["spec"] = json!({});
    }
    let spec = &mut new["spec"];
    let has_address = |s: &Value| service_type(s) != "ExternalName";
    if has_address(before) && has_address(spec) {
        let absent = spec["clusterIP"].as_str().unwrap_or_default().is_empty();
        let no_list = spec["clusterIPs"].as_array().is_none_or(Vec::is_empty);
        if absent && no_list {
            copy(spec, before, &["clusterIP", "clusterIPs"]);
        }
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            if spec.get(field).is_none_or(Value::is_null) {
                copy(spec, before, &[field]);
            }
        }
    }
    if has_node_ports(before) && has_node_ports(spec) {
        carry_ports(spec, before);
    }
    if needs_health_port(before)
        && needs_health_port(spec)
        && number(&spec["healthCheckNodePort"]).is_none()
    {
        copy(spec, before, &["healthCheckNodePort"]);
    }
    drop_other_types(spec, before);
}

fn copy(to: &mut Value, from: &Value, fields: &[&str]) {
    for field in fields {
        if let Some(value) = from.get(*field) {
            to[*field] = value.clone();
        }
    }
}

/// A port keeps its node port: the one with the same number and protocol, or the same name.
fn carry_ports(spec: &mut Value, before: &Value) {
    let old: Vec<Value> = before["ports"].as_array().cloned().unwrap_or_default();
    let ports = spec.get_mut("ports").and_then(Value::as_array_mut);
    let given: Vec<u16> = ports
        .as_ref()
        .map(|p| p.iter().filter_map(|p| number(&p["nodePort"])).collect())
        .unwrap_or_default();
    for port in ports.into_iter().flatten() {
        if number(&port["nodePort"]).is_some() {
            continue;
        }
        let same = old
            .iter()
            .find(|o| o["port"] == port["port"] && protocol(o) == protocol(port));
        if let Some(number) = same
            .and_then(|o| number(&o["nodePort"]))
            .filter(|n| !given.contains(n))
        {
            port["nodePort"] = number.into();
        }
    }
}

/// Fields that the old type had, the new one has not, and the client left as they were.
fn drop_other_types(spec: &mut Value, before: &Value) {
    let lost = |had: bool, has: bool| had && !has;
    let is = |s: &Value, t: &str| service_type(s) == t;
    let mut drop: Vec<&str> = Vec::new();
    if lost(!is(before, "ExternalName"), !is(spec, "ExternalName")) {
        drop.extend(["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"]);
    }
    if lost(needs_health_port(before), needs_health_port(spec)) {
        drop.push("healthCheckNodePort");
    }
    if lost(is(before, "LoadBalancer"), is(spec, "LoadBalancer")) {
        drop.extend(["allocateLoadBalancerNodePorts", "loadBalancerClass"]);
    }
    if lost(is(before, "ExternalName"), is(spec, "ExternalName")) {
        drop.push("externalName");
    }
    let external = |s: &Value| is(s, "NodePort") || is(s, "LoadBalancer");
    if lost(external(before), external(spec))
        && spec["externalIPs"].as_array().is_none_or(Vec::is_empty)
    {
        drop.push("externalTrafficPolicy");
    }
    let drops_ports = lost(has_node_ports(before), has_node_ports(spec))
        && node_ports(&json!({"spec": spec.clone()})) == node_ports(&json!({"spec": before}));
    if let Some(map) = spec.as_object_mut() {
        for field in drop {
            if map.get(field) == before.get(field) {
                map.remove(field);
            }
        }
    }
    if drops_ports {
        for port in spec
            .get_mut("ports")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            if let Some(port) = port.as_object_mut() {
                port.remove("nodePort");
            }
        }
    }
}

/// Fills in and checks. What the Service had before is free now.
pub(super) fn allocate(
    taken: &Taken,
    ranges: &[IpNetwork],
    service: &mut Value,
) -> Result<(), ApiError> {
    let name = meta::name(service).to_owned();
    let refused = |causes: Vec<Cause>| ApiError::invalid("", "Service", &name, causes);
    if service_type(&service["spec"]) == "ExternalName" {
        return Ok(());
    }
    let spec = &mut service["spec"];
    let own = spec["clusterIP"].as_str().unwrap_or_default().to_owned();
    if !own.is_empty() && spec["clusterIPs"].as_array().is_none_or(Vec::is_empty) {
        spec["clusterIPs"] = json!([own]);
    }
    // What makes no sense is refused in the validation that follows.
    if !schema::validate::has_sound_addresses(service) {
        return Ok(());
    }
    let spec = &mut service["spec"];
    allocate_addresses(taken, ranges, spec).map_err(refused)?;
    allocate_ports(taken, spec).map_err(|cause| refused(vec![cause]))
}

fn allocate_addresses(
    taken: &Taken,
    ranges: &[IpNetwork],
    spec: &mut Value,
) -> Result<(), Vec<Cause>> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let mut given: Vec<String> = spec["clusterIPs"]
        .as_array()
        .into_iter()
        .flatten()
        .map(text)
        .collect();
    if given.is_empty() {
        given.extend(Some(text(&spec["clusterIP"])).filter(|a| !a.is_empty()));
    }
    let headless = given.first().is_some_and(|a| a == "None");
    let parsed: Vec<IpAddr> = given.iter().filter_map(|a| a.parse().ok()).collect();
    if headless {
        spec["clusterIP"] = "None".into();
    }
    let families = decide(spec, ranges, &parsed)?;
    if headless {
        spec["clusterIPs"] = json!(["None"]);
        return Ok(());
    }
    let mut chosen: Vec<IpAddr> = Vec::new();
    for family in &families {
        let own = parsed.iter().find(|a| family_of(**a) == family);
        let address = match own {
            Some(address) => {
                check_address(taken, ranges, *address, &given).map_err(|cause| vec![cause])?
            }
            None => free_address(taken, ranges, family).ok_or_else(|| {
                vec![Cause::new(
                    "InternalError",
                    format!(
                        "Internal error: failed to allocate a serviceIP: range is full ({family})"
                    ),
                    "spec.clusterIPs",
                )]
            })?,
        };
        chosen.push(address);
    }
    let chosen: Vec<String> = chosen.iter().map(IpAddr::to_string).collect();
    spec["clusterIP"] = chosen.first().cloned().unwrap_or_default().into();
    spec["clusterIPs"] = json!(chosen);
    Ok(())
}

fn check_address(
    taken: &Taken,
    ranges: &[IpNetwork],
    address: IpAddr,
    given: &[String],
) -> Result<IpAddr, Cause> {
    let shown = Value::from(given.to_vec()).to_string();
    let inside = |r: &IpNetwork| r.contains(address) && r.network() != address;
    let why = if !ranges.iter().any(inside) {
        "the provided network does not match the current range".to_owned()
    } else if taken.addresses.contains_key(&address) {
        "provided IP is already allocated".to_owned()
    } else {
        return Ok(address);
    };
    Err(Cause::new(
        "FieldValueInvalid",
        format!("Invalid value: {shown}: failed to allocate IP {address}: {why}"),
        "spec.clusterIPs",
    ))
}

/// A free address, from the upper part of the range first.
fn free_address(taken: &Taken, ranges: &[IpNetwork], family: &str) -> Option<IpAddr> {
    let range = ranges.iter().find(|r| family_of(r.ip()) == family)?;
    let (base, size) = match range {
        IpNetwork::V4(net) => (u128::from(u32::from(net.network())), u128::from(net.size())),
        // Larger ranges are used up to this size.
        IpNetwork::V6(net) => (u128::from(net.network()), net.size().min(1 << 20)),
    };
    let reserved = (size / 16).clamp(16.min(size), CHOSEN_BY_HAND);
    // The first address is the network, the last of IPv4 its broadcast.
    let last = if range.is_ipv4() { size - 1 } else { size };
    let count = last.saturating_sub(reserved);
    let make = |offset: u128| -> IpAddr {
        match range {
            IpNetwork::V4(_) => IpAddr::V4(u32::try_from(base + offset).unwrap_or_default().into()),
            IpNetwork::V6(_) => IpAddr::V6((base + offset).into()),
        }
    };
    let start = if count == 0 {
        0
    } else {
        rand::rng().random_range(0..count)
    };
    let upper = (0..count).map(|i| reserved + (i + start) % count);
    let lower = 1..reserved.min(last);
    upper
        .chain(lower)
        .map(make)
        .find(|a| !taken.addresses.contains_key(a))
}

fn allocate_ports(taken: &Taken, spec: &mut Value) -> Result<(), Cause> {
    // A load balancer without node ports may still name some.
    if !has_node_ports(spec) && service_type(spec) != "LoadBalancer" {
        return Ok(());
    }
    let allocates = has_node_ports(spec);
    let mut own: Vec<(u16, &'static str)> = Vec::new();
    let list = spec.get_mut("ports").and_then(Value::as_array_mut);
    for (i, port) in list.into_iter().flatten().enumerate() {
        let protocol = protocol(port);
        if let Some(number) = number(&port["nodePort"]) {
            check_port(
                taken,
                number,
                protocol,
                &own,
                &format!("spec.ports[{i}].nodePort"),
            )?;
            own.push((number, protocol));
        }
    }
    let list = spec.get_mut("ports").and_then(Value::as_array_mut);
    for (i, port) in list.into_iter().flatten().enumerate() {
        if !allocates || number(&port["nodePort"]).is_some() {
            continue;
        }
        let protocol = protocol(port);
        let number = free_besides(taken, &own, protocol).ok_or_else(|| {
            let why = "Internal error: failed to allocate a nodePort: range is full";
            Cause::new("InternalError", why, format!("spec.ports[{i}].nodePort"))
        })?;
        port["nodePort"] = number.into();
        own.push((number, protocol));
    }
    if needs_health_port(spec) {
        match number(&spec["healthCheckNodePort"]) {
            Some(number) => check_port(taken, number, "TCP", &own, "spec.healthCheckNodePort")?,
            None => {
                if let Some(number) = free_besides(taken, &own, "TCP") {
                    spec["healthCheckNodePort"] = number.into();
                }
            }
        }
    }
    Ok(())
}

fn free_besides(taken: &Taken, own: &[(u16, &'static str)], protocol: &'static str) -> Option<u16> {
    // Few ports are the Service's own, so a few attempts find another.
    (0..64)
        .filter_map(|_| ports::free(taken, protocol))
        .find(|n| own.iter().all(|(o, _)| o != n))
}

fn check_port(
    taken: &Taken,
    number: u16,
    protocol: &'static str,
    own: &[(u16, &'static str)],
    field: &str,
) -> Result<(), Cause> {
    let why = if !ports::RANGE.contains(&number) {
        format!(
            "provided port is not in the valid range. The range of valid ports is {}-{}",
            ports::RANGE.start(),
            ports::RANGE.end()
        )
    } else if taken.ports.contains_key(&(number, protocol)) || own.contains(&(number, protocol)) {
        "provided port is already allocated".to_owned()
    } else {
        return Ok(());
    };
    Err(Cause::new(
        "FieldValueInvalid",
        format!("Invalid value: {number}: {why}"),
        field,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges() -> Vec<IpNetwork> {
        vec![
            "10.96.0.0/12".parse().unwrap(),
            "fd00:10:96::/112".parse().unwrap(),
        ]
    }

    fn allocated(spec: Value) -> Result<Value, ApiError> {
        let mut service = json!({"metadata": {"name": "s"}, "spec": spec});
        let mut taken = Taken::default();
        taken
            .addresses
            .insert("10.96.0.1".parse().unwrap(), "kubernetes".into());
        taken.ports.insert((31_000, "TCP"), "other".into());
        allocate(&taken, &ranges(), &mut service)?;
        Ok(service["spec"].clone())
    }

    #[test]
    fn a_service_gets_an_address_of_the_first_family() {
        let spec = allocated(json!({"ports": [{"port": 80}]})).unwrap();
        assert_eq!(spec["ipFamilies"], json!(["IPv4"]));
        assert_eq!(spec["ipFamilyPolicy"], "SingleStack");
        assert!(
            spec["clusterIP"]
                .as_str()
                .unwrap()
                .parse::<IpAddr>()
                .is_ok()
        );
    }

    #[test]
    fn dual_stack_gets_one_address_of_each() {
        let spec = allocated(json!({"ipFamilyPolicy": "PreferDualStack"})).unwrap();
        assert_eq!(spec["ipFamilies"], json!(["IPv4", "IPv6"]));
        assert_eq!(spec["clusterIPs"].as_array().map(Vec::len), Some(2));
    }

    #[test]
    fn headless_services_have_no_address() {
        let spec = allocated(json!({"clusterIP": "None", "selector": {"a": "b"}})).unwrap();
        assert_eq!(spec["clusterIPs"], json!(["None"]));
    }

    #[test]
    fn what_is_taken_is_refused() {
        let fault = allocated(json!({"clusterIP": "10.96.0.1"})).unwrap_err();
        assert!(
            fault
                .message()
                .ends_with("provided IP is already allocated"),
            "{fault}"
        );
        let fault =
            allocated(json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 31000}]}))
                .unwrap_err();
        assert!(
            fault.message().contains("spec.ports[0].nodePort"),
            "{fault}"
        );
        let fault = allocated(json!({"clusterIP": "1.2.3.4"})).unwrap_err();
        assert!(
            fault.message().contains("does not match the current range"),
            "{fault}"
        );
    }

    #[test]
    fn an_update_keeps_address_and_node_ports() {
        let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.96.1.1", "clusterIPs": ["10.96.1.1"],
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30123}]}});
        let mut new =
            json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}]}});
        carry_over(&mut new, &old);
        assert_eq!(new["spec"]["clusterIP"], "10.96.1.1");
        assert_eq!(new["spec"]["ports"][0]["nodePort"], 30123);
        let mut plain = json!({"spec": {"type": "ClusterIP", "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30123}]}});
        carry_over(&mut plain, &old);
        assert!(plain["spec"]["ports"][0].get("nodePort").is_none());
    }
}
