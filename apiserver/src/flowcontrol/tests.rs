use http::Method;
use serde_json::json;

use super::*;
use crate::request::Query;

fn limited(name: &str, shares: u32, lends: u32, queues: Value) -> Value {
    json!({"metadata": {"name": name, "uid": name}, "spec": {"type": "Limited", "limited": {
        "nominalConcurrencyShares": shares, "lendablePercent": lends, "limitResponse": queues,
    }}})
}

fn queue(queues: u32, hand: u32, length: u32) -> Value {
    json!({"type": "Queue", "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": length}})
}

fn schema(name: &str, level: &str, precedence: i64, user: &str) -> Value {
    json!({"metadata": {"name": name, "uid": name}, "spec": {
        "priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence,
        "distinguisherMethod": {"type": "ByUser"},
        "rules": [{"subjects": [{"kind": "User", "user": {"name": user}}], "resourceRules": [
            {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]},
        ]}],
    }})
}

fn level(limits: Value, total: u32) -> Arc<Level> {
    let plan = Plan::new(&[], &[limits], total, &Plan::default());
    plan.levels.into_values().next().unwrap()
}

const SOON: Duration = Duration::from_millis(50);
const LATER: Duration = Duration::from_secs(30);

#[tokio::test]
async fn no_more_run_than_there_are_seats() {
    let level = level(limited("a", 1, 0, queue(1, 1, 1)), 2);
    let one = level.enter(1, 1, SOON).await.unwrap();
    let two = level.enter(1, 1, SOON).await.unwrap();
    let third = tokio::spawn({
        let level = level.clone();
        async move { level.enter(1, 1, LATER).await.is_ok() }
    });
    tokio::task::yield_now().await;
    assert_eq!(
        level.enter(1, 1, SOON).await.err(),
        Some(Rejected::QueueFull)
    );
    drop(one);
    assert!(third.await.unwrap());
    drop(two);
    // What waited in vain took nothing.
    let held = level.enter(1, 2, SOON).await.unwrap();
    assert_eq!(level.enter(1, 1, SOON).await.err(), Some(Rejected::TimeOut));
    drop(held);
    assert!(level.enter(1, 2, SOON).await.is_ok());
}

#[tokio::test]
async fn levels_without_queues_turn_away_and_exempt_ones_never() {
    let rejecting = level(limited("a", 1, 0, json!({"type": "Reject"})), 1);
    let held = rejecting.enter(1, 1, SOON).await.unwrap();
    assert_eq!(
        rejecting.enter(1, 1, SOON).await.err(),
        Some(Rejected::NoSeat)
    );
    drop(held);
    let exempt = level(
        json!({"metadata": {"name": "e", "uid": "e"}, "spec": {"type": "Exempt"}}),
        1,
    );
    let mut all = Vec::new();
    for _ in 0..100 {
        all.push(exempt.enter(1, 10, SOON).await.unwrap());
    }
}

#[tokio::test]
async fn a_flow_that_asks_for_everything_does_not_starve_another() {
    let level = level(limited("a", 1, 0, queue(8, 1, 100)), 1);
    let held = level.enter(0, 1, SOON).await.unwrap();
    let (sender, mut order) = tokio::sync::mpsc::unbounded_channel();
    let wait = |flow: u64, name: &'static str| {
        let (level, sender) = (level.clone(), sender.clone());
        tokio::spawn(async move {
            let _seats = level.enter(flow, 1, LATER).await.unwrap();
            sender.send(name).unwrap();
        });
    };
    for _ in 0..20 {
        wait(1, "elephant");
    }
    tokio::task::yield_now().await;
    // A flow with another queue.
    wait(3, "mouse");
    tokio::task::yield_now().await;
    drop(held);
    let mut seen = Vec::new();
    for _ in 0..21 {
        seen.push(order.recv().await.unwrap());
    }
    let mouse = seen.iter().position(|n| *n == "mouse").unwrap();
    assert!(mouse < 3, "{seen:?}");
}

#[tokio::test]
async fn idle_seats_are_lent() {
    let levels = [
        limited("busy", 1, 0, json!({"type": "Reject"})),
        limited("idle", 1, 50, json!({"type": "Reject"})),
    ];
    let plan = Plan::new(&[], &levels, 8, &Plan::default());
    let busy = plan.levels["busy"].clone();
    let mut held = Vec::new();
    while let Ok(seats) = busy.enter(1, 1, SOON).await {
        held.push(seats);
    }
    assert_eq!(held.len(), 6);
    // What is lent is not taken away from who owns it.
    let idle = plan.levels["idle"].clone();
    for _ in 0..4 {
        held.push(idle.enter(1, 1, SOON).await.unwrap());
    }
}

#[test]
fn the_first_schema_that_fits_decides() {
    let schemas = [
        schema("late", "x", 500, "*"),
        schema("early", "y", 100, "jane"),
    ];
    let plan = Plan::new(&schemas, &[], 1, &Plan::default());
    let info = RequestInfo::parse(&Method::GET, "/api/v1/pods", &Query::default());
    let chosen = |user: &str| {
        let user = UserInfo::new(user, ["g"]);
        let found = plan.schemas.iter().find(|s| s.fits(&user, &info));
        found.map(|s| s.name.clone())
    };
    assert_eq!(chosen("jane").as_deref(), Some("early"));
    assert_eq!(chosen("joe").as_deref(), Some("late"));
    let flow = |user: &str| plan.schemas[0].flow(&UserInfo::new(user, ["g"]), &info);
    assert_ne!(flow("jane"), flow("joe"));
}
