//! Machines on one link, speakers and daemons on them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use bgp_agent::Serving;
use bgp_agent::config::{Config, Origination, Peer};
use bgp_agent::report::{Neighbor, Route};
use kernel::icmp::{Echo, Echoed};
use kernel::testing::TestNetns;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(60);

/// The kernel's counters of the calling thread's namespace: a line of names, and one of values.
fn refused_signatures() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
    let lines: Vec<&str> = text
        .lines()
        .filter(|own| own.starts_with("TcpExt:"))
        .collect();
    let [names, values] = lines[..] else {
        panic!("{text}")
    };
    let refused = ["TCPMD5Failure", "TCPMD5NotFound", "TCPMD5Unexpected"];
    let both = names.split(' ').zip(values.split(' '));
    let own = both.filter(|(name, _)| refused.contains(name));
    own.map(|(_, value)| value.parse::<u64>().unwrap()).sum()
}

/// Machines on one link: the first, ours, has .1, the others .2 and so on.
pub(crate) struct Lan {
    pub(crate) ours: TestNetns,
    pub(crate) theirs: Vec<TestNetns>,
    _switch: TestNetns,
    pub(crate) directory: TempDir,
}

impl Lan {
    pub(crate) fn new(others: usize) -> Self {
        let switch = TestNetns::new("switch");
        switch.add_bridge("lan");
        let machine = |number: usize, label: &str| {
            let netns = TestNetns::new(label);
            netns.forward();
            let port = format!("port{number}");
            netns.join("eth0", &switch, &port);
            switch.enslave("lan", &port);
            netns.add_address("eth0", &format!("192.0.2.{number}/24"));
            netns.add_address("eth0", &format!("2001:db8::{number}/64"));
            netns
        };
        Self {
            ours: machine(1, "ours"),
            theirs: (0..others).map(|n| machine(n + 2, "theirs")).collect(),
            _switch: switch,
            directory: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn control(&self) -> PathBuf {
        self.directory.path().join("control")
    }

    /// What the speaker answers.
    fn ask(&self, path: &str) -> Option<String> {
        let socket = self.control();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut stream = tokio::net::UnixStream::connect(socket).await.ok()?;
            let request = format!("GET {path} HTTP/1.0\r\nHost: x\r\n\r\n");
            stream.write_all(request.as_bytes()).await.ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.ok()?;
            Some(answer.split_once("\r\n\r\n")?.1.to_owned())
        })
    }

    pub(crate) fn text(&self, path: &str) -> String {
        self.ask(path).unwrap_or_default()
    }

    pub(crate) fn neighbors(&self) -> Vec<Neighbor> {
        serde_json::from_str(&self.text("/v1/neighbors")).unwrap_or_default()
    }

    /// The one route with this prefix.
    pub(crate) fn route(&self, prefix: &str) -> Option<Route> {
        let all: Vec<Route> =
            serde_json::from_str(&self.text(&format!("/v1/routes?prefix={prefix}"))).ok()?;
        all.into_iter().find(|route| route.prefix == prefix)
    }

    /// Cuts the first other machine off, or joins it again.
    pub(crate) fn cut(&self, cut: bool) {
        let netns = &self.theirs[0];
        let state = if cut { "down" } else { "up" };
        let set = netns.command("ip", &["link", "set", "eth0", state]);
        assert!(set.status.success(), "{set:?}");
        if !cut {
            // The kernel takes IPv6 addresses away from a link that is down.
            netns.add_address("eth0", "2001:db8::2/64");
        }
    }

    /// How many packets to an address are not answered while something happens.
    pub(crate) fn while_pinging<T>(&self, to: &str, happens: impl FnOnce() -> T) -> (usize, T) {
        use std::sync::atomic::{AtomicBool, Ordering};
        let (ended, to) = (AtomicBool::new(false), ip(to));
        std::thread::scope(|scope| {
            let pinging = scope.spawn(|| {
                self.ours.run(|| {
                    let mut echo = Echo::open(to.is_ipv6()).unwrap();
                    let (mut answered, mut lost) = (0, 0);
                    while !ended.load(Ordering::Relaxed) {
                        match echo.send(to, 100, Duration::from_secs(1)).unwrap() {
                            Echoed::Answered => answered += 1,
                            _ => lost += 1,
                        }
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    assert!(answered > 0, "{to} never answers");
                    lost
                })
            });
            // Also when it panics: nobody would end the thread otherwise.
            let result = catch_unwind(AssertUnwindSafe(happens));
            ended.store(true, Ordering::Relaxed);
            let lost = pinging.join().unwrap();
            (lost, result.unwrap_or_else(|panic| resume_unwind(panic)))
        })
    }

    /// How many segments the machines have refused for their signature, or for having none.
    pub(crate) fn refused_signatures(&self) -> u64 {
        let all = [&self.ours].into_iter().chain(&self.theirs);
        all.map(|netns| netns.run(refused_signatures)).sum()
    }

    pub(crate) fn is_up(&self) -> bool {
        let all = self.neighbors();
        !all.is_empty() && all.iter().all(|own| own.state == "Established")
    }
}

/// The routes of the main tables with that protocol, as `ip route` prints them.
pub(crate) fn routes(netns: &TestNetns, protocol: &str) -> BTreeSet<String> {
    let mut routes = BTreeSet::new();
    for family in ["-4", "-6"] {
        let output = netns.command("ip", &[family, "route", "show", "proto", protocol]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        routes.extend(text.lines().filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let via = words.iter().position(|word| *word == "via")?;
            let gateway = words[via + 1..].iter().find(|word| **word != "inet6")?;
            Some(format!("{} via {gateway}", words[0]))
        }));
    }
    routes
}

pub(crate) fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(
            Instant::now() < deadline,
            "{what} did not happen within {PATIENCE:?}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub(crate) fn set(routes: &[&str]) -> BTreeSet<String> {
    routes.iter().map(|route| (*route).to_owned()).collect()
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A speaker at .1 with a pod range of each family.
pub(crate) fn config(peers: &[(&str, Peer)]) -> Config {
    let ranges = ["10.244.1.0/24", "fd00:10:244:1::/64"];
    let origination = Origination {
        blackhole: true,
        ..Origination::default()
    };
    let each = peers.iter().map(|(at, peer)| (ip(at), peer.clone()));
    Config {
        next_hop_v4: "192.0.2.1".parse().ok(),
        next_hop_v6: "2001:db8::1".parse().ok(),
        own_addresses: BTreeSet::from([ip("192.0.2.1"), ip("2001:db8::1")]),
        originate: ranges
            .iter()
            .map(|r| (r.parse().unwrap(), origination.clone()))
            .collect(),
        peers: each.collect::<BTreeMap<_, _>>(),
        multipath: 8,
        ..Config::new(64512, "192.0.2.1".parse().unwrap())
    }
}

/// A speaker in a thread of its own; it ends with this value, as if it was killed.
pub(crate) struct Running {
    shutdown: CancellationToken,
    pub(crate) configs: mpsc::Sender<Config>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Running {
    pub(crate) fn start(lan: &Lan, config: Config) -> Self {
        let shutdown = CancellationToken::new();
        let (path, token) = (lan.ours.path().to_owned(), shutdown.clone());
        let serving = Serving {
            control: Some(lan.control()),
            ..Serving::default()
        };
        let (configs, arriving) = mpsc::channel(1);
        configs.try_send(config).unwrap();
        let thread = std::thread::spawn(move || {
            let netns = kernel::netns::Netns::open(path).unwrap();
            netns.enter_this_thread().unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let serving = bgp_agent::serve(arriving, serving, token);
            runtime.block_on(serving).unwrap();
        });
        Self {
            shutdown,
            configs,
            thread: Some(thread),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Somebody else's daemon; killed with this value. When the test itself is killed, the next one
/// ends what is left in its namespaces.
pub(crate) struct Daemon(Child);

impl Daemon {
    pub(crate) fn start(netns: &TestNetns, program: &str, arguments: &[&str]) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "the peers of the tests are programs"
        )]
        let child = netns.run(|| {
            std::process::Command::new(program)
                .args(arguments)
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .spawn()
        });
        Self(child.unwrap_or_else(|error| panic!("{program}: {error}")))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Writes a daemon's file into the test's directory.
pub(crate) fn write(directory: &Path, name: &str, content: &str) -> String {
    let file = directory.join(name);
    std::fs::write(&file, content).unwrap();
    file.to_str().unwrap().to_owned()
}
