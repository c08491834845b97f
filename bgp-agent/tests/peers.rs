//! The speaker against others' daemons, in network namespaces: sessions, routes of both families
//! in both kernels, restarts. Needs root and Debian's `bird2` and `gobgpd`.
#![expect(clippy::unwrap_used, reason = "a test can do nothing else")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use bgp_agent::config::{Config, Origination, Peer};
use kernel::testing::TestNetns;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(20);

/// Two namespaces on one link: ours has .1, the other daemon's .2.
struct Link {
    ours: TestNetns,
    theirs: TestNetns,
}

impl Link {
    fn new() -> Self {
        let (ours, theirs) = (TestNetns::new("ours"), TestNetns::new("theirs"));
        for netns in [&ours, &theirs] {
            netns.sysctl("net/ipv6/conf/default/accept_dad", "0");
            netns.forward();
        }
        ours.join("eth0", &theirs, "eth0");
        ours.add_address("eth0", "192.0.2.1/24");
        theirs.add_address("eth0", "192.0.2.2/24");
        ours.add_address("eth0", "2001:db8::1/64");
        theirs.add_address("eth0", "2001:db8::2/64");
        Self { ours, theirs }
    }

    /// The routes of the main tables that the predicate picks, as `ip route` prints them.
    fn routes(netns: &TestNetns, protocol: &str) -> BTreeSet<String> {
        let mut routes = BTreeSet::new();
        for family in ["-4", "-6"] {
            let output = netns.command("ip", &[family, "route", "show", "proto", protocol]);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            routes.extend(text.lines().filter_map(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                let via = words.iter().position(|word| *word == "via")?;
                Some(format!("{} via {}", words[0], words.get(via + 1)?))
            }));
        }
        routes
    }
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(
            Instant::now() < deadline,
            "{what} did not happen within {PATIENCE:?}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn set(routes: &[&str]) -> BTreeSet<String> {
    routes.iter().map(|route| (*route).to_owned()).collect()
}

fn config(peer: Peer) -> Config {
    let ranges = ["10.244.1.0/24", "fd00:10:244:1::/64"];
    let origination = Origination {
        blackhole: true,
        ..Origination::default()
    };
    Config {
        local_as: 64512,
        router_id: "192.0.2.1".parse().unwrap(),
        cluster_id: 1,
        next_hop_v4: "192.0.2.1".parse().ok(),
        next_hop_v6: "2001:db8::1".parse().ok(),
        own_addresses: BTreeSet::from([
            "192.0.2.1".parse().unwrap(),
            "2001:db8::1".parse().unwrap(),
        ]),
        originate: ranges
            .iter()
            .map(|r| (r.parse().unwrap(), origination.clone()))
            .collect(),
        peers: BTreeMap::from([(IpAddr::from([192, 0, 2, 2]), peer)]),
        restart_time: 120,
        multipath: 8,
    }
}

/// A speaker in a thread of its own; it ends with this value, as if it was killed.
struct Running {
    shutdown: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Running {
    fn start(netns: &TestNetns, config: Config) -> Self {
        let shutdown = CancellationToken::new();
        let (path, token) = (netns.path().to_owned(), shutdown.clone());
        let thread = std::thread::spawn(move || {
            let netns = kernel::netns::Netns::open(path).unwrap();
            netns.enter_this_thread().unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let (sender, configs) = mpsc::channel(1);
                sender.send(config).await.unwrap();
                bgp_agent::serve(configs, bgp_agent::config::PORT, token)
                    .await
                    .unwrap();
            });
        });
        Self {
            shutdown,
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

/// Somebody else's daemon; killed with this value.
struct Daemon(Child);

impl Daemon {
    fn start(netns: &TestNetns, program: &str, arguments: &[&str]) -> Self {
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

fn bird(link: &Link, directory: &Path, asn: u32, extra: &str) -> Daemon {
    let config = format!(
        r#"
router id 192.0.2.2;
protocol device {{}}
protocol direct {{ ipv4; ipv6; interface "eth0"; }}
protocol kernel {{ ipv4 {{ export all; }}; }}
protocol kernel {{ ipv6 {{ export all; }}; }}
protocol static {{ ipv4; route 10.244.2.0/24 blackhole; }}
protocol static {{ ipv6; route fd00:10:244:2::/64 blackhole; }}
protocol bgp ours {{
    local 192.0.2.2 as {asn};
    neighbor 192.0.2.1 as 64512;
    graceful restart on;
    connect delay time 1;
    connect retry time 1;
    error wait time 1, 2;
    {extra}
    ipv4 {{ import all; export where source = RTS_STATIC; next hop self; }};
    ipv6 {{ import all; export where source = RTS_STATIC; next hop address 2001:db8::2; }};
}}
"#
    );
    let file = directory.join("bird.conf");
    std::fs::write(&file, config).unwrap();
    let control = directory.join("bird.ctl");
    let arguments = [
        "-f",
        "-c",
        file.to_str().unwrap(),
        "-s",
        control.to_str().unwrap(),
    ];
    Daemon::start(&link.theirs, "bird", &arguments)
}

const OURS: [&str; 2] = [
    "10.244.2.0/24 via 192.0.2.2",
    "fd00:10:244:2::/64 via 2001:db8::2",
];
const THEIRS: [&str; 2] = [
    "10.244.1.0/24 via 192.0.2.1",
    "fd00:10:244:1::/64 via 2001:db8::1",
];

#[test]
fn routes_of_both_families_pass_to_and_from_bird() {
    let link = Link::new();
    let directory = tempfile::tempdir().unwrap();
    for passive in [true, false] {
        let _bird = bird(
            &link,
            directory.path(),
            64512,
            if passive { "" } else { "passive;" },
        );
        let peer = Peer {
            passive,
            ..Peer::internal(64512)
        };
        let _running = Running::start(&link.ours, config(peer));
        wait_for("our routes", || {
            Link::routes(&link.ours, "203") == set(&OURS)
        });
        wait_for("BIRD's routes", || {
            Link::routes(&link.theirs, "bird") == set(&THEIRS)
        });
    }
}

#[test]
fn routes_stay_while_either_side_restarts_and_go_when_it_ends() {
    let link = Link::new();
    let directory = tempfile::tempdir().unwrap();
    let peer = Peer::internal(64512);
    let daemon = bird(&link, directory.path(), 64512, "");
    let running = Running::start(&link.ours, config(peer.clone()));
    wait_for("our routes", || {
        Link::routes(&link.ours, "203") == set(&OURS)
    });
    wait_for("BIRD's routes", || {
        Link::routes(&link.theirs, "bird") == set(&THEIRS)
    });
    drop(running);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(
        Link::routes(&link.ours, "203"),
        set(&OURS),
        "ours stay in the kernel"
    );
    assert_eq!(
        Link::routes(&link.theirs, "bird"),
        set(&THEIRS),
        "BIRD keeps them"
    );
    let _running = Running::start(&link.ours, config(peer));
    drop(daemon);
    std::thread::sleep(Duration::from_millis(300));
    let _daemon = bird(&link, directory.path(), 64512, "");
    wait_for("BIRD's routes again", || {
        Link::routes(&link.theirs, "bird") == set(&THEIRS)
    });
    assert_eq!(Link::routes(&link.ours, "203"), set(&OURS));
}

#[test]
fn a_route_that_somebody_deletes_comes_back() {
    let link = Link::new();
    let directory = tempfile::tempdir().unwrap();
    let _bird = bird(&link, directory.path(), 64512, "");
    let _running = Running::start(&link.ours, config(Peer::internal(64512)));
    wait_for("our routes", || {
        Link::routes(&link.ours, "203") == set(&OURS)
    });
    let deleted = link.ours.command("ip", &["route", "del", "10.244.2.0/24"]);
    assert!(deleted.status.success());
    wait_for("the route again", || {
        Link::routes(&link.ours, "203") == set(&OURS)
    });
}

#[test]
fn gobgp_takes_and_gives_routes_with_four_octet_numbers() {
    let link = Link::new();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("gobgpd.toml");
    std::fs::write(
        &file,
        r#"
[global.config]
  as = 4200000000
  router-id = "192.0.2.2"
[[neighbors]]
  [neighbors.config]
    neighbor-address = "192.0.2.1"
    peer-as = 64512
  [neighbors.timers.config]
    connect-retry = 1
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "ipv4-unicast"
"#,
    )
    .unwrap();
    let arguments = [
        "-f",
        file.to_str().unwrap(),
        "--api-hosts",
        "127.0.0.1:50051",
    ];
    let _gobgpd = Daemon::start(&link.theirs, "gobgpd", &arguments);
    let open = bgp_agent::config::Filter::ACCEPT;
    let peer = Peer {
        import: open.clone(),
        export: open,
        ..Peer::external(4_200_000_000)
    };
    let _running = Running::start(&link.ours, config(peer));
    let gobgp = |arguments: &[&str]| link.theirs.command("gobgp", arguments);
    wait_for("GoBGP's API", || {
        gobgp(&[
            "global",
            "rib",
            "add",
            "10.9.0.0/16",
            "nexthop",
            "192.0.2.2",
        ])
        .status
        .success()
    });
    wait_for("GoBGP's route", || {
        Link::routes(&link.ours, "203") == set(&["10.9.0.0/16 via 192.0.2.2"])
    });
    wait_for("our range in GoBGP", || {
        let output = gobgp(&["global", "rib", "10.244.1.0/24"]);
        String::from_utf8_lossy(&output.stdout).contains("64512")
    });
    gobgp(&["global", "rib", "del", "10.9.0.0/16"]);
    wait_for("the withdrawal", || {
        Link::routes(&link.ours, "203").is_empty()
    });
}
