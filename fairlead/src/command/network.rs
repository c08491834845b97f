//! `fairlead network`, `fairlead vxlan` and `fairlead doctor`.

mod manifest;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use flannel_vxlan::config::{ChecksumOffload, Underlay};
use flannel_vxlan::doctor::{self, Finding, Level, Probe};
use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::{Api, Client};
use tokio::sync::watch;
use watch_cache::WatchCaches;

use super::client::{from_kubeconfig, from_pod};
use super::node::{self, POLICY_SOCKET};
use super::part::node_name;
use super::running::{Components, block_on};
use crate::cli::{
    self, Doctor, NetworkQuestion, NodeNetwork, Offload, Output, OverlaySettings, Vxlan,
};

pub(crate) fn run(options: NodeNetwork) -> anyhow::Result<ExitCode> {
    if let Some(NetworkQuestion::Manifest(manifest)) = &options.question {
        print!("{}", manifest::text(manifest)?);
        return Ok(ExitCode::SUCCESS);
    }
    node::require_root("a node's network")?;
    block_on(async {
        let client = match &options.kubeconfig {
            Some(kubeconfig) => from_kubeconfig(kubeconfig).await?,
            None => from_pod()?,
        };
        node::install_plugin(&options.cni_bin_dir)?;
        let mut components = Components::new()?;
        start(&options, client, &mut components)?;
        components.finish().await
    })
}

fn start(options: &NodeNetwork, client: Client, components: &mut Components) -> anyhow::Result<()> {
    let shutdown = components.shutdown();
    let node_name = node_name(options.node_name.as_deref())?;
    let caches = WatchCaches::new(client.clone());
    let mut overlay = overlay(&options.overlay, &node_name);
    if !options.no_policy {
        overlay.policy_socket = Some(POLICY_SOCKET.into());
        let config = policy::Config {
            socket: POLICY_SOCKET.into(),
            ..policy::Config::default()
        };
        let deps = policy::Deps {
            caches: caches.clone(),
            answers: None,
        };
        components.spawn("policy", policy::run(config, deps, shutdown.clone()));
    }
    overlay.pools = Some(node::pools::followed(&caches, shutdown.clone()));
    components.spawn(
        "pools",
        node::pools::run(&node_name, caches.clone(), shutdown.clone()),
    );
    let network = node::network::Config {
        client,
        caches,
        overlay,
    };
    // One mode for this process's life: another one is another start.
    let (keep, mode) = watch::channel(cli::name(options.mode));
    components.spawn("network", async move {
        let ended = node::network::run(network, mode, shutdown).await;
        drop(keep);
        ended
    });
    Ok(())
}

/// The overlay of one node and nothing beside it.
pub(crate) fn vxlan(options: &Vxlan) -> anyhow::Result<ExitCode> {
    let node_name = node_name(options.part.node_name.as_deref())?;
    let config = overlay(&options.overlay, &node_name);
    super::part::alone(
        "vxlan",
        &options.part.part.kubeconfig,
        |client, caches, shutdown| {
            flannel_vxlan::run(config, flannel_vxlan::Deps { client, caches }, shutdown)
        },
    )
}

fn overlay(options: &OverlaySettings, node_name: &str) -> flannel_vxlan::Config {
    let underlay = match (
        &options.iface,
        &options.iface_regex,
        options.iface_can_reach,
    ) {
        (Some(name), ..) => Underlay::Interface(name.clone()),
        (_, Some(pattern), _) => Underlay::Pattern(pattern.clone()),
        (_, _, Some(address)) => Underlay::Reaching(address),
        _ => Underlay::KubernetesAddress,
    };
    flannel_vxlan::Config {
        node_name: node_name.to_owned(),
        vni: options.vni,
        port: options.vxlan_port,
        mtu: options.mtu,
        underlay,
        checksum_offload: match options.checksum_offload {
            Offload::Detect => ChecksumOffload::Detect,
            Offload::Off => ChecksumOffload::Off,
            Offload::Keep => ChecksumOffload::Keep,
        },
        direct_routing: options.direct_routing,
        cluster_networks: options.cluster_cidr.clone(),
        masquerade: !options.no_masquerade,
        masquerade_exceptions: options.masquerade_exceptions.clone(),
        ..flannel_vxlan::Config::default()
    }
}

/// Exit status 1 where something is at fault.
pub(crate) fn doctor(options: &Doctor) -> anyhow::Result<ExitCode> {
    node::require_root("sending test packets")?;
    let findings = block_on(async {
        let kubeconfig = options.kubeconfig.clone().unwrap_or_else(own_kubeconfig);
        let client = from_kubeconfig(&kubeconfig).await?;
        let nodes = Api::<Node>::all(client).list(&ListParams::default()).await;
        let nodes = nodes.context("cannot read the cluster's Nodes")?.items;
        let probe = Probe {
            node_name: node_name(options.node_name.as_deref())?,
            vni: options.vni,
            plugin: Some(node::plugin_path()),
            ..Probe::default()
        };
        let measured = tokio::task::spawn_blocking(move || doctor::measure(&probe, &nodes));
        let (machine, peers) = measured.await?.context("cannot test the network")?;
        Ok(doctor::diagnose(&machine, &peers))
    })?;
    match options.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&findings)?),
        Output::Text => print!("{}", as_text(&findings)),
    }
    let worst = findings.iter().map(|own| own.level).max();
    Ok(match worst {
        Some(Level::Fault) => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    })
}

/// What `fairlead join` has left.
fn own_kubeconfig() -> PathBuf {
    PathBuf::from("/var/lib/fairlead/node").join(kubelet::bootstrap::KUBECONFIG)
}

fn as_text(findings: &[Finding]) -> String {
    let line = |own: &Finding| {
        let level = match own.level {
            Level::Fine => "ok     ",
            Level::Warning => "warning",
            Level::Fault => "FAULT  ",
        };
        format!("{level}  {}: {}\n", own.about, own.text)
    };
    findings.iter().map(line).collect()
}
