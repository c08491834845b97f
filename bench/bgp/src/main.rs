//! How long a BGP speaker takes to know all best paths and to tell them to every peer.
//!
//! ```text
//! bench-bgp all --fairlead target/release/fairlead
//! bench-bgp bird --peers 2 --prefixes 500000
//! ```
//!
//! Each peer is of an AS of its own, announces prefixes of its own, and is done when it has
//! received those of all others. The daemon writes no routes into the kernel. Two network
//! namespaces with a link between them; needs root, and Debian's bird2, frr and gobgpd.

mod daemon;
mod generator;

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use kernel::testing::TestNetns;

use daemon::{Kind, Running, Usage};
use generator::Load;

#[derive(Parser)]
struct Arguments {
    /// fairlead, bird, frr, gobgp, or all
    daemon: String,
    #[arg(long, default_value_t = 10)]
    peers: u8,
    /// What each peer announces
    #[arg(long, default_value_t = 100_000)]
    prefixes: u32,
    /// Seconds after which a speaker that has not told everything has failed
    #[arg(long, default_value_t = 300)]
    patience: u64,
    #[arg(long, default_value = "target/release/fairlead")]
    fairlead: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let kinds: Vec<Kind> = match arguments.daemon.as_str() {
        "all" => Kind::ALL.to_vec(),
        name => vec![name.parse()?],
    };
    println!("| speaker | peers | prefixes each | all told to all | peak memory | CPU |");
    println!("|---|---|---|---|---|---|");
    for kind in kinds {
        let (name, peers, prefixes) = (kind.name(), arguments.peers, arguments.prefixes);
        match measure(kind, &arguments) {
            Ok(Measured { elapsed, usage }) => println!(
                "| {name} | {peers} | {prefixes} | {:.2} s | {} MiB | {:.2} s |",
                elapsed.as_secs_f64(),
                usage.peak_kib / 1024,
                usage.cpu.as_secs_f64(),
            ),
            // The others are measured all the same.
            Err(error) => println!("| {name} | {peers} | {prefixes} | failed: {error:#} | | |"),
        }
    }
    Ok(())
}

struct Measured {
    elapsed: Duration,
    usage: Usage,
}

fn measure(kind: Kind, arguments: &Arguments) -> anyhow::Result<Measured> {
    let (router, peers) = (TestNetns::new("router"), TestNetns::new("peers"));
    router.join("eth0", &peers, "eth0");
    router.add_address("eth0", &format!("{}/16", daemon::ADDRESS));
    for number in 1..=arguments.peers {
        peers.add_address("eth0", &format!("{}/16", daemon::peer_address(number)));
    }
    let running = Running::start(kind, &router, arguments.peers, &arguments.fairlead)?;
    let load = Load {
        peers: arguments.peers,
        prefixes: arguments.prefixes,
        patience: Duration::from_secs(arguments.patience),
    };
    let elapsed = peers.run(|| load.run())?;
    let usage = running.usage()?;
    Ok(Measured { elapsed, usage })
}
