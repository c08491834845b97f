//! Directories whose files all change at once.
//!
//! The files are in a hidden directory with a name of its own; `..data` is a link to it, and
//! what users see are links through `..data`. A change makes a new hidden directory and
//! moves the one link: a reader sees either all of the old files or all of the new ones.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use nix::unistd::{Uid, chown};

use super::{VolumeError, ownership};

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// A file of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    pub data: Vec<u8>,
    pub mode: u32,
    pub owner: Option<u32>,
}

/// Files by their paths in the volume.
pub(crate) type Files = BTreeMap<String, File>;

/// Makes the directory hold exactly these files. True when something changed.
pub(crate) fn write(root: &Path, files: &Files, group: Option<u32>) -> Result<bool, VolumeError> {
    for path in files.keys() {
        validate(path)?;
    }
    let old = fs::read_link(root.join(DATA)).ok();
    if let Some(old) = &old
        && is_same(&root.join(old), files)
    {
        link_all(root, files)?;
        return Ok(false);
    }
    let new = hidden_name();
    let directory = root.join(&new);
    fs::DirBuilder::new()
        .mode(0o755)
        .create(&directory)
        .map_err(|e| VolumeError::io("create", &directory, e))?;
    fill(&directory, files)?;
    if let Some(group) = group {
        own(&directory, group)?;
    }
    let link = root.join(DATA_NEW);
    let _ = fs::remove_file(&link);
    symlink(&new, &link).map_err(|error| VolumeError::io("link", &link, error))?;
    fs::rename(&link, root.join(DATA)).map_err(|error| VolumeError::io("link", &link, error))?;
    link_all(root, files)?;
    unlink_stale(root, files)?;
    sweep(root, &new)?;
    Ok(true)
}

fn validate(path: &str) -> Result<(), VolumeError> {
    let sound = !path.is_empty()
        && Path::new(path)
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
        && !path.starts_with("..");
    if sound {
        Ok(())
    } else {
        Err(VolumeError::Escape(path.to_owned()))
    }
}

fn hidden_name() -> PathBuf {
    let now = jiff::Timestamp::now()
        .strftime("..%Y_%m_%d_%H_%M_%S")
        .to_string();
    PathBuf::from(format!("{now}.{}", rand::random::<u32>()))
}

fn fill(directory: &Path, files: &Files) -> Result<(), VolumeError> {
    for (path, file) in files {
        let target = directory.join(path);
        let wrong = |error| VolumeError::io("write", &target, error);
        if let Some(parent) = target.parent() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(parent)
                .map_err(wrong)?;
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(file.mode);
        options
            .open(&target)
            .and_then(|mut output| output.write_all(&file.data))
            .map_err(wrong)?;
        // The process's umask has no say in what the pod asked for.
        fs::set_permissions(&target, Permissions::from_mode(file.mode)).map_err(wrong)?;
        if let Some(owner) = file.owner {
            chown(&target, Some(Uid::from_raw(owner)), None)
                .map_err(|errno| wrong(errno.into()))?;
        }
    }
    Ok(())
}

/// Gives the group everything in a new hidden directory, readable.
fn own(directory: &Path, group: u32) -> Result<(), VolumeError> {
    ownership::one(directory, group, 0o440)?;
    let entries = fs::read_dir(directory).map_err(|e| VolumeError::io("read", directory, e))?;
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            own(&path, group)?;
        } else {
            ownership::one(&path, group, 0o440)?;
        }
    }
    Ok(())
}

/// Whether a hidden directory holds exactly the wanted files.
fn is_same(directory: &Path, files: &Files) -> bool {
    let mut found = Vec::new();
    if list(directory, Path::new(""), &mut found).is_err() || found.len() != files.len() {
        return false;
    }
    files.iter().all(|(path, file)| {
        let target = directory.join(path);
        let mode = fs::metadata(&target).map(|meta| meta.permissions().mode() & 0o7777);
        mode.is_ok_and(|mode| mode & file.mode == file.mode)
            && fs::read(&target).is_ok_and(|data| data == file.data)
    })
}

fn list(directory: &Path, prefix: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(directory.join(prefix))? {
        let entry = entry?;
        let path = prefix.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            list(directory, &path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}

fn tops(files: &Files) -> std::collections::BTreeSet<&str> {
    files
        .keys()
        .filter_map(|path| path.split('/').next())
        .collect()
}

/// The links that users see, one for each file or directory at the top.
fn link_all(root: &Path, files: &Files) -> Result<(), VolumeError> {
    for name in tops(files) {
        let link = root.join(name);
        if fs::read_link(&link).is_ok() {
            continue;
        }
        let target = Path::new(DATA).join(name);
        symlink(target, &link).map_err(|error| VolumeError::io("link", &link, error))?;
    }
    Ok(())
}

fn unlink_stale(root: &Path, files: &Files) -> Result<(), VolumeError> {
    let wanted = tops(files);
    for entry in fs::read_dir(root)
        .map_err(|e| VolumeError::io("read", root, e))?
        .flatten()
    {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("..") || wanted.contains(name.as_ref()) {
            continue;
        }
        fs::remove_file(entry.path()).map_err(|e| VolumeError::io("remove", &entry.path(), e))?;
    }
    Ok(())
}

/// Removes hidden directories that nothing links to, also those that a process left behind
/// that was killed in the middle.
fn sweep(root: &Path, current: &Path) -> Result<(), VolumeError> {
    for entry in fs::read_dir(root)
        .map_err(|e| VolumeError::io("read", root, e))?
        .flatten()
    {
        let name = entry.file_name();
        let hidden = name.to_string_lossy().starts_with("..20");
        if hidden && Path::new(&name) != current {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> Files {
        let file = |data: &str| File {
            data: data.into(),
            mode: 0o644,
            owner: None,
        };
        list.iter()
            .map(|(path, data)| ((*path).to_owned(), file(data)))
            .collect()
    }

    fn visible(root: &Path) -> Vec<(String, String)> {
        let mut seen: Vec<_> = fs::read_dir(root)
            .unwrap()
            .flatten()
            .filter(|entry| !entry.file_name().to_string_lossy().starts_with(".."))
            .map(|entry| {
                let data = fs::read_to_string(entry.path()).unwrap_or_else(|_| "DIR".into());
                (entry.file_name().to_string_lossy().into_owned(), data)
            })
            .collect();
        seen.sort();
        seen
    }

    #[test]
    fn files_are_replaced_all_at_once_and_leave_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        assert!(write(root, &files(&[("a", "1"), ("d/b", "2")]), None).unwrap());
        assert_eq!(
            visible(root),
            [("a".into(), "1".into()), ("d".into(), "DIR".into())]
        );
        assert_eq!(fs::read_to_string(root.join("d/b")).unwrap(), "2");
        assert!(
            !write(root, &files(&[("a", "1"), ("d/b", "2")]), None).unwrap(),
            "nothing to do"
        );
        assert!(write(root, &files(&[("a", "x"), ("c", "3")]), None).unwrap());
        assert_eq!(
            visible(root),
            [("a".into(), "x".into()), ("c".into(), "3".into())]
        );
        let hidden = fs::read_dir(root).unwrap().flatten();
        let hidden = hidden
            .filter(|e| e.file_name().to_string_lossy().starts_with("..20"))
            .count();
        assert_eq!(hidden, 1);
        assert!(write(root, &Files::new(), None).unwrap());
        assert_eq!(visible(root), []);
    }

    #[test]
    fn an_open_file_keeps_the_old_text_and_the_mode_is_exact() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = files(&[("a", "1")]);
        first.get_mut("a").unwrap().mode = 0o400;
        write(dir.path(), &first, None).unwrap();
        let mode = fs::metadata(dir.path().join("a"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777;
        assert_eq!(mode, 0o400);
    }

    #[test]
    fn a_path_that_leaves_the_volume_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["../a", "/a", "a/../../b", "", "..data"] {
            assert!(
                write(dir.path(), &files(&[(path, "x")]), None).is_err(),
                "{path}"
            );
        }
    }
}
