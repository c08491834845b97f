//! What a fresh cluster has before anybody asked for anything, and what of it is put right
//! at every later start.

mod objects;
pub mod policy;
mod writer;

use std::net::IpAddr;

use futures::future::try_join_all;
use serde_json::{Value, json};

pub use objects::{JOIN_TOKEN_HOURS, nth_address};
pub use writer::BootstrapError;
pub(crate) use writer::Writer;

use crate::ApiServer;
use crate::authn::bootstrap_token;
use crate::authz::rbac::{GROUP as RBAC, Rule, uncovered};
use crate::config::Config;
use crate::pki::Pki;

/// What the objects say of this server.
pub struct Facts<'a> {
    pub config: &'a Config,
    pub pki: &'a Pki,
    pub advertise: IpAddr,
    pub port: u16,
    pub url: &'a str,
}

/// Writes everything that is missing. Safe to be repeated, and to be cut off anywhere.
pub async fn run(api: &ApiServer, facts: &Facts<'_>) -> Result<(), BootstrapError> {
    let writer = Writer::new(api);
    let namespaces = ["default", "kube-system", "kube-public", "kube-node-lease"];
    let ensure = |name: &&str| {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        writer.clone().ensure("", "v1", "namespaces", object)
    };
    try_join_all(namespaces.iter().map(ensure)).await?;
    try_join_all(
        policy::objects()
            .into_iter()
            .map(|(plural, object)| reconcile_role(writer.clone(), plural, object)),
    )
    .await?;
    try_join_all(
        objects::fixed(facts)
            .into_iter()
            .map(|(group, plural, object)| writer.clone().ensure(group, "v1", plural, object)),
    )
    .await?;
    for (group, plural, object) in objects::current(facts) {
        writer.clone().set(group, "v1", plural, object).await?;
    }
    if let Some((group, plural, object)) = objects::dns_service(facts) {
        let writer = writer.clone();
        tokio::spawn(async move {
            if !writer.has_nodes().await {
                return;
            }
            if let Err(error) = writer.ensure(group, "v1", plural, object).await {
                tracing::error!(%error, "the cluster has no DNS service");
            }
        });
    }
    set_statuses(&writer).await
}

/// Creates a default role or binding; gives an older one the rules that it lacks.
async fn reconcile_role(
    writer: Writer,
    plural: &'static str,
    wanted: Value,
) -> Result<(), BootstrapError> {
    let Some(mut found) = writer.find(RBAC, plural, &wanted) else {
        return writer.ensure(RBAC, "v1", plural, wanted).await;
    };
    let annotation = "rbac.authorization.kubernetes.io/autoupdate";
    let rules = |object: &Value| -> Vec<Rule> {
        serde_json::from_value(object["rules"].clone()).unwrap_or_default()
    };
    let fixed = found["metadata"]["annotations"][annotation] == "false";
    if fixed || !plural.ends_with("roles") || !wanted["aggregationRule"].is_null() {
        return Ok(());
    }
    let mut have = rules(&found);
    let missing = uncovered(&have, &rules(&wanted));
    if missing.is_empty() {
        return Ok(());
    }
    have.extend(missing);
    found["rules"] = json!(have);
    writer.replace(RBAC, "v1", plural, found).await
}

/// Conditions that upstream's own loops would write.
async fn set_statuses(writer: &Writer) -> Result<(), BootstrapError> {
    let patches = objects::statuses(|group, plural, name| {
        let object = json!({"metadata": {"name": name}});
        writer
            .find(group, plural, &object)
            .is_some_and(|o| o["status"]["conditions"].is_array())
    });
    try_join_all(patches.into_iter().map(|(group, plural, name, patch)| {
        writer
            .clone()
            .patch_status(group, "v1", plural, name, patch)
    }))
    .await
    .map(drop)
}

/// A token with which a node may join, valid for a day; `kept` is used again while it works.
pub async fn join_token(
    api: &ApiServer,
    kept: Option<&str>,
    works: impl Fn(&str) -> bool,
) -> Result<String, BootstrapError> {
    if let Some(token) = kept.map(str::trim).filter(|token| works(token)) {
        return Ok(token.to_owned());
    }
    let token = bootstrap_token::generate();
    let writer = Writer::new(api);
    if let Some(secret) = objects::join_secret(&token) {
        writer.ensure("", "v1", "secrets", secret).await?;
    }
    Ok(token)
}
