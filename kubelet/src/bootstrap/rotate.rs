use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::Client;
use kube::client::Body;
use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;

use super::store::{Store, validity};
use super::{JoinError, Member, PATIENCE, csr};

/// How often certificates are looked at.
const LOOK: Duration = Duration::from_secs(3600);
/// The pause after a failure.
const RETRY: Duration = Duration::from_secs(60);

/// A client whose credentials can be replaced under it. Cheap to clone.
#[derive(Clone)]
pub(super) struct RotatingClient {
    current: Arc<RwLock<Client>>,
}

impl RotatingClient {
    pub(super) fn new(client: Client) -> Self {
        Self {
            current: Arc::new(RwLock::new(client)),
        }
    }

    /// A client that uses whatever credentials are the newest.
    pub(super) fn client(&self) -> Client {
        let current = self.current.clone();
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let client = current.read().clone();
            async move { client.send(request).await }
        });
        Client::new(service, "default")
    }

    fn replace(&self, client: Client) {
        *self.current.write() = client;
    }
}

/// Renews the node's certificates while it runs.
pub async fn keep_certificates(member: Member, shutdown: CancellationToken) {
    let store = Store::new(&member.node.state_dir);
    loop {
        let pause = match renew(&member, &store).await {
            Ok(next) => {
                let left = next
                    .duration_since(Timestamp::now())
                    .max(SignedDuration::ZERO);
                Duration::try_from(left)
                    .unwrap_or(LOOK)
                    .clamp(Duration::from_secs(1), LOOK)
            }
            Err(error) => {
                tracing::warn!(%error, "the node's certificates were not renewed");
                RETRY
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Renews what is due; answers when the next one will be.
async fn renew(member: &Member, store: &Store) -> Result<Timestamp, JoinError> {
    let now = Timestamp::now();
    let due = |pem: &str| validity(pem).map_or(now, |validity| validity.renew_at());
    let mut client_due = due(&store.client_certificate()?);
    if client_due <= now {
        let request = csr::client_request(&member.node.name)?;
        let certificate = csr::obtain(&member.client, &request, PATIENCE).await?;
        store.write_client(&store.server()?, &member.ca, &certificate, &request.key_pem)?;
        member.rotating.replace(store.client().await?);
        tracing::info!("renewed the node's client certificate");
        client_due = due(&certificate);
    }
    let mut serving_due = store.serving_certificate().map_or(now, |pem| due(&pem));
    if serving_due <= now {
        let request = csr::serving_request(&member.node)?;
        let certificate = csr::obtain(&member.client, &request, PATIENCE).await?;
        store.write_serving(&certificate, &request.key_pem)?;
        member
            .serving
            .identity
            .replace(&certificate, &request.key_pem)?;
        tracing::info!("renewed the certificate of the kubelet's server");
        serving_due = due(&certificate);
    }
    Ok(client_due.min(serving_due))
}
