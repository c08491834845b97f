//! Who is who, and who may do what: the API server's flags for both, under kube-apiserver's names.

use std::path::PathBuf;
use std::time::Duration;

use apiserver::authn::oidc::OidcFlags;
use apiserver::authn::{AuthenticationConfig, TokenWebhookConfig};
use apiserver::authz::{AccessWebhookConfig, AuthorizationConfig, Mode};
use clap::{Args, ValueEnum};

/// Whose credentials the server knows beside its own.
#[derive(Debug, Args)]
pub(crate) struct AuthenticationSettings {
    /// Tokens that do not expire: a CSV file of token,user,uid,"group1,group2"
    #[arg(long, value_name = "FILE")]
    pub(crate) token_auth_file: Option<PathBuf>,
    /// Whether requests without credentials are made by system:anonymous
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set,
          num_args = 0..=1, default_missing_value = "true")]
    pub(crate) anonymous_auth: bool,
    /// Issuers of tokens: an AuthenticationConfiguration
    #[arg(long, value_name = "FILE", conflicts_with = "oidc_issuer_url")]
    pub(crate) authentication_config: Option<PathBuf>,
    /// One issuer of OpenID Connect tokens
    #[arg(long, value_name = "URL", requires = "oidc_client_id")]
    pub(crate) oidc_issuer_url: Option<String>,
    /// Whom its tokens have to be for
    #[arg(long, value_name = "ID")]
    pub(crate) oidc_client_id: Option<String>,
    #[arg(long, value_name = "CLAIM", default_value = "sub")]
    pub(crate) oidc_username_claim: String,
    /// What stands before the name; - for nothing, the issuer and # when not given
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) oidc_username_prefix: String,
    #[arg(long, value_name = "CLAIM", default_value = "")]
    pub(crate) oidc_groups_claim: String,
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) oidc_groups_prefix: String,
    /// A claim that a token has to have; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',')]
    pub(crate) oidc_required_claim: Vec<String>,
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "RS256"
    )]
    pub(crate) oidc_signing_algs: Vec<String>,
    /// Trusts an issuer whose certificate this authority signed
    #[arg(long, value_name = "FILE")]
    pub(crate) oidc_ca_file: Option<PathBuf>,
    /// Who is asked about other tokens: a kubeconfig
    #[arg(long, value_name = "FILE")]
    pub(crate) authentication_token_webhook_config_file: Option<PathBuf>,
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = duration)]
    pub(crate) authentication_token_webhook_cache_ttl: Duration,
}

/// Who says what users may do.
#[derive(Debug, Args)]
pub(crate) struct AuthorizationSettings {
    /// In this order; members of system:masters may do everything in any case
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "Node,RBAC"
    )]
    pub(crate) authorization_mode: Vec<AuthorizationMode>,
    /// The policies of the mode ABAC, one a line
    #[arg(long, value_name = "FILE")]
    pub(crate) authorization_policy_file: Option<PathBuf>,
    /// Who is asked in the mode Webhook: a kubeconfig
    #[arg(long, value_name = "FILE")]
    pub(crate) authorization_webhook_config_file: Option<PathBuf>,
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    pub(crate) authorization_webhook_cache_authorized_ttl: Duration,
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(crate) authorization_webhook_cache_unauthorized_ttl: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AuthorizationMode {
    #[value(name = "Node")]
    Node,
    #[value(name = "RBAC")]
    Rbac,
    #[value(name = "ABAC")]
    Abac,
    #[value(name = "Webhook")]
    Webhook,
    #[value(name = "AlwaysAllow")]
    AlwaysAllow,
    #[value(name = "AlwaysDeny")]
    AlwaysDeny,
}

/// `90s`, `2m0s`, `1h`
fn duration(text: &str) -> Result<Duration, String> {
    let read: jiff::SignedDuration = text
        .parse()
        .map_err(|_| format!("{text:?} is no time: write 30s, 5m or 1h"))?;
    Duration::try_from(read).map_err(|_| format!("{text:?} is less than nothing"))
}

impl AuthenticationSettings {
    pub(crate) fn config(&self) -> AuthenticationConfig {
        let oidc = self.oidc_issuer_url.as_ref().map(|url| OidcFlags {
            issuer_url: url.clone(),
            client_id: self.oidc_client_id.clone().unwrap_or_default(),
            username_claim: self.oidc_username_claim.clone(),
            username_prefix: self.oidc_username_prefix.clone(),
            groups_claim: self.oidc_groups_claim.clone(),
            groups_prefix: self.oidc_groups_prefix.clone(),
            required_claims: self.oidc_required_claim.clone(),
            signing_algorithms: self.oidc_signing_algs.clone(),
            ca_file: self.oidc_ca_file.clone(),
        });
        let webhook = self.authentication_token_webhook_config_file.as_ref();
        AuthenticationConfig {
            token_file: self.token_auth_file.clone(),
            file: self.authentication_config.clone(),
            oidc,
            webhook: webhook.map(|kubeconfig| TokenWebhookConfig {
                kubeconfig: kubeconfig.clone(),
                cache: self.authentication_token_webhook_cache_ttl,
            }),
            refuse_anonymous: !self.anonymous_auth,
        }
    }
}

impl AuthorizationSettings {
    pub(crate) fn config(&self) -> AuthorizationConfig {
        let mode = |mode: &AuthorizationMode| match mode {
            AuthorizationMode::Node => Mode::Node,
            AuthorizationMode::Rbac => Mode::Rbac,
            AuthorizationMode::Abac => Mode::Abac,
            AuthorizationMode::Webhook => Mode::Webhook,
            AuthorizationMode::AlwaysAllow => Mode::AlwaysAllow,
            AuthorizationMode::AlwaysDeny => Mode::AlwaysDeny,
        };
        let webhook = self.authorization_webhook_config_file.as_ref();
        AuthorizationConfig {
            modes: self.authorization_mode.iter().map(mode).collect(),
            policy_file: self.authorization_policy_file.clone(),
            webhook: webhook.map(|kubeconfig| AccessWebhookConfig {
                kubeconfig: kubeconfig.clone(),
                cache_allowed: self.authorization_webhook_cache_authorized_ttl,
                cache_denied: self.authorization_webhook_cache_unauthorized_ttl,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_people_write_them() {
        assert_eq!(duration("2m0s"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert!(duration("soon").is_err());
        assert!(duration("-1s").is_err());
    }
}
