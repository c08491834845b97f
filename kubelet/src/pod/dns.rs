//! A pod's host name and its resolver configuration.

use std::net::IpAddr;

use cri::v1::DnsConfig;
use k8s_openapi::api::core::v1::{Pod, PodDNSConfig};

use super::containers;

/// As many as the resolver of glibc reads.
const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_LENGTH: usize = 2048;

/// The host name, and the domain that makes it fully qualified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostName {
    pub host: String,
    pub domain: Option<String>,
}

/// The pod's host name.
pub fn host_name(pod: &Pod, cluster_domain: &str) -> HostName {
    let spec = containers::spec(pod);
    if let Some(name) = spec.hostname_override.clone() {
        return HostName {
            host: name,
            domain: None,
        };
    }
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let host = match spec.hostname.as_deref().filter(|name| !name.is_empty()) {
        Some(host) => host.to_owned(),
        None => {
            let cut: String = name.chars().take(63).collect();
            cut.trim_end_matches(['-', '.']).to_owned()
        }
    };
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let subdomain = spec.subdomain.as_deref().filter(|name| !name.is_empty());
    let domain = subdomain.map(|sub| format!("{sub}.{namespace}.svc.{cluster_domain}"));
    HostName { host, domain }
}

impl HostName {
    /// The name that the pod's kernel gets.
    pub fn kernel_name(&self, pod: &Pod) -> String {
        match &self.domain {
            Some(domain) if containers::spec(pod).set_hostname_as_fqdn == Some(true) => {
                format!("{}.{domain}", self.host)
            }
            _ => self.host.clone(),
        }
    }
}

/// What resolv.conf says.
pub fn parse(resolv_conf: &str) -> DnsConfig {
    let mut config = DnsConfig::default();
    for line in resolv_conf.lines() {
        let line = line.trim();
        if line.starts_with(['#', ';']) {
            continue;
        }
        let mut words = line.split_whitespace();
        let keyword = words.next().unwrap_or_default();
        let words = words.map(str::to_owned);
        match keyword {
            "nameserver" => config.servers.extend(words.take(1)),
            // The last search or domain line counts.
            "search" => config.searches = words.filter(|domain| domain != ".").collect(),
            "domain" => config.searches = words.take(1).collect(),
            "options" => config.options = words.collect(),
            _ => {}
        }
    }
    config
}

/// The resolver configuration of a pod, from its policy.
pub fn config(pod: &Pod, host: &DnsConfig, servers: &[IpAddr], cluster_domain: &str) -> DnsConfig {
    let spec = containers::spec(pod);
    let cluster = match spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "None" => return finish(DnsConfig::default(), spec.dns_config.as_ref()),
        "Default" => false,
        "ClusterFirstWithHostNet" => true,
        _ => !containers::is_host_network(pod),
    };
    // Without a cluster's name server the node's are better than none.
    if !cluster || servers.is_empty() {
        return finish(host.clone(), spec.dns_config.as_ref());
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut searches = vec![
        format!("{namespace}.svc.{cluster_domain}"),
        format!("svc.{cluster_domain}"),
        cluster_domain.to_owned(),
    ];
    searches.extend(host.searches.iter().cloned());
    let config = DnsConfig {
        servers: servers.iter().map(ToString::to_string).collect(),
        searches,
        options: vec!["ndots:5".to_owned()],
    };
    finish(config, spec.dns_config.as_ref())
}

/// Adds what the pod asks for and cuts to what resolvers read.
fn finish(mut config: DnsConfig, own: Option<&PodDNSConfig>) -> DnsConfig {
    if let Some(own) = own {
        config
            .servers
            .extend(own.nameservers.iter().flatten().cloned());
        config
            .searches
            .extend(own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let name = option.name.as_deref().unwrap_or_default();
            let is_same = |other: &String| other.split(':').next() == Some(name);
            config.options.retain(|other| !is_same(other));
            config.options.push(
                match option.value.as_deref().filter(|value| !value.is_empty()) {
                    Some(value) => format!("{name}:{value}"),
                    None => name.to_owned(),
                },
            );
        }
    }
    dedup(&mut config.servers);
    dedup(&mut config.searches);
    config.servers.truncate(MAX_SERVERS);
    config.searches.truncate(MAX_SEARCHES);
    while config.searches.join(" ").len() > MAX_SEARCH_LENGTH {
        config.searches.pop();
    }
    config
}

fn dedup(list: &mut Vec<String>) {
    let mut seen = std::collections::BTreeSet::new();
    list.retain(|item| seen.insert(item.clone()));
}

/// The text of a resolv.conf.
pub fn render(config: &DnsConfig) -> String {
    let mut text = String::new();
    if !config.searches.is_empty() {
        text.push_str(&format!("search {}\n", config.searches.join(" ")));
    }
    for server in &config.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !config.options.is_empty() {
        text.push_str(&format!("options {}\n", config.options.join(" ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::pod;

    fn check(spec: Value, expected: &str) {
        let shown = spec.to_string();
        let pod = pod(json!({"spec": spec}));
        let host = parse("# x\nnameserver 1.1.1.1\nsearch example.org\noptions timeout:1\n");
        let servers: Vec<IpAddr> = vec!["10.96.0.10".parse().unwrap()];
        assert_eq!(
            render(&config(&pod, &host, &servers, "cluster.local")),
            expected,
            "{shown}"
        );
    }

    #[test]
    fn policies_choose_the_resolver() {
        let cluster = "search ns.svc.cluster.local svc.cluster.local cluster.local example.org\n\
                       nameserver 10.96.0.10\noptions ndots:5\n";
        let host = "search example.org\nnameserver 1.1.1.1\noptions timeout:1\n";
        check(json!({"containers": []}), cluster);
        check(json!({"containers": [], "hostNetwork": true}), host);
        check(
            json!({"containers": [], "hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}),
            cluster,
        );
        check(json!({"containers": [], "dnsPolicy": "Default"}), host);
        check(
            json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {
                "nameservers": ["9.9.9.9"], "searches": ["a.b"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}),
            "search a.b\nnameserver 9.9.9.9\noptions ndots:2 edns0\n",
        );
        check(
            json!({"containers": [], "dnsConfig": {"options": [{"name": "ndots", "value": "1"}]}}),
            "search ns.svc.cluster.local svc.cluster.local cluster.local example.org\n\
             nameserver 10.96.0.10\noptions ndots:1\n",
        );
    }

    #[test]
    fn host_names_come_from_the_pod() {
        let named = pod(
            json!({"spec": {"containers": [], "hostname": "h", "subdomain": "s", "setHostnameAsFQDN": true}}),
        );
        let name = host_name(&named, "cluster.local");
        assert_eq!(name.domain.as_deref(), Some("s.ns.svc.cluster.local"));
        assert_eq!(name.kernel_name(&named), "h.s.ns.svc.cluster.local");
        let long = format!("{}-x", "a".repeat(62));
        let long = pod(json!({"metadata": {"name": long}, "spec": {"containers": []}}));
        assert_eq!(host_name(&long, "c").host, "a".repeat(62));
    }
}
