//! Disruption budgets.

use super::field::Errors;
use super::{Change, apps, internal, meta};

/// PodDisruptionBudget
pub(super) fn disruption_budget(e: &mut Errors, change: &Change<'_>) {
    if change.is_status() {
        let status = change.new.get("status");
        meta::conditions(e, &status.get("conditions"));
        for field in [
            "disruptionsAllowed",
            "currentHealthy",
            "desiredHealthy",
            "expectedPods",
        ] {
            e.non_negative(&status.get(field));
        }
        return;
    }
    let spec = change.new.get("spec");
    let (least, most) = (spec.get("minAvailable"), spec.get("maxUnavailable"));
    if least.is_set() && most.is_set() {
        let shown = internal::shown("PodDisruptionBudgetSpec", spec.value);
        e.invalid(
            &spec,
            shown,
            "minAvailable and maxUnavailable cannot be both set",
        );
    }
    for amount in [least, most] {
        if amount.is_set() {
            apps::int_or_percent(e, &amount);
            apps::at_most_all(e, &amount);
        }
    }
    meta::selector(e, &spec.get("selector"));
    let policy = spec.get("unhealthyPodEvictionPolicy");
    e.one_of(&policy, &["AlwaysAllow", "IfHealthyBudget"]);
}
