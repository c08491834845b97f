//! The server alone: what it refuses, and what it survives.

mod crashes;
mod crowds;
mod lives;
mod requests;
mod starts;

use std::process::ExitCode;

use cluster_tests::cases;
use cluster_tests::server::Server;

/// A server for the cases that do not harm it.
pub(crate) struct Suite {
    pub(crate) server: Server,
    _directory: tempfile::TempDir,
}

fn main() -> ExitCode {
    let cases = cases![
        starts::a_first_start_makes_a_private_kubeconfig_and_tells_how_to_join,
        starts::a_port_in_use_is_told_in_one_line,
        starts::a_data_directory_in_use_is_told_in_one_line,
        starts::one_who_is_not_root_is_told_what_to_do,
        starts::a_wrong_ca_hash_is_told_before_anything_is_sent,
        starts::a_token_that_is_unknown_or_expired_is_told,
        starts::a_machine_without_containerd_is_told,
        starts::a_node_of_another_cluster_is_told,
        starts::tokens_are_made_listed_and_deleted,
        requests::anonymous_requests_reach_only_what_tells_of_health,
        requests::metrics_count_requests_and_objects,
        requests::malformed_bodies_are_refused_with_the_standard_status,
        requests::invalid_objects_are_refused_with_the_standard_status,
        requests::what_is_not_in_its_namespace_is_not_found,
        requests::stale_writes_conflict,
        lives::every_built_in_kind_lives_through_its_life,
        requests::a_watch_from_a_compacted_revision_is_gone,
        crowds::ten_thousand_idle_connections_leave_room_and_are_closed,
        crowds::clients_that_send_a_byte_at_a_time_are_given_up,
        crashes::acknowledged_writes_survive_fifty_kills,
        crashes::a_full_disk_refuses_writes_and_recovers,
    ];
    cluster_tests::harness::run("server", 2, cases, || {
        let directory = tempfile::tempdir()?;
        let server = Server::start(&directory.path().join("data"), &[])?;
        Ok(Suite {
            server,
            _directory: directory,
        })
    })
}
