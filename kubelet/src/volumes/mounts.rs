//! The mounts of one container.

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use cri::v1::{ImageSpec, Mount, MountPropagation};
use k8s_openapi::api::core::v1::{Pod, VolumeMount};

use super::{Paths, Ready, ReadyVolumes, VolumeError, subpath};
use crate::pod::containers::Spec;
use crate::pod::env::Environment;
use crate::pod::hosts;

/// Why a container's mounts cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MountError {
    #[error("the volume {0} of a mount is not there")]
    NoVolume(String),
    #[error("subPathExpr {0}: a variable has no value")]
    Unresolved(String),
    #[error("subPath {0} must be a path inside its volume")]
    SubPath(String),
    #[error(
        "failed to prepare subPath for volumeMount \"{volume}\" of container \"{container}\": {source}"
    )]
    Prepare {
        volume: String,
        container: String,
        source: VolumeError,
    },
    #[error("{action} {path}: {source}")]
    Io {
        action: &'static str,
        path: String,
        source: std::io::Error,
    },
}

/// What mounts are made from.
pub(crate) struct Inputs<'a> {
    pub pod: &'a Pod,
    pub spec: &'a Spec<'a>,
    pub attempt: u32,
    pub volumes: &'a ReadyVolumes,
    pub environment: &'a Environment,
    pub paths: &'a Paths,
    /// The text of the managed hosts file.
    pub hosts: &'a str,
}

/// Prepares subpaths, the hosts file and the file for last words; answers all mounts.
pub(crate) fn prepare(inputs: &Inputs<'_>) -> Result<Vec<Mount>, MountError> {
    let container = &inputs.spec.container;
    let mut mounts = Vec::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        mounts.push(one(inputs, mount, index)?);
    }
    if hosts::is_managed_for(container) {
        mounts.push(Mount {
            container_path: hosts::PATH.to_owned(),
            host_path: write_hosts(inputs)?.display().to_string(),
            ..Mount::default()
        });
    }
    if let Some(path) = container
        .termination_message_path
        .as_deref()
        .filter(|path| !path.is_empty())
    {
        mounts.push(Mount {
            container_path: path.to_owned(),
            host_path: make_last_words(inputs)?.display().to_string(),
            ..Mount::default()
        });
    }
    Ok(mounts)
}

fn one(inputs: &Inputs<'_>, mount: &VolumeMount, index: usize) -> Result<Mount, MountError> {
    let volume = inputs
        .volumes
        .get(&mount.name)
        .ok_or_else(|| MountError::NoVolume(mount.name.clone()))?;
    let part = sub_path(mount, inputs.environment)?;
    let propagation = match mount.mount_propagation.as_deref() {
        Some("Bidirectional") => MountPropagation::PropagationBidirectional,
        Some("HostToContainer") => MountPropagation::PropagationHostToContainer,
        _ => MountPropagation::PropagationPrivate,
    };
    let mut made = Mount {
        container_path: absolute(&mount.mount_path, &inputs.spec.container.working_dir),
        readonly: mount.read_only == Some(true),
        propagation: propagation.into(),
        ..Mount::default()
    };
    match volume {
        Ready::Image { id } => {
            made.readonly = true;
            made.image = Some(ImageSpec {
                image: id.clone(),
                ..ImageSpec::default()
            });
            made.image_sub_path = part.unwrap_or_default();
        }
        Ready::Path { path, read_only } => {
            made.readonly |= read_only;
            made.host_path = match part {
                None => path.display().to_string(),
                Some(part) => bind(inputs, mount, index, path, &part)?
                    .display()
                    .to_string(),
            };
        }
    }
    Ok(made)
}

fn absolute(path: &str, working_dir: &Option<String>) -> String {
    if path.starts_with('/') {
        return path.to_owned();
    }
    format!("{}/{path}", working_dir.as_deref().unwrap_or_default())
}

fn sub_path(mount: &VolumeMount, environment: &Environment) -> Result<Option<String>, MountError> {
    let path = if let Some(pattern) = mount
        .sub_path_expr
        .as_deref()
        .filter(|text| !text.is_empty())
    {
        expand(pattern, environment)?
    } else {
        mount.sub_path.clone().unwrap_or_default()
    };
    if path.is_empty() {
        return Ok(None);
    }
    let sound = Path::new(&path)
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if sound {
        Ok(Some(path))
    } else {
        Err(MountError::SubPath(path))
    }
}

fn expand(pattern: &str, environment: &Environment) -> Result<String, MountError> {
    let missing = std::cell::Cell::new(false);
    let path = crate::pod::expansion::expand(pattern, |name| {
        let found = environment.iter().find(|(known, _)| known == name);
        missing.set(missing.get() || found.is_none());
        found.map(|(_, value)| value.as_str())
    });
    if missing.get() {
        Err(MountError::Unresolved(pattern.to_owned()))
    } else {
        Ok(path)
    }
}

fn bind(
    inputs: &Inputs<'_>,
    mount: &VolumeMount,
    index: usize,
    volume: &Path,
    part: &str,
) -> Result<PathBuf, MountError> {
    let uid = inputs.pod.metadata.uid.as_deref().unwrap_or_default();
    let target = inputs
        .paths
        .subpath(uid, &mount.name, inputs.spec.name(), index);
    subpath::bind(volume, part, &target).map_err(|source| MountError::Prepare {
        volume: mount.name.clone(),
        container: inputs.spec.name().to_owned(),
        source,
    })?;
    Ok(target)
}

fn write_hosts(inputs: &Inputs<'_>) -> Result<PathBuf, MountError> {
    let uid = inputs.pod.metadata.uid.as_deref().unwrap_or_default();
    let path = inputs.paths.hosts(uid);
    if fs::read_to_string(&path).is_ok_and(|text| text == inputs.hosts) {
        return Ok(path);
    }
    write(&path, inputs.hosts, 0o644)?;
    Ok(path)
}

fn make_last_words(inputs: &Inputs<'_>) -> Result<PathBuf, MountError> {
    let uid = inputs.pod.metadata.uid.as_deref().unwrap_or_default();
    let path = inputs
        .paths
        .last_words(uid, inputs.spec.name(), inputs.attempt);
    write(&path, "", 0o666)?;
    Ok(path)
}

/// Writes in place: the file may be mounted in other containers of the pod.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), MountError> {
    let wrong = |source| MountError::Io {
        action: "write",
        path: path.display().to_string(),
        source,
    };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(wrong)?;
    }
    let mut options = OpenOptions::new();
    let mut file = options
        .create(true)
        .write(true)
        .truncate(true)
        .open(path)
        .map_err(wrong)?;
    std::io::Write::write_all(&mut file, text.as_bytes()).map_err(wrong)?;
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sub_paths_expand_and_stay_inside() {
        let environment = vec![
            ("POD".to_owned(), "p1".to_owned()),
            ("ABS".to_owned(), "/x".to_owned()),
        ];
        let check = |plain: &str, pattern: &str| {
            let mount = VolumeMount {
                sub_path: Some(plain.into()),
                sub_path_expr: Some(pattern.into()),
                ..VolumeMount::default()
            };
            sub_path(&mount, &environment).ok()
        };
        assert_eq!(check("", ""), Some(None));
        assert_eq!(check("a/b", ""), Some(Some("a/b".into())));
        assert_eq!(check("", "$(POD)/x"), Some(Some("p1/x".into())));
        for (plain, pattern) in [
            ("", "$(NONE)"),
            ("", "$(ABS)"),
            ("../a", ""),
            ("a/../b", ""),
        ] {
            assert_eq!(check(plain, pattern), None, "{plain}{pattern}");
        }
    }
}
