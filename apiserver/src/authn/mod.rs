//! Authentication: who makes a request.
//!
//! The server puts an `Arc<UserInfo>` into the request's extensions before the
//! API service sees it; nothing behind it looks at certificates or tokens.

mod authenticator;
pub mod bootstrap_token;
pub mod impersonation;
mod jwt;
pub mod oidc;
pub mod service_account;
pub mod static_tokens;
mod user;
mod webhook;
pub mod x509;

pub use authenticator::{
    Anonymity, AuthenticationConfig, AuthenticationConfigError, Authenticator, External,
    Unauthenticated,
};
pub use jwt::{JwtError, JwtKey};
pub use service_account::ServiceAccountTokens;
pub use user::{SharedUser, UserInfo, group, user_name};
pub use webhook::TokenWebhookConfig;
