//! What the values of API objects mean, for every component that reads them:
//! quantities, selectors, tolerations, and the resources that a pod asks for.
//!
//! Pure functions over `k8s-openapi` types; no input panics.

pub mod quantity;
pub mod quota;
pub mod requests;
pub mod selector;
pub mod toleration;
