//! What every backend must do with packets, in either family.

mod choice;
mod flows;
mod fronts;
mod load;
mod matrix;
mod rows;

use kernel::iptables::Variant;
use proxy::{Config, Mode};
use serde_json::json;

pub(crate) use choice::*;
pub(crate) use flows::*;
pub(crate) use fronts::*;
pub(crate) use load::*;
pub(crate) use matrix::*;
pub(crate) use rows::*;

use crate::world::{Answer, Ip, Outcome, Proxy, TARGET, World, config, service, slice};

/// A way of running the proxy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way {
    pub(crate) mode: Mode,
    pub(crate) variant: Option<Variant>,
    pub(crate) ip: Ip,
}

/// Calls a macro with the name of every check that holds for every backend and family.
macro_rules! for_every_check {
    ($then:ident) => {
        $then!(
            a_cluster_ip_leads_to_every_ready_back_end,
            a_client_outside_is_masqueraded_on_its_way_to_a_cluster_ip,
            a_pod_reaches_itself_through_its_service,
            without_endpoints_and_at_undefined_ports_connections_are_refused,
            a_node_port_leads_to_all_back_ends_and_with_the_local_policy_keeps_the_source,
            external_addresses_obey_source_ranges_and_policies,
            affinity_keeps_a_client_with_its_back_end,
            the_internal_policy_local_stays_on_the_node,
            changes_reach_the_kernel_and_cleanup_removes_everything,
            rules_that_somebody_deletes_are_noticed_and_written_again,
            what_somebody_destroys_just_before_a_write_is_told_once_and_mended,
            what_somebody_changes_in_one_place_is_noticed_and_mended,
            datagrams_of_one_flow_move_to_the_new_back_end,
            datagrams_are_refused_without_endpoints_and_served_again_with_them,
            a_deleted_services_flows_end_and_those_of_one_that_comes_late_begin,
            a_rolling_update_under_load_fails_no_request,
            writing_everything_anew_under_load_fails_no_request,
            packets_go_where_the_tracer_says,
            a_services_type_changes_while_it_is_there,
            slices_made_by_hand_lead_to_all_of_their_targets,
            leaving_back_ends_are_the_last_resort,
            a_node_port_that_a_program_holds_leads_to_the_service,
            names_may_be_as_long_as_the_api_allows,
            one_service_that_the_kernel_refuses_holds_nobody_up,
            thousands_of_back_ends_are_reached,
            several_ports_in_both_families_lead_to_their_own_targets,
            a_load_balancer_may_have_no_node_port_and_other_modes_of_delivery,
            node_ports_are_served_on_the_chosen_addresses_alone,
            addresses_of_the_service_range_that_nobody_has_are_refused,
            services_of_other_proxies_and_headless_ones_are_left_alone,
            pods_in_the_nodes_own_network_serve_and_ask,
            of_two_services_with_one_external_address_the_older_one_is_served,
            hints_and_distributions_keep_traffic_near,
            affinity_ends_when_its_time_is_over,
            packets_of_no_connection_do_not_reach_a_client,
        );
    };
}
pub(crate) use for_every_check;

impl Way {
    fn config(self) -> Config {
        Config {
            iptables_variant: self.variant,
            ..config(self.mode)
        }
    }
}

fn answered(server: std::net::IpAddr, source: std::net::IpAddr) -> Outcome {
    Outcome::Answered(Answer { server, source })
}

pub(crate) fn a_cluster_ip_leads_to_every_ready_back_end(way: Way) {
    let world = World::new();
    let x = way.ip.addresses();
    let mut proxy = Proxy::new(&world, &way.config());
    proxy
        .service(&service("web", x.service, json!({})))
        .slice(&slice(
            "web",
            &[
                (x.b, "here", true),
                (x.far, "there", true),
                (x.a, "here", false),
            ],
        ))
        .apply();
    // From a pod: the source stays.
    let spread = world.spread(&world.a, x.service, 80, 60);
    for server in [x.b, x.far] {
        let count = spread
            .get(&Answer {
                server,
                source: x.a,
            })
            .copied()
            .unwrap_or_default();
        // Binomial with n = 60: below 12 or above 48 happens once in a million runs.
        assert!((12..=48).contains(&count), "{spread:?}");
    }
    assert_eq!(spread.len(), 2);
    // From the node itself, and over UDP.
    assert_eq!(world.servers(&world.node, x.service, 80), [x.b, x.far]);
    assert!(matches!(
        world.udp(&world.a, x.service, 80),
        Outcome::Answered(_)
    ));
}

pub(crate) fn a_client_outside_is_masqueraded_on_its_way_to_a_cluster_ip(way: Way) {
    let world = World::new();
    let x = way.ip.addresses();
    let mut proxy = Proxy::new(&world, &way.config());
    proxy
        .service(&service("web", x.service, json!({})))
        .slice(&slice("web", &[(x.far, "there", true)]))
        .apply();
    assert_eq!(
        world.tcp(&world.client, x.service, 80),
        answered(x.far, x.node_pod_side)
    );
    assert_eq!(
        world.udp(&world.client, x.service, 80),
        answered(x.far, x.node_pod_side)
    );
}

pub(crate) fn a_pod_reaches_itself_through_its_service(way: Way) {
    let world = World::new();
    let x = way.ip.addresses();
    let mut proxy = Proxy::new(&world, &way.config());
    proxy
        .service(&service("web", x.service, json!({})))
        .slice(&slice("web", &[(x.a, "here", true)]))
        .apply();
    assert_eq!(
        world.tcp(&world.a, x.service, 80),
        answered(x.a, x.node_pod_side)
    );
}

pub(crate) fn without_endpoints_and_at_undefined_ports_connections_are_refused(way: Way) {
    let world = World::new();
    let x = way.ip.addresses();
    let mut proxy = Proxy::new(&world, &way.config());
    let spec = json!({"spec": {
        "type": "NodePort",
        "externalIPs": [x.external],
        "ports": [{"name": "tcp", "port": 80, "protocol": "TCP", "nodePort": 30080}],
    }});
    proxy.service(&service("web", x.service, spec)).apply();
    for from in [&world.a, &world.node, &world.client] {
        assert_eq!(world.tcp(from, x.service, 80), Outcome::Refused);
        assert_eq!(
            world.tcp(from, x.service, 81),
            Outcome::Refused,
            "an undefined port"
        );
    }
    assert_eq!(world.tcp(&world.client, x.node, 30080), Outcome::Refused);
    assert_eq!(world.tcp(&world.client, x.external, 80), Outcome::Refused);
    proxy.slice(&slice("web", &[(x.b, "here", true)])).apply();
    assert_eq!(world.tcp(&world.a, x.service, 80), answered(x.b, x.a));
    assert_eq!(
        world.tcp(&world.a, x.service, 81),
        Outcome::Refused,
        "an undefined port"
    );
}

pub(crate) fn a_node_port_leads_to_all_back_ends_and_with_the_local_policy_keeps_the_source(
    way: Way,
) {
    let world = World::new();
    let x = way.ip.addresses();
    let mut proxy = Proxy::new(&world, &way.config());
    let spec = |policy: &str| {
        json!({"spec": {
            "type": "NodePort",
            "externalTrafficPolicy": policy,
            "ports": [{"name": "tcp", "port": 80, "protocol": "TCP", "nodePort": 30080}],
        }})
    };
    proxy
        .service(&service("web", x.service, spec("Cluster")))
        .slice(&slice(
            "web",
            &[(x.b, "here", true), (x.far, "there", true)],
        ))
        .apply();
    let spread = world.spread(&world.client, x.node, 30080, 24);
    let sources: Vec<_> = spread.keys().map(|answer| answer.source).collect();
    assert!(
        sources.iter().all(|source| *source == x.node_pod_side),
        "{spread:?}"
    );
    assert_eq!(spread.len(), 2, "{spread:?}");
    assert_eq!(world.servers(&world.a, x.node, 30080), [x.b, x.far]);
    assert_eq!(world.servers(&world.node, x.node, 30080), [x.b, x.far]);
    // IPVS sends nothing from loopback to elsewhere.
    if way.ip == Ip::V4 && way.mode != Mode::Ipvs {
        assert_eq!(world.servers(&world.node, x.loopback, 30080), [x.b, x.far]);
    }
    assert_eq!(world.tcp(&world.client, x.node, 30081), Outcome::Refused);

    proxy
        .service(&service("web", x.service, spec("Local")))
        .apply();
    let spread = world.spread(&world.client, x.node, 30080, 12);
    assert_eq!(
        spread.into_keys().collect::<Vec<_>>(),
        [Answer {
            server: x.b,
            source: x.client
        }]
    );
    // Traffic that begins in the cluster is not bound to the node.
    assert_eq!(world.servers(&world.a, x.node, 30080), [x.b, x.far]);
    assert_eq!(world.servers(&world.node, x.node, 30080), [x.b, x.far]);

    proxy
        .slice(&slice("web", &[(x.far, "there", true)]))
        .apply();
    assert_eq!(
        world.tcp_in_vain(&world.client, x.node, 30080),
        Outcome::TimedOut
    );
    assert_eq!(world.servers(&world.a, x.node, 30080), [x.far]);
}

pub(crate) fn external_addresses_obey_source_ranges_and_policies(way: Way) {
    let world = World::new();
    let x = way.ip.addresses();
    let mut proxy = Proxy::new(&world, &way.config());
    let spec = |range: String, policy: &str| {
        json!({
            "spec": {
                "type": "LoadBalancer",
                "externalIPs": [x.external],
                "externalTrafficPolicy": policy,
                "loadBalancerSourceRanges": [range],
            },
            "status": {"loadBalancer": {"ingress": [{"ip": x.balancer, "ipMode": "VIP"}]}},
        })
    };
    let bits = if x.client.is_ipv6() { 128 } else { 32 };
    proxy
        .service(&service(
            "web",
            x.service,
            spec(format!("{}/{bits}", x.client), "Cluster"),
        ))
        .slice(&slice("web", &[(x.b, "here", true)]))
        .apply();
    assert_eq!(
        world.tcp(&world.client, x.balancer, 80),
        answered(x.b, x.node_pod_side)
    );
    assert_eq!(
        world.tcp(&world.client, x.external, 80),
        answered(x.b, x.node_pod_side)
    );
    assert_eq!(
        world.tcp_in_vain(&world.far, x.balancer, 80),
        Outcome::TimedOut,
        "not in the range"
    );

    proxy
        .service(&service(
            "web",
            x.service,
            spec(format!("{}/{bits}", x.client), "Local"),
        ))
        .apply();
    assert_eq!(
        world.tcp(&world.client, x.balancer, 80),
        answered(x.b, x.client)
    );
    assert_eq!(
        world.tcp(&world.client, x.external, 80),
        answered(x.b, x.client)
    );

    proxy
        .service(&service(
            "web",
            x.service,
            spec(format!("{}/{bits}", x.far), "Cluster"),
        ))
        .apply();
    assert_eq!(
        world.tcp_in_vain(&world.client, x.balancer, 80),
        Outcome::TimedOut
    );
    assert!(matches!(
        world.tcp(&world.client, x.external, 80),
        Outcome::Answered(_)
    ));
}

pub(crate) fn affinity_keeps_a_client_with_its_back_end(way: Way) {
    let world = World::new();
    let x = way.ip.addresses();
    let mut proxy = Proxy::new(&world, &way.config());
    let spec = json!({"spec": {"sessionAffinity": "ClientIP"}});
    proxy
        .service(&service("web", x.service, spec))
        .slice(&slice(
            "web",
            &[(x.b, "here", true), (x.far, "there", true)],
        ))
        .apply();
    let first = world.spread(&world.a, x.service, 80, 12);
    assert_eq!(first.len(), 1, "{first:?}");
    // A change elsewhere in the Service does not move clients.
    proxy
        .slice(&slice(
            "web",
            &[
                (x.b, "here", true),
                (x.far, "there", true),
                (x.a, "here", true),
            ],
        ))
        .apply();
    assert_eq!(
        world.spread(&world.a, x.service, 80, 12).keys().next(),
        first.keys().next()
    );
    proxy.service(&service("web", x.service, json!({}))).apply();
    assert!(world.spread(&world.a, x.service, 80, 24).len() > 1);
}

pub(crate) fn the_internal_policy_local_stays_on_the_node(way: Way) {
    let world = World::new();
    let x = way.ip.addresses();
    let mut proxy = Proxy::new(&world, &way.config());
    let spec = json!({"spec": {"internalTrafficPolicy": "Local"}});
    proxy
        .service(&service("web", x.service, spec))
        .slice(&slice(
            "web",
            &[(x.b, "here", true), (x.far, "there", true)],
        ))
        .apply();
    assert_eq!(world.servers(&world.a, x.service, 80), [x.b]);
    proxy
        .slice(&slice("web", &[(x.far, "there", true)]))
        .apply();
    assert_eq!(
        world.tcp_in_vain(&world.a, x.service, 80),
        Outcome::TimedOut
    );
}

pub(crate) fn changes_reach_the_kernel_and_cleanup_removes_everything(way: Way) {
    let world = World::new();
    let x = way.ip.addresses();
    let before = world.dump();
    let mut proxy = Proxy::new(&world, &way.config());
    for (ends, expected) in [
        (vec![(x.b, "here", true)], vec![x.b]),
        (
            vec![(x.b, "here", true), (x.far, "there", true)],
            vec![x.b, x.far],
        ),
        (vec![(x.far, "there", true)], vec![x.far]),
    ] {
        proxy
            .service(&service("web", x.service, json!({})))
            .slice(&slice("web", &ends))
            .apply();
        assert_eq!(world.servers(&world.a, x.service, 80), expected);
    }
    // A new process over the old rules.
    let mut next = Proxy::new(&world, &way.config());
    assert_eq!(
        world.tcp(&world.a, x.service, 80),
        Outcome::Refused,
        "nothing is wanted now"
    );
    next.service(&service("web", x.service, json!({})))
        .slice(&slice("web", &[(x.b, "here", true)]));
    next.resync();
    assert_eq!(world.servers(&world.a, x.service, 80), [x.b]);
    assert!(
        matches!(world.tcp(&world.client, x.b, TARGET), Outcome::Answered(_)),
        "no Service"
    );
    next.index
        .service_deleted(&proxy::model::ServiceKey::new("default", "web"));
    next.apply();
    assert_eq!(world.tcp(&world.a, x.service, 80), Outcome::Refused);
    next.cleanup();
    let rules = |text: &str| {
        text.lines()
            .filter(|line| line.contains("KUBE") || line.contains("fairlead"))
            .count()
    };
    assert_eq!(rules(&world.dump()), rules(&before), "{}", world.dump());
    if way.mode == Mode::Ipvs {
        let left = world.node.command("ipvsadm", &["-Sn"]);
        assert!(left.stdout.is_empty(), "{left:?}");
        assert!(world.node.link("kube-ipvs0").is_none());
    }
}

pub(crate) fn rules_that_somebody_deletes_are_noticed_and_written_again(way: Way) {
    let world = World::new();
    let x = way.ip.addresses();
    let mut proxy = Proxy::new(&world, &way.config());
    proxy
        .service(&service("web", x.service, json!({})))
        .slice(&slice("web", &[(x.b, "here", true)]))
        .apply();
    assert!(proxy.intact());
    flush(way, &world);
    assert!(!proxy.intact());
    assert!(!proxy.resync(), "it was told by then");
    assert!(proxy.intact());
    assert_eq!(world.tcp(&world.a, x.service, 80), answered(x.b, x.a));
    let family = program(way.ip);
    // Rules of others are none of our business.
    world.node.command(
        &format!("{family}-legacy"),
        &["-A", "INPUT", "-j", "ACCEPT"],
    );
    world
        .node
        .command(&format!("{family}-nft"), &["-A", "INPUT", "-j", "ACCEPT"]);
    assert!(proxy.intact());
}

fn program(ip: Ip) -> &'static str {
    match ip {
        Ip::V4 => "iptables",
        Ip::V6 => "ip6tables",
    }
}

/// What an administrator does who wants a clean machine.
fn flush(way: Way, world: &World) {
    let iptables = format!(
        "{}-{}",
        program(way.ip),
        match way.variant {
            Some(Variant::Legacy) => "legacy",
            _ => "nft",
        }
    );
    let output = match way.mode {
        Mode::Iptables => world.node.command(&iptables, &["-t", "nat", "-F"]),
        _ => world.node.command("nft", &["flush", "ruleset"]),
    };
    assert!(output.status.success(), "{output:?}");
}

pub(crate) fn what_somebody_destroys_just_before_a_write_is_told_once_and_mended(way: Way) {
    let world = World::new();
    let x = way.ip.addresses();
    let mut proxy = Proxy::new(&world, &way.config());
    proxy
        .service(&service("web", x.service, json!({})))
        .slice(&slice("web", &[(x.b, "here", true)]))
        .apply();
    assert!(!proxy.resync(), "nobody changed anything");
    flush(way, &world);
    assert!(proxy.resync());
    assert!(!proxy.resync());
    assert_eq!(world.tcp(&world.a, x.service, 80), answered(x.b, x.a));
    flush(way, &world);
    let changes = proxy
        .slice(&slice("web", &[(x.far, "there", true)]))
        .index
        .take_changes();
    // What cannot be written because of it is no Service's fault.
    let told = match world.node.run(|| proxy.applier.apply(&changes)) {
        Ok(outcome) => {
            assert!(outcome.failed.is_empty(), "{outcome:?}");
            outcome.foreign
        }
        Err(_) => false,
    };
    assert!(told != proxy.resync(), "told once");
    assert!(proxy.intact());
    assert_eq!(world.tcp(&world.a, x.service, 80), answered(x.far, x.a));
}

pub(crate) fn what_somebody_changes_in_one_place_is_noticed_and_mended(way: Way) {
    let world = World::new();
    let x = way.ip.addresses();
    let mut proxy = Proxy::new(&world, &way.config());
    proxy
        .service(&service("web", x.service, json!({})))
        .slice(&slice("web", &[(x.b, "here", true)]))
        .apply();
    // A look at what was written, which for iptables is taken when it is at rest.
    std::thread::sleep(std::time::Duration::from_millis(600));
    assert!(proxy.intact());
    let v4 = way.ip == Ip::V4;
    let command = |program: &str, arguments: &[&str]| {
        let output = world.node.command(program, arguments);
        assert!(output.status.success(), "{output:?}");
    };
    match (way.mode, way.variant) {
        (Mode::Iptables, variant) => {
            let family = if v4 { "iptables" } else { "ip6tables" };
            let infix = if variant == Some(Variant::Nft) {
                "nft"
            } else {
                "legacy"
            };
            // As many rules as before, and as long.
            let change = [
                "-t",
                "nat",
                "-R",
                "KUBE-MARK-MASQ",
                "1",
                "-j",
                "MARK",
                "--or-mark",
                "0x8000",
            ];
            command(&format!("{family}-{infix}"), &change);
        }
        (Mode::Nftables, _) => {
            let family = if v4 { "ip" } else { "ip6" };
            let element = format!("{{ {} }}", x.service);
            command(
                "nft",
                &[
                    "delete",
                    "element",
                    family,
                    "fairlead-proxy",
                    "cluster-ips",
                    &element,
                ],
            );
        }
        (Mode::Ipvs, _) => change_weights(&world),
    }
    crate::world::wait_for("the change to be noticed", || !proxy.intact());
    proxy.resync();
    assert!(proxy.intact());
    assert_eq!(world.tcp(&world.a, x.service, 80), answered(x.b, x.a));
    assert_eq!(
        world.tcp(&world.client, x.service, 80),
        answered(x.b, x.node_pod_side)
    );
}

/// As by `ipvsadm`.
fn change_weights(world: &World) {
    use kernel::ipvs::{Ipvs, Op};
    world.node.run(|| {
        let mut ipvs = Ipvs::open().expect("IPVS");
        for (service, _) in ipvs.services().expect("virtual servers") {
            let ops: Vec<Op> = ipvs
                .servers(service)
                .expect("real servers")
                .iter()
                .map(|real| Op::UpdateServer {
                    service,
                    server: real.id,
                    weight: 0,
                })
                .collect();
            ipvs.apply(&ops).expect("IPVS");
        }
    });
}
