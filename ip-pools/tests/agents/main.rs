//! The agents of several nodes at once, against one API: whose a block is, whose an address.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod api;

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use api::FakeApi;
use ip_pools::gate::{Answer, Request};
use ip_pools::{Config, Deps, LocalAddresses, run};
use ipnetwork::IpNetwork;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;
use watch_cache::WatchCaches;

const NODES: &str = "/api/v1/nodes";
const PODS: &str = "/api/v1/pods";
const NAMESPACES: &str = "/api/v1/namespaces";
const POOLS: &str = "/apis/fairlead.io/v1/ippools";
const CONFIGURATIONS: &str = "/apis/fairlead.io/v1/ipamconfigurations";
const BLOCKS: &str = "/apis/fairlead.io/v1/ipamblocks";
const SOON: Duration = Duration::from_secs(20);

/// What a plugin remembers.
#[derive(Default)]
struct Memory {
    used: BTreeSet<IpAddr>,
    withdrawn: BTreeSet<IpNetwork>,
}

#[derive(Default)]
struct Plugin(Mutex<Memory>);

impl LocalAddresses for Plugin {
    fn used(&self) -> io::Result<BTreeSet<IpAddr>> {
        Ok(self.0.lock().unwrap().used.clone())
    }

    fn withdraw(&self, network: IpNetwork) -> io::Result<bool> {
        let mut memory = self.0.lock().unwrap();
        let free = !memory.used.iter().any(|own| network.contains(*own));
        if free {
            memory.withdrawn.insert(network);
        }
        Ok(free)
    }

    fn admit(&self, network: IpNetwork) -> io::Result<()> {
        self.0.lock().unwrap().withdrawn.remove(&network);
        Ok(())
    }

    fn withdrawn(&self) -> io::Result<BTreeSet<IpNetwork>> {
        Ok(self.0.lock().unwrap().withdrawn.clone())
    }
}

/// A node: its agent, and what its plugin remembers.
struct Node {
    name: String,
    plugin: Arc<Plugin>,
    dir: tempfile::TempDir,
    stop: CancellationToken,
}

impl Node {
    /// Makes the Node and starts its agent.
    async fn start(api: &Arc<FakeApi>, name: &str, ranges: &[&str]) -> Self {
        api.put(
            NODES,
            json!({
                "apiVersion": "v1", "kind": "Node",
                "metadata": {"name": name, "labels": {"name": name}},
                "spec": {"podCIDRs": ranges},
            }),
        );
        let node = Self {
            name: name.to_owned(),
            plugin: Arc::default(),
            dir: tempfile::tempdir().unwrap(),
            stop: CancellationToken::new(),
        };
        node.run(api).await;
        node
    }

    async fn run(&self, api: &Arc<FakeApi>) {
        let config = Config {
            node_name: self.name.clone(),
            socket: self.dir.path().join("socket"),
            tidy: Duration::from_millis(300),
            patience: Duration::from_secs(10),
        };
        let deps = Deps {
            caches: WatchCaches::new(api.client()),
            local: self.plugin.clone(),
        };
        let socket = config.socket.clone();
        tokio::spawn(run(config, deps, self.stop.clone()));
        eventually("the agent answers", || socket.exists()).await;
    }

    async fn ask(&self, request: &Request) -> Answer {
        let mut stream = UnixStream::connect(self.dir.path().join("socket"))
            .await
            .unwrap();
        let line = serde_json::to_string(request).unwrap() + "\n";
        stream.write_all(line.as_bytes()).await.unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).await.unwrap();
        serde_json::from_str(&answer).unwrap()
    }

    /// As the plugin does: asks, and tells what is full, until there is an address or an error.
    async fn add(&self, pod: &str) -> Result<IpAddr, String> {
        let mut request = Request {
            pod_namespace: "default".to_owned(),
            pod_name: pod.to_owned(),
            ..Request::default()
        };
        loop {
            let answer = self.ask(&request).await;
            if let Some(error) = answer.error {
                return Err(error);
            }
            if let Some(address) = self.take(&answer) {
                return Ok(address);
            }
            request
                .full
                .extend(answer.sets[0].iter().map(|range| range.subnet));
        }
    }

    fn take(&self, answer: &Answer) -> Option<IpAddr> {
        let mut memory = self.plugin.0.lock().unwrap();
        let inside = |address: &IpAddr| {
            answer.sets[0]
                .iter()
                .any(|range| (range.range_start..=range.range_end).contains(address))
        };
        let all = answer.sets[0].iter().flat_map(|range| range.subnet.iter());
        let free = all.filter(inside).find(|address| {
            let gone = memory
                .withdrawn
                .iter()
                .any(|network| network.contains(*address));
            !gone && !memory.used.contains(address)
        })?;
        memory.used.insert(free);
        Some(free)
    }

    fn del(&self, address: IpAddr) {
        assert!(self.plugin.0.lock().unwrap().used.remove(&address));
    }

    fn used(&self) -> BTreeSet<IpAddr> {
        self.plugin.0.lock().unwrap().used.clone()
    }

    fn published(&self, api: &FakeApi) -> Vec<IpNetwork> {
        let nodes = api.list(NODES);
        let own = nodes
            .iter()
            .find(|node| node["metadata"]["name"] == *self.name)
            .unwrap();
        let text = own["metadata"]["annotations"]["fairlead.io/pod-blocks"].as_str();
        let texts = text
            .unwrap_or_default()
            .split(',')
            .filter(|text| !text.is_empty());
        texts.map(|text| text.parse().unwrap()).collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < SOON, "{what}: not within {SOON:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn api_with(pool: Value) -> Arc<FakeApi> {
    let api = FakeApi::new();
    api.put(
        NAMESPACES,
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}),
    );
    api.put(
        POOLS,
        json!({
            "apiVersion": "fairlead.io/v1", "kind": "IPPool",
            "metadata": {"name": "pool"}, "spec": pool,
        }),
    );
    api
}

fn pod(api: &FakeApi, name: &str, node: &str, annotations: Value) {
    api.put(
        PODS,
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "annotations": annotations},
            "spec": {"nodeName": node, "containers": []},
        }),
    );
}

fn owners(api: &FakeApi) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let blocks = api.list(BLOCKS);
    let each = blocks
        .iter()
        .map(|own| (text(&own["spec"]["cidr"]), text(&own["spec"]["node"])));
    each.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_claim_at_once_have_different_blocks_and_addresses() {
    let api = api_with(json!({"cidr": "10.9.0.0/27", "blockSize": 29}));
    // Without ranges of their own they claim their first blocks at once, too.
    let names = ["a", "b", "c"];
    let nodes = futures::future::join_all(names.map(|name| Node::start(&api, name, &[]))).await;
    let adds = nodes
        .iter()
        .flat_map(|node| (0..9).map(move |_| node.add("")));
    let given: Vec<Result<IpAddr, String>> = futures::future::join_all(adds).await;
    let addresses: BTreeSet<IpAddr> = given.iter().flatten().copied().collect();
    assert_eq!(
        addresses.len(),
        given.iter().flatten().count(),
        "one is used twice"
    );
    // 4 blocks of 7 addresses: 27 of 28 are had, whoever has the fourth block lends of it.
    let refused: Vec<&String> = given.iter().filter_map(|own| own.as_ref().err()).collect();
    assert_eq!(addresses.len(), 27, "{refused:?}");
    for node in &nodes {
        let published = node.published(&api);
        let known = |address: &IpAddr| published.iter().any(|range| range.contains(*address));
        assert!(
            node.used().iter().all(known),
            "{}: {published:?}",
            node.name
        );
    }
    let all: BTreeSet<IpAddr> = nodes.iter().flat_map(Node::used).collect();
    assert_eq!(all.len(), 27);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_that_ask_one_block_at_once_are_lent_different_addresses() {
    let api = api_with(json!({"cidr": "10.9.0.0/29", "blockSize": 29}));
    for name in ["b", "c"] {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
        api.put(NODES, node);
    }
    // Both questions are there before their owner looks for the first time.
    api.put(
        BLOCKS,
        json!({
            "apiVersion": "fairlead.io/v1", "kind": "IPAMBlock",
            "metadata": {"name": "block-10-9-0-0-29"},
            "spec": {"cidr": "10.9.0.0/29", "node": "a", "asked": {"b": {}, "c": {}}},
        }),
    );
    let _a = Node::start(&api, "a", &["10.1.0.0/24"]).await;
    let spec = || api.list(BLOCKS)[0]["spec"].clone();
    let borrowers = |spec: &Value| -> BTreeSet<String> {
        let lent = spec["lent"].as_object().into_iter().flatten();
        lent.filter_map(|(_, node)| Some(node.as_str()?.to_owned()))
            .collect()
    };
    eventually("both questions are answered", || {
        spec()["asked"]
            .as_object()
            .is_none_or(serde_json::Map::is_empty)
    })
    .await;
    let expected: BTreeSet<String> = ["b", "c"].map(str::to_owned).into();
    assert_eq!(borrowers(&spec()), expected, "{}", spec());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_that_nobody_needs_goes_back_and_another_node_gets_it() {
    let api = api_with(json!({"cidr": "10.9.0.0/29", "blockSize": 30}));
    let (a, b) = (
        Node::start(&api, "a", &["10.1.0.0/24"]).await,
        Node::start(&api, "b", &["10.2.0.0/24"]).await,
    );
    for node in ["a", "b"] {
        let named = json!({"cni.projectcalico.org/ipv4pools": "[\"pool\"]"});
        pod(&api, &format!("pod-{node}"), node, named);
    }
    let mut given = Vec::new();
    for _ in 0..6 {
        given.push(a.add("pod-a").await.unwrap());
    }
    assert_eq!(owners(&api).len(), 2);
    // All blocks are a's and full: nothing to lend.
    let refused = b.add("pod-b").await.unwrap_err();
    assert!(refused.contains("node a lends none"), "{refused}");
    for address in given {
        a.del(address);
    }
    eventually("one block is released", || owners(&api).len() == 1).await;
    assert_eq!(a.published(&api).len(), 1);
    let address = b.add("pod-b").await.unwrap();
    let own: IpNetwork = owners(&api)
        .iter()
        .find(|(_, node)| node == "b")
        .unwrap()
        .0
        .parse()
        .unwrap();
    assert!(own.contains(address));
    // The node is gone for good: whoever needs its block takes it over.
    api.remove(NODES, "b");
    drop(b);
    let mut more = Vec::new();
    for _ in 0..6 {
        more.push(a.add("pod-a").await);
    }
    let had: BTreeSet<IpAddr> = more.into_iter().map(Result::unwrap).collect();
    assert_eq!(had.len(), 6);
    assert!(owners(&api).iter().all(|(_, node)| node == "a"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_borrowed_address_goes_back_when_its_pod_is_gone_and_strict_affinity_forbids_it() {
    let api = api_with(json!({"cidr": "10.9.0.0/29", "blockSize": 29}));
    let (a, b) = (
        Node::start(&api, "a", &["10.1.0.0/24"]).await,
        Node::start(&api, "b", &["10.2.0.0/24"]).await,
    );
    let wanted = json!({"cni.projectcalico.org/ipAddrs": "[\"10.9.0.5\"]"});
    pod(
        &api,
        "owner",
        "a",
        json!({"cni.projectcalico.org/ipv4pools": "[\"pool\"]"}),
    );
    pod(&api, "borrower", "b", wanted);
    a.add("owner").await.unwrap();
    let lent = b.add("borrower").await.unwrap();
    assert_eq!(lent.to_string(), "10.9.0.5");
    assert_eq!(b.published(&api), ["10.9.0.5/32".parse().unwrap()]);
    // The owner does not give it, also not after a restart.
    a.stop.cancel();
    std::fs::remove_file(a.dir.path().join("socket")).unwrap();
    let again = Node {
        name: "a".into(),
        plugin: a.plugin.clone(),
        dir: tempfile::tempdir().unwrap(),
        stop: CancellationToken::new(),
    };
    again.run(&api).await;
    let mut rest = BTreeSet::new();
    while let Ok(address) = again.add("owner").await {
        assert_ne!(address, lent);
        rest.insert(address);
    }
    assert_eq!(
        rest.len(),
        5,
        "7 addresses, one is the first pod's, one is lent"
    );
    b.del(lent);
    eventually("it is returned", || {
        api.list(BLOCKS)[0]["spec"]["lent"].is_null()
    })
    .await;
    eventually("b publishes nothing", || b.published(&api).is_empty()).await;
    assert_eq!(again.add("owner").await.unwrap(), lent);
    again.del(lent);
    api.put(
        CONFIGURATIONS,
        json!({
            "apiVersion": "fairlead.io/v1", "kind": "IPAMConfiguration",
            "metadata": {"name": "default"}, "spec": {"strictAffinity": true},
        }),
    );
    let mut refused = b.add("borrower").await;
    for _ in 0..50 {
        // The watch may not have told yet.
        let Ok(address) = refused else { break };
        b.del(address);
        tokio::time::sleep(Duration::from_millis(50)).await;
        refused = b.add("borrower").await;
    }
    assert!(refused.unwrap_err().contains("strictAffinity"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_lost_lead_to_no_address_that_two_have() {
    let api = api_with(json!({"cidr": "10.9.0.0/28", "blockSize": 29}));
    let (a, b) = (
        Node::start(&api, "a", &[]).await,
        Node::start(&api, "b", &[]).await,
    );
    let mut held: Vec<(usize, IpAddr)> = Vec::new();
    for round in 0..30 {
        if round % 3 == 0 {
            api.lose_answers(1);
        }
        let number = round % 2;
        let node = [&a, &b][number];
        match node.add("").await {
            Ok(address) => {
                assert!(
                    held.iter().all(|(_, other)| *other != address),
                    "{address} is used twice"
                );
                held.push((number, address));
            }
            Err(_) => {
                let (owner, address) = held.remove(round % held.len());
                [&a, &b][owner].del(address);
            }
        }
    }
    let all: BTreeSet<IpAddr> = a.used().union(&b.used()).copied().collect();
    assert_eq!(all.len(), a.used().len() + b.used().len());
    assert!(api.conflicts() < 1000);
}
