//! The conditions of an autoscaler. Pure.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Whether the target can be sized.
pub(crate) fn able(
    status: &mut HorizontalPodAutoscalerStatus,
    value: bool,
    reason: &str,
    message: String,
    now: Timestamp,
) {
    set(status, "AbleToScale", value, reason, message, now);
}

/// Whether the metrics say anything.
pub(crate) fn active(
    status: &mut HorizontalPodAutoscalerStatus,
    value: bool,
    reason: &str,
    message: String,
    now: Timestamp,
) {
    set(status, "ScalingActive", value, reason, message, now);
}

/// What keeps the target from the size that its load asks for.
pub(crate) fn limited(
    status: &mut HorizontalPodAutoscalerStatus,
    limit: Option<(&str, &str)>,
    now: Timestamp,
) {
    let free = (
        "DesiredWithinRange",
        "the desired count is within the acceptable range",
    );
    let (reason, message) = limit.unwrap_or(free);
    set(
        status,
        "ScalingLimited",
        limit.is_some(),
        reason,
        message.to_owned(),
        now,
    );
}

fn set(
    status: &mut HorizontalPodAutoscalerStatus,
    kind: &str,
    value: bool,
    reason: &str,
    message: String,
    now: Timestamp,
) {
    let value = if value { "True" } else { "False" };
    let conditions = status.conditions.get_or_insert_default();
    let known = conditions
        .iter_mut()
        .find(|condition| condition.type_ == kind);
    let Some(known) = known else {
        conditions.push(HorizontalPodAutoscalerCondition {
            type_: kind.to_owned(),
            status: value.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: Some(Time(now)),
        });
        return;
    };
    if known.status != value {
        known.status = value.to_owned();
        known.last_transition_time = Some(Time(now));
    }
    known.reason = Some(reason.to_owned());
    known.message = Some(message);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_condition_is_that_of_its_last_turn() {
        let at = |second| Timestamp::from_second(second).expect("in range");
        let mut status = HorizontalPodAutoscalerStatus::default();
        able(&mut status, true, "A", "a".to_owned(), at(1));
        able(&mut status, true, "B", "b".to_owned(), at(2));
        limited(&mut status, None, at(2));
        able(&mut status, false, "C", "c".to_owned(), at(3));
        let conditions = status.conditions.expect("conditions");
        let told: Vec<_> = conditions
            .iter()
            .map(|c| {
                (
                    c.type_.as_str(),
                    c.status.as_str(),
                    c.reason.as_deref().unwrap_or_default(),
                )
            })
            .collect();
        let expected = [
            ("AbleToScale", "False", "C"),
            ("ScalingLimited", "False", "DesiredWithinRange"),
        ];
        assert_eq!(told, expected);
        assert_eq!(conditions[0].last_transition_time, Some(Time(at(3))));
    }
}
