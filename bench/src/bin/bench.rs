//! Measures what `bench/RESULTS.md` shows, and writes it there.

use std::path::{Path, PathBuf};

use anyhow::Context;
use bench::programs::PROGRAMS;
use bench::{cluster, results, server};
use clap::Parser;

/// Measures and writes the results; needs root, an idle machine, and a release build.
///
/// Example: bench server cluster
#[derive(Debug, Parser)]
struct Options {
    /// server, cluster, cni, overlay, bgp, policy, proxy; all when not given
    sections: Vec<String>,
    /// Where the tables are replaced
    #[arg(long, default_value = "bench/RESULTS.md", value_name = "FILE")]
    results: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let program = std::env::current_exe().context("cannot tell where this program lies")?;
    let directory = program.parent().unwrap_or(Path::new("/"));
    let known = ["machine", "server", "cluster"]
        .into_iter()
        .chain(PROGRAMS.iter().map(|program| program.section));
    for section in known {
        let wanted = section == "machine"
            || options.sections.is_empty()
            || options.sections.iter().any(|name| name == section);
        if !wanted {
            continue;
        }
        eprintln!("bench: {section}");
        let measured = measure(section, directory).await.context(section)?;
        results::write(&options.results, section, &measured)?;
    }
    Ok(())
}

async fn measure(section: &str, directory: &Path) -> anyhow::Result<String> {
    let fairlead = directory.join("fairlead");
    match section {
        "machine" => machine(),
        "server" => server::measure(&fairlead).await,
        "cluster" => cluster::measure(&fairlead).await,
        other => {
            let program = PROGRAMS.iter().find(|program| program.section == other);
            program
                .with_context(|| format!("no measurement is called {other}"))?
                .measure(directory)
        }
    }
}

/// What the numbers were measured on.
fn machine() -> anyhow::Result<String> {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let processors = std::thread::available_parallelism()?;
    let build = if cfg!(debug_assertions) {
        "debug"
    } else {
        "release"
    };
    Ok(format!(
        "{processors} processors, Linux {}, {build} build; load before: {}.",
        kernel.trim(),
        load.split(' ').next().unwrap_or_default()
    ))
}
