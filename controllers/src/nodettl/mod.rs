//! TTL: tells kubelets by an annotation for how long they may rely on cached Secrets and
//! ConfigMaps, which is longer the larger the cluster is.

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use serde_json::json;
use watch_cache::{Change, WatchCache};

use crate::framework::{Context, Error, Outcome, Reconciler, Tolerate, act};

const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";

pub(crate) fn start(context: &Context) {
    let nodes = context.caches.of::<Node>();
    let all = nodes.clone();
    context
        .controller("ttl-controller")
        .watch(&nodes, move |change| {
            let came_or_went = !matches!(change, Change::Applied { old: Some(_), .. });
            let wanted = seconds(all.len()).to_string();
            let outdated = |node: &Node| node.annotations().get(ANNOTATION) != Some(&wanted);
            let mut names = vec![change.key().name];
            if came_or_went {
                let others = all.list();
                names.extend(
                    others
                        .iter()
                        .filter(|node| outdated(node))
                        .map(|n| n.name_any()),
                );
            }
            names
        })
        .run(
            1,
            Controller {
                context: context.clone(),
                nodes,
            },
        );
}

fn seconds(nodes: usize) -> u32 {
    match nodes {
        0..=100 => 0,
        101..=500 => 15,
        501..=1000 => 30,
        1001..=2000 => 60,
        _ => 300,
    }
}

struct Controller {
    context: Context,
    nodes: WatchCache<Node>,
}

impl Reconciler for Controller {
    type Key = String;

    async fn sync(&self, name: &String) -> Result<Outcome, Error> {
        let Some(node) = self.nodes.get("", name) else {
            return Ok(Outcome::Done);
        };
        let wanted = seconds(self.nodes.len()).to_string();
        if node.annotations().get(ANNOTATION) != Some(&wanted) {
            let change = json!({"metadata": {"annotations": {ANNOTATION: wanted}}});
            let api = self.context.cluster_api::<Node>();
            act::patch(&api, node.as_ref(), &change)
                .await
                .unless_gone()?;
        }
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn larger_clusters_cache_for_longer() {
        let steps = [
            (1, 0),
            (100, 0),
            (101, 15),
            (600, 30),
            (1500, 60),
            (5000, 300),
        ];
        for (nodes, expect) in steps {
            assert_eq!(seconds(nodes), expect, "{nodes}");
        }
    }
}
