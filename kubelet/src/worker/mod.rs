//! One task for each pod: it watches, decides with [`crate::pod::plan`], and acts.
//!
//! ```text
//!  API watch ──┐
//!  exits ──────┤   ┌────────── Worker ──────────┐
//!  objects ────┼──▶│ state → plan → operations ─┼──▶ actions (tasks)
//!  eviction ───┘   │   ▲                        │        │
//!                  │   └───────── reports ◀─────┼────────┘
//!                  │ status → patch             │
//!                  └────────────────────────────┘
//! ```
//!
//! Operations run in tasks of their own and report back, so that the worker always hears
//! what is new: a pod that is deleted while an image is pulled stops at once.

mod gather;
mod perform;
mod probing;
mod publish;
mod reports;
mod start;
mod state;
mod stop;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::mpsc;

use crate::context::Context;
use crate::pod::memory::Ending;
use crate::pod::plan::plan;
use state::Worker;

/// What the rest of the kubelet tells a worker.
#[derive(Debug, Clone)]
pub(crate) enum Message {
    /// The pod as the API has it now.
    Pod(Arc<Pod>),
    /// The API has no such pod any more.
    Gone,
    /// The runtime has something new of the pod.
    Look,
    /// A container's process has ended, by the runtime's event.
    Exited(String),
    /// An object that the pod refers to has changed.
    Objects,
    /// For a static pod: its mirror in the API, as far as there is one.
    Mirror(Option<Arc<Pod>>),
    /// The pod has to end.
    End(Ending),
}

/// How a worker begins.
#[derive(Debug, Clone)]
pub(crate) enum Beginning {
    /// A pod of the API.
    Pod(Arc<Pod>),
    /// A pod that was refused.
    Rejected(Arc<Pod>, Ending),
    /// Only the runtime knows the pod: it is to be removed.
    Orphan(Arc<Pod>),
}

/// A worker's mailbox.
pub(crate) type Mailbox = mpsc::UnboundedSender<Message>;

/// Starts a worker. `finished` gets the pod's uid when nothing of it is left.
pub(crate) fn spawn(
    context: Arc<Context>,
    beginning: Beginning,
    finished: mpsc::UnboundedSender<String>,
) -> Mailbox {
    let (mailbox, inbox) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut worker = Worker::new(context, beginning, inbox);
        worker.run().await;
        let _ = finished.send(worker.uid.clone());
    });
    mailbox
}

impl Worker {
    async fn run(&mut self) {
        while !self.erased {
            if self.look {
                self.observe().await;
            }
            let now = Timestamp::now();
            let mut wake = None;
            if !self.blind {
                let goal = self.goal(now);
                let plan = plan(&self.pod, &self.observed, &self.memory, goal, now);
                for (name, waiting) in plan.waiting {
                    self.wait_with(name, waiting);
                }
                wake = plan.wake;
                for op in plan.ops {
                    self.perform(op, now);
                }
                self.send_probes(now);
            }
            self.publish(now);
            self.wait(wake, now).await;
        }
    }

    /// Waits for something to happen; takes in everything that has.
    async fn wait(&mut self, wake: Option<Timestamp>, now: Timestamp) {
        let wake = [wake, self.own_wake(now)].into_iter().flatten().min();
        let pause = match wake {
            Some(at) => Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO),
            None => Duration::from_secs(3600),
        };
        tokio::select! {
            message = self.inbox.recv() => match message {
                Some(message) => self.take(message),
                // The kubelet is shutting down; what runs goes on.
                None => self.erased = true,
            },
            Some(report) = self.reports.recv() => self.absorb(report).await,
            Some(done) = self.actions.join_next() => self.joined(done),
            () = tokio::time::sleep(pause) => {}
        }
        while let Ok(message) = self.inbox.try_recv() {
            self.take(message);
        }
        while let Ok(report) = self.reports.try_recv() {
            self.absorb(report).await;
        }
    }
}
