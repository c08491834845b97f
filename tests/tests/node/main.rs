//! What the kubelet does for pods, as the conformance tests of the areas node, storage and auth
//! ask for it, on one lab.

mod attachments;
mod environment;
mod lifecycle;
mod nodes;
mod plugin;
mod pods;
mod probes;
mod resize;
mod site;
mod streams;
mod tokens;
mod volumes;

use std::process::ExitCode;

use cluster_tests::cases;

use self::site::Site;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(plugin::ROLE) {
        return match plugin::serve(arguments.next().unwrap_or_default()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error:#}");
                ExitCode::FAILURE
            }
        };
    }
    // Those that wait longest come first.
    let cases = cases![
        probes::restart_counts_only_grow,
        volumes::many_volumes_of_many_pods_do_not_race,
        volumes::keys_become_files_with_their_modes,
        lifecycle::init_containers_decide_whether_the_pod_starts,
        volumes::changes_of_objects_reach_the_files,
        nodes::manifests_of_a_directory_run_as_static_pods,
        probes::liveness_by_exec_restarts_only_what_fails,
        probes::liveness_by_http_and_tcp_restarts_only_what_fails,
        probes::liveness_by_grpc_asks_the_health_service,
        probes::readiness_waits_for_its_delay_and_restarts_nothing,
        probes::a_startup_probe_holds_the_others_back,
        probes::readiness_gates_are_waited_for,
        probes::an_unready_sidecar_keeps_the_pod_unready,
        lifecycle::hooks_by_exec_and_http_are_run,
        lifecycle::last_words_come_from_the_file_or_the_log,
        lifecycle::restart_policies_give_the_known_states,
        lifecycle::sidecars_start_first_and_stop_last,
        lifecycle::ephemeral_containers_are_added_to_running_pods,
        lifecycle::commands_and_arguments_override_those_of_the_image,
        lifecycle::a_failing_pod_has_a_reason_and_can_be_deleted,
        lifecycle::deletion_keeps_to_the_grace_period,
        lifecycle::deadlines_end_pods_also_when_they_are_shortened,
        pods::generations_count_changes_of_the_spec,
        pods::five_hundred_updates_are_observed,
        resize::resources_are_resized_in_place,
        resize::a_resize_restarts_where_the_policy_asks_for_it,
        pods::classes_of_service_are_told_at_once,
        pods::pods_and_their_statuses_are_changed_and_deleted,
        pods::a_rejected_pod_follows_its_generation,
        pods::safe_sysctls_are_set_and_others_refused,
        pods::security_contexts_decide_who_the_process_is,
        pods::the_hosts_file_is_kept_unless_the_pod_has_its_own,
        pods::runtime_classes_are_looked_up_and_bring_their_overhead,
        pods::addresses_of_pod_and_host_are_told,
        pods::images_are_pulled_by_their_policy,
        environment::config_maps_and_secrets_become_variables,
        environment::the_downward_api_becomes_variables,
        environment::variables_expand_in_values_commands_and_arguments,
        environment::sub_paths_expand_and_stay_inside_their_volume,
        volumes::missing_objects_hold_the_pod_unless_they_are_optional,
        volumes::immutable_objects_stay_as_they_are,
        volumes::the_downward_api_becomes_files_that_follow,
        volumes::projected_volumes_join_all_sources,
        volumes::empty_directories_have_their_modes_on_both_media,
        volumes::sub_paths_lead_into_every_kind_of_volume,
        volumes::host_paths_are_checked_by_their_type,
        volumes::claims_lead_to_their_volumes,
        plugin::storage_plugins_provide_volumes,
        attachments::volumes_are_attached_where_their_pods_are_and_grow,
        attachments::a_class_of_attributes_goes_when_no_claim_names_it,
        volumes::an_image_is_a_volume_or_the_pod_says_why_not,
        volumes::a_file_that_a_pod_holds_open_is_never_half_written,
        tokens::tokens_are_mounted_as_pod_and_account_say,
        tokens::the_mounted_token_authenticates_its_pod,
        tokens::projected_tokens_belong_to_their_user,
        tokens::the_issuer_is_discovered_with_a_pods_token,
        streams::logs_are_cut_as_asked,
        streams::the_log_of_the_container_before_is_kept,
        streams::followers_see_what_is_written_to_the_end,
        streams::large_logs_are_turned_over,
        streams::commands_run_over_a_web_socket,
        streams::logs_come_over_a_web_socket,
        streams::attach_and_port_forward_join_a_running_container,
        nodes::a_node_object_lives_through_its_life,
        nodes::a_nodes_lease_is_renewed,
        nodes::taints_evict_when_their_time_is_over,
        nodes::pods_that_take_too_much_room_are_evicted,
        nodes::an_eviction_by_the_api_is_a_disruption,
        nodes::the_kubelets_numbers_are_as_collectors_read_them,
    ];
    cluster_tests::harness::run("node", 10, cases, Site::start)
}
