//! What policies cost: to bring them into the kernel, and to send packets through them.
//!
//! ```text
//! bench-policy program --pods 10000 --local 250 --namespaces 1000 --policies 5000
//! bench-policy traffic
//! bench-policy drops
//! ```
//!
//! Runs in network namespaces of its own; needs root. From API objects in memory to the kernel:
//! the API server is not measured.

mod cluster;
mod programming;
mod report;
mod traffic;

use std::time::Duration;

use clap::{Args, Parser, Subcommand};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Time and memory of programming the kernel
    Program(cluster::Size),
    /// Connections per second and throughput between two pods, by rules
    Traffic {
        #[command(flatten)]
        size: cluster::Size,
        #[command(flatten)]
        turns: Turns,
    },
    /// Connections per second while others are dropped, without and with the verdict log
    Drops {
        #[command(flatten)]
        turns: Turns,
    },
}

#[derive(Args)]
struct Turns {
    /// How often each variant is measured
    #[arg(long, default_value_t = 9)]
    rounds: u32,
    /// For how long each time
    #[arg(long, default_value_t = 700, value_name = "MILLISECONDS")]
    time: u64,
}

impl Turns {
    fn time(&self) -> Duration {
        Duration::from_millis(self.time)
    }
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().what {
        What::Program(size) => programming::measure(&size),
        What::Traffic { size, turns } => traffic::measure(size, turns.rounds, turns.time()),
        What::Drops { turns } => traffic::measure_drops(turns.rounds, turns.time()),
    }
}
