//! ResourceQuota: what exceeds a quota is refused, what does not is added to its usage.
//!
//! The usage is a field of the quota's status and written like any other change, under the
//! condition that nobody changed it meanwhile, so that two requests cannot both take the last of
//! it. The quota controller takes away what objects gave back.

mod demand;

use std::collections::BTreeMap;
use std::sync::Arc;

use api_rules::quantity::nanos;
use api_rules::quota::write;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::ResourceQuota;
use parking_lot::Mutex;
use serde_json::Value;

use super::{Attributes, Operation};
use crate::registry::options::WriteOptions;
use crate::registry::verbs::Decision;
use crate::registry::{managed, meta};
use crate::response::ApiError;
use demand::Demand;

/// The quotas that somebody is just taking from: requests for one wait for each other instead of
/// failing and trying again.
#[derive(Default)]
pub(super) struct Quotas {
    busy: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Quotas {
    /// Takes what the object needs from every quota of its namespace that is about it.
    pub(super) async fn admit(&self, a: &Attributes<'_>) -> Result<(), ApiError> {
        if !is_counted(a) {
            return Ok(());
        }
        let registry = &a.call.registry;
        let quotas = registry.list("", "resourcequotas", a.namespace());
        if quotas.is_empty() {
            return Ok(());
        }
        let Some(demand) = Demand::of(a) else {
            return Ok(());
        };
        let quotas: Vec<Value> = quotas.iter().map(|q| q.value()).collect();
        let mut concerned = Vec::new();
        for quota in &quotas {
            if let Some(needed) = needed(&demand, quota).map_err(|why| a.forbidden(&why))? {
                taken(quota, &needed).map_err(|why| a.forbidden(&why))?;
                concerned.push((meta::name(quota), needed));
            }
        }
        for (name, needed) in concerned {
            self.take(a, name, &needed).await?;
        }
        Ok(())
    }

    /// Boxed, because a quota is changed as any other object is, admission included.
    fn take<'a>(
        &'a self,
        a: &'a Attributes<'_>,
        name: &'a str,
        needed: &'a Needed,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            let registry = &a.call.registry;
            let resource = registry
                .catalog
                .get("", "v1", "resourcequotas")
                .ok_or_else(|| ApiError::internal("there are no quotas"))?;
            let key = resource.key(a.namespace(), name);
            let turn = self.busy.lock().entry(key.clone()).or_default().clone();
            let held = turn.lock().await;
            let call = a.call.for_object(resource, name, "status");
            let options = WriteOptions {
                dry_run: a.dry_run,
                ..WriteOptions::default()
            };
            let decide = |quota: &Value| {
                let mut new = exceeds(a, taken(quota, needed))?;
                managed::track_own_update(&call, quota, &mut new);
                Ok(Decision::Write(new))
            };
            let outcome = call.change(&options, decide).await;
            drop(held);
            self.leave(&key);
            match outcome {
                Ok(_) => Ok(()),
                // A quota that is gone limits nothing.
                Err(error) if error.is_not_found() => Ok(()),
                Err(error) => Err(error),
            }
        })
    }

    /// Forgets a quota that nobody waits for.
    fn leave(&self, key: &str) {
        let mut busy = self.busy.lock();
        if busy
            .get(key)
            .is_some_and(|turn| Arc::strong_count(turn) <= 2)
        {
            busy.remove(key);
        }
    }
}

fn exceeds<T>(a: &Attributes<'_>, outcome: Result<T, String>) -> Result<T, ApiError> {
    outcome.map_err(|why| a.forbidden(&why))
}

/// Creations, and updates of what can come to need more.
fn is_counted(a: &Attributes<'_>) -> bool {
    let r = &a.call.resource;
    if a.call.internal || !r.namespaced() {
        return false;
    }
    let sub = a.call.info.subresource.as_str();
    let core = |plural: &str| r.group.is_empty() && r.plural == plural;
    match a.operation {
        Operation::Create => sub.is_empty(),
        Operation::Update if core("pods") => sub == "resize",
        Operation::Update => sub.is_empty() && (core("services") || core("persistentvolumeclaims")),
        _ => false,
    }
}

/// Amounts that a request takes of a quota.
type Needed = BTreeMap<String, i128>;

/// What the demand takes of this quota; `None` when it is not about it.
fn needed(demand: &Demand, quota: &Value) -> Result<Option<Needed>, String> {
    let name = meta::name(quota);
    let Some(hard) = quota["status"]["hard"].as_object() else {
        return Ok(None);
    };
    let typed: ResourceQuota = match serde_json::from_value(quota.clone()) {
        Ok(typed) => typed,
        Err(error) => return Err(format!("quota {name} cannot be read: {error}")),
    };
    if !demand.is_in_scope(&typed) {
        return Ok(None);
    }
    let limited: Vec<&str> = hard
        .keys()
        .map(String::as_str)
        .filter(|limit| demand.is_about(limit))
        .collect();
    if limited.is_empty() {
        return Ok(None);
    }
    demand
        .states_what(&limited)
        .map_err(|why| format!("failed quota: {name}: {why}"))?;
    let used = &quota["status"]["used"];
    if limited.iter().any(|limit| used[*limit].is_null()) {
        return Err(format!(
            "status unknown for quota: {name}, resources: {}",
            limited.join(",")
        ));
    }
    let needed: Needed = demand
        .more
        .iter()
        .filter(|(limit, amount)| **amount > 0 && hard.contains_key(*limit))
        .map(|(limit, amount)| (limit.clone(), *amount))
        .collect();
    Ok((!needed.is_empty()).then_some(needed))
}

/// The quota with this much more used, or what is exceeded.
fn taken(quota: &Value, needed: &Needed) -> Result<Value, String> {
    let status = &quota["status"];
    let text = |field: &str, limit: &str| status[field][limit].as_str().unwrap_or("0").to_owned();
    let mut new = quota.clone();
    let mut exceeded = Vec::new();
    for (limit, amount) in needed {
        let (used, hard) = (text("used", limit), text("hard", limit));
        let sum = nanos(&used).unwrap_or(0).saturating_add(*amount);
        if sum > nanos(&hard).unwrap_or(0) {
            exceeded.push((limit, write(*amount, &hard), used, hard));
        } else {
            new["status"]["used"][limit] = write(sum, &hard).into();
        }
    }
    if exceeded.is_empty() {
        return Ok(new);
    }
    let (mut requested, mut used, mut limited) = (Vec::new(), Vec::new(), Vec::new());
    for (limit, more, before, hard) in exceeded {
        requested.push(format!("{limit}={more}"));
        used.push(format!("{limit}={before}"));
        limited.push(format!("{limit}={hard}"));
    }
    Err(format!(
        "exceeded quota: {}, requested: {}, used: {}, limited: {}",
        meta::name(quota),
        requested.join(","),
        used.join(","),
        limited.join(",")
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn quota(hard: Value, used: Value) -> Value {
        json!({"metadata": {"name": "q"}, "spec": {"hard": hard}, "status": {"hard": hard, "used": used}})
    }

    fn demand(object: Value) -> Demand {
        Demand::of_pod(&object).unwrap()
    }

    fn pod(requests: Value) -> Value {
        json!({"spec": {"containers": [{"name": "c", "resources": {"requests": requests}}]}})
    }

    #[test]
    fn what_is_left_can_be_taken_once() {
        let own = demand(pod(json!({"cpu": "600m", "memory": "1Gi"})));
        let quota = quota(
            json!({"pods": "5", "cpu": "1", "requests.memory": "3Gi"}),
            json!({"pods": "1", "cpu": "100m", "requests.memory": "1536Mi"}),
        );
        let needed = needed(&own, &quota).unwrap().unwrap();
        let after = taken(&quota, &needed).unwrap();
        let expect = json!({"pods": "2", "cpu": "700m", "requests.memory": "2560Mi"});
        assert_eq!(after["status"]["used"], expect);
        assert_eq!(
            taken(&after, &needed).unwrap_err(),
            "exceeded quota: q, requested: cpu=600m,requests.memory=1Gi, used: cpu=700m,requests.memory=2560Mi, limited: cpu=1,requests.memory=3Gi"
        );
    }

    #[test]
    fn every_container_says_what_the_quota_limits() {
        let own = demand(pod(json!({})));
        let quota = quota(
            json!({"limits.cpu": "1", "requests.memory": "1Gi"}),
            json!({}),
        );
        assert_eq!(
            needed(&own, &quota).unwrap_err(),
            "failed quota: q: must specify limits.cpu for: c; requests.memory for: c"
        );
        let quota = self::quota(json!({"pods": "1"}), json!({}));
        assert_eq!(
            needed(&own, &quota).unwrap_err(),
            "status unknown for quota: q, resources: pods"
        );
    }
}
