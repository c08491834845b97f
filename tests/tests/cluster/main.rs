//! What a cluster of two nodes does for its users, on one lab.

mod clients;
mod configuration;
mod lifecycle;
mod network;
mod streams;
mod volumes;
mod workloads;

use std::process::ExitCode;

use cluster_tests::cases;
use cluster_tests::cluster::Cluster;

fn main() -> ExitCode {
    let cases = cases![
        network::nodes_are_ready_and_have_a_range_each,
        network::pods_of_two_nodes_reach_each_other_without_translation,
        network::a_service_answers_by_name_and_through_a_node_port,
        network::udp_services_answer,
        network::a_headless_service_names_its_pods,
        network::a_service_without_ready_endpoints_refuses,
        network::the_api_server_answers_as_the_service_kubernetes,
        configuration::the_environment_comes_from_every_source,
        configuration::arguments_expand_variables,
        configuration::resources_become_limits_and_too_much_memory_ends_the_container,
        configuration::security_contexts_are_applied,
        volumes::volumes_of_every_kind_are_mounted,
        volumes::changed_config_maps_reach_running_pods,
        volumes::the_service_account_token_is_accepted_by_the_api_server,
        lifecycle::init_containers_run_in_order_before_the_others,
        lifecycle::a_failing_container_is_restarted_with_back_off,
        lifecycle::a_failing_liveness_probe_restarts_and_readiness_takes_out_of_services,
        lifecycle::probes_of_all_kinds_pass,
        lifecycle::hooks_run_and_the_grace_period_is_kept,
        lifecycle::pull_policies_and_secrets_are_kept_to,
        clients::every_kubectl_streams,
        clients::every_kubectl_runs_and_debugs,
        clients::helm_waits_for_what_it_installs_and_tests_it,
        clients::client_libraries_stream,
        streams::logs_are_shown_and_followed,
        streams::exec_carries_input_output_and_the_exit_code,
        streams::files_are_copied_both_ways,
        streams::ports_are_forwarded,
        streams::the_kubelet_serves_only_those_who_may,
        workloads::a_deployment_spreads_scales_updates_and_rolls_back,
        workloads::an_update_fails_no_request_and_a_paused_one_waits,
        workloads::a_daemon_set_runs_on_every_node,
        workloads::owners_take_their_objects_along,
        workloads::a_pod_that_fits_nowhere_is_told_why,
        workloads::deleting_a_namespace_deletes_what_is_in_it,
    ];
    cluster_tests::harness::run("cluster", 4, cases, || {
        Cluster::start("test", &["--nodes=2"])
    })
}
