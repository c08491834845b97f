//! What can be wrong with the keys; each says what to do.

use std::path::PathBuf;

/// None of these goes away by trying again.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("pki: {action} {path}: {source}", path = .path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("pki: {path} is not usable ({reason}): restore it from a backup", path = .path.display())]
    Unreadable { path: PathBuf, reason: String },
    #[error(
        "pki: {directory} has no ca.crt, but the store holds a cluster: restore the directory, \
         or move the store away for a new cluster", directory = .directory.display()
    )]
    AuthorityMissing { directory: PathBuf },
    #[error(
        "pki: {certificate} does not belong to the key beside it: they are of different \
         clusters, restore both from one backup", certificate = .certificate.display()
    )]
    KeyMismatch { certificate: PathBuf },
    #[error(
        "pki: {certificate} is valid from {from} only, and this machine's clock says {now}: \
         set the clock", certificate = .certificate.display()
    )]
    NotYetValid {
        certificate: PathBuf,
        from: String,
        now: String,
    },
    #[error(
        "pki: {certificate} expired at {at} (the clock says {now}): set the clock if it is \
         wrong; a new authority needs a new cluster", certificate = .certificate.display()
    )]
    Expired {
        certificate: PathBuf,
        at: String,
        now: String,
    },
    #[error("pki: signing {what}: {reason}")]
    Sign { what: String, reason: String },
}
