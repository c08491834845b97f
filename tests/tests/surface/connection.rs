//! Sends requests as a client library does, and gives up on none too early.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use futures::TryStreamExt;
use http_body_util::BodyExt;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::runtime::Runtime;
use tokio::time::{Instant, timeout, timeout_at};

use crate::answers::Answer;
use crate::requests::Request;

/// A request that has no answer after this time hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is read of a watch, which has no end.
const WATCHED: Duration = Duration::from_millis(150);

/// The administrator's connections to a server.
pub(crate) struct Connection {
    runtime: Runtime,
    client: kube::Client,
}

impl Connection {
    pub(crate) fn of(kubeconfig: &Path) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
        let client = runtime.block_on(async {
            let options = KubeConfigOptions::default();
            let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await?;
            anyhow::Ok(kube::Client::try_from(config)?)
        })?;
        Ok(Self { runtime, client })
    }

    /// Sends a request and reads the answer, of a watch its beginning.
    ///
    /// # Errors
    ///
    /// When the connection breaks or nothing comes in time.
    pub(crate) fn send(&self, request: &Request) -> anyhow::Result<Answer> {
        self.runtime.block_on(self.exchange(request))
    }

    async fn exchange(&self, request: &Request) -> anyhow::Result<Answer> {
        let mut built = http::Request::builder()
            .method(request.method.as_str())
            .uri(&request.target);
        for (name, value) in &request.headers {
            built = built.header(*name, value.as_str());
        }
        let body = request.body.clone();
        let built = built
            .body(Body::from(body))
            .context("not a request that HTTP can carry")?;
        let answer = timeout(PATIENCE, self.client.send(built))
            .await
            .context("no answer")??;
        let (parts, body) = answer.into_parts();
        let kind = parts.headers.get(http::header::CONTENT_TYPE);
        let kind = kind.and_then(|k| k.to_str().ok()).unwrap_or_default();
        let mut bytes = Vec::new();
        let patience = if request.endless { WATCHED } else { PATIENCE };
        let end = Instant::now() + patience;
        let mut data = body.into_data_stream();
        loop {
            match timeout_at(end, data.try_next()).await {
                Ok(chunk) => match chunk.context("the answer breaks off")? {
                    Some(chunk) => bytes.extend_from_slice(&chunk),
                    None => break,
                },
                Err(_) if request.endless => break,
                Err(_) => anyhow::bail!("the answer does not end"),
            }
        }
        Ok(Answer {
            code: parts.status.as_u16(),
            kind: kind.to_owned(),
            body: bytes,
        })
    }
}
