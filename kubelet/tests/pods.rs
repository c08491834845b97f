//! Pods on a real containerd: what they get, how they end, what is left of them.

mod support;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::inside;
use support::node::{Node, condition};

fn sh(script: &str) -> Value {
    json!(["sh", "-c", script])
}

/// A script that ends when it is told to.
fn wait_script(before: &str) -> Value {
    sh(&format!(
        "trap 'exit 0' TERM; {before}; while :; do sleep 0.1; done"
    ))
}

#[test]
fn a_pod_runs_is_ready_and_goes_without_a_trace() {
    inside::run("a_pod_runs_is_ready_and_goes_without_a_trace", async || {
        let node = Node::start().await;
        let begun = Instant::now();
        node.create(
            "p",
            json!({"containers": [{"name": "c", "command": wait_script("echo hello")}]}),
        );
        let pod = node.ready("p").await;
        println!("running after {:?}", begun.elapsed());
        assert!(
            pod["status"]["podIP"]
                .as_str()
                .unwrap()
                .starts_with("10.88.0.")
        );
        assert_eq!(pod["status"]["hostIP"], "192.0.2.1");
        assert_eq!(pod["status"]["qosClass"], "BestEffort");
        assert_eq!(pod["status"]["observedGeneration"], 1);
        node.says("p", "c", "hello\n").await;
        let status = &pod["status"]["containerStatuses"][0];
        assert_eq!(
            (&status["restartCount"], &status["ready"]),
            (&json!(0), &json!(true))
        );
        let uid = pod["metadata"]["uid"].as_str().unwrap().to_owned();
        node.api.delete("api/v1/pods", "default", "p", None);
        node.gone("p").await;
        let left = [
            node.file(&format!("kubelet/pods/{uid}")),
            node.file(&format!("logs/pods/default_p_{uid}")),
        ];
        let begun = Instant::now();
        while left.iter().any(|path| path.exists()) {
            assert!(begun.elapsed() < Duration::from_secs(20), "{left:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for reason in ["Pulled", "Created", "Started", "Killing"] {
            assert!(node.has_event("p", reason), "{reason}");
        }
    });
}

#[test]
fn restart_policies_decide_how_a_pod_ends() {
    inside::run("restart_policies_decide_how_a_pod_ends", async || {
        let node = Node::start().await;
        let pod = |policy: &str, script: &str| json!({"restartPolicy": policy, "containers": [{"name": "c", "command": sh(script)}]});
        node.create("good", pod("Never", "echo last > /dev/termination-log"));
        node.create("bad", pod("Never", "exit 3"));
        node.create("again", pod("OnFailure", "exit 1"));
        node.create("forever", pod("Always", "exit 0"));
        let good = node.phase("good", "Succeeded").await;
        let ended = &good["status"]["containerStatuses"][0]["state"]["terminated"];
        assert_eq!(
            (&ended["reason"], &ended["exitCode"]),
            (&json!("Completed"), &json!(0))
        );
        assert_eq!(ended["message"], "last\n");
        let bad = node.phase("bad", "Failed").await;
        assert_eq!(
            bad["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"],
            3
        );
        assert_eq!(condition(&bad, "Ready"), "False");
        for name in ["again", "forever"] {
            let pod = node.wait(name, "crashing", |pod| {
                let status = &pod["status"]["containerStatuses"][0];
                status["restartCount"] == 1
                    && status["state"]["waiting"]["reason"] == "CrashLoopBackOff"
            });
            let pod = pod.await;
            assert_eq!(pod["status"]["phase"], "Running");
            assert!(!pod["status"]["containerStatuses"][0]["lastState"]["terminated"].is_null());
        }
    });
}

#[test]
fn init_containers_run_in_order_and_sidecars_outlive_them() {
    inside::run(
        "init_containers_run_in_order_and_sidecars_outlive_them",
        async || {
            let node = Node::start().await;
            let mount = json!([{"name": "v", "mountPath": "/v"}]);
            node.create("p", json!({
            "restartPolicy": "Never",
            "volumes": [{"name": "v", "emptyDir": {}}],
            "initContainers": [
                {"name": "first", "command": sh("echo 1 >> /v/order"), "volumeMounts": mount},
                {"name": "side", "restartPolicy": "Always", "volumeMounts": mount,
                 "command": wait_script("trap 'echo side >> /v/order; exit 0' TERM; echo 2 >> /v/order; touch /v/up"),
                 "startupProbe": {"exec": {"command": ["test", "-e", "/v/up"]}, "periodSeconds": 1}},
                {"name": "last", "command": sh("echo 3 >> /v/order"), "volumeMounts": mount},
            ],
            "containers": [{"name": "c", "command": sh("echo 4 >> /v/order; cat /v/order"), "volumeMounts": mount}],
        }));
            let pod = node.phase("p", "Succeeded").await;
            node.says("p", "c", "1\n2\n3\n4\n").await;
            assert_eq!(
                pod["status"]["initContainerStatuses"][1]["state"]["terminated"]["exitCode"],
                0
            );
        },
    );
}

#[test]
fn probes_make_ready_and_restart() {
    inside::run("probes_make_ready_and_restart", async || {
        let node = Node::start().await;
        node.create(
            "http",
            json!({"containers": [{"name": "c",
            "command": sh("mkdir -p /tmp/w; echo ok > /tmp/w/ok; exec httpd -f -p 8080 -h /tmp/w"),
            "readinessProbe": {"httpGet": {"path": "/ok", "port": 8080}, "periodSeconds": 1},
            "livenessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}}]}),
        );
        node.create(
            "never",
            json!({"containers": [{"name": "c", "command": wait_script(":"),
            "readinessProbe": {"exec": {"command": ["false"]}, "periodSeconds": 1}}]}),
        );
        node.create("dies", json!({"containers": [{"name": "c", "command": wait_script("touch /tmp/up; (sleep 2; rm -f /tmp/up) &"),
            "livenessProbe": {"exec": {"command": ["cat", "/tmp/up"]}, "periodSeconds": 1, "failureThreshold": 1}}]}));
        node.ready("http").await;
        node.wait("dies", "restarted", |pod| {
            pod["status"]["containerStatuses"][0]["restartCount"] == 1
        })
        .await;
        assert!(node.has_event("dies", "Unhealthy"));
        let never = node.running("never").await;
        assert_eq!(condition(&never, "Ready"), "False");
        assert_eq!(never["status"]["containerStatuses"][0]["restartCount"], 0);
    });
}

#[test]
fn volumes_have_their_contents_and_follow_changes() {
    inside::run(
        "volumes_have_their_contents_and_follow_changes",
        async || {
            let node = Node::start().await;
            node.api.put(
                "api/v1/configmaps",
                json!({"metadata": {"name": "m", "namespace": "default"}, "data": {"k": "one"}}),
            );
            node.api.put("api/v1/secrets", json!({"metadata": {"name": "s", "namespace": "default"}, "data": {"p": "c2VjcmV0"}}));
            node.create("p", json!({
            "securityContext": {"fsGroup": 4321, "runAsUser": 1234},
            "volumes": [
                {"name": "m", "configMap": {"name": "m"}},
                {"name": "s", "secret": {"secretName": "s", "defaultMode": 0o400}},
                {"name": "mem", "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}},
                {"name": "disk", "emptyDir": {}},
                {"name": "down", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
                {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}}]}},
            ],
            "containers": [{"name": "c", "command": wait_script(":"),
                "env": [{"name": "K", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}},
                        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                "volumeMounts": [
                    {"name": "m", "mountPath": "/m"}, {"name": "s", "mountPath": "/s"},
                    {"name": "mem", "mountPath": "/mem"}, {"name": "disk", "mountPath": "/disk"},
                    {"name": "down", "mountPath": "/down"}, {"name": "token", "mountPath": "/token"},
                    {"name": "m", "mountPath": "/one", "subPath": "k"},
                    {"name": "disk", "mountPath": "/sub", "subPathExpr": "dir-$(K)"},
                ]}],
        }));
            let pod = node.running("p").await;
            let run = async |script: &str| node.exec("p", "c", &["sh", "-c", script]).await;
            assert_eq!(
                run("cat /m/k /s/p /token/token /one; echo; echo $K $IP")
                    .await
                    .1,
                format!(
                    "onesecreta-tokenone\none {}\n",
                    pod["status"]["podIP"].as_str().unwrap()
                )
            );
            assert_eq!(
                run("stat -L -c %a:%g /s/p /disk /mem").await.1,
                "440:4321\n2777:4321\n2777:4321\n"
            );
            assert_eq!(
                run("touch /disk/x /mem/x /sub/y && test -e /disk/dir-one/y && echo ok")
                    .await
                    .1,
                "ok\n"
            );
            assert_ne!(
                run("touch /m/x").await.0,
                0,
                "made from an object: read-only"
            );
            assert_ne!(
                run("dd if=/dev/zero of=/mem/big bs=1M count=9").await.0,
                0,
                "no more than its limit"
            );
            node.api.patch(
                "api/v1/configmaps",
                "default",
                "m",
                &json!({"data": {"k": "two"}}),
            );
            node.api.patch(
                "api/v1/pods",
                "default",
                "p",
                &json!({"metadata": {"labels": {"l": "v"}}}),
            );
            let begun = Instant::now();
            while run("cat /m/k /down/labels").await.1 != "twol=\"v\"" {
                assert!(
                    begun.elapsed() < Duration::from_secs(5),
                    "changes come by themselves"
                );
            }
        },
    );
}

#[test]
fn what_is_missing_is_waited_for() {
    inside::run("what_is_missing_is_waited_for", async || {
        let node = Node::start().await;
        node.create("env", json!({"containers": [{"name": "c", "command": wait_script(":"),
            "env": [{"name": "K", "valueFrom": {"configMapKeyRef": {"name": "late", "key": "k"}}}]}]}));
        node.create("volume", json!({"volumes": [{"name": "v", "configMap": {"name": "late"}}],
            "containers": [{"name": "c", "command": wait_script(":"), "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}));
        node.create(
            "image",
            json!({"containers": [{"name": "c", "image": "none:1", "imagePullPolicy": "Never"}]}),
        );
        node.create(
            "name",
            json!({"containers": [{"name": "c", "image": "NO/Name"}]}),
        );
        let waits = |reason: &'static str| {
            move |pod: &Value| {
                pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == reason
            }
        };
        node.wait("env", "waiting", waits("CreateContainerConfigError"))
            .await;
        node.wait("image", "refused", waits("ErrImageNeverPull"))
            .await;
        node.wait("name", "refused", waits("InvalidImageName"))
            .await;
        assert!(node.has_event("volume", "FailedMount"));
        node.api.put(
            "api/v1/configmaps",
            json!({"metadata": {"name": "late", "namespace": "default"}, "data": {"k": "v"}}),
        );
        node.ready("env").await;
        node.ready("volume").await;
    });
}

#[test]
fn limits_identity_and_names_reach_the_container() {
    inside::run(
        "limits_identity_and_names_reach_the_container",
        async || {
            let node = Node::start().await;
            node.api.put(
                "api/v1/services",
                json!({"metadata": {"name": "kubernetes", "namespace": "default"},
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 443, "name": "https"}]}}),
            );
            node.create("p", json!({
            "hostname": "h", "subdomain": "s",
            "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["alias"]}],
            "securityContext": {"runAsUser": 33, "runAsGroup": 44, "supplementalGroups": [55]},
            "containers": [{"name": "c", "command": wait_script(":"),
                "securityContext": {"readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
                    "capabilities": {"drop": ["ALL"]}},
                "resources": {"limits": {"cpu": "500m", "memory": "64Mi"}}}],
        }));
            let pod = node.running("p").await;
            assert_eq!(pod["status"]["qosClass"], "Guaranteed");
            let run = async |script: &str| node.exec("p", "c", &["sh", "-c", script]).await.1;
            assert_eq!(
                run("id -u; id -g; id -G; hostname").await,
                "33\n44\n44 55\nh\n"
            );
            let hosts = run("cat /etc/hosts").await;
            assert!(
                hosts.starts_with("# Kubernetes-managed hosts file.\n")
                    && hosts.contains("1.2.3.4\talias"),
                "{hosts}"
            );
            assert!(
                hosts.contains("\th.s.default.svc.cluster.local\th\n"),
                "{hosts}"
            );
            let resolver = run("cat /etc/resolv.conf").await;
            assert!(
                resolver.contains("nameserver 10.96.0.10") && resolver.contains("ndots:5"),
                "{resolver}"
            );
            assert!(
                run("touch /x 2>&1; grep NoNewPrivs /proc/self/status")
                    .await
                    .contains("NoNewPrivs:\t1")
            );
            let env = run("env").await;
            assert!(env.contains("KUBERNETES_SERVICE_HOST=10.96.0.1"), "{env}");
            let uid = pod["metadata"]["uid"].as_str().unwrap();
            let memory = format!(
                "/sys/fs/cgroup/memory/{}/kubepods/pod{uid}/memory.limit_in_bytes",
                inside::cgroup_root()
            );
            let unified = format!(
                "/sys/fs/cgroup/{}/kubepods/pod{uid}/memory.max",
                inside::cgroup_root()
            );
            let limit = std::fs::read_to_string(memory)
                .or_else(|_| std::fs::read_to_string(unified))
                .unwrap();
            assert_eq!(limit.trim(), (64 << 20).to_string());
        },
    );
}

#[test]
fn hooks_run_and_grace_is_kept() {
    inside::run("hooks_run_and_grace_is_kept", async || {
        let node = Node::start().await;
        let host = node.file("shared");
        node.create("p", json!({
            "terminationGracePeriodSeconds": 5,
            "volumes": [{"name": "h", "hostPath": {"path": host, "type": "DirectoryOrCreate"}}],
            "containers": [{"name": "c", "command": wait_script("trap 'echo term >> /h/log; exit 0' TERM"),
                "volumeMounts": [{"name": "h", "mountPath": "/h"}],
                "lifecycle": {
                    "postStart": {"exec": {"command": sh("echo start >> /h/log")}},
                    "preStop": {"exec": {"command": sh("echo stop >> /h/log")}}}}],
        }));
        node.create("stubborn", json!({"containers": [{"name": "c", "command": sh("trap '' TERM; while :; do sleep 0.1; done")}]}));
        node.ready("p").await;
        node.ready("stubborn").await;
        node.api.delete("api/v1/pods", "default", "p", None);
        let begun = Instant::now();
        node.api
            .delete("api/v1/pods", "default", "stubborn", Some(2));
        node.gone("p").await;
        assert_eq!(
            std::fs::read_to_string(host.join("log")).unwrap(),
            "start\nstop\nterm\n"
        );
        node.gone("stubborn").await;
        assert!(
            begun.elapsed() >= Duration::from_secs(2),
            "it had its grace"
        );
    });
}

#[test]
fn a_pod_that_does_not_fit_or_takes_too_long_fails() {
    inside::run(
        "a_pod_that_does_not_fit_or_takes_too_long_fails",
        async || {
            let node = Node::start().await;
            let container = json!([{"name": "c", "command": wait_script(":"), "resources": {"requests": {"cpu": "9999"}}}]);
            node.create("big", json!({"containers": container}));
            let big = node.phase("big", "Failed").await;
            assert_eq!(big["status"]["reason"], "OutOfcpu");
            node.create("slow", json!({"activeDeadlineSeconds": 1, "containers": [{"name": "c", "command": wait_script(":")}]}));
            let slow = node.phase("slow", "Failed").await;
            assert_eq!(slow["status"]["reason"], "DeadlineExceeded");
        },
    );
}
