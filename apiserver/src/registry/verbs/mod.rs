//! The verbs, each a method of [`Call`](super::call::Call).

mod create;
mod delete;
mod delete_collection;
mod patch;
mod read;
mod update;
mod watch;
mod write;

pub use update::Decision;
pub use write::{Stored, validate_object};
