//! The Lease by which a server is known to be there, as upstream's servers have one in
//! `kube-system`: who reads them knows how many servers there are, and of which names.

use std::time::Duration;

use data_encoding::BASE32_NOPAD;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use crate::ApiServer;
use crate::bootstrap::{BootstrapError, Writer};

/// How often the Lease is renewed, as upstream.
const RENEWED: Duration = Duration::from_secs(10);
/// How long a server counts as there after its last renewal, in seconds.
const LASTS: i64 = 3600;

const GROUP: &str = "coordination.k8s.io";
const NAMESPACE: &str = "kube-system";
const LABEL: &str = "apiserver.kubernetes.io/identity";
/// The label's value of all servers.
const SERVER: &str = "kube-apiserver";

/// The Lease's name for a host: the same after every start.
fn name_for(host: &str) -> String {
    let hash = Sha256::digest(host);
    format!(
        "apiserver-{}",
        BASE32_NOPAD.encode(&hash[..16]).to_lowercase()
    )
}

fn lease(host: &str, holder: &str, now: Timestamp) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": name_for(host),
            "namespace": NAMESPACE,
            "labels": {LABEL: SERVER, "kubernetes.io/hostname": host},
        },
        "spec": {
            "holderIdentity": holder,
            "leaseDurationSeconds": LASTS,
            "renewTime": format!("{now:.6}"),
        },
    })
}

/// Whether the Lease is one of a server that is gone.
fn is_over(lease: &Value, now: Timestamp) -> bool {
    let spec = &lease["spec"];
    let renewed = spec["renewTime"].as_str().and_then(|t| t.parse().ok());
    let lasts = spec["leaseDurationSeconds"].as_i64().unwrap_or(LASTS);
    let servers = lease["metadata"]["labels"][LABEL] == SERVER;
    servers && renewed.is_none_or(|at: Timestamp| at + SignedDuration::from_secs(lasts) < now)
}

/// Keeps the Lease of this server, and removes those of servers that are gone, until shutdown.
pub(crate) async fn run(api: ApiServer, host: String, shutdown: CancellationToken) {
    let holder = format!("{}_{}", name_for(&host), uuid::Uuid::new_v4());
    let writer = Writer::new(&api);
    loop {
        if let Err(error) = renew(&api, &writer, &host, &holder).await {
            tracing::warn!(%error, "the server's Lease was not renewed, it is tried again");
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(RENEWED) => {}
        }
    }
}

async fn renew(
    api: &ApiServer,
    writer: &Writer,
    host: &str,
    holder: &str,
) -> Result<(), BootstrapError> {
    let now = Timestamp::now();
    let own = lease(host, holder, now);
    writer.clone().set(GROUP, "v1", "leases", own).await?;
    for object in api.registry().list(GROUP, "leases", NAMESPACE) {
        if is_over(&object.value(), now) {
            writer
                .remove_from(GROUP, "v1", "leases", NAMESPACE, object.name())
                .await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_from_the_host_and_are_names() {
        assert_eq!(name_for("a"), name_for("a"));
        assert_ne!(name_for("a"), name_for("b"));
        assert_eq!(name_for("a").len(), "apiserver-".len() + 26);
        assert!(schema::validate::names::subdomain_faults(&name_for("a")).is_empty());
    }

    #[test]
    fn a_lease_is_over_an_hour_after_it_was_renewed_last() {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let mut own = lease("a", "b", now);
        let after = |seconds| now + SignedDuration::from_secs(seconds);
        assert!(!is_over(&own, after(3600)));
        assert!(is_over(&own, after(3601)));
        own["metadata"]["labels"] = json!({});
        assert!(!is_over(&own, after(3601)), "somebody else's");
    }
}
