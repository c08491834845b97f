//! A node with its pods, another node's pod and a client outside, in network namespaces; and a
//! proxy whose backend writes into the node.
//!
//! ```text
//! client 192.168.9.2 ── node 192.168.9.1 ──┬── pod a 10.244.1.2
//!        fd09::2             fd09::1       ├── pod b 10.244.1.3
//!                                          └── far   10.244.2.2 (a pod of another node)
//! ```

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kernel::testing::TestNetns;
use proxy::backend::{Backend, Desired};
use proxy::picture::Index;
use proxy::{Config, Mode};

/// Where back ends listen.
pub const TARGET: u16 = 8080;
/// Longer than any answer takes, short enough for tests that wait for none.
const PATIENCE: Duration = Duration::from_millis(700);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ip {
    V4,
    V6,
}

/// Addresses of the world in one family.
pub struct Addresses {
    pub client: IpAddr,
    pub node: IpAddr,
    pub node_pod_side: IpAddr,
    pub a: IpAddr,
    pub b: IpAddr,
    pub far: IpAddr,
    pub service: IpAddr,
    pub external: IpAddr,
    pub balancer: IpAddr,
    pub loopback: IpAddr,
}

impl Ip {
    pub fn addresses(self) -> Addresses {
        let pick = |v4: &str, v6: &str| -> IpAddr {
            let text = if self == Self::V4 { v4 } else { v6 };
            text.parse().expect("an address")
        };
        Addresses {
            client: pick("192.168.9.2", "fd09::2"),
            node: pick("192.168.9.1", "fd09::1"),
            node_pod_side: pick("10.244.1.1", "fd00:10:244:1::1"),
            a: pick("10.244.1.2", "fd00:10:244:1::2"),
            b: pick("10.244.1.3", "fd00:10:244:1::3"),
            far: pick("10.244.2.2", "fd00:10:244:2::2"),
            service: pick("10.96.0.10", "fd00:10:96::10"),
            external: pick("203.0.113.5", "2001:db8::5"),
            balancer: pick("203.0.113.9", "2001:db8::9"),
            loopback: pick("127.0.0.1", "::1"),
        }
    }
}

/// Who answered, and which source it saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Answer {
    pub server: IpAddr,
    pub source: IpAddr,
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Answered(Answer),
    Refused,
    TimedOut,
}

pub struct World {
    pub client: TestNetns,
    pub node: TestNetns,
    pub a: TestNetns,
    pub b: TestNetns,
    pub far: TestNetns,
    stop: Arc<AtomicBool>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl World {
    pub fn new() -> Self {
        let [client, node, a, b, far] =
            ["client", "node", "a", "b", "far"].map(|name| TestNetns::new(name));
        for namespace in [&client, &node, &a, &b, &far] {
            // No waiting for duplicates of link-local addresses.
            namespace.sysctl("net/ipv6/conf/default/accept_dad", "0");
        }
        node.join("out", &client, "eth0");
        for (pod, interface) in [(&a, "pod-a"), (&b, "pod-b"), (&far, "pod-far")] {
            node.join(interface, pod, "eth0");
        }
        node.forward();
        let (v4, v6) = (Ip::V4.addresses(), Ip::V6.addresses());
        for x in [&v4, &v6] {
            let bits = if x.node.is_ipv6() { 64 } else { 24 };
            let host = if x.node.is_ipv6() { 128 } else { 32 };
            ip(
                &node,
                &[
                    &format!("addr add {}/{bits} dev out nodad", x.node),
                    &format!("addr add {}/{host} dev lo nodad", x.node_pod_side),
                    &format!("route add default via {}", x.client),
                    &format!("route add {}/{host} dev pod-a src {}", x.a, x.node_pod_side),
                    &format!("route add {}/{host} dev pod-b src {}", x.b, x.node_pod_side),
                    &format!(
                        "route add {}/{host} dev pod-far src {}",
                        x.far, x.node_pod_side
                    ),
                ],
            );
            if x.node.is_ipv6() {
                // Neighbour discovery answers only for addresses of the interface itself.
                for pod in ["pod-a", "pod-b", "pod-far"] {
                    ip(
                        &node,
                        &[&format!("addr add {}/128 dev {pod} nodad", x.node_pod_side)],
                    );
                }
            }
            ip(
                &client,
                &[
                    &format!("addr add {}/{bits} dev eth0 nodad", x.client),
                    &format!("route add default via {}", x.node),
                ],
            );
            for (pod, address) in [(&a, x.a), (&b, x.b), (&far, x.far)] {
                ip(
                    pod,
                    &[
                        &format!("addr add {address}/{host} dev eth0 nodad"),
                        &format!("route add {}/{host} dev eth0", x.node_pod_side),
                        &format!("route add default via {} dev eth0", x.node_pod_side),
                    ],
                );
            }
        }
        let world = Self {
            client,
            node,
            a,
            b,
            far,
            stop: Arc::default(),
        };
        for addresses in [v4, v6] {
            world.serve(&world.a, addresses.a);
            world.serve(&world.b, addresses.b);
            world.serve(&world.far, addresses.far);
        }
        world
    }

    /// Answers every connection and datagram with the names of both ends.
    fn serve(&self, pod: &TestNetns, address: IpAddr) {
        let (listener, socket) = pod.run(|| {
            let at = SocketAddr::new(address, TARGET);
            (
                TcpListener::bind(at).expect("free"),
                UdpSocket::bind(at).expect("free"),
            )
        });
        listener.set_nonblocking(true).expect("a socket");
        socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .expect("a socket");
        let stop = self.stop.clone();
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((mut stream, peer)) => {
                        let _ = stream.write_all(format!("{address} {}", peer.ip()).as_bytes());
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            }
        });
        let stop = self.stop.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(format!("{address} {}", peer.ip()).as_bytes(), peer);
                }
            }
        });
    }

    /// One TCP connection.
    pub fn tcp(&self, from: &TestNetns, to: IpAddr, port: u16) -> Outcome {
        from.run(|| {
            let connected = TcpStream::connect_timeout(&SocketAddr::new(to, port), PATIENCE);
            let mut text = String::new();
            let result = connected.and_then(|mut stream| {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.read_to_string(&mut text)
            });
            outcome(result.map(|_| text))
        })
    }

    /// One datagram and its answer.
    pub fn udp(&self, from: &TestNetns, to: IpAddr, port: u16) -> Outcome {
        from.run(|| {
            let any: IpAddr = if to.is_ipv6() { "::" } else { "0.0.0.0" }
                .parse()
                .expect("an address");
            let socket = UdpSocket::bind((any, 0)).expect("a socket");
            outcome(udp_exchange(&socket, SocketAddr::new(to, port)))
        })
    }

    /// Who answers how many of some TCP connections.
    pub fn spread(
        &self,
        from: &TestNetns,
        to: IpAddr,
        port: u16,
        n: usize,
    ) -> BTreeMap<Answer, usize> {
        let mut spread = BTreeMap::new();
        for _ in 0..n {
            match self.tcp(from, to, port) {
                Outcome::Answered(answer) => *spread.entry(answer).or_default() += 1,
                other => panic!("{to} port {port}: {other:?}\n{}", self.dump()),
            }
        }
        spread
    }

    /// The servers that answer, at least once in some connections.
    pub fn servers(&self, from: &TestNetns, to: IpAddr, port: u16) -> Vec<IpAddr> {
        let mut servers: Vec<IpAddr> = self
            .spread(from, to, port, 24)
            .into_keys()
            .map(|answer| answer.server)
            .collect();
        servers.sort();
        servers.dedup();
        servers
    }

    /// The node's rules, for a failing test to show.
    pub fn dump(&self) -> String {
        let mut text = String::new();
        for (program, arguments) in [
            ("iptables-save", vec![]),
            ("nft", vec!["list", "ruleset"]),
            ("ip", vec!["route"]),
        ] {
            let output = self.node.command(program, &arguments);
            text.push_str(&String::from_utf8_lossy(&output.stdout));
        }
        text
    }
}

/// Sends a datagram and waits for the answer.
pub fn udp_exchange(socket: &UdpSocket, to: SocketAddr) -> std::io::Result<String> {
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(to)?;
    socket.send(b"who")?;
    let mut buffer = [0; 128];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

pub fn outcome(result: std::io::Result<String>) -> Outcome {
    match result {
        Ok(text) => {
            let mut words = text.split(' ');
            let mut word = || words.next().and_then(|word| word.parse().ok());
            match (word(), word()) {
                (Some(server), Some(source)) => Outcome::Answered(Answer { server, source }),
                _ => Outcome::TimedOut,
            }
        }
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Outcome::Refused,
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Outcome::Refused,
        Err(_) => Outcome::TimedOut,
    }
}

fn ip(namespace: &TestNetns, commands: &[&str]) {
    for command in commands {
        // Only IPv6 knows `nodad`.
        let command = if command.contains("::") || command.contains("fd0") {
            (*command).to_owned()
        } else {
            command.replace(" nodad", "")
        };
        let words: Vec<&str> = command.split(' ').collect();
        let output = namespace.command("ip", &words);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ip {command}: {error}");
    }
}

/// What a test says of a proxy besides the mode.
pub fn config(mode: Mode) -> Config {
    Config {
        mode,
        node_name: "here".to_owned(),
        cluster_cidrs: vec![
            "10.244.0.0/16".parse().expect("a range"),
            "fd00:10:244::/48".parse().expect("a range"),
        ],
        service_cidrs: ranges(),
        healthz: None,
        ..Config::default()
    }
}

fn ranges() -> Vec<ipnetwork::IpNetwork> {
    vec![
        "10.96.0.0/12".parse().expect("a range"),
        "fd00:10:96::/112".parse().expect("a range"),
    ]
}

/// A backend in the node's namespace, fed with API objects.
pub struct Proxy<'w> {
    world: &'w World,
    pub backend: Box<dyn Backend>,
    pub index: Index,
}

impl<'w> Proxy<'w> {
    pub fn new(world: &'w World, config: &Config) -> Self {
        let backend = world
            .node
            .run(|| proxy::backend_of(config.mode, config))
            .unwrap_or_else(|error| panic!("{error}"));
        let mut index = Index::new(&config.node_name, None);
        index.set_service_cidrs(&ranges());
        let mut this = Self {
            world,
            backend,
            index,
        };
        this.resync();
        this
    }

    pub fn desired(&self) -> Desired {
        Desired {
            services: self.index.pictures().clone(),
            service_cidrs: ranges(),
        }
    }

    pub fn resync(&mut self) {
        self.index.take_changes();
        let desired = self.desired();
        let result = self.world.node.run(|| self.backend.resync(&desired));
        let outcome = result.unwrap_or_else(|error| panic!("{error}"));
        assert!(outcome.failed.is_empty(), "{outcome:?}");
    }

    /// Writes what changed.
    pub fn apply(&mut self) {
        let changes = self.index.take_changes();
        let result = self.world.node.run(|| self.backend.apply(&changes));
        let outcome = result.unwrap_or_else(|error| panic!("{error}"));
        assert!(outcome.failed.is_empty(), "{outcome:?}");
    }

    pub fn service(&mut self, service: &Service) -> &mut Self {
        self.index.service_applied(service);
        self
    }

    pub fn slice(&mut self, slice: &EndpointSlice) -> &mut Self {
        self.index.slice_applied(slice);
        self
    }

    pub fn intact(&mut self) -> bool {
        self.world
            .node
            .run(|| self.backend.intact())
            .unwrap_or_else(|error| panic!("{error}"))
    }

    pub fn cleanup(&mut self) {
        self.world
            .node
            .run(|| self.backend.cleanup())
            .unwrap_or_else(|error| panic!("{error}"));
    }
}

/// A Service `default/NAME` with port 80 over TCP and UDP, and more of its spec as JSON.
pub fn service(name: &str, cluster_ip: IpAddr, spec: serde_json::Value) -> Service {
    let mut object = serde_json::json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": cluster_ip,
            "clusterIPs": [cluster_ip],
            "ports": [
                {"name": "tcp", "port": 80, "protocol": "TCP"},
                {"name": "udp", "port": 80, "protocol": "UDP"},
            ],
        },
    });
    merge(&mut object, spec);
    serde_json::from_value(object).expect("a Service")
}

fn merge(target: &mut serde_json::Value, patch: serde_json::Value) {
    match (target, patch) {
        (serde_json::Value::Object(target), serde_json::Value::Object(patch)) => {
            for (key, value) in patch {
                merge(target.entry(key).or_insert(serde_json::Value::Null), value);
            }
        }
        (target, patch) => *target = patch,
    }
}

/// An endpoint: its address, its node, and whether it is ready.
pub type End = (IpAddr, &'static str, bool);

/// The slice of a Service's endpoints.
pub fn slice(service: &str, ends: &[End]) -> EndpointSlice {
    let v6 = ends.first().is_some_and(|(address, ..)| address.is_ipv6());
    let endpoints: Vec<_> = ends
        .iter()
        .map(|(address, node, ready)| {
            serde_json::json!({
                "addresses": [address],
                "nodeName": node,
                "conditions": {"ready": ready},
            })
        })
        .collect();
    serde_json::from_value(serde_json::json!({
        "metadata": {
            "name": format!("{service}-1"),
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": if v6 { "IPv6" } else { "IPv4" },
        "ports": [
            {"name": "tcp", "port": TARGET, "protocol": "TCP"},
            {"name": "udp", "port": TARGET, "protocol": "UDP"},
        ],
        "endpoints": endpoints,
    }))
    .expect("a slice")
}
