//! Who a node peers with.

use std::time::Duration;

use super::*;

use crate::bfd;
use crate::config::{DynamicPeers, HOLD_TIME, NextHopMode, Password, Peer, Verdict};
use crate::resources::{self, AddPath, Bfd, SourceAddress};
use crate::wire::open;

const REFLECTORS: usize = 3;
const DYNAMIC_PEERS: usize = 100;
/// What peers of the mesh are called.
const MESH: &str = "node-to-node-mesh";

/// The other nodes: all of them, or those that reflect.
pub(super) fn mesh(inputs: &Inputs, own: &Host, config: &mut Config, problems: &mut Problems) {
    let spec = &inputs.configuration;
    if spec.node_to_node_mesh_enabled == Some(false) {
        return;
    }
    let key = (Kind::Configuration, resources::DEFAULT.to_owned());
    let reflectors = match reflectors(inputs) {
        Ok(reflectors) => reflectors,
        Err(what) => {
            problems.insert(key.clone(), what);
            BTreeSet::new()
        }
    };
    let password = match password(inputs, spec.node_mesh_password.as_ref()) {
        Ok(password) => password,
        Err(what) => {
            // Without the key there would be sessions that nobody asked for.
            problems.insert(key, what);
            return;
        }
    };
    let reflects = |host: &Host| reflectors.contains(&host.name);
    for host in inputs.hosts.iter().filter(|host| host.name != own.name) {
        if !reflectors.is_empty() && !reflects(own) && !reflects(host) {
            continue;
        }
        let Some((address, peer)) = node_peer(inputs, own, host) else {
            continue;
        };
        let peer = Peer {
            client: reflects(own) && !reflects(host),
            password: password.clone(),
            bfd: spec.bfd.as_ref().map(bfd_settings),
            hold_time: spec.hold_time.unwrap_or(HOLD_TIME),
            ..peer
        };
        config.peers.insert(address, peer);
    }
}

/// A session between two nodes.
fn node_peer(inputs: &Inputs, own: &Host, host: &Host) -> Option<(IpAddr, Peer)> {
    let own_address = own.session_address()?;
    let address = host.session_address()?;
    if address.is_ipv4() != own_address.is_ipv4() {
        return None;
    }
    let peer = Peer {
        name: MESH.to_owned(),
        // One side of each pair connects; a collision is only a detour.
        passive: address < own_address,
        client: own.cluster_id.is_some() && host.cluster_id.is_none(),
        ..Peer::internal(inputs.as_of(host))
    };
    Some((address, peer))
}

/// The nodes that reflect routes; none for a full mesh.
fn reflectors(inputs: &Inputs) -> Result<BTreeSet<String>, String> {
    let Some(spec) = &inputs.configuration.route_reflectors else {
        return Ok(BTreeSet::new());
    };
    let usable = |host: &&Host| host.session_address().is_some();
    if let Some(text) = &spec.node_selector {
        let selector = Selector::parse(text).map_err(|error| error.to_string())?;
        let picked = inputs.hosts.iter().filter(usable);
        let picked = picked.filter(|host| selector.matches(&host.labels));
        return Ok(picked.map(|host| host.name.clone()).collect());
    }
    let count = inputs.hosts.len();
    let above = spec.automatic_above.map(|above| above as usize);
    if above.is_none_or(|above| count <= above) {
        return Ok(BTreeSet::new());
    }
    // The oldest: nodes that come change nothing, and of those that go most neither.
    let mut hosts: Vec<&Host> = inputs.hosts.iter().filter(usable).collect();
    hosts.sort_by_key(|host| (host.shutting_down, host.created, host.name.clone()));
    let wanted = spec.count.map_or(REFLECTORS, |count| count as usize);
    let chosen = hosts.into_iter().take(wanted);
    Ok(chosen.map(|host| host.name.clone()).collect())
}

/// The peers that BGPPeer objects name.
pub(super) fn explicit(inputs: &Inputs, own: &Host, config: &mut Config, problems: &mut Problems) {
    for (name, spec) in &inputs.peers {
        if let Err(what) = one(inputs, own, name, spec, config, problems) {
            problems.insert((Kind::Peer, name.clone()), what);
        }
    }
}

fn one(
    inputs: &Inputs,
    own: &Host,
    name: &str,
    spec: &BgpPeerSpec,
    config: &mut Config,
    problems: &mut Problems,
) -> Result<(), String> {
    let parse = |text: &str| Selector::parse(text).map_err(|error| error.to_string());
    let ours = match (&spec.node, &spec.node_selector) {
        (Some(node), _) => *node == own.name,
        (None, Some(text)) => parse(text)?.matches(&own.labels),
        (None, None) => true,
    };
    match (&spec.peer_ip, &spec.peer_selector) {
        (Some(_), Some(_)) => Err("give peerIP or peerSelector, not both".to_owned()),
        (None, None) => Err("give peerIP or peerSelector: who is the peer?".to_owned()),
        (Some(text), None) if ours => {
            let asn = spec.as_number.unwrap_or_else(|| inputs.cluster_as());
            let peer = settings(inputs, own, name, spec, Peer::internal(asn), problems)?;
            add(text, spec, peer, own, config)
        }
        (Some(_), None) => Ok(()),
        (None, Some(text)) => {
            let theirs = parse(text)?;
            let selects_us = |host: &Host| -> Result<bool, String> {
                // Both ends are configured by one object.
                let other_end = match (&spec.node, &spec.node_selector) {
                    (Some(node), _) => *node == host.name,
                    (None, Some(text)) => parse(text)?.matches(&host.labels),
                    (None, None) => true,
                };
                let forth = ours && theirs.matches(&host.labels);
                let back = other_end && theirs.matches(&own.labels);
                Ok(forth || back)
            };
            for host in inputs.hosts.iter().filter(|host| host.name != own.name) {
                if !selects_us(host)? {
                    continue;
                }
                if let Some((address, peer)) = node_peer(inputs, own, host) {
                    let peer = settings(inputs, own, name, spec, peer, problems)?;
                    config.peers.insert(address, peer);
                }
            }
            Ok(())
        }
    }
}

/// A peer with an address, or those of a range.
fn add(
    text: &str,
    spec: &BgpPeerSpec,
    peer: Peer,
    own: &Host,
    config: &mut Config,
) -> Result<(), String> {
    if text.contains('/') {
        let range = text
            .parse::<IpNetwork>()
            .map_err(|_| format!("peerIP: {text:?} is no range such as 192.0.2.0/24"))?;
        let most = spec
            .max_dynamic_peers
            .map_or(DYNAMIC_PEERS, |most| most as usize);
        let peer = Peer {
            source: None,
            ..peer
        };
        config.dynamic.insert(range, DynamicPeers { peer, most });
        return Ok(());
    }
    let (address, port) = address_and_port(text).ok_or_else(|| {
        format!("peerIP: {text:?} is no address such as 192.0.2.1 or [fd00::1]:1179")
    })?;
    if own.addresses.contains(&address) {
        // An object for many nodes may name one of them.
        return Ok(());
    }
    let of_family = |source: &IpAddr| source.is_ipv4() == address.is_ipv4();
    let source = match spec.source_address {
        Some(SourceAddress::UseNodeIp) => own.addresses.iter().copied().find(of_family),
        _ => None,
    };
    let peer = Peer {
        port,
        source,
        ..peer
    };
    config.peers.insert(address, peer);
    Ok(())
}

/// `192.0.2.1`, `192.0.2.1:1179`, `fd00::1`, `[fd00::1]:1179`.
fn address_and_port(text: &str) -> Option<(IpAddr, u16)> {
    let bare = || Some((text.parse::<IpAddr>().ok()?, crate::config::PORT));
    let with_port = || text.parse::<std::net::SocketAddr>().ok();
    bare().or_else(|| with_port().map(|both| (both.ip(), both.port())))
}

/// What the object says about a peer that `base` describes.
fn settings(
    inputs: &Inputs,
    own: &Host,
    name: &str,
    spec: &BgpPeerSpec,
    base: Peer,
    problems: &mut Problems,
) -> Result<Peer, String> {
    let local_as = spec.local_as_number.unwrap_or_else(|| inputs.as_of(own));
    let external = base.asn != local_as;
    let filters = policy::filters(inputs, &spec.filters, problems)?;
    let open = match spec.default_action {
        Some(resources::Action::Accept) => true,
        Some(resources::Action::Reject) => false,
        None => !external || !spec.filters.is_empty(),
    };
    if external && spec.filters.is_empty() && spec.default_action.is_none() {
        let what = "nothing passes to or from another AS without filters or \
                    `defaultAction: Accept` (RFC 8212)";
        problems.insert((Kind::Peer, name.to_owned()), what.to_owned());
    }
    let rest = if open {
        Verdict::Accept
    } else {
        Verdict::Reject
    };
    let next_hop = match (spec.next_hop_mode, spec.keep_original_next_hop) {
        (Some(resources::NextHopMode::Own), _) => NextHopMode::Own,
        (Some(resources::NextHopMode::Keep), _) | (_, true) => NextHopMode::Keep,
        _ => NextHopMode::Auto,
    };
    let hold = inputs.configuration.hold_time.unwrap_or(HOLD_TIME);
    Ok(Peer {
        name: name.to_owned(),
        local_as: spec.local_as_number,
        passive: base.passive || spec.passive,
        client: base.client || spec.reflector_client,
        hold_time: spec
            .keepalive_time
            .map_or(hold, |seconds| seconds.saturating_mul(3)),
        next_hop,
        import: policy::with_rest(filters.0, rest),
        export: policy::with_rest(filters.1, rest),
        max_prefixes: spec.max_prefixes.map(|most| most as usize),
        add_path: spec.add_path.map(|own| open::AddPath {
            receive: own != AddPath::Send,
            send: own != AddPath::Receive,
        }),
        password: password(inputs, spec.password.as_ref())?,
        ttl_security: spec.ttl_security,
        own_as_allowed: spec
            .num_allowed_local_as_numbers
            .map_or(0, |most| most as usize),
        bfd: spec.bfd.as_ref().map(bfd_settings),
        long_lived: spec.long_lived_stale_time.unwrap_or(0),
        ..base
    })
}

fn password(
    inputs: &Inputs,
    wanted: Option<&resources::Password>,
) -> Result<Option<Password>, String> {
    let Some(reference) = wanted.and_then(|own| own.secret_key_ref.as_ref()) else {
        return Ok(None);
    };
    let missing = || {
        format!(
            "there is no key {:?} in the Secret kube-system/{}, or the node may not read it",
            reference.key, reference.name
        )
    };
    let text = inputs.secrets.get(reference).ok_or_else(missing)?;
    let longest = kernel::sockopt::LONGEST_MD5_KEY;
    if text.is_empty() || text.len() > longest {
        return Err(format!(
            "the key {:?} of the Secret kube-system/{} has to have 1 to {longest} bytes",
            reference.key, reference.name
        ));
    }
    Ok(Some(Password::new(text)))
}

fn bfd_settings(spec: &Bfd) -> bfd::Settings {
    let or_default = |given: Option<u32>, default: Duration| {
        given.map_or(default, |ms| Duration::from_millis(ms.into()))
    };
    let default = bfd::Settings::default();
    bfd::Settings {
        transmit: or_default(spec.transmit_interval, default.transmit),
        receive: or_default(spec.receive_interval, default.receive),
        multiplier: spec.detect_multiplier.unwrap_or(default.multiplier).max(1),
    }
}
