//! A host with an API server, an agent that can be killed, and pods that the plugin attaches.

use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use cluster_tests::command::{command, fairlead};
use cluster_tests::server::Server;
use kernel::testing::TestNetns;
use kube::api::{Api, ApiResource, DynamicObject, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use tempfile::TempDir;

const PORT: u16 = 9;
/// How long tests wait for what should take a moment.
const SOON: Duration = Duration::from_secs(60);

pub(crate) struct Node {
    agent: Mutex<Option<Child>>,
    server: Mutex<Option<Server>>,
    pub(crate) host: TestNetns,
    directory: TempDir,
}

/// An attached pod.
pub(crate) struct Pod {
    pub(crate) netns: TestNetns,
    pub(crate) addresses: Vec<IpAddr>,
}

impl Node {
    pub(crate) fn new() -> Self {
        let host = TestNetns::new("node");
        host.forward();
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("server");
        let arguments = ["--controllers=", "--no-scheduler"];
        let server = host.run(|| Server::start(&data, &arguments)).unwrap();
        Self {
            agent: Mutex::default(),
            server: Mutex::new(Some(server)),
            host,
            directory,
        }
    }

    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    /// Starts the agent, with the mounts of its namespace as a node has them.
    pub(crate) fn start_agent(&self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.path("agent.log"))
            .unwrap();
        let child = command("ip")
            .args(["netns", "exec", self.host.name()])
            .arg(fairlead())
            .arg("policy")
            .arg("--kubeconfig")
            .arg(self.path("server/admin.kubeconfig"))
            .arg("--run-dir")
            .arg(self.path("run"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        *self.agent.lock().unwrap() = Some(child);
    }

    pub(crate) fn kill_agent(&self) {
        if let Some(mut child) = self.agent.lock().unwrap().take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn kill_server(&self) {
        drop(self.server.lock().unwrap().take());
    }

    pub(crate) fn agent_log(&self) -> String {
        std::fs::read_to_string(self.path("agent.log")).unwrap()
    }

    /// Makes objects, of the core group if they name none.
    pub(crate) fn create(&self, objects: Vec<Value>) {
        let kubeconfig = self.path("server/admin.kubeconfig");
        self.host.block_on(async {
            let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(kubeconfig, &options);
            let client = Client::try_from(config.await.unwrap()).unwrap();
            for object in objects {
                let object: DynamicObject = serde_json::from_value(object).unwrap();
                let api = api_of(&client, &object);
                let created = api.create(&PostParams::default(), &object).await;
                created.unwrap_or_else(|error| panic!("{object:?}: {error}"));
            }
        });
    }

    pub(crate) fn create_namespace(&self, name: &str) {
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": "default", "namespace": name}});
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        self.create(vec![namespace, account]);
    }

    /// The object of a pod; its network is made by [`Self::attach`].
    pub(crate) fn create_pods(&self, namespace: &str, names: impl Iterator<Item = String>) {
        let pod = |name| {
            json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": "i"}],
                    "automountServiceAccountToken": false}})
        };
        self.create(names.map(pod).collect());
    }

    /// Runs ADD as a runtime does, again where it failed. The namespace is there before.
    pub(crate) fn attach(&self, netns: &TestNetns, namespace: &str, name: &str) -> Vec<IpAddr> {
        let started = Instant::now();
        loop {
            match self.plugin("ADD", netns, namespace, name) {
                Ok(result) => {
                    let ips = result["ips"].as_array().unwrap().iter();
                    let text = |ip: &Value| ip["address"].as_str().unwrap().to_owned();
                    let address = |text: String| text.split('/').next().unwrap().parse();
                    return ips.map(|ip| address(text(ip)).unwrap()).collect();
                }
                Err(error) => {
                    let again = started.elapsed() < 2 * SOON;
                    assert!(again, "{name}: {error}\n{}", self.agent_log());
                    let _ = self.plugin("DEL", netns, namespace, name);
                }
            }
        }
    }

    pub(crate) fn start_pod(&self, namespace: &str, name: &str) -> Pod {
        let netns = TestNetns::new(name);
        let addresses = self.attach(&netns, namespace, name);
        Pod { netns, addresses }
    }

    fn plugin(
        &self,
        verb: &str,
        netns: &TestNetns,
        namespace: &str,
        name: &str,
    ) -> Result<Value, String> {
        let config = json!({
            "cniVersion": "1.0.0", "name": "net", "type": "fairlead-cni",
            "dataDir": self.path("cni"), "policySocket": self.path("run/policy.sock"),
            "policyTimeoutSeconds": 20,
            "ipam": {"ranges": [[{"subnet": "10.244.0.0/16"}], [{"subnet": "fd00:10:244::/112"}]]},
        });
        let program = fairlead().with_file_name("fairlead-cni");
        let mut command = command(program);
        let arguments =
            format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name}");
        command
            .env_clear()
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", name)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_ARGS", arguments)
            .env("CNI_PATH", "/usr/lib/cni")
            .env("CNI_NETNS", netns.path())
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = self.host.run(move || command.spawn().unwrap());
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(config.to_string().as_bytes()).unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        match output.status.success() {
            true => Ok(serde_json::from_str(&text).unwrap_or_default()),
            false => Err(text),
        }
    }

    pub(crate) fn wait_for(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let started = Instant::now();
        while !is_so() {
            let soon = started.elapsed() < SOON;
            assert!(soon, "{what}: not in time\n{}", self.agent_log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn is_socket_there(&self) -> bool {
        let path: &Path = &self.path("run/policy.sock");
        std::os::unix::net::UnixStream::connect(path).is_ok()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill_agent();
    }
}

fn api_of(client: &Client, object: &DynamicObject) -> Api<DynamicObject> {
    let types = object.types.as_ref().unwrap();
    let (group, version) = types.api_version.split_once('/').unwrap_or(("", "v1"));
    let plural = match types.kind.as_str() {
        "NetworkPolicy" => "networkpolicies".to_owned(),
        kind => format!("{}s", kind.to_lowercase()),
    };
    let resource = ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: types.api_version.clone(),
        kind: types.kind.clone(),
        plural,
    };
    match &object.metadata.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

pub(crate) fn deny_all(namespace: &str) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "deny-all", "namespace": namespace},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}})
}

impl Pod {
    /// Sockets of both families, from which nobody answers.
    pub(crate) fn listen(&self) -> Vec<UdpSocket> {
        let bind = |address: &IpAddr| {
            let socket = UdpSocket::bind((*address, PORT)).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        };
        self.netns.run(|| self.addresses.iter().map(bind).collect())
    }

    pub(crate) fn targets(&self) -> Vec<SocketAddr> {
        let own = self.addresses.iter();
        own.map(|address| (*address, PORT).into()).collect()
    }
}

/// Sends from a namespace to every address; what cannot be sent yet is no failure.
pub(crate) fn send(netns: &TestNetns, targets: &[SocketAddr]) {
    netns.run(|| send_here(targets));
}

/// As [`send`], on a thread that is in the namespace.
pub(crate) fn send_here(targets: &[SocketAddr]) {
    for target in targets {
        let any: SocketAddr = match target {
            SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
            SocketAddr::V6(_) => ([0u16; 8], 0).into(),
        };
        if let Ok(socket) = UdpSocket::bind(any) {
            let _ = socket.send_to(b"x", target);
        }
    }
}

/// Where each packet came from that has arrived since the last look.
pub(crate) fn arrived(sockets: &[UdpSocket]) -> Vec<SocketAddr> {
    let mut from = Vec::new();
    for socket in sockets {
        while let Ok((_, source)) = socket.recv_from(&mut [0; 16]) {
            from.push(source);
        }
    }
    from
}
