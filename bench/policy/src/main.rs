//! What policies cost: to bring them into the kernel, and to send packets through them.
//!
//! ```text
//! bench-policy program --pods 10000 --local 250 --namespaces 1000 --policies 5000
//! bench-policy traffic --rules nftables --policies 5000
//! bench-policy traffic --rules ipset --policies 5000
//! bench-policy traffic --rules none
//! bench-policy drops            (and with --log)
//! ```
//!
//! Runs in network namespaces of its own; needs root. From API objects in memory to the kernel:
//! the API server is not measured.

mod cluster;
mod programming;
mod traffic;

use clap::{Parser, Subcommand, ValueEnum};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Time and memory of programming the kernel
    Program(cluster::Size),
    /// Connections per second and throughput between two pods
    Traffic {
        #[arg(long, default_value = "nftables")]
        rules: Rules,
        #[command(flatten)]
        size: cluster::Size,
        #[arg(long, default_value_t = 5, value_name = "SECONDS")]
        seconds: u64,
    },
    /// Connections per second while others are dropped, without and with the verdict log
    Drops {
        #[arg(long)]
        log: bool,
        #[arg(long, default_value_t = 5, value_name = "SECONDS")]
        seconds: u64,
    },
}

/// What the packets pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Rules {
    /// Nothing, not even connection tracking's rules
    None,
    /// Ours
    Nftables,
    /// The same in the textbook form: a set for each policy's peers, a chain for each policy, a chain
    /// for each pod, and a rule for each pod that leads there
    Ipset,
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().what {
        What::Program(size) => programming::measure(&size),
        What::Traffic {
            rules,
            size,
            seconds,
        } => traffic::measure(rules, &size, seconds),
        What::Drops { log, seconds } => traffic::measure_drops(log, seconds),
    }
}
