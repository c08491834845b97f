//! When to probe a container and what its answers mean.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Probe};

use super::memory::Probed;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeKind {
    Startup,
    Liveness,
    Readiness,
}

impl ProbeKind {
    /// The word in events and messages.
    pub fn word(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// One probe of one running container.
#[derive(Debug, Clone)]
struct Prober {
    kind: ProbeKind,
    period: SignedDuration,
    success_threshold: u32,
    failure_threshold: u32,
    due: Timestamp,
    in_flight: bool,
    /// How often in a row the last answer came.
    last: Option<(bool, u32)>,
    /// The probe has said its last: the container will be stopped.
    spent: bool,
}

/// What an answer changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    Changed,
    /// The container has to be stopped, for this reason.
    Condemn(String),
}

/// All probes of one running container.
#[derive(Debug, Clone)]
pub struct Probes {
    container: String,
    probers: Vec<Prober>,
    pub probed: Probed,
}

fn at_least(value: Option<i32>, default: u32) -> u32 {
    value
        .and_then(|value| u32::try_from(value).ok())
        .filter(|value| *value > 0)
        .unwrap_or(default)
}

/// How long one probe may take.
pub fn timeout(probe: &Probe) -> std::time::Duration {
    std::time::Duration::from_secs(u64::from(at_least(probe.timeout_seconds, 1)))
}

impl Prober {
    fn new(kind: ProbeKind, probe: &Probe, started_at: Timestamp) -> Self {
        let delay = probe.initial_delay_seconds.unwrap_or(0).max(0);
        Self {
            kind,
            period: SignedDuration::from_secs(i64::from(at_least(probe.period_seconds, 10))),
            success_threshold: at_least(probe.success_threshold, 1),
            failure_threshold: at_least(probe.failure_threshold, 3),
            due: started_at + SignedDuration::from_secs(i64::from(delay)),
            in_flight: false,
            last: None,
            spent: false,
        }
    }

    /// Counts an answer; true when its threshold is reached.
    fn count(&mut self, success: bool) -> bool {
        let run = match self.last {
            Some((last, run)) if last == success => run.saturating_add(1),
            _ => 1,
        };
        self.last = Some((success, run));
        run >= if success {
            self.success_threshold
        } else {
            self.failure_threshold
        }
    }
}

impl Probes {
    /// The probes of a container that started at `started_at`. `known` is what the API last
    /// said of the same container, so that a new kubelet process does not make it unready.
    pub fn new(container: &Container, started_at: Timestamp, known: Option<Probed>) -> Self {
        let defined = [
            (ProbeKind::Startup, &container.startup_probe),
            (ProbeKind::Liveness, &container.liveness_probe),
            (ProbeKind::Readiness, &container.readiness_probe),
        ];
        let probers = defined
            .into_iter()
            .filter_map(|(kind, probe)| Some(Prober::new(kind, probe.as_ref()?, started_at)))
            .collect();
        let known = known.unwrap_or_default();
        let started = container.startup_probe.is_none() || known.started;
        let ready = started && (container.readiness_probe.is_none() || known.ready);
        Self {
            container: container.name.clone(),
            probers,
            probed: Probed { started, ready },
        }
    }

    /// Whether a probe takes part now: before the start only the startup probe does, and
    /// after it only the others.
    fn is_active(&self, prober: &Prober) -> bool {
        !prober.spent && (prober.kind == ProbeKind::Startup) != self.probed.started
    }

    /// When the next probe is due.
    pub fn wake(&self) -> Option<Timestamp> {
        let waiting = self
            .probers
            .iter()
            .filter(|p| self.is_active(p) && !p.in_flight);
        waiting.map(|prober| prober.due).min()
    }

    /// The probes to send now. Each must be answered by [`Probes::answer`].
    pub fn take_due(&mut self, now: Timestamp) -> Vec<ProbeKind> {
        let active: Vec<bool> = self.probers.iter().map(|p| self.is_active(p)).collect();
        let mut due = Vec::new();
        for (prober, active) in self.probers.iter_mut().zip(active) {
            if active && !prober.in_flight && prober.due <= now {
                prober.in_flight = true;
                prober.due = now + prober.period;
                due.push(prober.kind);
            }
        }
        due
    }

    /// The answer to a probe that was sent.
    pub fn answer(&mut self, kind: ProbeKind, success: bool, now: Timestamp) -> Option<Effect> {
        let before = self.probed;
        let prober = self.probers.iter_mut().find(|prober| prober.kind == kind)?;
        prober.in_flight = false;
        if !prober.count(success) {
            return None;
        }
        match (kind, success) {
            (ProbeKind::Startup, true) => self.start(now),
            (ProbeKind::Readiness, ready) => self.probed.ready = ready,
            (ProbeKind::Liveness, true) => {}
            (ProbeKind::Startup | ProbeKind::Liveness, false) => {
                prober.spent = true;
                let word = kind.word().to_lowercase();
                let message = format!(
                    "Container {} failed {word} probe, will be restarted",
                    self.container
                );
                return Some(Effect::Condemn(message));
            }
        }
        (before != self.probed).then_some(Effect::Changed)
    }

    fn start(&mut self, now: Timestamp) {
        self.probed.started = true;
        let mut readiness = false;
        for prober in &mut self.probers {
            readiness |= prober.kind == ProbeKind::Readiness;
            // What waited for the start need not wait for its period as well.
            prober.due = prober.due.min(now);
        }
        self.probed.ready = !readiness;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::at;

    fn container(value: serde_json::Value) -> Container {
        let mut container: Container = serde_json::from_value(value).expect("well-formed");
        container.name = "c".into();
        container
    }

    #[test]
    fn without_probes_a_running_container_is_ready() {
        let probes = Probes::new(&container(json!({"name": "c"})), at(0), None);
        assert_eq!(
            probes.probed,
            Probed {
                started: true,
                ready: true
            }
        );
        assert_eq!(probes.wake(), None);
    }

    #[test]
    fn readiness_waits_for_its_delay_and_counts_to_its_thresholds() {
        let container = container(json!({"name": "c", "readinessProbe": {
            "initialDelaySeconds": 5, "periodSeconds": 2, "successThreshold": 2, "failureThreshold": 2}}));
        let mut probes = Probes::new(&container, at(0), None);
        assert!(!probes.probed.ready);
        assert_eq!(probes.wake(), Some(at(5)));
        assert!(probes.take_due(at(4)).is_empty());
        let mut now = 5;
        let mut step = |probes: &mut Probes, success| {
            assert_eq!(probes.take_due(at(now)), [ProbeKind::Readiness]);
            assert!(probes.take_due(at(now)).is_empty(), "one at a time");
            let effect = probes.answer(ProbeKind::Readiness, success, at(now));
            now += 2;
            effect
        };
        assert_eq!(step(&mut probes, true), None);
        assert_eq!(step(&mut probes, true), Some(Effect::Changed));
        assert!(probes.probed.ready);
        assert_eq!(step(&mut probes, false), None);
        assert!(probes.probed.ready);
        assert_eq!(step(&mut probes, false), Some(Effect::Changed));
        assert!(!probes.probed.ready);
    }

    #[test]
    fn liveness_waits_for_the_startup_probe_then_follows_at_once() {
        let container = container(json!({"name": "c",
            "startupProbe": {"periodSeconds": 1},
            "livenessProbe": {"failureThreshold": 1}}));
        let mut probes = Probes::new(&container, at(0), None);
        assert_eq!(probes.take_due(at(0)), [ProbeKind::Startup]);
        assert_eq!(probes.answer(ProbeKind::Startup, false, at(0)), None);
        assert_eq!(probes.take_due(at(1)), [ProbeKind::Startup]);
        assert_eq!(
            probes.answer(ProbeKind::Startup, true, at(1)),
            Some(Effect::Changed)
        );
        assert_eq!(
            probes.probed,
            Probed {
                started: true,
                ready: true
            }
        );
        assert_eq!(probes.take_due(at(1)), [ProbeKind::Liveness]);
        let condemned = "Container c failed liveness probe, will be restarted";
        assert_eq!(
            probes.answer(ProbeKind::Liveness, false, at(1)),
            Some(Effect::Condemn(condemned.into()))
        );
        assert_eq!(probes.wake(), None, "a condemned container is not probed");
    }

    #[test]
    fn a_new_process_takes_over_what_was_known() {
        let container = container(json!({"name": "c", "readinessProbe": {}, "startupProbe": {}}));
        let known = Probed {
            started: true,
            ready: true,
        };
        assert_eq!(Probes::new(&container, at(0), Some(known)).probed, known);
    }
}
