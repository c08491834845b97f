//! Policies in a whole cluster: the truth tables of `catalogue.txt`, on real packets between nine
//! pods on two nodes, and what happens around policies. `NETWORK` and `PROXY` choose another lab
//! than the default one.

mod around;
mod catalogue;
mod pods;

use std::process::ExitCode;

use cluster_tests::cases;
use cluster_tests::cluster::Cluster;

fn main() -> ExitCode {
    let cases = cases![
        catalogue::the_catalogue_holds_over_ipv4,
        catalogue::the_catalogue_holds_over_ipv6,
        around::a_dropped_connection_is_told_with_its_policy,
        around::a_table_that_somebody_flushed_comes_back,
        around::questions_are_answered_from_the_live_cluster,
    ];
    // One at a time: they share the pods.
    cluster_tests::harness::run("policies", 1, cases, || {
        let mut arguments = vec!["--nodes=2".to_owned(), "--ip-family=dual".to_owned()];
        for (variable, option) in [("NETWORK", "network"), ("PROXY", "proxy")] {
            if let Ok(value) = std::env::var(variable) {
                arguments.push(format!("--{option}={value}"));
            }
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Cluster::start("policies", &arguments)
    })
}
