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

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kernel::address::Address;
use kernel::route::{NextHop, Protocol, Route};
use kernel::testing::TestNetns;
use proxy::backend::Desired;
use proxy::picture::Index;
use proxy::trace::{Node, Packet, Step};
use proxy::{Applier, Config, Mode};

pub(crate) mod load;
mod sctp;

pub(crate) use load::{LIVE, Load};
pub(crate) use sctp::serve_sctp;

/// Where back ends listen.
pub(crate) const TARGET: u16 = 8080;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ip {
    V4,
    V6,
}

/// Addresses of the world in one family.
pub(crate) struct Addresses {
    pub(crate) client: IpAddr,
    pub(crate) node: IpAddr,
    pub(crate) node_pod_side: IpAddr,
    pub(crate) a: IpAddr,
    pub(crate) b: IpAddr,
    pub(crate) far: IpAddr,
    pub(crate) service: IpAddr,
    pub(crate) external: IpAddr,
    pub(crate) balancer: IpAddr,
    pub(crate) loopback: IpAddr,
}

impl Ip {
    pub(crate) fn addresses(self) -> Addresses {
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
pub(crate) struct Answer {
    pub(crate) server: IpAddr,
    pub(crate) source: IpAddr,
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Answered(Answer),
    Refused,
    TimedOut,
}

pub(crate) struct World {
    pub(crate) client: TestNetns,
    pub(crate) node: TestNetns,
    pub(crate) a: TestNetns,
    pub(crate) b: TestNetns,
    pub(crate) far: TestNetns,
    stop: Arc<AtomicBool>,
    listeners: Vec<TcpListener>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for listener in &self.listeners {
            // Wakes the server that waits for a connection.
            let _ = socket2::SockRef::from(listener).shutdown(std::net::Shutdown::Both);
        }
    }
}

impl World {
    pub(crate) fn new() -> Self {
        let [client, node, a, b, far] = ["client", "node", "a", "b", "far"].map(TestNetns::new);
        for namespace in [&client, &node, &a, &b, &far] {
            // No waiting for duplicates of link-local addresses.
            namespace.sysctl("net/ipv6/conf/default/accept_dad", "0");
        }
        node.join("out", &client, "eth0");
        for (pod, interface) in [(&a, "pod-a"), (&b, "pod-b"), (&far, "pod-far")] {
            node.join(interface, pod, "eth0");
        }
        node.forward();
        for (namespace, interface) in [
            (&node, "out"),
            (&node, "pod-a"),
            (&node, "pod-b"),
            (&node, "pod-far"),
            (&client, "eth0"),
            (&a, "eth0"),
            (&b, "eth0"),
            (&far, "eth0"),
        ] {
            ready(namespace, interface);
        }
        let (v4, v6) = (Ip::V4.addresses(), Ip::V6.addresses());
        let pods = [(&a, "pod-a"), (&b, "pod-b"), (&far, "pod-far")];
        for x in [&v4, &v6] {
            let bits = if x.node.is_ipv6() { 64 } else { 24 };
            let mut setup = Setup::new(&node);
            setup.address("out", x.node, bits);
            setup.address("lo", x.node_pod_side, 0);
            setup.default_route("out", x.client);
            for ((pod, interface), address) in pods.iter().zip([x.a, x.b, x.far]) {
                if x.node.is_ipv6() {
                    // Neighbour discovery answers only for addresses of the interface itself.
                    setup.address(interface, x.node_pod_side, 0);
                }
                setup.host_route(interface, address, Some(x.node_pod_side));
                let mut setup = Setup::new(pod);
                setup.address("eth0", address, 0);
                setup.host_route("eth0", x.node_pod_side, None);
                setup.default_route("eth0", x.node_pod_side);
            }
            let mut setup = Setup::new(&client);
            setup.address("eth0", x.client, bits);
            setup.default_route("eth0", x.node);
        }
        let mut world = Self {
            client,
            node,
            a,
            b,
            far,
            stop: Arc::default(),
            listeners: Vec::new(),
        };
        for x in [v4, v6] {
            let servers = [(&world.a, x.a), (&world.b, x.b), (&world.far, x.far)]
                .map(|(pod, address)| serve(&world.stop, pod, SocketAddr::new(address, TARGET)));
            world.listeners.extend(servers);
        }
        world
    }

    /// Pods answer on one more port.
    pub(crate) fn serve_also(&mut self, pod: fn(&Self) -> &TestNetns, address: IpAddr, port: u16) {
        let server = serve(&self.stop, pod(self), SocketAddr::new(address, port));
        self.listeners.push(server);
    }

    /// Pods keep connections on port [`LIVE`].
    pub(crate) fn serve_lines(&mut self) {
        for x in [Ip::V4.addresses(), Ip::V6.addresses()] {
            let pods = [(&self.a, x.a), (&self.b, x.b), (&self.far, x.far)];
            let servers = pods.map(|(pod, address)| load::serve_lines(pod, address));
            self.listeners.extend(servers);
        }
    }

    /// A socket whose datagrams are one flow.
    pub(crate) fn udp_flow(&self, from: &TestNetns, to: IpAddr, port: u16) -> UdpSocket {
        from.run(|| {
            let any: IpAddr = if to.is_ipv6() { "::" } else { "0.0.0.0" }
                .parse()
                .expect("an address");
            let socket = UdpSocket::bind((any, 0)).expect("a socket");
            socket.connect((to, port)).expect("a route");
            socket
                .set_read_timeout(Some(Duration::from_millis(300)))
                .expect("a socket");
            socket
        })
    }

    /// Sends datagrams of one flow until this server answers.
    pub(crate) fn ask_until_served_by(&self, socket: &UdpSocket, server: IpAddr) {
        let mut last = None;
        let found = wait_until(|| {
            last = Some(udp_again(socket));
            matches!(last, Some(Outcome::Answered(answer)) if answer.server == server)
        });
        assert!(found, "{server} does not answer: {last:?}\n{}", self.dump());
    }

    /// Sends datagrams of one flow until they are refused.
    pub(crate) fn ask_until_refused(&self, socket: &UdpSocket) {
        let mut last = None;
        let found = wait_until(|| {
            last = Some(udp_again(socket));
            last == Some(Outcome::Refused)
        });
        assert!(found, "not refused: {last:?}\n{}", self.dump());
    }

    /// One TCP connection.
    pub(crate) fn tcp(&self, from: &TestNetns, to: IpAddr, port: u16) -> Outcome {
        connect(from, SocketAddr::new(to, port), patience())
    }

    /// One TCP connection that is expected to get no answer at all.
    pub(crate) fn tcp_in_vain(&self, from: &TestNetns, to: IpAddr, port: u16) -> Outcome {
        connect(from, SocketAddr::new(to, port), brief())
    }

    /// One SCTP association.
    pub(crate) fn sctp(&self, from: &TestNetns, to: IpAddr, port: u16) -> Outcome {
        from.run(|| outcome(sctp::exchange(SocketAddr::new(to, port), patience())))
    }

    /// One datagram and its answer.
    pub(crate) fn udp(&self, from: &TestNetns, to: IpAddr, port: u16) -> Outcome {
        from.run(|| {
            let any: IpAddr = if to.is_ipv6() { "::" } else { "0.0.0.0" }
                .parse()
                .expect("an address");
            let socket = UdpSocket::bind((any, 0)).expect("a socket");
            outcome(udp_exchange(&socket, SocketAddr::new(to, port)))
        })
    }

    /// Who answers how many of some TCP connections.
    pub(crate) fn spread(
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
    pub(crate) fn servers(&self, from: &TestNetns, to: IpAddr, port: u16) -> Vec<IpAddr> {
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
    pub(crate) fn dump(&self) -> String {
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

/// Answers every connection and datagram with the names of both ends.
fn serve(stop: &Arc<AtomicBool>, pod: &TestNetns, at: SocketAddr) -> TcpListener {
    let address = at.ip();
    let (listener, socket) = pod.run(|| {
        (
            TcpListener::bind(at).expect("free"),
            UdpSocket::bind(at).expect("free"),
        )
    });
    let waker = listener.try_clone().expect("a descriptor");
    std::thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            let _ = stream.write_all(format!("{address} {}", peer.ip()).as_bytes());
        }
    });
    socket
        .set_read_timeout(Some(Duration::from_millis(500)))
        .expect("a socket");
    let stop = stop.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while !stop.load(Ordering::Relaxed) {
            if let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(format!("{address} {}", peer.ip()).as_bytes(), peer);
            }
        }
    });
    waker
}

/// Long enough for an answer on a machine with much else to do.
fn patience() -> Duration {
    Duration::from_secs(6) * slowness()
}

/// Long enough for what has to happen by itself.
fn long() -> Duration {
    Duration::from_secs(30) * slowness()
}

/// How many times slower than usual the machine may be: emulated ones are.
fn slowness() -> u32 {
    if std::env::var_os("IPVS_KERNEL").is_some() {
        4
    } else {
        1
    }
}

/// Waits until it is so, and answers with whether it ever was.
fn wait_until(mut is_so: impl FnMut() -> bool) -> bool {
    let start = std::time::Instant::now();
    while start.elapsed() < long() {
        if is_so() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

/// Waits until it is so.
pub(crate) fn wait_for(what: &str, is_so: impl FnMut() -> bool) {
    assert!(wait_until(is_so), "waited in vain for {what}");
}

/// One more datagram of a flow, and its answer.
fn udp_again(socket: &UdpSocket) -> Outcome {
    let mut buffer = [0; 128];
    // Answers to earlier datagrams are of no interest.
    let _ = socket.set_nonblocking(true);
    while socket.recv(&mut buffer).is_ok() {}
    let _ = socket.set_nonblocking(false);
    let answer = socket
        .send(b"who")
        .and_then(|_| socket.recv(&mut buffer))
        .map(|length| String::from_utf8_lossy(&buffer[..length]).into_owned());
    outcome(answer)
}

/// Longer than any answer should take, short enough for tests that wait for none.
fn brief() -> Duration {
    Duration::from_millis(600) * slowness()
}

fn connect(from: &TestNetns, to: SocketAddr, limit: Duration) -> Outcome {
    from.run(|| {
        let mut text = String::new();
        let result = TcpStream::connect_timeout(&to, limit).and_then(|mut stream| {
            stream.set_read_timeout(Some(patience()))?;
            stream.read_to_string(&mut text)
        });
        outcome(result.map(|_| text))
    })
}

/// Sends a datagram and waits for the answer.
pub(crate) fn udp_exchange(socket: &UdpSocket, to: SocketAddr) -> std::io::Result<String> {
    socket.set_read_timeout(Some(patience()))?;
    socket.connect(to)?;
    socket.send(b"who")?;
    let mut buffer = [0; 128];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

pub(crate) fn outcome(result: std::io::Result<String>) -> Outcome {
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

/// Waits until IPv6 works on an interface: the kernel looks at new links once in a while, and
/// gives a link-local address then.
fn ready(namespace: &TestNetns, interface: &str) {
    let index = namespace.index(interface);
    for _ in 0..500 {
        let addresses = kernel::address::list(&mut namespace.socket(), Some(index));
        let addresses = addresses.unwrap_or_else(|error| panic!("{error}"));
        if addresses
            .iter()
            .any(|address| address.network.is_ipv6() && !address.tentative)
        {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{interface} does not get ready");
}

/// Addresses and routes of one namespace.
struct Setup<'n> {
    namespace: &'n TestNetns,
}

impl<'n> Setup<'n> {
    fn new(namespace: &'n TestNetns) -> Self {
        Self { namespace }
    }

    /// With 0 bits, the address alone.
    fn address(&mut self, interface: &str, ip: IpAddr, bits: u8) {
        let network = match bits {
            0 => IpNetwork::from(ip),
            bits => IpNetwork::new(ip, bits).expect("a prefix length"),
        };
        let index = self.namespace.index(interface);
        let address = Address {
            no_duplicate_detection: ip.is_ipv6(),
            ..Address::new(index, network)
        };
        self.namespace.execute(&[kernel::address::add(&address)]);
    }

    fn host_route(&mut self, interface: &str, to: IpAddr, source: Option<IpAddr>) {
        let hop = NextHop::device(self.namespace.index(interface));
        let mut route = Route::new(IpNetwork::from(to), Protocol::STATIC, hop);
        route.preferred_source = source;
        self.namespace.execute(&[kernel::route::add(&route)]);
    }

    fn default_route(&mut self, interface: &str, gateway: IpAddr) {
        let any: IpAddr = if gateway.is_ipv6() { "::" } else { "0.0.0.0" }
            .parse()
            .expect("any");
        let hop = NextHop::via(gateway).on(self.namespace.index(interface));
        let network = IpNetwork::new(any, 0).expect("a prefix length");
        self.namespace.execute(&[kernel::route::add(&Route::new(
            network,
            Protocol::STATIC,
            hop,
        ))]);
    }
}

/// What a test says of a proxy besides the mode.
pub(crate) fn config(mode: Mode) -> Config {
    Config {
        mode,
        node_name: "here".to_owned(),
        cluster_cidrs: vec![
            "10.244.0.0/16".parse().expect("a range"),
            "fd00:10:244::/48".parse().expect("a range"),
        ],
        service_cidrs: ranges(),
        healthz: None,
        metrics: None,
        ..Config::default()
    }
}

fn ranges() -> Vec<ipnetwork::IpNetwork> {
    vec![
        "10.96.0.0/12".parse().expect("a range"),
        "fd00:10:96::/112".parse().expect("a range"),
    ]
}

/// The proxy's kernel side in the node's namespace, fed with API objects.
pub(crate) struct Proxy<'w> {
    world: &'w World,
    pub(crate) applier: Applier,
    pub(crate) index: Index,
    pub(crate) config: Config,
}

impl<'w> Proxy<'w> {
    pub(crate) fn new(world: &'w World, config: &Config) -> Self {
        let applier = world
            .node
            .run(|| Applier::new(config, config.mode))
            .unwrap_or_else(|error| panic!("{error}"));
        let mut index = Index::new(&config.node_name, None);
        index.set_service_cidrs(&ranges());
        let mut this = Self {
            world,
            applier,
            index,
            config: config.clone(),
        };
        this.resync();
        this
    }

    /// A new process that finds what another one wrote, and knows the same objects.
    pub(crate) fn over(world: &'w World, config: &Config, index: &Index) -> Self {
        let applier = world
            .node
            .run(|| Applier::new(config, config.mode))
            .unwrap_or_else(|error| panic!("{error}"));
        let mut this = Self {
            world,
            applier,
            index: index.clone(),
            config: config.clone(),
        };
        this.resync();
        this
    }

    pub(crate) fn desired(&self) -> Desired {
        Desired {
            services: self.index.pictures().clone(),
            service_cidrs: ranges(),
        }
    }

    /// Writes everything; answers with whether somebody else had changed what was there.
    pub(crate) fn resync(&mut self) -> bool {
        self.switch(self.config.mode)
    }

    /// Writes everything, by this backend from now on; answers as [`Self::resync`] does.
    pub(crate) fn switch(&mut self, mode: Mode) -> bool {
        self.config.mode = mode;
        self.index.take_changes();
        let desired = self.desired();
        let result = self.world.node.run(|| self.applier.resync(mode, &desired));
        let outcome = result.unwrap_or_else(|error| panic!("{error}"));
        assert!(outcome.failed.is_empty(), "{outcome:?}");
        outcome.foreign
    }

    /// Writes what changed.
    pub(crate) fn apply(&mut self) {
        let changes = self.index.take_changes();
        let result = self.world.node.run(|| self.applier.apply(&changes));
        let outcome = result.unwrap_or_else(|error| panic!("{error}"));
        assert!(outcome.failed.is_empty(), "{outcome:?}");
    }

    pub(crate) fn service(&mut self, service: &Service) -> &mut Self {
        self.index.service_applied(service);
        self
    }

    pub(crate) fn slice(&mut self, slice: &EndpointSlice) -> &mut Self {
        self.index.slice_applied(slice);
        self
    }

    pub(crate) fn intact(&mut self) -> bool {
        self.world
            .node
            .run(|| self.applier.intact())
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// The last step that the tracer predicts for a connection.
    pub(crate) fn predict(&self, source: IpAddr, destination: IpAddr, port: u16) -> Step {
        let x = [Ip::V4.addresses(), Ip::V6.addresses()];
        let node = Node {
            addresses: x.iter().flat_map(|x| [x.node, x.node_pod_side]).collect(),
            config: &self.config,
        };
        let packet = Packet {
            source,
            destination,
            protocol: proxy::model::Protocol::Tcp,
            port,
        };
        let steps = proxy::trace::trace(self.index.pictures(), &node, &packet);
        steps.last().expect("a step").clone()
    }

    pub(crate) fn cleanup(&mut self) {
        self.world
            .node
            .run(|| self.applier.cleanup())
            .unwrap_or_else(|error| panic!("{error}"));
    }
}

/// A Service `default/NAME` with port 80 over TCP and UDP, and more of its spec as JSON.
pub(crate) fn service(name: &str, cluster_ip: IpAddr, spec: serde_json::Value) -> Service {
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
pub(crate) type End = (IpAddr, &'static str, bool);

/// The slice of a Service's endpoints.
pub(crate) fn slice(service: &str, ends: &[End]) -> EndpointSlice {
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
