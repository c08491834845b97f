//! The lab of the suite, asked as the conformance tests ask: plain requests, no kubectl between.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use cluster_tests::cluster::Cluster;
use cluster_tests::command::Outcome;
use hyper_util::rt::TokioIo;
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::runtime::Runtime;

/// The image of the containers that only run a shell.
pub(crate) const BUSYBOX: &str = "busybox:latest";

/// How long a case waits for what the node is to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// The suite's lab and a client of its API server.
pub(crate) struct Site {
    pub(crate) cluster: Cluster,
    client: Client,
    runtime: Runtime,
}

/// What the server refused, as its Status says it.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub(crate) code: u16,
    pub(crate) message: String,
}

type Answer = Result<Value, Refusal>;

impl Site {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let cluster = Cluster::start("node", &["--nodes=2"])?;
        let runtime = Runtime::new()?;
        let client = runtime.block_on(async {
            let kubeconfig = Kubeconfig::read_from(&cluster.kubeconfig)?;
            let options = KubeConfigOptions::default();
            let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await?;
            anyhow::Ok(Client::try_from(config)?)
        })?;
        Ok(Self {
            cluster,
            client,
            runtime,
        })
    }

    /// A request and its body's media type; the answer as JSON, or as a JSON string if it is none.
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
                message: status.message.clone(),
            })),
            Err(error) => Err(error).with_context(|| format!("{method} {path}")),
        }
    }

    pub(crate) fn ask(&self, method: &str, path: &str, body: &Value) -> anyhow::Result<Answer> {
        let body = match body {
            Value::Null => Vec::new(),
            body => body.to_string().into_bytes(),
        };
        self.send(method, path, "application/json", body)
    }

    pub(crate) fn get(&self, path: &str) -> anyhow::Result<Value> {
        accepted(path, self.ask("GET", path, &Value::Null)?)
    }

    pub(crate) fn create(&self, path: &str, object: &Value) -> anyhow::Result<Value> {
        accepted(path, self.ask("POST", path, object)?)
    }

    pub(crate) fn delete(&self, path: &str) -> anyhow::Result<Value> {
        accepted(path, self.ask("DELETE", path, &Value::Null)?)
    }

    pub(crate) fn replace(&self, path: &str, object: &Value) -> anyhow::Result<Value> {
        accepted(path, self.ask("PUT", path, object)?)
    }

    /// A strategic merge patch.
    pub(crate) fn patch(&self, path: &str, patch: &Value) -> anyhow::Result<Value> {
        let kind = "application/strategic-merge-patch+json";
        accepted(
            path,
            self.send("PATCH", path, kind, patch.to_string().into_bytes())?,
        )
    }

    /// As text: what a pod or a kubelet answers.
    pub(crate) fn text(&self, path: &str) -> anyhow::Result<String> {
        let request = http::Request::builder().uri(path).body(Vec::new())?;
        self.runtime
            .block_on(self.client.request_text(request))
            .with_context(|| format!("GET {path}"))
    }

    /// Everything that comes through a WebSocket with this subprotocol until its end.
    pub(crate) fn web_socket(&self, path: &str, protocol: &str) -> anyhow::Result<Vec<Vec<u8>>> {
        let request = http::Request::builder()
            .uri(path)
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header("Sec-WebSocket-Protocol", protocol)
            .body(kube::client::Body::empty())?;
        let bytes = self.runtime.block_on(async {
            let answer = self.client.send(request).await?;
            let (status, headers) = (answer.status(), answer.headers().clone());
            ensure!(status == 101, "{path}: {status}");
            let chosen = headers.get("sec-websocket-protocol");
            ensure!(
                chosen.is_some_and(|chosen| chosen == protocol),
                "{headers:?}"
            );
            let mut stream = TokioIo::new(hyper::upgrade::on(answer).await?);
            let mut bytes = Vec::new();
            // A server that is done may end the connection without a word.
            let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await?;
            anyhow::Ok(bytes)
        })?;
        Ok(messages(&bytes))
    }

    /// Runs what needs a client of its own.
    pub(crate) fn block_on<T>(
        &self,
        work: impl FnOnce(Client) -> futures::future::BoxFuture<'static, anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        self.runtime.block_on(work(self.client.clone()))
    }

    /// A namespace of one case, with its ServiceAccount. It is deleted with the value.
    pub(crate) fn space(&self, name: &str) -> anyhow::Result<Space<'_>> {
        let object = json!({"metadata": {"name": name}});
        self.create("/api/v1/namespaces", &object)?;
        let space = Space {
            site: self,
            name: name.to_owned(),
        };
        space.until("serviceaccounts/default", "a ServiceAccount", |_| true)?;
        space.until("configmaps/kube-root-ca.crt", "a CA", |_| true)?;
        Ok(space)
    }
}

/// The data messages of a server, which are never masked (RFC 6455, section 5.2).
fn messages(bytes: &[u8]) -> Vec<Vec<u8>> {
    let (mut messages, mut rest) = (Vec::<Vec<u8>>::new(), bytes);
    while let [first, second, tail @ ..] = rest {
        let (extended, length) = match second & 0x7f {
            126 => (2, 0),
            127 => (8, 0),
            length => (0, usize::from(length)),
        };
        let Some((number, tail)) = tail.split_at_checked(extended) else {
            break;
        };
        let length = number
            .iter()
            .fold(length, |sum, byte| (sum << 8) | usize::from(*byte));
        let Some((payload, tail)) = tail.split_at_checked(length) else {
            break;
        };
        match (first & 0x0f, messages.last_mut()) {
            (1 | 2, _) => messages.push(payload.to_vec()),
            (0, Some(last)) => last.extend(payload),
            _ => {}
        }
        rest = tail;
    }
    messages
}

fn accepted(path: &str, answer: Answer) -> anyhow::Result<Value> {
    answer.map_err(|refusal| anyhow::anyhow!("{path}: {} {}", refusal.code, refusal.message))
}

/// A namespace for one case.
pub(crate) struct Space<'a> {
    pub(crate) site: &'a Site,
    pub(crate) name: String,
}

impl Drop for Space<'_> {
    fn drop(&mut self) {
        if std::env::var_os("KEEP").is_none() {
            let _ = self
                .site
                .delete(&format!("/api/v1/namespaces/{}", self.name));
        }
    }
}

impl Space<'_> {
    /// The path of `pods/p` and the like.
    pub(crate) fn path(&self, what: &str) -> String {
        format!("/api/v1/namespaces/{}/{what}", self.name)
    }

    pub(crate) fn get(&self, what: &str) -> anyhow::Result<Value> {
        self.site.get(&self.path(what))
    }

    pub(crate) fn delete(&self, what: &str) -> anyhow::Result<Value> {
        self.site.delete(&self.path(what))
    }

    pub(crate) fn patch(&self, what: &str, patch: &Value) -> anyhow::Result<Value> {
        self.site.patch(&self.path(what), patch)
    }

    /// Makes an object of a plural of the core group.
    pub(crate) fn create(&self, plural: &str, object: &Value) -> anyhow::Result<Value> {
        self.site.create(&self.path(plural), object)
    }

    pub(crate) fn config_map(&self, name: &str, data: Value) -> anyhow::Result<Value> {
        let object = json!({"metadata": {"name": name}, "data": data});
        self.create("configmaps", &object)
    }

    pub(crate) fn secret(&self, name: &str, data: Value) -> anyhow::Result<Value> {
        let object = json!({"metadata": {"name": name}, "stringData": data});
        self.create("secrets", &object)
    }

    /// The message with which the server refuses a pod.
    pub(crate) fn refused(&self, pod: &Value) -> anyhow::Result<Refusal> {
        match self.site.ask("POST", &self.path("pods"), pod)? {
            Ok(made) => bail!("{} was accepted", made["metadata"]["name"]),
            Err(refusal) => Ok(refusal),
        }
    }

    /// Asks for an object until it is as wanted.
    pub(crate) fn until(
        &self,
        what: &str,
        wanted: &str,
        is_so: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        self.until_within(PATIENCE, what, wanted, is_so)
    }

    pub(crate) fn until_within(
        &self,
        patience: Duration,
        what: &str,
        wanted: &str,
        is_so: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        let start = Instant::now();
        loop {
            let found = self.site.ask("GET", &self.path(what), &Value::Null)?;
            match &found {
                Ok(object) if is_so(object) => return Ok(object.clone()),
                _ if start.elapsed() < patience => {}
                Ok(object) => bail!(
                    "{what}: not {wanted} after {patience:?}: {}\n{}",
                    object["status"],
                    self.events(what)
                ),
                Err(refusal) => bail!("{what}: not {wanted}: {}", refusal.message),
            }
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    /// Waits until an object is gone.
    pub(crate) fn until_gone(&self, what: &str) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            match self.site.ask("GET", &self.path(what), &Value::Null)? {
                Err(refusal) if refusal.code == 404 => return Ok(()),
                found if start.elapsed() > PATIENCE => bail!("{what} is still there: {found:?}"),
                _ => std::thread::sleep(Duration::from_millis(300)),
            }
        }
    }

    /// Holds for so long that an object stays as it is.
    pub(crate) fn stays(
        &self,
        time: Duration,
        what: &str,
        wanted: &str,
        is_so: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<()> {
        let start = Instant::now();
        while start.elapsed() < time {
            let found = self.get(what)?;
            ensure!(is_so(&found), "{what} is not {wanted}: {}", found["status"]);
            std::thread::sleep(Duration::from_millis(500));
        }
        Ok(())
    }

    /// The events of an object, as `reason: message` lines.
    pub(crate) fn events(&self, what: &str) -> String {
        let name = what.rsplit('/').next().unwrap_or_default();
        let list = self.get(&format!(
            "events?fieldSelector=involvedObject.name%3D{name}"
        ));
        let list = list.unwrap_or_default();
        let text = |event: &Value, field: &str| event[field].as_str().unwrap_or("").to_owned();
        list["items"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|event| format!("{}: {}\n", text(event, "reason"), text(event, "message")))
            .collect()
    }

    /// Waits until an event with this reason and text is there.
    pub(crate) fn event(&self, what: &str, reason: &str, part: &str) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            let events = self.events(what);
            let found = events
                .split_inclusive('\n')
                .any(|line| line.starts_with(&format!("{reason}: ")) && line.contains(part));
            if found {
                return Ok(());
            }
            ensure!(
                start.elapsed() < PATIENCE,
                "{what} has no event {reason} with {part:?}:\n{events}"
            );
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    /// Makes a pod.
    pub(crate) fn pod(&self, pod: &Value) -> anyhow::Result<Value> {
        self.create("pods", pod)
    }

    /// Makes a pod and waits until it is Ready.
    pub(crate) fn start(&self, pod: &Value) -> anyhow::Result<Value> {
        let made = self.pod(pod)?;
        let name = made["metadata"]["name"].as_str().context("no name")?;
        self.ready(name)
    }

    pub(crate) fn ready(&self, name: &str) -> anyhow::Result<Value> {
        self.until(&format!("pods/{name}"), "Ready", |pod| {
            condition(pod, "Ready") == "True"
        })
    }

    /// Waits until a pod has ended.
    pub(crate) fn ended(&self, name: &str) -> anyhow::Result<Value> {
        self.until(&format!("pods/{name}"), "at its end", |pod| {
            matches!(phase(pod), "Succeeded" | "Failed")
        })
    }

    /// Makes a pod that does its work and ends well; answers what its container wrote.
    pub(crate) fn output(&self, pod: &Value) -> anyhow::Result<String> {
        let made = self.pod(pod)?;
        let name = made["metadata"]["name"].as_str().context("no name")?;
        let ended = self.ended(name)?;
        let log = self.log(name, "")?;
        ensure!(
            phase(&ended) == "Succeeded",
            "{name}: {}\n{log}",
            ended["status"]
        );
        Ok(log)
    }

    /// `GET .../log?QUERY`
    pub(crate) fn log(&self, pod: &str, query: &str) -> anyhow::Result<String> {
        self.site
            .text(&self.path(&format!("pods/{pod}/log?{query}")))
    }

    /// Waits until a log has a text.
    pub(crate) fn log_with(&self, pod: &str, query: &str, part: &str) -> anyhow::Result<String> {
        let start = Instant::now();
        loop {
            let log = self.log(pod, query).unwrap_or_default();
            if log.contains(part) {
                return Ok(log);
            }
            ensure!(
                start.elapsed() < PATIENCE,
                "the log of {pod} has no {part:?}: {log}"
            );
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    /// Runs a shell command in a container.
    pub(crate) fn exec(&self, pod: &str, container: &str, line: &str) -> anyhow::Result<Outcome> {
        let arguments = [
            "-n", &self.name, "exec", pod, "-c", container, "--", "sh", "-c", line,
        ];
        self.site.cluster.kubectl_with(&arguments, None)
    }

    /// Runs a shell command in a pod's container `main` until its output has a text.
    pub(crate) fn exec_until(&self, pod: &str, line: &str, part: &str) -> anyhow::Result<String> {
        let start = Instant::now();
        loop {
            let outcome = self.exec(pod, "main", line)?;
            if outcome.code == Some(0) && outcome.stdout.contains(part) {
                return Ok(outcome.stdout);
            }
            ensure!(
                start.elapsed() < PATIENCE,
                "{line} in {pod} has no {part:?}: {outcome:?}"
            );
            std::thread::sleep(Duration::from_millis(500));
        }
    }
}

/// A container that runs a shell command.
pub(crate) fn shell(name: &str, line: &str) -> Value {
    json!({"name": name, "image": BUSYBOX, "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", line]})
}

/// The command of a container that is only there.
pub(crate) const IDLE: &str = "trap 'exit 0' TERM; sleep 3600 & wait";

/// A pod of these containers that is not started again.
pub(crate) fn pod_of(name: &str, containers: Value) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "containers": containers,
        },
    })
}

/// A pod with one container, `main`, that runs a command once.
pub(crate) fn job(name: &str, line: &str) -> Value {
    pod_of(name, json!([shell("main", line)]))
}

/// A pod with one container, `main`, that stays.
pub(crate) fn idle(name: &str) -> Value {
    job(name, IDLE)
}

pub(crate) fn phase(pod: &Value) -> &str {
    pod["status"]["phase"].as_str().unwrap_or_default()
}

/// The status of a condition, or nothing.
pub(crate) fn condition<'a>(pod: &'a Value, kind: &str) -> &'a str {
    find_condition(pod, kind)["status"]
        .as_str()
        .unwrap_or_default()
}

pub(crate) fn find_condition<'a>(pod: &'a Value, kind: &str) -> &'a Value {
    let conditions = pod["status"]["conditions"].as_array();
    conditions
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == kind)
        .unwrap_or(&Value::Null)
}

/// The status of a container of whatever kind.
pub(crate) fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let lists = [
        "containerStatuses",
        "initContainerStatuses",
        "ephemeralContainerStatuses",
    ];
    lists
        .iter()
        .filter_map(|list| pod["status"][list].as_array())
        .flatten()
        .find(|status| status["name"] == name)
        .unwrap_or(&Value::Null)
}

pub(crate) fn restarts(pod: &Value, name: &str) -> i64 {
    container(pod, name)["restartCount"].as_i64().unwrap_or(-1)
}
