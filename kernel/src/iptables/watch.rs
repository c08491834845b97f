//! Notices that somebody changed the rules, without starting a program.
//!
//! For the nft variant the kernel tells of changes. Of xtables it tells how many rules a table
//! has and how long they are, which is asked for; and it hands out the whole table, of which a
//! digest is made as often as a hundredth of a processor allows: so a rule that was replaced
//! by one of the same length is noticed too.

use std::hash::{DefaultHasher, Hasher};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use super::{Error, Iptables, Variant};
use crate::nftables::{Family, Monitor};

/// The tables that are watched.
const TABLES: [&str; 2] = ["filter", "nat"];
/// Digests may take this share of the time.
const SHARE: u32 = 100;
/// Tables of so many bytes have their digest made at once.
const SMALL: u32 = 1 << 20;

/// Watches the `filter` and `nat` tables of one family and variant.
pub struct Watch {
    source: Source,
}

enum Source {
    Nft { monitor: Monitor, family: Family },
    Legacy(Legacy),
}

impl Watch {
    pub fn new(tables: &Iptables) -> Result<Self, Error> {
        let source = match tables.variant() {
            Variant::Nft => {
                let monitor = Monitor::open().map_err(|error| Error::Start {
                    program: "the monitor of nf_tables".to_owned(),
                    error: std::io::Error::other(error),
                })?;
                Source::Nft {
                    monitor,
                    family: Family::ip(tables.is_v6()),
                }
            }
            Variant::Legacy => Source::Legacy(Legacy::new(tables.is_v6())),
        };
        let mut watch = Self { source };
        watch.mark();
        Ok(watch)
    }

    /// What is there now is what we wrote.
    pub fn mark(&mut self) {
        match &mut self.source {
            Source::Nft { monitor, .. } => {
                // What cannot be read is read, or noticed, the next time.
                let _ = monitor.changes();
            }
            Source::Legacy(legacy) => legacy.mark(),
        }
    }

    /// Whether somebody may have changed the tables since the last mark.
    pub fn changed(&mut self) -> bool {
        match &mut self.source {
            Source::Nft { monitor, family } => {
                let Ok(notices) = monitor.changes() else {
                    return true;
                };
                notices.iter().any(|notice| {
                    notice.tables.as_ref().is_none_or(|tables| {
                        tables
                            .iter()
                            .any(|table| table.family == *family && TABLES.contains(&&*table.name))
                    })
                })
            }
            Source::Legacy(legacy) => legacy.changed(Instant::now()),
        }
    }
}

struct Legacy {
    v6: bool,
    sizes: [Option<Size>; 2],
    /// `None` before the first look since the last mark.
    digests: Option<[Option<u64>; 2]>,
    next_digest: Instant,
}

impl Legacy {
    fn new(v6: bool) -> Self {
        Self {
            v6,
            sizes: [None; 2],
            digests: None,
            next_digest: Instant::now(),
        }
    }

    fn mark(&mut self) {
        self.sizes = TABLES.map(|table| size(self.v6, table));
        let small = self
            .sizes
            .iter()
            .flatten()
            .all(|(_, bytes)| *bytes <= SMALL);
        self.digests = small.then(|| TABLES.map(|table| digest(self.v6, table)));
    }

    fn changed(&mut self, now: Instant) -> bool {
        if self.sizes != TABLES.map(|table| size(self.v6, table)) {
            return true;
        }
        if now < self.next_digest {
            return false;
        }
        let digests = TABLES.map(|table| digest(self.v6, table));
        self.next_digest = Instant::now() + now.elapsed().max(Duration::from_millis(1)) * SHARE;
        self.digests
            .replace(digests)
            .is_some_and(|old| old != digests)
    }
}

/// How many rules a table of xtables has, and their bytes.
type Size = (u32, u32);

const GET_INFO: libc::c_int = 64;
const GET_ENTRIES: libc::c_int = 65;

#[repr(C)]
struct Info {
    name: [u8; 32],
    valid_hooks: u32,
    hook_entry: [u32; 5],
    underflow: [u32; 5],
    entries: u32,
    size: u32,
}

/// `IPT_SO_GET_INFO`; `None` where the table is not in use.
fn size(v6: bool, table: &str) -> Option<Size> {
    let mut info = Info {
        name: padded(table),
        valid_hooks: 0,
        hook_entry: [0; 5],
        underflow: [0; 5],
        entries: 0,
        size: 0,
    };
    let socket = raw_socket(v6)?;
    let mut length = size_of::<Info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `info`, which is that long and made
    // of integers only; the descriptor is open during the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level(v6),
            GET_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    (result == 0).then_some((info.entries, info.size))
}

/// A digest of a table's rules, without their counters; `None` where it is not in use, or
/// changes at this moment.
fn digest(v6: bool, table: &str) -> Option<u64> {
    /// Name and length, up to where the rules are aligned.
    const HEADER: usize = 40;
    let (_, bytes) = size(v6, table)?;
    let mut blob = vec![0u64; (HEADER + bytes as usize).div_ceil(8)];
    let mut length = (HEADER + bytes as usize) as libc::socklen_t;
    // SAFETY: any bytes are integers; the slice is as long as the vector.
    let view =
        unsafe { std::slice::from_raw_parts_mut(blob.as_mut_ptr().cast::<u8>(), blob.len() * 8) };
    view[..32].copy_from_slice(&padded(table));
    view[32..36].copy_from_slice(&bytes.to_ne_bytes());
    let socket = raw_socket(v6)?;
    // SAFETY: the kernel writes at most `length` bytes to `view`, which is at least that long;
    // the descriptor is open during the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level(v6),
            GET_ENTRIES,
            view.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    (result == 0).then(|| digest_of(v6, &view[HEADER..HEADER + bytes as usize]))
}

/// Goes from rule to rule, and leaves out what the kernel counts.
fn digest_of(v6: bool, rules: &[u8]) -> u64 {
    // Where `struct ipt_entry` and `struct ip6t_entry` have the offset of the next rule, and
    // the two counters.
    let (next_at, counters) = match v6 {
        false => (90, 96..112),
        true => (142, 152..168),
    };
    let mut hasher = DefaultHasher::new();
    let mut rest = rules;
    while let Some(next) = rest.get(next_at..next_at + 2) {
        let next = usize::from(u16::from_ne_bytes([next[0], next[1]]));
        let Some(rule) = rest.get(..next).filter(|rule| rule.len() >= counters.end) else {
            break;
        };
        hasher.write(&rule[..counters.start]);
        hasher.write(&rule[counters.end..]);
        rest = &rest[next..];
    }
    hasher.finish()
}

fn padded(table: &str) -> [u8; 32] {
    let mut name = [0; 32];
    name[..table.len()].copy_from_slice(table.as_bytes());
    name
}

fn level(v6: bool) -> libc::c_int {
    if v6 {
        libc::IPPROTO_IPV6
    } else {
        libc::IPPROTO_IP
    }
}

fn raw_socket(v6: bool) -> Option<OwnedFd> {
    let family = if v6 {
        AddressFamily::Inet6
    } else {
        AddressFamily::Inet
    };
    let (kind, flags) = (SockType::Raw, SockFlag::SOCK_CLOEXEC);
    socket(family, kind, flags, SockProtocol::Raw).ok()
}

#[cfg(test)]
mod tests {
    use super::digest_of;

    /// A rule of IPv4 with this text in its target and these counters.
    fn rule(target: &[u8; 8], counters: u8) -> Vec<u8> {
        let mut rule = vec![0; 112];
        rule[90..92].copy_from_slice(&120u16.to_ne_bytes());
        rule[96..112].fill(counters);
        rule.extend_from_slice(target);
        rule
    }

    #[test]
    fn a_digest_tells_rules_of_the_same_length_apart_and_ignores_counters() {
        let of = |rules: &[Vec<u8>]| digest_of(false, &rules.concat());
        let one = of(&[rule(b"ACCEPT  ", 1), rule(b"DROP    ", 1)]);
        assert_eq!(one, of(&[rule(b"ACCEPT  ", 7), rule(b"DROP    ", 9)]));
        assert_ne!(one, of(&[rule(b"ACCEPT  ", 1), rule(b"REJECT  ", 1)]));
        assert_ne!(one, of(&[rule(b"DROP    ", 1), rule(b"ACCEPT  ", 1)]));
        // Nonsense ends the walk.
        assert_eq!(of(&[vec![0; 120]]), of(&[]));
    }
}
