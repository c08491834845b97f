//! Eviction: a deletion that the pod's disruption budget has to allow.

use bytes::Bytes;
use schema::types::Gvk;
use serde_json::{Value, json};

use crate::registry::options::{DeleteOptions, WriteOptions};
use crate::registry::verbs::Decision;
use crate::registry::{Call, LabelSelector, managed, meta};
use crate::response::{ApiError, ApiResponse, Cause};

/// How long a client is asked to wait while a changed budget is counted.
const PROCESSING_SECONDS: u32 = 10;

/// POST of `pods/NAME/eviction`.
pub(super) async fn evict(call: &Call, body: Bytes) -> Result<ApiResponse, ApiError> {
    let write = WriteOptions::parse(&call.query, "CreateOptions", false)?;
    let eviction = call.decode(
        &Gvk::new("policy", "v1", "Eviction"),
        &in_first_version(body),
        write.field_validation,
    )?;
    if !meta::name(&eviction).is_empty() && meta::name(&eviction) != call.info.name {
        return Err(ApiError::bad_request(
            "name in URL does not match name in Eviction object",
        ));
    }
    let mut options = DeleteOptions::parse(&call.query, eviction.get("deleteOptions"))?;
    options.dry_run |= write.dry_run;
    super::admit(call, eviction, call.info.name.clone(), &write).await?;
    let pod = call.current(&call.info.name).await?.value();
    if !ignores_budgets(&pod) {
        take_disruption(call, &pod, &options).await?;
    }
    if !meta::is_deleting(&pod) {
        tell_disruption(call, &options).await?;
    }
    call.delete_named(&call.info.name, &options).await?;
    Ok(super::created_status(call))
}

/// `v1beta1` has the same fields; it is accepted here although its group does not serve it, and
/// `kubectl drain` of older releases sends it.
fn in_first_version(body: Bytes) -> Bytes {
    match serde_json::from_slice::<Value>(&body) {
        Ok(mut eviction) if eviction["apiVersion"] == "policy/v1beta1" => {
            eviction["apiVersion"] = "policy/v1".into();
            eviction.to_string().into()
        }
        _ => body,
    }
}

/// The pod says itself why it goes.
async fn tell_disruption(call: &Call, options: &DeleteOptions) -> Result<(), ApiError> {
    let status = call.for_object(call.resource.clone(), &call.info.name, "status");
    let write = WriteOptions {
        dry_run: options.dry_run,
        ..WriteOptions::default()
    };
    status
        .change(&write, |pod| {
            let mut new = pod.clone();
            let conditions = &mut new["status"]["conditions"];
            let mut all: Vec<Value> = conditions.as_array().cloned().unwrap_or_default();
            all.retain(|c| c["type"] != "DisruptionTarget");
            all.push(json!({
                "type": "DisruptionTarget",
                "status": "True",
                "reason": "EvictionByEvictionAPI",
                "message": "Eviction API: evicting",
                "lastProbeTime": null,
                "lastTransitionTime": meta::now(),
            }));
            *conditions = all.into();
            Ok(Decision::Write(new))
        })
        .await
        .map(drop)
}

/// What is not running, or is going already, disrupts nothing.
fn ignores_budgets(pod: &Value) -> bool {
    matches!(
        pod["status"]["phase"].as_str(),
        Some("Succeeded" | "Failed" | "Pending")
    ) || meta::is_deleting(pod)
}

fn budgets_of(call: &Call, pod: &Value) -> Vec<Value> {
    let labels = &pod["metadata"]["labels"];
    let all = call
        .registry
        .list("policy", "poddisruptionbudgets", call.namespace());
    all.iter()
        .map(|b| b.value())
        .filter(|budget| {
            LabelSelector::from_value(&budget["spec"]["selector"])
                .is_some_and(|s| s.matches(|key| labels[key].as_str()))
        })
        .collect()
}

/// Counts the disruption in the pod's budget before it happens.
async fn take_disruption(
    call: &Call,
    pod: &Value,
    options: &DeleteOptions,
) -> Result<(), ApiError> {
    let budgets = budgets_of(call, pod);
    let budget = match budgets.as_slice() {
        [] => return Ok(()),
        [one] => one,
        _ => {
            return Err(ApiError::new(
                500,
                "InternalError",
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
                None,
            ));
        }
    };
    let healthy = pod["status"]["conditions"].as_array().is_some_and(|c| {
        c.iter()
            .any(|c| c["type"] == "Ready" && c["status"] == "True")
    });
    let status = &budget["status"];
    let enough = status["currentHealthy"].as_i64() >= status["desiredHealthy"].as_i64()
        && status["desiredHealthy"].as_i64().unwrap_or(0) > 0;
    let always = budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow";
    if !healthy && (always || enough) {
        return Ok(());
    }
    let resource = call
        .registry
        .catalog
        .get("policy", "v1", "poddisruptionbudgets")
        .ok_or_else(|| ApiError::internal("there are no disruption budgets"))?;
    let budget_call = call.for_object(resource, meta::name(budget), "status");
    let pod_name = call.info.name.clone();
    let write = WriteOptions {
        dry_run: options.dry_run,
        ..WriteOptions::default()
    };
    budget_call
        .change(&write, |budget| {
            let Decision::Write(mut new) = count(budget, &pod_name)?;
            managed::track_own_update(&budget_call, budget, &mut new);
            Ok(Decision::Write(new))
        })
        .await?;
    Ok(())
}

/// `retry`: seconds after which a client may try again by itself; 0 where nobody knows when.
fn refused(why: String, retry: u32) -> ApiError {
    let message = "Cannot evict pod as it would violate the pod's disruption budget.";
    let cause = Cause::new("DisruptionBudget", why, "");
    ApiError::too_many_requests(message, retry).with_cause(cause)
}

fn count(budget: &Value, pod: &str) -> Result<Decision, ApiError> {
    let name = meta::name(budget);
    let status = &budget["status"];
    let generation = budget["metadata"]["generation"].as_i64().unwrap_or(0);
    if status["observedGeneration"].as_i64().unwrap_or(0) < generation {
        return Err(refused(
            format!("The disruption budget {name} is still being processed by the server."),
            PROCESSING_SECONDS,
        ));
    }
    let allowed = status["disruptionsAllowed"].as_i64().unwrap_or(0);
    if allowed <= 0 {
        let number = |key: &str| status[key].as_i64().unwrap_or(0);
        return Err(refused(
            format!(
                "The disruption budget {name} needs {} healthy pods and has {} currently",
                number("desiredHealthy"),
                number("currentHealthy")
            ),
            0,
        ));
    }
    let mut new = budget.clone();
    new["status"]["disruptionsAllowed"] = (allowed - 1).into();
    if !new["status"]["disruptedPods"].is_object() {
        new["status"]["disruptedPods"] = json!({});
    }
    new["status"]["disruptedPods"][pod] = meta::now().into();
    Ok(Decision::Write(new))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_counts_down_and_then_refuses() {
        let budget = json!({"metadata": {"name": "b", "generation": 1},
            "status": {"observedGeneration": 1, "disruptionsAllowed": 1, "desiredHealthy": 2, "currentHealthy": 3}});
        let Ok(Decision::Write(next)) = count(&budget, "p") else {
            panic!("refused")
        };
        assert_eq!(next["status"]["disruptionsAllowed"], 0);
        let refused = count(&next, "q").unwrap_err();
        assert_eq!(refused.retry_after(), None);
        assert_eq!(
            refused.details().map(|d| d.causes[0].message.clone()),
            Some("The disruption budget b needs 2 healthy pods and has 3 currently".into())
        );
    }
}
