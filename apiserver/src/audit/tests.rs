use serde_json::Value;

use super::*;
use crate::authn::UserInfo;
use crate::request::{Query, RequestInfo};

const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  users: ["system:kube-proxy"]
- level: None
  nonResourceURLs: ["/healthz*", "/version"]
- level: Metadata
  resources: [{group: "", resources: ["secrets", "pods/status"]}]
- level: RequestResponse
  verbs: [create]
  namespaces: [shop]
  omitManagedFields: true
  resources: [{group: apps}]
- level: Request
  userGroups: [developers]
"#;

fn request(user: &str, group: &str, method: http::Method, path: &str) -> Request {
    let info = RequestInfo::parse(&method, path, &Query::default());
    Request {
        id: "id".into(),
        uri: path.into(),
        verb: info.verb.into(),
        user: Arc::new(UserInfo::new(user, [group])),
        impersonated: None,
        source: None,
        user_agent: String::new(),
        info,
    }
}

#[test]
fn the_first_rule_that_fits_decides() {
    let policy = Policy::parse(POLICY).unwrap();
    let level =
        |user: &str, method, path: &str| policy.judge(&request(user, "developers", method, path)).0;
    use http::Method as M;
    assert_eq!(
        level("system:kube-proxy", M::GET, "/api/v1/pods"),
        Level::None
    );
    assert_eq!(level("jane", M::GET, "/healthz/etcd"), Level::None);
    assert_eq!(
        level("jane", M::GET, "/api/v1/namespaces/a/secrets/s"),
        Level::Metadata
    );
    assert_eq!(
        level("jane", M::PUT, "/api/v1/namespaces/a/pods/p/status"),
        Level::Metadata
    );
    assert_eq!(
        level("jane", M::PUT, "/api/v1/namespaces/a/pods/p"),
        Level::Request
    );
    assert_eq!(
        level("jane", M::POST, "/apis/apps/v1/namespaces/shop/deployments"),
        Level::RequestResponse
    );
    assert_eq!(
        level(
            "jane",
            M::POST,
            "/apis/apps/v1/namespaces/other/deployments"
        ),
        Level::Request
    );
    let other = policy.judge(&request("joe", "others", M::GET, "/api/v1/pods"));
    assert_eq!(other.0, Level::None);
    assert!(Policy::parse("apiVersion: v1\nkind: Pod\nrules: []").is_err());
}

#[test]
fn events_say_who_did_what_and_what_came_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let (policy, log) = (
        directory.path().join("policy"),
        directory.path().join("log"),
    );
    std::fs::write(&policy, POLICY).unwrap();
    let config = AuditConfig {
        policy_file: Some(policy),
        log_path: Some(log.clone()),
        ..AuditConfig::default()
    };
    let auditor = Auditor::open(&config).unwrap().unwrap();
    let path = "/apis/apps/v1/namespaces/shop/deployments";
    let mut record = auditor
        .begin(request("jane", "developers", http::Method::POST, path))
        .unwrap();
    record.stage(Stage::RequestReceived, None);
    let body = r#"{"kind": "Deployment", "metadata": {"name": "a", "managedFields": [{}]}}"#;
    record.sent(&Bytes::from(body));
    record.annotations.0.lock().insert("k".into(), "v".into());
    let answer = Bytes::from(r#"{"kind": "Status", "message": "no", "reason": "Forbidden"}"#);
    record.stage(Stage::ResponseComplete, Some((403, Some(&answer))));
    drop((record, auditor));
    let mut text = String::new();
    for _ in 0..200 {
        text = std::fs::read_to_string(&log).unwrap();
        if !text.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let event: Value = serde_json::from_str(text.trim()).unwrap();
    assert_eq!(event["stage"], "ResponseComplete");
    assert_eq!(event["user"]["username"], "jane");
    assert_eq!(event["objectRef"]["resource"], "deployments");
    assert_eq!(event["responseStatus"]["reason"], "Forbidden");
    assert_eq!(
        event["requestObject"]["metadata"],
        serde_json::json!({"name": "a"})
    );
    assert_eq!(event["annotations"]["k"], "v");
}

use bytes::Bytes;
