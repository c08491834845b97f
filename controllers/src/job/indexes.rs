//! Completion indexes as a Job's status writes them: `1,3-5,7`.

use std::collections::BTreeSet;

/// A set of indexes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Indexes(BTreeSet<i32>);

impl Indexes {
    /// Reads a list; what is no interval, or lies beyond `completions`, is left out.
    pub(crate) fn parse(text: &str, completions: i32) -> Self {
        let mut indexes = BTreeSet::new();
        for part in text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
                indexes.extend(first.max(0)..=last.min(completions - 1));
            }
        }
        Self(indexes)
    }

    pub(crate) fn insert(&mut self, index: i32) -> bool {
        self.0.insert(index)
    }

    pub(crate) fn extend(&mut self, indexes: impl IntoIterator<Item = i32>) {
        self.0.extend(indexes);
    }

    pub(crate) fn remove(&mut self, index: i32) {
        self.0.remove(&index);
    }

    pub(crate) fn contains(&self, index: i32) -> bool {
        self.0.contains(&index)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = i32> + '_ {
        self.0.iter().copied()
    }

    pub(crate) fn is_superset(&self, other: &Self) -> bool {
        self.0.is_superset(&other.0)
    }

    pub(crate) fn overlap(&self, other: &Self) -> i32 {
        count(self.0.intersection(&other.0).count())
    }

    pub(crate) fn total(&self) -> i32 {
        count(self.0.len())
    }
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

impl FromIterator<i32> for Indexes {
    fn from_iter<I: IntoIterator<Item = i32>>(indexes: I) -> Self {
        Self(indexes.into_iter().collect())
    }
}

impl std::fmt::Display for Indexes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut rest = self.0.iter().copied().peekable();
        let mut separator = "";
        while let Some(first) = rest.next() {
            let mut last = first;
            while let Some(next) = rest.next_if(|next| *next == last + 1) {
                last = next;
            }
            match last - first {
                0 => write!(f, "{separator}{first}")?,
                1 => write!(f, "{separator}{first},{last}")?,
                _ => write!(f, "{separator}{first}-{last}")?,
            }
            separator = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn neighbours_are_written_as_intervals() {
        let text = |indexes: &[i32]| indexes.iter().copied().collect::<Indexes>().to_string();
        assert_eq!(text(&[]), "");
        assert_eq!(text(&[1, 3, 4, 5, 7]), "1,3-5,7");
        assert_eq!(text(&[0, 1]), "0,1");
        assert_eq!(Indexes::parse("0-9,x,3-", 4).to_string(), "0-3");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(indexes in prop::collection::btree_set(0i32..200, 0..60)) {
            let indexes: Indexes = indexes.into_iter().collect();
            prop_assert_eq!(Indexes::parse(&indexes.to_string(), 200), indexes);
        }

        #[test]
        fn no_text_panics(text in "[0-9,x-]{0,40}") {
            let _ = Indexes::parse(&text, 1000);
        }
    }
}
