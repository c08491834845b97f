//! Two pods behind a host, and what goes between them.

use std::collections::BTreeSet;
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

use crate::Rules;
use crate::cluster::{Size, address, interface};

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
fn connections(host: &Host, seconds: u64) -> anyhow::Result<f64> {
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
                        while start.elapsed() < Duration::from_secs(seconds) {
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
fn throughput(host: &Host, seconds: u64) -> anyhow::Result<f64> {
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
            while start.elapsed() < Duration::from_secs(seconds) {
                stream.write_all(&buffer)?;
            }
            Ok(())
        })?;
        let total = receiver.join();
        let total = total.map_err(|_| anyhow::anyhow!("the receiver panicked"))??;
        Ok(total as f64 * 8.0 / 1e9 / start.elapsed().as_secs_f64())
    })
}

pub(crate) fn measure(rules: Rules, size: &Size, seconds: u64) -> anyhow::Result<()> {
    let host = Host::new();
    match rules {
        Rules::None => {}
        Rules::Nftables => write_nftables(&host, size)?,
        Rules::Ipset => write_ipset(&host, size)?,
    }
    let policies = if rules == Rules::None {
        0
    } else {
        size.policies
    };
    println!("{rules:?}, {policies} policies");
    println!(
        "connections in a second: {:.0}",
        connections(&host, seconds)?
    );
    println!("throughput: {:.2} Gbit/s", throughput(&host, seconds)?);
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
        for rule in &desired.policies[*policy] {
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
    for (name, own) in &desired.endpoints {
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

/// Connections that are allowed, while a third pod's are dropped as fast as it can send.
pub(crate) fn measure_drops(log: bool, seconds: u64) -> anyhow::Result<()> {
    let host = Host::new();
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
    let chosen = if log { Log::DROPS } else { Log::NOTHING };
    let compiled = compile(&index.desired(), &mut Names::default(), chosen);
    let transaction = plan(None, &compiled);
    host.host.run(|| Connection::open()?.apply(&transaction))?;
    let (ended, logged) = (AtomicBool::new(false), AtomicU64::new(0));
    let closed: SocketAddr = (address(SERVER), 81).into();
    let rate = thread::scope(|scope| {
        scope.spawn(|| host.client.run(|| flood(closed, &ended)));
        if log {
            scope.spawn(|| host.host.block_on(read_log(&ended, &logged)));
        }
        let rate = connections(&host, seconds);
        ended.store(true, Ordering::Relaxed);
        rate
    })?;
    println!("log {log}: connections in a second {rate:.0}");
    println!("told: {}", logged.load(Ordering::Relaxed));
    Ok(())
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
    let Ok(mut log) = Nflog::open(LOG_GROUP) else {
        println!("this kernel has no NFLOG");
        return;
    };
    let mut prefixes = BTreeSet::new();
    while !ended.load(Ordering::Relaxed) {
        let next = tokio::time::timeout(Duration::from_millis(100), log.next());
        if let Ok(Ok(packets)) = next.await {
            logged.fetch_add(packets.len() as u64, Ordering::Relaxed);
            prefixes.extend(packets.into_iter().map(|own| own.prefix));
        }
    }
    println!("prefixes: {prefixes:?}");
}
