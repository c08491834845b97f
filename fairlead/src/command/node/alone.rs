//! `fairlead kubelet`: the kubelet of a cluster that has its own network and control plane.

use std::process::ExitCode;

use kubelet::bootstrap::{self, NodeNames, keep_certificates};
use watch_cache::WatchCaches;

use super::settings::Settings;
use super::{Identity, Node, machine};
use crate::cli::Kubelet;
use crate::command::running::{Components, block_on};

pub(crate) fn run(options: Kubelet) -> anyhow::Result<ExitCode> {
    machine::require_root("the kubelet")?;
    machine::require_runtime(&options.node.container_runtime)?;
    block_on(async {
        let mut components = Components::new()?;
        let identity = Identity::of(&options.node)?;
        let names = NodeNames {
            name: identity.name.clone(),
            ips: identity.addresses.clone(),
            state_dir: options.node.node_dir.clone(),
        };
        let member = bootstrap::adopt(&options.part.kubeconfig, &names).await?;
        let node = Node {
            identity,
            caches: WatchCaches::new(member.client.clone()),
            member: member.clone(),
            settings: Settings::of_pods(options.cluster_dns, options.cluster_domain),
        };
        let deps = kubelet::Deps::new(member.client.clone(), node.caches.clone());
        let config = node.kubelet(&options.node)?;
        let shutdown = components.shutdown();
        components.spawn("kubelet", kubelet::run(config, deps, shutdown.clone()));
        components.spawn("certificates", async move {
            keep_certificates(member, shutdown).await;
            Ok::<_, anyhow::Error>(())
        });
        components.finish().await
    })
}
