//! Real packets through IPVS: the checks of every backend, and those that only IPVS knows.
//!
//! Where this kernel has no IPVS, the test runs itself under one that has, by
//! `tests/with-ipvs-kernel`. It never passes without IPVS.
#![expect(
    clippy::disallowed_methods,
    reason = "runs itself under another kernel"
)]

#[expect(unreachable_pub, reason = "shared by several test programs")]
mod api;
#[expect(unreachable_pub, reason = "shared by several test programs")]
mod checks;
#[allow(dead_code, unreachable_pub, reason = "shared by several test programs")]
mod running;
#[allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "shared by several test programs"
)]
mod world;

#[expect(unreachable_pub, reason = "called by the tests below")]
mod schedulers;

use std::process::Command;
use std::sync::Mutex;
use std::time::Instant;

use checks::Way;
use proxy::Mode;
use world::Ip;

type Check = (&'static str, fn(Way));

macro_rules! all_checks {
    ($($check:ident),* $(,)?) => {
        const CHECKS: &[Check] = &[$((stringify!($check), checks::$check as fn(Way))),*];
    };
}

checks::for_every_check!(all_checks);

#[test]
fn ipvs_does_what_services_ask_for_with_ipv4() {
    with_ipvs("ipvs_does_what_services_ask_for_with_ipv4", || {
        all_of(Ip::V4)
    });
}

#[test]
fn ipvs_does_what_services_ask_for_with_ipv6() {
    with_ipvs("ipvs_does_what_services_ask_for_with_ipv6", || {
        all_of(Ip::V6)
    });
}

#[test]
fn each_ipvs_scheduler_balances_by_its_definition() {
    with_ipvs("each_ipvs_scheduler_balances_by_its_definition", || {
        for ip in [Ip::V4, Ip::V6] {
            schedulers::each_scheduler_balances_by_its_definition(ip);
        }
        schedulers::ipvsadm_shows_what_was_wanted();
    });
}

/// Most development kernels lack SCTP as well.
#[test]
fn sctp_is_served_by_every_backend() {
    with_ipvs("sctp_is_served_by_every_backend", || {
        for ip in [Ip::V4, Ip::V6] {
            for mode in Mode::ALL {
                let way = Way { mode, ..way(ip) };
                checks::sctp_associations_reach_their_back_ends(way);
            }
        }
    });
}

#[test]
fn backends_change_from_and_to_ipvs_under_load_and_established_connections_stay() {
    with_ipvs(
        "backends_change_from_and_to_ipvs_under_load_and_established_connections_stay",
        || {
            for ip in [Ip::V4, Ip::V6] {
                let mut world = world::World::new();
                world.serve_lines();
                checks::backends_change_under_load(&world, &every_change(ip));
            }
        },
    );
}

#[test]
fn what_others_do_to_ipvs_is_repaired_with_an_event() {
    with_ipvs("what_others_do_to_ipvs_is_repaired_with_an_event", || {
        running::repairs(
            Mode::Ipvs,
            None,
            &[
                &["ipvsadm", "-C"],
                &["ip", "link", "delete", "kube-ipvs0"],
                &["nft", "delete", "table", "ip", "fairlead-ipvs"],
                &["ipvsadm", "-D", "-t", "10.96.0.10:80"],
            ],
        );
    });
}

/// From each backend to each other one.
fn every_change(ip: Ip) -> [Way; 7] {
    use Mode::{Iptables, Ipvs, Nftables};
    let modes = [Ipvs, Nftables, Ipvs, Iptables, Nftables, Iptables, Ipvs];
    modes.map(|mode| Way {
        mode,
        variant: Some(kernel::iptables::Variant::Nft),
        ip,
    })
}

/// Runs the test here, or by itself under a kernel that has IPVS.
fn with_ipvs(test: &str, body: impl FnOnce()) {
    if kernel::ipvs::Ipvs::open().is_ok() {
        return body();
    }
    assert!(
        std::env::var_os("IPVS_KERNEL").is_none(),
        "the other kernel has no IPVS either"
    );
    under_another_kernel(test);
}

const fn way(ip: Ip) -> Way {
    Way {
        mode: Mode::Ipvs,
        variant: None,
        ip,
    }
}

/// All checks of a family, some at a time: booting a kernel for each would take longer. The
/// environment variable `IPVS_CHECKS` chooses those whose names contain it.
fn all_of(ip: Ip) {
    let way = way(ip);
    let chosen = std::env::var("IPVS_CHECKS").unwrap_or_default();
    let todo: Vec<Check> = CHECKS
        .iter()
        .filter(|(name, _)| name.contains(&chosen))
        .copied()
        .collect();
    let todo = Mutex::new(todo.into_iter());
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let next = todo.lock().expect("no panic while it is held").next();
                    let Some((name, check)) = next else {
                        return;
                    };
                    let start = Instant::now();
                    let result = std::panic::catch_unwind(|| check(way));
                    println!(
                        "{name} {:?}: {} after {:.0} s",
                        way.ip,
                        if result.is_ok() { "ok" } else { "FAILED" },
                        start.elapsed().as_secs_f64()
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
        .args(["-t", "2400", "--"])
        .arg(program)
        .args([test, "--exact", "--nocapture"])
        .status()
        .expect("the script starts");
    assert!(status.success(), "{status}");
}
