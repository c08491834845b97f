//! Nodes in namespaces of their own, joined by a switch, and an API that knows only Nodes.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses a part of it"
)]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use flannel_vxlan::{Config, Deps, run};
use futures::StreamExt;
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use kernel::testing::TestNetns;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use watch_cache::WatchCaches;

type Answer = UnsyncBoxBody<Bytes, Infallible>;

/// An API server for Nodes.
pub struct NodeApi {
    state: Mutex<State>,
    changes: broadcast::Sender<Bytes>,
}

#[derive(Default)]
struct State {
    revision: u64,
    history: Vec<(u64, Bytes)>,
    nodes: BTreeMap<String, Value>,
    events: Vec<Value>,
    /// Lists wait until this is set.
    lists_hang: bool,
}

impl NodeApi {
    pub fn new() -> Arc<Self> {
        let (changes, _) = broadcast::channel(4096);
        Arc::new(Self {
            state: Mutex::default(),
            changes,
        })
    }

    pub fn client(self: &Arc<Self>) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        Client::new(service, "default")
    }

    /// Creates or replaces a node.
    pub fn put(&self, mut node: Value) {
        let mut state = self.state.lock().unwrap();
        state.revision += 1;
        node["metadata"]["resourceVersion"] = json!(state.revision.to_string());
        let name = node["metadata"]["name"].as_str().unwrap().to_owned();
        let known = state.nodes.insert(name, node.clone()).is_some();
        self.tell(&mut state, if known { "MODIFIED" } else { "ADDED" }, &node);
    }

    pub fn delete(&self, name: &str) {
        let mut state = self.state.lock().unwrap();
        state.revision += 1;
        let mut node = state.nodes.remove(name).unwrap();
        node["metadata"]["resourceVersion"] = json!(state.revision.to_string());
        self.tell(&mut state, "DELETED", &node);
    }

    pub fn node(&self, name: &str) -> Value {
        self.state.lock().unwrap().nodes[name].clone()
    }

    pub fn events(&self) -> Vec<Value> {
        self.state.lock().unwrap().events.clone()
    }

    pub fn hang_lists(&self, hang: bool) {
        self.state.lock().unwrap().lists_hang = hang;
    }

    fn tell(&self, state: &mut State, kind: &str, node: &Value) {
        let line = Bytes::from(format!("{}\n", json!({"type": kind, "object": node})));
        state.history.push((state.revision, line.clone()));
        let _ = self.changes.send(line);
    }

    /// What has happened since the revision, and what is going to.
    fn watch(&self, query: &str) -> Answer {
        let since = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("resourceVersion="));
        let since: u64 = since.and_then(|text| text.parse().ok()).unwrap_or(0);
        let state = self.state.lock().unwrap();
        let past: Vec<Bytes> = state
            .history
            .iter()
            .filter(|(revision, _)| *revision > since)
            .map(|(_, line)| line.clone())
            .collect();
        let lines = self.changes.subscribe();
        let later = futures::stream::unfold(lines, |mut lines| async {
            Some((lines.recv().await.ok()?, lines))
        });
        let all = futures::stream::iter(past).chain(later);
        let frames = all.map(|line| Ok::<_, Infallible>(http_body::Frame::data(line)));
        BodyExt::boxed_unsync(StreamBody::new(frames))
    }

    async fn answer(&self, request: Request<Body>) -> Response<Answer> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let path = parts.uri.path();
        let json_body = |value: &Value| Response::new(Full::from(value.to_string()).boxed_unsync());
        match (&parts.method, path) {
            (&Method::GET, "/api/v1/nodes") => {
                let query = parts.uri.query().unwrap_or_default().to_owned();
                self.nodes(&query).await
            }
            (&Method::PATCH, _) if path.starts_with("/api/v1/nodes/") => {
                let name = path.rsplit('/').next().unwrap();
                let mut node = self.node(name);
                let patch: Value = serde_json::from_slice(&body).unwrap();
                merge(&mut node, &patch);
                self.put(node);
                json_body(&self.node(name))
            }
            (&Method::POST, _) => {
                let event: Value = serde_json::from_slice(&body).unwrap();
                self.state.lock().unwrap().events.push(event.clone());
                json_body(&event)
            }
            other => panic!("nobody expects {other:?}"),
        }
    }

    async fn nodes(&self, query: &str) -> Response<Answer> {
        if query.contains("watch=") {
            return Response::new(self.watch(query));
        }
        while self.state.lock().unwrap().lists_hang {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let state = self.state.lock().unwrap();
        let list = json!({
            "apiVersion": "v1", "kind": "NodeList",
            "metadata": {"resourceVersion": state.revision.to_string()},
            "items": state.nodes.values().collect::<Vec<_>>(),
        });
        Response::new(Full::from(list.to_string()).boxed_unsync())
    }
}

/// A JSON merge patch.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in fields {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut target[key], value);
        }
    }
}

/// A Node object.
pub fn node(name: &str, pod_networks: &[String], addresses: &[String]) -> Value {
    let addresses: Vec<Value> = addresses
        .iter()
        .map(|a| json!({"type": "InternalIP", "address": a}))
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"podCIDR": pod_networks.first(), "podCIDRs": pod_networks},
        "status": {"addresses": addresses},
    })
}

/// A node: its namespace, one pod on it, the overlay's process.
pub struct TestNode {
    pub name: String,
    pub number: u8,
    pub ns: TestNetns,
    pub pod: TestNetns,
    pub dir: tempfile::TempDir,
    pub api: Arc<NodeApi>,
    running: Option<(CancellationToken, JoinHandle<()>)>,
}

impl TestNode {
    /// A node on the switch, known to the API, with a pod; the overlay does not run yet.
    pub fn new(number: u8, switch: &TestNetns, api: &Arc<NodeApi>) -> Self {
        let name = format!("node{number}");
        let ns = TestNetns::new(&name);
        let port = format!("p{number}");
        switch.join(&port, &ns, "eth0");
        switch.enslave("br0", &port);
        ns.add_address("eth0", &format!("192.0.2.{number}/24"));
        ns.add_address("eth0", &format!("2001:db8::{number}/64"));
        let this = Self {
            pod: TestNetns::new(&format!("pod{number}")),
            dir: tempfile::tempdir().unwrap(),
            api: api.clone(),
            running: None,
            name,
            number,
            ns,
        };
        this.add_pod();
        api.put(this.object());
        this
    }

    pub fn object(&self) -> Value {
        let n = self.number;
        node(
            &self.name,
            &[format!("10.244.{n}.0/24"), format!("fd00:10:244:{n}::/64")],
            &[format!("192.0.2.{n}"), format!("2001:db8::{n}")],
        )
    }

    pub fn pod_address(&self, v6: bool) -> IpAddr {
        let n = self.number;
        let text = if v6 {
            format!("fd00:10:244:{n}::5")
        } else {
            format!("10.244.{n}.5")
        };
        text.parse().unwrap()
    }

    fn add_pod(&self) {
        self.ns.join("pod0", &self.pod, "eth0");
        let ip = |ns: &TestNetns, line: &str| {
            let output = ns.command("ip", &line.split(' ').collect::<Vec<_>>());
            assert!(output.status.success(), "{line}: {output:?}");
        };
        let mac = self.ns.link("pod0").unwrap().mac.unwrap();
        for (v6, gateway, family) in [(false, "169.254.1.1", "-4"), (true, "fe80::1", "-6")] {
            let address = self.pod_address(v6);
            let prefix = if v6 { 128 } else { 32 };
            ip(
                &self.ns,
                &format!("{family} route add {address}/{prefix} dev pod0"),
            );
            ip(
                &self.pod,
                &format!("{family} addr add {address}/{prefix} dev eth0"),
            );
            ip(
                &self.pod,
                &format!("{family} neigh add {gateway} lladdr {mac} dev eth0"),
            );
            ip(
                &self.pod,
                &format!("{family} route add default via {gateway} dev eth0 onlink"),
            );
        }
        // Duplicate address detection would cost the test a second.
        ip(
            &self.pod,
            &format!("-6 addr del {}/128 dev eth0", self.pod_address(true)),
        );
        ip(
            &self.pod,
            &format!("-6 addr add {}/128 dev eth0 nodad", self.pod_address(true)),
        );
        ip(&self.pod, "link set eth0 mtu 1430");
    }

    pub fn config(&self) -> Config {
        Config {
            node_name: self.name.clone(),
            cluster_networks: vec![
                "10.244.0.0/16".parse().unwrap(),
                "fd00:10:244::/48".parse().unwrap(),
            ],
            conflist: self.conflist(),
            subnet_env: self.dir.path().join("subnet.env"),
            ..Config::default()
        }
    }

    pub fn conflist(&self) -> PathBuf {
        self.dir.path().join("10-fairlead.conflist")
    }

    pub fn start(&mut self) {
        self.start_with(self.config());
    }

    pub fn start_with(&mut self, config: Config) {
        let shutdown = CancellationToken::new();
        let (token, api) = (shutdown.clone(), self.api.clone());
        let namespace = kernel::netns::Netns::named(self.ns.name()).unwrap();
        let thread = std::thread::spawn(move || {
            namespace.enter_this_thread().unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let client = api.client();
                let caches = WatchCaches::new(client.clone());
                run(config, Deps { client, caches }, token).await.unwrap();
            });
        });
        self.running = Some((shutdown, thread));
    }

    /// Looks for machines with the node's addresses until the result is dropped.
    pub fn watch_conflicts(&self) -> tokio_util::sync::DropGuard {
        let shutdown = CancellationToken::new();
        let (token, api, name) = (shutdown.clone(), self.api.clone(), self.name.clone());
        let namespace = kernel::netns::Netns::named(self.ns.name()).unwrap();
        std::thread::spawn(move || {
            namespace.enter_this_thread().unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let client = api.client();
                let caches = WatchCaches::new(client.clone());
                flannel_vxlan::conflicts::watch(name, Deps { client, caches }, token).await;
            });
        });
        shutdown.drop_guard()
    }

    /// Stops the process; the kernel's state stays.
    pub fn stop(&mut self) {
        if let Some((shutdown, thread)) = self.running.take() {
            shutdown.cancel();
            thread.join().unwrap();
        }
    }

    pub fn ip(&self, line: &str) {
        let output = self.ns.command("ip", &line.split(' ').collect::<Vec<_>>());
        assert!(output.status.success(), "{line}: {output:?}");
    }

    /// What a program inside the node prints.
    pub fn show(&self, program: &str, line: &str) -> String {
        let output = self
            .ns
            .command(program, &line.split(' ').collect::<Vec<_>>());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        if let Some((shutdown, _)) = self.running.take() {
            shutdown.cancel();
        }
    }
}

/// A switch and nodes on it.
pub fn cluster(nodes: u8) -> (TestNetns, Arc<NodeApi>, Vec<TestNode>) {
    let switch = TestNetns::new("switch");
    switch.add_bridge("br0");
    let api = NodeApi::new();
    let nodes = (1..=nodes)
        .map(|n| TestNode::new(n, &switch, &api))
        .collect();
    (switch, api, nodes)
}

/// Waits until it is so; says how long it took.
pub fn eventually(what: &str, within: Duration, is_so: impl Fn() -> bool) -> Duration {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < within, "{what}: not within {within:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    start.elapsed()
}
