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
/// The name of the private registry's machine.
pub const PRIVATE_HOST: &str = "private.lab";

/// The private registry as images name it: a pull secret is for exactly this name.
pub fn private_name() -> String {
    format!("{PRIVATE_HOST}:{PRIVATE_PORT}")
}
pub const USER: &str = "lab";
pub const PASSWORD: &str = "sail-locker";
