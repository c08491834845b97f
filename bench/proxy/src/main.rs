//! How long the Service proxy takes to bring Services into the kernel.
//!
//! ```text
//! bench-proxy nftables 5000 --endpoints 2
//! ```
//!
//! Runs in a network namespace of its own; needs root. From API objects in memory to the
//! kernel: planning, encoding and the kernel's own work are measured, the API server is not.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use clap::Parser;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kernel::iptables::Variant;
use proxy::backend::{Backend, Desired};
use proxy::picture::Index;
use proxy::{Config, Mode};

#[derive(Parser)]
struct Arguments {
    /// nftables, ipvs, iptables-nft or iptables-legacy.
    backend: String,
    services: u32,
    #[arg(long, default_value_t = 2)]
    endpoints: u32,
    /// How many single changes are measured.
    #[arg(long, default_value_t = 200)]
    changes: u32,
}

fn service(number: u32) -> Service {
    let ip = Ipv4Addr::from(0x0a60_0000 + 256 + number);
    serde_json::from_value(serde_json::json!({
        "metadata": {"name": format!("service-{number}"), "namespace": "bench"},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": ip,
            "clusterIPs": [ip],
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        },
    }))
    .expect("a Service")
}

fn slice(number: u32, first: u32, endpoints: u32) -> EndpointSlice {
    let list: Vec<_> = (0..endpoints)
        .map(|i| {
            let ip = Ipv4Addr::from(0x0af4_0000 + (first + i) % 0x000b_0000);
            serde_json::json!({"addresses": [ip], "nodeName": "other", "conditions": {"ready": true}})
        })
        .collect();
    serde_json::from_value(serde_json::json!({
        "metadata": {
            "name": format!("service-{number}-a"),
            "namespace": "bench",
            "labels": {"kubernetes.io/service-name": format!("service-{number}")},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": list,
    }))
    .expect("a slice")
}

struct Bench {
    backend: Box<dyn Backend>,
    index: Index,
}

impl Bench {
    fn resync(&mut self) -> anyhow::Result<Duration> {
        let start = Instant::now();
        self.index.take_changes();
        let desired = Desired {
            services: self.index.pictures().clone(),
            service_cidrs: Vec::new(),
        };
        let outcome = self.backend.resync(&desired)?;
        anyhow::ensure!(outcome.failed.is_empty(), "{:?}", outcome.failed);
        Ok(start.elapsed())
    }

    fn apply(&mut self) -> anyhow::Result<Duration> {
        let start = Instant::now();
        let changes = self.index.take_changes();
        let outcome = self.backend.apply(&changes)?;
        anyhow::ensure!(outcome.failed.is_empty(), "{:?}", outcome.failed);
        Ok(start.elapsed())
    }
}

fn configuration(backend: &str) -> anyhow::Result<Config> {
    let (mode, variant) = match backend {
        "iptables-nft" => (Mode::Iptables, Some(Variant::Nft)),
        "iptables-legacy" => (Mode::Iptables, Some(Variant::Legacy)),
        name => (name.parse()?, None),
    };
    let cluster: IpAddr = Ipv4Addr::new(10, 244, 0, 0).into();
    Ok(Config {
        mode,
        iptables_variant: variant,
        node_name: "here".to_owned(),
        cluster_cidrs: vec![ipnetwork::IpNetwork::new(cluster, 16)?],
        ..Config::default()
    })
}

/// Resident memory and processor time of this process, and of the programs that it started.
fn usage() -> (u64, f64, f64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = stat.rsplit(')').next().unwrap_or_default().to_owned();
    let number = |index: usize| -> f64 {
        after
            .split_whitespace()
            .nth(index)
            .and_then(|n| n.parse().ok())
            .unwrap_or(0.0)
    };
    // Clock ticks are hundredths of a second.
    let (own, children) = (
        (number(11) + number(12)) / 100.0,
        (number(13) + number(14)) / 100.0,
    );
    (field("VmRSS:").unwrap_or_default() / 1024, own, children)
}

fn percentile(sorted: &[Duration], share: f64) -> f64 {
    let index = ((sorted.len() as f64 - 1.0) * share).round() as usize;
    sorted.get(index).map_or(0.0, |d| d.as_secs_f64() * 1000.0)
}

fn report(name: &str, mut times: Vec<Duration>) {
    times.sort();
    println!(
        "{name}: p50 {:.2} ms, p99 {:.2} ms, worst {:.2} ms ({} times)",
        percentile(&times, 0.5),
        percentile(&times, 0.99),
        percentile(&times, 1.0),
        times.len()
    );
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let namespace = kernel::netns::Netns::anonymous()?;
    namespace.enter_this_thread()?;
    let config = configuration(&arguments.backend)?;
    let mut bench = Bench {
        backend: proxy::backend_of(config.mode, &config)?,
        index: Index::new("here", None),
    };
    bench.resync()?;
    let (services, endpoints) = (arguments.services, arguments.endpoints);
    for number in 0..services {
        bench.index.service_applied(&service(number));
        bench
            .index
            .slice_applied(&slice(number, number * endpoints, endpoints));
    }
    let (_, cpu, children) = usage();
    println!(
        "{} with {services} Services of {endpoints} endpoints",
        arguments.backend
    );
    println!("full, from nothing: {:.3} s", bench.resync()?.as_secs_f64());
    let (memory, after, children_after) = usage();
    println!(
        "memory {memory} MiB, processor {:.2} s, programs {:.2} s",
        after - cpu,
        children_after - children
    );
    println!(
        "full, over existing: {:.3} s",
        bench.resync()?.as_secs_f64()
    );
    let mut added = Vec::new();
    for number in services..services + arguments.changes {
        bench.index.service_applied(&service(number));
        bench
            .index
            .slice_applied(&slice(number, number * endpoints, endpoints));
        added.push(bench.apply()?);
    }
    report("one Service added", added);
    let mut changed = Vec::new();
    for number in 0..arguments.changes {
        bench
            .index
            .slice_applied(&slice(number, number * endpoints + 7, endpoints));
        changed.push(bench.apply()?);
    }
    report("endpoints of one Service changed", changed);
    for number in 0..services.min(1000) {
        bench
            .index
            .slice_applied(&slice(number, number * endpoints + 77, endpoints));
    }
    println!(
        "endpoints of 1000 Services changed: {:.1} ms",
        bench.apply()?.as_secs_f64() * 1000.0
    );
    println!("memory {} MiB", usage().0);
    Ok(())
}
