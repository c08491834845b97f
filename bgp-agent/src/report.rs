//! What the speaker tells people and programs: `fairlead bgp`, JSON, metrics.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::bfd::packet::State as BfdState;
use crate::config::Community;
use crate::session::State;
use crate::speaker::{Forwarding, PathView, PeerStatus, Speaker};
use crate::wire::{Attributes, Family, Segment};

/// The speaker as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub local_as: u32,
    pub router_id: String,
    pub cluster_id: String,
    pub neighbors: usize,
    pub established: usize,
    pub prefixes: usize,
    pub kernel_routes: usize,
    /// Routes of a previous life are kept until every peer has told everything.
    pub restarting: bool,
    pub graceful_shutdown: bool,
    pub uptime_seconds: u64,
    pub originated: Vec<String>,
    /// What of the configuration could not be used, and why.
    pub problems: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Neighbor {
    pub address: IpAddr,
    /// The object that configures it.
    pub name: String,
    pub asn: u32,
    pub internal: bool,
    pub dynamic: bool,
    pub reflector_client: bool,
    pub state: String,
    /// Since the session came up, or went down.
    pub seconds_in_state: Option<u64>,
    pub router_id: Option<String>,
    pub hold_time: Option<u16>,
    pub families: Vec<String>,
    pub capabilities: Vec<String>,
    /// `up`, `down`, ...; none without BFD.
    pub bfd: Option<String>,
    pub signed: bool,
    pub keeps_stale_routes: bool,
    pub received: usize,
    pub advertised: usize,
    pub messages_received: u64,
    pub messages_sent: u64,
    pub updates_received: u64,
    pub updates_sent: u64,
    pub malformed_attributes: u64,
    pub flaps: u64,
    pub last_end: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    pub prefix: String,
    /// What the kernel is told: `via` gateways, `blackhole`, or nothing.
    pub kernel: Option<String>,
    /// The best first.
    pub paths: Vec<PathReport>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PathReport {
    /// None for our own.
    pub peer: Option<IpAddr>,
    pub next_hop: IpAddr,
    pub best: bool,
    pub used: bool,
    pub reachable: bool,
    pub stale: bool,
    /// Of the best: what it is better by than the next. Of others: what the best is better by.
    pub why: Option<String>,
    pub as_path: String,
    pub origin: String,
    pub local_preference: Option<u32>,
    pub med: Option<u32>,
    pub communities: Vec<String>,
    pub originator: Option<String>,
    pub cluster_list: Vec<String>,
    pub path_id: u32,
}

/// What is not the speaker's own.
#[derive(Debug, Default)]
pub(crate) struct Surroundings {
    pub(crate) kernel_routes: usize,
    /// Times that the kernel was looked at since somebody changed something.
    pub(crate) repairs: u64,
    pub(crate) bfd: BTreeMap<IpAddr, BfdState>,
    pub(crate) problems: Vec<String>,
    pub(crate) started: Option<Instant>,
}

pub(crate) fn status(speaker: &Speaker, around: &Surroundings, now: Instant) -> Status {
    let config = speaker.config();
    let peers = speaker.status();
    let up = |peer: &&PeerStatus| peer.state == State::Established;
    Status {
        local_as: config.local_as,
        router_id: config.router_id.to_string(),
        cluster_id: std::net::Ipv4Addr::from(config.cluster_id).to_string(),
        neighbors: peers.len(),
        established: peers.iter().filter(up).count(),
        prefixes: speaker.rib().len(),
        kernel_routes: around.kernel_routes,
        restarting: speaker.is_restarting(),
        graceful_shutdown: config.graceful_shutdown,
        uptime_seconds: around
            .started
            .map_or(0, |at| now.saturating_duration_since(at).as_secs()),
        originated: config.originate.keys().map(ToString::to_string).collect(),
        problems: around.problems.clone(),
    }
}

pub(crate) fn neighbors(speaker: &Speaker, around: &Surroundings, now: Instant) -> Vec<Neighbor> {
    let each = speaker.status().into_iter();
    each.map(|peer| neighbor(peer, around, now)).collect()
}

fn neighbor(peer: PeerStatus, around: &Surroundings, now: Instant) -> Neighbor {
    let capabilities = capabilities(&peer);
    let families = peer
        .negotiated
        .iter()
        .flat_map(|own| &own.families)
        .map(|family| family_name(*family).to_owned())
        .collect();
    Neighbor {
        address: peer.address,
        asn: peer.config.asn,
        internal: peer.internal,
        dynamic: peer.dynamic,
        reflector_client: peer.config.client,
        state: format!("{:?}", peer.state),
        seconds_in_state: peer
            .changed_at
            .map(|at| now.saturating_duration_since(at).as_secs()),
        router_id: peer.router_id.map(|id| id.to_string()),
        hold_time: peer.negotiated.as_ref().map(|own| own.hold_time),
        families,
        capabilities,
        bfd: around
            .bfd
            .get(&peer.address)
            .map(|state| format!("{state:?}").to_ascii_lowercase()),
        signed: peer.config.password.is_some(),
        keeps_stale_routes: peer.keeps_stale,
        received: peer.received,
        advertised: peer.advertised,
        messages_received: peer.counters.messages_in,
        messages_sent: peer.counters.messages_out,
        updates_received: peer.counters.updates_in,
        updates_sent: peer.counters.updates_out,
        malformed_attributes: peer.counters.mended,
        flaps: peer.counters.flaps,
        last_end: peer.last_end.map(|reason| reason.to_string()),
        name: peer.config.name,
    }
}

fn family_name(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "ipv4",
        Family::Ipv6 => "ipv6",
    }
}

/// What both sides agreed on, in people's words.
fn capabilities(peer: &PeerStatus) -> Vec<String> {
    let Some(own) = &peer.negotiated else {
        return Vec::new();
    };
    let flags = [
        (own.context.four_octets, "4-octet-as"),
        (own.context.extended_messages, "extended-message"),
        (own.route_refresh, "route-refresh"),
        (own.enhanced_refresh, "enhanced-route-refresh"),
        (own.extended_next_hop, "extended-next-hop"),
        (own.restart.is_some(), "graceful-restart"),
        (own.knows_long_lived, "long-lived-graceful-restart"),
        (!own.context.add_path_send.is_empty(), "add-path-send"),
        (!own.context.add_path_receive.is_empty(), "add-path-receive"),
    ];
    let agreed = flags.iter().filter(|(agreed, _)| *agreed);
    agreed.map(|(_, name)| (*name).to_owned()).collect()
}

/// Which routes are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// This prefix, or all that contain this address.
    pub prefix: Option<IpNetwork>,
    /// Routes with a path of this peer.
    pub from: Option<IpAddr>,
    /// Routes that this peer was told of.
    pub to: Option<IpAddr>,
}

pub(crate) fn routes(speaker: &Speaker, selection: &Selection) -> Vec<Route> {
    let told: Option<std::collections::BTreeSet<IpNetwork>> = selection
        .to
        .map(|peer| speaker.advertised(peer).into_iter().collect());
    let is_asked = |prefix: &IpNetwork| {
        let by_prefix = selection.prefix.is_none_or(|asked| {
            let whole = if asked.is_ipv4() { 32 } else { 128 };
            asked == *prefix || (asked.prefix() == whole && prefix.contains(asked.ip()))
        });
        by_prefix && told.as_ref().is_none_or(|told| told.contains(prefix))
    };
    let each = speaker.rib().prefixes().filter(is_asked);
    let routes = each.map(|prefix| Route {
        prefix: prefix.to_string(),
        kernel: speaker.forwarding(&prefix).map(|own| kernel_text(&own)),
        paths: speaker.explain(&prefix).iter().map(path_report).collect(),
    });
    let has_path = |route: &Route| {
        let is_it = |path: &PathReport| path.peer == selection.from;
        selection.from.is_none() || route.paths.iter().any(is_it)
    };
    routes
        .filter(|route| !route.paths.is_empty() && has_path(route))
        .collect()
}

fn kernel_text(forwarding: &Forwarding) -> String {
    match forwarding {
        Forwarding::Blackhole => "blackhole".to_owned(),
        Forwarding::Via(gateways) => {
            let each: Vec<String> = gateways.iter().map(ToString::to_string).collect();
            format!("via {}", each.join(", "))
        }
    }
}

fn path_report(view: &PathView<'_>) -> PathReport {
    let path = view.path;
    let attributes = &path.attributes;
    PathReport {
        peer: view.peer,
        next_hop: path.next_hop.address,
        best: view.best,
        used: view.used,
        reachable: path.reachable,
        stale: path.stale,
        why: view.decided_by.map(|step| step.to_string()),
        as_path: as_path_text(attributes),
        origin: format!("{:?}", attributes.origin).to_ascii_lowercase(),
        local_preference: attributes.local_pref,
        med: attributes.med,
        communities: communities(attributes),
        originator: attributes.originator_id.map(|id| id.to_string()),
        cluster_list: attributes
            .cluster_list
            .iter()
            .map(|id| std::net::Ipv4Addr::from(*id).to_string())
            .collect(),
        path_id: path.path_id,
    }
}

fn as_path_text(attributes: &Attributes) -> String {
    let numbers = |segment: &Segment| -> String {
        let each: Vec<String> = segment.numbers().iter().map(ToString::to_string).collect();
        each.join(" ")
    };
    let segments = attributes.as_path.iter().map(|segment| match segment {
        Segment::Sequence(_) => numbers(segment),
        Segment::Set(_) => format!("{{{}}}", numbers(segment)),
        Segment::ConfederationSequence(_) | Segment::ConfederationSet(_) => {
            format!("({})", numbers(segment))
        }
    });
    segments.collect::<Vec<_>>().join(" ")
}

fn communities(attributes: &Attributes) -> Vec<String> {
    let standard = attributes
        .communities
        .iter()
        .copied()
        .map(Community::Standard);
    let large = attributes
        .large_communities
        .iter()
        .copied()
        .map(Community::Large);
    let both = standard.chain(large).map(|own| own.to_string());
    let extended = attributes
        .extended_communities
        .iter()
        .map(|own| format!("0x{:016x}", u64::from_be_bytes(*own)));
    both.chain(extended).collect()
}

/// Prometheus text format.
pub(crate) fn metrics(speaker: &Speaker, around: &Surroundings, now: Instant) -> String {
    let mut text = String::new();
    let status = status(speaker, around, now);
    let whole: [(&str, &str, usize); 5] = [
        (
            "fairlead_bgp_prefixes",
            "Prefixes that are known",
            status.prefixes,
        ),
        (
            "fairlead_bgp_kernel_routes",
            "Routes in the kernel",
            status.kernel_routes,
        ),
        (
            "fairlead_bgp_neighbors",
            "Configured peers",
            status.neighbors,
        ),
        (
            "fairlead_bgp_neighbors_established",
            "Peers whose session is up",
            status.established,
        ),
        (
            "fairlead_bgp_configuration_problems",
            "Parts of the configuration that cannot be used",
            status.problems.len(),
        ),
    ];
    for (name, help, value) in whole {
        text.push_str(&format!(
            "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n"
        ));
    }
    text.push_str(&format!(
        "# HELP fairlead_bgp_kernel_repairs_total Looks at the kernel after foreign changes\n\
         # TYPE fairlead_bgp_kernel_repairs_total counter\n\
         fairlead_bgp_kernel_repairs_total {}\n",
        around.repairs
    ));
    let neighbors = neighbors(speaker, around, now);
    type Value = fn(&Neighbor) -> u64;
    let each: [(&str, &str, &str, Value); 9] = [
        ("up", "gauge", "Whether the session is up", |own| {
            u64::from(own.state == "Established")
        }),
        (
            "prefixes_received",
            "gauge",
            "Paths that the peer told",
            |own| own.received as u64,
        ),
        (
            "prefixes_advertised",
            "gauge",
            "Paths that the peer was told",
            |own| own.advertised as u64,
        ),
        (
            "messages_received_total",
            "counter",
            "Messages from the peer",
            |own| own.messages_received,
        ),
        (
            "messages_sent_total",
            "counter",
            "Messages to the peer",
            |own| own.messages_sent,
        ),
        (
            "updates_received_total",
            "counter",
            "UPDATEs from the peer",
            |own| own.updates_received,
        ),
        (
            "updates_sent_total",
            "counter",
            "UPDATEs to the peer",
            |own| own.updates_sent,
        ),
        (
            "malformed_attributes_total",
            "counter",
            "Attributes that were discarded or withdrew a route",
            |own| own.malformed_attributes,
        ),
        (
            "flaps_total",
            "counter",
            "Times that the session went down",
            |own| own.flaps,
        ),
    ];
    for (name, kind, help, value) in each {
        let name = format!("fairlead_bgp_neighbor_{name}");
        text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        for own in &neighbors {
            text.push_str(&format!(
                "{name}{{neighbor=\"{}\",asn=\"{}\"}} {}\n",
                own.address,
                own.asn,
                value(own)
            ));
        }
    }
    text
}
