//! What of a peer's routes is taken, or what of ours it is told.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::wire::Attributes;

/// A community of either size: `65000:100` or `65000:1:2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Community {
    /// RFC 1997.
    Standard(u32),
    /// RFC 8092.
    Large([u32; 3]),
}

/// A text that is no community.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no community: write 65000:100, 65000:1:2 or a well-known name such as no-export")]
pub struct NotACommunity(pub String);

/// Names of RFC 1997, 7999, 8326 and 9494.
const WELL_KNOWN: [(&str, u32); 7] = [
    ("graceful-shutdown", 0xffff_0000),
    ("llgr-stale", 0xffff_0006),
    ("no-llgr", 0xffff_0007),
    ("blackhole", 0xffff_029a),
    ("no-export", 0xffff_ff01),
    ("no-advertise", 0xffff_ff02),
    ("no-export-subconfed", 0xffff_ff03),
];

impl std::str::FromStr for Community {
    type Err = NotACommunity;

    fn from_str(text: &str) -> Result<Self, NotACommunity> {
        if let Some((_, value)) = WELL_KNOWN.iter().find(|(name, _)| *name == text) {
            return Ok(Self::Standard(*value));
        }
        let fault = || NotACommunity(text.to_owned());
        let parts: Vec<u32> = text
            .split(':')
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map_err(|_| fault())?;
        match *parts.as_slice() {
            [high, low] => {
                let half = |value: u32| u16::try_from(value).map_err(|_| fault());
                Ok(Self::Standard(
                    u32::from(half(high)?) << 16 | u32::from(half(low)?),
                ))
            }
            [global, first, second] => Ok(Self::Large([global, first, second])),
            _ => Err(fault()),
        }
    }
}

impl std::fmt::Display for Community {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Standard(value) => write!(f, "{}:{}", value >> 16, value & 0xffff),
            Self::Large([global, first, second]) => write!(f, "{global}:{first}:{second}"),
        }
    }
}

impl Community {
    fn is_in(self, attributes: &Attributes) -> bool {
        match self {
            Self::Standard(value) => attributes.communities.contains(&value),
            Self::Large(value) => attributes.large_communities.contains(&value),
        }
    }

    fn add_to(self, attributes: &mut Attributes) {
        if self.is_in(attributes) {
            return;
        }
        match self {
            Self::Standard(value) => attributes.communities.push(value),
            Self::Large(value) => attributes.large_communities.push(value),
        }
    }

    fn remove_from(self, attributes: &mut Attributes) {
        match self {
            Self::Standard(value) => attributes.communities.retain(|own| *own != value),
            Self::Large(value) => attributes.large_communities.retain(|own| *own != value),
        }
    }
}

/// How a prefix relates to another one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Relation {
    Equal,
    NotEqual,
    #[default]
    In,
    NotIn,
}

/// Which prefixes a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrefixMatch {
    pub network: IpNetwork,
    pub relation: Relation,
    pub shortest: u8,
    pub longest: u8,
}

impl PrefixMatch {
    /// Prefixes inside the network, of any length.
    pub fn within(network: IpNetwork) -> Self {
        Self {
            network,
            relation: Relation::In,
            shortest: 0,
            longest: 128,
        }
    }

    fn matches(&self, prefix: &IpNetwork) -> bool {
        if self.network.is_ipv4() != prefix.is_ipv4() {
            return false;
        }
        let inside =
            self.network.prefix() <= prefix.prefix() && self.network.contains(prefix.network());
        let related = match self.relation {
            Relation::Equal => self.network == *prefix,
            Relation::NotEqual => self.network != *prefix,
            Relation::In => inside,
            Relation::NotIn => !inside,
        };
        related && (self.shortest..=self.longest).contains(&prefix.prefix())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerKind {
    External,
    Internal,
}

/// What a rule is about: everything that is given has to be so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Match {
    pub prefix: Option<PrefixMatch>,
    /// At least one of these.
    pub communities: Vec<Community>,
    /// The path starts with these numbers, the nearest first.
    pub as_path_prefix: Vec<u32>,
    /// The path has this number somewhere.
    pub as_path_contains: Option<u32>,
    pub longest_as_path: Option<usize>,
    /// The next hop is in this network.
    pub next_hop: Option<IpNetwork>,
    pub peer: Option<PeerKind>,
    /// Only routes that a peer told us, not our own.
    pub learnt: bool,
}

/// A change that a rule makes to what it lets pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    AddCommunity(Community),
    RemoveCommunity(Community),
    /// Numbers before the path, the nearest first.
    Prepend(Vec<u32>),
    SetLocalPref(u32),
    SetMed(u32),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Verdict {
    #[default]
    Accept,
    Reject,
}

/// One step of a filter: the first rule that matches decides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FilterRule {
    pub matches: Match,
    pub verdict: Verdict,
    pub changes: Vec<Change>,
}

/// A route that a filter looks at.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    pub prefix: &'a IpNetwork,
    pub attributes: &'a Attributes,
    pub next_hop: IpAddr,
    /// The peer that the route comes from or goes to.
    pub peer: PeerKind,
    pub learnt: bool,
}

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    pub rules: Vec<FilterRule>,
    /// What happens with the rest.
    pub rest: Verdict,
}

impl Filter {
    pub const ACCEPT: Self = Self {
        rules: Vec::new(),
        rest: Verdict::Accept,
    };
    /// The default towards another AS (RFC 8212).
    pub const REJECT: Self = Self {
        rules: Vec::new(),
        rest: Verdict::Reject,
    };

    /// The attributes with the matching rule's changes; `None` if it is refused.
    pub fn apply(&self, subject: &Subject<'_>) -> Option<Attributes> {
        let rule = self.rules.iter().find(|rule| rule.matches.holds(subject));
        let verdict = rule.map_or(self.rest, |rule| rule.verdict);
        if verdict == Verdict::Reject {
            return None;
        }
        let mut attributes = subject.attributes.clone();
        for change in rule.iter().flat_map(|rule| &rule.changes) {
            change.make(&mut attributes);
        }
        Some(attributes)
    }

    /// Whether everything passes unchanged.
    pub fn is_open(&self) -> bool {
        self.rules.is_empty() && self.rest == Verdict::Accept
    }
}

impl Match {
    fn holds(&self, subject: &Subject<'_>) -> bool {
        let attributes = subject.attributes;
        let path = || {
            attributes
                .as_path
                .iter()
                .flat_map(|segment| segment.numbers())
        };
        self.prefix.is_none_or(|own| own.matches(subject.prefix))
            && self.peer.is_none_or(|own| own == subject.peer)
            && (subject.learnt || !self.learnt)
            && (self.communities.is_empty()
                || self.communities.iter().any(|own| own.is_in(attributes)))
            && self
                .next_hop
                .is_none_or(|network| network.contains(subject.next_hop))
            && self
                .as_path_contains
                .is_none_or(|asn| path().any(|own| *own == asn))
            && self
                .longest_as_path
                .is_none_or(|longest| attributes.as_path_length() <= longest)
            && path()
                .take(self.as_path_prefix.len())
                .eq(&self.as_path_prefix)
    }
}

impl Change {
    fn make(&self, attributes: &mut Attributes) {
        match self {
            Self::AddCommunity(community) => community.add_to(attributes),
            Self::RemoveCommunity(community) => community.remove_from(attributes),
            Self::Prepend(numbers) => {
                for asn in numbers.iter().rev() {
                    attributes.prepend(*asn, 1);
                }
            }
            Self::SetLocalPref(value) => attributes.local_pref = Some(*value),
            Self::SetMed(value) => attributes.med = Some(*value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Segment;

    fn attributes() -> Attributes {
        Attributes {
            as_path: vec![Segment::Sequence(vec![65001, 65002])],
            communities: vec![65001 << 16 | 7],
            ..Attributes::default()
        }
    }

    fn holds(matches: Match) -> bool {
        let attributes = attributes();
        matches.holds(&Subject {
            prefix: &"10.1.2.0/24".parse().unwrap(),
            attributes: &attributes,
            next_hop: "192.0.2.1".parse().unwrap(),
            peer: PeerKind::External,
            learnt: true,
        })
    }

    fn prefix(network: &str, relation: Relation, shortest: u8, longest: u8) -> Match {
        let network = network.parse().unwrap();
        Match {
            prefix: Some(PrefixMatch {
                network,
                relation,
                shortest,
                longest,
            }),
            ..Match::default()
        }
    }

    #[test]
    fn each_condition_decides_by_itself() {
        let yes = [
            Match::default(),
            prefix("10.0.0.0/8", Relation::In, 0, 32),
            prefix("10.0.0.0/8", Relation::In, 24, 24),
            prefix("10.1.2.0/24", Relation::Equal, 0, 32),
            prefix("10.2.0.0/16", Relation::NotIn, 0, 32),
            prefix("10.2.0.0/16", Relation::NotEqual, 0, 32),
            Match {
                communities: vec!["1:1".parse().unwrap(), "65001:7".parse().unwrap()],
                ..Match::default()
            },
            Match {
                as_path_prefix: vec![65001],
                as_path_contains: Some(65002),
                longest_as_path: Some(2),
                ..Match::default()
            },
            Match {
                next_hop: "192.0.2.0/24".parse().ok(),
                peer: Some(PeerKind::External),
                learnt: true,
                ..Match::default()
            },
        ];
        let no = [
            prefix("10.0.0.0/8", Relation::In, 25, 32),
            prefix("10.0.0.0/8", Relation::In, 0, 23),
            prefix("10.1.2.0/25", Relation::In, 0, 32),
            prefix("10.0.0.0/8", Relation::NotIn, 0, 32),
            prefix("10.1.2.0/24", Relation::NotEqual, 0, 32),
            prefix("::/0", Relation::NotIn, 0, 128),
            Match {
                communities: vec!["65001:8".parse().unwrap(), "65001:7:0".parse().unwrap()],
                ..Match::default()
            },
            Match {
                as_path_prefix: vec![65002],
                ..Match::default()
            },
            Match {
                as_path_prefix: vec![65001, 65002, 65003],
                ..Match::default()
            },
            Match {
                as_path_contains: Some(1),
                ..Match::default()
            },
            Match {
                longest_as_path: Some(1),
                ..Match::default()
            },
            Match {
                next_hop: "198.51.100.0/24".parse().ok(),
                ..Match::default()
            },
            Match {
                peer: Some(PeerKind::Internal),
                ..Match::default()
            },
        ];
        for matches in yes {
            assert!(holds(matches.clone()), "{matches:?}");
        }
        for matches in no {
            assert!(!holds(matches.clone()), "{matches:?}");
        }
    }

    #[test]
    fn the_first_rule_that_matches_decides_and_changes() {
        let filter = Filter {
            rules: vec![
                FilterRule {
                    matches: prefix("10.9.0.0/16", Relation::In, 0, 32),
                    verdict: Verdict::Reject,
                    ..FilterRule::default()
                },
                FilterRule {
                    changes: vec![
                        Change::AddCommunity("no-export".parse().unwrap()),
                        Change::AddCommunity("1:2:3".parse().unwrap()),
                        Change::RemoveCommunity("65001:7".parse().unwrap()),
                        Change::Prepend(vec![1, 2]),
                        Change::SetLocalPref(7),
                        Change::SetMed(8),
                    ],
                    ..FilterRule::default()
                },
            ],
            rest: Verdict::Reject,
        };
        let apply = |prefix: &str| {
            filter.apply(&Subject {
                prefix: &prefix.parse().unwrap(),
                attributes: &attributes(),
                next_hop: "192.0.2.1".parse().unwrap(),
                peer: PeerKind::External,
                learnt: true,
            })
        };
        assert_eq!(apply("10.9.1.0/24"), None);
        let changed = apply("10.1.0.0/16").unwrap();
        assert_eq!(
            changed.as_path,
            [Segment::Sequence(vec![1, 2, 65001, 65002])]
        );
        assert_eq!(changed.communities, [0xffff_ff01]);
        assert_eq!(changed.large_communities, [[1, 2, 3]]);
        assert_eq!((changed.local_pref, changed.med), (Some(7), Some(8)));
    }

    #[test]
    fn communities_are_read_as_people_write_them() {
        let read = |text: &str| text.parse::<Community>();
        assert_eq!(
            read("65000:100"),
            Ok(Community::Standard(65000 << 16 | 100))
        );
        assert_eq!(read("70000:1:2"), Ok(Community::Large([70000, 1, 2])));
        assert_eq!(read("65000:100").unwrap().to_string(), "65000:100");
        for wrong in ["", "1", "70000:1", "1:2:3:4", "a:b", "-1:2", "1:"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
