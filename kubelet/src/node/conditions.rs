use jiff::Timestamp;
use k8s_openapi::api::core::v1::NodeCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// What the conditions are made from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Health {
    /// Why the node is not ready, if it is not.
    pub(super) complaint: Option<String>,
    pub(super) memory_pressure: bool,
    pub(super) disk_pressure: bool,
    pub(super) pid_pressure: bool,
}

/// The conditions of the node. Each keeps the time of its last change.
pub(super) fn make(
    health: &Health,
    before: &[NodeCondition],
    now: Timestamp,
) -> Vec<NodeCondition> {
    let pressure = |kind, under, bad: (&str, &str), good: (&str, &str)| {
        let (reason, message) = if under { bad } else { good };
        (kind, under, reason.to_owned(), message.to_owned())
    };
    let wanted = [
        pressure(
            "MemoryPressure",
            health.memory_pressure,
            (
                "KubeletHasInsufficientMemory",
                "kubelet has insufficient memory available",
            ),
            (
                "KubeletHasSufficientMemory",
                "kubelet has sufficient memory available",
            ),
        ),
        pressure(
            "DiskPressure",
            health.disk_pressure,
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ),
        pressure(
            "PIDPressure",
            health.pid_pressure,
            (
                "KubeletHasInsufficientPID",
                "kubelet has insufficient PID available",
            ),
            (
                "KubeletHasSufficientPID",
                "kubelet has sufficient PID available",
            ),
        ),
        match &health.complaint {
            None => (
                "Ready",
                true,
                "KubeletReady".to_owned(),
                "kubelet is posting ready status".to_owned(),
            ),
            Some(complaint) => (
                "Ready",
                false,
                "KubeletNotReady".to_owned(),
                complaint.clone(),
            ),
        },
    ];
    wanted
        .into_iter()
        .map(|(kind, status, reason, message)| {
            let status = if status { "True" } else { "False" };
            let old = before.iter().find(|condition| condition.type_ == kind);
            let kept = old
                .filter(|old| old.status == status)
                .and_then(|old| old.last_transition_time.clone());
            NodeCondition {
                type_: kind.to_owned(),
                status: status.to_owned(),
                reason: Some(reason),
                message: Some(message),
                last_heartbeat_time: Some(Time(now)),
                last_transition_time: Some(kept.unwrap_or(Time(now))),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    #[test]
    fn a_condition_keeps_its_time_until_it_changes() {
        let ready = make(&Health::default(), &[], at(0));
        let later = make(&Health::default(), &ready, at(60));
        let find =
            |list: &[NodeCondition]| list.iter().find(|c| c.type_ == "Ready").cloned().unwrap();
        assert_eq!(find(&later).last_transition_time, Some(Time(at(0))));
        assert_eq!(find(&later).last_heartbeat_time, Some(Time(at(60))));
        let health = Health {
            complaint: Some("no network".into()),
            ..Health::default()
        };
        let down = find(&make(&health, &later, at(70)));
        assert_eq!(
            (down.status.as_str(), down.message.as_deref()),
            ("False", Some("no network"))
        );
        assert_eq!(down.last_transition_time, Some(Time(at(70))));
    }
}
