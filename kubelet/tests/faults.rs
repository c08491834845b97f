//! A kubelet that is killed, a runtime that is killed, pods that nobody knows any more.

mod support;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::inside;
use support::node::{Node, PATIENCE, condition, socket};

fn waiter() -> Value {
    json!({"containers": [{"name": "c", "command": ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"],
        "readinessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1}}]})
}

fn container_id(pod: &Value) -> String {
    pod["status"]["containerStatuses"][0]["containerID"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn a_new_kubelet_takes_over_what_runs() {
    inside::run("a_new_kubelet_takes_over_what_runs", async || {
        let mut node = Node::start().await;
        node.create("stays", waiter());
        node.create("goes", waiter());
        let before = node.ready("stays").await;
        let goes = node.ready("goes").await;
        node.kill_kubelet().await;
        // While nobody looks, one pod is removed from the API by force.
        node.api.delete("api/v1/pods", "default", "goes", Some(0));
        node.start_kubelet(|_| {}).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let after = node.pod("stays");
        assert_eq!(container_id(&after), container_id(&before));
        assert_eq!(after["status"]["containerStatuses"][0]["restartCount"], 0);
        assert_eq!(
            condition(&after, "Ready"),
            "True",
            "it never became unready"
        );
        let ready_since = |pod: &Value| {
            let list = pod["status"]["conditions"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            list.iter()
                .find(|c| c["type"] == "Ready")
                .map(|c| c["lastTransitionTime"].clone())
        };
        assert_eq!(ready_since(&after), ready_since(&before));
        let gone = container_id(&goes)
            .trim_start_matches("containerd://")
            .to_owned();
        let runtime = cri::Runtime::new(socket());
        let begun = Instant::now();
        while runtime.container_status(gone.clone()).await.is_ok() {
            assert!(begun.elapsed() < PATIENCE, "the orphan is removed");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        node.api.delete("api/v1/pods", "default", "stays", None);
        node.gone("stays").await;
    });
}

#[test]
fn pods_outlive_the_runtimes_restart_and_the_node_says_so() {
    inside::run(
        "pods_outlive_the_runtimes_restart_and_the_node_says_so",
        async || {
            let mut node = Node::start().await;
            node.create("p", waiter());
            let before = node.ready("p").await;
            let node_ready = |api: &support::api::Api| {
                condition(
                    &api.get("api/v1/nodes", "", support::node::NODE)
                        .unwrap_or_default(),
                    "Ready",
                )
            };
            assert_eq!(node_ready(&node.api), "True");
            node.kill_containerd();
            let begun = Instant::now();
            while node_ready(&node.api) != "False" {
                assert!(
                    begun.elapsed() < PATIENCE,
                    "the node is not ready without a runtime"
                );
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            assert_eq!(
                node.pod("p")["status"]["phase"],
                "Running",
                "the pod still runs"
            );
            node.restart_containerd();
            let begun = Instant::now();
            while node_ready(&node.api) != "True" {
                assert!(begun.elapsed() < PATIENCE);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let after = node.ready("p").await;
            assert_eq!(container_id(&after), container_id(&before));
            node.create("q", waiter());
            node.ready("q").await;
        },
    );
}

#[test]
fn a_killed_container_is_seen_and_restarted_at_once() {
    inside::run(
        "a_killed_container_is_seen_and_restarted_at_once",
        async || {
            let node = Node::start().await;
            node.create("p", waiter());
            node.ready("p").await;
            let _ = node
                .exec("p", "c", &["sh", "-c", "kill -9 -1; kill 1"])
                .await;
            node.wait("p", "restarted", |pod| {
                pod["status"]["containerStatuses"][0]["restartCount"] == 1
            })
            .await;
            node.ready("p").await;
        },
    );
}

/// The processes of the pods' sandboxes.
fn sandbox_processes() -> Vec<i32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let pid = entry.file_name().to_string_lossy().parse::<i32>();
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if let (Ok(pid), true) = (pid, command.starts_with(b"/bin/sleep\x001000000")) {
            found.push(pid);
        }
    }
    found
}

#[test]
fn a_sandbox_that_dies_is_replaced_and_the_pod_goes_on_in_it() {
    inside::run(
        "a_sandbox_that_dies_is_replaced_and_the_pod_goes_on_in_it",
        async || {
            let node = Node::start().await;
            node.create("p", waiter());
            let before = node.ready("p").await;
            let sandboxes = sandbox_processes();
            assert!(!sandboxes.is_empty(), "the sandbox's process is not found");
            for pid in sandboxes {
                let pid = nix::unistd::Pid::from_raw(pid);
                nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("killed");
            }
            let after = node
                .wait("p", "in a new sandbox", |pod| {
                    condition(pod, "Ready") == "True" && container_id(pod) != container_id(&before)
                })
                .await;
            assert_eq!(after["status"]["containerStatuses"][0]["restartCount"], 1);
            let begun = Instant::now();
            while !node.has_event("p", "SandboxChanged") {
                assert!(begun.elapsed() < PATIENCE);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        },
    );
}
