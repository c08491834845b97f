//! The rules of one Service, by chain: a pure function of its picture.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use super::names::{
    EXTERNAL_SERVICES, MARK_MASQ, NODEPORTS, Names, PROXY_FIREWALL, SERVICES, socket_text,
};
use crate::config::Config;
use crate::model::{Backend, Family, ServicePicture, ServicePort, TrafficPolicy, Unserved};

/// A table of iptables that we write to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Table {
    Filter,
    Nat,
}

impl Table {
    pub(crate) const ALL: [Self; 2] = [Self::Filter, Self::Nat];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }
}

/// What a Service adds: chains of its own in the nat table, and rules in chains that all share.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rules {
    pub(crate) chains: BTreeMap<String, Vec<String>>,
    pub(crate) shared: BTreeMap<(Table, &'static str), Vec<String>>,
}

/// What the rules depend on besides the picture.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) family: Family,
    /// Where pods' addresses come from.
    pub(crate) cluster_cidrs: Vec<String>,
    pub(crate) masquerade_all: bool,
    /// With very many endpoints, comments cost more than they tell.
    pub(crate) comments: bool,
    /// How many chains are written at once; all where it is `None`. The nft variant needs
    /// time that grows with the square of the number of chains.
    pub(crate) section: Option<usize>,
}

impl Settings {
    pub(crate) fn new(config: &Config, family: Family) -> Self {
        let cidrs = family
            .networks(&config.cluster_cidrs)
            .map(|network| network.to_string());
        Self {
            family,
            cluster_cidrs: cidrs.collect(),
            masquerade_all: config.masquerade_all,
            comments: true,
            section: None,
        }
    }

    fn comment(&self, text: &dyn std::fmt::Display) -> String {
        match self.comments {
            true => format!("-m comment --comment \"{text}\" "),
            false => String::new(),
        }
    }
}

/// The rules of a Service's ports in this family.
pub(crate) fn rules(picture: &ServicePicture, settings: &Settings) -> Rules {
    let mut rules = Rules::default();
    for port in picture
        .ports
        .iter()
        .filter(|port| port.family() == settings.family)
    {
        Writer {
            port,
            settings,
            names: Names::of(&port.id, port.protocol),
            rules: &mut rules,
        }
        .write();
    }
    if let Some(health) = &picture.health
        && picture
            .ports
            .iter()
            .any(|port| port.family() == settings.family)
    {
        let comment = settings.comment(&"health check node port");
        let rule = format!("{comment}-m tcp -p tcp --dport {} -j ACCEPT", health.port);
        rules
            .shared
            .entry((Table::Filter, NODEPORTS))
            .or_default()
            .push(rule);
    }
    rules
}

struct Writer<'a> {
    port: &'a ServicePort,
    settings: &'a Settings,
    names: Names,
    rules: &'a mut Rules,
}

impl Writer<'_> {
    fn write(&mut self) {
        let port = self.port;
        self.internal();
        if port.external() {
            self.external();
        }
        let used = self.policies();
        for policy in used.iter().copied() {
            self.policy_chain(policy);
        }
        let mut backends: Vec<Backend> = used
            .iter()
            .flat_map(|policy| port.backends(*policy))
            .copied()
            .collect();
        backends.sort();
        backends.dedup();
        backends
            .iter()
            .for_each(|backend| self.endpoint_chain(backend));
    }

    /// The policies whose chains some traffic uses.
    fn policies(&self) -> Vec<TrafficPolicy> {
        let port = self.port;
        let local = [port.internal_policy, port.external_policy].contains(&TrafficPolicy::Local);
        // Traffic that begins in the cluster ignores the external policy, and uses all.
        let cluster = port.internal_policy == TrafficPolicy::Cluster || port.external();
        let wanted = [
            (TrafficPolicy::Cluster, cluster),
            (TrafficPolicy::Local, local),
        ];
        let used = wanted
            .into_iter()
            .filter(|(policy, on)| *on && !port.backends(*policy).is_empty());
        used.map(|(policy, _)| policy).collect()
    }

    fn shared(&mut self, table: Table, chain: &'static str, rule: String) {
        self.rules
            .shared
            .entry((table, chain))
            .or_default()
            .push(rule);
    }

    fn chain(&mut self, name: String, rules: Vec<String>) {
        self.rules.chains.insert(name, rules);
    }

    fn policy_name(&self, policy: TrafficPolicy) -> String {
        match policy {
            TrafficPolicy::Cluster => self.names.cluster(),
            TrafficPolicy::Local => self.names.local(),
        }
    }

    /// The match on an address and the Service's port.
    fn to(&self, address: IpAddr) -> String {
        let prefix = if address.is_ipv6() { 128 } else { 32 };
        let protocol = self.port.protocol.name();
        format!(
            "-m {protocol} -p {protocol} -d {address}/{prefix} --dport {}",
            self.port.port
        )
    }

    fn comment(&self, what: &str) -> String {
        self.settings
            .comment(&format_args!("{} {what}", self.port.id))
    }

    /// The cluster IP: straight to the back ends.
    fn internal(&mut self) {
        let port = self.port;
        let to = self.to(port.cluster_ip);
        match port.internal_unserved() {
            None => {
                let comment = self.comment("cluster IP");
                let target = self.policy_name(port.internal_policy);
                self.shared(Table::Nat, SERVICES, format!("{comment}{to} -j {target}"));
            }
            Some(unserved) => {
                let rule = self.unserved(unserved, &to);
                self.shared(Table::Filter, SERVICES, rule);
            }
        }
    }

    fn unserved(&self, unserved: Unserved, to: &str) -> String {
        match unserved {
            Unserved::Reject => {
                let with = super::reject(self.port.protocol);
                format!("{}{to} -j REJECT{with}", self.comment("has no endpoints"))
            }
            Unserved::Drop => format!("{}{to} -j DROP", self.comment("has no local endpoints")),
        }
    }

    /// The addresses and the node port that are reached from outside.
    fn external(&mut self) {
        let port = self.port;
        let (name, firewall) = (self.names.external(), self.names.firewall());
        // Without any endpoint there is nothing to enter, and all is rejected.
        let enters = !port.cluster.is_empty() || !port.local.is_empty();
        for address in &port.external_ips {
            let to = self.to(*address);
            self.entrance(&to, &name, "external IP", enters);
        }
        for address in &port.load_balancer_ips {
            let to = self.to(*address);
            let restricted = !port.source_ranges.is_empty();
            let target = if restricted { &firewall } else { &name };
            self.entrance(&to, target, "loadbalancer IP", enters);
            if restricted {
                let comment = self.comment(&format!("traffic not accepted by {firewall}"));
                self.shared(
                    Table::Filter,
                    PROXY_FIREWALL,
                    format!("{comment}{to} -j DROP"),
                );
            }
        }
        if let Some(number) = port.node_port {
            self.node_port(number, &name, enters);
        }
        if enters {
            self.entrance_chains(name, firewall);
        }
    }

    fn entrance(&mut self, to: &str, target: &str, what: &str, enters: bool) {
        if enters {
            let comment = self.comment(what);
            self.shared(Table::Nat, SERVICES, format!("{comment}{to} -j {target}"));
        }
        if let Some(unserved) = self.port.external_unserved() {
            let rule = self.unserved(unserved, to);
            self.shared(Table::Filter, EXTERNAL_SERVICES, rule);
        }
    }

    fn node_port(&mut self, number: u16, target: &str, enters: bool) {
        let protocol = self.port.protocol.name();
        let to = format!("-m {protocol} -p {protocol} --dport {number}");
        if enters {
            let comment = self.settings.comment(&self.port.id);
            self.shared(Table::Nat, NODEPORTS, format!("{comment}{to} -j {target}"));
        }
        if let Some(unserved) = self.port.external_unserved() {
            let rule = self.unserved(unserved, &format!("-m addrtype --dst-type LOCAL {to}"));
            self.shared(Table::Filter, EXTERNAL_SERVICES, rule);
        }
    }

    /// What happens to traffic that came in by an external front.
    fn entrance_chains(&mut self, name: String, firewall: String) {
        let port = self.port;
        let mut rules = Vec::new();
        let cluster = self.names.cluster();
        match port.external_policy {
            TrafficPolicy::Cluster => {
                let comment = self.masquerade_comment("masquerade traffic for", "");
                rules.push(format!("{comment}-j {MARK_MASQ}"));
                rules.push(format!("-j {cluster}"));
            }
            TrafficPolicy::Local => {
                // What begins in the cluster reaches all back ends, as by the cluster IP.
                if !port.cluster.is_empty() {
                    for cidr in &self.settings.cluster_cidrs {
                        let comment = self.masquerade_comment("pod traffic for", "");
                        rules.push(format!("{comment}-s {cidr} -j {cluster}"));
                    }
                    let local = "-m addrtype --src-type LOCAL";
                    let comment = self.masquerade_comment("masquerade LOCAL traffic for", "");
                    rules.push(format!("{comment}{local} -j {MARK_MASQ}"));
                    let comment = self.masquerade_comment("route LOCAL traffic for", "");
                    rules.push(format!("{comment}{local} -j {cluster}"));
                }
                if !port.local.is_empty() {
                    rules.push(format!("-j {}", self.names.local()));
                }
            }
        }
        if !port.load_balancer_ips.is_empty() && !port.source_ranges.is_empty() {
            let mut accepted: Vec<String> = port
                .source_ranges
                .iter()
                .map(|range| format!("{}-s {range} -j {name}", self.comment("loadbalancer IP")))
                .collect();
            let comment = self.settings.comment(&format_args!(
                "other traffic to {} will be dropped by {PROXY_FIREWALL}",
                port.id
            ));
            if !comment.is_empty() {
                accepted.push(comment.trim_end().to_owned());
            }
            self.chain(firewall, accepted);
        }
        self.chain(name, rules);
    }

    fn masquerade_comment(&self, before: &str, after: &str) -> String {
        let id = &self.port.id;
        self.settings
            .comment(&format_args!("{before} {id} external destinations{after}"))
    }

    /// The choice among the back ends of a policy.
    fn policy_chain(&mut self, policy: TrafficPolicy) {
        let port = self.port;
        let backends = port.backends(policy);
        let mut rules = Vec::with_capacity(backends.len() * 2 + 1);
        if policy == port.internal_policy {
            let comment = self.comment("cluster IP");
            let to = self.to(port.cluster_ip);
            if self.settings.masquerade_all {
                rules.push(format!("{comment}{to} -j {MARK_MASQ}"));
            } else {
                rules.extend(self.off_cluster(&comment, &to));
            }
        }
        let targets: Vec<(String, String)> = backends
            .iter()
            .map(|backend| {
                let comment =
                    self.settings
                        .comment(&format_args!("{} -> {}", port.id, socket_text(backend)));
                (comment, self.names.endpoint(backend))
            })
            .collect();
        if let Some(seconds) = port.affinity {
            for (comment, name) in &targets {
                rules.push(format!(
                    "{comment}-m recent --name {name} --rcheck --seconds {seconds} --reap -j {name}"
                ));
            }
        }
        for (index, (comment, name)) in targets.iter().enumerate() {
            let mut rule = comment.clone();
            let left = targets.len() - index;
            if left > 1 {
                let share = 1.0 / left as f64;
                // Writing to a string cannot fail.
                let _ = write!(
                    rule,
                    "-m statistic --mode random --probability {share:.10} "
                );
            }
            rules.push(format!("{rule}-j {name}"));
        }
        self.chain(self.policy_name(policy), rules);
    }

    /// Marks what does not come from a pod. With several ranges, a jump over the mark needs a
    /// match that one rule cannot have: then each range has its own return path.
    fn off_cluster(&self, comment: &str, to: &str) -> Option<String> {
        match self.settings.cluster_cidrs.as_slice() {
            [] => None,
            [cidr] => Some(format!("{comment}{to} ! -s {cidr} -j {MARK_MASQ}")),
            // The shared chain looks at all ranges.
            _ => Some(format!("{comment}{to} -j {}", super::OFF_CLUSTER)),
        }
    }

    fn endpoint_chain(&mut self, backend: &Backend) {
        let name = self.names.endpoint(backend);
        let comment = self.settings.comment(&self.port.id);
        let protocol = self.port.protocol.name();
        let recent = match self.port.affinity {
            Some(_) => format!("-m recent --name {name} --set "),
            None => String::new(),
        };
        let target = socket_text(backend);
        let rules = vec![
            // A pod that reaches itself must get the answer from the Service's address.
            format!("{comment}-s {} -j {MARK_MASQ}", backend.address),
            format!(
                "{comment}{recent}-m {protocol} -p {protocol} -j DNAT --to-destination {target}"
            ),
        ];
        self.chain(name, rules);
    }
}
