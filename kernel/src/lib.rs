//! kernel
pub mod nftables;
