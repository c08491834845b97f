//! What goes wrong in a cluster, and how it recovers by itself.

mod links;
mod nodes;
mod processes;

use std::process::ExitCode;

use cluster_tests::cases;
use cluster_tests::cluster::Cluster;

fn main() -> ExitCode {
    let cases = cases![
        processes::a_killed_node_process_leaves_pods_and_connections_alone,
        processes::a_killed_containerd_comes_back_with_its_pods,
        processes::a_killed_server_comes_back_with_everything,
        links::a_cut_link_heals,
        nodes::a_stopped_node_is_not_ready_its_pods_move_and_it_comes_back,
    ];
    // One at a time: each takes away what the others need.
    cluster_tests::harness::run("faults", 1, cases, || {
        Cluster::start("faults", &["--nodes=2"])
    })
}
