//! The proxy as a whole, with an API server in memory and a node in network namespaces.

#[expect(unreachable_pub, reason = "shared by several test programs")]
mod api;
#[allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "shared by several test programs"
)]
mod world;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread::JoinHandle;

use api::{Api, NODES, SERVICES, SLICES};
use kernel::iptables::Variant;
use proxy::{Config, Deps, Mode};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use watch_cache::WatchCaches;
use world::{Ip, Outcome, World, config, service, slice, wait_for};

/// A proxy that runs in the node's namespace until it is dropped.
struct Running {
    shutdown: CancellationToken,
    mode: watch::Sender<Mode>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(world: &World, api: &Api, config: Config) -> Self {
        let shutdown = CancellationToken::new();
        let (mode, receiver) = watch::channel(config.mode);
        let (api, stop) = (api.clone(), shutdown.clone());
        // A thread that is started in the namespace stays there.
        let thread = world.node.run(move || {
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime");
                runtime.block_on(async {
                    let client = api.client();
                    let deps = Deps {
                        caches: WatchCaches::new(client.clone()),
                        client,
                        mode: Some(receiver),
                    };
                    proxy::run(config, deps, stop)
                        .await
                        .expect("the proxy runs");
                });
            })
        });
        Self {
            shutdown,
            mode,
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

fn api_with_node() -> Api {
    let api = Api::default();
    api.apply(NODES, &json!({"metadata": {"name": "here"}}));
    api
}

fn served(world: &World) -> bool {
    let x = Ip::V4.addresses();
    matches!(world.tcp(&world.a, x.service, 80), Outcome::Answered(_))
}

fn web(api: &Api) {
    let x = Ip::V4.addresses();
    api.apply(SERVICES, &service("web", x.service, json!({})));
    api.apply(SLICES, &slice("web", &[(x.b, "here", true)]));
}

fn repairs(mode: Mode, variant: Option<Variant>, commands: &[&[&str]]) {
    let world = World::new();
    let api = api_with_node();
    web(&api);
    let config = Config {
        iptables_variant: variant,
        ..config(mode)
    };
    let _running = Running::start(&world, &api, config);
    wait_for("the Service to be served", || served(&world));
    // What others do in places of their own is no reason to act.
    world
        .node
        .command("nft", &["add", "table", "inet", "somebody"]);
    world
        .node
        .command("iptables-legacy", &["-A", "FORWARD", "-j", "ACCEPT"]);
    for (number, command) in commands.iter().enumerate() {
        let output = world.node.command(command[0], &command[1..]);
        assert!(output.status.success(), "{output:?}");
        wait_for("an Event", || api.events().len() > number);
        wait_for("the Service to be served again", || served(&world));
    }
    let expected = ("ServiceRulesChanged".to_owned(), "here".to_owned());
    let events = api.events();
    assert!(events.len() >= commands.len(), "{events:?}");
    assert_eq!(events[0], expected);
}

#[test]
fn flushed_nftables_are_repaired_with_an_event() {
    repairs(
        Mode::Nftables,
        None,
        &[
            &["nft", "flush", "ruleset"],
            &["nft", "delete", "table", "ip", "fairlead-proxy"],
        ],
    );
}

#[test]
fn flushed_rules_of_either_iptables_are_repaired_with_an_event() {
    for (variant, program) in [
        (Variant::Nft, "iptables-nft"),
        (Variant::Legacy, "iptables-legacy"),
    ] {
        repairs(
            Mode::Iptables,
            Some(variant),
            &[
                &[program, "-t", "nat", "-F"],
                &[program, "-t", "nat", "-D", "PREROUTING", "1"],
            ],
        );
    }
}

#[test]
fn the_mode_changes_while_the_proxy_runs() {
    let world = World::new();
    let api = api_with_node();
    web(&api);
    let running = Running::start(&world, &api, config(Mode::Nftables));
    wait_for("the Service to be served", || served(&world));
    let has = |text: &str| world.dump().contains(text);
    for mode in [Mode::Iptables, Mode::Nftables] {
        running.mode.send(mode).expect("the proxy listens");
        wait_for(&format!("the rules to be those of {mode}"), || {
            has("KUBE-SERVICES") == (mode == Mode::Iptables)
                && has("fairlead-proxy") == (mode == Mode::Nftables)
        });
        assert!(served(&world), "{}", world.dump());
    }
}

/// Status and body of a GET, from outside.
fn get(world: &World, port: u16, path: &str) -> Option<(u16, Value)> {
    let to = SocketAddr::new(Ip::V4.addresses().node, port);
    let text = world.client.run(|| -> std::io::Result<String> {
        let mut stream = TcpStream::connect(to)?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    });
    let text = text.ok()?;
    let status = text.split(' ').nth(1)?.parse().ok()?;
    let body = serde_json::from_str(text.split_once("\r\n\r\n")?.1).ok()?;
    Some((status, body))
}

#[test]
fn health_checks_tell_of_local_back_ends_and_of_a_node_that_goes() {
    let world = World::new();
    let x = Ip::V4.addresses();
    let api = api_with_node();
    let balanced = json!({"spec": {
        "type": "LoadBalancer",
        "externalTrafficPolicy": "Local",
        "healthCheckNodePort": 31000,
    }});
    api.apply(SERVICES, &service("web", x.service, balanced));
    api.apply(
        SLICES,
        &slice("web", &[(x.b, "here", true), (x.a, "here", true)]),
    );
    let healthz = Config {
        healthz: Some("0.0.0.0:10256".parse().expect("an address")),
        ..config(Mode::Nftables)
    };
    let _running = Running::start(&world, &api, healthz);
    let check = |status: u16, local: u64| {
        wait_for("the health check", || {
            get(&world, 31_000, "/").is_some_and(|(found, body)| {
                (found, &body["localEndpoints"]) == (status, &json!(local))
            })
        });
    };
    check(200, 2);
    api.apply(
        SLICES,
        &slice("web", &[(x.b, "here", true), (x.far, "there", true)]),
    );
    check(200, 1);
    api.apply(SLICES, &slice("web", &[(x.far, "there", true)]));
    check(503, 0);
    let status = |path| get(&world, 10_256, path).map(|(status, _)| status);
    assert_eq!(status("/healthz"), Some(200));
    api.apply(
        NODES,
        &json!({"metadata": {"name": "here"}, "spec": {"taints": [
            {"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"},
        ]}}),
    );
    wait_for("load balancers to be told", || {
        status("/healthz") == Some(503)
    });
    assert_eq!(status("/livez"), Some(200));
}
