//! Continue tokens: where a chunked list goes on, in upstream's form.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::response::ApiError;

const VERSION: &str = "meta.k8s.io/v1";

/// A decoded token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ContinueToken {
    v: String,
    /// The revision that all chunks show; -1: the newest one (an inconsistent continuation).
    pub rv: i64,
    /// The key to go on after, below the listed prefix.
    start: String,
}

impl ContinueToken {
    pub(super) fn new(revision: Option<u64>, last_key: &str, prefix: &str) -> Self {
        let start = last_key.strip_prefix(prefix).unwrap_or(last_key);
        ContinueToken {
            v: VERSION.into(),
            rv: revision.and_then(|r| i64::try_from(r).ok()).unwrap_or(-1),
            start: format!("{start}\0"),
        }
    }

    pub(super) fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    pub(super) fn decode(text: &str) -> Result<Self, ApiError> {
        let invalid =
            |why: String| ApiError::bad_request(format!("continue key is not valid: {why}"));
        let bytes = URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|e| invalid(e.to_string()))?;
        let token: ContinueToken =
            serde_json::from_slice(&bytes).map_err(|e| invalid(e.to_string()))?;
        if token.v != VERSION {
            return Err(invalid(format!(
                "server does not recognize this encoded version {:?}",
                token.v
            )));
        }
        if token.start.is_empty() {
            return Err(invalid(
                "encoded start key is empty (version meta.k8s.io/v1)".into(),
            ));
        }
        if token.start.split('/').any(|part| part == "..") {
            return Err(invalid(format!(
                "encoded start key is not valid: {}",
                token.start
            )));
        }
        Ok(token)
    }

    /// The key of the last object of the chunk before.
    pub(super) fn after(&self, prefix: &str) -> String {
        format!("{prefix}{}", self.start.trim_end_matches('\0'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_the_round_trip() {
        let token = ContinueToken::new(Some(7), "/registry/core/pods/ns/a", "/registry/core/pods/");
        let back = ContinueToken::decode(&token.encode()).unwrap();
        assert_eq!(back, token);
        assert_eq!(
            back.after("/registry/core/pods/"),
            "/registry/core/pods/ns/a"
        );
        assert!(ContinueToken::decode("%%").is_err());
    }
}
