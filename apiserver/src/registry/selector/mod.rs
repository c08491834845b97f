//! Label and field selectors: parsed once per request, matched against the index of each object.

mod fields;
mod labels;

pub use fields::FieldSelector;
pub use labels::LabelSelector;
