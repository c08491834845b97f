//! A cluster's pods and policies as plain data.

use std::net::{IpAddr, Ipv4Addr};

use clap::Args;
use policy::index::Index;
use policy::model::{
    Action, Attachment, Labels, Namespaces, ObjectName, Peer, Pod, PodSelector, Policy, Port,
    PortMatch, Protocol, Requirement, Rule, Selector,
};

#[derive(Args, Debug, Clone, Copy)]
pub(crate) struct Size {
    #[arg(long, default_value_t = 10_000)]
    pub(crate) pods: u32,
    /// How many of them are on this node
    #[arg(long, default_value_t = 250)]
    pub(crate) local: u32,
    #[arg(long, default_value_t = 1000)]
    pub(crate) namespaces: u32,
    #[arg(long, default_value_t = 5000)]
    pub(crate) policies: u32,
    /// How often a single change is measured
    #[arg(long, default_value_t = 200)]
    pub(crate) changes: u32,
}

pub(crate) fn labels(pairs: &[(&str, String)]) -> Labels {
    let own = pairs.iter();
    own.map(|(key, value)| ((*key).to_owned(), value.clone()))
        .collect()
}

pub(crate) fn equals(key: &str, value: String) -> Selector {
    Selector([Requirement::In(key.to_owned(), [value].into())].into())
}

pub(crate) fn address(number: u32) -> IpAddr {
    Ipv4Addr::from(0x0af4_0000 + number).into()
}

pub(crate) fn interface(number: u32) -> String {
    format!("fld{number}")
}

impl Size {
    /// Pods go round the namespaces: the first local ones are each in another namespace.
    pub(crate) fn name(&self, number: u32) -> ObjectName {
        let namespace = number % self.namespaces.max(1);
        (format!("ns{namespace}"), format!("pod{number}"))
    }

    pub(crate) fn pod(&self, number: u32) -> Pod {
        let pairs = [
            ("app", (number % 10).to_string()),
            ("team", (number % 7).to_string()),
        ];
        Pod {
            labels: labels(&pairs),
            addresses: [address(number)].into(),
            ..Pod::default()
        }
    }

    /// Policies go round the namespaces, too. Each isolates its pods and allows a team of other
    /// namespaces on a port of its own; one in each namespace allows TCP port 80 to everybody.
    pub(crate) fn policy(&self, number: u32) -> Policy {
        let namespaces = self.namespaces.max(1);
        let open = number < namespaces;
        let peers = Peer::Pods(PodSelector {
            namespaces: Namespaces::Selected(equals("zone", (number % 20).to_string())),
            pods: equals("team", (number % 7).to_string()),
        });
        let port = if open {
            80
        } else {
            1000 + (number % 5000) as u16
        };
        let rule = Rule {
            action: Action::Accept,
            peers: (!open).then(|| vec![peers]),
            ports: Some(vec![PortMatch {
                protocol: Protocol::Tcp,
                port: Port::Range(port, port),
            }]),
        };
        let name = (
            format!("ns{}", number % namespaces),
            format!("policy{number}"),
        );
        Policy {
            name,
            pods: Selector::default(),
            ingress: Some(vec![rule]),
            egress: None,
        }
    }

    pub(crate) fn index(&self) -> Index {
        let mut index = Index::default();
        for number in 0..self.namespaces.max(1) {
            let zone = labels(&[("zone", (number % 20).to_string())]);
            index.set_namespace(&format!("ns{number}"), zone);
        }
        for number in 0..self.pods {
            index.set_pod(self.name(number), self.pod(number));
        }
        for number in 0..self.local.min(self.pods) {
            let attachment = Attachment {
                pod: self.name(number),
                addresses: [address(number)].into(),
                ..Attachment::default()
            };
            index.set_attachment(interface(number), attachment);
        }
        for number in 0..self.policies {
            index.set_policy(self.policy(number));
        }
        index
    }
}
