//! What the operator says of issuers: a file in the form of AuthenticationConfiguration, or flags,
//! which are made into the same.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{OidcConfigError, read_file};

/// AuthenticationConfiguration of `apiserver.config.k8s.io`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthenticationFile {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    pub(super) jwt: Vec<JwtAuthenticator>,
    pub(crate) anonymous: Option<Anonymous>,
}

/// Whether requests without credentials have a user.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Anonymous {
    pub(crate) enabled: bool,
    /// Only for these paths; none: for all.
    #[serde(default)]
    pub(crate) conditions: Vec<AnonymousCondition>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct AnonymousCondition {
    pub(crate) path: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct JwtAuthenticator {
    pub(super) issuer: IssuerConfig,
    #[serde(default)]
    pub(super) claim_validation_rules: Vec<ClaimRule>,
    #[serde(default)]
    pub(super) claim_mappings: Mappings,
    #[serde(default)]
    pub(super) user_validation_rules: Vec<UserRule>,
    /// Flags can name others; the file has no such field.
    #[serde(skip)]
    pub(super) algorithms: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct IssuerConfig {
    pub(super) url: String,
    #[serde(rename = "discoveryURL", default)]
    pub(super) discovery_url: String,
    #[serde(default)]
    pub(super) certificate_authority: String,
    pub(super) audiences: Vec<String>,
    #[serde(default)]
    pub(super) audience_match_policy: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(super) struct ClaimRule {
    pub(super) claim: String,
    pub(super) required_value: String,
    pub(super) expression: String,
    pub(super) message: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(super) struct Mappings {
    pub(super) username: Mapping,
    pub(super) groups: Mapping,
    pub(super) uid: Mapping,
    pub(super) extra: Vec<ExtraMapping>,
}

/// A claim or an expression.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(super) struct Mapping {
    pub(super) claim: String,
    pub(super) prefix: Option<String>,
    pub(super) expression: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ExtraMapping {
    pub(super) key: String,
    pub(super) value_expression: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(super) struct UserRule {
    pub(super) expression: String,
    pub(super) message: String,
}

impl AuthenticationFile {
    pub fn read(path: &Path) -> Result<Self, OidcConfigError> {
        let wrong = |why: String| OidcConfigError::File {
            path: path.to_path_buf(),
            why,
        };
        AuthenticationFile::parse(&read_file(path)?).map_err(wrong)
    }

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let file: AuthenticationFile =
            serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        if !file.api_version.starts_with("apiserver.config.k8s.io/")
            || file.kind != "AuthenticationConfiguration"
        {
            return Err(
                "it is no AuthenticationConfiguration of apiserver.config.k8s.io/v1".into(),
            );
        }
        Ok(file)
    }
}

/// One issuer, as the flags that begin with `--oidc-` tell it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OidcFlags {
    pub issuer_url: String,
    pub client_id: String,
    pub username_claim: String,
    /// `-` for none; when empty, the issuer's URL and `#`, unless the claim is `email`.
    pub username_prefix: String,
    pub groups_claim: String,
    pub groups_prefix: String,
    /// `KEY=VALUE`
    pub required_claims: Vec<String>,
    pub signing_algorithms: Vec<String>,
    pub ca_file: Option<PathBuf>,
}

impl OidcFlags {
    /// The configuration that says the same.
    pub fn file(&self) -> Result<AuthenticationFile, OidcConfigError> {
        let wrong = |why: String| OidcConfigError::Issuer {
            url: self.issuer_url.clone(),
            why,
        };
        if self.client_id.is_empty() {
            return Err(wrong("it needs --oidc-client-id".into()));
        }
        let certificate_authority = match &self.ca_file {
            Some(path) => read_file(path)?,
            None => String::new(),
        };
        let prefix = match self.username_prefix.as_str() {
            "-" => String::new(),
            "" if self.username_claim == "email" => String::new(),
            "" => format!("{}#", self.issuer_url),
            given => given.to_owned(),
        };
        let mut rules = Vec::new();
        for required in &self.required_claims {
            let (claim, value) = required.split_once('=').ok_or_else(|| {
                wrong(format!("--oidc-required-claim {required}: write KEY=VALUE"))
            })?;
            rules.push(ClaimRule {
                claim: claim.to_owned(),
                required_value: value.to_owned(),
                ..ClaimRule::default()
            });
        }
        let jwt = JwtAuthenticator {
            issuer: IssuerConfig {
                url: self.issuer_url.clone(),
                certificate_authority,
                audiences: vec![self.client_id.clone()],
                ..IssuerConfig::default()
            },
            claim_validation_rules: rules,
            claim_mappings: Mappings {
                username: Mapping {
                    claim: self.username_claim.clone(),
                    prefix: Some(prefix),
                    ..Mapping::default()
                },
                groups: Mapping {
                    claim: self.groups_claim.clone(),
                    prefix: Some(self.groups_prefix.clone()),
                    ..Mapping::default()
                },
                ..Mappings::default()
            },
            algorithms: self.signing_algorithms.clone(),
            ..JwtAuthenticator::default()
        };
        Ok(AuthenticationFile {
            jwt: vec![jwt],
            ..AuthenticationFile::default()
        })
    }
}
