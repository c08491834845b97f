//! Files with keys: written whole or not at all, private ones with mode 0600.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::PkiError;

fn fault(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> PkiError {
    move |source| PkiError::File {
        action,
        path: path.to_path_buf(),
        source,
    }
}

pub(super) fn make_directory(path: &Path) -> Result<(), PkiError> {
    std::fs::create_dir_all(path).map_err(fault("make", path))?;
    std::fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(fault("restrict", path))
}

/// `None` when there is no such file.
pub(super) fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(fault("read", path)(error)),
    }
}

pub(super) fn restrict(path: &Path) -> Result<(), PkiError> {
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(fault("restrict", path))
}

pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<(), PkiError> {
    write(path, content, 0o600)
}

pub(super) fn write_public(path: &Path, content: &[u8]) -> Result<(), PkiError> {
    write(path, content, 0o644)
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), PkiError> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".new");
    let temporary = path.with_file_name(name);
    let written = (|| {
        let mut file: File = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&temporary)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    })();
    written.map_err(fault("write", path))
}
