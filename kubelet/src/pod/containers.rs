//! The containers of a pod, of whatever kind, in the order in which they start.

use std::borrow::Cow;
use std::sync::LazyLock;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec};
use sha2::{Digest, Sha256};

/// Which list of the pod a container stands in, and how it behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Runs to completion before the pod's containers start.
    Init,
    /// An init container that keeps running beside the pod's containers.
    Sidecar,
    Main,
    /// Added to a running pod by hand, never restarted.
    Ephemeral,
}

/// A container with its kind.
#[derive(Debug, Clone)]
pub struct Spec<'a> {
    pub kind: Kind,
    pub container: Cow<'a, Container>,
    /// The container whose processes an ephemeral container sees.
    pub target: Option<&'a str>,
}

/// When an exited container is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

impl RestartPolicy {
    fn parse(text: Option<&str>) -> Self {
        match text {
            Some("Never") => Self::Never,
            Some("OnFailure") => Self::OnFailure,
            _ => Self::Always,
        }
    }
}

/// The pod's own policy.
pub fn restart_policy(pod: &Pod) -> RestartPolicy {
    RestartPolicy::parse(spec(pod).restart_policy.as_deref())
}

static NO_SPEC: LazyLock<PodSpec> = LazyLock::new(PodSpec::default);

/// The pod's spec. The API never sends a pod without one.
pub fn spec(pod: &Pod) -> &PodSpec {
    pod.spec.as_ref().unwrap_or(&NO_SPEC)
}

/// Init containers and sidecars, in order.
pub fn init(pod: &Pod) -> Vec<Spec<'_>> {
    spec(pod)
        .init_containers
        .iter()
        .flatten()
        .map(|container| {
            let sidecar = container.restart_policy.as_deref() == Some("Always");
            let kind = if sidecar { Kind::Sidecar } else { Kind::Init };
            Spec {
                kind,
                container: Cow::Borrowed(container),
                target: None,
            }
        })
        .collect()
}

/// The pod's containers proper.
pub fn main(pod: &Pod) -> Vec<Spec<'_>> {
    spec(pod)
        .containers
        .iter()
        .map(|container| Spec {
            kind: Kind::Main,
            container: Cow::Borrowed(container),
            target: None,
        })
        .collect()
}

/// The containers that were added for debugging.
pub fn ephemeral(pod: &Pod) -> Vec<Spec<'_>> {
    spec(pod)
        .ephemeral_containers
        .iter()
        .flatten()
        .map(|container| Spec {
            kind: Kind::Ephemeral,
            container: Cow::Owned(as_container(container)),
            target: container
                .target_container_name
                .as_deref()
                .filter(|name| !name.is_empty()),
        })
        .collect()
}

/// All of them: init, main, ephemeral.
pub fn all(pod: &Pod) -> Vec<Spec<'_>> {
    let mut specs = init(pod);
    specs.extend(main(pod));
    specs.extend(ephemeral(pod));
    specs
}

/// A container by name.
pub fn find<'a>(pod: &'a Pod, name: &str) -> Option<Spec<'a>> {
    all(pod)
        .into_iter()
        .find(|spec| spec.container.name == name)
}

fn as_container(ephemeral: &EphemeralContainer) -> Container {
    let ephemeral = ephemeral.clone();
    Container {
        args: ephemeral.args,
        command: ephemeral.command,
        env: ephemeral.env,
        env_from: ephemeral.env_from,
        image: ephemeral.image,
        image_pull_policy: ephemeral.image_pull_policy,
        name: ephemeral.name,
        resources: ephemeral.resources,
        security_context: ephemeral.security_context,
        stdin: ephemeral.stdin,
        stdin_once: ephemeral.stdin_once,
        termination_message_path: ephemeral.termination_message_path,
        termination_message_policy: ephemeral.termination_message_policy,
        tty: ephemeral.tty,
        volume_devices: ephemeral.volume_devices,
        volume_mounts: ephemeral.volume_mounts,
        working_dir: ephemeral.working_dir,
        ..Container::default()
    }
}

impl Spec<'_> {
    pub fn name(&self) -> &str {
        &self.container.name
    }

    /// Whether the container is started again after this exit.
    pub fn restarts_after(&self, pod: &Pod, exit_code: i32) -> bool {
        let policy = match self.kind {
            Kind::Ephemeral => return false,
            Kind::Sidecar => RestartPolicy::Always,
            // An init container that failed is retried unless the pod gives up at once.
            Kind::Init => match restart_policy(pod) {
                RestartPolicy::Never => RestartPolicy::Never,
                RestartPolicy::Always | RestartPolicy::OnFailure => RestartPolicy::OnFailure,
            },
            Kind::Main => restart_policy(pod),
        };
        if let Some(restart) = self.rule_for(exit_code) {
            return restart;
        }
        let own = self.container.restart_policy.as_deref();
        let policy = match own {
            Some(own) if self.kind == Kind::Main => RestartPolicy::parse(Some(own)),
            Some("Never") if self.kind == Kind::Init => RestartPolicy::Never,
            Some("OnFailure") if self.kind == Kind::Init => RestartPolicy::OnFailure,
            _ => policy,
        };
        match policy {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => exit_code != 0,
            RestartPolicy::Never => false,
        }
    }

    /// What the container's own restart rules say of an exit code; the first that matches.
    fn rule_for(&self, exit_code: i32) -> Option<bool> {
        self.container
            .restart_policy_rules
            .iter()
            .flatten()
            .find_map(|rule| {
                let codes = rule.exit_codes.as_ref()?;
                let listed = codes.values.iter().flatten().any(|code| *code == exit_code);
                let matches = if codes.operator == "NotIn" {
                    !listed
                } else {
                    listed
                };
                matches.then_some(rule.action == "Restart")
            })
    }

    /// Identifies the definition that a running container was made from. Only a change of
    /// what cannot change in place makes a new container.
    pub fn hash(&self) -> String {
        let mut digest = Sha256::new();
        digest.update(self.name().as_bytes());
        digest.update([0]);
        digest.update(
            self.container
                .image
                .as_deref()
                .unwrap_or_default()
                .as_bytes(),
        );
        hex::encode(&digest.finalize()[..4])
    }

    /// Whether some probe or hook makes "running" and "started" different moments.
    pub fn has_startup_probe(&self) -> bool {
        self.container.startup_probe.is_some()
    }
}

/// Seconds that the pod's containers get to stop.
pub fn grace_period(pod: &Pod) -> i64 {
    pod.metadata
        .deletion_grace_period_seconds
        .filter(|_| pod.metadata.deletion_timestamp.is_some())
        .or(spec(pod).termination_grace_period_seconds)
        .unwrap_or(30)
}

pub fn is_host_network(pod: &Pod) -> bool {
    spec(pod).host_network == Some(true)
}

/// Whether the API already has the pod as ended.
pub fn is_phase_terminal(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::pod;

    #[test]
    fn exits_restart_by_policy_and_kind() {
        let cases = [
            ("Always", "c", 0, true),
            ("Always", "c", 1, true),
            ("OnFailure", "c", 0, false),
            ("OnFailure", "c", 1, true),
            ("Never", "c", 1, false),
            ("Always", "i", 0, false),
            ("Always", "i", 1, true),
            ("Never", "i", 1, false),
            ("Never", "s", 0, true),
            ("Always", "e", 1, false),
        ];
        for (policy, name, code, expected) in cases {
            let pod = pod(json!({"spec": {
                "restartPolicy": policy,
                "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}],
                "containers": [{"name": "c"}],
                "ephemeralContainers": [{"name": "e"}],
            }}));
            let spec = find(&pod, name).expect(name);
            assert_eq!(
                spec.restarts_after(&pod, code),
                expected,
                "{policy} {name} {code}"
            );
        }
    }

    #[test]
    fn a_rule_on_exit_codes_overrides_the_policy() {
        let pod = pod(json!({"spec": {"restartPolicy": "Never", "containers": [{
            "name": "c", "restartPolicy": "Never",
            "restartPolicyRules": [
                {"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}],
        }]}}));
        let spec = find(&pod, "c").expect("c");
        assert!(spec.restarts_after(&pod, 42));
        assert!(!spec.restarts_after(&pod, 1));
    }

    #[test]
    fn only_the_image_makes_a_new_container() {
        let one = pod(json!({"spec": {"containers": [{"name": "c", "image": "a"}]}}));
        let env = pod(json!({"spec": {"containers": [
            {"name": "c", "image": "a", "env": [{"name": "A", "value": "b"}]}]}}));
        let image = pod(json!({"spec": {"containers": [{"name": "c", "image": "b"}]}}));
        let hash = |pod: &Pod| find(pod, "c").expect("c").hash();
        assert_eq!(hash(&one), hash(&env));
        assert_ne!(hash(&one), hash(&image));
    }
}
