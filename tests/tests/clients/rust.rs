//! The Rust client, as controllers use it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::controller::Action;
use kube::runtime::finalizer::{Event as Finalizing, finalizer};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{Controller, WatchStreamExt, reflector, watcher as watch};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::Suite;

const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a case with a client, and gives up on it in the end.
fn with_client<F, R>(kubeconfig: &Path, case: F) -> anyhow::Result<()>
where
    F: FnOnce(Client) -> R,
    R: Future<Output = anyhow::Result<()>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await?;
        timeout(PATIENCE, case(Client::try_from(config)?))
            .await
            .context("not in time")?
    })
}

fn map(name: &str) -> ConfigMap {
    let mut map = ConfigMap::default();
    map.metadata.name = Some(name.to_owned());
    map.metadata.labels = Some(BTreeMap::from([("kept".to_owned(), "1".to_owned())]));
    map
}

pub(crate) fn a_watcher_streams_its_first_list(suite: &Suite) -> anyhow::Result<()> {
    let kubectl = suite.kubectl("rust-watcher")?;
    with_client(&suite.kubeconfig(), async |client| {
        let maps: Api<ConfigMap> = Api::namespaced(client, &kubectl.namespace);
        for number in 0..30 {
            maps.create(&PostParams::default(), &map(&format!("m{number:02}")))
                .await?;
        }
        let config = watcher::Config::default()
            .labels("kept=1")
            .streaming_lists();
        let mut events = std::pin::pin!(watch(maps.clone(), config));
        let mut first = Vec::new();
        loop {
            match events.try_next().await?.context("the end")? {
                Event::Init => ensure!(first.is_empty(), "begun anew"),
                Event::InitApply(map) => first.push(map.name_any()),
                Event::InitDone => break,
                other => anyhow::bail!("{other:?} before the list is complete"),
            }
        }
        ensure!(first.len() == 30 && first.is_sorted(), "{first:?}");
        maps.delete("m03", &DeleteParams::default()).await?;
        let label = json!({"metadata": {"labels": {"kept": null}}});
        maps.patch("m04", &PatchParams::default(), &Patch::Merge(&label))
            .await?;
        maps.create(&PostParams::default(), &map("z")).await?;
        let mut later = Vec::new();
        while later.len() < 3 {
            match events.try_next().await?.context("the end")? {
                Event::Apply(map) => later.push(format!("+{}", map.name_any())),
                Event::Delete(map) => later.push(format!("-{}", map.name_any())),
                other => anyhow::bail!("{other:?} in the middle"),
            }
        }
        ensure!(later == ["-m03", "-m04", "+z"], "{later:?}");

        // A reflector's store, from lists in pages.
        let (reader, writer) = reflector::store();
        let config = watcher::Config::default().page_size(7);
        let mut stream =
            std::pin::pin!(reflector(writer, watch(maps.clone(), config)).default_backoff());
        let here = maps.list(&ListParams::default()).await?.items.len();
        while reader.len() < here {
            stream.try_next().await?.context("the end")?;
        }
        Ok(())
    })
}

fn widget_resource() -> ApiResource {
    ApiResource {
        group: "clients.example.com".to_owned(),
        version: "v1".to_owned(),
        api_version: "clients.example.com/v1".to_owned(),
        kind: "Widget".to_owned(),
        plural: "widgets".to_owned(),
    }
}

/// What the controller below works with.
struct Painter {
    client: Client,
}

async fn reconcile(
    widget: Arc<DynamicObject>,
    context: Arc<Painter>,
) -> Result<Action, kube::runtime::finalizer::Error<kube::Error>> {
    let namespace = widget.namespace().unwrap_or_default();
    let widgets: Api<DynamicObject> =
        Api::namespaced_with(context.client.clone(), &namespace, &widget_resource());
    let maps: Api<ConfigMap> = Api::namespaced(context.client.clone(), &namespace);
    finalizer(&widgets, "clients.example.com/cleanup", widget, |event| async {
        match event {
            Finalizing::Apply(widget) => {
                let name = format!("{}-child", widget.name_any());
                let child = json!({
                    "apiVersion": "v1", "kind": "ConfigMap",
                    "metadata": {"name": name, "ownerReferences": [widget.controller_owner_ref(&widget_resource())]},
                    "data": {"colour": widget.data["spec"]["colour"]},
                });
                let apply = PatchParams::apply("painter").force();
                maps.patch(&name, &apply, &Patch::Apply(&child)).await?;
                let status = json!({"apiVersion": "clients.example.com/v1", "kind": "Widget", "status": {"replicas": 1}});
                widgets.patch_status(&widget.name_any(), &apply, &Patch::Apply(&status)).await?;
            }
            Finalizing::Cleanup(widget) => {
                let note = map(&format!("{}-cleaned", widget.name_any()));
                match maps.create(&PostParams::default(), &note).await {
                    Err(kube::Error::Api(status)) if status.code == 409 => {}
                    result => drop(result?),
                }
            }
        }
        Ok(Action::await_change())
    })
    .await
}

pub(crate) fn a_controller_finalizes_what_it_made(suite: &Suite) -> anyhow::Result<()> {
    let kubectl = suite.kubectl("rust-controller")?;
    let namespace = kubectl.namespace.clone();
    with_client(&suite.kubeconfig(), async |client| {
        let resource = widget_resource();
        let widgets: Api<DynamicObject> =
            Api::namespaced_with(client.clone(), &namespace, &resource);
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &namespace);
        let context = Arc::new(Painter {
            client: client.clone(),
        });
        let config = || watcher::Config::default().streaming_lists();
        let controller = Controller::new_with(widgets.clone(), config(), resource.clone())
            .owns(maps.clone(), config())
            .run(
                reconcile,
                |_, _, _| Action::requeue(Duration::from_millis(200)),
                context,
            )
            .for_each(|done| async {
                if let Err(error) = done {
                    println!("    the controller: {error}");
                }
            });
        let controller = tokio::spawn(controller);
        for name in ["one", "two"] {
            let widget =
                DynamicObject::new(name, &resource).data(json!({"spec": {"colour": "red"}}));
            widgets.create(&PostParams::default(), &widget).await?;
        }
        until(async || {
            Ok(child(&maps, "one").await? == "red" && child(&maps, "two").await? == "red")
        })
        .await?;
        let blue = json!({"spec": {"colour": "blue"}});
        widgets
            .patch("one", &PatchParams::default(), &Patch::Merge(&blue))
            .await?;
        until(async || Ok(child(&maps, "one").await? == "blue")).await?;
        // What it made is made again when somebody deletes it.
        maps.delete("one-child", &DeleteParams::default()).await?;
        until(async || Ok(child(&maps, "one").await? == "blue")).await?;
        until(async || Ok(widgets.get("one").await?.data["status"]["replicas"] == 1)).await?;
        let seen = widgets.get("one").await?;
        ensure!(
            seen.metadata.generation == Some(2),
            "only the colour is a new generation: {seen:?}"
        );
        widgets.delete("one", &DeleteParams::default()).await?;
        until(async || Ok(widgets.get_opt("one").await?.is_none())).await?;
        ensure!(
            maps.get_opt("one-cleaned").await?.is_some(),
            "gone without the cleanup"
        );
        until(async || Ok(maps.get_opt("one-child").await?.is_none())).await?;
        ensure!(child(&maps, "two").await? == "red");
        widgets.delete("two", &DeleteParams::foreground()).await?;
        until(async || Ok(widgets.get_opt("two").await?.is_none())).await?;
        controller.abort();
        Ok(())
    })
}

/// The colour of a widget's child, empty as long as there is none.
async fn child(maps: &Api<ConfigMap>, widget: &str) -> anyhow::Result<String> {
    let child = maps.get_opt(&format!("{widget}-child")).await?;
    let data = child.and_then(|c| c.data).unwrap_or_default();
    Ok(data.get("colour").cloned().unwrap_or_default())
}

async fn until(mut is_so: impl AsyncFnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    while !is_so().await? {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

pub(crate) fn apply_keeps_to_its_own_fields(suite: &Suite) -> anyhow::Result<()> {
    let kubectl = suite.kubectl("rust-apply")?;
    with_client(&suite.kubeconfig(), async |client| {
        let deployments: Api<Deployment> = Api::namespaced(client, &kubectl.namespace);
        let container = |name: &str, image: &str| json!({"name": name, "image": image});
        let deployment = |containers: Value| {
            json!({
                "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
                "spec": {
                    "selector": {"matchLabels": {"app": "web"}},
                    "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": containers}},
                },
            })
        };
        let (one, two) = (PatchParams::apply("one"), PatchParams::apply("two"));
        let first = deployment(json!([container("main", "sample:1")]));
        deployments
            .patch("web", &one, &Patch::Apply(&first))
            .await?;
        // A second owner adds an element to the same list.
        let second = deployment(json!([container("side", "sample:2")]));
        let both = deployments
            .patch("web", &two, &Patch::Apply(&second))
            .await?;
        let names = |d: &Deployment| -> Vec<String> {
            let pod = d.spec.as_ref().and_then(|s| s.template.spec.as_ref());
            pod.into_iter()
                .flat_map(|p| &p.containers)
                .map(|c| c.name.clone())
                .collect()
        };
        ensure!(names(&both) == ["main", "side"], "{:?}", names(&both));
        let conflict = deployment(json!([
            container("main", "sample:9"),
            container("side", "sample:2")
        ]));
        match deployments
            .patch("web", &two, &Patch::Apply(&conflict))
            .await
        {
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let text = format!("{status:?}");
                ensure!(
                    text.contains("FieldManagerConflict") && text.contains("image"),
                    "{text}"
                );
            }
            other => anyhow::bail!("no conflict: {other:?}"),
        }
        deployments
            .patch("web", &two.clone().force(), &Patch::Apply(&conflict))
            .await?;
        // The first lets go of its container, whose image the second owns now: it stays.
        let nothing =
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}});
        let left = deployments
            .patch("web", &one, &Patch::Apply(&nothing))
            .await?;
        ensure!(names(&left) == ["main", "side"], "{:?}", names(&left));
        let alone = deployment(json!([container("side", "sample:2")]));
        let left = deployments
            .patch("web", &two, &Patch::Apply(&alone))
            .await?;
        ensure!(names(&left) == ["side"], "{:?}", names(&left));
        let scaled = deployments
            .patch_scale(
                "web",
                &PatchParams::default(),
                &Patch::Merge(json!({"spec": {"replicas": 2}})),
            )
            .await?;
        ensure!(scaled.spec.and_then(|s| s.replicas) == Some(2));
        ensure!(Deployment::plural(&()) == "deployments");
        Ok(())
    })
}
