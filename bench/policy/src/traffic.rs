//! Two pods behind a host, and what goes between them.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;
use kernel::nflog::Nflog;
use kernel::nftables::Connection;
use kernel::testing::TestNetns;
use policy::index::{CompiledPeer, CompiledPort, SetContent};
use policy::model::{Direction, Policy, PolicyId, Selector, Tier};
use policy::plan::{LOG_GROUP, Log, Names, compile, plan};

use crate::cluster::{Size, address, interface};
use crate::report::{Samples, against};

const CLIENTS: usize = 4;
const CLIENT: u32 = 0;
const SERVER: u32 = 1;

struct Host {
    host: TestNetns,
    client: TestNetns,
    server: TestNetns,
}

impl Host {
    fn new() -> Self {
        let host = TestNetns::new("host");
        host.forward();
        let pod = |number: u32| {
            let netns = TestNetns::new(&format!("pod{number}"));
            host.join(&interface(number), &netns, "eth0");
            let own = address(number);
            netns.add_address("eth0", &format!("{own}/32"));
            host.add_address(&interface(number), "169.254.1.1/32");
            let commands = [
                (&host, format!("route add {own} dev {}", interface(number))),
                (
                    &netns,
                    "route add 169.254.1.1 dev eth0 scope link".to_owned(),
                ),
                (&netns, "route add default via 169.254.1.1".to_owned()),
            ];
            for (place, arguments) in commands {
                let words: Vec<&str> = arguments.split(' ').collect();
                let output = place.command("ip", &words);
                assert!(output.status.success(), "ip {arguments}: {output:?}");
            }
            netns
        };
        let (client, server) = (pod(CLIENT), pod(SERVER));
        // Else a second has more connections than a client has ports.
        client.sysctl("net/ipv4/ip_local_port_range", "1024 65000");
        client.sysctl("net/ipv4/tcp_tw_reuse", "1");
        Self {
            host,
            client,
            server,
        }
    }

    fn target(&self) -> SocketAddr {
        SocketAddr::new(address(SERVER), 80)
    }
}

/// New connections in a second, each with one byte there and back.
fn connections(host: &Host, time: Duration) -> anyhow::Result<f64> {
    let target = host.target();
    let listener = host.server.run(|| TcpListener::bind(target))?;
    let (ended, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let start = Instant::now();
    thread::scope(|scope| -> anyhow::Result<()> {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while let Ok((mut stream, _)) = listener.accept() {
                    if ended.load(Ordering::Relaxed) {
                        return;
                    }
                    let mut byte = [0];
                    let _ = stream
                        .read_exact(&mut byte)
                        .and_then(|()| stream.write_all(&byte));
                }
            });
        }
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    host.client.run(|| -> std::io::Result<()> {
                        while start.elapsed() < time {
                            let mut stream = TcpStream::connect(target)?;
                            stream.write_all(b"x")?;
                            stream.read_exact(&mut [0])?;
                            count.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok(())
                    })
                })
            })
            .collect();
        let results: Vec<_> = clients.into_iter().map(|own| own.join()).collect();
        ended.store(true, Ordering::Relaxed);
        for _ in 0..CLIENTS {
            // Wakes who accepts.
            let _ = host.client.run(|| TcpStream::connect(target));
        }
        for result in results {
            result.map_err(|_| anyhow::anyhow!("a client panicked"))??;
        }
        Ok(())
    })?;
    Ok(count.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64())
}

/// Gigabits in a second over one connection.
fn throughput(host: &Host, time: Duration) -> anyhow::Result<f64> {
    let target = host.target();
    let listener = host.server.run(|| TcpListener::bind(target))?;
    thread::scope(|scope| {
        let receiver = scope.spawn(move || -> std::io::Result<u64> {
            let (mut stream, _) = listener.accept()?;
            let mut buffer = vec![0; 256 * 1024];
            let mut total = 0;
            loop {
                match stream.read(&mut buffer)? {
                    0 => return Ok(total),
                    length => total += length as u64,
                }
            }
        });
        let start = Instant::now();
        host.client.run(|| -> std::io::Result<()> {
            let mut stream = TcpStream::connect(target)?;
            let buffer = vec![0; 256 * 1024];
            while start.elapsed() < time {
                stream.write_all(&buffer)?;
            }
            Ok(())
        })?;
        let total = receiver.join();
        let total = total.map_err(|_| anyhow::anyhow!("the receiver panicked"))??;
        Ok(total as f64 * 8.0 / 1e9 / start.elapsed().as_secs_f64())
    })
}

/// What the packets pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rules {
    /// No rules at all, and so no connection tracking either.
    None,
    /// Connection tracking alone, which a node with Services has without any policy.
    Tracking,
    /// Ours, with so many policies.
    Ours(u32),
    /// The same in the textbook form: a set for each policy's peers, a chain for each policy, a chain
    /// for each pod, and a rule for each pod that leads there.
    Ipset(u32),
}

const VARIANTS: [Rules; 6] = [
    Rules::Tracking,
    Rules::None,
    Rules::Ours(0),
    Rules::Ours(100),
    Rules::Ours(5000),
    Rules::Ipset(5000),
];

impl Rules {
    fn name(self) -> String {
        match self {
            Self::None => "no rules, no connection tracking".to_owned(),
            Self::Tracking => "connection tracking alone: no policy at all".to_owned(),
            Self::Ours(policies) => format!("Fairlead, {policies} policies"),
            Self::Ipset(policies) => format!("ipset and iptables chains, {policies} policies"),
        }
    }

    fn write(self, host: &Host, size: Size) -> anyhow::Result<()> {
        match self {
            Self::None => Ok(()),
            Self::Tracking => {
                let table = "table inet tracking { chain forward { type filter hook forward \
                    priority 0; ct state established,related accept; } }\n";
                feed(host, "nft", &["-f", "-"], table)
            }
            Self::Ours(policies) => write_nftables(host, &Size { policies, ..size }),
            Self::Ipset(policies) => write_ipset(host, &Size { policies, ..size }),
        }
    }
}

/// Every variant in turn, so often: what else the machine does meets all of them alike.
pub(crate) fn measure(size: Size, rounds: u32, time: Duration) -> anyhow::Result<()> {
    let mut variants = Vec::new();
    for rules in VARIANTS {
        let host = Host::new();
        rules.write(&host, size)?;
        variants.push((rules, host, Samples::default(), Samples::default()));
    }
    for round in 0..=rounds {
        for (_, host, connected, sent) in &mut variants {
            let measured = (connections(host, time)?, throughput(host, time)?);
            // The first one warms up.
            if round > 0 {
                connected.add(measured.0);
                sent.add(measured.1);
            }
        }
    }
    println!(
        "\nBetween two pods of one node, the median of {rounds} rounds in which every row has \
         its turn; {} pods, {} of them on the node.\n",
        size.pods, size.local
    );
    println!(
        "| rules | connections per second | lowest, highest | against tracking alone | Gbit/s | \
         against tracking alone |\n|---|---|---|---|---|---|"
    );
    let alone = (variants[0].2.median(), variants[0].3.median());
    for (rules, _, connected, sent) in &variants {
        println!(
            "| {} | {:.0} | {:.0}, {:.0} | {} | {:.2} | {} |",
            rules.name(),
            connected.median(),
            connected.lowest(),
            connected.highest(),
            against(connected.median(), alone.0),
            sent.median(),
            against(sent.median(), alone.1)
        );
    }
    Ok(())
}

fn write_nftables(host: &Host, size: &Size) -> anyhow::Result<()> {
    let desired = size.index().desired();
    let compiled = compile(&desired, &mut Names::default(), Log::DROPS);
    let transaction = plan(None, &compiled);
    host.host
        .run(|| Connection::open()?.apply(&transaction))
        .map_err(Into::into)
}

/// The same policies for the same pods, as rules of iptables and sets of ipset.
fn write_ipset(host: &Host, size: &Size) -> anyhow::Result<()> {
    let desired = size.index().desired();
    let (mut sets, mut rules) = (String::new(), String::from("*filter\n:PODS - [0:0]\n"));
    for (id, content) in &desired.sets {
        let SetContent::Addresses(addresses) = content else {
            continue;
        };
        sets += &format!("create peers{id} hash:ip family inet maxelem 1000000\n");
        for own in addresses.iter().filter(|own| own.is_ipv4()) {
            sets += &format!("add peers{id} {own}\n");
        }
    }
    let ingress = |policy: &&(PolicyId, Direction)| policy.1 == Direction::Ingress;
    let policies: Vec<_> = desired.policies.keys().filter(ingress).collect();
    let chain = |policy: &PolicyId| {
        let own = (policy.clone(), Direction::Ingress);
        policies
            .iter()
            .position(|other| **other == own)
            .unwrap_or_default()
    };
    for number in 0..policies.len() {
        rules += &format!(":POLICY-{number} - [0:0]\n");
    }
    for name in desired.endpoints.keys() {
        rules += &format!(":POD-{name} - [0:0]\n");
    }
    rules +=
        "-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n-A FORWARD -j PODS\n";
    for (number, policy) in policies.iter().enumerate() {
        for rule in desired.policies[*policy].iter() {
            let peers: Vec<String> = match &rule.peers {
                None => vec![String::new()],
                Some(peers) => peers.iter().filter_map(peer_match).collect(),
            };
            for port in rule.ports.iter().flatten() {
                let CompiledPort::Range(protocol, from, to) = port else {
                    continue;
                };
                let protocol = protocol.name().to_lowercase();
                for peer in &peers {
                    rules += &format!(
                        "-A POLICY-{number} {peer} -p {protocol} --dport {from}:{to} -j ACCEPT\n"
                    );
                }
            }
        }
    }
    for (name, own) in desired.endpoints.iter() {
        rules += &format!("-A PODS -o {name} -j POD-{name}\n");
        let Some(isolating) = &own.ingress.isolating else {
            continue;
        };
        for policy in isolating {
            let policy = PolicyId {
                tier: Tier::NetworkPolicy,
                name: policy.clone(),
            };
            rules += &format!("-A POD-{name} -j POLICY-{}\n", chain(&policy));
        }
        rules += &format!("-A POD-{name} -j DROP\n");
    }
    rules += "COMMIT\n";
    feed(host, "ipset", &["restore"], &sets)?;
    feed(host, "iptables-restore", &[], &rules)
}

fn peer_match(peer: &CompiledPeer) -> Option<String> {
    match peer {
        CompiledPeer::Set(id) => Some(format!("-m set --match-set peers{id} src")),
        CompiledPeer::Block { .. } => None,
    }
}

fn feed(host: &Host, program: &str, arguments: &[&str], input: &str) -> anyhow::Result<()> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the textbook form is what these programs make"
    )]
    let mut command = std::process::Command::new(program);
    command.args(arguments).stdin(std::process::Stdio::piped());
    let mut child = host.host.run(move || command.spawn())?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let status = child.wait()?;
    ensure!(status.success(), "{program}: {status}");
    Ok(())
}

/// Connections that are allowed, while others are dropped as fast as a client can send them,
/// without and with the verdict log in turn.
pub(crate) fn measure_drops(rounds: u32, time: Duration) -> anyhow::Result<()> {
    let size = Size {
        pods: 2,
        local: 2,
        namespaces: 2,
        policies: 2,
        changes: 0,
    };
    let mut index = size.index();
    // Whoever the client is: port 80 is open, the rest is dropped.
    index.set_policy(Policy {
        name: ("ns1".to_owned(), "closed".to_owned()),
        pods: Selector::default(),
        ingress: Some(vec![]),
        egress: None,
    });
    let desired = index.desired();
    let mut variants = Vec::new();
    for log in [Log::NOTHING, Log::DROPS] {
        let host = Host::new();
        let transaction = plan(None, &compile(&desired, &mut Names::default(), log));
        host.host.run(|| Connection::open()?.apply(&transaction))?;
        variants.push((log, host, Samples::default(), 0));
    }
    for round in 0..=rounds {
        for (log, host, connected, told) in &mut variants {
            let (rate, logged) = while_flooded(host, log.drops, time)?;
            if round > 0 {
                connected.add(rate);
                *told += logged;
            }
        }
    }
    println!(
        "\nWhile another client's datagrams are dropped, some thousand a second, the median of \
         {rounds} rounds.\n"
    );
    println!(
        "| verdict log | connections per second | against off | drops told |\n|---|---|---|---|"
    );
    let off = variants[0].2.median();
    for (log, _, connected, told) in &variants {
        println!(
            "| {} | {:.0} | {} | {told} |",
            if log.drops { "on" } else { "off" },
            connected.median(),
            against(connected.median(), off)
        );
    }
    Ok(())
}

/// Connections per second, and how many drops were told meanwhile.
fn while_flooded(host: &Host, log: bool, time: Duration) -> anyhow::Result<(f64, u64)> {
    let (ended, logged) = (AtomicBool::new(false), AtomicU64::new(0));
    let closed: SocketAddr = (address(SERVER), 81).into();
    let rate = thread::scope(|scope| {
        scope.spawn(|| host.client.run(|| flood(closed, &ended)));
        if log {
            scope.spawn(|| host.host.block_on(read_log(&ended, &logged)));
        }
        let rate = connections(host, time);
        ended.store(true, Ordering::Relaxed);
        rate
    })?;
    Ok((rate, logged.load(Ordering::Relaxed)))
}

fn flood(closed: SocketAddr, ended: &AtomicBool) {
    let any: IpAddr = [0, 0, 0, 0].into();
    let Ok(socket) = std::net::UdpSocket::bind((any, 0)) else {
        return;
    };
    while !ended.load(Ordering::Relaxed) {
        // What is dropped on the way is no error here.
        let _ = socket.send_to(b"x", closed);
        thread::sleep(Duration::from_micros(200));
    }
}

async fn read_log(ended: &AtomicBool, logged: &AtomicU64) {
    // A kernel without NFLOG tells nothing, which the table shows.
    let Ok(mut log) = Nflog::open(LOG_GROUP) else {
        return;
    };
    while !ended.load(Ordering::Relaxed) {
        let next = tokio::time::timeout(Duration::from_millis(100), log.next());
        if let Ok(Ok(packets)) = next.await {
            logged.fetch_add(packets.len() as u64, Ordering::Relaxed);
        }
    }
}
