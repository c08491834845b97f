//! A pod's volumes: made before its containers start, kept up to date while it runs, and
//! taken down after it has ended.
//!
//! What a volume contains is computed in [`payload`] from objects that were read before;
//! the other modules write it. Everything here blocks, so the worker runs it on the
//! runtime's blocking threads.

pub(crate) mod atomic;
pub(crate) mod empty_dir;
pub(crate) mod host_path;
pub(crate) mod mount_table;
pub(crate) mod mounts;
pub(crate) mod ownership;
pub(crate) mod payload;
pub(crate) mod subpath;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Pod, Volume};

use crate::csi::{CsiError, Mounted};
use crate::pod::containers;
use crate::pod::downward::{DownwardError, Surroundings};
use crate::pod::env::Objects;

/// Why a volume is not ready. Missing objects may appear; the rest is the pod's fault or
/// the node's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error("{kind} \"{name}\" not found")]
    Missing { kind: &'static str, name: String },
    #[error("references non-existent {kind} key: {key}")]
    MissingKey { kind: &'static str, key: String },
    #[error("hostPath type check failed: {path} {complaint}")]
    HostPath {
        path: String,
        complaint: &'static str,
    },
    #[error("{action} {path}: {source}")]
    Io {
        action: &'static str,
        path: String,
        source: io::Error,
    },
    #[error("the path {0} leaves its volume")]
    Escape(String),
    #[error("persistent volume claim \"{claim}\": {complaint}")]
    Claim { claim: String, complaint: String },
    #[error("this node cannot provide volumes of this kind ({0})")]
    Unsupported(String),
    #[error("no token for the service account: {0}")]
    Token(String),
    #[error(transparent)]
    Plugin(#[from] CsiError),
    #[error("image volume: {0}")]
    Image(String),
    #[error(transparent)]
    Downward(#[from] DownwardError),
}

impl VolumeError {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.display().to_string(),
            source,
        }
    }
}

/// Where the files of pods are.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    pub root: PathBuf,
}

impl Paths {
    pub(crate) fn pods(&self) -> PathBuf {
        self.root.join("pods")
    }

    pub(crate) fn pod(&self, uid: &str) -> PathBuf {
        self.pods().join(uid)
    }

    pub(crate) fn volume(&self, uid: &str, kind: &str, name: &str) -> PathBuf {
        self.pod(uid)
            .join("volumes")
            .join(format!("kubernetes.io~{kind}"))
            .join(name)
    }

    pub(crate) fn subpath(
        &self,
        uid: &str,
        volume: &str,
        container: &str,
        index: usize,
    ) -> PathBuf {
        let base = self.pod(uid).join("volume-subpaths").join(volume);
        base.join(container).join(index.to_string())
    }

    /// The managed hosts file.
    pub(crate) fn hosts(&self, uid: &str) -> PathBuf {
        self.pod(uid).join("etc-hosts")
    }

    /// Where a container's last words go.
    pub(crate) fn last_words(&self, uid: &str, container: &str, attempt: u32) -> PathBuf {
        self.pod(uid)
            .join("containers")
            .join(container)
            .join(format!("{attempt}"))
    }
}

/// What was read before the volumes can be made.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources {
    pub objects: Objects,
    /// Tokens by volume and path in it.
    pub tokens: BTreeMap<(String, String), String>,
    /// Trust anchors by volume and path in it.
    pub bundles: BTreeMap<(String, String), String>,
    /// Where claims lead, by volume.
    pub claims: BTreeMap<String, ClaimTarget>,
    /// Volumes that plugins have mounted, by volume.
    pub plugged: BTreeMap<String, Mounted>,
    /// Image volumes, by volume: the image's id.
    pub images: BTreeMap<String, String>,
}

/// The directory behind a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClaimTarget {
    pub path: String,
    pub read_only: bool,
}

/// A volume in place, for the containers' mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ready {
    Path { path: PathBuf, read_only: bool },
    Image { id: String },
}

/// The volumes of a pod by name.
pub(crate) type ReadyVolumes = BTreeMap<String, Ready>;

/// What the node contributes.
#[derive(Debug, Clone)]
pub(crate) struct Site<'a> {
    pub paths: &'a Paths,
    pub around: Surroundings<'a>,
}

/// Makes every volume of the pod, or brings those with contents up to date. The first
/// failure ends it, with the volume's name.
pub(crate) fn prepare(
    pod: &Pod,
    sources: &Sources,
    site: &Site<'_>,
) -> Result<ReadyVolumes, (String, VolumeError)> {
    let mut ready = ReadyVolumes::new();
    for volume in containers::spec(pod).volumes.iter().flatten() {
        let made = one(pod, volume, sources, site).map_err(|error| (volume.name.clone(), error))?;
        ready.insert(volume.name.clone(), made);
    }
    Ok(ready)
}

fn one(
    pod: &Pod,
    volume: &Volume,
    sources: &Sources,
    site: &Site<'_>,
) -> Result<Ready, VolumeError> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let fs_group = ownership::fs_group(pod);
    if let Some(kind) = payload::kind(volume) {
        let path = site.paths.volume(uid, kind.directory(), &volume.name);
        if kind.is_secret() {
            empty_dir::mount_memory(&path, None)?;
        } else {
            empty_dir::make(&path)?;
        }
        let files = payload::files(pod, volume, sources, &site.around)?;
        atomic::write(&path, &files, fs_group)?;
        return Ok(Ready::Path {
            path,
            read_only: true,
        });
    }
    if let Some(source) = &volume.empty_dir {
        let path = site.paths.volume(uid, "empty-dir", &volume.name);
        empty_dir::prepare(&path, source, pod, site.around.allocatable)?;
        if let Some(group) = fs_group {
            ownership::apply(&path, group, ownership::change_policy(pod))?;
        }
        return Ok(Ready::Path {
            path,
            read_only: false,
        });
    }
    if let Some(source) = &volume.host_path {
        let path = PathBuf::from(&source.path);
        host_path::check(&path, source.type_.as_deref().unwrap_or_default())?;
        return Ok(Ready::Path {
            path,
            read_only: false,
        });
    }
    if let Some(mounted) = sources.plugged.get(&volume.name) {
        if let Some(group) = fs_group.filter(|_| mounted.own) {
            ownership::apply(&mounted.path, group, ownership::change_policy(pod))?;
        }
        let asked = volume.persistent_volume_claim.as_ref();
        return Ok(Ready::Path {
            path: mounted.path.clone(),
            read_only: mounted.read_only || asked.and_then(|asked| asked.read_only) == Some(true),
        });
    }
    if let Some(claim) = claim_name(pod, volume) {
        let target = sources
            .claims
            .get(&volume.name)
            .ok_or(VolumeError::Missing {
                kind: "persistentvolumeclaim",
                name: claim,
            })?;
        let path = PathBuf::from(&target.path);
        host_path::check(&path, "DirectoryOrCreate")?;
        if let Some(group) = fs_group {
            ownership::apply(&path, group, ownership::change_policy(pod))?;
        }
        let asked = volume.persistent_volume_claim.as_ref();
        let read_only = target.read_only || asked.and_then(|asked| asked.read_only) == Some(true);
        return Ok(Ready::Path { path, read_only });
    }
    if volume.image.is_some() {
        let id = sources.images.get(&volume.name).cloned();
        let id = id.ok_or_else(|| VolumeError::Image("the image was not pulled".to_owned()))?;
        return Ok(Ready::Image { id });
    }
    Err(VolumeError::Unsupported(volume.name.clone()))
}

/// The claim that a volume leads to: one that is named, or the one that is made for the pod.
pub(crate) fn claim_name(pod: &Pod, volume: &Volume) -> Option<String> {
    let named = volume.persistent_volume_claim.as_ref();
    let own = volume.ephemeral.as_ref().map(|_| {
        let pod = pod.metadata.name.as_deref().unwrap_or_default();
        format!("{pod}-{}", volume.name)
    });
    named.map(|source| source.claim_name.clone()).or(own)
}

/// Takes everything of a pod's volumes down. Data of emptyDirs goes; what lies behind host
/// paths and claims stays.
pub(crate) fn tear_down(paths: &Paths, uid: &str) -> Result<(), VolumeError> {
    let pod = paths.pod(uid);
    mount_table::unmount_below(&pod)?;
    for part in ["volume-subpaths", "volumes"] {
        remove(&pod.join(part))?;
    }
    Ok(())
}

/// Removes what is left of a pod.
pub(crate) fn erase(paths: &Paths, uid: &str) -> Result<(), VolumeError> {
    tear_down(paths, uid)?;
    remove(&paths.pod(uid))
}

fn remove(path: &Path) -> Result<(), VolumeError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(VolumeError::io("remove", path, error))
        }
        _ => Ok(()),
    }
}
