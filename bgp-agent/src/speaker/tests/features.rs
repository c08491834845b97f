//! Features that several speakers show together.

use super::*;
use crate::config::{DynamicPeers, NextHopMode};
use crate::wire::attribute::community;
use crate::wire::open::AddPath;

/// Speakers joined as listed; of each pair the first connects.
fn joined(count: usize, asn: impl Fn(usize) -> u32, pairs: &[(usize, usize)]) -> Vec<Config> {
    let mut configs: Vec<Config> = (0..count).map(|index| config(index, asn(index))).collect();
    for (a, b) in pairs {
        for (own, other, passive) in [(*a, *b, false), (*b, *a, true)] {
            let peer = Peer {
                passive,
                import: Filter::ACCEPT,
                export: Filter::ACCEPT,
                ..Peer::internal(asn(other))
            };
            configs[own].peers.insert(address(other), peer);
        }
    }
    configs
}

fn peer_mut(configs: &mut [Config], own: usize, other: usize) -> &mut Peer {
    configs[own].peers.get_mut(&address(other)).unwrap()
}

/// Ends the connection of two speakers without a word, and keeps them apart.
fn cut(mesh: &mut Mesh, a: usize, b: usize) {
    mesh.cut.extend([(a, b), (b, a)]);
    let ends: Vec<_> = mesh
        .wires
        .iter()
        .filter(|((own, _), (other, _))| (*own, *other) == (a, b) || (*own, *other) == (b, a))
        .map(|(own, _)| *own)
        .collect();
    for (index, id) in ends {
        mesh.wires.remove(&(index, id));
        let now = mesh.now;
        mesh.speakers[index].closed(id, now);
    }
    mesh.settle();
}

#[test]
fn every_path_is_told_to_those_who_want_it() {
    // 0 and 1 both tell of one prefix to 2, which tells 3 of both.
    let mut configs = joined(4, |_| 64512, &[(0, 2), (1, 2), (2, 3)]);
    for index in [0, 1] {
        configs[index]
            .originate
            .insert(range(9), Default::default());
        peer_mut(&mut configs, 2, index).client = true;
    }
    let both = Some(AddPath {
        receive: true,
        send: true,
    });
    peer_mut(&mut configs, 2, 3).add_path = both;
    peer_mut(&mut configs, 3, 2).add_path = both;
    let mut mesh = Mesh::new(configs);
    assert_eq!(mesh.next_hops(3, 9), via(&[0, 1]), "they share the load");
    let told = |mesh: &Mesh| mesh.speakers[3].rib().paths(&range(9)).len();
    assert_eq!(told(&mesh), 2);
    let mut less = mesh.speakers[0].config().clone();
    less.originate.remove(&range(9));
    let now = mesh.now;
    mesh.speakers[0].configure(less, now);
    mesh.settle();
    assert_eq!(told(&mesh), 1, "one of them is withdrawn");
    assert_eq!(mesh.next_hops(3, 9), via(&[1]));
}

#[test]
fn routes_are_kept_for_long_with_a_mark_that_only_those_hear_who_know_it() {
    let mut configs = joined(4, |_| 64512, &[(0, 1), (1, 2), (1, 3)]);
    for other in [0, 2, 3] {
        let peer = peer_mut(&mut configs, 1, other);
        (peer.client, peer.long_lived) = (true, 3600);
    }
    peer_mut(&mut configs, 0, 1).long_lived = 3600;
    peer_mut(&mut configs, 2, 1).long_lived = 3600;
    // The third speaks neither graceful restart nor its long kind.
    configs[3].restart_time = 0;
    let mut mesh = Mesh::new(configs);
    assert_eq!(mesh.next_hops(3, 0), via(&[0]));
    cut(&mut mesh, 0, 1);
    mesh.advance(Duration::from_secs(100));
    assert!(!mesh.speakers[1].rib().paths(&range(0))[0].is_long_stale());
    mesh.advance(Duration::from_secs(30));
    let path = &mesh.speakers[1].rib().paths(&range(0))[0];
    assert!(path.is_long_stale(), "the restart's time is over");
    assert_eq!(mesh.next_hops(2, 0), via(&[0]));
    assert_eq!(mesh.next_hops(3, 0), None);
    mesh.advance(Duration::from_secs(3600));
    assert_eq!(mesh.next_hops(2, 0), None, "that time as well");
}

#[test]
fn a_route_that_must_not_be_kept_for_long_goes() {
    let mut configs = joined(2, |_| 64512, &[(0, 1)]);
    let no_llgr = crate::config::Community::Standard(community::NO_LLGR);
    let own = configs[0].originate.get_mut(&range(0)).unwrap();
    own.communities.push(no_llgr);
    peer_mut(&mut configs, 0, 1).long_lived = 3600;
    peer_mut(&mut configs, 1, 0).long_lived = 3600;
    let mut mesh = Mesh::new(configs);
    cut(&mut mesh, 0, 1);
    mesh.advance(Duration::from_secs(130));
    assert_eq!(mesh.next_hops(1, 0), None);
}

#[test]
fn a_node_that_shuts_down_is_the_last_choice() {
    let mut configs = joined(3, |_| 64512, &[(0, 2), (1, 2)]);
    for index in [0, 1] {
        configs[index]
            .originate
            .insert(range(9), Default::default());
    }
    let mut mesh = Mesh::new(configs);
    assert_eq!(mesh.next_hops(2, 9), via(&[0, 1]));
    let mut leaving = mesh.speakers[0].config().clone();
    leaving.graceful_shutdown = true;
    let now = mesh.now;
    mesh.speakers[0].configure(leaving, now);
    mesh.settle();
    assert_eq!(mesh.next_hops(2, 9), via(&[1]));
    assert_eq!(
        mesh.next_hops(2, 0),
        via(&[0]),
        "but there is no other for its own"
    );
}

#[test]
fn peers_of_a_range_come_as_many_as_may_and_leave_no_trace() {
    let mut configs = joined(4, |_| 64512, &[]);
    let peer = Peer::internal(64512);
    let most = 2;
    configs[0].restart_time = 0;
    configs[0]
        .dynamic
        .insert("10.0.0.0/24".parse().unwrap(), DynamicPeers { peer, most });
    for own in &mut configs[1..] {
        own.peers.insert(address(0), Peer::internal(64512));
    }
    let mut mesh = Mesh::new(configs);
    let established = |mesh: &Mesh| {
        let all = mesh.speakers[0].status();
        all.iter()
            .filter(|own| own.state == State::Established)
            .count()
    };
    assert_eq!(established(&mesh), 2);
    assert!(mesh.speakers[0].status().iter().all(|own| own.dynamic));
    let first = index_of(mesh.speakers[0].status()[0].address);
    assert_eq!(mesh.next_hops(0, first), via(&[first]));
    cut(&mut mesh, 0, first);
    assert_eq!(mesh.next_hops(0, first), None);
    mesh.advance(Duration::from_secs(60));
    assert_eq!(established(&mesh), 2, "there is room for the third");
}

#[test]
fn another_filter_needs_no_new_session() {
    let mut mesh = Mesh::new(joined(2, |index| 65001 + index as u32, &[(0, 1)]));
    assert_eq!(mesh.next_hops(1, 0), via(&[0]));
    let configure = |mesh: &mut Mesh, filter: Filter| {
        let mut changed = mesh.speakers[1].config().clone();
        changed.peers.get_mut(&address(0)).unwrap().import = filter;
        let now = mesh.now;
        mesh.speakers[1].configure(changed, now);
        mesh.settle();
    };
    configure(&mut mesh, Filter::REJECT);
    assert_eq!(mesh.next_hops(1, 0), None);
    configure(&mut mesh, Filter::ACCEPT);
    assert_eq!(mesh.next_hops(1, 0), via(&[0]));
    assert_eq!(mesh.speakers[1].status()[0].counters.flaps, 0);
}

#[test]
fn next_hops_are_ours_or_kept_as_the_peer_is_configured() {
    let systems = |index: usize| [65001, 65002, 65003][index];
    for (mode, expected) in [
        (NextHopMode::Auto, 1),
        (NextHopMode::Own, 1),
        (NextHopMode::Keep, 0),
    ] {
        let mut configs = joined(3, systems, &[(0, 1), (1, 2)]);
        peer_mut(&mut configs, 1, 2).next_hop = mode;
        let mesh = Mesh::new(configs);
        assert_eq!(mesh.next_hops(2, 0), via(&[expected]), "{mode:?}");
        let path = &mesh.speakers[2].rib().paths(&range(0))[0];
        assert_eq!(path.attributes.as_path_length(), 2);
    }
}

#[test]
fn towards_a_peer_our_as_can_be_another() {
    let mut configs = joined(2, |index| 65001 + index as u32, &[(0, 1)]);
    peer_mut(&mut configs, 0, 1).local_as = Some(64999);
    peer_mut(&mut configs, 1, 0).asn = 64999;
    let mesh = Mesh::new(configs);
    let path = &mesh.speakers[1].rib().paths(&range(0))[0];
    assert_eq!(path.attributes.neighbour_as(), Some(64999));
}

#[test]
fn a_lost_next_hop_is_told_to_peers_as_well() {
    let mut mesh = Mesh::new(joined(3, |index| 65001 + index as u32, &[(0, 1), (1, 2)]));
    assert_eq!(mesh.next_hops(2, 0), via(&[1]));
    mesh.speakers[1].set_reachable(address(0), false);
    mesh.settle();
    assert_eq!(mesh.next_hops(1, 0), None);
    assert_eq!(mesh.next_hops(2, 0), None);
    mesh.speakers[1].set_reachable(address(0), true);
    mesh.settle();
    assert_eq!(mesh.next_hops(2, 0), via(&[1]));
}

#[test]
fn what_bfd_lost_goes_at_once_and_comes_back_with_the_session() {
    let mut mesh = Mesh::new(joined(2, |_| 64512, &[(0, 1)]));
    let now = mesh.now;
    mesh.cut = [(0, 1)].into();
    mesh.speakers[1].peer_lost(address(0), now);
    mesh.settle();
    assert_eq!(mesh.next_hops(1, 0), None, "no graceful restart");
    mesh.cut.clear();
    mesh.advance(Duration::from_secs(60));
    assert_eq!(mesh.next_hops(1, 0), via(&[0]));
}

#[test]
fn ranges_that_are_not_for_the_kernel_are_passed_on_all_the_same() {
    let mut configs = joined(3, |index| 65001 + index as u32, &[(0, 1), (1, 2)]);
    configs[1].not_for_kernel.insert(range(0));
    let mesh = Mesh::new(configs);
    assert_eq!(mesh.next_hops(1, 0), None);
    assert_eq!(mesh.next_hops(2, 0), via(&[1]));
}

#[test]
fn a_best_path_that_says_the_same_is_not_told_again() {
    // 0 and 1 both tell of one prefix to 2, which tells 3 of that of 0.
    let systems = |index: usize| 65001 + u32::try_from(index).unwrap();
    let mut configs = joined(4, systems, &[(0, 2), (1, 2), (2, 3)]);
    for index in [0, 1] {
        configs[index]
            .originate
            .insert(range(9), Default::default());
    }
    let with = configs[1].clone();
    let mut without = with.clone();
    without.originate.remove(&range(9));
    let mut mesh = Mesh::new(configs);
    assert_eq!(
        mesh.next_hops(2, 9),
        via(&[0, 1]),
        "equal but for the router id"
    );
    assert_eq!(mesh.next_hops(3, 9), via(&[2]));
    for (config, what) in [(without, "the withdrawal"), (with, "the route")] {
        let before = mesh.messages;
        let now = mesh.now;
        mesh.speakers[1].configure(config, now);
        mesh.settle();
        assert_eq!(mesh.messages - before, 1, "{what} to 2, and nothing else");
    }
    // Another best path is told.
    let mut gone = mesh.speakers[0].config().clone();
    gone.originate.remove(&range(9));
    let now = mesh.now;
    mesh.speakers[0].configure(gone, now);
    mesh.settle();
    let path = &mesh.speakers[3].rib().paths(&range(9))[0];
    assert!(path.attributes.contains_as(65002) > 0, "{path:?}");
}

#[test]
fn who_is_told_with_others_does_not_hear_of_its_own_routes() {
    let systems = |index: usize| 65001 + u32::try_from(index).unwrap();
    let mut mesh = Mesh::new(joined(4, systems, &[(0, 3), (1, 3), (2, 3)]));
    let heard_by = |mesh: &Mesh, at: usize| -> Vec<usize> {
        let told = mesh.speakers[3].advertised(address(at));
        (0..4).filter(|of| told.contains(&range(*of))).collect()
    };
    for at in 0..3 {
        let others: Vec<usize> = (0..4).filter(|of| *of != at).collect();
        assert_eq!(heard_by(&mesh, at), others);
        for of in others {
            assert!(mesh.next_hops(at, of).is_some(), "{at} of {of}");
        }
    }
    cut(&mut mesh, 0, 3);
    mesh.advance(Duration::from_secs(200));
    assert_eq!(heard_by(&mesh, 1), [2, 3]);
    assert_eq!(mesh.next_hops(1, 0), None);
    assert_eq!(mesh.next_hops(2, 0), None);
}
