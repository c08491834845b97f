//! The lab of the suite, asked as the conformance tests ask: plain requests, no kubectl between.

use std::ops::Deref;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use cluster_tests::command::Outcome;
use cluster_tests::site::{self, Patch};
pub(crate) use cluster_tests::site::{PATIENCE, Refusal};
use futures::FutureExt;
use hyper_util::rt::TokioIo;
use kube::Client;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

/// The image of the containers that only run a shell.
pub(crate) const BUSYBOX: &str = "busybox:latest";

/// The suite's lab: what every suite asks, and what this one asks besides.
pub(crate) struct Site(site::Site);

impl Deref for Site {
    type Target = site::Site;

    fn deref(&self) -> &site::Site {
        &self.0
    }
}

impl Site {
    pub(crate) fn start() -> anyhow::Result<Self> {
        site::Site::start("node").map(Self)
    }

    /// A strategic merge patch.
    pub(crate) fn patch(&self, path: &str, patch: &Value) -> anyhow::Result<Value> {
        self.0.patch(path, Patch::Strategic, patch)
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
        let (path, protocol) = (path.to_owned(), protocol.to_owned());
        let heard = |client: Client| async move {
            let answer = client.send(request).await?;
            let (status, headers) = (answer.status(), answer.headers().clone());
            ensure!(status == 101, "{path}: {status}");
            let chosen = headers.get("sec-websocket-protocol");
            ensure!(
                chosen.is_some_and(|chosen| chosen == protocol.as_str()),
                "{headers:?}"
            );
            let mut stream = TokioIo::new(hyper::upgrade::on(answer).await?);
            let mut bytes = Vec::new();
            // A server that is done may end the connection without a word.
            let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await?;
            anyhow::Ok(bytes)
        };
        let bytes = self.block_on(|client| heard(client).boxed())?;
        Ok(messages(&bytes))
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
        let path = self.path("pods");
        site::refused("the pod", self.site.ask("POST", &path, pod)?)
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
        self.site.until_gone(&self.path(what))
    }

    /// Holds for so long that an object stays as it is.
    pub(crate) fn stays(
        &self,
        time: Duration,
        what: &str,
        wanted: &str,
        is_so: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<()> {
        self.site.stays(time, &self.path(what), wanted, is_so)
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
