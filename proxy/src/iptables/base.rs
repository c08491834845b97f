//! What is there once, whatever the Services are: jumps from the kernel's chains, and chains
//! that are the same on every node.

use super::OFF_CLUSTER;
use super::names::{
    CANARY, EXTERNAL_SERVICES, FIREWALL, FORWARD, MARK_MASQ, NODEPORTS, POSTROUTING,
    PROXY_FIREWALL, SERVICES,
};
use super::rules::Table;
use crate::config::Config;
use crate::model::{Family, Protocol};

/// A rule in one of the kernel's own chains that leads to ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Jump {
    pub(crate) table: Table,
    pub(crate) from: &'static str,
    pub(crate) to: &'static str,
    pub(crate) rule: String,
}

/// The jumps, in the order in which they are to stand.
pub(crate) fn jumps(config: &Config, family: Family) -> Vec<Jump> {
    const NEW: &str = "-m conntrack --ctstate NEW ";
    let jump = |table, from, to, condition: &str, comment: &str| Jump {
        table,
        from,
        to,
        rule: format!("{condition}-m comment --comment \"{comment}\" -j {to}"),
    };
    use Table::{Filter, Nat};
    let mut all = Vec::new();
    for from in ["INPUT", "FORWARD", "OUTPUT"] {
        all.push(jump(
            Filter,
            from,
            PROXY_FIREWALL,
            NEW,
            "kubernetes load balancer firewall",
        ));
    }
    all.push(jump(
        Filter,
        "INPUT",
        NODEPORTS,
        "",
        "kubernetes health check service ports",
    ));
    // In OUTPUT too: the node itself is refused at once as well.
    for from in ["INPUT", "FORWARD", "OUTPUT"] {
        let comment = "kubernetes externally-visible service portals";
        all.push(jump(Filter, from, EXTERNAL_SERVICES, NEW, comment));
    }
    all.push(jump(
        Filter,
        "FORWARD",
        FORWARD,
        "",
        "kubernetes forwarding rules",
    ));
    for from in ["FORWARD", "OUTPUT"] {
        all.push(jump(
            Filter,
            from,
            SERVICES,
            NEW,
            "kubernetes service portals",
        ));
    }
    if family == Family::V4 && config.localhost_nodeports {
        for from in ["INPUT", "OUTPUT"] {
            all.push(jump(
                Filter,
                from,
                FIREWALL,
                "",
                "kubernetes localhost firewall",
            ));
        }
    }
    for from in ["OUTPUT", "PREROUTING"] {
        all.push(jump(Nat, from, SERVICES, "", "kubernetes service portals"));
    }
    all.push(jump(
        Nat,
        "POSTROUTING",
        POSTROUTING,
        "",
        "kubernetes postrouting rules",
    ));
    all
}

/// Chains of ours and what stands in them besides the Services' rules: those rules come first.
pub(crate) fn chains(config: &Config, family: Family) -> Vec<(Table, &'static str, Vec<String>)> {
    let mark = format!("{0:#010x}", config.mark());
    let comment = |text: &str| format!("-m comment --comment \"{text}\"");
    let mut filter_services = Vec::new();
    for range in family.networks(&config.service_cidrs) {
        let comment = comment("no Service has this address and port");
        let reset = super::reject(Protocol::Tcp);
        filter_services.push(format!("{comment} -p tcp -d {range} -j REJECT{reset}"));
        filter_services.push(format!("{comment} -d {range} -j REJECT"));
    }
    let mut forward = Vec::new();
    if !config.conntrack.tcp_be_liberal {
        forward.push("-m conntrack --ctstate INVALID -j DROP".to_owned());
    }
    forward.push(format!(
        "{} -m mark --mark {mark}/{mark} -j ACCEPT",
        comment("kubernetes forwarding rules")
    ));
    forward.push(format!(
        "{} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        comment("kubernetes forwarding conntrack rule")
    ));
    let mut chains = vec![
        (Table::Filter, CANARY, Vec::new()),
        (Table::Filter, PROXY_FIREWALL, Vec::new()),
        (Table::Filter, NODEPORTS, Vec::new()),
        (Table::Filter, EXTERNAL_SERVICES, Vec::new()),
        (Table::Filter, FORWARD, forward),
        (Table::Filter, SERVICES, filter_services),
    ];
    if family == Family::V4 && config.localhost_nodeports {
        // Answers to node ports on 127.0.0.1 need route_localnet, which must not let others in.
        let rule = "! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP";
        let comment = comment("block incoming localnet connections");
        chains.push((Table::Filter, FIREWALL, vec![format!("{comment} {rule}")]));
    }
    chains.push((Table::Nat, CANARY, Vec::new()));
    chains.push((
        Table::Nat,
        MARK_MASQ,
        vec![format!("-j MARK --or-mark {mark}")],
    ));
    let cidrs: Vec<_> = family.networks(&config.cluster_cidrs).collect();
    if cidrs.len() > 1 {
        let mut rules: Vec<String> = cidrs
            .iter()
            .map(|cidr| format!("-s {cidr} -j RETURN"))
            .collect();
        rules.push(format!("-j {MARK_MASQ}"));
        chains.push((Table::Nat, OFF_CLUSTER, rules));
    }
    chains.push((
        Table::Nat,
        POSTROUTING,
        vec![
            format!("-m mark ! --mark {mark}/{mark} -j RETURN"),
            // The mark is taken away, since the packet may come back through here.
            format!("-j MARK --xor-mark {mark}"),
            format!(
                "{} -j MASQUERADE --random-fully",
                comment("kubernetes service traffic requiring SNAT")
            ),
        ],
    ));
    chains.push((Table::Nat, NODEPORTS, Vec::new()));
    chains.push((Table::Nat, SERVICES, nodeport_dispatch(config, family)));
    chains
}

/// The last rules of `KUBE-SERVICES`: whatever is addressed to the node itself.
fn nodeport_dispatch(config: &Config, family: Family) -> Vec<String> {
    let comment = "-m comment --comment \"kubernetes service nodeports; NOTE: this must be the last rule in this chain\"";
    let local = "-m addrtype --dst-type LOCAL";
    let not_loopback = match family {
        Family::V4 if config.localhost_nodeports => "",
        Family::V4 => "! -d 127.0.0.0/8 ",
        Family::V6 => "! -d ::1/128 ",
    };
    let ranges: Vec<_> = family.networks(&config.nodeport_addresses).collect();
    if ranges.is_empty() {
        return vec![format!("{comment} {not_loopback}{local} -j {NODEPORTS}")];
    }
    ranges
        .iter()
        .map(|range| format!("{comment} {local} -d {range} -j {NODEPORTS}"))
        .collect()
}
