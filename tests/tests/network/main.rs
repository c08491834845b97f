//! The pod network of a whole cluster: pools of addresses, changes of mode, the self-test, and the
//! network alone on a cluster of others.

mod alone;
mod doctor;
mod modes;
mod pools;

use std::process::ExitCode;

use cluster_tests::cases;
use cluster_tests::cluster::Cluster;

fn main() -> ExitCode {
    let cases = cases![
        doctor::the_self_test_finds_nothing_and_then_a_cut_link,
        pools::a_pool_gives_addresses_to_the_pods_of_its_namespaces,
        pools::an_address_asked_for_is_the_pods_wherever_its_block_is,
        pools::a_full_pool_borrows_and_strict_affinity_forbids_it,
        modes::nodes_change_over_one_by_one_and_connections_go_on,
        alone::it_serves_nodes_that_were_started_without_one,
    ];
    // One at a time: each changes what the others stand on.
    cluster_tests::harness::run("network", 1, cases, || {
        Cluster::start("network", &["--nodes=2"])
    })
}
