//! What is recorded of requests.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// What parts of the server have to say about a request.
#[derive(Debug, Default)]
pub struct Annotations(Mutex<BTreeMap<String, String>>);

tokio::task_local! {
    static CURRENT: Arc<Annotations>;
}

/// Adds to the record of the request that this task answers. The first word on a key stands.
pub fn annotate(key: impl Into<String>, value: impl Into<String>) {
    // Without a record there is nothing to add to.
    let _ = CURRENT.try_with(|current| {
        current
            .0
            .lock()
            .entry(key.into())
            .or_insert_with(|| value.into());
    });
}
