//! The pure core: what a pod needs next, and what its status says. Nothing in here does
//! input or output, and time comes in as a parameter.
//!
//! [`plan::plan`] compares the pod with what the runtime has ([`observed::Observed`]) and
//! with what the worker remembers ([`memory::Memory`]), and answers operations.
//! [`status::generate`] says the same state in the API's words.

pub mod admission;
pub mod announce;
pub mod backoff;
pub mod cgroup;
pub mod config;
pub mod containers;
pub mod dns;
pub mod downward;
pub mod env;
pub mod expansion;
pub mod hosts;
pub mod memory;
pub mod observed;
pub mod patch;
pub mod plan;
pub mod probe;
pub mod qos;
pub mod references;
pub mod resize;
pub mod resources;
pub mod security;
pub mod status;

mod container_status;
mod phase;

/// Whether the API has the pod as ended for good.
pub fn phase_is_final(pod: &k8s_openapi::api::core::v1::Pod) -> bool {
    containers::is_phase_terminal(pod)
}
