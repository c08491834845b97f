//! The proxy as a whole, in the node of a world.

use std::thread::JoinHandle;

use kernel::iptables::Variant;
use proxy::{Config, Deps, Mode};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use watch_cache::WatchCaches;

use crate::api::{Api, NODES, SERVICES, SLICES};
use crate::world::{Ip, Outcome, World, config, service, slice, wait_for};

/// A proxy that runs in the node's namespace until it is dropped.
pub(crate) struct Running {
    shutdown: CancellationToken,
    pub(crate) mode: watch::Sender<Mode>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    pub(crate) fn start(world: &World, api: &Api, config: Config) -> Self {
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

pub(crate) fn api_with_node() -> Api {
    let api = Api::default();
    api.apply(NODES, &json!({"metadata": {"name": "here"}}));
    api
}

pub(crate) fn served(world: &World) -> bool {
    let x = Ip::V4.addresses();
    matches!(world.tcp(&world.a, x.service, 80), Outcome::Answered(_))
}

pub(crate) fn web(api: &Api) {
    let x = Ip::V4.addresses();
    api.apply(SERVICES, &service("web", x.service, json!({})));
    api.apply(SLICES, &slice("web", &[(x.b, "here", true)]));
}

/// A proxy whose rules these commands destroy, one after the other, mends them, and tells so.
pub(crate) fn repairs(mode: Mode, variant: Option<Variant>, commands: &[&[&str]]) {
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
