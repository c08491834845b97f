//! A prefix's paths, of which there is nearly always one.

use std::ops::{Deref, DerefMut};

use super::Path;

/// A list that takes no more room than a path as long as it has but one.
#[derive(Debug, Default)]
pub(super) enum Paths {
    #[default]
    None,
    One(Path),
    #[expect(
        clippy::box_collection,
        reason = "a pointer fits into the room of a path"
    )]
    Several(Box<Vec<Path>>),
}

const _: () = assert!(size_of::<Paths>() == size_of::<Path>());

impl Deref for Paths {
    type Target = [Path];

    fn deref(&self) -> &[Path] {
        match self {
            Self::None => &[],
            Self::One(path) => std::slice::from_ref(path),
            Self::Several(paths) => paths,
        }
    }
}

impl DerefMut for Paths {
    fn deref_mut(&mut self) -> &mut [Path] {
        match self {
            Self::None => &mut [],
            Self::One(path) => std::slice::from_mut(path),
            Self::Several(paths) => paths,
        }
    }
}

impl Paths {
    pub(super) fn push(&mut self, path: Path) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(path),
            Self::One(first) => Self::Several(Box::new(vec![first, path])),
            Self::Several(mut paths) => {
                paths.push(path);
                Self::Several(paths)
            }
        };
    }

    /// Takes the paths out that the filter picks.
    pub(super) fn extract(&mut self, picks: impl Fn(&Path) -> bool) -> Vec<Path> {
        if !self.iter().any(&picks) {
            return Vec::new();
        }
        let all = match std::mem::take(self) {
            Self::None => Vec::new(),
            Self::One(path) => vec![path],
            Self::Several(paths) => *paths,
        };
        let (picked, left): (Vec<Path>, Vec<Path>) = all.into_iter().partition(picks);
        left.into_iter().for_each(|path| self.push(path));
        picked
    }
}
