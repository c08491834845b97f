//! Probes of the pod's containers.

use jiff::Timestamp;

use super::reports::Report;
use super::state::Worker;
use crate::pod::containers;
use crate::pod::probe::{Effect, ProbeKind};
use crate::probes::{self, Answer, Target};

impl Worker {
    /// Sends the probes that are due.
    pub(super) fn send_probes(&mut self, now: Timestamp) {
        let stopping = self.stopping_since.is_some();
        let mut due = Vec::new();
        for (id, probes) in &mut self.probes {
            for kind in probes.take_due(now) {
                due.push((id.clone(), kind));
            }
        }
        for (id, kind) in due {
            // A pod that stops is no longer restarted; whether it is ready still matters.
            if stopping && kind != ProbeKind::Readiness {
                continue;
            }
            self.send_probe(id, kind);
        }
    }

    fn send_probe(&mut self, id: String, kind: ProbeKind) {
        let Some(record) = self.observed.by_id(&id) else {
            return;
        };
        let (context, pod, name) = (self.context.clone(), self.pod.clone(), record.name.clone());
        let address = self.pod_ips().first().copied();
        self.act(async move {
            let answer = match containers::find(&pod, &name) {
                None => Ok(()),
                Some(spec) => {
                    let container = &*spec.container;
                    let probe = match kind {
                        ProbeKind::Startup => &container.startup_probe,
                        ProbeKind::Liveness => &container.liveness_probe,
                        ProbeKind::Readiness => &container.readiness_probe,
                    };
                    let target = Target {
                        container,
                        container_id: &id,
                        address,
                    };
                    match probe {
                        Some(probe) => {
                            probes::probe(context.runtime.as_ref(), probe, &target).await
                        }
                        None => Ok(()),
                    }
                }
            };
            Report::Probed { id, kind, answer }
        });
    }

    pub(super) fn probed(&mut self, id: &str, kind: ProbeKind, answer: Answer, now: Timestamp) {
        let Some(probes) = self.probes.get_mut(id) else {
            return;
        };
        let effect = probes.answer(kind, answer.is_ok(), now);
        self.memory.probed.insert(id.to_owned(), probes.probed);
        if let Some(Effect::Condemn(reason)) = effect {
            self.memory.condemned.insert(id.to_owned(), reason);
        }
        if let Err(error) = answer {
            let name = self
                .observed
                .by_id(id)
                .map(|record| record.name.clone())
                .unwrap_or_default();
            self.warn(
                &name,
                "Unhealthy",
                format!("{} probe failed: {error}", kind.word()),
            );
        }
    }
}
