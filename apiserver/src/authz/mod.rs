//! Authorization: may this user do this?
//!
//! [`Authorizer`] is asked once for each request, and again by handlers that have a
//! finer question (escalation checks, admission, reviews). It answers from indexes
//! in memory and never lists anything per request.

mod attributes;
mod chain;
mod forbidden;
pub mod grants;
mod node;
pub mod rbac;

pub use attributes::{Attributes, Authorizer, Decision, SelectorRequirement};
pub use chain::Authorization;
pub use forbidden::forbidden;
