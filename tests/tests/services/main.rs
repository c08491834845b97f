//! Services, names, proxies, webhooks and aggregation, as the conformance tests of the areas
//! network and api-machinery ask for them, on one lab.

mod addresses;
mod names;
mod policies;
mod proxied;
mod slices;
mod watches;
mod webhook_server;
mod webhooks;

use std::process::ExitCode;

use cluster_tests::cases;
use cluster_tests::site::Site;

fn main() -> ExitCode {
    let cases = cases![
        names::names_of_the_cluster_resolve_in_every_form,
        names::pods_are_known_by_their_host_name_and_subdomain,
        names::an_external_name_follows_edits_and_a_change_of_type,
        names::a_pod_may_bring_its_own_resolver,
        addresses::services_change_their_type,
        addresses::a_node_port_answers_at_every_address,
        addresses::affinity_is_switched_on_and_off,
        addresses::one_port_serves_two_protocols_until_either_is_removed,
        addresses::host_ports_of_one_number_coexist,
        addresses::pods_and_nodes_reach_pods_on_every_node,
        addresses::services_are_written_and_collected_as_objects,
        addresses::ranges_and_addresses_are_objects,
        addresses::ingresses_and_their_classes_are_objects,
        slices::slices_and_endpoints_follow_pods,
        slices::endpoints_made_by_hand_are_mirrored,
        slices::slices_made_by_hand_are_served,
        slices::the_api_server_is_a_service,
        proxied::pods_and_services_are_reached_by_every_method,
        proxied::names_with_ports_and_schemes_lead_to_the_right_place,
        webhooks::everything_about_webhooks,
        webhooks::custom_resources_are_converted_by_a_webhook,
        webhooks::an_api_server_in_a_pod_is_aggregated,
        policies::admission_policies_judge_and_change,
        watches::watches_begin_where_they_are_told_to,
        watches::a_watch_of_labels_sees_objects_come_and_go,
    ];
    cluster_tests::harness::run("services", 8, cases, || Site::start("services"))
}
