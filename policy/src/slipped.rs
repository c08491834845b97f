//! Which tracked connections the policies deny.

use kernel::conntrack::Flow;
use kernel::nflog::Headers;

use crate::index::{Desired, Index};
use crate::model::{Direction, Protocol};
use crate::render::Told;
use crate::verdict::{Decision, Packet, Verdict, judge};

/// What the policies say of a connection that they deny; nothing of one that they allow, or that a
/// node is an end of.
pub(crate) fn through(flow: &Flow, desired: &Desired, index: &Index) -> Option<(Headers, Told)> {
    let (source, destination) = (flow.original.source, flow.reply.source);
    let port = flow.reply.source_port;
    let numbers = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    let mut known = numbers.into_iter();
    let protocol = known.find(|own| own.number() == flow.original.protocol)?;
    if source == destination || index.is_node(&source) || index.is_node(&destination) {
        return None;
    }
    let packet = Packet {
        source,
        destination,
        protocol,
        port,
    };
    let ends = [
        (source, Direction::Egress),
        (destination, Direction::Ingress),
    ];
    let (direction, decision) = ends.into_iter().find_map(|(address, direction)| {
        let interface = desired.addresses.get(&address)?;
        match judge(desired, interface, direction, &packet) {
            Verdict {
                allowed: false,
                decision,
                ..
            } if decision != Decision::Unprotected => Some((direction, decision)),
            _ => None,
        }
    })?;
    let headers = Headers {
        source,
        destination,
        protocol: flow.original.protocol,
        ports: Some((flow.original.source_port, port)),
    };
    let told = Told {
        direction,
        accepted: true,
        decision,
    };
    Some((headers, told))
}

#[cfg(test)]
mod tests {
    use kernel::conntrack::{Tuple, status};

    use super::*;
    use crate::model::{Attachment, Node, Pod, Policy, Selector};

    fn flow(source: [u8; 4], destination: [u8; 4]) -> Flow {
        let original = Tuple {
            source: source.into(),
            destination: destination.into(),
            protocol: 6,
            source_port: 40_000,
            destination_port: 80,
        };
        let reply = Tuple {
            source: original.destination,
            destination: original.source,
            source_port: 80,
            destination_port: 40_000,
            ..original
        };
        Flow::new(original, reply, status::SEEN_REPLY)
    }

    #[test]
    fn only_what_policies_deny_slipped_through() {
        const POD: [u8; 4] = [10, 0, 0, 1];
        let mut index = Index::default();
        let name = ("ns".to_owned(), "a".to_owned());
        let addresses: std::collections::BTreeSet<_> = [POD.into()].into();
        let pod = Pod {
            addresses: addresses.clone(),
            ..Pod::default()
        };
        index.set_pod(name.clone(), pod);
        let attachment = Attachment {
            pod: name.clone(),
            addresses,
            ..Attachment::default()
        };
        index.set_attachment("fld1".into(), attachment);
        let node = Node {
            addresses: [[192, 0, 2, 1].into()].into(),
            ..Node::default()
        };
        index.set_node("node", node);
        index.set_policy(Policy {
            name: name.clone(),
            pods: Selector::default(),
            ingress: Some(vec![]),
            egress: None,
        });
        let desired = index.desired();
        let told = |flow| through(&flow, &desired, &index).map(|(_, told)| told);
        let other = [10, 0, 1, 1];
        let expected = Told {
            direction: Direction::Ingress,
            accepted: true,
            decision: Decision::NoneAllows([name.clone()].into()),
        };
        assert_eq!(told(flow(other, POD)), Some(expected));
        assert_eq!(told(flow(POD, other)), None, "egress is open");
        assert_eq!(told(flow([192, 0, 2, 1], POD)), None, "a probe");
        assert_eq!(
            told(flow(other, [10, 0, 1, 2])),
            None,
            "nobody of this node"
        );
    }
}
