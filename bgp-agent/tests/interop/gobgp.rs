//! GoBGP.

use bgp_agent::config::{Filter, Peer};
use bgp_agent::wire::open::AddPath;

use super::bird::bird;
use super::lan::{Daemon, Lan, Running, config, routes, set, wait_for, write};

/// Starts it on one of the other machines.
pub(crate) fn gobgpd(lan: &Lan, machine: usize, config: &str) -> Daemon {
    let file = write(lan.directory.path(), "gobgpd.toml", config);
    let arguments = ["-f", &file, "--api-hosts", "127.0.0.1:50051"];
    Daemon::start(&lan.theirs[machine], "gobgpd", &arguments)
}

/// A session of IPv4 with ours; `more` is about the family.
fn with_us(asn: u32, router_id: &str, more: &str) -> String {
    format!(
        r#"
[global.config]
  as = {asn}
  router-id = "{router_id}"
[[neighbors]]
  [neighbors.config]
    neighbor-address = "192.0.2.1"
    peer-as = 64512
  [neighbors.timers.config]
    connect-retry = 1
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "ipv4-unicast"
{more}"#
    )
}

#[test]
fn gobgp_takes_and_gives_routes_with_four_octet_numbers() {
    let lan = Lan::new(1);
    let _gobgpd = gobgpd(&lan, 0, &with_us(4_200_000_000, "192.0.2.2", ""));
    let peer = Peer {
        import: Filter::ACCEPT,
        export: Filter::ACCEPT,
        ..Peer::external(4_200_000_000)
    };
    let _running = Running::start(&lan, config(&[("192.0.2.2", peer)]));
    let gobgp = |arguments: &[&str]| lan.theirs[0].command("gobgp", arguments);
    let add = [
        "global",
        "rib",
        "add",
        "10.9.0.0/16",
        "nexthop",
        "192.0.2.2",
    ];
    wait_for("GoBGP's API", || gobgp(&add).status.success());
    wait_for("GoBGP's route", || {
        routes(&lan.ours, "203") == set(&["10.9.0.0/16 via 192.0.2.2"])
    });
    wait_for("our range in GoBGP", || {
        let output = gobgp(&["global", "rib", "10.244.1.0/24"]);
        String::from_utf8_lossy(&output.stdout).contains("64512")
    });
    gobgp(&["global", "rib", "del", "10.9.0.0/16"]);
    wait_for("the withdrawal", || routes(&lan.ours, "203").is_empty());
}

#[test]
fn gobgp_hears_of_every_path_from_our_reflector() {
    let lan = Lan::new(2);
    let two = "protocol static second { ipv4; route 10.77.0.0/16 blackhole { bgp_med = 10; }; }
        protocol static third { ipv4; route 10.77.0.0/16 blackhole { bgp_med = 20; }; }";
    let options =
        "ipv4 { import all; export where source = RTS_STATIC; next hop self; add paths tx; };";
    let _bird = bird(&lan, 64512, options, two);
    let add_path = "    [neighbors.afi-safis.add-paths.config]\n      receive = true\n";
    let _gobgpd = gobgpd(&lan, 1, &with_us(64512, "192.0.2.3", add_path));
    let client = Peer {
        client: true,
        add_path: Some(AddPath {
            receive: true,
            send: true,
        }),
        ..Peer::internal(64512)
    };
    let peers = [("192.0.2.2", client.clone()), ("192.0.2.3", client)];
    let _running = Running::start(&lan, config(&peers));
    wait_for("both paths in GoBGP", || {
        let output = lan.theirs[1].command("gobgp", &["global", "rib", "10.77.0.0/16", "-j"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let read: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let all = read.as_object().into_iter().flatten();
        all.filter_map(|(_, paths)| paths.as_array())
            .any(|paths| paths.len() == 2)
    });
}
