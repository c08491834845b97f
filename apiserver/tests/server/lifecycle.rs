//! Starts, ends, and what is wrong with a start.

use std::time::{Duration, Instant};

use apiserver::start;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::fixture::{Server, config};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_keeps_keys_objects_and_tokens() {
    let server = Server::start().await;
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kept"}, "data": {"a": "b"}});
    let path = "/api/v1/namespaces/default/configmaps";
    assert_eq!(server.admin().post(path, body).await.code, 201);
    let (join, admin) = (
        server.running.join.clone(),
        server.running.pki.admin.clone(),
    );
    let directory = server.stop().await;

    let server = Server::start_with(directory, |_| {}).await;
    assert_eq!(server.running.join.ca_hash, join.ca_hash);
    assert_eq!(server.running.join.token, join.token);
    let caller = server.caller(Some((&admin.certificate_pem, &admin.key_pem)));
    let kept = caller.get(&format!("{path}/kept")).await;
    assert_eq!((kept.code, &kept.body["data"]), (200, &json!({"a": "b"})));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_cluster_has_its_default_objects() {
    let server = Server::start().await;
    let admin = server.admin();
    let service = admin
        .get("/api/v1/namespaces/default/services/kubernetes")
        .await;
    assert_eq!(
        service.body["spec"]["clusterIP"], "10.96.0.1",
        "{service:?}"
    );
    let slice = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    assert_eq!(admin.get(slice).await.code, 404, "loopback is no endpoint");
    let settings = admin
        .get("/api/v1/namespaces/kube-system/configmaps/fairlead")
        .await
        .body;
    assert_eq!(settings["data"]["clusterCIDRs"], "10.244.0.0/16");
    let dns = "/api/v1/namespaces/kube-system/services/kube-dns";
    assert_eq!(admin.get(dns).await.code, 404, "nobody serves it yet");
    let beat = serde_json::json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "n"}});
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    assert_eq!(admin.post(leases, beat).await.code, 201);
    let dns = admin.until(dns, 200).await.body;
    assert_eq!(dns["spec"]["clusterIP"], "10.96.0.10");
    for (path, least) in [
        ("/api/v1/namespaces", 4),
        ("/apis/rbac.authorization.k8s.io/v1/clusterroles", 70),
        ("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", 50),
        ("/apis/scheduling.k8s.io/v1/priorityclasses", 2),
        ("/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas", 11),
        (
            "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations",
            8,
        ),
        ("/apis/networking.k8s.io/v1/servicecidrs", 1),
    ] {
        let count = admin.get(path).await.body["items"]
            .as_array()
            .unwrap()
            .len();
        assert!(count >= least, "{path} has {count}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_told_whole_verbosely_and_check_by_check() {
    let server = Server::start().await;
    let admin = server.admin();
    assert_eq!(admin.get("/readyz").await.text, "ok");
    let verbose = admin.get("/readyz?verbose&exclude=log").await.text;
    assert!(
        verbose.starts_with("[+]ping ok\n[+]log excluded: ok\n[+]etcd ok\n"),
        "{verbose}"
    );
    assert!(verbose.ends_with("readyz check passed\n"), "{verbose}");
    assert_eq!(admin.get("/livez/etcd").await.text, "ok");
    assert_eq!(admin.get("/livez/nothing").await.code, 404);
    let answer = admin.get("/version").await;
    assert_eq!(answer.body["major"], "1");
    assert!(answer.headers.contains_key("audit-id"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_port_is_told_in_one_line() {
    let server = Server::start().await;
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path());
    config.secure_port = server.running.address.port();
    let error = start(config, CancellationToken::new())
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("is in use") && error.contains("--secure-port"),
        "{error}"
    );
    assert!(!error.contains('\n'));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_directory_in_use_or_of_another_cluster_is_told_in_one_line() {
    let one = Server::start().await;
    let error = start(config(one.directory.path()), CancellationToken::new()).await;
    let error = error.err().unwrap().to_string();
    assert!(error.contains("in use by another process"), "{error}");

    let two = Server::start().await;
    let (one, two) = (one.stop().await, two.stop().await);
    std::fs::remove_dir_all(one.path().join("pki")).unwrap();
    let error = restart_error(one.path()).await;
    assert!(error.contains("has no ca.crt"), "{error}");
    std::fs::rename(two.path().join("pki"), one.path().join("pki")).unwrap();
    let error = restart_error(one.path()).await;
    assert!(error.contains("and the store another"), "{error}");
    assert!(!error.contains('\n'));
}

/// Starts on a directory whose last server may still be letting go of it.
async fn restart_error(directory: &std::path::Path) -> String {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let error = start(config(directory), CancellationToken::new()).await;
        let error = error.err().unwrap().to_string();
        if !error.contains("in use") || Instant::now() > deadline {
            return error;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_say_nothing_do_not_hold_the_server_up() {
    let server = Server::start().await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(
            tokio::net::TcpStream::connect(server.running.address)
                .await
                .unwrap(),
        );
    }
    let admin = server.admin();
    let begun = Instant::now();
    assert_eq!(admin.get("/api/v1/namespaces").await.code, 200);
    assert!(begun.elapsed() < Duration::from_secs(5));
    drop(silent);
    let begun = Instant::now();
    drop(admin);
    server.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(15));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_has_a_lease_and_those_of_gone_ones_are_removed() {
    let server = Server::start().await;
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
    let admin = server.admin();
    let all = format!("{leases}?labelSelector=apiserver.kubernetes.io/identity=kube-apiserver");
    let has_one = |body: &Value| {
        body["items"]
            .as_array()
            .is_some_and(|items| items.len() == 1)
    };
    let found = admin.until_body(&all, has_one).await;
    let own = &found.body["items"][0];
    let name = own["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("apiserver-"), "{name}");
    let holder = own["spec"]["holderIdentity"].as_str().unwrap();
    assert!(holder.starts_with(&format!("{name}_")), "{holder}");
    assert_eq!(own["spec"]["leaseDurationSeconds"], 3600);
    // Another server, which ended long ago; the next start finds its Lease.
    let gone = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "apiserver-gone", "labels": own["metadata"]["labels"]},
        "spec": {"leaseDurationSeconds": 3600, "renewTime": "2020-01-01T00:00:00.000000Z"}});
    assert_eq!(admin.post(leases, gone).await.code, 201);
    let directory = server.stop().await;
    let server = Server::start_with(directory, |_| {}).await;
    let left = server.admin().until_body(&all, has_one).await;
    assert_eq!(left.body["items"][0]["metadata"]["name"], *name);
}
