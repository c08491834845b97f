//! The configuration that container runtimes read from `/etc/cni/net.d`.

use serde_json::{Value, json};

use super::NodeNetwork;

/// The name of the network: the plugin keeps its state under it.
pub const NETWORK: &str = "fairlead";

/// The configuration list as text. Runtimes of the time before 1.1.0 read `cniVersion`, later
/// ones choose from `cniVersions`.
pub fn conflist(network: &NodeNetwork) -> String {
    let ranges: Vec<Value> = network
        .own_ranges
        .iter()
        .map(|range| json!([{ "subnet": range.to_string() }]))
        .collect();
    let mut plugin = json!({
        "type": "fairlead-cni",
        "mtu": network.mtu,
        "ipam": { "type": NETWORK, "ranges": ranges },
        "capabilities": {
            "portMappings": true,
            "bandwidth": true,
            "ips": true,
            "mac": true,
            "dns": true,
            "aliases": true,
        },
    });
    if let Some(socket) = &network.policy_socket {
        plugin["policySocket"] = json!(socket);
    }
    if let Some(socket) = &network.pool_socket {
        plugin["poolSocket"] = json!(socket);
    }
    let list = json!({
        "cniVersion": "1.0.0",
        "cniVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"],
        "name": NETWORK,
        "plugins": [plugin],
    });
    format!("{list:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_names_the_ranges_and_the_agent() {
        let network = NodeNetwork {
            pod_networks: vec!["10.50.0.0/26".parse().unwrap()],
            own_ranges: vec![
                "10.244.1.0/24".parse().unwrap(),
                "fd00:1::/64".parse().unwrap(),
            ],
            pool_socket: Some("/run/fairlead/pools.sock".into()),
            mtu: 1450,
            masquerade: None,
            policy_socket: Some("/run/fairlead/policy.sock".into()),
            conflist: "/etc/cni/net.d/10-fairlead.conflist".into(),
            underlay: Vec::new(),
        };
        let list: Value = serde_json::from_str(&conflist(&network)).unwrap();
        let plugin = &list["plugins"][0];
        assert_eq!(plugin["ipam"]["ranges"][1][0]["subnet"], "fd00:1::/64");
        assert_eq!(plugin["ipam"]["ranges"].as_array().unwrap().len(), 2);
        assert_eq!(plugin["poolSocket"], "/run/fairlead/pools.sock");
        assert_eq!(plugin["policySocket"], "/run/fairlead/policy.sock");
        assert_eq!(list["cniVersion"], "1.0.0");
    }
}
