//! What several unit tests need.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

/// A pod from JSON, with a name, namespace and uid unless it brings its own.
pub(crate) fn pod(mut value: Value) -> Pod {
    let metadata = value
        .as_object_mut()
        .expect("a pod is an object")
        .entry("metadata")
        .or_insert(json!({}));
    for (key, default) in [("name", "p"), ("namespace", "ns"), ("uid", "u1")] {
        metadata
            .as_object_mut()
            .expect("metadata is an object")
            .entry(key)
            .or_insert(json!(default));
    }
    serde_json::from_value(value).expect("the test's pod is well-formed")
}

/// A moment, in seconds.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).expect("in range")
}
