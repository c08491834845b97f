//! Real packets through the backends that need no special kernel: who answers, and which
//! source it sees. The tests need root; those of IPVS are in `ipvs.rs`.

use kernel::iptables::Variant;
use proxy::{Config, Mode};

use crate::checks::{self, Way};
use crate::world::{self, Ip, Proxy, World};

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

checks::for_every_check!(in_every_way);

#[test]
fn backends_change_under_load_and_established_connections_stay_with_ipv4() {
    change_backends([NFT_V4, NFTABLES_V4, NFT_V4, NFTABLES_V4]);
    change_backends([NFTABLES_V4, LEGACY_V4, NFTABLES_V4, LEGACY_V4]);
}

#[test]
fn backends_change_under_load_and_established_connections_stay_with_ipv6() {
    change_backends([NFT_V6, NFTABLES_V6, NFT_V6, NFTABLES_V6]);
    change_backends([NFTABLES_V6, LEGACY_V6, NFTABLES_V6, LEGACY_V6]);
}

fn change_backends(ways: [Way; 4]) {
    let mut world = World::new();
    world.serve_lines();
    checks::backends_change_under_load(&world, &ways);
}

#[test]
fn ipvs_that_is_missing_is_told_of_at_the_start_and_nothing_is_changed() {
    if kernel::ipvs::Ipvs::open().is_ok() {
        // This kernel has it; then there is nothing to tell.
        return;
    }
    let world = World::new();
    let before = world.dump();
    let config = world::config(Mode::Ipvs);
    let made = world
        .node
        .run(|| proxy::Applier::new(&config, Mode::Ipvs).err());
    let error = made.expect("no IPVS, no proxy").to_string();
    assert!(error.contains("modprobe ip_vs"), "{error}");
    assert_eq!(world.dump(), before);
    assert!(world.node.link("kube-ipvs0").is_none());
}

#[test]
fn a_program_that_holds_the_xtables_lock_is_waited_for() {
    let world = World::new();
    let x = Ip::V4.addresses();
    let config = Config {
        iptables_variant: Some(Variant::Legacy),
        ..world::config(Mode::Iptables)
    };
    let mut proxy = Proxy::new(&world, &config);
    let lock = std::fs::File::create("/run/xtables.lock").expect("the lock's file");
    lock.lock().expect("the lock");
    let holder = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(1500));
        drop(lock);
    });
    proxy
        .service(&world::service("web", x.service, serde_json::json!({})))
        .slice(&world::slice("web", &[(x.b, "here", true)]))
        .apply();
    holder.join().expect("the holder does not panic");
    assert_eq!(world.servers(&world.a, x.service, 80), [x.b]);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "runs itself without programs")]
fn programs_that_are_missing_are_named_and_nftables_needs_none() {
    const ALONE: &str = "PROXY_TEST_WITHOUT_PROGRAMS";
    if std::env::var_os(ALONE).is_none() {
        let this = std::env::current_exe().expect("this program has a path");
        // The proxy looks for programs also where only administrators do.
        let hide = "mount -t tmpfs none /usr/sbin && PATH=/nonexistent exec \"$0\" \"$@\"";
        let output = std::process::Command::new("unshare")
            .args(["--mount", "sh", "-c", hide])
            .arg(this)
            .arg("packets::programs_that_are_missing_are_named_and_nftables_needs_none")
            .args(["--exact", "--nocapture"])
            .env(ALONE, "1")
            .output()
            .expect("this program starts");
        assert!(output.status.success(), "{output:?}");
        return;
    }
    let world = World::new();
    for variant in [None, Some(Variant::Nft), Some(Variant::Legacy)] {
        let config = Config {
            iptables_variant: variant,
            ..world::config(Mode::Iptables)
        };
        let made = world.node.run(|| {
            let mut applier = proxy::Applier::new(&config, Mode::Iptables)?;
            applier.resync(Mode::Iptables, &proxy::backend::Desired::default())
        });
        let error = made.expect_err("no programs, no proxy").to_string();
        assert!(error.contains("is not installed"), "{error}");
        assert!(error.contains("iptables"), "{error}");
    }
    let x = Ip::V4.addresses();
    let mut proxy = Proxy::new(&world, &world::config(Mode::Nftables));
    proxy
        .service(&world::service("web", x.service, serde_json::json!({})))
        .slice(&world::slice("web", &[(x.b, "here", true)]))
        .apply();
    assert_eq!(world.servers(&world.a, x.service, 80), [x.b]);
}

#[test]
fn the_iptables_that_the_machine_uses_get_the_rules() {
    for (used, other) in [("legacy", "nft"), ("nft", "legacy")] {
        let world = World::new();
        for family in ["iptables", "ip6tables"] {
            let rule = ["-A", "FORWARD", "-j", "ACCEPT"];
            let output = world.node.command(&format!("{family}-{used}"), &rule);
            assert!(output.status.success(), "{output:?}");
        }
        let x = Ip::V4.addresses();
        let mut proxy = Proxy::new(&world, &world::config(Mode::Iptables));
        proxy
            .service(&world::service("web", x.service, serde_json::json!({})))
            .slice(&world::slice("web", &[(x.b, "here", true)]))
            .apply();
        assert_eq!(world.servers(&world.a, x.service, 80), [x.b]);
        let ours = |infix: &str| {
            let output = world.node.command(&format!("iptables-{infix}-save"), &[]);
            String::from_utf8_lossy(&output.stdout).contains("KUBE-SVC-")
        };
        assert!(ours(used) && !ours(other), "{}", world.dump());
    }
}
