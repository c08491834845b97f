//! What etcd's errors mean to the store.

use etcd_client::Error;

use crate::{Revision, StoreError};

/// `requested`: the revision that was asked for, 0 for none.
pub(super) fn store_error(
    operation: &'static str,
    requested: Revision,
    error: Error,
) -> StoreError {
    let reason = match &error {
        Error::GRpcStatus(status) => status.message().to_owned(),
        other => other.to_string(),
    };
    if reason.contains("has been compacted") {
        // etcd does not say what it still has; more than this is certain.
        return StoreError::Compacted {
            requested,
            oldest: requested + 1,
        };
    }
    if reason.contains("is a future revision") {
        return StoreError::Future {
            requested,
            newest: requested.saturating_sub(1),
        };
    }
    if reason.contains("database space exceeded") {
        return StoreError::NoSpace {
            path: "etcd".to_owned(),
        };
    }
    StoreError::Unavailable { operation, reason }
}
