//! The whole API server and the least that a namespace needs to be usable: its service account,
//! the CA's ConfigMap and its end. For trying things out and for replaying recorded requests.
//!
//! `cargo run -p apiserver --example namespaces -- PORT DIRECTORY`

use std::time::Duration;

use apiserver::authn::UserInfo;
use apiserver::response::BoxError;
use apiserver::{ApiServer, Config};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut arguments = std::env::args().skip(1);
    let port: u16 = arguments.next().unwrap_or_else(|| "6443".into()).parse()?;
    let directory = arguments
        .next()
        .unwrap_or_else(|| "/tmp/fairlead-serve".into());
    let config = Config {
        secure_port: port,
        data_dir: directory.into(),
        ..Config::default()
    };
    let running = apiserver::start(config, CancellationToken::new()).await?;
    println!("KUBECONFIG={}", running.admin_kubeconfig.display());
    let api = running.api().clone();
    let user = UserInfo::new(
        "system:kube-controller-manager",
        ["system:masters", "system:authenticated"],
    );
    let client = running.client_for(user);
    loop {
        if let Err(error) = keep_namespaces(&client, &api).await {
            eprintln!("{error}");
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

async fn keep_namespaces(client: &Client, api: &ApiServer) -> Result<(), BoxError> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    for namespace in namespaces.list(&ListParams::default()).await? {
        let name = namespace.name_any();
        if namespace.metadata.deletion_timestamp.is_some() {
            finish(client, api, namespace).await?;
            continue;
        }
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &name);
        if accounts.get_opt("default").await?.is_none() {
            let account = serde_json::from_value(json!({"metadata": {"name": "default"}}))?;
            let _ = accounts.create(&PostParams::default(), &account).await;
        }
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &name);
        if maps.get_opt("kube-root-ca.crt").await?.is_none() {
            let map = serde_json::from_value(json!({
                "metadata": {
                    "name": "kube-root-ca.crt",
                    "annotations": {"kubernetes.io/description": "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters."},
                },
                "data": {"ca.crt": "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"},
            }))?;
            let options = PostParams {
                field_manager: Some("kube-controller-manager".into()),
                ..PostParams::default()
            };
            let _ = maps.create(&options, &map).await;
        }
    }
    Ok(())
}

/// Empties a namespace that is being deleted, then lets it go.
async fn finish(client: &Client, api: &ApiServer, namespace: Namespace) -> Result<(), BoxError> {
    let name = namespace.name_any();
    let mut left = 0;
    for resource in api.registry().catalog.all() {
        if !resource.namespaced() || !resource.allows("delete") {
            continue;
        }
        for object in api
            .registry()
            .list(&resource.storage.0, &resource.plural, &name)
        {
            left += 1;
            let path = format!(
                "{}/{}?gracePeriodSeconds=0&propagationPolicy=Background",
                resource.path(Some(&name)),
                object.name()
            );
            let request = http::Request::delete(path).body(Vec::new())?;
            let _ = client.request_text(request).await;
        }
    }
    if left == 0 {
        let mut done = namespace;
        done.spec.get_or_insert_default().finalizers = None;
        let path = format!("/api/v1/namespaces/{name}/finalize");
        let request = http::Request::put(path)
            .header("content-type", "application/json")
            .body(serde_json::to_vec(&done)?)?;
        let _ = client.request_text(request).await;
    }
    Ok(())
}
