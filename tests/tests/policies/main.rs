//! Policies in a whole cluster: truth tables on real packets between nine pods on two nodes,
//! written by hand (`catalogue.txt`) and generated, and what happens around policies.

mod around;
mod catalogue;
mod generated;
#[path = "../../../policy/tests/rules/oracle.rs"]
#[expect(
    clippy::unwrap_used,
    reason = "objects that the tests made themselves are as they have to be"
)]
mod oracle;
mod pods;
mod probes;
mod steps;

use std::process::ExitCode;

use cluster_tests::cases;
use cluster_tests::cluster::Cluster;

use crate::pods::Places;
use crate::probes::Prober;

/// The cluster with its pods.
pub(crate) struct Suite {
    pub(crate) prober: Prober,
    pub(crate) places: Places,
    pub(crate) cluster: Cluster,
}

fn main() -> ExitCode {
    let cases = cases![
        catalogue::the_catalogue_holds,
        catalogue::the_catalogue_holds_through_services,
        generated::generated_policies_hold,
        around::a_dropped_connection_is_told_with_its_policy,
        around::a_table_that_somebody_flushed_comes_back,
        around::questions_are_answered_from_the_live_cluster,
        around::nothing_gets_through_or_is_cut_while_policies_are_edited,
        around::a_trace_is_confirmed_by_a_real_connection,
        around::a_check_tells_which_connections_of_the_last_hour_would_be_cut,
        around::accepted_connections_are_told_while_somebody_asks,
        around::the_nodes_metrics_count_what_was_dropped,
        around::what_cannot_be_enforced_is_told,
        around::a_name_opens_the_way_when_the_clusters_dns_has_answered,
    ];
    // One at a time: they share the pods.
    cluster_tests::harness::run("policies", 1, cases, || {
        let cluster = Cluster::start("policies", &["--nodes=2", "--ip-family=dual"])?;
        let places = pods::start(&cluster)?;
        Ok(Suite {
            prober: Prober::new(&cluster.lab, &places)?,
            places,
            cluster,
        })
    })
}
