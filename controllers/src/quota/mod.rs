//! ResourceQuota: keeps the status of quotas at what is used. Refusing what exceeds a quota
//! is the API server's part: it reads this status and adds what it admits.
//!
//! **Invariant:** what was just admitted is never counted away. So nothing is counted because an
//! object came, when others may be admitted and not yet stored, but when one went, when the
//! quota itself changed, and now and then for what was admitted and then failed.

mod count;
mod plan;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, Pod, ResourceQuota, ResourceQuotaStatus, Service,
};
use kube::ResourceExt;
use watch_cache::{Cacheable, Change, ObjectKey, WatchCache};

use crate::framework::pods::{is_terminal, is_terminating};
use crate::framework::{Context, Error, Outcome, Reconciler, Tolerate, act};
use count::Counters;
use plan::Contents;

const NAME: &str = "resourcequota-controller";

fn in_namespace(quotas: &WatchCache<ResourceQuota>, namespace: &str) -> Vec<ObjectKey> {
    quotas
        .list_namespace(namespace)
        .iter()
        .map(|quota| ObjectKey::of(quota.as_ref()))
        .collect()
}

/// How often a quota is counted without a reason.
const RECOUNT: Duration = Duration::from_secs(300);

/// Whether a pod went, ended or is about to go, or asks for something else.
fn pod_matters(change: &Change<Pod>) -> bool {
    match change {
        Change::Applied {
            old: Some(old),
            new,
        } => {
            is_terminal(old) != is_terminal(new)
                || is_terminating(old) != is_terminating(new)
                || old.metadata.generation != new.metadata.generation
        }
        Change::Applied { old: None, .. } => false,
        _ => true,
    }
}

fn spec_changed<K: Cacheable + PartialEq>(change: &Change<K>) -> bool {
    match change {
        Change::Applied {
            old: Some(old),
            new,
        } => old != new,
        Change::Applied { old: None, .. } => false,
        _ => true,
    }
}

/// Whether the quota limits something else than before.
fn limits_changed(change: &Change<ResourceQuota>) -> bool {
    match change {
        Change::Applied {
            old: Some(old),
            new,
        } => {
            let told = |q: &ResourceQuota| q.status.as_ref().and_then(|s| s.hard.clone());
            old.spec != new.spec || told(old) != told(new)
        }
        _ => true,
    }
}

pub(crate) fn start(context: &Context) {
    let quotas = context.caches.of::<ResourceQuota>();
    let all_pods = context.caches.of::<Pod>();
    let services = context.caches.of::<Service>();
    let claims = context.caches.of::<PersistentVolumeClaim>();
    let (a, b, c, d) = (
        quotas.clone(),
        quotas.clone(),
        quotas.clone(),
        quotas.clone(),
    );
    let builder = context.controller::<ObjectKey>(NAME);
    let queue = builder.queue();
    let counters = Counters::new(context, move |namespace| {
        for key in in_namespace(&d, namespace) {
            queue.add(key);
        }
    });
    builder
        .watch(&quotas, |change| {
            limits_changed(change).then(|| change.key())
        })
        .watch(&all_pods, move |change| {
            let namespace = change.key().namespace;
            if pod_matters(change) {
                in_namespace(&a, &namespace)
            } else {
                Vec::new()
            }
        })
        .watch(&services, move |change| {
            let namespace = change.key().namespace;
            if spec_changed(change) {
                in_namespace(&b, &namespace)
            } else {
                Vec::new()
            }
        })
        .watch(&claims, move |change| {
            let namespace = change.key().namespace;
            if spec_changed(change) {
                in_namespace(&c, &namespace)
            } else {
                Vec::new()
            }
        })
        .run(
            context.config.workers,
            Controller {
                context: context.clone(),
                quotas,
                all_pods,
                services,
                claims,
                counters,
            },
        );
}

struct Controller {
    context: Context,
    quotas: WatchCache<ResourceQuota>,
    all_pods: WatchCache<Pod>,
    services: WatchCache<Service>,
    claims: WatchCache<PersistentVolumeClaim>,
    counters: Counters,
}

impl Reconciler for Controller {
    type Key = ObjectKey;

    async fn sync(&self, key: &ObjectKey) -> Result<Outcome, Error> {
        let Some(quota) = self.quotas.get_key(key) else {
            return Ok(Outcome::Done);
        };
        let hard = quota
            .spec
            .as_ref()
            .and_then(|spec| spec.hard.clone())
            .unwrap_or_default();
        let namespace = &key.namespace;
        let contents = Contents {
            pods: self.all_pods.list_namespace(namespace),
            services: self.services.list_namespace(namespace),
            claims: self.claims.list_namespace(namespace),
            objects: self.counters.count(namespace, hard.keys()).await?,
        };
        let used = plan::used(&quota, &contents, Timestamp::now());
        let status = ResourceQuotaStatus {
            hard: Some(hard),
            used: Some(used),
        };
        if is_same(quota.status.as_ref(), &status) {
            return Ok(Outcome::After(RECOUNT));
        }
        let updated = Arc::new(ResourceQuota {
            status: Some(status),
            ..quota.as_ref().clone()
        });
        let api = self
            .context
            .api::<ResourceQuota>(&quota.namespace().unwrap_or_default());
        act::replace_status(&api, updated.as_ref())
            .await
            .unless_gone()?;
        Ok(Outcome::After(RECOUNT))
    }
}

/// Amounts are compared by value: `1` and `1000m` are the same.
fn is_same(old: Option<&ResourceQuotaStatus>, new: &ResourceQuotaStatus) -> bool {
    let Some(old) = old else { return false };
    let values = |list: &Option<
        std::collections::BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>,
    >| {
        let list = list.clone().unwrap_or_default();
        let values = list
            .into_iter()
            .map(|(name, q)| (name, api_rules::quantity::nanos(&q.0).ok()));
        values.collect::<Vec<_>>()
    };
    values(&old.hard) == values(&new.hard) && values(&old.used) == values(&new.used)
}
