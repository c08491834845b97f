//! Flows of UDP that a changed host port leaves behind in conntrack.
//!
//! The kernel looks at the rules for the first packet of a flow only. UDP has no end of a
//! connection: a client that goes on sending from one port keeps its flow alive, and with it
//! the way that was right before the port got, or lost, its container.

use std::collections::BTreeSet;
use std::net::IpAddr;

use kernel::conntrack::Flow;
use kernel::nftables::protocol;

use crate::config::{PortMapping, PortProtocol};
use crate::dataplane::Dataplane;
use crate::rules::Wanted;

/// What has happened to the host ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapping {
    /// They lead to the container from now on.
    New,
    /// They led to it until now.
    Gone,
}

/// Whether the flow goes where its host port does not lead (any more). `own` are the host's
/// addresses: flows to others' ports of the same number pass the host and are none of ours.
pub fn is_stale(flow: &Flow, wanted: &Wanted, own: &BTreeSet<IpAddr>, change: Mapping) -> bool {
    let to = (flow.original.destination, flow.original.destination_port);
    let served = (flow.reply.source, flow.reply.source_port);
    let is_here = own.contains(&to.0) || to.0.is_loopback();
    let concerns = |mapping: &&PortMapping| {
        let any = |ip: &IpAddr| ip.is_unspecified() && ip.is_ipv4() == to.0.is_ipv4();
        mapping.protocol == PortProtocol::Udp
            && mapping.host_port == to.1
            && mapping.host_ip.is_none_or(|ip| any(&ip) || ip == to.0)
    };
    let leads = |mapping: &PortMapping| {
        served.1 == mapping.container_port && wanted.addresses.contains(&served.0)
    };
    let has_family = wanted
        .addresses
        .iter()
        .any(|a| a.is_ipv4() == to.0.is_ipv4());
    let mut concerned = wanted.ports.iter().filter(concerns);
    match change {
        Mapping::New => is_here && has_family && concerned.any(|mapping| !leads(mapping)),
        Mapping::Gone => concerned.any(leads),
    }
}

/// Takes stale flows out of conntrack. Without conntrack there are none; what fails otherwise is
/// told and fails no container: the flows end by themselves when their clients pause.
pub fn forget(dataplane: &mut Dataplane, wanted: &Wanted, change: Mapping) {
    if !wanted
        .ports
        .iter()
        .any(|mapping| mapping.protocol == PortProtocol::Udp)
    {
        return;
    }
    let done = dataplane.own_addresses().and_then(|own| {
        dataplane.forget_flows(protocol::UDP, |flow| is_stale(flow, wanted, &own, change))
    });
    if let Err(error) = done {
        eprintln!("fairlead-cni: old flows to the host ports may go on: {error}");
    }
}

#[cfg(test)]
mod tests {
    use kernel::conntrack::Tuple;

    use super::*;

    const HOST: &str = "192.0.2.1";

    /// A flow from a client to `to`, served by `by`.
    fn flow(to: (&str, u16), by: (&str, u16)) -> Flow {
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        let client = ip(if to.0.contains(':') {
            "2001:db8::9"
        } else {
            "192.0.2.9"
        });
        let tuple = |source, source_port, destination, destination_port| Tuple {
            source,
            destination,
            protocol: protocol::UDP,
            source_port,
            destination_port,
        };
        let original = tuple(client, 4000, ip(to.0), to.1);
        let reply = tuple(ip(by.0), by.1, client, 4000);
        Flow::new(original, reply, 0)
    }

    fn wanted(host_ip: Option<&str>, protocol: PortProtocol) -> Wanted {
        let mapping = PortMapping {
            protocol,
            host_port: 53,
            container_port: 5353,
            host_ip: host_ip.map(|text| text.parse().unwrap()),
        };
        Wanted {
            addresses: vec!["10.0.0.5".parse().unwrap()],
            ports: vec![mapping],
            ..Wanted::default()
        }
    }

    fn check(flow: &Flow, wanted: &Wanted, new: bool, gone: bool) {
        let own: BTreeSet<IpAddr> = [HOST, "192.0.2.2", "2001:db8::1"]
            .map(|text| text.parse().unwrap())
            .into();
        assert_eq!(
            is_stale(flow, wanted, &own, Mapping::New),
            new,
            "new: {flow:?}"
        );
        assert_eq!(
            is_stale(flow, wanted, &own, Mapping::Gone),
            gone,
            "gone: {flow:?}"
        );
    }

    #[test]
    fn flows_that_go_elsewhere_are_stale_for_a_new_port_and_ours_for_one_that_is_gone() {
        let any = wanted(None, PortProtocol::Udp);
        // Nobody served it, or the host itself.
        check(&flow((HOST, 53), (HOST, 53)), &any, true, false);
        // An earlier container did.
        check(&flow((HOST, 53), ("10.0.0.9", 5353)), &any, true, false);
        // The container does.
        check(&flow((HOST, 53), ("10.0.0.5", 5353)), &any, false, true);
        // Another port, another machine's port, the family that the container has not.
        check(&flow((HOST, 54), (HOST, 54)), &any, false, false);
        check(
            &flow(("198.51.100.1", 53), ("198.51.100.1", 53)),
            &any,
            false,
            false,
        );
        check(
            &flow(("2001:db8::1", 53), ("2001:db8::1", 53)),
            &any,
            false,
            false,
        );
        check(
            &flow(("127.0.0.1", 53), ("127.0.0.1", 53)),
            &any,
            true,
            false,
        );
    }

    #[test]
    fn a_port_of_one_address_leaves_the_others_flows() {
        let one = wanted(Some(HOST), PortProtocol::Udp);
        check(&flow((HOST, 53), (HOST, 53)), &one, true, false);
        check(
            &flow(("192.0.2.2", 53), ("192.0.2.2", 53)),
            &one,
            false,
            false,
        );
        let all = wanted(Some("0.0.0.0"), PortProtocol::Udp);
        check(
            &flow(("192.0.2.2", 53), ("192.0.2.2", 53)),
            &all,
            true,
            false,
        );
    }

    #[test]
    fn a_tcp_port_has_no_stale_flows() {
        let tcp = wanted(None, PortProtocol::Tcp);
        check(&flow((HOST, 53), (HOST, 53)), &tcp, false, false);
    }
}
