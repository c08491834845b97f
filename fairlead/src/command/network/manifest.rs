//! What brings the network to every node of a cluster that exists: definitions, rights, and a
//! DaemonSet.

use anyhow::Context;
use serde_json::{Value, json};

use crate::cli::{self, Manifest};

const NAME: &str = "fairlead-network";
const NAMESPACE: &str = "kube-system";
/// What of the host the network writes to.
const DIRECTORIES: [&str; 6] = [
    "/opt/cni/bin",
    "/etc/cni/net.d",
    "/run/fairlead",
    "/run/flannel",
    "/run/xtables.lock",
    "/var/lib/cni",
];

/// All documents as YAML.
pub(super) fn text(options: &Manifest) -> anyhow::Result<String> {
    let mut text = String::new();
    for document in documents(options)? {
        text += "---\n";
        text += serde_saphyr::to_string(&document)
            .context("the manifest cannot be written")?
            .trim_end();
        text.push('\n');
    }
    Ok(text)
}

fn documents(options: &Manifest) -> anyhow::Result<Vec<Value>> {
    let mut all = Vec::new();
    for definition in bgp_agent::resources::definitions() {
        all.push(serde_json::to_value(definition)?);
    }
    all.push(serde_json::to_value(policy::definition())?);
    all.extend(rights());
    all.push(daemon_set(options));
    Ok(all)
}

fn rights() -> [Value; 3] {
    let read = ["get", "list", "watch"];
    let rule = |group: &str, resources: &[&str], verbs: &[&str]| json!({"apiGroups": [group], "resources": resources, "verbs": verbs});
    let rules = [
        rule(
            "",
            &["nodes", "pods", "services", "endpoints", "namespaces"],
            &read,
        ),
        rule("", &["nodes"], &["patch"]),
        rule("", &["events"], &["create", "patch"]),
        rule("discovery.k8s.io", &["endpointslices"], &read),
        rule("networking.k8s.io", &["networkpolicies"], &read),
        rule(
            "policy.networking.k8s.io",
            &["clusternetworkpolicies"],
            &read,
        ),
        rule(
            "apiextensions.k8s.io",
            &["customresourcedefinitions"],
            &read,
        ),
        rule("fairlead.io", &["*"], &read),
        rule(
            "fairlead.io",
            &["ipamblocks"],
            &["create", "update", "delete"],
        ),
        rule(
            "fairlead.io",
            &[
                "bgpconfigurations/status",
                "bgpfilters/status",
                "bgppeers/status",
                "ippools/status",
            ],
            &["patch", "update"],
        ),
        json!({"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["bgp-secrets"], "verbs": ["get"]}),
    ];
    let metadata = json!({"name": NAME});
    [
        json!({"apiVersion": "v1", "kind": "ServiceAccount",
               "metadata": {"name": NAME, "namespace": NAMESPACE}}),
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
               "metadata": metadata, "rules": rules}),
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
               "metadata": metadata,
               "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": NAME},
               "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}]}),
    ]
}

fn daemon_set(options: &Manifest) -> Value {
    let labels = json!({"app": NAME});
    let name = |path: &str| path.trim_start_matches('/').replace(['/', '.'], "-");
    let mounts = DIRECTORIES.map(|path| json!({"name": name(path), "mountPath": path}));
    let volumes = DIRECTORIES.map(|path| {
        let kind = if path.ends_with(".lock") {
            "FileOrCreate"
        } else {
            "DirectoryOrCreate"
        };
        json!({"name": name(path), "hostPath": {"path": path, "type": kind}})
    });
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": labels},
        "spec": {
            "selector": {"matchLabels": labels},
            // One node at a time: its pods talk on while it is restarted.
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "hostNetwork": true,
                    "serviceAccountName": NAME,
                    "priorityClassName": "system-node-critical",
                    "tolerations": [{"operator": "Exists"}],
                    "nodeSelector": {"kubernetes.io/os": "linux"},
                    "containers": [{
                        "name": "network",
                        "image": options.image,
                        "command": ["/usr/local/bin/fairlead"],
                        "args": arguments(options),
                        "env": [{"name": "NODE_NAME",
                                 "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
                        "securityContext": {"privileged": true},
                        "resources": {"requests": {"cpu": "50m", "memory": "50Mi"}},
                        "volumeMounts": mounts,
                    }],
                    "volumes": volumes,
                },
            },
        },
    })
}

fn arguments(options: &Manifest) -> Vec<String> {
    let ranges: Vec<String> = options
        .cluster_cidr
        .iter()
        .map(ToString::to_string)
        .collect();
    let mut arguments = vec![
        "network".to_owned(),
        "--node-name=$(NODE_NAME)".to_owned(),
        format!("--mode={}", cli::name(options.mode)),
        format!("--cluster-cidr={}", ranges.join(",")),
    ];
    arguments.extend(options.arguments.iter().cloned());
    arguments
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command, NetworkQuestion};

    fn options(line: &str) -> Manifest {
        let parsed = Cli::try_parse_from(line.split_whitespace()).unwrap();
        match parsed.command {
            Command::Network(network) => match network.question {
                Some(NetworkQuestion::Manifest(manifest)) => manifest,
                None => panic!("no question"),
            },
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_document_names_its_kind_and_the_daemon_runs_what_the_command_line_knows() {
        let options = options(
            "fairlead network manifest --image r/f:1 --mode bgp --cluster-cidr 10.1.0.0/16,fd00::/56 -- --no-masquerade",
        );
        let documents = documents(&options).unwrap();
        let kinds: Vec<&str> = documents
            .iter()
            .map(|own| own["kind"].as_str().unwrap_or_default())
            .collect();
        let last = [
            "ServiceAccount",
            "ClusterRole",
            "ClusterRoleBinding",
            "DaemonSet",
        ];
        assert_eq!(kinds[kinds.len() - 4..], last);
        assert!(
            kinds[..kinds.len() - 4]
                .iter()
                .all(|kind| *kind == "CustomResourceDefinition")
        );
        let container =
            &documents[documents.len() - 1]["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["image"], "r/f:1");
        let mut line = vec!["fairlead".to_owned()];
        line.extend(arguments(&options));
        let parsed = Cli::try_parse_from(&line).unwrap();
        let Command::Network(network) = parsed.command else {
            panic!("{line:?}");
        };
        assert_eq!(network.mode, crate::cli::Network::Bgp);
        assert_eq!(network.overlay.cluster_cidr.len(), 2);
        assert!(network.overlay.no_masquerade);
        let text = text(&options).unwrap();
        assert_eq!(text.matches("---\n").count(), documents.len());
    }
}
