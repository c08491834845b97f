//! What differs between kinds and data cannot say.
//!
//! A [`Strategy`] is a row of flags and a few functions, each pure over JSON trees. Kinds that
//! need nothing special use [`DEFAULT`].

use serde_json::Value;

use super::names;
use crate::authn::UserInfo;
use crate::response::Cause;

mod admission;
mod certificates;
mod core;
mod definitions;
pub mod pod;
mod table;
mod workload;

pub use table::strategy_for;

/// What the functions of a strategy may look at besides the objects.
#[derive(Debug, Clone, Copy, Default)]
pub struct Context<'a> {
    pub user: Option<&'a UserInfo>,
    pub subresource: &'a str,
}

/// See the module's documentation.
pub struct Strategy {
    /// The server counts `metadata.generation`: 1 at creation, one more with each change outside
    /// of `metadata` and `status`.
    pub generation: bool,
    /// A change of annotations counts too.
    pub counts_annotations: bool,
    /// A new object keeps the status that it is sent with (nodes).
    pub keeps_status: bool,
    /// PUT of an object that does not exist creates it.
    pub create_on_update: bool,
    /// PUT without a resourceVersion replaces whatever there is.
    pub unconditional_update: bool,
    /// DELETE answers with the object instead of a Status.
    pub returns_deleted: bool,
    /// Deletion waits for the node (pods).
    pub graceful: bool,
    /// Dependents are orphaned unless the client says otherwise.
    pub orphans: bool,
    /// Nobody's fields are recorded: the published schema calls a text of this kind a list, and
    /// upstream's field manager gives up on it.
    pub untracked: bool,
    /// What is wrong with a name.
    pub name_faults: fn(&str) -> Vec<String>,
    /// Before validation on creation: resets, initial status.
    pub prepare_create: fn(&mut Value, &Context<'_>),
    /// Before validation on update of the object itself (new, old).
    pub prepare_update: fn(&mut Value, &Value, &Context<'_>),
    /// Before validation on update of the status (new, old).
    pub prepare_status: fn(&mut Value, &Value, &Context<'_>),
    /// Beyond what the `schema` crate validates (new, old).
    pub validate: fn(&Value, Option<&Value>, &Context<'_>, &mut Vec<Cause>),
}

pub const DEFAULT: Strategy = Strategy {
    generation: false,
    counts_annotations: false,
    keeps_status: false,
    create_on_update: false,
    unconditional_update: true,
    returns_deleted: false,
    graceful: false,
    orphans: false,
    untracked: false,
    name_faults: names::subdomain_faults,
    prepare_create: |_, _| {},
    prepare_update: |_, _, _| {},
    prepare_status: |_, _, _| {},
    validate: |_, _, _, _| {},
};

impl Strategy {
    /// Whether the change is one that `metadata.generation` counts.
    pub fn is_counted(&self, old: &Value, new: &Value) -> bool {
        spec_differs(old, new)
            || (self.counts_annotations && workload::annotations_differ(old, new))
    }
}

/// Whether anything but metadata and status differs.
fn spec_differs(old: &Value, new: &Value) -> bool {
    let skipped = |key: &str| matches!(key, "metadata" | "status" | "apiVersion" | "kind");
    let (Some(old), Some(new)) = (old.as_object(), new.as_object()) else {
        return old != new;
    };
    let old = old.iter().filter(|(k, _)| !skipped(k));
    let new = new.iter().filter(|(k, _)| !skipped(k));
    !old.eq(new)
}
