use std::cmp::Ordering;

use super::*;
use crate::wire::Segment;
use crate::wire::attribute::Origin;

fn path(peer: u32, change: impl FnOnce(&mut Attributes)) -> Path {
    let mut attributes = Attributes {
        origin: Origin::Igp,
        as_path: vec![Segment::Sequence(vec![1, 2])],
        ..Attributes::default()
    };
    change(&mut attributes);
    let address = IpAddr::from([10, 0, 0, u8::try_from(peer).unwrap()]);
    let router_id = Ipv4Addr::from(peer);
    let learnt = Learnt {
        next_hop: NextHop::new(address),
        attributes: Arc::new(attributes),
        source: Arc::new(Source {
            internal: false,
            client: false,
            router_id,
            address,
        }),
    };
    Path::new(PeerId(peer), 0, Arc::new(learnt))
}

#[test]
fn each_step_of_the_decision_decides() {
    type Change = fn(&mut Attributes);
    let better_than_plain: [Change; 3] = [
        |a| a.local_pref = Some(200),
        |a| a.as_path = vec![Segment::Sequence(vec![1])],
        |a| a.as_path = vec![Segment::Set(vec![7, 8, 9])],
    ];
    for change in better_than_plain {
        assert_eq!(path(9, change).compare(&path(1, |_| {})), Ordering::Less);
    }
    let worse_than_plain: [Change; 5] = [
        |a| a.origin = Origin::Incomplete,
        |a| a.med = Some(5),
        |a| a.communities = vec![community::GRACEFUL_SHUTDOWN],
        |a| a.communities = vec![community::LLGR_STALE],
        |a| a.local_pref = Some(50),
    ];
    for change in worse_than_plain {
        assert_eq!(path(1, change).compare(&path(9, |_| {})), Ordering::Greater);
    }
    assert_eq!(path(1, |_| {}).compare(&path(2, |_| {})), Ordering::Less);
}

#[test]
fn med_counts_only_between_paths_of_one_neighbour() {
    let other = |a: &mut Attributes| {
        a.as_path = vec![Segment::Sequence(vec![5, 2])];
        a.med = Some(9);
    };
    assert_eq!(path(1, other).compare(&path(2, |_| {})), Ordering::Less);
}

#[test]
fn the_best_stands_first_and_equals_share_the_load() {
    let mut rib = Rib::default();
    let prefix: IpNetwork = "10.0.0.0/8".parse().unwrap();
    for (peer, local_pref) in [(3, 100), (1, 100), (2, 50)] {
        assert!(rib.set(prefix, path(peer, |a| a.local_pref = Some(local_pref))));
    }
    assert!(!rib.set(prefix, path(2, |a| a.local_pref = Some(50))));
    assert_eq!(rib.best(&prefix).map(|path| path.peer), Some(PeerId(1)));
    let sharing: Vec<u32> = rib.multipath(&prefix, 8).iter().map(|p| p.peer.0).collect();
    assert_eq!(sharing, [1, 3]);
    assert!(rib.remove(prefix, PeerId(1), 0));
    assert_eq!(rib.best(&prefix).map(|path| path.peer), Some(PeerId(3)));
}

#[test]
fn a_prefix_is_remembered_until_nobody_has_to_be_told() {
    let mut rib = Rib::default();
    let prefix: IpNetwork = "10.0.0.0/8".parse().unwrap();
    rib.set(prefix, path(1, |_| {}));
    rib.entry(&prefix).unwrap().told().set(PeerId(2), true);
    assert!(rib.is_told_to(&prefix, PeerId(2)) && !rib.is_told_to(&prefix, PeerId(3)));
    assert_eq!(rib.drop_paths(PeerId(1), |_, _| true), [prefix]);
    assert_eq!(rib.len(), 1);
    rib.entry(&prefix).unwrap().told().set(PeerId(2), false);
    rib.tidy(prefix);
    assert!(rib.is_empty());
}

#[test]
fn who_was_told_is_remembered_for_any_number_of_peers_and_paths() {
    let mut told = Told::default();
    for peer in [0, 63, 64, 500] {
        told.set(PeerId(peer), true);
    }
    assert!(told.has(PeerId(63)) && told.has(PeerId(500)) && !told.has(PeerId(499)));
    told.set_several(PeerId(7), &[3, 4].into());
    assert_eq!(told.several(PeerId(7)), [3, 4].into());
    assert_eq!((told.count(PeerId(7)), told.count(PeerId(64))), (2, 1));
    for peer in [0, 7, 63, 64, 500] {
        assert!(!told.is_empty());
        told.forget(PeerId(peer));
    }
    assert!(told.is_empty());
}

#[test]
fn a_path_whose_next_hop_is_lost_yields_to_a_worse_one_until_it_is_back() {
    let mut rib = Rib::default();
    let prefix: IpNetwork = "10.0.0.0/8".parse().unwrap();
    rib.set(prefix, path(1, |a| a.local_pref = Some(200)));
    rib.set(prefix, path(2, |_| {}));
    let hop = |peer: u8| IpAddr::from([10, 0, 0, peer]);
    assert_eq!(rib.take_new_hops(), [hop(1), hop(2)].into());
    assert_eq!(rib.set_reachable(hop(1), false), [prefix]);
    assert_eq!(rib.best(&prefix).map(|path| path.peer), Some(PeerId(2)));
    let [better, worse] = rib.paths(&prefix) else {
        panic!("two paths")
    };
    assert_eq!(better.better_by(worse), Some(Step::Reachable));
    assert_eq!(rib.set_reachable(hop(2), false), [prefix]);
    assert_eq!(rib.best(&prefix), None);
    assert_eq!(rib.set_reachable(hop(1), true), [prefix]);
    assert_eq!(rib.best(&prefix).map(|path| path.peer), Some(PeerId(1)));
    assert!(rib.set_reachable(hop(1), true).is_empty());
    rib.drop_paths(PeerId(1), |_, _| true);
    rib.remove(prefix, PeerId(2), 0);
    assert_eq!(rib.hops().count(), 0);
}

#[test]
fn the_reason_for_the_best_path_is_the_first_step_that_differs() {
    let base = path(2, |_| {});
    let cases = [
        (path(1, |_| {}), Step::RouterId),
        (path(3, |a| a.local_pref = Some(101)), Step::LocalPreference),
        (path(3, |a| a.as_path.clear()), Step::ShorterPath),
    ];
    for (better, step) in cases {
        assert_eq!(better.better_by(&base), Some(step));
        assert_eq!(base.better_by(&better), None);
    }
}

#[test]
fn a_best_path_is_news_once_and_again_only_when_it_says_something_else() {
    let mut rib = Rib::default();
    let prefix: IpNetwork = "10.0.0.0/8".parse().unwrap();
    let news = |rib: &mut Rib| {
        let entry = rib.entry(&prefix).unwrap();
        let news = entry.has_news();
        entry.all_told();
        news
    };
    rib.set(prefix, path(1, |a| a.local_pref = Some(200)));
    assert!(news(&mut rib) && !news(&mut rib));
    rib.set(prefix, path(2, |_| {}));
    assert!(!news(&mut rib), "a second path that is worse");
    rib.mark_stale(PeerId(1), |_| true);
    assert!(rib.set(prefix, path(1, |a| a.local_pref = Some(200))));
    assert!(!news(&mut rib), "told again by its peer after a restart");
    rib.set(prefix, path(1, |a| a.local_pref = Some(201)));
    assert!(news(&mut rib), "another preference");
    rib.remove(prefix, PeerId(1), 0);
    assert!(news(&mut rib), "the second is the best now");
}

#[test]
fn prefixes_for_everybody_are_found_with_and_without_those_from_outside() {
    let mut rib = Rib::default();
    let prefix = |n: u8| -> IpNetwork { format!("10.{n}.0.0/16").parse().unwrap() };
    let internal = |peer: u32| {
        let mut own = path(peer, |_| {});
        let mut learnt = (*own.learnt).clone();
        learnt.source = Arc::new(Source {
            internal: true,
            ..(*learnt.source).clone()
        });
        own.learnt = Arc::new(learnt);
        own
    };
    let mut ours = path(1, |_| {});
    ours.peer = LOCAL;
    rib.set(prefix(1), ours);
    rib.set(prefix(2), internal(2));
    assert_eq!(rib.for_everybody(), [prefix(1)]);
    rib.set(prefix(2), path(3, |_| {}));
    rib.set(prefix(3), path(3, |_| {}));
    assert_eq!(rib.for_everybody(), [prefix(1), prefix(2), prefix(3)]);
    rib.drop_paths(PeerId(3), |_, _| true);
    assert_eq!(rib.for_everybody(), [prefix(1)]);
}
