//! Security contexts.

use std::collections::BTreeSet;

use super::super::field::{Errors, Node, Place};
use super::super::{internal, names};
use super::windows;

/// A path below some place: relative, and never upwards.
pub(super) fn descending(e: &mut Errors, at: &impl Place, path: &str) {
    if path.starts_with('/') {
        e.invalid(at, path, "must be a relative path");
    }
    no_backsteps(e, at, path);
}

/// A path that never leads upwards.
pub(super) fn no_backsteps(e: &mut Errors, at: &impl Place, path: &str) {
    if path.split('/').any(|part| part == "..") {
        e.invalid(at, path, "must not contain '..'");
    }
}

fn id(e: &mut Errors, node: &Node<'_>) {
    let most = i64::from(i32::MAX);
    if node.number().is_some_and(|n| !(0..=most).contains(&n)) {
        e.bad(node, names::between(0, most));
    }
}

/// A pod's security context.
pub(super) fn of_pod(e: &mut Errors, spec: &Node<'_>) {
    let context = spec.get("securityContext");
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(e, &context.get(field));
    }
    for group in context.get("supplementalGroups").items() {
        id(e, &group);
    }
    if spec.get("shareProcessNamespace").flag() && spec.get("hostPID").flag() {
        let why = "ShareProcessNamespace and HostPID cannot both be enabled";
        e.invalid(&context.path.child("shareProcessNamespace"), true, why);
    }
    sysctls(e, spec, &context.get("sysctls"));
    e.one_of(
        &context.get("fsGroupChangePolicy"),
        &["Always", "OnRootMismatch"],
    );
    seccomp(e, &context.get("seccompProfile"));
    windows::options(e, &context.get("windowsOptions"));
    apparmor(e, &context.get("appArmorProfile"));
    e.one_of(
        &context.get("supplementalGroupsPolicy"),
        &["Merge", "Strict"],
    );
    e.one_of(
        &context.get("seLinuxChangePolicy"),
        &["MountOption", "Recursive"],
    );
}

fn is_sysctl(name: &str) -> bool {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let segment = |s: &str| {
        let b = s.as_bytes();
        !b.is_empty()
            && plain(b[0])
            && plain(b[b.len() - 1])
            && b.iter().all(|c| plain(*c) || matches!(c, b'-' | b'_'))
    };
    name.len() <= 253 && name.split(['.', '/']).all(segment)
}

/// Settings of the network and of message queues belong to the host in pods that share these.
fn sysctls(e: &mut Errors, spec: &Node<'_>, list: &Node<'_>) {
    let mut known = BTreeSet::new();
    for sysctl in list.items() {
        let name = sysctl.get("name");
        let text = name.text();
        if text.is_empty() {
            e.required(&name, "");
        } else if !is_sysctl(text) {
            e.bad(&name, "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$");
        } else if known.contains(text) {
            e.duplicate(&name, text);
        }
        let dotted = text.replace('/', ".");
        if spec.get("hostNetwork").flag() && dotted.starts_with("net.") {
            e.bad(&name, "may not be specified when 'hostNetwork' is true");
        } else if spec.get("hostIPC").flag()
            && (["kernel.shm", "kernel.msg", "fs.mqueue."]
                .iter()
                .any(|p| dotted.starts_with(p))
                || dotted == "kernel.sem")
        {
            e.bad(&name, "may not be specified when 'hostIPC' is true");
        }
        known.insert(text);
    }
}

fn seccomp(e: &mut Errors, profile: &Node<'_>) {
    if !profile.is_set() {
        return;
    }
    let (kind, local) = (profile.get("type"), profile.get("localhostProfile"));
    if kind.is_empty() {
        e.required(&kind, "type is required when seccompProfile is set");
    } else {
        e.one_of(&kind, &["Localhost", "RuntimeDefault", "Unconfined"]);
    }
    if kind.text() == "Localhost" {
        if local.is_set() {
            descending(e, &local, local.text());
        } else {
            e.required(&local, "must be set when seccomp type is Localhost");
        }
    } else if local.is_set() {
        let shown = internal::shown("SeccompProfile", profile.value);
        e.invalid(
            &local,
            shown,
            "can only be set when seccomp type is Localhost",
        );
    }
}

fn apparmor(e: &mut Errors, profile: &Node<'_>) {
    if !profile.is_set() {
        return;
    }
    let (kind, local) = (profile.get("type"), profile.get("localhostProfile"));
    let missing = "must be set when AppArmor type is Localhost";
    match kind.text() {
        "Localhost" if !local.is_set() => e.required(&local, missing),
        "Localhost" => {
            let text = local.text();
            if text.trim() != text {
                e.bad(&local, "must not be padded with whitespace");
            } else if text.is_empty() {
                e.required(&local, missing);
            }
            if text.len() > 4095 {
                e.too_long(&local, 4095);
            }
        }
        "RuntimeDefault" | "Unconfined" => {
            if local.is_set() {
                e.bad(&local, "can only be set when AppArmor type is Localhost");
            }
        }
        "" => e.required(&kind, "type is required when appArmorProfile is set"),
        other => {
            e.not_supported(&kind, other, &["Localhost", "RuntimeDefault", "Unconfined"]);
        }
    }
}

/// A container's security context.
pub(super) fn of_container(e: &mut Errors, context: &Node<'_>, host_users: bool) {
    if !context.is_set() {
        return;
    }
    for field in ["runAsUser", "runAsGroup"] {
        id(e, &context.get(field));
    }
    let proc_mount = context.get("procMount");
    if proc_mount.is_set() {
        e.one_of(&proc_mount, &["Default", "Unmasked"]);
        if host_users && proc_mount.text() == "Unmasked" {
            e.bad(&proc_mount, "`hostUsers` must be false to use `Unmasked`");
        }
    }
    seccomp(e, &context.get("seccompProfile"));
    if context.value["allowPrivilegeEscalation"] == false {
        let shown = || internal::shown("SecurityContext", context.value);
        if context.get("privileged").flag() {
            let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            e.invalid(context, shown(), why);
        }
        for capability in context.get("capabilities.add").texts() {
            if capability == "CAP_SYS_ADMIN" {
                let why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
                e.invalid(context, shown(), why);
            }
        }
    }
    windows::options(e, &context.get("windowsOptions"));
    apparmor(e, &context.get("appArmorProfile"));
}

/// Users of their own and namespaces of the host do not go together.
pub(super) fn host_users(e: &mut Errors, spec: &Node<'_>) {
    if spec.value["hostUsers"] != false {
        return;
    }
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        let host = spec.get(field);
        if host.flag() {
            e.forbidden(&host, "when `hostUsers` is false");
        }
    }
    for container in super::all_containers(spec) {
        let devices = container.get("volumeDevices");
        if !devices.is_empty() {
            e.forbidden(&devices, "when `hostUsers` is false");
        }
    }
}
