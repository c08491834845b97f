//! Connections through the rules: how long the first packet takes, and how many connections a
//! client makes in a second, to the first, the middle and the last Service.
//!
//! ```text
//! client 192.168.9.2 ── node (rules) ── server, which has every endpoint's address
//! ```

use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use kernel::testing::TestNetns;

use crate::objects::{TARGET, cluster_ip};
use crate::usage::cells;

const PATIENCE: Duration = Duration::from_secs(5);

/// The three namespaces, and a server that answers on all endpoints' addresses.
pub(crate) struct World {
    client: TestNetns,
    pub(crate) node: TestNetns,
    server: TestNetns,
}

impl World {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let [client, node, server] = ["client", "node", "server"].map(TestNetns::new);
        node.join("out", &client, "eth0");
        node.join("in", &server, "eth0");
        node.forward();
        for (namespace, interface, address) in [
            (&client, "eth0", "192.168.9.2/24"),
            (&node, "out", "192.168.9.1/24"),
            (&node, "in", "192.168.8.1/24"),
            (&server, "eth0", "192.168.8.2/24"),
        ] {
            namespace.add_address(interface, address);
        }
        let world = Self {
            client,
            node,
            server,
        };
        ip(&world.client, "route add default via 192.168.9.1")?;
        ip(&world.node, "route add 10.240.0.0/12 via 192.168.8.2")?;
        ip(&world.server, "route add default via 192.168.8.1")?;
        ip(&world.server, "route add local 10.240.0.0/12 dev lo")?;
        let any = (Ipv4Addr::UNSPECIFIED, TARGET);
        let listener = world.server.run(|| TcpListener::bind(any))?;
        // It ends with this process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                drop(stream);
            }
        });
        Ok(world)
    }

    /// Measures the Services at these places, for so long each, and prints rows.
    pub(crate) fn measure(&self, name: &str, services: u32, time: Duration) -> anyhow::Result<()> {
        let mut places = vec![
            ("first", 0),
            ("middle", services / 2),
            ("last", services - 1),
        ];
        places.dedup_by_key(|(_, number)| *number);
        for (place, number) in places {
            let to = SocketAddr::from((cluster_ip(number), 80));
            let (connects, rate) = self
                .client
                .run(|| ask(to, time))
                .with_context(|| format!("{name}: the {place} Service, {to}"))?;
            println!(
                "| {name} | {services} | {place} | {} | {rate:.0} |",
                cells(connects)
            );
        }
        Ok(())
    }
}

/// The heading of the table that [`World::measure`] fills.
pub(crate) fn heading() {
    println!(
        "\n| | Services | which | connect p50 (ms) | p99 | worst | connections per second |\n\
         |---|---|---|---|---|---|---|"
    );
}

pub(crate) fn ip(namespace: &TestNetns, arguments: &str) -> anyhow::Result<()> {
    let words: Vec<&str> = arguments.split(' ').collect();
    let output = namespace.command("ip", &words);
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {arguments}: {said}");
    Ok(())
}

/// One connection after the other: how long each took to be there, and how many a second were
/// there and closed again. The server closes first, so that the client's ports are free again.
fn ask(to: SocketAddr, time: Duration) -> anyhow::Result<(Vec<Duration>, f64)> {
    let mut connects = Vec::new();
    let start = Instant::now();
    while start.elapsed() < time {
        let begin = Instant::now();
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        connects.push(begin.elapsed());
        stream.set_read_timeout(Some(PATIENCE))?;
        let _ = stream.read(&mut [0])?;
    }
    let rate = connects.len() as f64 / start.elapsed().as_secs_f64();
    Ok((connects, rate))
}
