//! A lab for a suite, and kubectl for it.

use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::command::{Outcome, command, fairlead, outcome, run};

/// How long tests wait for what should take a moment.
pub const SOON: Duration = Duration::from_secs(60);

/// A running lab. It is removed with this value.
pub struct Cluster {
    pub lab: String,
    pub kubeconfig: PathBuf,
    keep: bool,
}

impl Cluster {
    /// Starts a lab in the modes that `NETWORK` and `PROXY` name, or uses the one that `LAB` names.
    pub fn start(name: &str, arguments: &[&str]) -> anyhow::Result<Self> {
        if let Ok(lab) = std::env::var("LAB") {
            let kubeconfig = PathBuf::from(format!("/var/lib/fairlead-labs/{lab}/kubeconfig"));
            return Ok(Self {
                lab,
                kubeconfig,
                keep: true,
            });
        }
        // The number keeps two runs apart, also after one was killed.
        let lab = format!("{name}-{}", std::process::id());
        let keep = std::env::var_os("KEEP").is_some();
        let mut cluster = Self {
            lab: lab.clone(),
            kubeconfig: PathBuf::new(),
            keep,
        };
        let modes = modes(arguments, |variable| std::env::var(variable).ok());
        let modes = modes.iter().map(String::as_str);
        let arguments: Vec<&str> = arguments.iter().copied().chain(modes).collect();
        let stdout = cluster.lab("up", &arguments)?.success()?;
        let last = stdout.lines().last().unwrap_or_default();
        let path = last
            .strip_prefix("KUBECONFIG=")
            .context("the last line is no KUBECONFIG=")?;
        cluster.kubeconfig = path.into();
        Ok(cluster)
    }

    /// `fairlead lab VERB LAB ARGUMENTS`
    pub fn lab(&self, verb: &str, arguments: &[&str]) -> anyhow::Result<Outcome> {
        let mut all = vec!["lab", verb, &self.lab];
        all.extend(arguments);
        run(fairlead(), &all)
    }

    /// Runs a command on a node.
    pub fn exec(&self, node: &str, arguments: &[&str]) -> anyhow::Result<Outcome> {
        let mut all = vec![node, "--"];
        all.extend(arguments);
        self.lab("exec", &all)
    }

    pub fn kubectl_command(&self) -> Command {
        let mut kubectl = command("kubectl");
        kubectl.env("KUBECONFIG", &self.kubeconfig);
        kubectl
    }

    /// `kubectl ARGUMENTS`, which is split at spaces.
    pub fn kubectl(&self, arguments: &str) -> anyhow::Result<Outcome> {
        let arguments: Vec<&str> = arguments.split_whitespace().collect();
        self.kubectl_with(&arguments, None)
    }

    pub fn kubectl_with(&self, arguments: &[&str], input: Option<&str>) -> anyhow::Result<Outcome> {
        outcome(self.kubectl_command().args(arguments), input)
    }

    /// `kubectl apply -n NAMESPACE -f -`
    pub fn apply(&self, namespace: &str, manifest: &str) -> anyhow::Result<()> {
        let arguments = ["apply", "-n", namespace, "-f", "-"];
        self.kubectl_with(&arguments, Some(manifest))?.success()?;
        Ok(())
    }

    /// `kubectl get ARGUMENTS -o json`
    pub fn get(&self, arguments: &str) -> anyhow::Result<Value> {
        let text = self
            .kubectl(&format!("get {arguments} -o json"))?
            .success()?;
        Ok(serde_json::from_str(&text)?)
    }

    /// A namespace of the case's own, with its ServiceAccount. It goes with the value.
    pub fn namespace(&self, name: &str) -> anyhow::Result<Namespace<'_>> {
        self.kubectl(&format!("create namespace {name}"))?
            .success()?;
        let namespace = Namespace {
            cluster: self,
            name: name.to_owned(),
        };
        wait_for("the default ServiceAccount", SOON, || {
            Ok(self
                .kubectl(&format!("get serviceaccount default -n {name}"))?
                .code
                == Some(0))
        })?;
        Ok(namespace)
    }

    /// The names of the nodes, in order.
    pub fn nodes(&self) -> anyhow::Result<Vec<String>> {
        Ok(names(&self.get("nodes")?))
    }

    /// The address of a node.
    pub fn node_address(&self, node: &str) -> anyhow::Result<String> {
        let node = self.get(&format!("node {node}"))?;
        let addresses = node["status"]["addresses"]
            .as_array()
            .context("a node without addresses")?;
        let internal = addresses
            .iter()
            .find(|address| address["type"] == "InternalIP");
        let address = internal.and_then(|address| address["address"].as_str());
        Ok(address
            .context("a node without an internal address")?
            .to_owned())
    }

    /// The number on this machine of a process of the lab.
    pub fn process(&self, node: &str, role: &str) -> anyhow::Result<i32> {
        let text = run(fairlead(), &["lab", "list", "-o", "json"])?.success()?;
        let labs: Value = serde_json::from_str(&text)?;
        let lab = labs
            .as_array()
            .into_iter()
            .flatten()
            .find(|lab| lab["name"] == *self.lab);
        let processes = lab
            .and_then(|lab| lab["processes"].as_array())
            .context("no such lab")?;
        let found = processes
            .iter()
            .find(|process| process["node"] == node && process["role"] == role)
            .and_then(|process| process["pid"].as_i64());
        Ok(found.with_context(|| format!("no process {role} on {node}"))? as i32)
    }
}

/// The options for the modes that the environment asks for and the suite itself leaves open.
fn modes(arguments: &[&str], environment: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let chosen = [("NETWORK", "--network="), ("PROXY", "--proxy=")];
    let open = chosen
        .into_iter()
        .filter(|(_, option)| !arguments.iter().any(|given| given.starts_with(option)));
    open.filter_map(|(variable, option)| {
        let mode = environment(variable).filter(|mode| !mode.is_empty())?;
        Some(format!("{option}{mode}"))
    })
    .collect()
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        if let Err(error) = self.lab("down", &[]).and_then(Outcome::success) {
            println!("the lab {} is not removed: {error:#}", self.lab);
        }
    }
}

/// A namespace for one case. Its removal is asked for and not waited for.
pub struct Namespace<'a> {
    pub cluster: &'a Cluster,
    pub name: String,
}

impl Namespace<'_> {
    /// `kubectl -n NAMESPACE ARGUMENTS`
    pub fn kubectl(&self, arguments: &str) -> anyhow::Result<Outcome> {
        self.cluster
            .kubectl(&format!("-n {} {arguments}", self.name))
    }

    pub fn get(&self, arguments: &str) -> anyhow::Result<Value> {
        self.cluster.get(&format!("-n {} {arguments}", self.name))
    }

    pub fn apply(&self, manifest: &str) -> anyhow::Result<()> {
        self.cluster.apply(&self.name, manifest)
    }

    /// `kubectl rollout status`
    pub fn rolled_out(&self, what: &str) -> anyhow::Result<()> {
        self.kubectl(&format!("rollout status {what} --timeout=90s"))?
            .success()?;
        Ok(())
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        let _ = self
            .cluster
            .kubectl(&format!("delete namespace {} --wait=false", self.name));
    }
}

/// The names of a list's items.
pub fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().into_iter().flatten();
    items
        .filter_map(|item| item["metadata"]["name"].as_str())
        .map(str::to_owned)
        .collect()
}

/// Asks until the answer is yes.
pub fn wait_for(
    what: &str,
    patience: Duration,
    mut is_so: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let start = Instant::now();
    loop {
        let answer = is_so();
        if matches!(answer, Ok(true)) {
            return Ok(());
        }
        if start.elapsed() > patience {
            match answer {
                Err(error) => return Err(error.context(format!("waiting for {what}"))),
                _ => bail!("{what}: not after {patience:?}"),
            }
        }
        thread::sleep(Duration::from_millis(200));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_chooses_the_modes_that_a_suite_leaves_open() {
        let environment = |variable: &str| match variable {
            "NETWORK" => Some("bgp".to_owned()),
            "PROXY" => Some(String::new()),
            _ => None,
        };
        assert_eq!(modes(&["--nodes=2"], environment), ["--network=bgp"]);
        assert!(modes(&["--network=vxlan"], environment).is_empty());
    }
}
