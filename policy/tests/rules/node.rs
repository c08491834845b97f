//! A node that forwards, and its pods: network namespaces. Needs root.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use kernel::nftables::Connection;
use kernel::testing::TestNetns;
use policy::index::Index;
use policy::model::{Attachment, Labels, Pod, Protocol, Requirement, Selector};
use policy::plan::{self, Compiled, Log, Names};

/// A refused connection has to be dropped: nothing answers within this.
pub(crate) const PATIENCE: Duration = Duration::from_millis(300);

pub(crate) struct Node {
    pub(crate) host: TestNetns,
    pub(crate) pods: BTreeMap<String, (TestNetns, IpAddr)>,
    pub(crate) index: Index,
    pub(crate) names: Names,
    pub(crate) log: Log,
    committed: Option<Compiled>,
}

pub(crate) fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

pub(crate) fn equals(key: &str, value: &str) -> Selector {
    Selector([Requirement::In(key.into(), [value.to_owned()].into())].into())
}

impl Node {
    /// A node with a pod per name, labelled `app=NAME`, each with TCP ports 80 and 81.
    pub(crate) fn new(v6: bool, names: &[&str]) -> Self {
        let host = TestNetns::new("node");
        host.forward();
        host.sysctl("net/ipv6/conf/default/accept_dad", "0");
        let mut node = Self {
            host,
            pods: BTreeMap::new(),
            index: Index::default(),
            names: Names::default(),
            log: Log::NOTHING,
            committed: None,
        };
        node.index.set_namespace("ns", labels(&[]));
        for (number, name) in names.iter().enumerate() {
            node.add_pod(v6, name, number);
        }
        node
    }

    fn add_pod(&mut self, v6: bool, name: &str, number: usize) {
        let netns = TestNetns::new(name);
        let interface = format!("fld{number}");
        self.host.join(&interface, &netns, "eth0");
        // A link-local address that is still being checked answers no neighbour.
        netns.sysctl("net/ipv6/conf/default/accept_dad", "0");
        // Every packet to a closed port is to be answered.
        netns.sysctl("net/ipv4/icmp_ratelimit", "0");
        netns.sysctl("net/ipv6/icmp/ratelimit", "0");
        let base = if v6 {
            format!("fd00:{number}::")
        } else {
            format!("10.9.{number}.")
        };
        let bits = if v6 { 64 } else { 24 };
        self.host
            .add_address(&interface, &format!("{base}1/{bits}"));
        netns.add_address("eth0", &format!("{base}2/{bits}"));
        let family = if v6 { "-6" } else { "-4" };
        let gateway = format!("{base}1");
        let added = netns.command("ip", &[family, "route", "add", "default", "via", &gateway]);
        assert!(added.status.success(), "{added:?}");
        let address: IpAddr = format!("{base}2").parse().unwrap();
        let pod_name = ("ns".to_owned(), name.to_owned());
        let pod = Pod {
            labels: labels(&[("app", name)]),
            addresses: [address].into(),
            named_ports: [("http".to_owned(), Protocol::Tcp, 80)].into(),
            ..Pod::default()
        };
        self.index.set_pod(pod_name.clone(), pod);
        let attachment = Attachment {
            pod: pod_name,
            addresses: [address].into(),
            ..Attachment::default()
        };
        self.index.set_attachment(interface, attachment);
        self.pods.insert(name.to_owned(), (netns, address));
    }

    pub(crate) fn write(&mut self) {
        let compiled = plan::compile(&self.index.desired(), &mut self.names, self.log);
        let transaction = plan::plan(self.committed.as_ref(), &compiled);
        self.host
            .run(|| Connection::open().unwrap().apply(&transaction))
            .unwrap();
        let again = plan::plan(Some(&compiled), &compiled);
        assert!(again.is_empty(), "what is there needs no change:\n{again}");
        self.committed = Some(compiled);
    }

    /// Whether a packet to a closed port comes to the pod: then the pod refuses it. A packet that
    /// is dropped is answered by nobody.
    pub(crate) fn arrives(
        &self,
        client: &str,
        to: SocketAddr,
        protocol: Protocol,
        expected: bool,
    ) -> bool {
        // A busy machine may be late with what is expected.
        let attempts = if expected { 4 } else { 1 };
        (0..attempts).any(|attempt| {
            let patience = PATIENCE * (1 << attempt);
            self.pods[client].0.run(|| match protocol {
                Protocol::Udp => refuses_datagram(to, patience),
                _ => match TcpStream::connect_timeout(&to, patience) {
                    Ok(_) => true,
                    Err(error) => error.kind() == ErrorKind::ConnectionRefused,
                },
            })
        })
    }

    fn connects(&self, client: &str, server: &str, port: u16) -> bool {
        let (server, address) = &self.pods[server];
        let address = SocketAddr::new(*address, port);
        let _listener = server.run(|| TcpListener::bind(address)).unwrap();
        let (client, _) = &self.pods[client];
        client
            .run(|| TcpStream::connect_timeout(&address, PATIENCE))
            .is_ok()
    }

    /// Which of (client, server, port) get through.
    pub(crate) fn check(&self, expected: &[(&str, &str, u16, bool)]) {
        for (client, server, port, passes) in expected {
            assert_eq!(
                self.connects(client, server, *port),
                *passes,
                "{client} to {server}:{port}"
            );
        }
    }
}

fn refuses_datagram(to: SocketAddr, patience: Duration) -> bool {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0u16; 8], 0).into(),
    };
    let socket = UdpSocket::bind(any).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(patience)).unwrap();
    let result = socket.send(b"x").and_then(|_| socket.recv(&mut [0; 1]));
    matches!(result, Err(error) if error.kind() == ErrorKind::ConnectionRefused)
}
