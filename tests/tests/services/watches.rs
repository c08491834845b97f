//! Watches.

use anyhow::{Context, ensure};
use cluster_tests::site::{Site, Space, name};
use serde_json::{Value, json};

fn map(name: &str, label: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"watch-this": label}}})
}

fn kinds(events: &[Value]) -> Vec<String> {
    let of = |event: &Value| {
        let object = &event["object"];
        format!(
            "{} {}",
            event["type"].as_str().unwrap_or_default(),
            name(object)
        )
    };
    events.iter().map(of).collect()
}

fn version(object: &Value) -> anyhow::Result<String> {
    let version = object["metadata"]["resourceVersion"].as_str();
    Ok(version.context("no version")?.to_owned())
}

fn mutate(space: &Space<'_>, name: &str, times: u32) -> anyhow::Result<Value> {
    let change = json!({"data": {"mutation": times.to_string()}});
    space.merge(&format!("configmaps/{name}"), &change)
}

pub(crate) fn watches_begin_where_they_are_told_to(site: &Site) -> anyhow::Result<()> {
    let space = site.space("watch-from")?;
    space.create("configmaps", &map("m", "from-version"))?;
    let first = version(&mutate(&space, "m", 1)?)?;
    mutate(&space, "m", 2)?;
    space.delete("configmaps/m")?;
    let path = space.path("configmaps?labelSelector=watch-this%3Dfrom-version");
    let events = site.watched(&path, &first, 1)?;
    ensure!(
        kinds(&events) == ["MODIFIED m", "DELETED m"],
        "{:?}",
        kinds(&events)
    );
    // Resumed from the last that was seen, nothing is missed and nothing comes twice.
    let rest = site.watched(&path, &version(&events[0]["object"])?, 1)?;
    ensure!(kinds(&rest) == ["DELETED m"], "{:?}", kinds(&rest));
    let orders: Vec<Vec<String>> = std::thread::scope(|scope| {
        let watchers: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| site.watched(&path, &first, 2).map(|events| kinds(&events))))
            .collect();
        for number in 0..20 {
            space.create("configmaps", &map(&format!("n{number}"), "from-version"))?;
        }
        let join = |watcher: std::thread::ScopedJoinHandle<'_, anyhow::Result<Vec<String>>>| {
            watcher
                .join()
                .map_err(|_| anyhow::anyhow!("a watcher panicked"))?
        };
        watchers
            .into_iter()
            .map(join)
            .collect::<anyhow::Result<_>>()
    })?;
    let shortest = orders.iter().map(Vec::len).min().unwrap_or(0);
    ensure!(shortest > 2, "{orders:?}");
    for order in &orders {
        ensure!(order[..shortest] == orders[0][..shortest], "{orders:?}");
    }
    Ok(())
}

pub(crate) fn a_watch_of_labels_sees_objects_come_and_go(site: &Site) -> anyhow::Result<()> {
    let space = site.space("watch-labels")?;
    let start = version(&space.create("configmaps", &map("other", "no"))?)?;
    space.create("configmaps", &map("m", "yes"))?;
    mutate(&space, "m", 1)?;
    let label = |value: &str| json!({"metadata": {"labels": {"watch-this": value}}});
    space.merge("configmaps/m", &label("no"))?;
    mutate(&space, "m", 2)?;
    space.merge("configmaps/m", &label("yes"))?;
    mutate(&space, "m", 3)?;
    space.delete("configmaps/m")?;
    let path = space.path("configmaps?labelSelector=watch-this%3Dyes");
    let events = site.watched(&path, &start, 1)?;
    let wanted = [
        "ADDED m",
        "MODIFIED m",
        "DELETED m",
        "ADDED m",
        "MODIFIED m",
        "DELETED m",
    ];
    ensure!(kinds(&events) == wanted, "{:?}", kinds(&events));
    ensure!(
        events[4]["object"]["data"]["mutation"] == "3",
        "{:?}",
        events[4]
    );
    Ok(())
}
