//! Authentication: who makes a request.
//!
//! The server puts an `Arc<UserInfo>` into the request's extensions before the
//! API service sees it; nothing behind it looks at certificates or tokens.

mod user;

pub use user::{SharedUser, UserInfo, group, user_name};
