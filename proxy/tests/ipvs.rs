//! Real packets through IPVS: the checks of every backend, and those that only IPVS knows.
//!
//! Where this kernel has no IPVS, the test runs itself under one that has, by
//! `tests/with-ipvs-kernel`. It never passes without IPVS.
#![expect(
    clippy::disallowed_methods,
    reason = "runs itself under another kernel"
)]

#[expect(unreachable_pub, reason = "shared by several test programs")]
mod checks;
#[allow(dead_code, unreachable_pub, reason = "shared by several test programs")]
mod world;

use std::process::Command;
use std::sync::Mutex;

use checks::Way;
use proxy::Mode;
use world::Ip;

type Check = (&'static str, fn(Way));

macro_rules! checks {
    ($($check:ident),* $(,)?) => { [$((stringify!($check), checks::$check as fn(Way))),*] };
}

const CHECKS: &[Check] = &checks!(
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

#[test]
fn ipvs_does_what_services_ask_for() {
    if kernel::ipvs::Ipvs::open().is_err() {
        assert!(
            std::env::var_os("IPVS_KERNEL").is_none(),
            "the other kernel has no IPVS either"
        );
        return under_another_kernel("ipvs_does_what_services_ask_for");
    }
    let ways = [Ip::V4, Ip::V6].map(|ip| Way {
        mode: Mode::Ipvs,
        variant: None,
        ip,
    });
    let todo: Vec<(Check, Way)> = CHECKS
        .iter()
        .flat_map(|check| ways.map(|way| (*check, way)))
        .collect();
    let todo = Mutex::new(todo.into_iter());
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let next = todo.lock().expect("no panic while it is held").next();
                    let Some(((name, check), way)) = next else {
                        return;
                    };
                    let result = std::panic::catch_unwind(|| check(way));
                    println!(
                        "{name} {:?}: {}",
                        way.ip,
                        if result.is_ok() { "ok" } else { "FAILED" }
                    );
                    if result.is_err() {
                        failed.lock().expect("no panic while it is held").push(name);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no panic while it is held");
    assert!(failed.is_empty(), "{failed:?}");
}

/// Runs one test of this program under a kernel that has IPVS.
fn under_another_kernel(test: &str) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/with-ipvs-kernel");
    let program = std::env::current_exe().expect("this program has a path");
    let status = Command::new(script)
        .args(["-t", "300", "--"])
        .arg(program)
        .args([test, "--exact", "--nocapture"])
        .status()
        .expect("the script starts");
    assert!(status.success(), "{status}");
}
