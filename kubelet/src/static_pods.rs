//! Pods from manifests in a directory of the node, which run without an API server.
//!
//! [`follow`] reads the directory again and again and tells what it holds. The manager runs
//! each of these pods like one of the API's, and keeps a mirror of it there, so that people
//! see it; see [`mirror`]. Deleting the mirror deletes no pod.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{Container, Node, Pod, PodSpec, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::ResourceExt;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Where a pod comes from; `file` for those of the directory.
const SOURCE: &str = "kubernetes.io/config.source";
/// Identifies what a static pod was made from.
const HASH: &str = "kubernetes.io/config.hash";
/// On the mirror: the hash of the pod that it shows.
const MIRROR: &str = "kubernetes.io/config.mirror";

const PERIOD: Duration = Duration::from_secs(1);

/// The static pods by namespace and name.
pub(crate) type StaticPods = BTreeMap<(String, String), Arc<Pod>>;

/// Why a manifest is not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ManifestError {
    #[error("reading the manifest {path}: {source}")]
    Read { path: String, source: io::Error },
    #[error("the manifest {path} is no Pod: {complaint}")]
    Parse { path: String, complaint: String },
}

/// Whether the pod is run from a manifest.
pub(crate) fn is_static(pod: &Pod) -> bool {
    pod.annotations().get(SOURCE).is_some_and(|s| s == "file") && mirrored(pod).is_none()
}

/// For a mirror: the hash of the pod that it shows.
pub(crate) fn mirrored(pod: &Pod) -> Option<&str> {
    pod.annotations().get(MIRROR).map(String::as_str)
}

/// Whether `mirror` shows just this pod.
pub(crate) fn is_mirror_of(mirror: &Pod, pod: &Pod) -> bool {
    mirrored(mirror) == pod.annotations().get(HASH).map(String::as_str)
        && mirror.metadata.deletion_timestamp.is_none()
}

/// The object by which the API shows a static pod.
pub(crate) fn mirror(pod: &Pod, node: &Node) -> Pod {
    let mut annotations = pod.annotations().clone();
    if let Some(hash) = annotations.get(HASH).cloned() {
        annotations.insert(MIRROR.to_owned(), hash);
    }
    Pod {
        metadata: ObjectMeta {
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            labels: pod.metadata.labels.clone(),
            annotations: Some(annotations),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Node".to_owned(),
                name: node.name_any(),
                uid: node.uid().unwrap_or_default(),
                controller: Some(true),
                block_owner_deletion: None,
            }]),
            ..ObjectMeta::default()
        },
        spec: pod.spec.clone(),
        status: None,
    }
}

/// What is compared to see whether a directory has changed.
type Stamp = BTreeMap<PathBuf, (Option<SystemTime>, u64)>;

fn stamp(directory: &Path) -> Stamp {
    let Ok(entries) = fs::read_dir(directory) else {
        return Stamp::new();
    };
    entries
        .flatten()
        .filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'))
        .filter_map(|entry| {
            let metadata = fs::metadata(entry.path()).ok()?;
            let of_file = (metadata.modified().ok(), metadata.len());
            metadata.is_file().then(|| (entry.path(), of_file))
        })
        .collect()
}

/// Reads the directory, and again whenever it changes, until the shutdown.
pub(crate) async fn follow(
    directory: PathBuf,
    node: String,
    pods: watch::Sender<StaticPods>,
    shutdown: CancellationToken,
) {
    let mut seen = stamp(&directory);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
        let now = stamp(&directory);
        if now == seen {
            continue;
        }
        seen = now;
        let (directory, node) = (directory.clone(), node.clone());
        let read = tokio::task::spawn_blocking(move || read(&directory, &node)).await;
        if let Ok(read) = read {
            pods.send_replace(read);
        }
    }
}

/// The pods of all manifests that can be read. The others are told of in the log.
pub(crate) fn read(directory: &Path, node: &str) -> StaticPods {
    let mut pods = StaticPods::new();
    for path in stamp(directory).into_keys() {
        match manifest(&path, node) {
            Ok(pod) => {
                let key = (pod.namespace().unwrap_or_default(), pod.name_any());
                pods.entry(key).or_insert_with(|| Arc::new(pod));
            }
            Err(error) => tracing::warn!(%error, "a static pod does not run"),
        }
    }
    pods
}

fn manifest(path: &Path, node: &str) -> Result<Pod, ManifestError> {
    let shown = || path.display().to_string();
    let text = fs::read_to_string(path).map_err(|source| ManifestError::Read {
        path: shown(),
        source,
    })?;
    parse(&text, node).map_err(|complaint| ManifestError::Parse {
        path: shown(),
        complaint,
    })
}

/// A manifest as the pod that the node runs: named after the node, with the defaults that the
/// API would have given it.
fn parse(text: &str, node: &str) -> Result<Pod, String> {
    let value: serde_json::Value =
        serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    if value["kind"] != "Pod" || value["apiVersion"] != "v1" {
        return Err("kind and apiVersion have to be Pod and v1".to_owned());
    }
    let mut pod: Pod = serde_json::from_value(value).map_err(|error| error.to_string())?;
    let name = pod.metadata.name.take().filter(|name| !name.is_empty());
    let name = name.ok_or("metadata.name is missing")?;
    let spec = pod.spec.as_mut().ok_or("spec is missing")?;
    if spec.containers.is_empty() {
        return Err("spec.containers is empty".to_owned());
    }
    complete(spec, node);
    let mut digest = Sha256::new();
    digest.update(node);
    digest.update([0]);
    digest.update(text);
    let hash = hex::encode(&digest.finalize()[..16]);
    let meta = &mut pod.metadata;
    meta.name = Some(format!("{name}-{}", node.to_lowercase()));
    meta.namespace.get_or_insert_with(|| "default".to_owned());
    meta.uid = Some(hash.clone());
    let annotations = meta.annotations.get_or_insert_default();
    annotations.insert(HASH.to_owned(), hash);
    annotations.insert(SOURCE.to_owned(), "file".to_owned());
    annotations.remove(MIRROR);
    pod.status = None;
    Ok(pod)
}

fn complete(spec: &mut PodSpec, node: &str) {
    spec.node_name = Some(node.to_owned());
    spec.restart_policy
        .get_or_insert_with(|| "Always".to_owned());
    spec.dns_policy
        .get_or_insert_with(|| "ClusterFirst".to_owned());
    spec.termination_grace_period_seconds.get_or_insert(30);
    spec.enable_service_links.get_or_insert(true);
    spec.security_context.get_or_insert_default();
    // A static pod has to run whatever is wrong with its node.
    spec.tolerations.get_or_insert_default().push(Toleration {
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        ..Toleration::default()
    });
    let init = spec.init_containers.iter_mut().flatten();
    for container in init.chain(&mut spec.containers) {
        complete_container(container);
    }
}

fn complete_container(container: &mut Container) {
    container
        .termination_message_path
        .get_or_insert_with(|| "/dev/termination-log".to_owned());
    container
        .termination_message_policy
        .get_or_insert_with(|| "File".to_owned());
    let image = container.image.as_deref().unwrap_or_default();
    let last = image.rsplit('/').next().unwrap_or_default();
    let latest = !image.contains('@') && (!last.contains(':') || last.ends_with(":latest"));
    let policy = if latest { "Always" } else { "IfNotPresent" };
    container
        .image_pull_policy
        .get_or_insert_with(|| policy.to_owned());
    for port in container.ports.iter_mut().flatten() {
        port.protocol.get_or_insert_with(|| "TCP".to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\n\
        spec: {containers: [{name: c, image: nginx, ports: [{containerPort: 80}]}]}\n";

    #[test]
    fn a_manifest_becomes_a_pod_of_the_node() {
        let pod = parse(MANIFEST, "Node1").unwrap();
        assert_eq!(pod.name_any(), "web-node1");
        assert_eq!(pod.namespace().as_deref(), Some("default"));
        assert!(is_static(&pod));
        let spec = pod.spec.as_ref().unwrap();
        assert_eq!(spec.node_name.as_deref(), Some("Node1"));
        let container = &spec.containers[0];
        assert_eq!(container.image_pull_policy.as_deref(), Some("Always"));
        let again = parse(MANIFEST, "Node1").unwrap();
        assert_eq!(pod.uid(), again.uid(), "a restart finds its containers");
        assert_ne!(pod.uid(), parse(MANIFEST, "node2").unwrap().uid());
    }

    #[test]
    fn a_mirror_shows_one_version_of_a_pod() {
        let pod = parse(MANIFEST, "n").unwrap();
        let shown = mirror(&pod, &Node::default());
        assert!(is_mirror_of(&shown, &pod) && !is_static(&shown));
        let other = parse(&MANIFEST.replace("nginx", "nginx:1"), "n").unwrap();
        assert!(!is_mirror_of(&shown, &other));
        assert_eq!(shown.owner_references()[0].kind, "Node");
    }

    #[test]
    fn what_is_no_pod_is_left_out_and_hidden_files_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("good.yaml", MANIFEST);
        write(".new", MANIFEST);
        write("bad.yaml", "a: [b");
        write("other.yaml", "apiVersion: v1\nkind: Service\n");
        write(
            "empty.yaml",
            "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: []}\n",
        );
        let pods = read(dir.path(), "n");
        let names: Vec<_> = pods.keys().map(|(_, name)| name.as_str()).collect();
        assert_eq!(names, ["web-n"]);
        assert!(read(&dir.path().join("none"), "n").is_empty());
    }
}
