//! The node itself: registered, measured, and told to be alive.

mod addresses;
mod conditions;
mod eviction;
mod lease;
mod machine;
mod register;
mod usage;

pub(crate) use addresses::node_addresses;
pub(crate) use eviction::run as watch_pressure;
pub(crate) use lease::run as keep_lease;
pub(crate) use machine::Machine;
pub(crate) use register::{facts, run as keep_registered};
pub(crate) use usage::disk_usage;
