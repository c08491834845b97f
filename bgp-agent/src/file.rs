//! The speaker where there is no API server: one YAML file with the same objects, and one of kind
//! `BGPNode` for the machine itself. It is read again when it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::Secret;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, PORT};
use crate::driver::{Error, Serving, serve};
use crate::follow::on_link;
use crate::resources::{DEFAULT, GROUP, NODE_PREFIX, SecretKeyRef};
use crate::topology::{Compiled, Host, Inputs, Kind};

/// How often it is looked whether the file has changed.
const LOOK: Duration = Duration::from_secs(1);

/// Where the configuration is, and where the speaker answers.
#[derive(Debug, Clone)]
pub struct FileConfig {
    pub path: PathBuf,
    pub port: u16,
    pub control: Option<PathBuf>,
    pub metrics: Option<std::net::SocketAddr>,
}

impl FileConfig {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            port: PORT,
            control: Some(crate::CONTROL_SOCKET.into()),
            metrics: None,
        }
    }
}

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("cannot read {path}: {source}")]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path}: {what}")]
    Content { path: PathBuf, what: String },
    #[error(transparent)]
    Speaker(#[from] Error),
}

/// The machine itself.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NodeSpec {
    /// Those that peers and routes see.
    addresses: BTreeSet<IpAddr>,
    /// Ranges to advertise.
    #[serde(default)]
    ranges: Vec<String>,
    as_number: Option<u32>,
    #[serde(rename = "routerID")]
    router_id: Option<Ipv4Addr>,
    #[serde(rename = "routeReflectorClusterID")]
    cluster_id: Option<Ipv4Addr>,
    #[serde(default)]
    graceful_shutdown: bool,
}

/// Runs a speaker with the file's configuration until `shutdown`. A file that becomes wrong later
/// changes nothing, and is told of.
pub async fn run_file(config: FileConfig, shutdown: CancellationToken) -> Result<(), FileError> {
    let first = load(&config.path)?;
    let (configs, arriving) = mpsc::channel(1);
    let (problems, problems_seen) = watch::channel(texts(&first));
    let serving = Serving {
        port: config.port,
        control: config.control.clone(),
        metrics: config.metrics,
        sessions: None,
        problems: Some(problems_seen),
    };
    let follow = follow(config.path, first, configs, problems);
    let serving = serve(arriving, serving, shutdown.clone());
    tokio::select! {
        () = follow => {
            shutdown.cancelled().await;
            Ok(())
        }
        result = serving => Ok(result?),
    }
}

async fn follow(
    path: PathBuf,
    first: Compiled,
    configs: mpsc::Sender<Config>,
    problems: watch::Sender<Vec<String>>,
) {
    let mut seen = changed_at(&path);
    let mut current = first;
    if configs.send(current.config.clone()).await.is_err() {
        return;
    }
    loop {
        tokio::time::sleep(LOOK).await;
        let now = changed_at(&path);
        if now == seen {
            continue;
        }
        seen = now;
        match load(&path) {
            Ok(new) if new == current => {}
            Ok(new) => {
                problems.send_replace(texts(&new));
                current = new;
                if configs.send(current.config.clone()).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::error!(%error, "the configuration stays as it is");
                let mut told = texts(&current);
                told.push(error.to_string());
                problems.send_replace(told);
            }
        }
    }
}

fn changed_at(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn texts(compiled: &Compiled) -> Vec<String> {
    let each = compiled.problems.iter();
    let each = each.map(|((kind, name), what)| format!("{kind:?} {name}: {what}"));
    each.collect()
}

fn load(path: &Path) -> Result<Compiled, FileError> {
    let text = std::fs::read_to_string(path).map_err(|source| FileError::Read {
        path: path.to_owned(),
        source,
    })?;
    parse(&text, on_link()).map_err(|what| FileError::Content {
        path: path.to_owned(),
        what,
    })
}

/// Reads a configuration; what single objects have wrong is told beside the rest.
pub(crate) fn parse(text: &str, on_link: Vec<IpNetwork>) -> Result<Compiled, String> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(text).map_err(|error| format!("no YAML: {error}"))?;
    let mut inputs = Inputs {
        on_link,
        ..Inputs::default()
    };
    for document in documents.iter().filter(|own| !own.is_null()) {
        add(document, &mut inputs)?;
    }
    if inputs.hosts.is_empty() {
        return Err(
            "an object of kind BGPNode is missing: it says what this machine is".to_owned(),
        );
    }
    let mut compiled = inputs
        .compile()
        .ok_or("the BGPNode has no addresses: peers need one as the next hop")?;
    // The mesh is of a cluster's nodes.
    compiled
        .problems
        .retain(|(kind, _), _| *kind != Kind::Service);
    Ok(compiled)
}

/// Whether a configuration can be used; what is wrong with it where it cannot.
pub fn check_file(text: &str) -> Result<Vec<String>, String> {
    parse(text, Vec::new()).map(|compiled| texts(&compiled))
}

fn add(document: &Value, inputs: &mut Inputs) -> Result<(), String> {
    let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str);
    let kind = text("/kind").ok_or("an object has no kind")?;
    let name = text("/metadata/name").ok_or_else(|| format!("a {kind} has no metadata.name"))?;
    let version = text("/apiVersion").unwrap_or_default();
    let ours = format!("{GROUP}/v1");
    let expected = if kind == "Secret" {
        "v1"
    } else {
        ours.as_str()
    };
    if version != expected {
        return Err(format!("{kind} {name}: apiVersion has to be {expected}"));
    }
    let place = format!("{kind} {name}");
    match kind {
        "BGPNode" => add_node(name, spec(document, &place)?, document, inputs)?,
        "BGPConfiguration" if name == DEFAULT => {
            inputs.configuration = spec(document, &place)?;
        }
        "BGPConfiguration" if name.starts_with(NODE_PREFIX) => {
            inputs.own_configuration = Some(spec(document, &place)?);
        }
        "BGPConfiguration" => {
            return Err(format!(
                "{place}: it has to be named {DEFAULT:?}, or \"{NODE_PREFIX}\" and the node's name"
            ));
        }
        "BGPPeer" => insert(&mut inputs.peers, name, spec(document, &place)?),
        "BGPFilter" => insert(&mut inputs.filters, name, spec(document, &place)?),
        "IPPool" => insert(&mut inputs.pools, name, spec(document, &place)?),
        "Secret" => add_secret(name, document, inputs)?,
        _ => return Err(format!("{place}: the kind is not known here")),
    }
    Ok(())
}

fn insert<S>(all: &mut BTreeMap<String, S>, name: &str, spec: S) {
    all.insert(name.to_owned(), spec);
}

fn spec<S: DeserializeOwned>(document: &Value, place: &str) -> Result<S, String> {
    let spec = document.get("spec").cloned().unwrap_or_default();
    serde_json::from_value(spec).map_err(|error| format!("{place}: {error}"))
}

fn add_node(
    name: &str,
    spec: NodeSpec,
    document: &Value,
    inputs: &mut Inputs,
) -> Result<(), String> {
    if !inputs.hosts.is_empty() {
        return Err("there are two BGPNodes: a file is about one machine".to_owned());
    }
    let labels = document.pointer("/metadata/labels").cloned();
    let ranges = spec.ranges.iter().map(|text| {
        text.parse()
            .map_err(|_| format!("BGPNode {name}: {text:?} is no range such as 10.0.0.0/24"))
    });
    inputs.own_name = name.to_owned();
    inputs.hosts.push(Host {
        name: name.to_owned(),
        labels: labels
            .map(serde_json::from_value)
            .transpose()
            .map_err(|error| format!("BGPNode {name}: labels: {error}"))?
            .unwrap_or_default(),
        addresses: spec.addresses,
        ranges: ranges.collect::<Result<_, String>>()?,
        asn: spec.as_number,
        router_id: spec.router_id,
        cluster_id: spec.cluster_id,
        shutting_down: spec.graceful_shutdown,
        created: 0,
    });
    Ok(())
}

fn add_secret(name: &str, document: &Value, inputs: &mut Inputs) -> Result<(), String> {
    let secret: Secret = serde_json::from_value(document.clone())
        .map_err(|error| format!("Secret {name}: {error}"))?;
    let plain = secret.string_data.unwrap_or_default();
    let encoded = secret.data.unwrap_or_default();
    let decoded = encoded
        .into_iter()
        .filter_map(|(key, value)| Some((key, String::from_utf8(value.0).ok()?)));
    for (key, value) in decoded.chain(plain) {
        let name = name.to_owned();
        inputs.secrets.insert(SecretKeyRef { name, key }, value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FILE: &str = r#"
apiVersion: fairlead.io/v1
kind: BGPNode
metadata: {name: edge1, labels: {rack: a}}
spec:
  addresses: [192.0.2.1, "2001:db8::1"]
  ranges: [10.9.0.0/16]
  asNumber: 65001
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {tor: s3cret}
---
apiVersion: fairlead.io/v1
kind: BGPPeer
metadata: {name: tor}
spec:
  nodeSelector: rack == 'a'
  peerIP: 192.0.2.2
  asNumber: 65002
  defaultAction: Accept
  password: {secretKeyRef: {name: keys, key: tor}}
"#;

    #[test]
    fn a_file_configures_a_speaker() {
        let compiled = parse(FILE, Vec::new()).unwrap();
        assert!(compiled.problems.is_empty(), "{:?}", compiled.problems);
        let config = compiled.config;
        assert_eq!(config.local_as, 65001);
        let peer = &config.peers[&"192.0.2.2".parse().unwrap()];
        assert_eq!((peer.asn, peer.password.is_some()), (65002, true));
        assert!(
            config
                .originate
                .contains_key(&"10.9.0.0/16".parse().unwrap())
        );
    }

    #[test]
    fn what_is_wrong_with_a_file_is_named() {
        let with = |old: &str, new: &str| parse(&FILE.replace(old, new), Vec::new()).unwrap_err();
        assert!(parse("", Vec::new()).unwrap_err().contains("BGPNode"));
        assert!(parse("a: [", Vec::new()).unwrap_err().contains("YAML"));
        assert!(with("10.9.0.0/16", "10").contains("edge1"));
        assert!(with("asNumber: 65002", "asNumber: many").contains("BGPPeer tor"));
        assert!(with("kind: BGPPeer", "kind: Bgp").contains("not known"));
        assert!(
            with("addresses: [192.0.2.1, \"2001:db8::1\"]", "addresses: []").contains("addresses")
        );
        assert!(with("  ranges:", "  range:").contains("range"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[ -~\n]{0,200}") {
            let _ = parse(&text, Vec::new());
        }
    }
}
