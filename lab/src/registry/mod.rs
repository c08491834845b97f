//! A registry that serves image archives, read only.
//!
//! The lab's nodes pull through it, so that pull policies and pull secrets work as with any
//! registry, and images whose policy is `Always` need no connection to the world. A name that it
//! does not have is answered with 404, and the runtime goes on to the real registry.

mod archive;
mod serve;

pub use archive::{Catalog, RegistryError};
pub use serve::{Credentials, Listener, run};

/// Who asks here needs no credentials.
pub const OPEN_PORT: u16 = 5000;
/// The same images for those who have [`USER`] and [`PASSWORD`].
pub const PRIVATE_PORT: u16 = 5001;
/// The name under which nodes know the private registry.
pub const PRIVATE_NAME: &str = "private.lab";
pub const USER: &str = "lab";
pub const PASSWORD: &str = "sail-locker";
