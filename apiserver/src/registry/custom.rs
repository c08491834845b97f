//! Custom resources: what a definition says about one kind in one version.

use crate::response::ApiError;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct CustomKind {
    /// Name of the definition: `PLURAL.GROUP`.
    pub definition: String,
    /// Paths that field selectors may name.
    pub selectable: Vec<&'static str>,
}

impl CustomKind {
    /// The field of a selector under its own name, or a refusal.
    pub fn known_label(&self, label: &str) -> Result<&'static str, ApiError> {
        match label {
            "metadata.name" => Ok("metadata.name"),
            "metadata.namespace" => Ok("metadata.namespace"),
            other => self
                .selectable
                .iter()
                .find(|path| **path == other)
                .copied()
                .ok_or_else(|| ApiError::bad_request(format!("field label not supported: {other}"))),
        }
    }
}
