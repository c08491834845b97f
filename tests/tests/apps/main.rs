//! What controllers and the scheduler do, as the conformance tests of the areas apps, scheduling
//! and api-machinery ask for it, on one lab.

mod collection;
mod daemons;
mod deployments;
mod jobs;
mod quotas;
mod replicas;
mod scheduling;
mod stateful;

use std::process::ExitCode;

use cluster_tests::cases;
use cluster_tests::site::Site;

fn main() -> ExitCode {
    let cases = cases![
        // The longest first.
        jobs::cron_jobs_allow_forbid_replace_and_wait,
        scheduling::what_is_taken_of_the_nodes_is_counted_and_the_more_important_pod_wins,
        stateful::a_partition_makes_canaries_and_phases,
        stateful::scaling_goes_in_order_and_halts_where_a_pod_is_unwell,
        stateful::an_update_goes_in_reverse_order_and_a_rollback_takes_the_old_revision,
        stateful::a_parallel_set_scales_at_once_whoever_is_unwell,
        stateful::a_pod_that_its_node_refused_is_made_again,
        stateful::a_stateful_set_is_scaled_listed_and_its_status_changed,
        stateful::claims_go_or_stay_as_the_retention_policy_says,
        daemons::a_daemon_comes_back_when_it_is_deleted_or_fails,
        daemons::daemons_follow_the_labels_of_nodes,
        daemons::a_rolling_update_replaces_daemons_and_numbers_its_revisions,
        daemons::a_rollback_restarts_no_daemon_that_was_not_updated,
        daemons::a_surge_starts_the_new_daemon_before_the_old_one_ends,
        deployments::a_deployment_adopts_a_replica_set_and_counts_on_from_its_revision,
        deployments::recreate_starts_no_pod_before_the_old_ones_are_gone,
        deployments::a_rollout_turns_to_the_newest_template_in_its_midst,
        deployments::scaling_in_the_midst_of_a_rollout_is_proportional,
        deployments::old_replica_sets_are_deleted_beyond_the_history_limit,
        deployments::a_deployment_is_scaled_and_its_status_takes_conditions,
        deployments::a_deployment_that_makes_no_progress_says_so,
        replicas::replicas_serve_each_by_its_own_name,
        replicas::pods_that_match_are_adopted_and_those_that_stop_are_released,
        replicas::replica_sets_and_controllers_are_scaled_replaced_patched_and_collected,
        replicas::a_quota_that_stops_replicas_shows_as_a_condition,
        replicas::controller_revisions_live_as_objects_of_their_own,
        jobs::a_job_completes_also_when_its_containers_are_restarted,
        jobs::a_deleted_job_takes_its_pods_along,
        jobs::a_job_adopts_orphans_and_releases_what_does_not_match,
        jobs::indexed_pods_know_their_index_and_have_its_name,
        jobs::a_job_is_suspended_resumed_changed_and_collected,
        jobs::the_status_of_a_running_job_takes_conditions,
        jobs::a_pod_failure_policy_fails_early_ignores_and_fails_an_index,
        jobs::back_off_is_counted_for_each_index,
        jobs::a_success_policy_ends_a_job_before_all_indexes_have,
        jobs::deadlines_limits_and_owners_of_jobs_are_kept_to,
        jobs::a_cron_job_is_read_written_and_its_status_changed,
        jobs::budgets_count_block_evictions_and_let_them_pass,
        scheduling::limit_ranges_give_defaults_and_refuse_what_is_beyond,
        scheduling::a_pod_waits_where_no_node_matches_and_goes_where_one_does,
        scheduling::host_ports_conflict_by_address_and_protocol,
        scheduling::priority_classes_keep_their_value,
        scheduling::a_claim_for_one_pod_is_not_shared,
        scheduling::a_deleted_or_evicted_victim_says_why,
        scheduling::claims_for_devices_are_made_from_templates,
        collection::dependents_go_with_their_owner_in_the_background,
        collection::an_owner_in_the_foreground_waits_for_its_dependents,
        collection::orphans_stay,
        collection::circles_and_second_owners_do_not_confuse_the_collector,
        collection::a_namespace_ends_in_order_and_with_all_it_holds,
        collection::namespaces_take_labels_finalizers_and_conditions,
        quotas::every_kind_that_is_counted_is_counted_and_given_back,
        quotas::pods_are_counted_by_what_they_ask_for,
        quotas::scopes_choose_the_pods_of_a_quota,
        quotas::a_quota_is_read_written_and_its_status_changed,
    ];
    cluster_tests::harness::run("apps", 10, cases, || Site::start("apps"))
}
