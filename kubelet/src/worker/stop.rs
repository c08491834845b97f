//! Stopping a container: its hook, its turn, its signal.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use events::EventType;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;

use crate::context::Context;
use crate::pod::containers::{self, Kind};
use crate::pod::observed::Record;
use crate::pod::plan::Kill;
use crate::probes::{self, Target};

/// Every container gets this long, however much of the grace its hook has used.
const LEAST: Duration = Duration::from_secs(2);

/// One container to stop.
pub(super) struct Order {
    pub(super) context: Arc<Context>,
    pub(super) pod: Arc<Pod>,
    pub(super) record: Record,
    pub(super) kill: Kill,
    pub(super) address: Option<IpAddr>,
    /// The names of the containers that still run.
    pub(super) running: watch::Receiver<Vec<String>>,
    /// The container was told before, with a later deadline.
    pub(super) repeated: bool,
}

impl Order {
    /// Stops the container and answers its id.
    pub(super) async fn run(mut self) -> String {
        let graceful = self.left() > Duration::ZERO;
        if !self.repeated {
            let message = match self.kill.message.as_str() {
                "Stopping container" => format!("Stopping container {}", self.record.name),
                message => message.to_owned(),
            };
            self.event(EventType::Normal, "Killing", message);
            if graceful {
                self.pre_stop().await;
                self.wait_for_turn().await;
            }
        }
        let grace = if graceful && !self.repeated {
            self.left().max(LEAST)
        } else {
            self.left()
        };
        let seconds = i64::try_from(grace.as_secs_f64().ceil() as u64).unwrap_or(0);
        let stopped = self
            .context
            .runtime
            .stop_container(&self.record.id, seconds)
            .await;
        self.context.metrics.count("stop_container", &stopped);
        if let Err(error) = stopped
            && !error.is_not_found()
        {
            self.event(
                EventType::Warning,
                "FailedKillPod",
                format!("error killing container: {error}"),
            );
            // The worker looks again when this has been reported; not at once in a circle.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        self.record.id
    }

    fn left(&self) -> Duration {
        let left = self.kill.deadline.duration_since(Timestamp::now());
        Duration::try_from(left).unwrap_or(Duration::ZERO)
    }

    fn event(&self, kind: EventType, reason: &'static str, message: String) {
        self.context
            .events
            .pod(&self.pod, Some(&self.record.name), kind, reason, message);
    }

    async fn pre_stop(&self) {
        let Some(spec) = containers::find(&self.pod, &self.record.name) else {
            return;
        };
        let lifecycle = spec.container.lifecycle.as_ref();
        let Some(handler) = lifecycle.and_then(|lifecycle| lifecycle.pre_stop.as_ref()) else {
            return;
        };
        if !self.record.is_running() {
            return;
        }
        let target = Target {
            container: &spec.container,
            container_id: &self.record.id,
            address: self.address,
        };
        let runtime = self.context.runtime.as_ref();
        if let Err(error) = probes::hook(runtime, handler, &target, self.left()).await {
            let message = format!("PreStopHook failed: {error}");
            self.event(EventType::Warning, "FailedPreStopHook", message);
        }
    }

    /// Sidecars stop after the containers that they serve, the last one first.
    async fn wait_for_turn(&mut self) {
        let before = self.stops_before();
        if before.is_empty() {
            return;
        }
        let left = self.left();
        let done = self
            .running
            .wait_for(|running| !running.iter().any(|name| before.contains(name)));
        let _ = tokio::time::timeout(left, done).await;
    }

    fn stops_before(&self) -> Vec<String> {
        let init = containers::init(&self.pod);
        let own = init.iter().position(|spec| spec.name() == self.record.name);
        let Some(own) = own.filter(|own| init[*own].kind == Kind::Sidecar) else {
            return Vec::new();
        };
        let later = init[own + 1..]
            .iter()
            .filter(|spec| spec.kind == Kind::Sidecar);
        let mains = containers::main(&self.pod);
        later
            .chain(mains.iter())
            .map(|spec| spec.name().to_owned())
            .collect()
    }
}
