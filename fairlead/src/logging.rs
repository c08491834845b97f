//! Logs go to standard error; standard output is for what a command was asked for.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// `--log` wins over `FAIRLEAD_LOG`; without both, information of our own crates and warnings
/// of the others.
pub(crate) fn start(filter: Option<&str>) {
    let default = "info,hyper=warn,h2=warn,tower=warn,kube=warn,rustls=error";
    let filter = match filter {
        Some(filter) => EnvFilter::new(filter),
        None => EnvFilter::try_from_env("FAIRLEAD_LOG").unwrap_or_else(|_| default.into()),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}
