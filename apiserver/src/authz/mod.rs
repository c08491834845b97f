//! Authorization: may this user do this?
//!
//! [`Authorizer`] is asked once for each request, and again by handlers that have a
//! finer question (escalation checks, admission, reviews). It answers from indexes
//! in memory and never lists anything per request.

mod attributes;

pub use attributes::{Attributes, Authorizer, Decision, SelectorRequirement};
