//! What the runtime is told of a pod's sandbox and containers.

use std::collections::BTreeMap;

use cri::v1::{
    ContainerConfig, ContainerMetadata, DnsConfig, ImageSpec, KeyValue, LinuxContainerConfig,
    LinuxPodSandboxConfig, Mount, PodSandboxConfig, PodSandboxMetadata, PortMapping, Protocol,
};
use k8s_openapi::api::core::v1::Pod;

use super::containers::{self, Spec};
use super::env::{Environment, expand_all};
use super::security::{self, ImageUser, SecurityError};
use super::{cgroup, dns, resources};
use crate::runtime::{PodIdentity, annotation, label};

/// What the node adds to a pod's sandbox.
#[derive(Debug, Clone)]
pub struct SandboxInputs<'a> {
    pub pod: &'a Pod,
    pub attempt: u32,
    pub cluster_domain: &'a str,
    pub dns: DnsConfig,
    pub cgroup_root: &'a str,
    pub log_root: &'a str,
    pub seccomp_root: &'a str,
}

/// The sandbox's configuration.
pub fn sandbox(inputs: &SandboxInputs<'_>) -> PodSandboxConfig {
    let pod = inputs.pod;
    let identity = PodIdentity::of(pod);
    let host_network = containers::is_host_network(pod);
    let sysctls = containers::spec(pod)
        .security_context
        .iter()
        .flat_map(|context| context.sysctls.iter().flatten())
        .map(|sysctl| (sysctl.name.replace('/', "."), sysctl.value.clone()))
        .collect();
    let mut labels = pod.metadata.labels.clone().unwrap_or_default();
    labels.extend(identity.labels());
    PodSandboxConfig {
        hostname: match host_network {
            true => String::new(),
            false => dns::host_name(pod, inputs.cluster_domain).kernel_name(pod),
        },
        log_directory: format!("{}/{}", inputs.log_root, log_directory(&identity)),
        dns_config: Some(inputs.dns.clone()),
        port_mappings: if host_network {
            Vec::new()
        } else {
            port_mappings(pod)
        },
        labels,
        annotations: pod.metadata.annotations.clone().unwrap_or_default(),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: cgroup::pod_path(inputs.cgroup_root, pod),
            security_context: Some(security::sandbox(pod, inputs.seccomp_root)),
            sysctls,
            overhead: None,
            resources: None,
        }),
        metadata: Some(PodSandboxMetadata {
            name: identity.name,
            uid: identity.uid,
            namespace: identity.namespace,
            attempt: inputs.attempt,
        }),
    }
}

/// The directory of a pod's logs, below the one of all logs.
pub fn log_directory(identity: &PodIdentity) -> String {
    format!("{}_{}_{}", identity.namespace, identity.name, identity.uid)
}

fn port_mappings(pod: &Pod) -> Vec<PortMapping> {
    containers::all(pod)
        .iter()
        .flat_map(|spec| spec.container.ports.clone().unwrap_or_default())
        .filter_map(|port| {
            let host_port = port.host_port.filter(|number| *number > 0)?;
            let protocol = match port.protocol.as_deref() {
                Some("UDP") => Protocol::Udp,
                Some("SCTP") => Protocol::Sctp,
                _ => Protocol::Tcp,
            };
            Some(PortMapping {
                protocol: protocol.into(),
                container_port: port.container_port,
                host_port,
                host_ip: port.host_ip.unwrap_or_default(),
            })
        })
        .collect()
}

/// What the node adds to a container.
#[derive(Debug, Clone)]
pub struct ContainerInputs<'a> {
    pub pod: &'a Pod,
    pub spec: &'a Spec<'a>,
    pub attempt: u32,
    /// The image's id, so that no other image of the name is taken.
    pub image: &'a str,
    pub image_user: ImageUser,
    pub environment: Environment,
    pub mounts: Vec<Mount>,
    pub seccomp_root: &'a str,
    pub memory_capacity: i64,
    /// The runtime's id of the container that an ephemeral one looks into.
    pub target_id: Option<&'a str>,
}

/// The container's configuration.
pub fn container(inputs: ContainerInputs<'_>) -> Result<ContainerConfig, SecurityError> {
    let ContainerInputs {
        pod,
        spec,
        attempt,
        environment,
        ..
    } = &inputs;
    let own = &spec.container;
    let security = security::container(
        pod,
        spec,
        &inputs.image_user,
        inputs.seccomp_root,
        inputs.target_id,
    )?;
    let mut labels = PodIdentity::of(pod).labels();
    labels.insert(label::CONTAINER.to_owned(), own.name.clone());
    let stop_signal = own
        .lifecycle
        .as_ref()
        .and_then(|lifecycle| lifecycle.stop_signal.as_deref());
    Ok(ContainerConfig {
        metadata: Some(ContainerMetadata {
            name: own.name.clone(),
            attempt: *attempt,
        }),
        image: Some(ImageSpec {
            image: inputs.image.to_owned(),
            user_specified_image: own.image.clone().unwrap_or_default(),
            ..ImageSpec::default()
        }),
        command: expand_all(own.command.as_ref(), environment),
        args: expand_all(own.args.as_ref(), environment),
        working_dir: own.working_dir.clone().unwrap_or_default(),
        envs: environment
            .iter()
            .map(|(key, value)| KeyValue {
                key: key.clone(),
                value: value.clone(),
            })
            .collect(),
        devices: Vec::new(),
        labels,
        annotations: annotations(pod, spec, *attempt),
        log_path: format!("{}/{attempt}.log", own.name),
        stdin: own.stdin == Some(true),
        stdin_once: own.stdin_once == Some(true),
        tty: own.tty == Some(true),
        linux: Some(LinuxContainerConfig {
            resources: Some(resources::linux(pod, own, inputs.memory_capacity)),
            security_context: Some(security),
        }),
        stop_signal: stop_signal.map_or(0, cri::stop_signal_number),
        mounts: inputs.mounts,
    })
}

fn annotations(pod: &Pod, spec: &Spec<'_>, attempt: u32) -> BTreeMap<String, String> {
    let own = &spec.container;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    [
        (annotation::HASH, spec.hash()),
        (annotation::RESTARTS, attempt.to_string()),
        (
            annotation::MESSAGE_PATH,
            text(&own.termination_message_path),
        ),
        (
            annotation::MESSAGE_POLICY,
            text(&own.termination_message_policy),
        ),
        (
            annotation::GRACE_PERIOD,
            containers::grace_period(pod).to_string(),
        ),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::pod;

    #[test]
    fn a_sandbox_names_the_pod_and_maps_its_host_ports() {
        let pod = pod(json!({"metadata": {"labels": {"app": "x"}}, "spec": {
            "hostname": "h", "shareProcessNamespace": true,
            "securityContext": {"sysctls": [{"name": "net/ipv4/tcp_syncookies", "value": "0"}]},
            "containers": [{"name": "c", "ports": [
                {"containerPort": 80, "hostPort": 8080, "hostIP": "127.0.0.1"},
                {"containerPort": 53, "protocol": "UDP"}]}]}}));
        let made = sandbox(&SandboxInputs {
            pod: &pod,
            attempt: 2,
            cluster_domain: "cluster.local",
            dns: DnsConfig::default(),
            cgroup_root: "",
            log_root: "/logs",
            seccomp_root: "/s",
        });
        assert_eq!(made.hostname, "h");
        assert_eq!(made.log_directory, "/logs/ns_p_u1");
        assert_eq!(made.port_mappings.len(), 1);
        assert_eq!(made.labels["app"], "x");
        assert_eq!(made.labels[label::POD_UID], "u1");
        let linux = made.linux.expect("set");
        assert_eq!(linux.sysctls["net.ipv4.tcp_syncookies"], "0");
        assert_eq!(linux.cgroup_parent, "/kubepods/besteffort/podu1");
    }

    #[test]
    fn a_container_expands_its_command_and_keeps_its_hash() {
        let pod = pod(json!({"spec": {"containers": [{"name": "c", "image": "i",
            "command": ["sh", "$(A)"], "args": ["$$(A)"], "lifecycle": {"stopSignal": "SIGUSR1"}}]}}));
        let spec = &containers::main(&pod)[0];
        let made = container(ContainerInputs {
            pod: &pod,
            spec,
            attempt: 1,
            image: "sha256:1",
            image_user: ImageUser::default(),
            environment: vec![("A".into(), "b".into())],
            mounts: Vec::new(),
            seccomp_root: "/s",
            memory_capacity: 1 << 30,
            target_id: None,
        })
        .expect("valid");
        assert_eq!(made.command, ["sh", "b"]);
        assert_eq!(made.args, ["$(A)"]);
        assert_eq!(made.log_path, "c/1.log");
        assert_eq!(made.annotations[annotation::HASH], spec.hash());
        assert_eq!(made.stop_signal, 29);
    }
}
