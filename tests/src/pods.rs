//! Pods of the test image, and what they say.

use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};

use crate::cluster::{Namespace, SOON, wait_for};
use crate::command::Outcome;

/// The image of `lab/programs`.
pub const IMAGE: &str = "fairlead/testserver:1";

/// A pod that serves; change it as the case needs.
pub fn server(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "labels": { "app": name } },
        "spec": {
            "terminationGracePeriodSeconds": 2,
            "containers": [{
                "name": "server",
                "image": IMAGE,
                "ports": [{ "name": "http", "containerPort": 8080 }],
            }],
        },
    })
}

/// A pod that runs a client command of the image once.
pub fn client(name: &str, arguments: &[&str]) -> Value {
    let mut pod = server(name);
    pod["spec"]["containers"][0]["args"] = json!(arguments);
    pod["spec"]["restartPolicy"] = json!("Never");
    pod
}

/// The pod, but on this node.
pub fn on(mut pod: Value, node: &str) -> Value {
    pod["spec"]["nodeName"] = json!(node);
    pod
}

impl Namespace<'_> {
    /// Makes a pod and waits until it is Ready.
    pub fn start_pod(&self, pod: &Value) -> anyhow::Result<()> {
        self.apply(&pod.to_string())?;
        let name = pod["metadata"]["name"]
            .as_str()
            .context("a pod without a name")?;
        self.ready(name)
    }

    pub fn ready(&self, pod: &str) -> anyhow::Result<()> {
        let waited = self.kubectl(&format!(
            "wait --for=condition=Ready pod/{pod} --timeout=90s"
        ))?;
        if waited.code != Some(0) {
            let description = self.kubectl(&format!("describe pod {pod}"))?;
            anyhow::bail!(
                "{pod} is not Ready: {}{}",
                waited.stderr,
                description.stdout
            );
        }
        Ok(())
    }

    /// Waits until the pod has ended and returns its log.
    pub fn log_of_ended(&self, pod: &str) -> anyhow::Result<String> {
        wait_for(&format!("the end of {pod}"), SOON, || {
            let phase = self.get(&format!("pod {pod}"))?["status"]["phase"].clone();
            Ok(phase == "Succeeded" || phase == "Failed")
        })?;
        self.kubectl(&format!("logs {pod}"))?.success()
    }

    /// Runs a command of the test image in a pod.
    pub fn ask(&self, pod: &str, arguments: &str) -> anyhow::Result<Outcome> {
        self.kubectl(&format!("exec {pod} -- /testserver {arguments}"))
    }

    /// As [`Namespace::ask`], until it succeeds: what was just made may need a moment.
    pub fn ask_until(&self, pod: &str, arguments: &str) -> anyhow::Result<String> {
        let mut answer = String::new();
        wait_for(
            &format!("{arguments} from {pod}"),
            Duration::from_secs(30),
            || {
                answer = self.ask(pod, arguments)?.success()?;
                Ok(true)
            },
        )?;
        Ok(answer.trim().to_owned())
    }

    pub fn pod_address(&self, pod: &str) -> anyhow::Result<String> {
        let pod = self.get(&format!("pod {pod}"))?;
        Ok(pod["status"]["podIP"]
            .as_str()
            .context("the pod has no address")?
            .to_owned())
    }
}
