//! Directories that live as long as their pod.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod};
use nix::mount::{MsFlags, mount};

use super::{VolumeError, mount_table};
use crate::pod::resources::{self, Side};
use crate::quantity::{ResourceList, nanos, value};

/// An empty directory that everybody may write to, unless it is there already.
pub(crate) fn make(path: &Path) -> Result<(), VolumeError> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path).map_err(|error| VolumeError::io("create", path, error))?;
    open_to_all(path)
}

fn open_to_all(path: &Path) -> Result<(), VolumeError> {
    fs::set_permissions(path, Permissions::from_mode(0o777))
        .map_err(|error| VolumeError::io("set the mode of", path, error))
}

/// A directory in memory, at most so many bytes.
pub(crate) fn mount_memory(path: &Path, size: Option<i64>) -> Result<(), VolumeError> {
    let options = size
        .filter(|size| *size > 0)
        .map(|size| format!("size={size}"));
    mount_once(path, "tmpfs", options.as_deref())
}

fn mount_once(path: &Path, kind: &str, options: Option<&str>) -> Result<(), VolumeError> {
    fs::create_dir_all(path).map_err(|error| VolumeError::io("create", path, error))?;
    if mount_table::is_mounted(path)? {
        return Ok(());
    }
    mount(Some(kind), path, Some(kind), MsFlags::empty(), options)
        .map_err(|errno| VolumeError::io("mount", path, errno.into()))?;
    open_to_all(path)
}

/// Makes an emptyDir of whatever medium.
pub(crate) fn prepare(
    path: &Path,
    source: &EmptyDirVolumeSource,
    pod: &Pod,
    allocatable: &ResourceList,
) -> Result<(), VolumeError> {
    match source.medium.as_deref().unwrap_or_default() {
        "" => make(path),
        "Memory" => mount_memory(path, Some(memory_size(source, pod, allocatable))),
        medium => {
            let size = medium
                .strip_prefix("HugePages")
                .ok_or_else(|| VolumeError::Unsupported(format!("emptyDir of medium {medium}")))?;
            let options = match size.strip_prefix('-') {
                Some(size) => {
                    let bytes = nanos(size).map(|nanos| nanos / 1_000_000_000);
                    let bytes = bytes.ok_or_else(|| VolumeError::Unsupported(medium.to_owned()))?;
                    Some(format!("pagesize={bytes}"))
                }
                None => huge_page_size(pod).map(|bytes| format!("pagesize={bytes}")),
            };
            mount_once(path, "hugetlbfs", options.as_deref())
        }
    }
}

/// The one huge page size that the pod asks for.
fn huge_page_size(pod: &Pod) -> Option<i128> {
    let names = resources::names(pod);
    let size = names
        .iter()
        .find_map(|name| name.strip_prefix("hugepages-"))?;
    Some(nanos(size)? / 1_000_000_000)
}

/// The smallest of what the volume, the pod and the node allow.
fn memory_size(source: &EmptyDirVolumeSource, pod: &Pod, allocatable: &ResourceList) -> i64 {
    let own = source
        .size_limit
        .as_ref()
        .map(value)
        .filter(|size| *size > 0);
    let pod = resources::of_pod(pod, Side::Limits, "memory").filter(|size| *size > 0);
    let node = allocatable
        .get("memory")
        .map(value)
        .filter(|size| *size > 0);
    [own, pod, node].into_iter().flatten().min().unwrap_or(0)
}
