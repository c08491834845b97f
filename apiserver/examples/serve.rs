//! An API server alone, for measuring and for replaying recorded answers against it.
//!
//! `serve DIRECTORY [PORT]` prints the kubeconfig's path and runs until it is interrupted.

use std::net::{IpAddr, Ipv4Addr};

use apiserver::{Config, start};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let Some(directory) = arguments.next() else {
        eprintln!("usage: serve DIRECTORY [PORT]");
        std::process::exit(2);
    };
    let config = Config {
        data_dir: directory.into(),
        bind_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        secure_port: arguments
            .next()
            .and_then(|port| port.parse().ok())
            .unwrap_or(6443),
        ..Config::default()
    };
    let shutdown = CancellationToken::new();
    let begun = std::time::Instant::now();
    match start(config, shutdown.clone()).await {
        Ok(server) => {
            eprintln!("ready after {:?}", begun.elapsed());
            println!("KUBECONFIG={}", server.admin_kubeconfig.display());
            // Without a signal handler the process ends at once, which is as good.
            let _ = tokio::signal::ctrl_c().await;
            shutdown.cancel();
            server.wait().await;
        }
        Err(error) => {
            eprintln!("serve: {error}");
            std::process::exit(1);
        }
    }
}
