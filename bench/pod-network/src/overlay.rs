//! Two nodes and a tunnel between them: made by Fairlead, and by hand with `ip`.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use flannel_vxlan::kernel::Kernel;
use kernel::testing::TestNetns;

use crate::nodes::{bring, local, remote};
use crate::percentile;

const CHUNK: usize = 256 * 1024;
const PINGS: usize = 3000;

/// Two nodes that reach each other's address on the tunnel.
struct Pair {
    label: &'static str,
    a: TestNetns,
    b: TestNetns,
    /// The second one's address inside the tunnel.
    target: IpAddr,
}

pub(crate) fn run(rounds: usize, time: Duration) -> anyhow::Result<()> {
    let pairs = [Pair::ours()?, Pair::by_hand()?];
    let mut rates = [Vec::new(), Vec::new()];
    let mut latencies = [Vec::new(), Vec::new()];
    // In turns: what else the machine does falls upon both.
    for _ in 0..rounds {
        for (index, pair) in pairs.iter().enumerate() {
            rates[index].push(pair.throughput(time)?);
            latencies[index].extend(pair.latencies()?);
        }
    }
    let mut figures = Vec::new();
    for (index, pair) in pairs.iter().enumerate() {
        let best = rates[index].iter().copied().fold(0.0, f64::max);
        let median = percentile(&mut latencies[index], 0.5);
        println!(
            "{}: {best:.2} Gbit/s at best, round trip p50 {median:?}",
            pair.label
        );
        figures.push((best, median));
    }
    println!(
        "ours in parts of by hand: throughput {:.3}, latency {:.3}",
        figures[0].0 / figures[1].0,
        figures[0].1.as_secs_f64() / figures[1].1.as_secs_f64()
    );
    Ok(())
}

fn joined(label: &str) -> (TestNetns, TestNetns) {
    let (a, b) = (
        TestNetns::new(&format!("{label}a")),
        TestNetns::new(&format!("{label}b")),
    );
    a.join("eth0", &b, "eth0");
    a.add_address("eth0", "198.18.0.1/16");
    b.add_address("eth0", "198.18.0.2/16");
    (a, b)
}

impl Pair {
    fn ours() -> anyhow::Result<Self> {
        let (a, b) = joined("ours");
        for (ns, number, other) in [(&a, 1, 2), (&b, 2, 1)] {
            let (mut own, mut peer) = (local(number, ns.index("eth0")), remote(other));
            own.pod_networks.truncate(1);
            own.endpoints
                .retain(|_, endpoint| endpoint.address.is_ipv4());
            peer.pod_networks.truncate(1);
            peer.endpoints
                .retain(|_, endpoint| endpoint.public_ip.is_ipv4());
            ns.run(|| bring(&mut Kernel::open(1)?, &own, &[peer]))?;
        }
        Ok(Self {
            label: "Fairlead",
            a,
            b,
            target: "10.100.2.0".parse()?,
        })
    }

    fn by_hand() -> anyhow::Result<Self> {
        let (a, b) = joined("hand");
        for (ns, number, other) in [(&a, 1, 2), (&b, 2, 1)] {
            for line in [
                format!(
                    "link add vx0 address 02:00:00:00:00:0{number} mtu 1450 type vxlan id 1 local 198.18.0.{number} dev eth0 dstport 8472 nolearning"
                ),
                format!("addr add 10.100.{number}.0/32 dev vx0"),
                "link set vx0 up".to_owned(),
                format!("neigh add 10.100.{other}.0 lladdr 02:00:00:00:00:0{other} dev vx0"),
                format!("route add 10.100.{other}.0/24 via 10.100.{other}.0 dev vx0 onlink"),
            ] {
                command(ns, "ip", &line)?;
            }
            let line = format!("fdb add 02:00:00:00:00:0{other} dev vx0 dst 198.18.0.{other}");
            command(ns, "bridge", &line)?;
        }
        Ok(Self {
            label: "by hand",
            a,
            b,
            target: "10.100.2.0".parse()?,
        })
    }

    /// Gigabits in a second, one connection.
    fn throughput(&self, time: Duration) -> anyhow::Result<f64> {
        let listener = self.b.run(|| TcpListener::bind((self.target, 0)))?;
        let to = listener.local_addr()?;
        let receiver = std::thread::spawn(move || -> std::io::Result<(u64, Duration)> {
            let (mut stream, _) = listener.accept()?;
            let mut buffer = vec![0; CHUNK];
            let (start, mut received) = (Instant::now(), 0);
            loop {
                match stream.read(&mut buffer)? {
                    0 => return Ok((received, start.elapsed())),
                    length => received += length as u64,
                }
            }
        });
        self.a.run(|| -> std::io::Result<()> {
            let mut stream = TcpStream::connect(to)?;
            let data = vec![0; CHUNK];
            let start = Instant::now();
            while start.elapsed() < time {
                stream.write_all(&data)?;
            }
            Ok(())
        })?;
        let (bytes, took) = receiver.join().ok().context("the receiver broke")??;
        Ok(bytes as f64 * 8.0 / took.as_secs_f64() / 1e9)
    }

    /// Round trips of a byte.
    fn latencies(&self) -> anyhow::Result<Vec<Duration>> {
        let server = self.b.run(|| UdpSocket::bind((self.target, 0)))?;
        let to: SocketAddr = server.local_addr()?;
        let echo = std::thread::spawn(move || -> std::io::Result<()> {
            let mut buffer = [0; 8];
            for _ in 0..PINGS {
                let (length, from) = server.recv_from(&mut buffer)?;
                server.send_to(&buffer[..length], from)?;
            }
            Ok(())
        });
        let times = self.a.run(|| -> std::io::Result<Vec<Duration>> {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect(to)?;
            let mut buffer = [0; 8];
            (0..PINGS)
                .map(|_| {
                    let start = Instant::now();
                    socket.send(b"x")?;
                    socket.recv(&mut buffer)?;
                    Ok(start.elapsed())
                })
                .collect()
        })?;
        echo.join().ok().context("the echo broke")??;
        Ok(times)
    }
}

fn command(ns: &TestNetns, program: &str, line: &str) -> anyhow::Result<()> {
    let output = ns.command(program, &line.split(' ').collect::<Vec<_>>());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{program} {line}: {text}");
    Ok(())
}
