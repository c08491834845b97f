//! How long a request is kept.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;

use super::{has, issued};
use crate::framework::pods::until;

const HOUR: Duration = Duration::from_secs(3600);
const DECIDED: Duration = HOUR;
const PENDING: Duration = Duration::from_secs(24 * 3600);

/// How long the request is still kept: zero if it is to go now, None if it is kept for good.
pub(crate) fn remaining(request: &CertificateSigningRequest, now: Timestamp) -> Option<Duration> {
    let mut ends = Vec::new();
    let conditions = request
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten());
    for condition in conditions {
        let kept = match condition.type_.as_str() {
            "Denied" | "Failed" => DECIDED,
            "Approved" if issued(request).is_some() => DECIDED,
            "Approved" => PENDING,
            _ => continue,
        };
        ends.extend(
            condition
                .last_update_time
                .as_ref()
                .map(|time| time.0 + kept),
        );
    }
    if ends.is_empty() && !has(request, "Approved") {
        let created = request.metadata.creation_timestamp.as_ref()?.0;
        ends.push(created + PENDING);
    }
    ends.extend(expiry(request));
    let end = ends.into_iter().min()?;
    Some(until(end, now).unwrap_or_default())
}

fn expiry(request: &CertificateSigningRequest) -> Option<Timestamp> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(&issued(request)?.0).ok()?;
    let end = pem.parse_x509().ok()?.validity().not_after.timestamp();
    Timestamp::from_second(end).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn requests_are_kept_for_an_hour_after_a_decision_and_a_day_without() {
        let created = "2026-01-01T00:00:00Z";
        let decided =
            |kind: &str| json!([{"type": kind, "status": "True", "lastUpdateTime": created}]);
        let cases: [(Value, Value, &str, u64); 6] = [
            (json!([]), json!(null), "2026-01-01T00:00:00Z", 24 * 3600),
            (json!([]), json!(null), "2026-01-02T00:00:00Z", 0),
            (decided("Denied"), json!(null), "2026-01-01T00:30:00Z", 1800),
            (decided("Failed"), json!(null), "2026-01-01T01:00:00Z", 0),
            (
                decided("Approved"),
                json!("eA=="),
                "2026-01-01T00:59:00Z",
                60,
            ),
            (
                decided("Approved"),
                json!(null),
                "2026-01-01T01:00:00Z",
                23 * 3600,
            ),
        ];
        for (conditions, certificate, now, left) in cases {
            let request: CertificateSigningRequest = serde_json::from_value(json!({
                "metadata": {"name": "r", "creationTimestamp": created},
                "spec": {"request": "eA==", "signerName": "s"},
                "status": {"conditions": conditions, "certificate": certificate}}))
            .expect("a request");
            let now = now.parse().expect("a time");
            assert_eq!(
                remaining(&request, now),
                Some(Duration::from_secs(left)),
                "{now}"
            );
        }
    }
}
