//! Real packets through the backends that need no special kernel: who answers, and which
//! source it sees. The tests need root; those of IPVS are in `ipvs.rs`.

#[expect(unreachable_pub, reason = "shared by several test programs")]
mod checks;
#[allow(dead_code, unreachable_pub, reason = "shared by several test programs")]
mod world;

use checks::Way;
use kernel::iptables::Variant;
use proxy::Mode;
use world::Ip;

/// Makes each check a test for each way.
macro_rules! in_every_way {
    ($($check:ident),* $(,)?) => {
        mod nftables_v4 { $(#[test] fn $check() { crate::checks::$check(super::NFTABLES_V4); })* }
        mod nftables_v6 { $(#[test] fn $check() { crate::checks::$check(super::NFTABLES_V6); })* }
        mod iptables_nft_v4 { $(#[test] fn $check() { crate::checks::$check(super::NFT_V4); })* }
        mod iptables_nft_v6 { $(#[test] fn $check() { crate::checks::$check(super::NFT_V6); })* }
        mod iptables_legacy_v4 { $(#[test] fn $check() { crate::checks::$check(super::LEGACY_V4); })* }
        mod iptables_legacy_v6 { $(#[test] fn $check() { crate::checks::$check(super::LEGACY_V6); })* }
    };
}

const NFTABLES_V4: Way = Way {
    mode: Mode::Nftables,
    variant: None,
    ip: Ip::V4,
};
const NFTABLES_V6: Way = Way {
    mode: Mode::Nftables,
    variant: None,
    ip: Ip::V6,
};
const NFT_V4: Way = Way {
    mode: Mode::Iptables,
    variant: Some(Variant::Nft),
    ip: Ip::V4,
};
const NFT_V6: Way = Way {
    mode: Mode::Iptables,
    variant: Some(Variant::Nft),
    ip: Ip::V6,
};
const LEGACY_V4: Way = Way {
    mode: Mode::Iptables,
    variant: Some(Variant::Legacy),
    ip: Ip::V4,
};
const LEGACY_V6: Way = Way {
    mode: Mode::Iptables,
    variant: Some(Variant::Legacy),
    ip: Ip::V6,
};

in_every_way!(
    a_cluster_ip_leads_to_every_ready_back_end,
    a_client_outside_is_masqueraded_on_its_way_to_a_cluster_ip,
    a_pod_reaches_itself_through_its_service,
    without_endpoints_and_at_undefined_ports_connections_are_refused,
    a_node_port_leads_to_all_back_ends_and_with_the_local_policy_keeps_the_source,
    external_addresses_obey_source_ranges_and_policies,
    affinity_keeps_a_client_with_its_back_end,
    the_internal_policy_local_stays_on_the_node,
    changes_reach_the_kernel_and_cleanup_removes_everything,
    rules_that_somebody_deletes_are_noticed_and_written_again,
);
