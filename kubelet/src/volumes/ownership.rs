//! The group that a pod's volumes belong to.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use nix::unistd::{FchownatFlags, Gid, fchownat};

use super::VolumeError;
use crate::pod::containers;

/// When the owner of what is in a volume is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChangePolicy {
    Always,
    /// Not when the volume's root is right already.
    OnRootMismatch,
}

pub(crate) fn fs_group(pod: &Pod) -> Option<u32> {
    let context = containers::spec(pod).security_context.as_ref()?;
    u32::try_from(context.fs_group?).ok()
}

pub(crate) fn change_policy(pod: &Pod) -> ChangePolicy {
    let context = containers::spec(pod).security_context.as_ref();
    match context.and_then(|context| context.fs_group_change_policy.as_deref()) {
        Some("OnRootMismatch") => ChangePolicy::OnRootMismatch,
        _ => ChangePolicy::Always,
    }
}

/// The user that all containers of the pod run as, if it is one.
pub(crate) fn fs_user(pod: &Pod) -> Option<u32> {
    let pod_user = containers::spec(pod)
        .security_context
        .as_ref()
        .and_then(|c| c.run_as_user);
    let mut users = containers::all(pod).into_iter().map(|spec| {
        spec.container
            .security_context
            .as_ref()
            .and_then(|c| c.run_as_user)
            .or(pod_user)
    });
    let first = users.next()??;
    users
        .all(|user| user == Some(first))
        .then(|| u32::try_from(first).ok())?
}

/// Gives a group everything below a path, readable and writable.
pub(crate) fn apply(path: &Path, group: u32, policy: ChangePolicy) -> Result<(), VolumeError> {
    let meta = fs::metadata(path).map_err(|error| VolumeError::io("read", path, error))?;
    let right = meta.gid() == group && meta.mode() & 0o2770 == 0o2770;
    if right && policy == ChangePolicy::OnRootMismatch {
        return Ok(());
    }
    one(path, group, 0o660)?;
    walk(path, group)
}

fn walk(path: &Path, group: u32) -> Result<(), VolumeError> {
    let entries = fs::read_dir(path).map_err(|error| VolumeError::io("read", path, error))?;
    for entry in entries {
        let entry = entry.map_err(|error| VolumeError::io("read", path, error))?;
        one(&entry.path(), group, 0o660)?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), group)?;
        }
    }
    Ok(())
}

/// One file or directory; `mask` are the permissions that it gets beside its own.
pub(crate) fn one(path: &Path, group: u32, mask: u32) -> Result<(), VolumeError> {
    let meta = fs::symlink_metadata(path).map_err(|error| VolumeError::io("read", path, error))?;
    fchownat(
        nix::fcntl::AT_FDCWD,
        path,
        None,
        Some(Gid::from_raw(group)),
        FchownatFlags::AT_SYMLINK_NOFOLLOW,
    )
    .map_err(|errno| VolumeError::io("change the group of", path, errno.into()))?;
    if meta.file_type().is_symlink() {
        return Ok(());
    }
    // Directories have to be searchable, and what is made in them belongs to the group too.
    let extra = if meta.is_dir() {
        mask | 0o110 | 0o2000
    } else {
        mask
    };
    fs::set_permissions(path, Permissions::from_mode((meta.mode() & 0o7777) | extra))
        .map_err(|error| VolumeError::io("set the mode of", path, error))
}
