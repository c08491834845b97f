//! Every decoder of bytes that others wrote, as a function that any bytes may be given to. It
//! panics when a decoder does, or when what was read breaks a promise.
//!
//! `make fuzz` drives them with libFuzzer (`src/main.rs`), starting from `corpus/`. The tests run
//! each over its corpus: an input that once was a crash stays there.

mod bgp;
mod cni;
mod nodes;

use std::sync::OnceLock;

/// A decoder.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The corpus is in the folder of this name.
    pub name: &'static str,
    pub run: fn(&[u8]),
}

const fn target(name: &'static str, run: fn(&[u8])) -> Target {
    Target { name, run }
}

/// All of them.
pub const TARGETS: &[Target] = &[
    target("bfd_packet", bgp::bfd_packet),
    target("bgp_file", bgp::file),
    target("bgp_message", bgp::message),
    target("bgp_session", bgp::session),
    target("cni_config", cni::config),
    target("ipam_state", cni::state),
    target("node_annotations", nodes::annotations),
    target("pool_answer", cni::pool_answer),
    target("pool_request", nodes::pool_request),
    target("pool_wish", nodes::wish),
];

/// The target that the variable `FUZZ_TARGET` names.
///
/// # Panics
/// Without one: there is nothing to run.
pub fn chosen() -> Target {
    static CHOSEN: OnceLock<Target> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let wanted = std::env::var("FUZZ_TARGET").unwrap_or_default();
        let found = TARGETS.iter().find(|own| own.name == wanted);
        let names: Vec<&str> = TARGETS.iter().map(|own| own.name).collect();
        *found.unwrap_or_else(|| panic!("FUZZ_TARGET={wanted:?} is none of {}", names.join(", ")))
    })
}
