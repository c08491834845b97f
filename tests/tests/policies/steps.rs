//! A state of policies and labels, and the truth table that has to follow from it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::Suite;
use crate::oracle::{Attempt, World};
use crate::pods::{NAMESPACES, Places, for_oracle};
use crate::probes::{At, PortProtocol, Probe};

/// A table has to be true within this.
const PATIENCE: Duration = Duration::from_secs(30);
/// What is not answered within this is denied; longer where something was late.
const SHORTEST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_millis(2000);

/// `cluster` in the place of the namespace stands for a ClusterNetworkPolicy.
pub(crate) const OF_CLUSTER: &str = "cluster";

/// Namespace and name.
pub(crate) type PolicyName = (String, String);

/// A namespace or `NAMESPACE/POD`, and the label's key and value.
pub(crate) type Label = (String, String, String);

/// See the module's documentation.
#[derive(Default)]
pub(crate) struct Step {
    /// Specs.
    pub(crate) policies: BTreeMap<PolicyName, Value>,
    pub(crate) labels: BTreeSet<Label>,
    pub(crate) ports: Vec<PortProtocol>,
}

impl Step {
    /// Takes specs in their order; `$NAMESPACE/POD/32` in them is that pod alone.
    pub(crate) fn add_policies(&mut self, specs: Vec<(String, Value)>, places: &Places) {
        for (number, (namespace, mut spec)) in specs.into_iter().enumerate() {
            for field in ["ingress", "egress"] {
                for rule in spec[field].as_array_mut().into_iter().flatten() {
                    for peers in ["from", "to"] {
                        both_families(&mut rule[peers], places);
                    }
                    // Indexing made them.
                    if let Some(own) = rule.as_object_mut() {
                        own.retain(|_, value| !value.is_null());
                    }
                }
            }
            if let Some(spec) = spec.as_object_mut() {
                spec.retain(|_, value| !value.is_null());
            }
            self.policies
                .insert((namespace, format!("p{number}")), spec);
        }
    }

    /// Every pod to every other one, on every port, over both families.
    pub(crate) fn probes(&self, places: &Places) -> Vec<Probe> {
        let mut probes = Vec::new();
        for client in places.keys() {
            for server in places.keys().filter(|server| *server != client) {
                for port in &self.ports {
                    probes.extend([false, true].map(|v6| Probe {
                        client: client.clone(),
                        server: server.clone(),
                        port: *port,
                        v6,
                    }));
                }
            }
        }
        probes
    }

    /// What the words of the API say.
    pub(crate) fn judged(&self, places: &Places) -> anyhow::Result<BTreeMap<Probe, bool>> {
        let worlds = [self.world(places, false)?, self.world(places, true)?];
        let allowed = self.probes(places).into_iter().map(|probe| {
            let address = |name: &str| places[name].address(probe.v6).parse();
            let attempt = Attempt {
                from: address(&probe.client)?,
                to: address(&probe.server)?,
                protocol: probe.port.1,
                port: probe.port.0,
            };
            let allowed = worlds[usize::from(probe.v6)].allows(&attempt);
            Ok((probe, allowed))
        });
        allowed.collect()
    }

    fn world(&self, places: &Places, v6: bool) -> anyhow::Result<World> {
        let mut namespaces = Vec::new();
        for name in NAMESPACES {
            let own = "kubernetes.io/metadata.name";
            namespaces.push((name.to_owned(), json!({"ns": name, own: name})));
        }
        let mut pods = for_oracle(places, v6)?;
        for (object, key, value) in &self.labels {
            let labels = match object.split_once('/') {
                None => namespaces
                    .iter_mut()
                    .find_map(|(name, labels)| (name == object).then_some(labels)),
                Some((namespace, name)) => pods
                    .iter_mut()
                    .find(|pod| pod.namespace == namespace && pod.name == name)
                    .map(|pod| &mut pod.labels),
            };
            labels.context("a label of nothing")?[key] = value.clone().into();
        }
        let (mut policies, mut cluster_policies) = (Vec::new(), Vec::new());
        for ((namespace, name), spec) in &self.policies {
            let object = json!({"metadata": {"name": name, "namespace": namespace}, "spec": spec});
            match namespace.as_str() {
                OF_CLUSTER => cluster_policies.push(object),
                _ => policies.push(object),
            }
        }
        // Nobody asks about nodes.
        let [node, host] = match v6 {
            true => ["2001:db8::1", "2001:db8::2"],
            false => ["192.0.2.1", "192.0.2.2"],
        };
        Ok(World {
            namespaces,
            pods,
            node_labels: json!({}),
            node_address: node.parse()?,
            host: host.parse()?,
            learnt: Vec::new(),
            policies,
            cluster_policies,
        })
    }
}

/// A peer that names addresses becomes two, one of each family.
fn both_families(peers: &mut Value, places: &Places) {
    let Some(peers) = peers.as_array_mut() else {
        return;
    };
    *peers = peers
        .iter()
        .flat_map(|peer| {
            let text = peer.to_string();
            if !text.contains('$') && !text.contains("0.0.0.0/0") {
                return vec![peer.clone()];
            }
            [false, true]
                .into_iter()
                .filter_map(|v6| serde_json::from_str(&of_family(&text, places, v6)).ok())
                .collect()
        })
        .collect();
}

fn of_family(text: &str, places: &Places, v6: bool) -> String {
    let only = if v6 { 128 } else { 32 };
    let mut text = text.to_owned();
    for (name, place) in places {
        let network = format!("{}/{only}", place.address(v6));
        text = text.replace(&format!("${name}/32"), &network);
    }
    match v6 {
        true => text.replace("0.0.0.0/0", "::/0"),
        false => text,
    }
}

/// What the cluster has of it, and the way there.
pub(crate) struct Applied {
    runtime: Runtime,
    client: Client,
    policies: BTreeMap<PolicyName, Value>,
    labels: BTreeSet<Label>,
}

impl Applied {
    pub(crate) fn nothing(kubeconfig: &std::path::Path) -> anyhow::Result<Self> {
        let runtime = Runtime::new()?;
        let client = runtime.block_on(async {
            let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
            anyhow::Ok(Client::try_from(config)?)
        })?;
        Ok(Self {
            runtime,
            client,
            policies: BTreeMap::new(),
            labels: BTreeSet::new(),
        })
    }

    /// Makes the cluster what the step says: what it has not goes, what changed is changed.
    pub(crate) fn become_step(&mut self, step: &Step) -> anyhow::Result<()> {
        for (name, spec) in &step.policies {
            if self.policies.get(name) != Some(spec) {
                self.set_policy(name, Some(spec))?;
            }
        }
        let gone: Vec<PolicyName> = self
            .policies
            .keys()
            .filter(|name| !step.policies.contains_key(*name))
            .cloned()
            .collect();
        for name in gone {
            self.set_policy(&name, None)?;
        }
        for (object, key, _) in self.labels.difference(&step.labels) {
            self.set_label(object, key, &Value::Null)?;
        }
        for (object, key, value) in step.labels.difference(&self.labels) {
            self.set_label(object, key, &value.as_str().into())?;
        }
        self.labels.clone_from(&step.labels);
        Ok(())
    }

    fn set_policy(&mut self, name: &PolicyName, spec: Option<&Value>) -> anyhow::Result<()> {
        let resource = |api_version: &str, kind: &str, plural: &str| {
            let (group, version) = api_version.split_once('/').unwrap_or_default();
            ApiResource {
                group: group.to_owned(),
                version: version.to_owned(),
                api_version: api_version.to_owned(),
                kind: kind.to_owned(),
                plural: plural.to_owned(),
            }
        };
        let client = self.client.clone();
        let (api, kind): (Api<DynamicObject>, _) = if name.0 == OF_CLUSTER {
            let version = "policy.networking.k8s.io/v1alpha2";
            let kind = resource(version, "ClusterNetworkPolicy", "clusternetworkpolicies");
            (Api::all_with(client, &kind), kind)
        } else {
            let kind = resource("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies");
            (Api::namespaced_with(client, &name.0, &kind), kind)
        };
        match spec {
            Some(spec) => {
                let object = json!({"apiVersion": kind.api_version, "kind": kind.kind,
                    "metadata": {"name": name.1}, "spec": spec});
                let parameters = PatchParams::apply("policies-test").force();
                let patch = Patch::Apply(object);
                let patched = api.patch(&name.1, &parameters, &patch);
                self.runtime
                    .block_on(patched)
                    .with_context(|| spec.to_string())?;
                self.policies.insert(name.clone(), spec.clone());
            }
            None => {
                let parameters = DeleteParams::default();
                let deleted = api.delete(&name.1, &parameters);
                self.runtime.block_on(deleted)?;
                self.policies.remove(name);
            }
        }
        Ok(())
    }

    fn set_label(&self, object: &str, key: &str, value: &Value) -> anyhow::Result<()> {
        use k8s_openapi::api::core::v1::{Namespace, Pod};
        let patch = Patch::Merge(json!({"metadata": {"labels": {key: value}}}));
        let parameters = PatchParams::default();
        let client = self.client.clone();
        self.runtime.block_on(async {
            match object.split_once('/') {
                Some((namespace, pod)) => {
                    let api: Api<Pod> = Api::namespaced(client, namespace);
                    api.patch(pod, &parameters, &patch).await.map(drop)
                }
                None => {
                    let api: Api<Namespace> = Api::all(client);
                    api.patch(object, &parameters, &patch).await.map(drop)
                }
            }
        })?;
        Ok(())
    }
}

impl Suite {
    /// Asks for the whole table until it is true at once.
    pub(crate) fn holds(&self, expected: &BTreeMap<Probe, bool>) -> anyhow::Result<()> {
        self.holds_at(expected, At::Pods)
    }

    fn holds_at(&self, expected: &BTreeMap<Probe, bool>, at: At) -> anyhow::Result<()> {
        let probes: Vec<Probe> = expected.keys().cloned().collect();
        let started = Instant::now();
        let mut patience = SHORTEST;
        loop {
            let seen = self.prober.reached(&probes, patience, at)?;
            let wrong: Vec<&Probe> = probes
                .iter()
                .filter(|probe| seen[*probe] != expected[*probe])
                .collect();
            let Some(first) = wrong.first() else {
                return Ok(());
            };
            if started.elapsed() > PATIENCE {
                let word = if expected[*first] { "open" } else { "closed" };
                bail!(
                    "{} of {} are wrong: {first:?} should be {word}",
                    wrong.len(),
                    probes.len()
                );
            }
            patience = (patience * 2).min(LONGEST);
        }
    }

    /// Goes through the steps of all cases; every wrong one is told.
    pub(crate) fn walk(
        &self,
        at: At,
        cases: impl IntoIterator<Item = anyhow::Result<(String, Step, BTreeMap<Probe, bool>)>>,
    ) -> anyhow::Result<()> {
        let mut wrong = Vec::new();
        let mut count = 0;
        let mut applied = Applied::nothing(&self.cluster.kubeconfig)?;
        for case in cases {
            let (name, step, expected) = case?;
            count += 1;
            applied.become_step(&step).context(name.clone())?;
            if let Err(error) = self.holds_at(&expected, at) {
                wrong.push(format!("{name}: {error:#}\n{:?}", step.policies));
            }
        }
        applied.become_step(&Step::default())?;
        if !wrong.is_empty() {
            bail!(
                "{} of {count} are wrong:\n{}",
                wrong.len(),
                wrong.join("\n")
            );
        }
        Ok(())
    }
}
