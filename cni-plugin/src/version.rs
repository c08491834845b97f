//! The versions of the CNI specification.

use std::fmt;
use std::str::FromStr;

/// A version that the plugin speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(u8, u8, u8);

impl Version {
    pub const V0_3_0: Self = Self(0, 3, 0);
    pub const V0_3_1: Self = Self(0, 3, 1);
    pub const V0_4_0: Self = Self(0, 4, 0);
    pub const V1_0_0: Self = Self(1, 0, 0);
    pub const V1_1_0: Self = Self(1, 1, 0);

    /// All of them, oldest first.
    pub const ALL: [Self; 5] = [
        Self::V0_3_0,
        Self::V0_3_1,
        Self::V0_4_0,
        Self::V1_0_0,
        Self::V1_1_0,
    ];

    pub fn supported() -> Vec<String> {
        Self::ALL.iter().map(Self::to_string).collect()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// The plugin does not speak that version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsupported(pub String);

impl FromStr for Version {
    type Err = Unsupported;

    fn from_str(text: &str) -> Result<Self, Unsupported> {
        Self::ALL
            .into_iter()
            .find(|version| version.to_string() == text)
            .ok_or_else(|| Unsupported(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_and_others_are_refused() {
        assert!(Version::ALL.is_sorted());
        assert_eq!("1.1.0".parse(), Ok(Version::V1_1_0));
        for text in ["", "0.2.0", "1.2.0", "1.1", "1.1.0 "] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
    }
}
