//! One part alone, with a kubeconfig.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use kube::Client;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;
use watch_cache::WatchCaches;

use super::client::from_kubeconfig;
use super::observed::Observed;
use super::running::{Components, block_on};
use crate::cli::{self, Controllers, Dns, Proxy, Scheduler};

/// Connects, starts one component and waits for its end.
pub(crate) fn alone<F, E>(
    name: &'static str,
    kubeconfig: &Path,
    start: impl FnOnce(Client, WatchCaches, CancellationToken) -> F,
) -> anyhow::Result<ExitCode>
where
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: Into<anyhow::Error> + Send + 'static,
{
    block_on(async {
        let client = from_kubeconfig(kubeconfig).await?;
        let caches = WatchCaches::new(client.clone());
        let mut components = Components::new()?;
        let shutdown = components.shutdown();
        components.spawn(name, start(client, caches, shutdown));
        components.finish().await
    })
}

pub(crate) fn scheduler(options: &Scheduler) -> anyhow::Result<ExitCode> {
    let mut registry = Registry::default();
    scheduler::register(&mut registry);
    let observed = Observed::bind(options.metrics_bind_address, registry)?;
    let kubeconfig = &options.part.kubeconfig;
    alone("scheduler", kubeconfig, |client, caches, shutdown| {
        tokio::spawn(observed.serve(shutdown.clone()));
        scheduler::run(
            Default::default(),
            scheduler::Deps { client, caches },
            shutdown,
        )
    })
}

pub(crate) fn controllers(options: &Controllers) -> anyhow::Result<ExitCode> {
    let selection = selection(&options.controllers)?;
    let signer = match (&options.signing_certificate, &options.signing_key) {
        (Some(certificate), Some(key)) => Some(signer(&read(certificate)?, &read(key)?)),
        _ => None,
    };
    let config = controllers::Config {
        controllers: selection,
        cluster_cidrs: options.cluster_cidr.clone(),
        signer,
        ..controllers::Config::default()
    };
    let mut registry = Registry::default();
    controllers::register(&mut registry);
    let observed = Observed::bind(options.metrics_bind_address, registry)?;
    alone(
        "controllers",
        &options.part.kubeconfig,
        |client, caches, shutdown| {
            tokio::spawn(observed.serve(shutdown.clone()));
            controllers::run(config, controllers::Deps { client, caches }, shutdown)
        },
    )
}

pub(crate) fn selection(items: &[String]) -> anyhow::Result<controllers::Selection> {
    controllers::Selection::parse(items.iter().map(String::as_str)).context("--controllers")
}

/// A year, as kube-controller-manager gives it.
const CERTIFICATE_VALIDITY: std::time::Duration = std::time::Duration::from_secs(365 * 24 * 3600);

pub(crate) fn signer(certificate_pem: &str, key_pem: &str) -> controllers::Signer {
    controllers::Signer {
        ca_cert_pem: certificate_pem.to_owned(),
        ca_key_pem: key_pem.to_owned(),
        validity: CERTIFICATE_VALIDITY,
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

pub(crate) fn proxy(options: &Proxy) -> anyhow::Result<ExitCode> {
    let config = proxy_config(options)?;
    let Some(kubeconfig) = options.kubeconfig.as_deref().filter(|_| !options.cleanup) else {
        anyhow::ensure!(
            nix::unistd::geteuid().is_root(),
            "removing rules from the kernel needs root"
        );
        for mode in proxy::Mode::ALL {
            proxy::cleanup(mode, &config)?;
        }
        return Ok(ExitCode::SUCCESS);
    };
    alone("proxy", kubeconfig, |client, caches, shutdown| {
        let deps = proxy::Deps {
            client,
            caches,
            mode: None,
        };
        proxy::run(config, deps, shutdown)
    })
}

fn proxy_config(options: &Proxy) -> anyhow::Result<proxy::Config> {
    let (ipvs, conntrack) = (&options.ipvs, &options.conntrack);
    Ok(proxy::Config {
        mode: proxy_mode(&cli::name(options.mode))?,
        node_name: node_name(options.node_name.as_deref())?,
        cluster_cidrs: options.cluster_cidr.clone(),
        service_cidrs: options.service_cidr.clone(),
        nodeport_addresses: options.nodeport_addresses.clone(),
        localhost_nodeports: options.localhost_nodeports,
        masquerade_all: options.masquerade_all,
        masquerade_bit: options.masquerade_bit,
        proxy_name: options.service_proxy_name.clone(),
        min_sync: std::time::Duration::from_millis(options.min_sync_period),
        healthz: Some(options.healthz_bind_address),
        metrics: Some(options.metrics_bind_address),
        conntrack: proxy::config::Conntrack {
            max_per_core: conntrack.conntrack_max_per_core,
            min: conntrack.conntrack_min,
            tcp_established: Some(conntrack.conntrack_tcp_timeout_established),
            tcp_close_wait: Some(conntrack.conntrack_tcp_timeout_close_wait),
            udp: Some(conntrack.conntrack_udp_timeout),
            udp_stream: Some(conntrack.conntrack_udp_timeout_stream),
            tcp_be_liberal: conntrack.conntrack_tcp_be_liberal,
        },
        ipvs: proxy::config::Ipvs {
            scheduler: ipvs.ipvs_scheduler.clone(),
            strict_arp: ipvs.ipvs_strict_arp,
            tcp_timeout: ipvs.ipvs_tcp_timeout,
            tcp_fin_timeout: ipvs.ipvs_tcpfin_timeout,
            udp_timeout: ipvs.ipvs_udp_timeout,
            drain: ipvs.ipvs_drain,
        },
        nftables: proxy::config::Nftables {
            flowtable_devices: options.flowtable_devices.clone(),
        },
        ..proxy::Config::default()
    })
}

pub(crate) fn proxy_mode(name: &str) -> anyhow::Result<proxy::Mode> {
    name.parse()
        .with_context(|| format!("the Service proxy {name:?}"))
}

pub(crate) fn dns(options: &Dns) -> anyhow::Result<ExitCode> {
    let config = dns::Config {
        node_name: node_name(None)?,
        addresses: options.listen.clone(),
        cluster_domain: options.domain.clone(),
        ..dns::Config::default()
    };
    alone(
        "dns",
        &options.part.kubeconfig,
        |client, caches, shutdown| {
            let deps = dns::Deps {
                client,
                caches,
                listener: None,
            };
            dns::run(config, deps, shutdown)
        },
    )
}

/// The name given, or the machine's in lower case: names of Nodes are names of DNS.
pub(crate) fn node_name(given: Option<&str>) -> anyhow::Result<String> {
    if let Some(name) = given {
        return Ok(name.to_owned());
    }
    let name = nix::unistd::gethostname().context("cannot read the host name")?;
    Ok(name.to_string_lossy().to_ascii_lowercase())
}
