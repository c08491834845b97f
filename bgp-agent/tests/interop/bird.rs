//! BIRD 2.

use std::time::Duration;

use bgp_agent::bfd;
use bgp_agent::config::{
    Community, Filter, FilterRule, Match, Password, Peer, PrefixMatch, Verdict,
};

use super::lan::{Daemon, Lan, Running, config, routes, set, wait_for, write};

/// A daemon at 192.0.2.2; `options` stand in its BGP protocol, `more` beside it.
pub(crate) fn bird(lan: &Lan, asn: u32, options: &str, more: &str) -> Daemon {
    bird_with(lan, asn, options, more, &[])
}

/// The same after a restart in which its kernel went on forwarding, and it says so.
pub(crate) fn bird_again(lan: &Lan, asn: u32, options: &str, more: &str) -> Daemon {
    bird_with(lan, asn, options, more, &["-R"])
}

fn bird_with(lan: &Lan, asn: u32, options: &str, more: &str, arguments: &[&str]) -> Daemon {
    let config = format!(
        r#"
router id 192.0.2.2;
protocol device {{}}
protocol direct {{ ipv4; ipv6; interface "eth0"; }}
protocol kernel {{ ipv4 {{ export all; }}; }}
protocol kernel {{ ipv6 {{ export all; }}; }}
protocol static {{ ipv4; route 10.244.2.0/24 blackhole; }}
protocol static {{ ipv6; route fd00:10:244:2::/64 blackhole; }}
{more}
template bgp ours_template {{
    local 192.0.2.2 as {asn};
    neighbor 192.0.2.1 as 64512;
    graceful restart on;
    connect delay time 1;
    connect retry time 1;
    error wait time 1, 2;
    ipv4 {{ import all; export where source = RTS_STATIC; next hop self; }};
    ipv6 {{ import all; export where source = RTS_STATIC; next hop address 2001:db8::2; }};
}}
protocol bgp ours from ours_template {{
    {options}
}}
"#
    );
    let directory = lan.directory.path();
    let file = write(directory, "bird.conf", &config);
    let control = directory.join("bird.ctl");
    let mut all = vec!["-f", "-c", &file, "-s", control.to_str().unwrap()];
    all.extend(arguments);
    Daemon::start(&lan.theirs[0], "bird", &all)
}

pub(crate) fn birdc(lan: &Lan, command: &str) -> String {
    let control = lan.directory.path().join("bird.ctl");
    let arguments = ["-s", control.to_str().unwrap(), command];
    let output = lan.theirs[0].command("birdc", &arguments);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

const OURS: [&str; 2] = [
    "10.244.2.0/24 via 192.0.2.2",
    "fd00:10:244:2::/64 via 2001:db8::2",
];
const THEIRS: [&str; 2] = [
    "10.244.1.0/24 via 192.0.2.1",
    "fd00:10:244:1::/64 via 2001:db8::1",
];

fn both_have_routes(lan: &Lan) {
    wait_for("our routes", || routes(&lan.ours, "203") == set(&OURS));
    wait_for("BIRD's routes", || {
        routes(&lan.theirs[0], "bird") == set(&THEIRS)
    });
}

fn internal() -> Peer {
    Peer::internal(64512)
}

#[test]
fn routes_of_both_families_pass_to_and_from_bird() {
    let lan = Lan::new(1);
    for passive in [true, false] {
        let _bird = bird(&lan, 64512, if passive { "" } else { "passive;" }, "");
        let peer = Peer {
            passive,
            ..internal()
        };
        let _running = Running::start(&lan, config(&[("192.0.2.2", peer)]));
        both_have_routes(&lan);
    }
}

#[test]
fn routes_stay_while_either_side_restarts() {
    let lan = Lan::new(1);
    let peers = [("192.0.2.2", internal())];
    let daemon = bird(&lan, 64512, "", "");
    let running = Running::start(&lan, config(&peers));
    both_have_routes(&lan);
    drop(running);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(routes(&lan.ours, "203"), set(&OURS), "in the kernel");
    assert_eq!(routes(&lan.theirs[0], "bird"), set(&THEIRS), "with BIRD");
    let _running = Running::start(&lan, config(&peers));
    drop(daemon);
    std::thread::sleep(Duration::from_millis(300));
    let _daemon = bird(&lan, 64512, "", "");
    wait_for("BIRD's routes again", || {
        routes(&lan.theirs[0], "bird") == set(&THEIRS)
    });
    assert_eq!(routes(&lan.ours, "203"), set(&OURS));
}

#[test]
fn a_signed_session_comes_up_with_the_right_key_only() {
    let lan = Lan::new(1);
    let with_key = |key: &str| {
        let password = Some(Password::new(key));
        config(&[(
            "192.0.2.2",
            Peer {
                password,
                ..internal()
            },
        )])
    };
    // Once BIRD connects, once we do.
    for options in ["password \"s3cret\";", "password \"s3cret\"; passive;"] {
        let _bird = bird(&lan, 64512, options, "");
        let before = lan.refused_signatures();
        let running = Running::start(&lan, with_key("wrong"));
        wait_for("a segment with the wrong key", || {
            lan.refused_signatures() > before
        });
        assert!(!lan.is_up());
        running.configs.blocking_send(with_key("s3cret")).unwrap();
        wait_for("the session", || lan.is_up());
        assert!(lan.neighbors()[0].signed);
    }
}

#[test]
fn sessions_with_ttl_security_come_up_when_both_sides_have_it() {
    let lan = Lan::new(1);
    let peer = Peer {
        ttl_security: Some(1),
        import: Filter::ACCEPT,
        export: Filter::ACCEPT,
        ..Peer::external(65002)
    };
    for (options, comes_up) in [("ttl security on;", true), ("ttl security off;", false)] {
        // Without it BIRD sends to other systems with one hop, which is too few for us.
        let _bird = bird(&lan, 65002, options, "");
        let _running = Running::start(&lan, config(&[("192.0.2.2", peer.clone())]));
        if comes_up {
            wait_for("the session", || lan.is_up());
        } else {
            std::thread::sleep(Duration::from_secs(4));
            assert!(!lan.is_up());
        }
    }
}

#[test]
fn bfd_notices_a_cut_link_long_before_the_hold_time() {
    let lan = Lan::new(1);
    let peer = Peer {
        bfd: Some(bfd::Settings::default()),
        ..internal()
    };
    // Of internal peers BIRD thinks that they are far away unless it is told otherwise.
    let bfd = "protocol bfd { interface \"eth0\" { min rx interval 300 ms; min tx interval 300 ms; \
               multiplier 3; }; }";
    let _bird = bird(&lan, 64512, "direct; bfd on;", bfd);
    let _running = Running::start(&lan, config(&[("192.0.2.2", peer)]));
    both_have_routes(&lan);
    let is_up = || lan.neighbors()[0].bfd.as_deref() == Some("up");
    wait_for("BFD", is_up);
    wait_for("BIRD's side of BFD", || {
        birdc(&lan, "show bfd sessions").contains("Up")
    });
    let cut = lan.theirs[0].command("ip", &["link", "set", "eth0", "down"]);
    assert!(cut.status.success());
    // The hold time is longer than our patience.
    wait_for("the end of the routes", || {
        routes(&lan.ours, "203").is_empty()
    });
    let last_end = lan.neighbors()[0].last_end.clone();
    assert!(last_end.unwrap().contains("BFD"));
    lan.theirs[0].command("ip", &["link", "set", "eth0", "up"]);
    lan.theirs[0].add_address("eth0", "2001:db8::2/64");
    both_have_routes(&lan);
}

#[test]
fn stale_routes_are_kept_for_long_with_a_mark() {
    let lan = Lan::new(1);
    let peer = Peer {
        long_lived: 3600,
        ..internal()
    };
    let options = "graceful restart time 1; long lived graceful restart on; \
                   long lived stale time 3600;";
    let daemon = bird(&lan, 64512, options, "");
    let _running = Running::start(&lan, config(&[("192.0.2.2", peer)]));
    both_have_routes(&lan);
    drop(daemon);
    wait_for("the mark", || {
        let route = lan.route("10.244.2.0/24");
        let marked = |own: &str| own == "65535:6";
        route.is_some_and(|own| own.paths[0].communities.iter().any(|c| marked(c)))
    });
    assert_eq!(routes(&lan.ours, "203"), set(&OURS));
}

#[test]
fn communities_pass_both_ways_and_filters_decide_on_them() {
    let lan = Lan::new(1);
    let tagged = "protocol static tagged { ipv4; \
        route 10.7.0.0/16 blackhole { bgp_community.add((65002, 7)); \
            bgp_large_community.add((65002, 1, 2)); }; \
        route 10.8.0.0/16 blackhole { bgp_community.add((65002, 8)); }; }";
    let _bird = bird(&lan, 65002, "", tagged);
    let refused = FilterRule {
        matches: Match {
            communities: vec!["65002:8".parse().unwrap()],
            ..Match::default()
        },
        verdict: Verdict::Reject,
        ..FilterRule::default()
    };
    let pods = FilterRule {
        matches: Match {
            prefix: Some(PrefixMatch::within("10.244.0.0/16".parse().unwrap())),
            ..Match::default()
        },
        changes: vec![bgp_agent::config::Change::AddCommunity(
            Community::Standard(64512 << 16 | 5),
        )],
        ..FilterRule::default()
    };
    let peer = Peer {
        import: Filter {
            rules: vec![refused],
            rest: Verdict::Accept,
        },
        export: Filter {
            rules: vec![pods],
            rest: Verdict::Reject,
        },
        ..Peer::external(65002)
    };
    let running = Running::start(&lan, config(&[("192.0.2.2", peer.clone())]));
    wait_for("the tagged route", || lan.route("10.7.0.0/16").is_some());
    let communities = lan.route("10.7.0.0/16").unwrap().paths[0]
        .communities
        .clone();
    assert_eq!(communities, ["65002:7", "65002:1:2"]);
    assert!(lan.route("10.8.0.0/16").is_none());
    wait_for("our range with its community", || {
        birdc(&lan, "show route all 10.244.1.0/24").contains("(64512,5)")
    });
    assert!(!birdc(&lan, "show route").contains("fd00:10:244:1::/64"));
    // Another filter asks BIRD for its routes again; the session stays.
    let import = Filter::ACCEPT;
    let open = Peer { import, ..peer };
    let open = config(&[("192.0.2.2", open)]);
    running.configs.blocking_send(open).unwrap();
    wait_for("the refused route", || lan.route("10.8.0.0/16").is_some());
    assert_eq!(lan.neighbors()[0].flaps, 0);
}
