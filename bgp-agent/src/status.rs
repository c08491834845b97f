//! What resources learn of themselves: whether they are used, and how their sessions are. A node
//! writes only what is not so already, so of many that find the same one writes.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::report::Neighbor;
use crate::resources::{
    Acceptance, BgpConfiguration, BgpFilter, BgpPeer, DEFAULT, GROUP, NODE_PREFIX, SessionStatus,
    of_node,
};
use crate::topology::{Kind, Problems};

pub(crate) struct Told<'a> {
    pub(crate) problems: &'a Problems,
    pub(crate) neighbors: &'a [Neighbor],
}

impl Told<'_> {
    fn acceptance(&self, kind: Kind, name: &str) -> Acceptance {
        let problem = self.problems.get(&(kind, name.to_owned()));
        Acceptance {
            accepted: Some(problem.is_none()),
            message: problem.cloned(),
        }
    }
}

/// A node that writes status.
pub(crate) struct Author<'a> {
    client: &'a Client,
    node: &'a str,
}

impl<'a> Author<'a> {
    pub(crate) fn new(client: &'a Client, node: &'a str) -> Self {
        Self { client, node }
    }

    pub(crate) async fn configurations(&self, all: &[Arc<BgpConfiguration>], told: &Told<'_>) {
        for own in all {
            let name = own.name_any();
            if name.starts_with(NODE_PREFIX) && name != of_node(self.node) {
                // Its own node says so.
                continue;
            }
            let mut wanted = told.acceptance(Kind::Configuration, &name);
            if name != DEFAULT && !name.starts_with(NODE_PREFIX) {
                wanted.accepted = Some(false);
                wanted.message = Some(format!(
                    "only those named {DEFAULT:?} and \"{NODE_PREFIX}NAME\" are used"
                ));
            }
            self.accept(own.as_ref(), own.status.as_ref(), wanted).await;
        }
    }

    pub(crate) async fn filters(&self, all: &[Arc<BgpFilter>], told: &Told<'_>) {
        for own in all {
            let wanted = told.acceptance(Kind::Filter, &own.name_any());
            self.accept(own.as_ref(), own.status.as_ref(), wanted).await;
        }
    }

    async fn accept<K>(&self, object: &K, have: Option<&Acceptance>, wanted: Acceptance)
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        if have != Some(&wanted) {
            let status = json!({ "accepted": wanted.accepted, "message": wanted.message });
            self.write(object, "fairlead-bgp", status).await;
        }
    }

    pub(crate) async fn peers(&self, all: &[Arc<BgpPeer>], told: &Told<'_>) {
        for own in all {
            let name = own.name_any();
            let have = own.status.clone().unwrap_or_default();
            let wanted = told.acceptance(Kind::Peer, &name);
            let same = have.accepted == wanted.accepted && have.message == wanted.message;
            if !same {
                let status = json!({ "accepted": wanted.accepted, "message": wanted.message });
                self.write(own.as_ref(), "fairlead-bgp", status).await;
            }
            let sessions = self.sessions(&name, told.neighbors);
            let ours = format!("{}/", self.node);
            let listed = have
                .sessions
                .iter()
                .filter(|(key, _)| key.starts_with(&ours));
            let listed: BTreeMap<String, SessionStatus> = listed
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            if listed != sessions {
                let manager = format!("fairlead-bgp-{}", self.node);
                let status = json!({ "sessions": sessions });
                self.write(own.as_ref(), &manager, status).await;
            }
        }
    }

    /// This node's sessions with the peer.
    fn sessions(&self, peer: &str, neighbors: &[Neighbor]) -> BTreeMap<String, SessionStatus> {
        let of_peer = neighbors.iter().filter(|own| own.name == peer);
        let each = of_peer.map(|own| {
            let status = SessionStatus {
                state: own.state.clone(),
                last_end: own.last_end.clone(),
            };
            (format!("{}/{}", self.node, own.address), status)
        });
        each.collect()
    }

    /// Each manager owns its own fields. What is not written is written after the next change.
    async fn write<K>(&self, object: &K, manager: &str, status: Value)
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let api: Api<K> = Api::all(self.client.clone());
        let patch = json!({
            "apiVersion": format!("{GROUP}/v1"),
            "kind": K::kind(&()),
            "metadata": { "name": object.name_any() },
            "status": status,
        });
        let parameters = PatchParams::apply(manager).force();
        let name = object.name_any();
        if let Err(error) = api
            .patch_status(&name, &parameters, &Patch::Apply(&patch))
            .await
        {
            tracing::warn!(kind = %K::kind(&()), name, %error, "the status is not written");
        }
    }
}
