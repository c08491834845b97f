//! Leader election by a Lease: one process acts, the others wait.
//!
//! [`Election`] decides from the Lease as read; [`lead`] reads, writes and waits. Clocks of
//! different machines are never compared: a lease has run out when this process has seen it
//! unchanged for its duration.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};
use tokio_util::sync::CancellationToken;

/// Where and how to be elected.
#[derive(Debug, Clone)]
pub struct LeaseConfig {
    pub namespace: String,
    pub name: String,
    /// Who this is. A process that restarts under the same identity leads again at once, so
    /// an identity must belong to one process at a time.
    pub identity: String,
    pub duration: Duration,
    pub renew_deadline: Duration,
    pub retry: Duration,
}

impl LeaseConfig {
    pub fn new(name: &str, identity: &str) -> Self {
        Self {
            namespace: "kube-system".to_owned(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// What to do after a look at the Lease.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    Create(Box<Lease>),
    Replace(Box<Lease>),
    /// Somebody else leads.
    Wait,
}

/// What this process knows of the Lease.
#[derive(Debug)]
pub struct Election {
    config: LeaseConfig,
    seen: Option<(LeaseSpec, Instant)>,
}

impl Election {
    pub fn new(config: LeaseConfig) -> Self {
        Self { config, seen: None }
    }

    pub fn step(&mut self, lease: Option<Lease>, now: Instant, clock: Timestamp) -> Step {
        let Some(mut lease) = lease else {
            self.seen = None;
            return Step::Create(Box::new(Lease {
                metadata: ObjectMeta {
                    name: Some(self.config.name.clone()),
                    namespace: Some(self.config.namespace.clone()),
                    ..ObjectMeta::default()
                },
                spec: Some(self.taken(None, clock)),
            }));
        };
        let spec = lease.spec.clone().unwrap_or_default();
        if self.seen.as_ref().is_none_or(|(seen, _)| *seen != spec) {
            self.seen = Some((spec.clone(), now));
        }
        let since = self.seen.as_ref().map_or(now, |(_, at)| *at);
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        let duration = spec
            .lease_duration_seconds
            .and_then(|s| u64::try_from(s).ok());
        let duration = duration.map_or(self.config.duration, Duration::from_secs);
        let expired = now.saturating_duration_since(since) >= duration;
        if !holder.is_empty() && holder != self.config.identity && !expired {
            return Step::Wait;
        }
        lease.spec = Some(self.taken(Some(&spec), clock));
        Step::Replace(Box::new(lease))
    }

    /// The lease in this process's hands.
    fn taken(&self, before: Option<&LeaseSpec>, clock: Timestamp) -> LeaseSpec {
        let ours = before
            .is_some_and(|spec| spec.holder_identity.as_deref() == Some(&self.config.identity));
        let transitions = before.and_then(|spec| spec.lease_transitions).unwrap_or(0);
        let mut spec = before.cloned().unwrap_or_default();
        spec.holder_identity = Some(self.config.identity.clone());
        spec.lease_duration_seconds = i32::try_from(self.config.duration.as_secs()).ok();
        spec.renew_time = Some(MicroTime(clock));
        if !ours {
            spec.acquire_time = Some(MicroTime(clock));
            spec.lease_transitions = Some(transitions + i32::from(before.is_some()));
        }
        spec
    }
}

/// Waits for the lease, then runs `work` until the lease is lost or shutdown; and again.
pub async fn lead<F>(
    client: Client,
    config: LeaseConfig,
    shutdown: CancellationToken,
    work: impl Fn(CancellationToken) -> F,
) where
    F: Future<Output = ()>,
{
    let api: Api<Lease> = Api::namespaced(client, &config.namespace);
    while !shutdown.is_cancelled() {
        let mut election = Election::new(config.clone());
        if !acquire(&api, &mut election, &shutdown).await {
            return;
        }
        tracing::info!(lease = config.name, identity = config.identity, "leading");
        let term = shutdown.child_token();
        tokio::join!(work(term.clone()), async {
            renew(&api, &mut election, &term).await;
            term.cancel();
        });
    }
    release(&api, &config).await;
}

async fn acquire(api: &Api<Lease>, election: &mut Election, shutdown: &CancellationToken) -> bool {
    loop {
        if attempt(api, election).await {
            return true;
        }
        tokio::select! {
            () = shutdown.cancelled() => return false,
            () = tokio::time::sleep(election.config.retry) => {}
        }
    }
}

/// Renews until that has failed for the deadline.
async fn renew(api: &Api<Lease>, election: &mut Election, term: &CancellationToken) {
    let mut renewed = Instant::now();
    loop {
        tokio::select! {
            () = term.cancelled() => return,
            () = tokio::time::sleep(election.config.retry) => {}
        }
        let left = election
            .config
            .renew_deadline
            .saturating_sub(renewed.elapsed());
        if let Ok(true) = tokio::time::timeout(left, attempt(api, election)).await {
            renewed = Instant::now();
        } else if renewed.elapsed() >= election.config.renew_deadline {
            tracing::warn!(lease = election.config.name, "lease lost");
            return;
        }
    }
}

async fn attempt(api: &Api<Lease>, election: &mut Election) -> bool {
    let lease = match api.get_opt(&election.config.name).await {
        Ok(lease) => lease,
        Err(error) => {
            tracing::debug!(%error, "reading the lease");
            return false;
        }
    };
    let params = PostParams::default();
    let written = match election.step(lease, Instant::now(), Timestamp::now()) {
        Step::Wait => return false,
        Step::Create(lease) => api.create(&params, &lease).await,
        Step::Replace(lease) => api.replace(&lease.name_any(), &params, &lease).await,
    };
    match written {
        Ok(_) => true,
        Err(error) => {
            tracing::debug!(%error, "writing the lease");
            false
        }
    }
}

/// Gives the lease up, so that a successor need not wait for its end.
async fn release(api: &Api<Lease>, config: &LeaseConfig) {
    let give_up = async {
        let mut lease = api.get_opt(&config.name).await.ok().flatten()?;
        let spec = lease.spec.as_mut()?;
        if spec.holder_identity.as_deref() != Some(&config.identity) {
            return None;
        }
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        api.replace(&config.name, &PostParams::default(), &lease)
            .await
            .ok()
    };
    let _ = tokio::time::timeout(Duration::from_secs(1), give_up).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn election(identity: &str) -> Election {
        Election::new(LeaseConfig::new("test", identity))
    }

    fn clock(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    fn lease(step: Step) -> Lease {
        match step {
            Step::Create(lease) | Step::Replace(lease) => *lease,
            Step::Wait => panic!("nothing to write"),
        }
    }

    #[test]
    fn an_absent_lease_is_made() {
        let step = election("a").step(None, Instant::now(), clock(1));
        let spec = lease(step).spec.expect("a spec");
        assert_eq!(spec.holder_identity.as_deref(), Some("a"));
        assert_eq!(spec.lease_transitions, Some(0));
    }

    #[test]
    fn a_lease_of_another_is_taken_after_it_stood_still_for_its_duration() {
        let start = Instant::now();
        let held = lease(election("a").step(None, start, clock(1)));
        let mut second = election("b");
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(second.step(Some(held.clone()), start, clock(2)), Step::Wait);
        assert_eq!(
            second.step(Some(held.clone()), after(14), clock(2)),
            Step::Wait
        );
        let renewed = lease(election("a").step(Some(held), after(14), clock(15)));
        assert_eq!(
            second.step(Some(renewed.clone()), after(16), clock(2)),
            Step::Wait
        );
        let taken = lease(second.step(Some(renewed), after(31), clock(40)));
        let spec = taken.spec.expect("a spec");
        assert_eq!(spec.holder_identity.as_deref(), Some("b"));
        assert_eq!(spec.lease_transitions, Some(1));
        assert_eq!(spec.acquire_time, Some(MicroTime(clock(40))));
    }

    #[test]
    fn the_same_identity_goes_on_at_once() {
        let now = Instant::now();
        let held = lease(election("a").step(None, now, clock(1)));
        let spec = lease(election("a").step(Some(held), now, clock(9)))
            .spec
            .expect("a spec");
        assert_eq!(spec.acquire_time, Some(MicroTime(clock(1))));
        assert_eq!(spec.renew_time, Some(MicroTime(clock(9))));
        assert_eq!(spec.lease_transitions, Some(0));
    }
}
