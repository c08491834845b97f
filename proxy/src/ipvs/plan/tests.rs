use super::*;

fn id(port: u16, protocol: u8) -> VirtualId {
    VirtualId {
        address: "10.96.0.1".parse().expect("an address"),
        protocol,
        port,
    }
}

fn real(last: u8) -> RealId {
    RealId {
        address: IpAddr::from([10, 244, 1, last]),
        port: 8080,
    }
}

fn one(id: VirtualId, scheduler: &str, reals: &[(u8, u32)]) -> Virtuals {
    let server = VirtualServer {
        scheduler: scheduler.to_owned(),
        flags: 0,
        persistence: 0,
    };
    let reals = reals
        .iter()
        .map(|(last, weight)| (real(*last), *weight))
        .collect();
    BTreeMap::from([(id, Virtual { server, reals })])
}

#[test]
fn nothing_is_done_where_everything_is_as_wanted() {
    let same = one(id(80, 6), "rr", &[(2, 1), (3, 1)]);
    assert_eq!(plan(&same, &same, &BTreeSet::new()), Plan::default());
}

#[test]
fn a_server_that_is_gone_drains_over_tcp_and_is_deleted_over_udp() {
    let tcp = plan(
        &one(id(80, 6), "rr", &[(2, 1), (3, 1)]),
        &one(id(80, 6), "rr", &[(2, 1)]),
        &BTreeSet::new(),
    );
    let (service, server) = (id(80, 6), real(3));
    assert_eq!(
        tcp.ops,
        [Op::UpdateServer {
            service,
            server,
            weight: 0
        }]
    );
    assert_eq!(tcp.drained, BTreeSet::from([(service, server)]));
    let udp = plan(
        &one(id(80, 17), "rr", &[(2, 1), (3, 1)]),
        &one(id(80, 17), "rr", &[(2, 1)]),
        &BTreeSet::new(),
    );
    assert_eq!(
        udp.ops,
        [Op::DeleteServer {
            service: id(80, 17),
            server
        }]
    );
}

#[test]
fn a_draining_server_that_is_wanted_again_gets_its_weight_back() {
    let (old, new) = (
        one(id(80, 6), "rr", &[(2, 1)]),
        one(id(80, 6), "rr", &[(2, 1), (3, 5)]),
    );
    let place = (id(80, 6), real(3));
    let plan = plan(&old, &new, &BTreeSet::from([place]));
    assert_eq!(
        plan.ops,
        [Op::UpdateServer {
            service: place.0,
            server: place.1,
            weight: 5
        }]
    );
    assert_eq!(plan.settled, BTreeSet::from([place]));
}

#[test]
fn services_come_before_their_servers_and_deleted_ones_take_theirs_along() {
    let new = one(id(80, 6), "mh", &[(2, 1)]);
    let plan_new = plan(&Virtuals::new(), &new, &BTreeSet::new());
    assert!(matches!(plan_new.ops[0], Op::AddService { .. }));
    assert!(matches!(plan_new.ops[1], Op::AddServer { .. }));
    let plan_gone = plan(&new, &Virtuals::new(), &BTreeSet::new());
    assert_eq!(plan_gone.ops, [Op::DeleteService { id: id(80, 6) }]);
}

#[test]
fn a_changed_scheduler_is_an_update() {
    let plan = plan(
        &one(id(80, 6), "rr", &[(2, 1)]),
        &one(id(80, 6), "wlc", &[(2, 1)]),
        &BTreeSet::new(),
    );
    assert!(
        matches!(&plan.ops[..], [Op::UpdateService { server, .. }] if server.scheduler == "wlc")
    );
}
