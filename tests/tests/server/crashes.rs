//! Crashes and a full disk: what was acknowledged stays.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use cluster_tests::api::Api;
use cluster_tests::cluster::{names, wait_for};
use cluster_tests::command::{command, outcome, run};
use cluster_tests::server::{Server, free_port};
use serde_json::json;

use crate::Suite;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const KILLS: u32 = 50;

pub(crate) fn acknowledged_writes_survive_fifty_kills(_: &Suite) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let data = directory.path().join("data");
    let port = free_port()?;
    let arguments = ["--controllers=", "--no-scheduler"];
    let mut acknowledged: Vec<String> = Vec::new();
    for round in 0..KILLS {
        let server = Server::start_on(&data, port, &arguments)?;
        let api = Api::of(&server.kubeconfig())?;
        let list = api.get(MAPS)?;
        let found = names(&list.body);
        for name in &acknowledged {
            ensure!(
                found.contains(name),
                "round {round}: {name} was acknowledged and is gone"
            );
        }
        for item in list.body["items"].as_array().into_iter().flatten() {
            let whole = item["data"]["a"]
                .as_str()
                .is_none_or(|text| text.len() == 1000);
            ensure!(whole, "half an object: {item}");
        }
        acknowledged.extend(write_until_killed(server, &api, round)?);
    }
    ensure!(
        acknowledged.len() > KILLS as usize,
        "only {} writes",
        acknowledged.len()
    );
    Ok(())
}

/// Writes from several sides, kills the server in the middle, and returns the names of what it
/// acknowledged.
fn write_until_killed(server: Server, api: &Api, round: u32) -> anyhow::Result<Vec<String>> {
    let stop = AtomicBool::new(false);
    let body = "x".repeat(1000);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                let (stop, body) = (&stop, &body);
                scope.spawn(move || {
                    let mut acknowledged = Vec::new();
                    for count in 0.. {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        let name = format!("w{round}-{writer}-{count}");
                        let map = json!({
                            "apiVersion": "v1", "kind": "ConfigMap",
                            "metadata": { "name": name }, "data": { "a": body },
                        });
                        match api.json("POST", MAPS, &map) {
                            Ok(answer) if answer.code == 201 => acknowledged.push(name),
                            _ => break,
                        }
                    }
                    acknowledged
                })
            })
            .collect();
        // Not at the same moment of each round.
        thread::sleep(Duration::from_millis(u64::from(60 + 13 * (round % 7))));
        server.kill()?;
        stop.store(true, Ordering::Relaxed);
        Ok(writers
            .into_iter()
            .flat_map(|writer| writer.join().unwrap_or_default())
            .collect())
    })
}

/// A small file system of the test's own. It is unmounted with the value.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(at: &'a Path) -> anyhow::Result<Self> {
        fs::create_dir_all(at)?;
        let mut mount = command("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"])
            .arg(at);
        outcome(&mut mount, None)?.success()?;
        Ok(Self(at))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = run("umount", &["-l".as_ref(), self.0.as_os_str()]);
    }
}

pub(crate) fn a_full_disk_refuses_writes_and_recovers(_: &Suite) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let disk = directory.path().join("disk");
    let _mounted = SmallDisk::mount(&disk)?;
    let mut server = Server::start(&disk.join("data"), &["--controllers=", "--no-scheduler"])?;
    let api = Api::of(&server.kubeconfig())?;
    let map = |name: &str| {
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name },
                "data": { "a": "x".repeat(100_000) } })
    };
    let before = api.json("POST", MAPS, &map("before"))?;
    ensure!(before.code == 201, "{before:?}");
    fill(&disk.join("ballast"))?;
    let mut refused = None;
    for count in 0..200 {
        let answer = api.json("POST", MAPS, &map(&format!("filling-{count}")))?;
        if answer.code != 201 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.context("every write found room")?;
    ensure!(refused.code >= 500, "{refused:?}");
    let message = refused.body["message"].as_str().unwrap_or_default();
    ensure!(
        message.contains("space"),
        "the refusal does not say why: {refused:?}"
    );
    ensure!(server.is_alive()?, "the server ended");
    ensure!(
        api.get(&format!("{MAPS}/before"))?.code == 200,
        "reads fail"
    );
    fs::remove_file(disk.join("ballast"))?;
    wait_for("writes to succeed again", Duration::from_secs(30), || {
        let code = api.json("POST", MAPS, &map("after"))?.code;
        Ok(code == 201 || code == 409)
    })
}

/// Writes until nothing more fits.
fn fill(path: &Path) -> anyhow::Result<()> {
    use std::io::Write;
    let mut file = fs::File::create(path)?;
    let block = vec![0; 64 << 10];
    while file.write_all(&block).is_ok() {}
    let small = vec![0; 512];
    while file.write_all(&small).is_ok() {}
    Ok(())
}
