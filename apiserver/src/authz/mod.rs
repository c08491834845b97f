//! Authorization: may this user do this?
//!
//! [`Authorizer`] is asked once for each request, and again by handlers that have a
//! finer question (escalation checks, admission, reviews). It answers from indexes
//! in memory and never lists anything per request.

mod abac;
mod attributes;
mod chain;
mod forbidden;
pub mod grants;
mod node;
mod parameters;
pub mod rbac;
mod webhook;

pub use abac::AbacError;
pub use attributes::{Attributes, Authorizer, Decision, SelectorRequirement};
pub use chain::{Authorization, AuthorizationConfig, AuthorizationConfigError, Mode};
pub use forbidden::forbidden;
pub use webhook::AccessWebhookConfig;
