//! Programs and libraries of others, as `scripts/clients` fetched them, and their ways into a
//! server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::cluster::{SOON, wait_for};
use crate::command::{Outcome, beside, command, outcome};

/// Where the clients lie.
pub fn clients() -> PathBuf {
    beside("../clients")
}

/// A file of this folder's `clients/`.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("clients")
        .join(name)
}

/// A release of kubectl, with a namespace of its own.
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    pub namespace: String,
    /// Whether it is of this server's release, or a much older one.
    pub new: bool,
}

/// The releases that every case is tried with.
pub const RELEASES: [&str; 2] = ["new", "debian"];

impl Kubectl {
    /// Makes a namespace for a case and waits for its ServiceAccount.
    pub fn start(kubeconfig: &Path, release: &str, case: &str) -> anyhow::Result<Self> {
        let program = clients().join(format!("kubectl-{release}"));
        ensure!(
            program.exists(),
            "{} is missing: run scripts/clients, or make test",
            program.display()
        );
        let kubectl = Self {
            program,
            kubeconfig: kubeconfig.to_owned(),
            namespace: format!("{case}-{release}"),
            new: release == "new",
        };
        kubectl.ok(&format!("create namespace {}", kubectl.namespace))?;
        wait_for("the default ServiceAccount", SOON, || {
            Ok(kubectl.run("get serviceaccount default")?.code == Some(0))
        })?;
        Ok(kubectl)
    }

    pub fn command(&self) -> Command {
        let mut kubectl = command(&self.program);
        kubectl
            .env("KUBECONFIG", &self.kubeconfig)
            .env_remove("EDITOR")
            .args(["-n", &self.namespace]);
        kubectl
    }

    /// `kubectl LINE`, which is split at spaces.
    pub fn run(&self, line: &str) -> anyhow::Result<Outcome> {
        self.with(&words(line), None)
    }

    pub fn with(&self, arguments: &[&str], input: Option<&str>) -> anyhow::Result<Outcome> {
        outcome(self.command().args(arguments), input)
    }

    /// Standard output of what has to succeed.
    pub fn ok(&self, line: &str) -> anyhow::Result<String> {
        self.run(line)?.success()
    }

    /// What succeeds says this.
    pub fn says(&self, line: &str, expected: &str) -> anyhow::Result<String> {
        let outcome = self.run(line)?;
        let all = format!("{}{}", outcome.stdout, outcome.stderr);
        outcome.success()?;
        ensure!(all.contains(expected), "{line}: no {expected:?} in: {all}");
        Ok(all)
    }

    /// What has to fail says this.
    pub fn fails(&self, line: &str, expected: &str) -> anyhow::Result<()> {
        let failure = self.run(line)?.failure()?;
        ensure!(
            failure.contains(expected),
            "{line}: no {expected:?} in: {failure}"
        );
        Ok(())
    }

    /// `kubectl LINE -f -`
    pub fn feed(&self, line: &str, manifest: &str) -> anyhow::Result<String> {
        let mut arguments = words(line);
        arguments.extend(["-f", "-"]);
        self.with(&arguments, Some(manifest))?.success()
    }

    /// `kubectl patch WHAT --type=KIND -p PATCH`
    pub fn patch(&self, what: &str, kind: &str, patch: &str) -> anyhow::Result<Outcome> {
        let kind = format!("--type={kind}");
        let mut arguments = vec!["patch"];
        arguments.extend(words(what));
        arguments.extend([kind.as_str(), "-p", patch]);
        self.with(&arguments, None)
    }

    /// A field of an object, as JSONPath prints it.
    pub fn field(&self, what: &str, path: &str) -> anyhow::Result<String> {
        self.ok(&format!("get {what} -o jsonpath={{{path}}}"))
    }

    pub fn json(&self, what: &str) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(
            &self.ok(&format!("get {what} -o json"))?,
        )?)
    }

    /// `kubectl edit WHAT`, with an editor that runs this `sed` script.
    pub fn edit(&self, what: &str, sed: &str) -> anyhow::Result<Outcome> {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir()?;
        let editor = directory.path().join("editor");
        fs::write(&editor, format!("#!/bin/sh\nexec sed -i '{sed}' \"$1\"\n"))?;
        fs::set_permissions(&editor, fs::Permissions::from_mode(0o755))?;
        let mut command = self.command();
        command.env("EDITOR", &editor).arg("edit").args(words(what));
        outcome(&mut command, None)
    }
}

impl Drop for Kubectl {
    fn drop(&mut self) {
        let _ = self.run(&format!("delete namespace {} --wait=false", self.namespace));
    }
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// Runs a case of a client library: `INTERPRETER SCRIPT CASE NAMESPACE`.
pub fn library(
    kubeconfig: &Path,
    interpreter: &str,
    name: &str,
    case: &str,
    namespace: &str,
) -> anyhow::Result<()> {
    let mut program = command("timeout");
    program
        .args(["120", interpreter])
        .arg(script(name))
        .args([case, namespace])
        .env("KUBECONFIG", kubeconfig)
        .env("CLIENTS", clients())
        .env("OBJECTS", script("../data/objects.yaml"))
        .env("PYTHONPATH", clients().join("python"))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let outcome = outcome(&mut program, None)?;
    if outcome.code == Some(0) {
        return Ok(());
    }
    bail!(
        "{case}: {:?}\n{}{}",
        outcome.code,
        outcome.stdout,
        outcome.stderr
    )
}

/// Helm, with directories of its own.
pub struct Helm {
    directory: tempfile::TempDir,
    kubeconfig: PathBuf,
    namespace: String,
}

impl Helm {
    pub fn new(kubeconfig: &Path, namespace: &str) -> anyhow::Result<Self> {
        Ok(Self {
            directory: tempfile::tempdir().context("a directory for Helm")?,
            kubeconfig: kubeconfig.to_owned(),
            namespace: namespace.to_owned(),
        })
    }

    /// `helm LINE`, in the namespace; `CHART` stands for the tests' chart.
    pub fn run(&self, line: &str) -> anyhow::Result<Outcome> {
        let chart = script("chart");
        let chart = chart.to_string_lossy();
        let mut helm = command(clients().join("helm"));
        for directory in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            helm.env(directory, self.directory.path());
        }
        helm.env("KUBECONFIG", &self.kubeconfig)
            .args(["-n", &self.namespace])
            .args(words(line).into_iter().map(|w| w.replace("CHART", &chart)));
        outcome(&mut helm, None)
    }

    pub fn ok(&self, line: &str) -> anyhow::Result<String> {
        self.run(line)?.success()
    }
}
