//! FRR: zebra, bgpd and bfdd.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use bgp_agent::bfd;
use bgp_agent::config::{Config, Filter, Password, Peer};
use bgp_agent::wire::open::AddPath;
use kernel::testing::TestNetns;

use super::bird::bird;
use super::lan::{Daemon, Lan, Running, config, routes, set, wait_for, write};

/// The daemons of one machine; `number` is the last part of its address.
pub(crate) struct Frr<'a> {
    netns: &'a TestNetns,
    sockets: String,
    bgpd: Option<Daemon>,
    bgpd_arguments: Vec<String>,
    _others: [Daemon; 2],
}

impl<'a> Frr<'a> {
    pub(crate) fn start(lan: &'a Lan, number: usize, bgp: &str) -> Self {
        let directory = lan.directory.path().join(format!("frr{number}"));
        std::fs::create_dir(&directory).unwrap();
        // The daemons give up root and keep what they need.
        for (path, mode) in [(lan.directory.path(), 0o755), (directory.as_path(), 0o777)] {
            std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        }
        let netns = &lan.theirs[number - 2];
        let place = |name: &str| directory.join(name).to_str().unwrap().to_owned();
        let (sockets, zebra_socket) = (place(""), place("zserv.api"));
        let empty = write(&directory, "empty.conf", "");
        let bgp = write(&directory, "bgpd.conf", bgp);
        let arguments = |name: &str, file: &str| -> Vec<String> {
            let pid = place(&format!("{name}.pid"));
            let mut all = vec!["-u", "frr", "-g", "frr", "-P", "0", "-f", file, "-i", &pid];
            all.extend(["-z", &zebra_socket, "--vty_socket", &sockets]);
            all.into_iter().map(str::to_owned).collect()
        };
        let zebra = Self::daemon(netns, "zebra", &arguments("zebra", &empty));
        wait_for("zebra", || directory.join("zserv.api").exists());
        let mut of_bfdd = arguments("bfdd", &empty);
        of_bfdd.extend(["--bfdctl".to_owned(), place("bfdd.sock")]);
        let bfdd = Self::daemon(netns, "bfdd", &of_bfdd);
        let bgpd_arguments = arguments("bgpd", &bgp);
        Self {
            netns,
            bgpd: Some(Self::daemon(netns, "bgpd", &bgpd_arguments)),
            bgpd_arguments,
            sockets,
            _others: [bfdd, zebra],
        }
    }

    fn daemon(netns: &TestNetns, name: &str, arguments: &[String]) -> Daemon {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Daemon::start(netns, &format!("/usr/lib/frr/{name}"), &arguments)
    }

    /// Kills the BGP daemon; the others run on.
    pub(crate) fn kill_bgp(&mut self) {
        self.bgpd = None;
    }

    pub(crate) fn start_bgp(&mut self) {
        self.bgpd = Some(Self::daemon(self.netns, "bgpd", &self.bgpd_arguments));
    }

    /// Gives commands of the configuration.
    pub(crate) fn configure(&self, commands: &[&str]) {
        let mut arguments = vec!["--vty_socket", &self.sockets, "-c", "configure terminal"];
        for command in commands {
            arguments.extend(["-c", command]);
        }
        self.netns.command("vtysh", &arguments);
    }

    pub(crate) fn show(&self, command: &str) -> String {
        let arguments = ["--vty_socket", &self.sockets, "-c", command];
        let output = self.netns.command("vtysh", &arguments);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// A router with two networks to tell; `more` stands in the router's part.
pub(crate) fn router(number: usize, asn: u32, more: &str, v4: &str, v6: &str) -> String {
    format!(
        "router bgp {asn}
 bgp router-id 192.0.2.{number}
 no bgp ebgp-requires-policy
 no bgp network import-check
 neighbor 192.0.2.1 remote-as 64512
 neighbor 192.0.2.1 timers connect 1
 {more}
 address-family ipv4 unicast
  network 10.60.{number}.0/24
  {v4}
 exit-address-family
 address-family ipv6 unicast
  network fd00:60:{number}::/48
  neighbor 192.0.2.1 activate
  neighbor 192.0.2.1 route-map v6 out
  {v6}
 exit-address-family
route-map v6 permit 10
 set ipv6 next-hop global 2001:db8::{number}
"
    )
}

const OURS: [&str; 2] = [
    "10.60.2.0/24 via 192.0.2.2",
    "fd00:60:2::/48 via 2001:db8::2",
];
const THEIRS: [&str; 2] = [
    "10.244.1.0/24 via 192.0.2.1",
    "fd00:10:244:1::/64 via 2001:db8::1",
];

fn open(asn: u32) -> Peer {
    Peer {
        import: Filter::ACCEPT,
        export: Filter::ACCEPT,
        ..Peer::internal(asn)
    }
}

fn both_have_routes(lan: &Lan) {
    wait_for("our routes", || routes(&lan.ours, "203") == set(&OURS));
    wait_for("FRR's routes", || {
        routes(&lan.theirs[0], "bgp") == set(&THEIRS)
    });
}

#[test]
fn routes_of_both_families_pass_and_a_withdrawn_one_goes() {
    let lan = Lan::new(1);
    let frr = Frr::start(&lan, 2, &router(2, 4_200_000_001, "", "", ""));
    let peers = [("192.0.2.2", open(4_200_000_001))];
    let running = Running::start(&lan, config(&peers));
    both_have_routes(&lan);
    assert!(
        frr.show("show bgp ipv4 unicast 10.244.1.0/24")
            .contains("64512")
    );
    let mut less: Config = config(&peers);
    less.originate.retain(|range, _| range.is_ipv6());
    running.configs.blocking_send(less).unwrap();
    wait_for("the withdrawal", || {
        routes(&lan.theirs[0], "bgp") == set(&THEIRS[1..])
    });
    frr.show("clear bgp 192.0.2.1 soft");
    assert_eq!(lan.neighbors()[0].flaps, 0, "a refresh keeps the session");
}

#[test]
fn a_signed_session_with_failure_detection_ends_with_the_link() {
    let lan = Lan::new(1);
    let more = "neighbor 192.0.2.1 password s3cret\n neighbor 192.0.2.1 bfd";
    let frr = Frr::start(&lan, 2, &router(2, 64512, more, "", ""));
    let peer = Peer {
        password: Some(Password::new("s3cret")),
        bfd: Some(bfd::Settings::default()),
        ..open(64512)
    };
    let _running = Running::start(&lan, config(&[("192.0.2.2", peer)]));
    both_have_routes(&lan);
    wait_for("BFD", || lan.neighbors()[0].bfd.as_deref() == Some("up"));
    wait_for("FRR's side of BFD", || {
        frr.show("show bfd peers").contains("Status: up")
    });
    let cut = lan.theirs[0].command("ip", &["link", "set", "eth0", "down"]);
    assert!(cut.status.success());
    wait_for("the end of the routes", || {
        routes(&lan.ours, "203").is_empty()
    });
    let last_end = lan.neighbors()[0].last_end.clone();
    assert!(last_end.unwrap().contains("BFD"));
}

#[test]
fn our_reflector_passes_routes_between_clients_with_every_path() {
    let lan = Lan::new(2);
    let second = "protocol static second { ipv4; route 10.77.0.0/16 blackhole { bgp_med = 10; }; }
        protocol static third { ipv4; route 10.77.0.0/16 blackhole { bgp_med = 20; }; }";
    let options =
        "ipv4 { import all; export where source = RTS_STATIC; next hop self; add paths tx; };";
    let _bird = bird(&lan, 64512, options, second);
    let frr = Frr::start(&lan, 3, &router(3, 64512, "", "", ""));
    let client = Peer {
        client: true,
        add_path: Some(AddPath {
            receive: true,
            send: true,
        }),
        ..open(64512)
    };
    let peers = [("192.0.2.2", client.clone()), ("192.0.2.3", client)];
    let _running = Running::start(&lan, config(&peers));
    wait_for("both paths", || {
        lan.route("10.77.0.0/16")
            .is_some_and(|own| own.paths.len() == 2)
    });
    wait_for("both paths in FRR", || {
        frr.show("show bgp ipv4 unicast 10.77.0.0/16")
            .contains("2 available")
    });
    let shown = frr.show("show bgp ipv4 unicast 10.77.0.0/16");
    assert!(shown.contains("Originator: 192.0.2.2"), "{shown}");
    assert!(shown.contains("Cluster list: 192.0.2.1"), "{shown}");
    wait_for("FRR's range with BIRD", || {
        routes(&lan.theirs[0], "bird").contains("10.60.3.0/24 via 192.0.2.3")
    });
    assert_eq!(
        lan.route("10.77.0.0/16").unwrap().paths[0].why.as_deref(),
        Some("lower MED of the same neighbour")
    );
}

#[test]
fn we_are_a_client_of_frrs_reflector() {
    let lan = Lan::new(2);
    let more = "neighbor 192.0.2.3 remote-as 64512\n neighbor 192.0.2.3 timers connect 1";
    let clients =
        "neighbor 192.0.2.1 route-reflector-client\n  neighbor 192.0.2.3 route-reflector-client";
    let _reflector = Frr::start(&lan, 2, &router(2, 64512, more, clients, ""));
    let towards = router(3, 64512, "", "", "").replace("192.0.2.1", "192.0.2.2");
    let _client = Frr::start(&lan, 3, &towards);
    let _running = Running::start(&lan, config(&[("192.0.2.2", open(64512))]));
    wait_for("the other client's range", || {
        routes(&lan.ours, "203").contains("10.60.3.0/24 via 192.0.2.3")
    });
    wait_for("our range with the other client", || {
        routes(&lan.theirs[1], "bgp").contains("10.244.1.0/24 via 192.0.2.1")
    });
    let path = lan.route("10.60.3.0/24").unwrap().paths[0].clone();
    assert_eq!(path.originator.as_deref(), Some("192.0.2.3"));
}

#[test]
fn ipv4_routes_have_ipv6_next_hops_where_nodes_have_no_ipv4() {
    let lan = Lan::new(1);
    let bgp = "router bgp 65002
 bgp router-id 192.0.2.2
 no bgp ebgp-requires-policy
 no bgp network import-check
 neighbor 2001:db8::1 remote-as 64512
 neighbor 2001:db8::1 timers connect 1
 neighbor 2001:db8::1 capability extended-nexthop
 address-family ipv4 unicast
  network 10.61.0.0/16
 exit-address-family
";
    for netns in [&lan.ours, &lan.theirs[0]] {
        netns.command("ip", &["-4", "address", "flush", "dev", "eth0"]);
    }
    let _frr = Frr::start(&lan, 2, bgp);
    let mut config = config(&[("2001:db8::2", open(65002))]);
    config.next_hop_v4 = None;
    let _running = Running::start(&lan, config);
    wait_for("the route", || {
        routes(&lan.ours, "203").contains("10.61.0.0/16 via 2001:db8::2")
    });
    wait_for("our range with FRR", || {
        routes(&lan.theirs[0], "bgp")
            .iter()
            .any(|own| own.starts_with("10.244.1.0/24 via"))
    });
}
