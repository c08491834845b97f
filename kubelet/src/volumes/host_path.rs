//! Paths of the node.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use super::VolumeError;

/// Checks that a path is what the volume says, and makes it where the volume asks for that.
pub(crate) fn check(path: &Path, kind: &str) -> Result<(), VolumeError> {
    let complain = |complaint| {
        Err(VolumeError::HostPath {
            path: path.display().to_string(),
            complaint,
        })
    };
    let found = fs::metadata(path).ok().map(|metadata| metadata.file_type());
    let is = |test: fn(&fs::FileType) -> bool| found.as_ref().is_some_and(test);
    match kind {
        "" => Ok(()),
        "DirectoryOrCreate" if found.is_none() => fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(path)
            .map_err(|error| VolumeError::io("create", path, error)),
        "FileOrCreate" if found.is_none() => OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o644)
            .open(path)
            .map(drop)
            .map_err(|error| VolumeError::io("create", path, error)),
        "Directory" | "DirectoryOrCreate" if !is(fs::FileType::is_dir) => {
            complain("is not a directory")
        }
        "File" | "FileOrCreate" if !is(fs::FileType::is_file) => complain("is not a file"),
        "Socket" if !is(FileTypeExt::is_socket) => complain("is not a socket file"),
        "CharDevice" if !is(FileTypeExt::is_char_device) => complain("is not a character device"),
        "BlockDevice" if !is(FileTypeExt::is_block_device) => complain("is not a block device"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_checked_and_made_where_asked() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        let sub = dir.path().join("a/b");
        assert!(check(&file, "File").is_err());
        check(&file, "FileOrCreate").unwrap();
        check(&file, "File").unwrap();
        assert!(check(&file, "Directory").is_err());
        check(&sub, "DirectoryOrCreate").unwrap();
        check(&sub, "Directory").unwrap();
        assert!(check(&sub, "Socket").is_err());
        check(Path::new("/dev/null"), "CharDevice").unwrap();
        check(Path::new("/none"), "").unwrap();
    }
}
