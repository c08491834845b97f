//! Namespaces and the notifications from within them.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::time::Duration;

use ipnetwork::IpNetwork;
use kernel::MacAddress;
use kernel::address::{self, Address};
use kernel::link::{self, NewLink, Settings};
use kernel::monitor::{Event, Group, Monitor};
use kernel::neighbour::{self, FdbEntry};
use kernel::netns::Netns;
use kernel::testing::TestNetns;

#[test]
fn a_namespace_is_made_found_by_name_and_deleted_twice() {
    let name = format!("fltest-{}-own", std::process::id());
    let made = Netns::create(&name).unwrap();
    let found = Netns::named(&name).unwrap();
    assert_eq!(made.id().unwrap(), found.id().unwrap());
    assert_ne!(made.id().unwrap(), Netns::current().unwrap().id().unwrap());
    let inside = made
        .run(|| Netns::current().unwrap().id().unwrap())
        .unwrap();
    assert_eq!(inside, made.id().unwrap());
    assert!(
        Netns::create(&name)
            .unwrap_err()
            .to_string()
            .contains(&name)
    );
    Netns::delete(&name).unwrap();
    Netns::delete(&name).unwrap();
    assert!(Netns::named(&name).unwrap_err().is_not_found());
}

#[test]
fn a_file_that_is_no_namespace_is_refused() {
    assert!(Netns::open("/proc/self/status").unwrap_err().is_not_found());
    assert!(
        Netns::open("/proc/self/nothing")
            .unwrap_err()
            .is_not_found()
    );
}

#[test]
fn a_panic_inside_a_namespace_reaches_the_caller() {
    let ns = TestNetns::new("panic");
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        ns.run(|| panic!("inside"));
    }));
    assert_eq!(*caught.unwrap_err().downcast::<&str>().unwrap(), "inside");
}

async fn until(monitor: &mut Monitor, wanted: impl Fn(&Event) -> bool) {
    let search = async { while !wanted(&monitor.next().await.unwrap()) {} };
    tokio::time::timeout(Duration::from_secs(5), search)
        .await
        .expect("the event comes");
}

#[test]
fn changes_of_links_addresses_routes_and_neighbours_are_told() {
    let ns = TestNetns::new("monitor");
    let groups = [
        Group::Links,
        Group::Addresses,
        Group::Routes,
        Group::Neighbours,
    ];
    ns.block_on(async {
        let mut monitor = Monitor::open(&groups).unwrap();
        let vxlan = link::Vxlan {
            vni: 7,
            port: 8472,
            local: None,
            device: None,
            learning: false,
            group_policy: false,
        };
        ns.execute(&[link::create(
            &NewLink::vxlan("v0", vxlan).with(Settings::up()),
        )]);
        until(
            &mut monitor,
            |e| matches!(e, Event::NewLink(link) if link.name == "v0"),
        )
        .await;
        let index = ns.index("v0");

        let network: IpNetwork = "10.0.0.1/24".parse().unwrap();
        let address = Address::new(index, network);
        ns.execute(&[address::add(&address)]);
        until(
            &mut monitor,
            |e| matches!(e, Event::NewAddress(a) if a.network == network),
        )
        .await;
        until(
            &mut monitor,
            |e| matches!(e, Event::NewRoute(r) if r.destination.to_string() == "10.0.0.0/24"),
        )
        .await;

        let mac = MacAddress([2, 0, 0, 0, 0, 9]);
        let entry = FdbEntry::tunnel(index, mac, "192.0.2.2".parse().unwrap());
        ns.execute(&[
            neighbour::replace_fdb(&entry),
            neighbour::delete_fdb(&entry),
        ]);
        until(&mut monitor, |e| *e == Event::NewFdbEntry(entry.clone())).await;
        until(&mut monitor, |e| {
            *e == Event::DeletedFdbEntry(entry.clone())
        })
        .await;

        ns.execute(&[link::delete(index)]);
        until(
            &mut monitor,
            |e| matches!(e, Event::DeletedLink(link) if link.index == index),
        )
        .await;
    });
}
