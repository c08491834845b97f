//! A lab asked as the conformance tests ask: plain requests to its API server, no kubectl between.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::cluster::Cluster;

/// How long cases wait for what a cluster is to do.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// A lab and a client of its API server.
pub struct Site {
    pub cluster: Cluster,
    client: Client,
    runtime: Runtime,
}

/// What the server refused, as its Status says it.
#[derive(Debug, Clone)]
pub struct Refusal {
    pub code: u16,
    pub reason: String,
    pub message: String,
}

/// The object, or why there is none.
pub type Answer = Result<Value, Refusal>;

/// The body's media type of a patch.
#[derive(Debug, Clone, Copy)]
pub enum Patch {
    Merge,
    Strategic,
    Json,
}

impl Patch {
    fn media_type(self) -> &'static str {
        match self {
            Patch::Merge => "application/merge-patch+json",
            Patch::Strategic => "application/strategic-merge-patch+json",
            Patch::Json => "application/json-patch+json",
        }
    }
}

impl Site {
    /// Starts a lab of two nodes.
    pub fn start(name: &str) -> anyhow::Result<Self> {
        let cluster = Cluster::start(name, &["--nodes=2"])?;
        let runtime = Runtime::new()?;
        let client = runtime.block_on(async {
            let kubeconfig = Kubeconfig::read_from(&cluster.kubeconfig)?;
            let options = KubeConfigOptions::default();
            let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await?;
            // Refusals are to be seen.
            config.default_retry = false;
            anyhow::Ok(Client::try_from(config)?)
        })?;
        Ok(Self {
            cluster,
            client,
            runtime,
        })
    }

    fn send(&self, method: &str, path: &str, kind: &str, body: Vec<u8>) -> anyhow::Result<Answer> {
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("Content-Type", kind)
            .body(body)?;
        match self.runtime.block_on(self.client.request_text(request)) {
            Ok(text) => Ok(Ok(
                serde_json::from_str(&text).unwrap_or(Value::String(text))
            )),
            Err(kube::Error::Api(status)) => Ok(Err(Refusal {
                code: status.code,
                reason: status.reason.clone(),
                message: status.message.clone(),
            })),
            Err(error) => Err(error).with_context(|| format!("{method} {path}")),
        }
    }

    /// As text: what a pod or a kubelet answers.
    pub fn text(&self, path: &str) -> anyhow::Result<String> {
        let request = http::Request::get(path).body(Vec::new())?;
        self.runtime
            .block_on(self.client.request_text(request))
            .with_context(|| format!("GET {path}"))
    }

    /// Runs what needs a client of its own.
    pub fn block_on<T>(
        &self,
        work: impl FnOnce(Client) -> futures::future::BoxFuture<'static, anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        self.runtime.block_on(work(self.client.clone()))
    }

    /// Any request with JSON; `Value::Null` is no body.
    pub fn ask(&self, method: &str, path: &str, body: &Value) -> anyhow::Result<Answer> {
        let body = match body {
            Value::Null => Vec::new(),
            body => body.to_string().into_bytes(),
        };
        self.send(method, path, "application/json", body)
    }

    pub fn get(&self, path: &str) -> anyhow::Result<Value> {
        accepted(path, self.ask("GET", path, &Value::Null)?)
    }

    /// The object, if there is one.
    pub fn find(&self, path: &str) -> anyhow::Result<Option<Value>> {
        match self.ask("GET", path, &Value::Null)? {
            Err(refusal) if refusal.code == 404 => Ok(None),
            answer => accepted(path, answer).map(Some),
        }
    }

    pub fn create(&self, path: &str, object: &Value) -> anyhow::Result<Value> {
        accepted(path, self.ask("POST", path, object)?)
    }

    pub fn replace(&self, path: &str, object: &Value) -> anyhow::Result<Value> {
        accepted(path, self.ask("PUT", path, object)?)
    }

    pub fn delete(&self, path: &str) -> anyhow::Result<Value> {
        accepted(path, self.ask("DELETE", path, &Value::Null)?)
    }

    pub fn patch(&self, path: &str, patch: Patch, change: &Value) -> anyhow::Result<Value> {
        let body = change.to_string().into_bytes();
        accepted(path, self.send("PATCH", path, patch.media_type(), body)?)
    }

    pub fn merge(&self, path: &str, change: &Value) -> anyhow::Result<Value> {
        self.patch(path, Patch::Merge, change)
    }

    /// Reads, changes and writes; again when somebody else wrote meanwhile.
    pub fn change(&self, path: &str, change: impl Fn(&mut Value)) -> anyhow::Result<Value> {
        for _ in 0..20 {
            let mut object = self.get(path)?;
            change(&mut object);
            match self.ask("PUT", path, &object)? {
                Err(refusal) if refusal.code == 409 => {}
                answer => return accepted(path, answer),
            }
        }
        bail!("{path}: somebody else is always faster")
    }

    /// The items of a list.
    pub fn list(&self, path: &str) -> anyhow::Result<Vec<Value>> {
        let list = self.get(path)?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// What happens from a resource version on, for so many seconds: type and object.
    pub fn watched(&self, path: &str, version: &str, seconds: u32) -> anyhow::Result<Vec<Value>> {
        let sign = if path.contains('?') { '&' } else { '?' };
        let path =
            format!("{path}{sign}watch=true&resourceVersion={version}&timeoutSeconds={seconds}");
        let request = http::Request::get(&path).body(Vec::new())?;
        let text = self.runtime.block_on(self.client.request_text(request))?;
        let events = text.lines().map(serde_json::from_str);
        let events: Vec<Value> = events.collect::<Result<_, _>>()?;
        let broken = events.iter().find(|event| event["type"] == "ERROR");
        match broken {
            Some(event) => bail!("{path}: {}", event["object"]["message"]),
            None => Ok(events),
        }
    }

    /// Asks for an object until it is as wanted.
    pub fn until(
        &self,
        path: &str,
        wanted: &str,
        is_so: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        let start = Instant::now();
        loop {
            let found = self.ask("GET", path, &Value::Null)?;
            match &found {
                Ok(object) if is_so(object) => return Ok(object.clone()),
                _ if start.elapsed() < PATIENCE => {}
                Ok(object) => bail!("{path}: not {wanted} after {PATIENCE:?}: {}", brief(object)),
                Err(refusal) => bail!("{path}: not {wanted}: {}", refusal.message),
            }
            std::thread::sleep(Duration::from_millis(250));
        }
    }

    /// Waits until an object is gone.
    pub fn until_gone(&self, path: &str) -> anyhow::Result<()> {
        let start = Instant::now();
        while self.find(path)?.is_some() {
            ensure!(start.elapsed() < PATIENCE, "{path} is still there");
            std::thread::sleep(Duration::from_millis(250));
        }
        Ok(())
    }

    /// Sees for so long that an object stays as it is.
    pub fn stays(
        &self,
        time: Duration,
        path: &str,
        wanted: &str,
        is_so: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<()> {
        let start = Instant::now();
        while start.elapsed() < time {
            let found = self.get(path)?;
            ensure!(is_so(&found), "{path} is not {wanted}: {}", brief(&found));
            std::thread::sleep(Duration::from_millis(250));
        }
        Ok(())
    }

    /// A namespace of one case, with its ServiceAccount. It is deleted with the value.
    pub fn space(&self, name: &str) -> anyhow::Result<Space<'_>> {
        self.space_with(name, json!({}))
    }

    pub fn space_with(&self, name: &str, labels: Value) -> anyhow::Result<Space<'_>> {
        let object = json!({"metadata": {"name": name, "labels": labels}});
        self.create("/api/v1/namespaces", &object)?;
        let space = Space {
            site: self,
            name: name.to_owned(),
        };
        space.until("serviceaccounts/default", "there", |_| true)?;
        space.until("configmaps/kube-root-ca.crt", "there", |_| true)?;
        Ok(space)
    }

    /// The names of the nodes, in order.
    pub fn nodes(&self) -> anyhow::Result<Vec<String>> {
        let nodes = self.list("/api/v1/nodes")?;
        Ok(nodes.iter().map(name).collect())
    }
}

/// Status and spec of an object, or the names and phases of a list, for messages.
fn brief(object: &Value) -> String {
    match object["items"].as_array() {
        None => format!("{} of {}", object["status"], object["spec"]),
        Some(items) => items
            .iter()
            .map(|item| format!("{}: {}\n", name(item), item["status"]))
            .collect(),
    }
}

/// The object, or the refusal as an error.
pub fn accepted(what: &str, answer: Answer) -> anyhow::Result<Value> {
    answer.map_err(|refusal| anyhow::anyhow!("{what}: {} {}", refusal.code, refusal.message))
}

/// The refusal; it is an error when there is none.
pub fn refused(what: &str, answer: Answer) -> anyhow::Result<Refusal> {
    match answer {
        Ok(_) => bail!("{what} was accepted"),
        Err(refusal) => Ok(refusal),
    }
}

/// The object's name.
pub fn name(object: &Value) -> String {
    object["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// The `status` of a condition, or nothing.
pub fn condition<'a>(object: &'a Value, kind: &str) -> &'a str {
    let conditions = object["status"]["conditions"].as_array();
    conditions
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == kind)
        .and_then(|condition| condition["status"].as_str())
        .unwrap_or_default()
}

/// Whether a pod is Ready and stays.
pub fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready") == "True" && pod["metadata"]["deletionTimestamp"].is_null()
}

/// A number of an object's status; what is left out is 0.
pub fn count(object: &Value, field: &str) -> i64 {
    object["status"][field].as_i64().unwrap_or(0)
}

/// The API of a plural and the path below it, such as `deployments/web/scale`.
fn base(what: &str) -> &'static str {
    match what.split(['/', '?']).next().unwrap_or_default() {
        "deployments" | "replicasets" | "daemonsets" | "statefulsets" | "controllerrevisions" => {
            "/apis/apps/v1"
        }
        "jobs" | "cronjobs" => "/apis/batch/v1",
        "poddisruptionbudgets" => "/apis/policy/v1",
        "endpointslices" => "/apis/discovery.k8s.io/v1",
        "ingresses" => "/apis/networking.k8s.io/v1",
        "leases" => "/apis/coordination.k8s.io/v1",
        "resourceclaims" | "resourceclaimtemplates" => "/apis/resource.k8s.io/v1",
        _ => "/api/v1",
    }
}

/// A namespace for one case.
pub struct Space<'a> {
    pub site: &'a Site,
    pub name: String,
}

impl Drop for Space<'_> {
    fn drop(&mut self) {
        if std::env::var_os("KEEP").is_none() {
            let path = format!("/api/v1/namespaces/{}", self.name);
            let _ = self.site.delete(&path);
        }
    }
}

impl Space<'_> {
    /// The path of `pods/p` and the like.
    pub fn path(&self, what: &str) -> String {
        format!("{}/namespaces/{}/{what}", base(what), self.name)
    }

    pub fn get(&self, what: &str) -> anyhow::Result<Value> {
        self.site.get(&self.path(what))
    }

    pub fn find(&self, what: &str) -> anyhow::Result<Option<Value>> {
        self.site.find(&self.path(what))
    }

    pub fn list(&self, what: &str) -> anyhow::Result<Vec<Value>> {
        self.site.list(&self.path(what))
    }

    pub fn create(&self, plural: &str, object: &Value) -> anyhow::Result<Value> {
        self.site.create(&self.path(plural), object)
    }

    /// Posts what may be refused.
    pub fn post(&self, what: &str, object: &Value) -> anyhow::Result<Answer> {
        self.site.ask("POST", &self.path(what), object)
    }

    pub fn replace(&self, what: &str, object: &Value) -> anyhow::Result<Value> {
        self.site.replace(&self.path(what), object)
    }

    pub fn merge(&self, what: &str, change: &Value) -> anyhow::Result<Value> {
        self.site.merge(&self.path(what), change)
    }

    pub fn change(&self, what: &str, change: impl Fn(&mut Value)) -> anyhow::Result<Value> {
        self.site.change(&self.path(what), change)
    }

    pub fn delete(&self, what: &str) -> anyhow::Result<Value> {
        self.site.delete(&self.path(what))
    }

    /// Deletes with `DeleteOptions`.
    pub fn delete_with(&self, what: &str, options: &Value) -> anyhow::Result<Value> {
        let path = self.path(what);
        accepted(&path, self.site.ask("DELETE", &path, options)?)
    }

    pub fn until(
        &self,
        what: &str,
        wanted: &str,
        is_so: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        let result = self.site.until(&self.path(what), wanted, is_so);
        result.with_context(|| self.events())
    }

    pub fn until_gone(&self, what: &str) -> anyhow::Result<()> {
        self.site.until_gone(&self.path(what))
    }

    pub fn stays(
        &self,
        time: Duration,
        what: &str,
        wanted: &str,
        is_so: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<()> {
        self.site.stays(time, &self.path(what), wanted, is_so)
    }

    /// The pods that match a label selector, by name.
    pub fn pods(&self, selector: &str) -> anyhow::Result<Vec<Value>> {
        self.list(&format!("pods?labelSelector={}", encode(selector)))
    }

    /// Waits until the pods that match are as wanted.
    pub fn until_pods(
        &self,
        selector: &str,
        wanted: &str,
        is_so: impl Fn(&[Value]) -> bool,
    ) -> anyhow::Result<Vec<Value>> {
        let what = format!("pods?labelSelector={}", encode(selector));
        let list = self.until(&what, wanted, |list| {
            list["items"].as_array().is_some_and(|pods| is_so(pods))
        })?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// Waits until exactly so many pods match, all Ready.
    pub fn until_ready(&self, selector: &str, number: usize) -> anyhow::Result<Vec<Value>> {
        self.until_pods(selector, &format!("{number} ready pods"), |pods| {
            pods.len() == number && pods.iter().all(is_ready)
        })
    }

    /// Makes a pod and waits until it is Ready.
    pub fn start(&self, pod: &Value) -> anyhow::Result<Value> {
        let made = self.create("pods", pod)?;
        self.until(&format!("pods/{}", name(&made)), "Ready", is_ready)
    }

    /// What a pod's container wrote.
    pub fn log(&self, pod: &str) -> anyhow::Result<String> {
        let log = self.get(&format!("pods/{pod}/log"))?;
        Ok(log.as_str().map_or_else(|| log.to_string(), str::to_owned))
    }

    /// `kubectl exec POD -- ARGUMENTS`, trimmed.
    pub fn exec(&self, pod: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let mut all = vec!["-n", &self.name, "exec", pod, "--"];
        all.extend(arguments);
        let outcome = self.site.cluster.kubectl_with(&all, None)?;
        Ok(outcome.success()?.trim().to_owned())
    }

    /// Runs a shell command in a pod of [`BUSYBOX`].
    pub fn shell(&self, pod: &str, command: &str) -> anyhow::Result<String> {
        self.exec(pod, &["sh", "-c", command])
    }

    /// As [`Space::shell`], until the answer is as wanted: what was just made needs a moment.
    pub fn shell_until(
        &self,
        pod: &str,
        command: &str,
        is_so: impl Fn(&str) -> bool,
    ) -> anyhow::Result<String> {
        until_so(
            &format!("{command} in {pod}"),
            || self.shell(pod, command),
            is_so,
        )
    }

    /// Runs a command of the test image in one of its pods until the answer is as wanted.
    pub fn ask_until(
        &self,
        pod: &str,
        command: &str,
        is_so: impl Fn(&str) -> bool,
    ) -> anyhow::Result<String> {
        let mut arguments = vec!["/testserver"];
        arguments.extend(command.split_whitespace());
        until_so(
            &format!("{command} from {pod}"),
            || self.exec(pod, &arguments),
            is_so,
        )
    }

    /// The warnings of the namespace, for messages.
    pub fn events(&self) -> String {
        let events = self.list("events?fieldSelector=type%3DWarning");
        let text = |event: &Value, field: &str| event[field].as_str().unwrap_or("").to_owned();
        let line = |event: &Value| {
            let object = event["involvedObject"]["name"].as_str().unwrap_or_default();
            format!(
                "{object}: {}: {}\n",
                text(event, "reason"),
                text(event, "message")
            )
        };
        events.unwrap_or_default().iter().map(line).collect()
    }
}

fn until_so(
    what: &str,
    ask: impl Fn() -> anyhow::Result<String>,
    is_so: impl Fn(&str) -> bool,
) -> anyhow::Result<String> {
    let start = Instant::now();
    loop {
        match ask() {
            Ok(text) if is_so(&text) => return Ok(text),
            answer if start.elapsed() > PATIENCE => bail!("{what}: {answer:?}"),
            _ => std::thread::sleep(Duration::from_millis(300)),
        }
    }
}

/// A query's value.
pub fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// The image with a shell.
pub const BUSYBOX: &str = "busybox:latest";

/// The spec of pods that run a shell command.
pub fn shell_spec(command: &str) -> Value {
    json!({
        "terminationGracePeriodSeconds": 1,
        "containers": [{
            "name": "shell",
            "image": BUSYBOX,
            "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", command],
        }],
    })
}

/// The spec of pods that do nothing.
pub fn idle_spec() -> Value {
    json!({
        "terminationGracePeriodSeconds": 0,
        "containers": [{
            "name": "pause",
            "image": "fairlead/pause:1",
            "imagePullPolicy": "IfNotPresent",
        }],
    })
}

/// The spec of pods that serve the test image's protocols.
pub fn server_spec() -> Value {
    json!({
        "terminationGracePeriodSeconds": 1,
        "containers": [{
            "name": "server",
            "image": crate::pods::IMAGE,
            "imagePullPolicy": "IfNotPresent",
            "ports": [{ "name": "http", "containerPort": 8080 }],
        }],
    })
}

/// A pod of a spec, with the label `app`.
pub fn pod(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "labels": { "app": name } },
        "spec": spec,
    })
}

/// A workload with replicas and pods labelled `app: NAME`.
pub fn workload(kind: &str, name: &str, replicas: u32, spec: Value) -> Value {
    let mut object = json!({
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": { "name": name, "labels": { "app": name } },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": name } },
            "template": { "metadata": { "labels": { "app": name } }, "spec": spec },
        },
    });
    if kind == "ReplicationController" {
        object["apiVersion"] = json!("v1");
        object["spec"]["selector"] = json!({ "app": name });
    }
    object
}
