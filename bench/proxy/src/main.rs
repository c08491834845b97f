//! The Service proxy by itself, in network namespaces of its own; needs root. Prints Markdown.
//!
//! ```text
//! bench-proxy nftables 1000 5000 --endpoints 2
//! bench-proxy --connect nftables 1 1000 10000 30000
//! bench-proxy --connect by-hand-nftables 1 1000 10000 30000
//! ```

mod by_hand;
mod objects;
mod sync;
mod traffic;
mod usage;

use std::time::Duration;

use clap::Parser;
use ipnetwork::IpNetwork;
use kernel::iptables::Variant;
use proxy::{Config, Mode};

use by_hand::ByHand;
use sync::{Bench, Plan};
use traffic::World;

#[derive(Parser)]
struct Arguments {
    /// nftables, ipvs, iptables-nft or iptables-legacy; to compare connections with rules
    /// in the textbook's form, any of them with by-hand- before it.
    backend: String,
    /// How many Services; each number is measured by itself.
    #[arg(required = true, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    services: Vec<u32>,
    #[arg(long, default_value_t = 2)]
    endpoints: u32,
    /// How many single changes are measured, unless they take too long.
    #[arg(long, default_value_t = 200)]
    changes: u32,
    /// For how many seconds nothing happens, to see what that costs.
    #[arg(long, default_value_t = 3)]
    idle: u64,
    /// Measures connections through the rules, and not the writing of them.
    #[arg(long)]
    connect: bool,
    /// For how many milliseconds a Service is asked.
    #[arg(long, default_value_t = 700)]
    time: u64,
}

fn configuration(backend: &str) -> anyhow::Result<Config> {
    let (mode, variant) = match backend {
        "iptables-nft" => (Mode::Iptables, Some(Variant::Nft)),
        "iptables-legacy" => (Mode::Iptables, Some(Variant::Legacy)),
        name => (name.parse()?, None),
    };
    // The client that connects is taken for a pod, as with rules written by hand.
    let pods: [IpNetwork; 2] = ["10.244.0.0/16".parse()?, "192.168.9.0/24".parse()?];
    Ok(Config {
        mode,
        iptables_variant: variant,
        node_name: "here".to_owned(),
        cluster_cidrs: pods.to_vec(),
        ..Config::default()
    })
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    match arguments.connect {
        true => connect(&arguments),
        false => sync(&arguments),
    }
}

fn sync(arguments: &Arguments) -> anyhow::Result<()> {
    let config = configuration(&arguments.backend)?;
    let plan = Plan {
        endpoints: arguments.endpoints,
        changes: arguments.changes,
        idle: Duration::from_secs(arguments.idle),
    };
    for services in &arguments.services {
        let namespace = kernel::netns::Netns::anonymous()?;
        namespace.enter_this_thread()?;
        sync::measure(&arguments.backend, &config, *services, &plan)?;
    }
    Ok(())
}

fn connect(arguments: &Arguments) -> anyhow::Result<()> {
    let name = arguments.backend.as_str();
    let time = Duration::from_millis(arguments.time);
    traffic::heading();
    for services in arguments.services.iter().copied() {
        let world = World::new()?;
        if let Some(by_hand) = ByHand::parse(name) {
            by_hand.write(&world.node, services, arguments.endpoints)?;
        } else {
            let config = configuration(name)?;
            world.node.run(|| {
                let mut bench = Bench::new(&config, arguments.endpoints)?;
                bench.add(0..services);
                bench.resync()
            })?;
        }
        world.measure(name, services, time)?;
    }
    Ok(())
}
