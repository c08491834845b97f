//! The hosts file that the kubelet keeps for a pod.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::containers;
use super::dns::HostName;

/// Where the file is in a container.
pub const PATH: &str = "/etc/hosts";

/// Clients look for this line to see that the file is the kubelet's.
const HEADER: &str = "# Kubernetes-managed hosts file.\n";
const HEADER_HOST: &str = "# Kubernetes-managed hosts file (host network).\n";

const LOCAL: &str = "127.0.0.1\tlocalhost\n\
    ::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::0\tip6-localnet\n\
    fe00::0\tip6-mcastprefix\n\
    fe00::1\tip6-allnodes\n\
    fe00::2\tip6-allrouters\n";

/// Whether a container gets the kubelet's file: not when it mounts one of its own.
pub fn is_managed_for(container: &Container) -> bool {
    !container
        .volume_mounts
        .iter()
        .flatten()
        .any(|mount| mount.mount_path == PATH)
}

/// The file's text. `node_file` is the node's own, which pods in the node's network share.
pub fn render(pod: &Pod, pod_ips: &[IpAddr], name: &HostName, node_file: &str) -> String {
    let mut text = if containers::is_host_network(pod) {
        format!("{HEADER_HOST}{node_file}")
    } else {
        let mut text = format!("{HEADER}{LOCAL}");
        for ip in pod_ips {
            match &name.domain {
                Some(domain) => {
                    text.push_str(&format!("{ip}\t{0}.{domain}\t{0}\n", name.host));
                }
                None => text.push_str(&format!("{ip}\t{}\n", name.host)),
            }
        }
        text
    };
    let aliases: Vec<_> = containers::spec(pod)
        .host_aliases
        .iter()
        .flatten()
        .collect();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let names = alias
                .hostnames
                .iter()
                .flatten()
                .cloned()
                .collect::<Vec<_>>()
                .join("\t");
            text.push_str(&format!("{}\t{names}\n", alias.ip));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::pod;

    #[test]
    fn the_file_names_the_pod_and_its_aliases() {
        let pod = pod(json!({"spec": {"containers": [], "subdomain": "s",
            "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}}));
        let name = crate::pod::dns::host_name(&pod, "cluster.local");
        let text = render(&pod, &["10.0.0.1".parse().unwrap()], &name, "");
        assert!(text.starts_with(HEADER));
        assert!(
            text.contains("10.0.0.1\tp.s.ns.svc.cluster.local\tp\n"),
            "{text}"
        );
        assert!(text.ends_with("1.2.3.4\ta\tb\n"), "{text}");
    }

    #[test]
    fn pods_in_the_nodes_network_have_the_nodes_file() {
        let pod = pod(json!({"spec": {"containers": [], "hostNetwork": true}}));
        let name = crate::pod::dns::host_name(&pod, "cluster.local");
        assert_eq!(
            render(&pod, &[], &name, "1.1.1.1\tnode\n"),
            format!("{HEADER_HOST}1.1.1.1\tnode\n")
        );
    }
}
