//! A private containerd with a pod network, and a kubelet over it.

#![expect(
    clippy::disallowed_methods,
    reason = "tests start containerd and set up a network"
)]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use kubelet::{Config, Deps};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use watch_cache::WatchCaches;

use super::api::Api;
use super::{image, inside};

pub(crate) const NODE: &str = "node1";
/// On memory that goes away with the test's mount namespace.
const BASE: &str = "/run/fairlead-kubelet-test";

/// How long anything is waited for. Only a failure lasts as long; a busy machine may need it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct Node {
    pub api: Api,
    containerd: Child,
    kubelet: Option<(CancellationToken, JoinHandle<()>)>,
}

fn sh(command: &str) {
    let status = Command::new("sh")
        .args(["-ec", command])
        .status()
        .expect("a shell");
    assert!(status.success(), "{command}");
}

fn base(path: &str) -> PathBuf {
    Path::new(BASE).join(path)
}

pub(crate) fn socket() -> PathBuf {
    base("containerd.sock")
}

fn write_configs() {
    let config = format!(
        r#"version = 2
root = "{BASE}/root"
state = "{BASE}/state"
[grpc]
  address = "{BASE}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{BASE}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/fairlead/pause:1"
  restrict_oom_score_adj = true
  disable_apparmor = true
  netns_mounts_under_state_dir = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{BASE}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
"#
    );
    std::fs::write(base("config.toml"), config).expect("written");
    let network = json!({"cniVersion": "0.4.0", "name": "test", "plugins": [
        {"type": "ptp", "ipam": {"type": "host-local", "subnet": "10.88.0.0/24", "dataDir": base("ipam")}},
    ]});
    std::fs::create_dir_all(base("cni")).expect("made");
    std::fs::write(base("cni/10-test.conflist"), network.to_string()).expect("written");
}

fn start_containerd() -> Child {
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(base("containerd.log"))
        .expect("a log");
    let child = Command::new("containerd")
        .args(["-c", &format!("{BASE}/config.toml"), "-l", "info"])
        .stdout(log.try_clone().expect("a log"))
        .stderr(log)
        .spawn()
        .expect("containerd is needed");
    let begun = Instant::now();
    let ctr = format!("ctr -a {BASE}/containerd.sock version >/dev/null 2>&1");
    while !Command::new("sh")
        .args(["-c", &ctr])
        .status()
        .is_ok_and(|status| status.success())
    {
        assert!(begun.elapsed() < PATIENCE, "containerd does not start");
        std::thread::sleep(Duration::from_millis(50));
    }
    child
}

impl Node {
    /// Starts containerd and the kubelet.
    pub(crate) async fn start() -> Self {
        let mut node = Self::without_kubelet();
        node.start_kubelet(|_| {}).await;
        node
    }

    pub(crate) fn without_kubelet() -> Self {
        sh(&format!(
            "mkdir -p {BASE} && mount -t tmpfs tmpfs {BASE} && mount --make-rshared /"
        ));
        sh("ip link set lo up && ip addr add 192.0.2.1/32 dev lo");
        write_configs();
        let containerd = start_containerd();
        image::write(&base("image.tar"));
        sh(&format!(
            "ctr -a {BASE}/containerd.sock -n k8s.io images import {BASE}/image.tar >/dev/null"
        ));
        Self {
            api: Api::new(),
            containerd,
            kubelet: None,
        }
    }

    pub(crate) fn config() -> Config {
        Config {
            node_name: NODE.into(),
            runtime_socket: socket(),
            root: base("kubelet"),
            pod_logs: base("logs/pods"),
            container_logs: base("logs/containers"),
            node_ips: vec!["192.0.2.1".parse().expect("an address")],
            cgroup_root: inside::cgroup_root(),
            listen: None,
            ..Config::default()
        }
    }

    pub(crate) async fn start_kubelet(&mut self, change: impl FnOnce(&mut Config)) {
        let mut config = Self::config();
        change(&mut config);
        let client = self.api.client();
        let caches = WatchCaches::new(client.clone());
        let shutdown = CancellationToken::new();
        let running = kubelet::run(config, Deps::new(client, caches), shutdown.clone());
        let task = tokio::spawn(async move { running.await.expect("the kubelet runs") });
        self.kubelet = Some((shutdown, task));
    }

    /// Ends the kubelet without a word, as a kill would: nothing is cleaned up.
    pub(crate) async fn kill_kubelet(&mut self) {
        if let Some((shutdown, task)) = self.kubelet.take() {
            shutdown.cancel();
            let _ = task.await;
        }
    }

    pub(crate) fn kill_containerd(&mut self) {
        self.containerd.kill().expect("killed");
        let _ = self.containerd.wait();
    }

    pub(crate) fn restart_containerd(&mut self) {
        self.containerd = start_containerd();
    }

    /// Creates a pod on this node. Containers without an image get busybox.
    pub(crate) fn create(&self, name: &str, mut spec: Value) {
        for list in ["initContainers", "containers"] {
            for container in spec[list].as_array_mut().into_iter().flatten() {
                let defaults = json!({"image": "busybox:1", "imagePullPolicy": "IfNotPresent",
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"});
                for (key, value) in defaults.as_object().expect("an object") {
                    if container.get(key).is_none() {
                        container[key] = value.clone();
                    }
                }
            }
        }
        spec["nodeName"] = json!(NODE);
        let grace = spec
            .get("terminationGracePeriodSeconds")
            .cloned()
            .unwrap_or(json!(1));
        spec["terminationGracePeriodSeconds"] = grace;
        self.api.put(
            "api/v1/pods",
            json!({
                "metadata": {"name": name, "namespace": "default", "generation": 1},
                "spec": spec, "status": {"phase": "Pending"},
            }),
        );
    }

    pub(crate) fn pod(&self, name: &str) -> Value {
        self.api
            .get("api/v1/pods", "default", name)
            .unwrap_or_default()
    }

    /// Waits until the pod is as wanted.
    pub(crate) async fn wait(
        &self,
        name: &str,
        what: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        let begun = Instant::now();
        loop {
            let pod = self.pod(name);
            if wanted(&pod) {
                return pod;
            }
            if begun.elapsed() > PATIENCE {
                let events: Vec<String> = self
                    .api
                    .list("api/v1/events")
                    .iter()
                    .map(|event| {
                        format!(
                            "{} {} {}",
                            event["involvedObject"]["name"], event["reason"], event["message"]
                        )
                    })
                    .collect();
                let log = std::fs::read_to_string(base("containerd.log")).unwrap_or_default();
                let log: Vec<&str> = log.lines().rev().take(15).collect();
                panic!(
                    "{name} is not {what}: {:#}\nevents: {events:#?}\ncontainerd: {log:#?}",
                    pod["status"]
                );
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn running(&self, name: &str) -> Value {
        self.wait(name, "running", |pod| pod["status"]["phase"] == "Running")
            .await
    }

    pub(crate) async fn ready(&self, name: &str) -> Value {
        self.wait(name, "ready", |pod| condition(pod, "Ready") == "True")
            .await
    }

    pub(crate) async fn phase(&self, name: &str, phase: &str) -> Value {
        self.wait(name, phase, |pod| pod["status"]["phase"] == phase)
            .await
    }

    pub(crate) async fn gone(&self, name: &str) {
        self.wait(name, "gone", Value::is_null).await;
    }

    /// The text of a container's log, as the file has it after the runtime's prefix.
    pub(crate) fn log(&self, name: &str, container: &str, attempt: u32) -> String {
        let pod = self.pod(name);
        let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
        let path = base(&format!(
            "logs/pods/default_{name}_{uid}/{container}/{attempt}.log"
        ));
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines()
            .filter_map(|line| line.splitn(4, ' ').nth(3))
            .map(|line| format!("{line}\n"))
            .collect()
    }

    /// Waits until a log says exactly this.
    pub(crate) async fn says(&self, name: &str, container: &str, text: &str) {
        let begun = Instant::now();
        while self.log(name, container, 0) != text {
            assert!(
                begun.elapsed() < PATIENCE,
                "{:?}",
                self.log(name, container, 0)
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Runs a command in a container.
    pub(crate) async fn exec(
        &self,
        name: &str,
        container: &str,
        command: &[&str],
    ) -> (i32, String) {
        let pod = self.pod(name);
        let statuses = pod["status"]["containerStatuses"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let status = statuses
            .iter()
            .find(|status| status["name"] == container)
            .expect("the container");
        let id = status["containerID"]
            .as_str()
            .expect("an id")
            .trim_start_matches("containerd://")
            .to_owned();
        let command = command.iter().map(|&word| word.to_owned()).collect();
        let answer = cri::Runtime::new(socket())
            .exec_sync(id, command, Duration::from_secs(10))
            .await;
        let answer = answer.expect("the command runs");
        let mut output = answer.stdout;
        output.extend(answer.stderr);
        (
            answer.exit_code,
            String::from_utf8_lossy(&output).into_owned(),
        )
    }

    pub(crate) fn has_event(&self, name: &str, reason: &str) -> bool {
        self.api
            .list("api/v1/events")
            .iter()
            .any(|event| event["involvedObject"]["name"] == name && event["reason"] == reason)
    }

    pub(crate) fn file(&self, path: &str) -> PathBuf {
        base(path)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.containerd.kill();
    }
}

pub(crate) fn condition(pod: &Value, kind: &str) -> String {
    let list = pod["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let found = list.iter().find(|condition| condition["type"] == kind);
    found
        .and_then(|condition| condition["status"].as_str())
        .unwrap_or_default()
        .to_owned()
}

/// A free port of this network namespace.
pub(crate) fn listen() -> SocketAddr {
    "127.0.0.1:10250".parse().expect("an address")
}
