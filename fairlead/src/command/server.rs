//! `fairlead server`: the API server, the scheduler and the controllers in one process.

use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use apiserver::audit::AuditConfig;
use apiserver::authn::UserInfo;
use apiserver::server::{RunningServer, start};
use apiserver::{Config, EtcdConfig, StorageKind};
use k8s_openapi::api::core::v1::Node;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use watch_cache::{WatchCache, WatchCaches};

use super::part::{selection, signer};
use super::process::Process;
use super::running::{Components, block_on};
use super::token::join_command;
use crate::cli::{self, Server, ServerSettings, Storage};

pub(crate) fn run(options: Server) -> anyhow::Result<ExitCode> {
    let selection = selection(&options.controllers)?;
    block_on(async {
        let mut components = Components::new()?;
        let server = start_server(&options.settings, &mut components).await?;
        let parts = ControlPlane {
            controllers: Some(selection),
            scheduler: !options.no_scheduler,
        };
        parts.start(&options.settings, &server, &mut components);
        announce(&options.settings, &server)?;
        components.spawn("apiserver", async move {
            server.wait().await;
            Ok::<_, anyhow::Error>(())
        });
        components.finish().await
    })
}

/// The API server alone, for those who bring their own scheduler and controllers.
pub(crate) fn run_apiserver(options: Server) -> anyhow::Result<ExitCode> {
    block_on(async {
        let mut components = Components::new()?;
        let server = start_server(&options.settings, &mut components).await?;
        announce(&options.settings, &server)?;
        components.spawn("apiserver", async move {
            server.wait().await;
            Ok::<_, anyhow::Error>(())
        });
        components.finish().await
    })
}

pub(crate) async fn start_server(
    settings: &ServerSettings,
    components: &mut Components,
) -> anyhow::Result<RunningServer> {
    Ok(start(config(settings), components.shutdown()).await?)
}

fn config(settings: &ServerSettings) -> Config {
    let storage = match settings.storage {
        Storage::Embedded => StorageKind::Embedded,
        Storage::Etcd => StorageKind::Etcd(EtcdConfig {
            endpoints: settings.etcd_endpoints.clone(),
            ca_file: settings.etcd_cafile.clone(),
            cert_file: settings.etcd_certfile.clone(),
            key_file: settings.etcd_keyfile.clone(),
        }),
    };
    Config {
        data_dir: settings.data_dir.clone(),
        bind_address: settings.bind_address.unwrap_or_else(any_address),
        secure_port: settings.secure_port,
        advertise_address: settings.advertise_address,
        service_cidrs: settings.service_cidr.clone(),
        cluster_cidrs: settings.cluster_cidr.clone(),
        cluster_dns: settings
            .service_cidr
            .iter()
            .filter_map(|range| nth(range, 10))
            .collect(),
        network: cli::name(settings.network),
        proxy: cli::name(settings.proxy),
        storage,
        audit: AuditConfig {
            policy_file: settings.audit.audit_policy_file.clone(),
            log_path: settings.audit.audit_log_path.clone(),
            max_size: settings.audit.audit_log_maxsize,
            max_backups: settings.audit.audit_log_maxbackup,
            max_age: Duration::from_secs(settings.audit.audit_log_maxage * 86_400),
        },
        authentication: settings.authentication.config(),
        authorization: settings.authorization.config(),
        encryption_config_file: settings.encryption_provider_config.clone(),
        event_ttl: Duration::from_secs(u64::from(settings.event_ttl) * 3600),
        ..Config::default()
    }
}

/// Both families where the kernel has both.
fn any_address() -> IpAddr {
    match std::net::TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)) {
        Ok(_) => Ipv6Addr::UNSPECIFIED.into(),
        Err(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
    }
}

/// The address with that number in the range.
fn nth(range: &ipnetwork::IpNetwork, number: u32) -> Option<IpAddr> {
    match range {
        ipnetwork::IpNetwork::V4(range) => range.nth(number).map(IpAddr::V4),
        ipnetwork::IpNetwork::V6(range) => range.nth(number.into()).map(IpAddr::V6),
    }
}

/// Makes the kinds that configure the pod network known, once there is a node that reads them: an
/// API server without nodes has the kinds of Kubernetes alone. Then tells what of the policies
/// cannot be enforced.
async fn own_kinds(caches: WatchCaches, client: kube::Client, shutdown: CancellationToken) {
    let nodes: WatchCache<Node> = caches.of();
    let mut changes = nodes.subscribe();
    nodes.synced().await;
    while !nodes.list().iter().any(|node| is_ours(node)) {
        tokio::select! {
            () = shutdown.cancelled() => return,
            change = changes.recv() => if matches!(change, Err(RecvError::Closed)) { return },
        }
    }
    policy::install(client.clone(), shutdown.clone()).await;
    bgp_agent::install(client.clone(), shutdown.clone()).await;
    policy::report(client, caches, shutdown).await;
}

/// Whether the node's kubelet is Fairlead's: a node that another program made, or a person, reads
/// none of our kinds.
fn is_ours(node: &Node) -> bool {
    let info = node.status.as_ref().and_then(|s| s.node_info.as_ref());
    info.is_some_and(|info| info.kubelet_version == kubelet::VERSION)
}

/// What runs beside the API server.
pub(crate) struct ControlPlane {
    pub(crate) controllers: Option<controllers::Selection>,
    pub(crate) scheduler: bool,
}

impl ControlPlane {
    /// Each part writes as its own user; they read through one cache.
    pub(crate) fn start(
        self,
        settings: &ServerSettings,
        server: &RunningServer,
        components: &mut Components,
    ) {
        let reader = UserInfo::new("system:fairlead", ["system:masters"]);
        let installer = server.client_for(reader.clone());
        let caches = WatchCaches::new(server.client_for(reader));
        tokio::spawn(own_kinds(caches.clone(), installer, components.shutdown()));
        // Webhooks, aggregated servers and what `proxy` names are pods.
        let reach = flannel_vxlan::reach::run(caches.clone(), components.shutdown());
        tokio::spawn(reach);
        let no_groups: [&str; 0] = [];
        server
            .metrics
            .lock()
            .register_collector(Box::new(Process::started()));
        if self.scheduler {
            scheduler::register(&mut server.metrics.lock());
            let client = server.client_for(UserInfo::new("system:kube-scheduler", no_groups));
            let deps = scheduler::Deps {
                client,
                caches: caches.clone(),
            };
            let config = scheduler::Config {
                identity: identity(settings, server),
                ..scheduler::Config::default()
            };
            let shutdown = components.shutdown();
            components.spawn("scheduler", scheduler::run(config, deps, shutdown));
        }
        if let Some(selection) = self.controllers {
            controllers::register(&mut server.metrics.lock());
            let user = UserInfo::new("system:kube-controller-manager", no_groups);
            let deps = controllers::Deps {
                client: server.client_for(user),
                caches,
            };
            let config = controllers_config(selection, settings, server);
            components.spawn(
                "controllers",
                controllers::run(config, deps, components.shutdown()),
            );
        }
    }
}

/// The same after a restart, so that the leases are still this server's.
fn identity(settings: &ServerSettings, server: &RunningServer) -> String {
    format!("{}_{}", server.url, settings.data_dir.display())
}

fn controllers_config(
    controllers: controllers::Selection,
    settings: &ServerSettings,
    server: &RunningServer,
) -> controllers::Config {
    let authority = &server.pki.authority;
    controllers::Config {
        controllers,
        identity: identity(settings, server),
        cluster_cidrs: settings.cluster_cidr.clone(),
        service_cidrs: settings.service_cidr.clone(),
        root_ca_pem: authority.certificate_pem().to_owned(),
        signer: Some(signer(authority.certificate_pem(), authority.key_pem())),
        ..controllers::Config::default()
    }
}

/// Tells how to use the cluster and how to join it, and writes the latter down for programs.
pub(crate) fn announce(settings: &ServerSettings, server: &RunningServer) -> anyhow::Result<()> {
    let join = join_command(&server.join.url, &server.join.token, &server.join.ca_hash);
    let path = settings.data_dir.join("join-command");
    write_private(&path, &format!("{join}\n")).with_context(|| path.display().to_string())?;
    println!("The API server answers at {}.", server.url);
    println!(
        "Administrators use   export KUBECONFIG={}",
        server.admin_kubeconfig.display()
    );
    println!("A machine joins with\n  {join}");
    Ok(())
}

/// A reader sees the whole file or none.
fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let unfinished = path.with_extension("unfinished");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&unfinished)?;
    std::io::Write::write_all(&mut file, text.as_bytes())?;
    std::fs::rename(unfinished, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dns_address_is_the_tenth_of_each_range() {
        let address = |range: &str| nth(&range.parse().unwrap(), 10).unwrap().to_string();
        assert_eq!(address("10.96.0.0/12"), "10.96.0.10");
        assert_eq!(address("fd00:10:96::/112"), "fd00:10:96::a");
    }
}
