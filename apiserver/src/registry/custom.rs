//! Custom resources: what a definition says about one kind in one version.

use std::cmp::Ordering;

use crate::response::ApiError;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct CustomKind {
    /// Name of the definition: `PLURAL.GROUP`.
    pub definition: String,
    /// Where its replicas are.
    pub scale: ScalePaths,
    /// Paths that field selectors may name.
    pub selectable: Vec<&'static str>,
}

/// Where a custom resource keeps its replicas, as JSON pointers.
#[derive(Debug, Default)]
pub struct ScalePaths {
    pub spec: String,
    pub status: String,
    pub selector: Option<String>,
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
                .ok_or_else(|| {
                    ApiError::bad_request(format!("field label not supported: {other}"))
                }),
        }
    }
}

/// The order of versions in discovery: `v2`, `v1`, `v2beta1`, `v1alpha3`, then anything else by name.
pub fn version_order(a: &str, b: &str) -> Ordering {
    match (version_rank(a), version_rank(b)) {
        (Some(a), Some(b)) => b.cmp(&a),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => a.cmp(b),
    }
}

/// (stability, major, minor) of a version name of the usual form; greater is preferred.
fn version_rank(version: &str) -> Option<(u8, u64, u64)> {
    let rest = version.strip_prefix('v')?;
    let digits = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    let (major, rest) = rest.split_at(digits);
    let major = major.parse().ok()?;
    if rest.is_empty() {
        return Some((2, major, 0));
    }
    let (stability, minor) = match (rest.strip_prefix("beta"), rest.strip_prefix("alpha")) {
        (Some(minor), _) => (1, minor),
        (None, Some(minor)) => (0, minor),
        (None, None) => return None,
    };
    Some((stability, major, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stable_versions_come_before_beta_and_alpha() {
        let mut versions = vec![
            "v1alpha1", "foo", "v1", "v11beta2", "v2", "v10beta3", "v3beta1",
        ];
        versions.sort_by(|a, b| version_order(a, b));
        assert_eq!(
            versions,
            [
                "v2", "v1", "v11beta2", "v10beta3", "v3beta1", "v1alpha1", "foo"
            ]
        );
    }
}
