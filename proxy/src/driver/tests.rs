//! The driver with an API server in memory and a kernel that refuses what it is told to.

#[path = "../../tests/node/api.rs"]
mod api;

use std::sync::{Arc, Mutex};

use api::{Api, NODES, SERVICES, SLICES};
use serde_json::json;
use watch_cache::WatchCaches;

use super::*;
use crate::samples::{HERE, ready, service, slice};

/// How often the kernel refuses the Service `bad`.
const REFUSALS: usize = 2;

/// The Services of each write, in order.
type Written = Arc<Mutex<Vec<Vec<String>>>>;

fn refusing(written: Written) -> Writer {
    let bad = ServiceKey::new("default", "bad");
    let mut refused = 0;
    Writer::with(move |job| {
        let keys: Vec<ServiceKey> = match &job {
            Job::Check => return Done::Intact(true),
            Job::Resync { desired, .. } => desired.services.keys().cloned().collect(),
            Job::Apply { changes } => changes.keys().cloned().collect(),
        };
        let mut outcome = Outcome::default();
        if keys.contains(&bad) && refused < REFUSALS {
            refused += 1;
            outcome.failed.insert(bad.clone(), "no room".to_owned());
        }
        let names = keys.iter().map(|key| key.name.to_string()).collect();
        written.lock().expect("no panic while held").push(names);
        Done::Written(outcome)
    })
}

async fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_refused_service_is_tried_again_by_itself_until_the_kernel_takes_it() {
    let api = Api::default();
    api.apply(NODES, &json!({"metadata": {"name": HERE}}));
    for (name, address) in [("good", "10.96.0.10"), ("bad", "10.96.0.11")] {
        api.apply(SERVICES, &service(name, address, json!({})));
        api.apply(SLICES, &slice(name, "a", &[ready("10.244.1.3", HERE)]));
    }
    let client = api.client();
    let deps = Deps {
        caches: WatchCaches::new(client.clone()),
        client,
        mode: None,
    };
    let config = Config {
        node_name: HERE.to_owned(),
        healthz: None,
        metrics: None,
        ..Config::default()
    };
    let (written, shutdown) = (Written::default(), CancellationToken::new());
    let driver = tokio::spawn(run_with(
        refusing(written.clone()),
        Mode::Nftables,
        config,
        deps,
        shutdown.clone(),
    ));
    let times = |name: &str| {
        let all = written.lock().expect("no panic while held");
        let of_name = all.iter().filter(|keys| keys.iter().any(|key| key == name));
        of_name.count()
    };
    wait_for("the kernel to take it", || times("bad") > REFUSALS).await;
    let told = ("ServiceRefused".to_owned(), "bad".to_owned());
    wait_for("an Event", || api.events().contains(&told)).await;
    // Nobody else was written again for its sake, and it is left alone now.
    api.apply(SERVICES, &service("late", "10.96.0.12", json!({})));
    wait_for("the next change", || times("late") == 1).await;
    assert_eq!((times("good"), times("bad")), (1, REFUSALS + 1));
    shutdown.cancel();
    driver.await.expect("no panic");
}

#[test]
fn pauses_between_attempts_grow_up_to_a_limit() {
    let mut pauses = vec![FIRST_PAUSE];
    while pauses.last() < Some(&LONGEST_PAUSE) {
        pauses.extend(pauses.last().copied().map(longer));
    }
    assert!(
        pauses.windows(2).all(|pair| pair[0] < pair[1]),
        "{pauses:?}"
    );
    assert_eq!(longer(LONGEST_PAUSE), LONGEST_PAUSE);
}
