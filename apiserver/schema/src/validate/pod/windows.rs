//! What pods for Windows can have, and only they.

use super::super::field::{Errors, Node};
use super::super::names;
use super::all_containers;

/// `windowsOptions`
pub(super) fn options(e: &mut Errors, node: &Node<'_>) {
    let name = node.get("gmsaCredentialSpecName");
    if name.is_set() {
        e.check(&name, names::subdomain_faults);
    }
    let credentials = node.get("gmsaCredentialSpec");
    if credentials.is_set() {
        if credentials.is_empty() {
            e.bad(&credentials, "gmsaCredentialSpec cannot be an empty string");
        } else if credentials.text().len() > 64 * 1024 {
            e.bad(&credentials, "gmsaCredentialSpec size must be under 64 KiB");
        }
    }
    let user = node.get("runAsUserName");
    if user.is_set() {
        user_name(e, &user);
    }
}

fn user_name(e: &mut Errors, node: &Node<'_>) {
    let text = node.text();
    if text.is_empty() {
        return e.bad(node, "runAsUserName cannot be an empty string");
    }
    if text.chars().any(|c| c.is_ascii_control()) {
        return e.bad(node, "runAsUserName cannot contain control characters");
    }
    let parts: Vec<&str> = text.split('\\').collect();
    let (domain, user) = match parts.as_slice() {
        [user] => (None, *user),
        [domain, user] => (Some(*domain), *user),
        _ => {
            return e.bad(node, "runAsUserName cannot contain more than one backslash");
        }
    };
    if domain.is_some_and(|d| d.len() >= 256) {
        let why = "runAsUserName's Domain length must be under 256 characters";
        e.bad(node, why);
    }
    if domain.is_some_and(|d| !is_netbios(d) && !is_dns(d)) {
        let why = "runAsUserName's Domain doesn't match the NetBios nor the DNS format";
        e.bad(node, why);
    }
    if user.is_empty() {
        e.bad(node, "runAsUserName's User cannot be empty");
    } else if user.len() > 104 {
        let why = "runAsUserName's User length must not be longer than 104 characters";
        e.bad(node, why);
    }
    if !user.is_empty() && user.chars().all(|c| c == '.' || c == ' ') {
        let why = "runAsUserName's User cannot contain only periods or spaces";
        e.bad(node, why);
    }
    if user.contains(|c| "\"/\\:;|=,+*?<>@[]".contains(c)) {
        let why =
            "runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]";
        e.bad(node, why);
    }
}

fn is_netbios(domain: &str) -> bool {
    let count = domain.chars().count();
    (1..=15).contains(&count)
        && !domain.starts_with('.')
        && !domain.contains(|c| "\\/:*?\"<>|".contains(c))
}

fn is_dns(domain: &str) -> bool {
    domain.split('.').all(|label| {
        let b = label.as_bytes();
        (1..=63).contains(&b.len())
            && b[0].is_ascii_alphanumeric()
            && b[b.len() - 1].is_ascii_alphanumeric()
            && b.iter().all(|c| c.is_ascii_alphanumeric() || *c == b'-')
    })
}

/// Either all containers are processes of the host or none is.
pub(super) fn host_process(e: &mut Errors, spec: &Node<'_>) {
    const FIELD: &str = "securityContext.windowsOptions.hostProcess";
    let own = spec.get(FIELD).value.as_bool();
    let containers = all_containers(spec);
    let mut count = 0;
    for container in &containers {
        let node = container.get(FIELD);
        let inner = node.value.as_bool();
        if let (Some(own), Some(inner)) = (own, inner)
            && own != inner
        {
            let why =
                format!("pod hostProcess value must be identical if both are specified, was {own}");
            e.invalid(&node, inner, why);
        }
        count += usize::from(inner.or(own) == Some(true));
    }
    if count == 0 {
        return;
    }
    if count != containers.len() {
        let why = "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        e.invalid(spec, "", why);
    }
    let network = spec.get("hostNetwork");
    if !network.flag() {
        let why = "hostNetwork must be true if pod contains any hostProcess containers";
        e.invalid(&network, false, why);
    }
}

/// Pods for Linux.
pub(super) fn forbid_on_linux(e: &mut Errors, spec: &Node<'_>) {
    let own = std::iter::once(spec.clone());
    for holder in own.chain(all_containers(spec)) {
        let options = holder.get("securityContext.windowsOptions");
        if options.is_set() {
            e.forbidden(&options, "windows options cannot be set for a linux pod");
        }
    }
}

/// Of the pod, in upstream's order; `true` for fields that stand beside the context.
const POD_FIELDS: [(&str, bool); 15] = [
    ("appArmorProfile", false),
    ("seLinuxOptions", false),
    ("hostUsers", true),
    ("hostPID", true),
    ("hostIPC", true),
    ("seccompProfile", false),
    ("fsGroup", false),
    ("fsGroupChangePolicy", false),
    ("sysctls", false),
    ("shareProcessNamespace", true),
    ("runAsUser", false),
    ("runAsGroup", false),
    ("supplementalGroups", false),
    ("supplementalGroupsPolicy", false),
    ("seLinuxChangePolicy", false),
];

const CONTAINER_FIELDS: [&str; 10] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];

/// Pods for Windows.
pub(super) fn forbid_on_windows(e: &mut Errors, spec: &Node<'_>) {
    const WHY: &str = "cannot be set for a windows pod";
    let context = spec.get("securityContext");
    for (field, beside) in POD_FIELDS {
        let node = if beside {
            spec.get(field)
        } else {
            context.get(field)
        };
        let set = match field {
            "hostPID" | "hostIPC" => node.flag(),
            "sysctls" => !node.is_empty(),
            _ => node.is_set(),
        };
        if set {
            e.forbidden(&node, WHY);
        }
    }
    for container in all_containers(spec) {
        let context = container.get("securityContext");
        for field in CONTAINER_FIELDS {
            let node = context.get(field);
            if node.is_set() {
                e.forbidden(&node, WHY);
            }
        }
    }
}
