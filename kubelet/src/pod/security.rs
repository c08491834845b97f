//! Security contexts, from the API's to the runtime's.

use cri::v1::security_profile::ProfileType;
use cri::v1::{
    Capability, Int64Value, LinuxContainerSecurityContext, LinuxSandboxSecurityContext,
    NamespaceMode, NamespaceOption, SeLinuxOption, SecurityProfile, SupplementalGroupsPolicy,
};
use k8s_openapi::api::core::v1::{
    AppArmorProfile, Pod, PodSecurityContext, SELinuxOptions, SeccompProfile, SecurityContext,
};

use super::containers::{self, Spec};

/// Paths of /proc and /sys that tell of the node or change it.
const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// The user that an image names for its process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageUser {
    pub uid: Option<i64>,
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecurityError {
    #[error(
        "container has runAsNonRoot and image will run as root (pod: \"{pod}\", container: {container})"
    )]
    Root { pod: String, container: String },
    #[error(
        "container's runAsUser breaks non-root policy (pod: \"{pod}\", container: {container})"
    )]
    RootAsked { pod: String, container: String },
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root (pod: \"{pod}\", container: {container})"
    )]
    Unverifiable {
        user: String,
        pod: String,
        container: String,
    },
}

fn pod_context(pod: &Pod) -> PodSecurityContext {
    containers::spec(pod)
        .security_context
        .clone()
        .unwrap_or_default()
}

/// The namespaces of the pod's sandbox.
pub fn namespaces(pod: &Pod) -> NamespaceOption {
    let spec = containers::spec(pod);
    let node_or = |host: Option<bool>, otherwise: NamespaceMode| {
        if host == Some(true) {
            NamespaceMode::Node
        } else {
            otherwise
        }
    };
    let shared = spec.share_process_namespace == Some(true);
    let pid = if shared {
        NamespaceMode::Pod
    } else {
        NamespaceMode::Container
    };
    NamespaceOption {
        network: node_or(spec.host_network, NamespaceMode::Pod).into(),
        pid: node_or(spec.host_pid, pid).into(),
        ipc: node_or(spec.host_ipc, NamespaceMode::Pod).into(),
        target_id: String::new(),
        userns_options: None,
    }
}

fn groups(context: &PodSecurityContext) -> Vec<i64> {
    let mut groups: Vec<i64> = context.fs_group.into_iter().collect();
    for group in context.supplemental_groups.iter().flatten() {
        if !groups.contains(group) {
            groups.push(*group);
        }
    }
    groups
}

fn groups_policy(context: &PodSecurityContext) -> i32 {
    match context.supplemental_groups_policy.as_deref() {
        Some("Strict") => SupplementalGroupsPolicy::Strict.into(),
        _ => SupplementalGroupsPolicy::Merge.into(),
    }
}

fn boxed(value: Option<i64>) -> Option<Int64Value> {
    value.map(|value| Int64Value { value })
}

/// The sandbox's context.
pub fn sandbox(pod: &Pod, seccomp_root: &str) -> LinuxSandboxSecurityContext {
    let context = pod_context(pod);
    let privileged = containers::all(pod).iter().any(|spec| {
        spec.container
            .security_context
            .as_ref()
            .and_then(|c| c.privileged)
            == Some(true)
    });
    LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod)),
        selinux_options: context.se_linux_options.as_ref().map(selinux),
        run_as_user: boxed(context.run_as_user),
        run_as_group: boxed(
            context
                .run_as_group
                .filter(|_| context.run_as_user.is_some()),
        ),
        readonly_rootfs: false,
        supplemental_groups: groups(&context),
        supplemental_groups_policy: groups_policy(&context),
        privileged,
        // The sandbox's own process does nothing but wait: the default profile fits it.
        seccomp: context
            .seccomp_profile
            .as_ref()
            .map(|profile| seccomp(Some(profile), seccomp_root))
            .or(Some(profile(ProfileType::RuntimeDefault, ""))),
        apparmor: None,
        seccomp_profile_path: String::new(),
    }
}

/// A container's context. `target_id` is the runtime's id of the container whose processes
/// an ephemeral container sees.
pub fn container(
    pod: &Pod,
    spec: &Spec<'_>,
    image: &ImageUser,
    seccomp_root: &str,
    target_id: Option<&str>,
) -> Result<LinuxContainerSecurityContext, SecurityError> {
    let context = pod_context(pod);
    let own = spec.container.security_context.clone().unwrap_or_default();
    let user = own.run_as_user.or(context.run_as_user);
    verify_non_root(pod, spec, &own, &context, user, image)?;
    let group = own.run_as_group.or(context.run_as_group);
    let privileged = own.privileged == Some(true);
    let mut namespaces = namespaces(pod);
    if let Some(target_id) = target_id {
        namespaces.pid = NamespaceMode::Target.into();
        namespaces.target_id = target_id.to_owned();
    }
    let unmasked = own.proc_mount.as_deref() == Some("Unmasked");
    let paths = |paths: &[&str]| -> Vec<String> {
        if unmasked {
            Vec::new()
        } else {
            paths.iter().map(|&path| path.to_owned()).collect()
        }
    };
    let seccomp_profile = own
        .seccomp_profile
        .as_ref()
        .or(context.seccomp_profile.as_ref());
    let apparmor_profile = own
        .app_armor_profile
        .as_ref()
        .or(context.app_armor_profile.as_ref());
    Ok(LinuxContainerSecurityContext {
        capabilities: own.capabilities.as_ref().map(|capabilities| Capability {
            add_capabilities: capabilities.add.clone().unwrap_or_default(),
            drop_capabilities: capabilities.drop.clone().unwrap_or_default(),
            add_ambient_capabilities: Vec::new(),
        }),
        privileged,
        namespace_options: Some(namespaces),
        selinux_options: own
            .se_linux_options
            .as_ref()
            .or(context.se_linux_options.as_ref())
            .map(selinux),
        run_as_user: boxed(user.or(image.uid)),
        run_as_group: boxed(group),
        run_as_username: match (user, image.uid) {
            (None, None) => image.name.clone(),
            _ => String::new(),
        },
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        supplemental_groups: groups(&context),
        supplemental_groups_policy: groups_policy(&context),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(&MASKED),
        readonly_paths: paths(&READ_ONLY),
        seccomp: Some(if privileged {
            profile(ProfileType::Unconfined, "")
        } else {
            seccomp(seccomp_profile, seccomp_root)
        }),
        apparmor: apparmor_profile.map(apparmor),
        apparmor_profile: String::new(),
        seccomp_profile_path: String::new(),
    })
}

fn verify_non_root(
    pod: &Pod,
    spec: &Spec<'_>,
    own: &SecurityContext,
    context: &PodSecurityContext,
    user: Option<i64>,
    image: &ImageUser,
) -> Result<(), SecurityError> {
    if own.run_as_non_root.or(context.run_as_non_root) != Some(true) {
        return Ok(());
    }
    let meta = &pod.metadata;
    let shown = format!(
        "{}_{}({})",
        meta.name.as_deref().unwrap_or_default(),
        meta.namespace.as_deref().unwrap_or_default(),
        meta.uid.as_deref().unwrap_or_default()
    );
    let container = spec.name().to_owned();
    match (user, image.uid) {
        (Some(0), _) => Err(SecurityError::RootAsked {
            pod: shown,
            container,
        }),
        (Some(_), _) => Ok(()),
        (None, Some(0)) => Err(SecurityError::Root {
            pod: shown,
            container,
        }),
        (None, Some(_)) => Ok(()),
        (None, None) if image.name.is_empty() => Err(SecurityError::Root {
            pod: shown,
            container,
        }),
        (None, None) => Err(SecurityError::Unverifiable {
            user: image.name.clone(),
            pod: shown,
            container,
        }),
    }
}

fn profile(kind: ProfileType, path: &str) -> SecurityProfile {
    SecurityProfile {
        profile_type: kind.into(),
        localhost_ref: path.to_owned(),
    }
}

fn seccomp(wanted: Option<&SeccompProfile>, root: &str) -> SecurityProfile {
    match wanted.map(|wanted| wanted.type_.as_str()) {
        Some("RuntimeDefault") => profile(ProfileType::RuntimeDefault, ""),
        Some("Localhost") => {
            let name = wanted.and_then(|wanted| wanted.localhost_profile.as_deref());
            profile(
                ProfileType::Localhost,
                &format!("{root}/{}", name.unwrap_or_default()),
            )
        }
        _ => profile(ProfileType::Unconfined, ""),
    }
}

fn apparmor(wanted: &AppArmorProfile) -> SecurityProfile {
    match wanted.type_.as_str() {
        "Unconfined" => profile(ProfileType::Unconfined, ""),
        "Localhost" => profile(
            ProfileType::Localhost,
            wanted.localhost_profile.as_deref().unwrap_or_default(),
        ),
        _ => profile(ProfileType::RuntimeDefault, ""),
    }
}

fn selinux(options: &SELinuxOptions) -> SeLinuxOption {
    SeLinuxOption {
        user: options.user.clone().unwrap_or_default(),
        role: options.role.clone().unwrap_or_default(),
        r#type: options.type_.clone().unwrap_or_default(),
        level: options.level.clone().unwrap_or_default(),
    }
}

/// Kernel settings that concern only the pod's own namespaces.
const SAFE_SYSCTLS: [&str; 11] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
];

/// The first of the pod's kernel settings that the node does not allow. `allowed` are names
/// or prefixes with a `*` at the end.
pub fn forbidden_sysctl(pod: &Pod, allowed: &[String]) -> Option<String> {
    let context = pod_context(pod);
    let spec = containers::spec(pod);
    context
        .sysctls
        .into_iter()
        .flatten()
        .map(|sysctl| sysctl.name.replace('/', "."))
        .find(|name| {
            // Without a namespace of its own the pod would change the node's setting.
            let shared = (name.starts_with("net.") && spec.host_network == Some(true))
                || (!name.starts_with("net.") && spec.host_ipc == Some(true));
            let listed = SAFE_SYSCTLS.contains(&name.as_str())
                || name == "net.ipv4.tcp_wmem"
                || allowed
                    .iter()
                    .any(|pattern| match pattern.strip_suffix('*') {
                        Some(prefix) => name.starts_with(prefix),
                        None => pattern == name,
                    });
            shared || !listed
        })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::pod;

    fn context(
        pod_context: Value,
        own: Value,
        image: &ImageUser,
    ) -> Result<LinuxContainerSecurityContext, SecurityError> {
        let pod = pod(json!({"spec": {"securityContext": pod_context,
            "containers": [{"name": "c", "securityContext": own}]}}));
        container(&pod, &containers::main(&pod)[0], image, "/seccomp", None)
    }

    #[test]
    fn the_containers_own_settings_go_over_the_pods() {
        let made = context(
            json!({"runAsUser": 1000, "runAsGroup": 2000, "fsGroup": 5, "supplementalGroups": [5, 6]}),
            json!({"runAsUser": 1001, "allowPrivilegeEscalation": false, "procMount": "Unmasked",
                   "seccompProfile": {"type": "Localhost", "localhostProfile": "a.json"}}),
            &ImageUser::default(),
        )
        .expect("valid");
        assert_eq!(made.run_as_user, boxed(Some(1001)));
        assert_eq!(made.run_as_group, boxed(Some(2000)));
        assert_eq!(made.supplemental_groups, [5, 6]);
        assert!(made.no_new_privs && made.masked_paths.is_empty());
        assert_eq!(made.seccomp.expect("set").localhost_ref, "/seccomp/a.json");
    }

    #[test]
    fn non_root_is_verified_against_the_image() {
        let image = |uid, name: &str| ImageUser {
            uid,
            name: name.into(),
        };
        let non_root = json!({"runAsNonRoot": true});
        for (own, image, ok) in [
            (json!({}), image(None, ""), false),
            (json!({}), image(Some(0), ""), false),
            (json!({}), image(Some(7), ""), true),
            (json!({}), image(None, "web"), false),
            (json!({"runAsUser": 0}), image(Some(7), ""), false),
            (json!({"runAsUser": 5}), image(None, ""), true),
        ] {
            assert_eq!(
                context(non_root.clone(), own.clone(), &image).is_ok(),
                ok,
                "{own} {image:?}"
            );
        }
    }

    #[test]
    fn only_safe_and_allowed_sysctls_pass() {
        for (name, allowed, expected) in [
            ("net.ipv4.tcp_syncookies", "", None),
            ("kernel.shm_rmid_forced", "", None),
            ("kernel.msgmax", "", Some("kernel.msgmax")),
            ("kernel.msgmax", "kernel.msg*", None),
            ("net/core/somaxconn", "", Some("net.core.somaxconn")),
        ] {
            let pod = pod(json!({"spec": {"containers": [], "securityContext": {
                "sysctls": [{"name": name, "value": "1"}]}}}));
            let found = forbidden_sysctl(&pod, &[allowed.to_owned()]);
            assert_eq!(found.as_deref(), expected, "{name} {allowed}");
        }
    }
}
