//! What attaching a pod costs, and what the overlay costs a packet.
//!
//! ```text
//! bench-pod-network cni target/release/fairlead-cni
//! bench-pod-network overlay
//! bench-pod-network nodes 500
//! ```
//!
//! Every measurement is a ratio against a peer in the same run: Debian's plugins, a VXLAN
//! device set up by hand. All of it happens in network namespaces; needs root.

mod cni;
mod nodes;
mod overlay;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// ADD and DEL, beside Debian's bridge, host-local and portmap.
    Cni {
        plugin: PathBuf,
        #[arg(long, default_value_t = 100)]
        rounds: usize,
        /// How many pods are there in the second part.
        #[arg(long, default_value_t = 250)]
        pods: usize,
    },
    /// Throughput and latency, beside a VXLAN set up by hand.
    Overlay {
        #[arg(long, default_value_t = 6)]
        rounds: usize,
        #[arg(long, default_value_t = 1.0)]
        seconds: f64,
    },
    /// How long it takes to bring nodes into the kernel.
    Nodes { count: u16 },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Cni {
            plugin,
            rounds,
            pods,
        } => cni::run(&plugin, rounds, pods),
        Command::Overlay { rounds, seconds } => {
            overlay::run(rounds, Duration::from_secs_f64(seconds))
        }
        Command::Nodes { count } => nodes::run(count),
    }
}

/// The time below which that part of the sample is.
fn percentile(sample: &mut [Duration], part: f64) -> Duration {
    sample.sort();
    let index = ((sample.len() as f64) * part).ceil() as usize;
    sample[index.clamp(1, sample.len()) - 1]
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
