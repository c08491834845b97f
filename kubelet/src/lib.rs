//! The kubelet.

pub mod pod;
pub mod quantity;
#[cfg(test)]
mod testing;
