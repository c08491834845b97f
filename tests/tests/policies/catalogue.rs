//! The truth tables of `catalogue.txt`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use cluster_tests::cluster::Cluster;
use serde_json::{Value, json};

use crate::pods::{Places, Probe, reached, start};

const CATALOGUE: &str = include_str!("catalogue.txt");
/// A table has to be true within this.
const PATIENCE: Duration = Duration::from_secs(40);

pub(crate) fn the_catalogue_holds_over_ipv4(cluster: &Cluster) -> anyhow::Result<()> {
    holds(cluster, false)
}

pub(crate) fn the_catalogue_holds_over_ipv6(cluster: &Cluster) -> anyhow::Result<()> {
    holds(cluster, true)
}

fn holds(cluster: &Cluster, v6: bool) -> anyhow::Result<()> {
    let places = start(cluster)?;
    let mut wrong = Vec::new();
    for (name, lines) in cases() {
        let mut present = BTreeSet::new();
        let mut labels = Vec::new();
        for step in lines.split(|line| *line == "then") {
            let step = Step::parse(step, &places, v6).with_context(|| name.to_owned())?;
            step.apply(cluster, &mut present, &mut labels)?;
            if let Err(error) = step.check(cluster, &places, v6) {
                wrong.push(format!("{name}: {error:#}"));
            }
        }
        for (kind, namespace, policy) in present {
            remove(cluster, kind, &namespace, &policy)?;
        }
        for undo in labels {
            cluster.kubectl(&undo)?.success()?;
        }
    }
    if !wrong.is_empty() {
        bail!("{} cases are wrong:\n{}", wrong.len(), wrong.join("\n"));
    }
    Ok(())
}

/// The names of the cases with their lines.
fn cases() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut cases: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in CATALOGUE.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("=== ") {
            cases.push((name, Vec::new()));
        } else if let Some((_, lines)) = cases.last_mut()
            && !line.is_empty()
            && !line.starts_with('#')
        {
            lines.push(line);
        }
    }
    cases
}

/// Kind, namespace and name.
type Policy = (&'static str, String, String);

#[derive(Default)]
struct Step {
    policies: BTreeMap<Policy, Value>,
    /// The object, as kubectl names it, and the label.
    labels: Vec<(String, String)>,
    expected: BTreeMap<Probe, bool>,
}

impl Step {
    fn parse(lines: &[&str], places: &Places, v6: bool) -> anyhow::Result<Self> {
        let mut step = Self::default();
        let mut ports: Vec<String> = Vec::new();
        let mut rules = Vec::new();
        for (number, line) in lines.iter().enumerate() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["ports", ref own @ ..] => {
                    ports = own.iter().map(|own| (*own).to_owned()).collect()
                }
                ["label", object, label] => {
                    let object = match object.split_once('/') {
                        Some((namespace, pod)) => format!("pod {pod} -n {namespace}"),
                        None => format!("namespace {object}"),
                    };
                    step.labels.push((object, label.to_owned()));
                }
                [
                    verb @ ("allow" | "deny"),
                    clients,
                    ">",
                    servers,
                    ref own @ ..,
                ] => {
                    rules.push((verb == "allow", clients, servers, own.to_vec()));
                }
                _ => {
                    let (namespace, spec) =
                        line.split_once(": ").context("a line without a meaning")?;
                    let spec = with_addresses(spec, places, v6);
                    let spec: Value = serde_json::from_str(&spec).with_context(|| spec.clone())?;
                    let (key, object) = policy(namespace, number, &spec);
                    step.policies.insert(key, object);
                }
            }
        }
        if ports.is_empty() {
            ports.push("80/TCP".to_owned());
        }
        for client in places.keys() {
            for server in places.keys().filter(|server| *server != client) {
                for port in &ports {
                    let concerns = |(_, clients, servers, own): &&(bool, &str, &str, Vec<&str>)| {
                        matches(clients, client)
                            && matches(servers, server)
                            && (own.is_empty() || own.contains(&port.as_str()))
                    };
                    let last = rules.iter().rfind(concerns);
                    let probe = (client.clone(), server.clone(), port.clone());
                    step.expected.insert(probe, last.is_none_or(|rule| rule.0));
                }
            }
        }
        Ok(step)
    }

    fn apply(
        &self,
        cluster: &Cluster,
        present: &mut BTreeSet<Policy>,
        undo: &mut Vec<String>,
    ) -> anyhow::Result<()> {
        for (object, label) in &self.labels {
            let (key, _) = label.split_once('=').context("KEY=VALUE")?;
            cluster
                .kubectl(&format!("label {object} --overwrite {label}"))?
                .success()?;
            undo.push(format!("label {object} {key}-"));
        }
        let gone: Vec<Policy> = present
            .iter()
            .filter(|own| !self.policies.contains_key(*own))
            .cloned()
            .collect();
        for (kind, namespace, name) in gone {
            remove(cluster, kind, &namespace, &name)?;
            present.remove(&(kind, namespace, name));
        }
        for (key, object) in &self.policies {
            cluster.apply(&key.1, &object.to_string())?;
            present.insert(key.clone());
        }
        Ok(())
    }

    /// Asks until the whole table is true; then once more those that were slow.
    fn check(&self, cluster: &Cluster, places: &Places, v6: bool) -> anyhow::Result<()> {
        let started = Instant::now();
        let mut open: Vec<Probe> = self.expected.keys().cloned().collect();
        loop {
            let seen = reached(cluster, places, v6, &open)?;
            open.retain(|probe| seen[probe] != self.expected[probe]);
            if open.is_empty() {
                return Ok(());
            }
            if started.elapsed() > PATIENCE {
                let (client, server, port) = &open[0];
                let expected = if self.expected[&open[0]] {
                    "open"
                } else {
                    "closed"
                };
                bail!(
                    "{} of {} are wrong: {client} to {server} {port} should be {expected}",
                    open.len(),
                    self.expected.len()
                );
            }
        }
    }
}

fn remove(cluster: &Cluster, kind: &str, namespace: &str, name: &str) -> anyhow::Result<()> {
    let removal = format!("delete {kind} {name} -n {namespace} --ignore-not-found");
    cluster.kubectl(&removal)?.success()?;
    Ok(())
}

fn policy(namespace: &str, number: usize, spec: &Value) -> (Policy, Value) {
    let name = format!("p{number}");
    let (kind, version, namespace) = match namespace {
        "cluster" => (
            "ClusterNetworkPolicy",
            "policy.networking.k8s.io/v1alpha2",
            "default",
        ),
        own => ("NetworkPolicy", "networking.k8s.io/v1", own),
    };
    let object = json!({"apiVersion": version, "kind": kind,
        "metadata": {"name": name}, "spec": spec});
    ((kind, namespace.to_owned(), name), object)
}

/// `$NAMESPACE/POD/32` is the pod's address alone.
fn with_addresses(spec: &str, places: &Places, v6: bool) -> String {
    let mut text = spec.to_owned();
    for (name, place) in places {
        let only = if v6 { 128 } else { 32 };
        text = text.replace(
            &format!("${name}/32"),
            &format!("{}/{only}", place.address(v6)),
        );
    }
    match v6 {
        true => text.replace("0.0.0.0/0", "::/0"),
        false => text,
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('/').zip(name.split('/'));
    pattern == "*" || parts.all(|(pattern, part)| pattern == "*" || pattern == part)
}
