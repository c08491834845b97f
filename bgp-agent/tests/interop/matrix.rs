//! What is promised of every peer, with BIRD, FRR and GoBGP in turn.

use bgp_agent::config::{
    Change, Community, Config, Filter, FilterRule, Match, Password, Peer, Verdict,
};

use super::frr::{Frr, router};
use super::lan::{Lan, Running, config, routes, wait_for};
use super::peers::{Kind, Neighbour, TAG, Wish};

const WIDE: u32 = 4_200_000_002;

fn open(asn: u32) -> Peer {
    Peer {
        import: Filter::ACCEPT,
        export: Filter::ACCEPT,
        ..Peer::internal(asn)
    }
}

fn towards(peer: Peer) -> Config {
    config(&[("192.0.2.2", peer)])
}

/// Without graceful restart: what is lost is lost at once.
fn abrupt(peer: Peer) -> Config {
    Config {
        restart_time: 0,
        ..towards(peer)
    }
}

fn both_know(lan: &Lan, neighbour: &Neighbour<'_>) {
    let kind = neighbour.kind;
    wait_for(&format!("{kind:?}'s routes with us"), || {
        routes(&lan.ours, "203") == neighbour.its_routes()
    });
    wait_for(&format!("our routes with {kind:?}"), || {
        neighbour.knows_v4() && neighbour.knows_v6()
    });
}

#[test]
fn sessions_come_up_from_either_side_with_both_families_and_wide_numbers() {
    for kind in Kind::ALL {
        for passive in [true, false] {
            let lan = Lan::new(1);
            let wish = Wish {
                passive,
                ..Wish::new(WIDE)
            };
            let neighbour = Neighbour::start(&lan, kind, wish);
            let ours = Peer {
                passive: !passive,
                ..open(WIDE)
            };
            let _running = Running::start(&lan, towards(ours));
            both_know(&lan, &neighbour);
            let path = lan.route(neighbour.range()).unwrap().paths[0].clone();
            assert!(path.as_path.contains(&WIDE.to_string()), "{path:?}");
        }
    }
}

#[test]
fn a_route_that_either_side_withdraws_goes_and_the_session_stays() {
    for kind in Kind::ALL {
        let lan = Lan::new(1);
        let neighbour = Neighbour::start(&lan, kind, Wish::new(65002));
        let running = Running::start(&lan, towards(open(65002)));
        both_know(&lan, &neighbour);
        neighbour.withdraw();
        wait_for(&format!("the end of {kind:?}'s route"), || {
            let left = routes(&lan.ours, "203");
            left.len() == 1 && left.is_subset(&neighbour.its_routes())
        });
        let mut less = towards(open(65002));
        less.originate.retain(|range, _| range.is_ipv6());
        running.configs.blocking_send(less).unwrap();
        wait_for(&format!("the end of our route with {kind:?}"), || {
            !neighbour.knows_v4()
        });
        assert!(neighbour.knows_v6());
        assert_eq!(lan.neighbors()[0].flaps, 0, "{kind:?}");
    }
}

#[test]
fn routes_of_a_peer_that_is_killed_go_and_come_back_with_it() {
    for kind in Kind::ALL {
        let lan = Lan::new(1);
        let mut neighbour = Neighbour::start(&lan, kind, Wish::new(65002));
        let _running = Running::start(&lan, abrupt(open(65002)));
        both_know(&lan, &neighbour);
        neighbour.kill();
        wait_for(&format!("the end of {kind:?}'s routes"), || {
            routes(&lan.ours, "203").is_empty()
        });
        neighbour.start_again();
        both_know(&lan, &neighbour);
    }
}

#[test]
fn a_cut_link_ends_the_routes_with_the_hold_time_and_a_whole_one_brings_them_back() {
    for kind in Kind::ALL {
        let lan = Lan::new(1);
        let neighbour = Neighbour::start(&lan, kind, Wish::new(65002));
        let peer = Peer {
            hold_time: 3,
            ..open(65002)
        };
        let _running = Running::start(&lan, abrupt(peer));
        both_know(&lan, &neighbour);
        lan.cut(true);
        wait_for(&format!("the end of {kind:?}'s routes"), || {
            routes(&lan.ours, "203").is_empty()
        });
        let last_end = lan.neighbors()[0].last_end.clone().unwrap_or_default();
        assert!(last_end.to_lowercase().contains("hold"), "{last_end}");
        lan.cut(false);
        both_know(&lan, &neighbour);
    }
}

#[test]
fn signed_sessions_come_up_with_the_right_key_only() {
    for kind in Kind::ALL {
        let lan = Lan::new(1);
        let wish = Wish {
            key: Some("s3cret"),
            ..Wish::new(65002)
        };
        let neighbour = Neighbour::start(&lan, kind, wish);
        let with_key = |key: &str| {
            towards(Peer {
                password: Some(Password::new(key)),
                ..open(65002)
            })
        };
        let running = Running::start(&lan, with_key("wrong"));
        wait_for("a segment with the wrong key", || {
            lan.refused_signatures() > 0
        });
        assert!(!lan.is_up(), "{kind:?}");
        running.configs.blocking_send(with_key("s3cret")).unwrap();
        both_know(&lan, &neighbour);
    }
}

#[test]
fn communities_pass_both_ways() {
    for kind in Kind::ALL {
        let lan = Lan::new(1);
        let wish = Wish {
            tagged: true,
            ..Wish::new(65002)
        };
        let neighbour = Neighbour::start(&lan, kind, wish);
        let tag = FilterRule {
            matches: Match::default(),
            changes: vec![Change::AddCommunity(Community::Standard(64512 << 16 | 5))],
            ..FilterRule::default()
        };
        let peer = Peer {
            export: Filter {
                rules: vec![tag],
                rest: Verdict::Accept,
            },
            ..open(65002)
        };
        let _running = Running::start(&lan, towards(peer));
        let communities = || {
            let route = lan.route(neighbour.range())?;
            Some(route.paths.first()?.communities.clone())
        };
        wait_for(&format!("{kind:?}'s community with us"), || {
            communities().is_some_and(|all| all == [TAG])
        });
        let ours = neighbour.community(64512, 5);
        wait_for(&format!("our community with {kind:?}"), || {
            neighbour.shown().contains(&ours)
        });
    }
}

#[test]
fn we_are_a_client_of_any_reflector() {
    for kind in Kind::ALL {
        let lan = Lan::new(2);
        let wish = Wish {
            reflects: true,
            ..Wish::new(64512)
        };
        let _reflector = Neighbour::start(&lan, kind, wish);
        let other = router(3, 64512, "", "", "").replace("192.0.2.1", "192.0.2.2");
        let _client = Frr::start(&lan, 3, &other);
        let _running = Running::start(&lan, towards(open(64512)));
        wait_for(&format!("the other client's range by {kind:?}"), || {
            routes(&lan.ours, "203").contains("10.60.3.0/24 via 192.0.2.3")
        });
        wait_for(&format!("our range by {kind:?}"), || {
            routes(&lan.theirs[1], "bgp").contains("10.244.1.0/24 via 192.0.2.1")
        });
        let path = lan.route("10.60.3.0/24").unwrap().paths[0].clone();
        assert_eq!(path.originator.as_deref(), Some("192.0.2.3"), "{kind:?}");
    }
}

#[test]
fn we_reflect_for_any_client() {
    for kind in Kind::ALL {
        let lan = Lan::new(2);
        let client = Neighbour::start(&lan, kind, Wish::new(64512));
        let other = Frr::start(&lan, 3, &router(3, 64512, "", "", ""));
        let peer = Peer {
            client: true,
            ..open(64512)
        };
        let peers = [("192.0.2.2", peer.clone()), ("192.0.2.3", peer)];
        let _running = Running::start(&lan, config(&peers));
        wait_for(&format!("{kind:?}'s range with the other"), || {
            let expected = format!("{} via 192.0.2.2", client.range());
            routes(&lan.theirs[1], "bgp").contains(&expected)
        });
        let shown = other.show(&format!("show bgp ipv4 unicast {}", client.range()));
        assert!(shown.contains("Originator: 192.0.2.2"), "{shown}");
        assert!(shown.contains("Cluster list: 192.0.2.1"), "{shown}");
    }
}

#[test]
fn no_packet_is_lost_while_either_side_restarts() {
    for kind in Kind::ALL {
        let lan = Lan::new(1);
        let wish = Wish {
            restarts: true,
            ..Wish::new(65002)
        };
        let mut neighbour = Neighbour::start(&lan, kind, wish);
        lan.theirs[0].add_address("lo", &format!("{}/32", neighbour.address()));
        let running = Running::start(&lan, towards(open(65002)));
        both_know(&lan, &neighbour);
        let (lost, ()) = lan.while_pinging(neighbour.address(), || {
            drop(running);
            let _running = Running::start(&lan, towards(open(65002)));
            both_know(&lan, &neighbour);
            wait_for("our session again", || lan.is_up());
            if kind == Kind::Gobgp {
                // It forgets in a restart what it was told by its API.
                return;
            }
            neighbour.kill();
            wait_for(&format!("the loss of {kind:?}"), || !lan.is_up());
            neighbour.start_again();
            wait_for(&format!("{kind:?}'s session again"), || lan.is_up());
            both_know(&lan, &neighbour);
        });
        assert_eq!(lost, 0, "{kind:?}");
    }
}
