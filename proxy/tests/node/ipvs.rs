//! Real packets through IPVS: the checks of every backend, and those that only IPVS knows.
//!
//! Where this kernel has no IPVS, the test runs itself under one that has, by
//! `tests/with-ipvs-kernel`. It never passes without IPVS.
#![expect(
    clippy::disallowed_methods,
    reason = "runs itself under another kernel"
)]

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use kernel::iptables::Variant;
use proxy::{Config, Mode};

use crate::checks::{self, Way};
use crate::world::{self, Ip, Proxy, World};
use crate::{running, schedulers};

/// The name by which this program is asked for its only test of IPVS.
const THIS: &str = "ipvs::services_are_served_by_ipvs";
/// An emulated machine has two processors, and most of a check is waiting.
const AT_ONCE: usize = 4;
/// For all cases, on a machine with much else to do.
const SECONDS: &str = "2400";

/// One thing to be shown.
struct Case {
    name: String,
    run: Box<dyn FnOnce() + Send>,
}

fn case(name: impl Into<String>, run: impl FnOnce() + Send + 'static) -> Case {
    Case {
        name: name.into(),
        run: Box::new(run),
    }
}

/// All of it in one test, since a kernel for each case would have to start for each. The
/// environment variable `IPVS_CHECKS` chooses the cases whose names contain it.
#[test]
fn services_are_served_by_ipvs() {
    if kernel::ipvs::Ipvs::open().is_err() {
        assert!(
            std::env::var_os("IPVS_KERNEL").is_none(),
            "the other kernel has no IPVS either"
        );
        return under_another_kernel();
    }
    let chosen = std::env::var("IPVS_CHECKS").unwrap_or_default();
    let mut cases = own_cases();
    for ip in [Ip::V4, Ip::V6] {
        cases.extend(checks_of_every_backend(ip));
    }
    cases.retain(|case| case.name.contains(&chosen));
    let failed = run(cases.into());
    assert!(failed.is_empty(), "{failed:#?}");
}

type Check = (&'static str, fn(Way));

macro_rules! all_checks {
    ($($check:ident),* $(,)?) => {
        const CHECKS: &[Check] = &[$((stringify!($check), checks::$check as fn(Way))),*];
    };
}

checks::for_every_check!(all_checks);

fn checks_of_every_backend(ip: Ip) -> impl Iterator<Item = Case> {
    let of = move |(name, check): &Check| {
        let check = *check;
        case(format!("{name} {ip:?}"), move || check(way(ip)))
    };
    CHECKS.iter().map(of)
}

/// What only a kernel with IPVS can show, and what takes long: it begins first.
fn own_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for ip in [Ip::V4, Ip::V6] {
        cases.push(case(
            format!("backends change from and to IPVS under load {ip:?}"),
            move || {
                let mut world = World::new();
                world.serve_lines();
                checks::backends_change_under_load(&world, &every_change(ip));
            },
        ));
        cases.push(case(
            format!("each scheduler balances by its definition {ip:?}"),
            move || schedulers::each_scheduler_balances_by_its_definition(ip),
        ));
        // Most development kernels lack SCTP as well.
        cases.push(case(
            format!("SCTP is served by every backend {ip:?}"),
            move || {
                for mode in Mode::ALL {
                    checks::sctp_associations_reach_their_back_ends(Way { mode, ..way(ip) });
                }
            },
        ));
    }
    cases.push(case(
        "what others do to IPVS is repaired with an Event",
        repairs,
    ));
    cases.push(case(
        "ipvsadm shows what was wanted",
        schedulers::ipvsadm_shows_what_was_wanted,
    ));
    cases.push(case("the kernel is set as it was asked for", settings));
    // Most development kernels have no flowtables.
    cases.push(case(
        "nftables offload established connections",
        checks::established_connections_are_offloaded,
    ));
    cases
}

fn repairs() {
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
}

fn settings() {
    let world = World::new();
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    let config = Config {
        ipvs: proxy::config::Ipvs {
            strict_arp: true,
            tcp_timeout: seconds(1111),
            tcp_fin_timeout: seconds(222),
            udp_timeout: seconds(33),
            ..Default::default()
        },
        ..world::config(Mode::Ipvs)
    };
    let _proxy = Proxy::new(&world, &config);
    let shown = world.node.command("ipvsadm", &["-L", "--timeout"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("1111 222 33"), "{shown}");
    for (name, value) in [
        ("net/ipv4/vs/conntrack", "1"),
        ("net/ipv4/vs/expire_nodest_conn", "1"),
        ("net/ipv4/conf/all/arp_ignore", "1"),
        ("net/ipv4/conf/all/arp_announce", "2"),
    ] {
        let held = world.node.run(|| kernel::sysctl::read(name));
        assert_eq!(held.expect("a setting"), value, "{name}");
    }
}

/// From each backend to each other one.
fn every_change(ip: Ip) -> [Way; 7] {
    use Mode::{Iptables, Ipvs, Nftables};
    let modes = [Ipvs, Nftables, Ipvs, Iptables, Nftables, Iptables, Ipvs];
    modes.map(|mode| Way {
        mode,
        variant: Some(Variant::Nft),
        ip,
    })
}

const fn way(ip: Ip) -> Way {
    Way {
        mode: Mode::Ipvs,
        variant: None,
        ip,
    }
}

/// Runs some cases at a time; answers with the names of those that failed.
fn run(cases: VecDeque<Case>) -> Vec<String> {
    let (todo, failed) = (Mutex::new(cases), Mutex::new(Vec::new()));
    let next = || {
        let mut todo = todo.lock().unwrap_or_else(PoisonError::into_inner);
        todo.pop_front()
    };
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(Case { name, run }) = next() {
                    let start = Instant::now();
                    let result = catch_unwind(AssertUnwindSafe(run));
                    let word = if result.is_ok() { "ok" } else { "FAILED" };
                    println!("{word:6} {:5.0} s  {name}", start.elapsed().as_secs_f64());
                    if result.is_err() {
                        let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                        failed.push(name);
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn under_another_kernel() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/with-ipvs-kernel");
    let program = std::env::current_exe().expect("this program has a path");
    let status = Command::new(script)
        .args(["-t", SECONDS, "--"])
        .arg(program)
        .args([THIS, "--exact", "--nocapture"])
        .status()
        .expect("the script starts");
    assert!(status.success(), "{status}");
}
