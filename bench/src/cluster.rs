//! A cluster of two nodes in the lab: its start, its idle use of the machine, how soon pods run.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{DeleteParams, ListParams, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde::Deserialize;
use serde_json::json;

use crate::apiload::ProcessUse;
use crate::results::table;

const LAB: &str = "bench";
const NAMESPACE: &str = "bench";
const ROUNDS: usize = 25;
const TOGETHER: usize = 60;
const IDLE: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, Deserialize)]
struct LabStatus {
    name: String,
    kubeconfig: PathBuf,
    processes: Vec<ProcessStatus>,
}

#[derive(Debug, Deserialize)]
struct ProcessStatus {
    pid: u32,
    node: String,
    role: String,
}

/// A lab that goes with its owner.
struct Lab<'a> {
    fairlead: &'a Path,
}

impl Drop for Lab<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.run(&["lab", "down", LAB]) {
            eprintln!("bench: {error:#}");
        }
    }
}

impl Lab<'_> {
    #[expect(
        clippy::disallowed_methods,
        reason = "a benchmark starts what it measures"
    )]
    fn run(&self, arguments: &[&str]) -> anyhow::Result<Vec<u8>> {
        let output = Command::new(self.fairlead)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .with_context(|| self.fairlead.display().to_string())?;
        ensure!(
            output.status.success(),
            "fairlead {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(output.stdout)
    }

    fn status(&self) -> anyhow::Result<LabStatus> {
        let all: Vec<LabStatus> =
            serde_json::from_slice(&self.run(&["lab", "list", "--output", "json"])?)?;
        all.into_iter()
            .find(|lab| lab.name == LAB)
            .context("the lab is not in the list")
    }
}

/// Measures everything of this module; the answer is Markdown.
pub async fn measure(fairlead: &Path) -> anyhow::Result<String> {
    let lab = Lab { fairlead };
    lab.run(&["lab", "down", LAB])?;
    let begun = Instant::now();
    lab.run(&["lab", "up", LAB, "--nodes", "2"])?;
    let up = begun.elapsed();
    let status = lab.status()?;
    let client = client(&status.kubeconfig).await?;
    prepare(&client).await?;
    let mut single = Vec::new();
    for round in 0..ROUNDS {
        single.push(start(&client, &[pod(&format!("single-{round}"))]).await?);
    }
    single.sort_unstable();
    let own = own_share(&client).await?;
    let pods: Vec<Pod> = (0..TOGETHER).map(|i| pod(&format!("many-{i}"))).collect();
    let many = start(&client, &pods).await?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    pods.delete_collection(
        &DeleteParams::default().grace_period(0),
        &ListParams::default(),
    )
    .await?;
    wait_for_none(&pods).await?;
    let idle = idle(&status.processes).await?;
    let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
    let times = table(
        ["", "measured"],
        &[
            ["`lab up` with two nodes to both Ready".into(), seconds(up)],
            [
                "one pod, create to Running: p50".into(),
                seconds(single[ROUNDS / 2]),
            ],
            [
                "one pod, create to Running: slowest of 25".into(),
                seconds(single[ROUNDS - 1]),
            ],
            ["of it the kubelet's own share, mean".into(), own],
            ["60 pods at once, all Running".into(), seconds(many)],
        ],
    );
    Ok(format!(
        "{times}\n{}",
        table(["process", "resident, idle", "CPU, idle"], &idle)
    ))
}

async fn client(kubeconfig: &Path) -> anyhow::Result<Client> {
    let file = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// The namespace with its service account, and an image that is known on both nodes.
async fn prepare(client: &Client) -> anyhow::Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": NAMESPACE}}))?;
    namespaces
        .create(&PostParams::default(), &namespace)
        .await?;
    let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> =
        Api::namespaced(client.clone(), NAMESPACE);
    let end = Instant::now() + PATIENCE;
    while accounts.get_opt("default").await?.is_none() {
        ensure!(Instant::now() < end, "the namespace has no service account");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let warm: Vec<Pod> = (0..8).map(|i| pod(&format!("warm-{i}"))).collect();
    start(client, &warm).await.map(drop)
}

fn pod(name: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "topologySpreadConstraints": [{
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {},
            }],
            "containers": [{"name": "server", "image": "fairlead/testserver:1"}],
        },
    }))
    .expect("a Pod")
}

/// Creates the pods and tells how long it took until a watch showed all of them Running.
async fn start(client: &Client, pods: &[Pod]) -> anyhow::Result<Duration> {
    let api: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let version = api
        .list(&ListParams::default())
        .await?
        .metadata
        .resource_version
        .unwrap_or_default();
    let begun = Instant::now();
    let creates = pods.iter().map(|pod| {
        let api = api.clone();
        async move { api.create(&PostParams::default(), pod).await }
    });
    let mut events = api.watch(&WatchParams::default(), &version).await?.boxed();
    let created = futures::stream::iter(creates)
        .buffer_unordered(10)
        .try_collect::<Vec<_>>();
    let watched = async {
        let mut waiting: BTreeSet<&str> = pods
            .iter()
            .filter_map(|pod| pod.metadata.name.as_deref())
            .collect();
        while !waiting.is_empty() {
            let event = events.try_next().await?.context("the watch ended")?;
            if let WatchEvent::Modified(pod) = event
                && pod.status.and_then(|status| status.phase).as_deref() == Some("Running")
            {
                waiting.remove(pod.metadata.name.as_deref().unwrap_or_default());
            }
        }
        anyhow::Ok(begun.elapsed())
    };
    let both = async { tokio::try_join!(async { Ok(created.await?) }, watched) };
    let (_, elapsed) = tokio::time::timeout(PATIENCE, both)
        .await
        .context("not all pods run")??;
    Ok(elapsed)
}

async fn wait_for_none(pods: &Api<Pod>) -> anyhow::Result<()> {
    let end = Instant::now() + PATIENCE;
    while !pods
        .list(&ListParams::default().limit(1))
        .await?
        .items
        .is_empty()
    {
        ensure!(Instant::now() < end, "the pods stay");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

/// From the kubelets' own metrics, through the API server's proxy.
async fn own_share(client: &Client) -> anyhow::Result<String> {
    let (mut sum, mut count) = (0.0, 0.0);
    for node in ["node1", "node2"] {
        let path = format!("/api/v1/nodes/{node}/proxy/metrics");
        let text = client
            .request_text(http::Request::get(path).body(Vec::new())?)
            .await?;
        let value = |name: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.trim().parse().ok())
                .unwrap_or(0.0)
        };
        sum += value("kubelet_pod_start_own_duration_seconds_sum ");
        count += value("kubelet_pod_start_own_duration_seconds_count ");
    }
    ensure!(count > 0.0, "the kubelets have measured no pod's start");
    Ok(format!("{:.0} ms", 1000.0 * sum / count))
}

/// Memory and CPU of each Fairlead process when nothing happens.
async fn idle(processes: &[ProcessStatus]) -> anyhow::Result<Vec<[String; 3]>> {
    let ours = || {
        processes
            .iter()
            .filter(|process| matches!(process.role.as_str(), "server" | "node"))
    };
    tokio::time::sleep(Duration::from_secs(15)).await;
    let before: Vec<ProcessUse> = ours()
        .map(|process| ProcessUse::read(process.pid))
        .collect::<anyhow::Result<_>>()?;
    tokio::time::sleep(IDLE).await;
    ours()
        .zip(before)
        .map(|(process, before)| {
            let after = ProcessUse::read(process.pid)?;
            let share = (after.cpu - before.cpu).as_secs_f64() / IDLE.as_secs_f64();
            Ok([
                format!("{} of {}", process.role, process.node),
                format!("{} MiB", after.resident >> 20),
                format!("{:.2} % of a core", share * 100.0),
            ])
        })
        .collect()
}
