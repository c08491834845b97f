//! Addresses, ranges, ports and domains.

use std::net::IpAddr;

use super::field::{Errors, Node, Place};
use super::names;

/// An address as Go parses it; leading zeros are passed over as upstream still does.
pub(crate) fn parse_ip(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let parts: Vec<&str> = text.split('.').collect();
    if parts.len() != 4 || !parts.iter().all(|p| (1..=16).contains(&p.len())) {
        return None;
    }
    let plain: Option<Vec<u8>> = parts
        .iter()
        .map(|p| {
            let digits = p.bytes().all(|c| c.is_ascii_digit());
            digits.then(|| p.parse::<u32>().ok()).flatten()
        })
        .map(|n| n.and_then(|n| u8::try_from(n).ok()))
        .collect();
    let octets: [u8; 4] = plain?.try_into().ok()?;
    Some(octets.into())
}

/// A range: its address and the length of its prefix.
pub(crate) fn parse_cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/')?;
    let address = parse_ip(address)?;
    if length.is_empty() || !length.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let length: u8 = length.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    (length <= most).then_some((address, length))
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(u32::from(a)) << 96,
        IpAddr::V6(a) => u128::from(a),
    }
}

/// Whether the range has the address.
pub(super) fn contains(range: (IpAddr, u8), address: IpAddr) -> bool {
    let shift = 128 - u32::from(range.1);
    range.0.is_ipv4() == address.is_ipv4()
        && (shift == 128 || bits(range.0) >> shift == bits(address) >> shift)
}

/// A list with one address of each family at most.
pub(super) fn is_dual(addresses: &[IpAddr]) -> bool {
    addresses.iter().any(IpAddr::is_ipv4) && addresses.iter().any(IpAddr::is_ipv6)
}

/// An address has to be one.
pub(super) fn check_ip(e: &mut Errors, node: &Node<'_>) -> bool {
    let right = parse_ip(node.text()).is_some();
    if !right {
        e.bad(
            node,
            "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        );
    }
    right
}

/// What is wrong with an address of the newer kinds, which have one spelling only.
pub fn canonical_ip_faults(text: &str) -> Vec<String> {
    let why = match (parse_ip(text), text.parse::<IpAddr>()) {
        (None, _) => "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".into(),
        (Some(_), Err(_)) => "must not have leading 0s".into(),
        (_, Ok(IpAddr::V6(v6))) if v6.to_ipv4_mapped().is_some() => {
            "must not be an IPv4-mapped IPv6 address".into()
        }
        (_, Ok(address)) if address.to_string() != text => {
            format!("must be in canonical form (\"{address}\")")
        }
        _ => return Vec::new(),
    };
    vec![why]
}

/// What is wrong with a range of the newer kinds, which have one spelling only.
pub(super) fn canonical_cidr_faults(text: &str) -> Vec<String> {
    let Some((address, length)) = parse_cidr(text) else {
        return vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".into()];
    };
    let (spelled, digits) = text.split_once('/').unwrap_or_default();
    let masked = masked(address, length);
    let range = format!("{masked}/{length}");
    let why = if spelled.parse::<IpAddr>().is_err() || digits != length.to_string() {
        "must not have leading 0s in IP or prefix length".into()
    } else if matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
        "must not have an IPv4-mapped IPv6 address".into()
    } else if masked != address {
        "must not have bits set beyond the prefix length".into()
    } else if range != text {
        format!("must be in canonical form (\"{range}\")")
    } else {
        return Vec::new();
    };
    vec![why]
}

/// The first address of a range.
pub(crate) fn masked(address: IpAddr, length: u8) -> IpAddr {
    let length = u32::from(length);
    match address {
        IpAddr::V4(a) => {
            let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
            IpAddr::V4((u32::from(a) & mask).into())
        }
        IpAddr::V6(a) => {
            let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            IpAddr::V6((u128::from(a) & mask).into())
        }
    }
}

/// A range has to be one.
pub(super) fn check_cidr(e: &mut Errors, at: &impl Place, text: &str) -> bool {
    let right = parse_cidr(text).is_some();
    if !right {
        e.invalid(
            at,
            text,
            "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
        );
    }
    right
}

/// Addresses that endpoints cannot have.
pub(super) fn check_not_special(e: &mut Errors, node: &Node<'_>) {
    let Some(address) = parse_ip(node.text()) else {
        e.bad(node, "must be a valid IP address");
        return;
    };
    if address.is_unspecified() {
        e.bad(node, format!("may not be unspecified ({})", node.text()));
    }
    if address.is_loopback() {
        let why = "may not be in the loopback range (127.0.0.0/8, ::1/128)";
        e.bad(node, why);
    }
    let (unicast, multicast) = match address {
        IpAddr::V4(a) => (a.is_link_local(), a.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(a) => (
            a.is_unicast_link_local(),
            a.segments()[0] & 0xff0f == 0xff02,
        ),
    };
    if unicast {
        let why = "may not be in the link-local range (169.254.0.0/16, fe80::/10)";
        e.bad(node, why);
    }
    if multicast {
        let why = "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)";
        e.bad(node, why);
    }
}

/// The number of a port.
pub(super) fn check_port_number(e: &mut Errors, node: &Node<'_>) {
    if !names::is_port(node.int()) {
        e.invalid(node, node.int(), names::between(1, 65535));
    }
}

/// The number or the name of a port.
pub(super) fn check_port(e: &mut Errors, node: &Node<'_>) {
    if node.value.is_string() {
        e.check(node, names::port_name_faults);
    } else {
        check_port_number(e, node);
    }
}

/// `example.com/path`
pub(super) fn check_domain_path(e: &mut Errors, node: &Node<'_>) {
    let text = node.text();
    if text.is_empty() {
        e.required(node, "");
        return;
    }
    let Some((host, path)) = text
        .split_once('/')
        .filter(|(h, p)| !h.is_empty() && !p.is_empty())
    else {
        e.bad(
            node,
            "must be a domain-prefixed path (such as \"acme.io/foo\")",
        );
        return;
    };
    e.faults(node, host, names::subdomain_faults(host));
    let allowed = |c: char| c.is_ascii_alphanumeric() || "/-._~%!$&'()*+,;=:".contains(c);
    if !path.chars().all(allowed) {
        let why = "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
        e.invalid(node, path, why);
    }
}

/// A domain with at least `segments` parts.
pub(super) fn check_domain(e: &mut Errors, node: &Node<'_>, segments: usize) {
    let text = node.text();
    if text.is_empty() {
        e.required(node, "");
        return;
    }
    let name = if segments < 3 {
        text.strip_suffix('.').unwrap_or(text)
    } else {
        text
    };
    let faults = names::subdomain_faults(name);
    if !faults.is_empty() {
        e.invalid(node, name, faults.join(","));
        return;
    }
    if name.split('.').count() < segments {
        let many = if segments == 3 { "three" } else { "two" };
        let why = format!("should be a domain with at least {many} segments separated by dots");
        e.invalid(node, name, why);
        return;
    }
    if segments < 3 {
        for label in name.split('.') {
            let faults = names::label_faults(label);
            if !faults.is_empty() {
                e.invalid(node, label, faults.join(","));
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newer_kinds_have_one_spelling_of_an_address() {
        for (text, why) in [
            ("10.1.1.1", ""),
            ("fd00::1", ""),
            ("x", "must be a valid IP address"),
            ("010.1.1.1", "must not have leading 0s"),
            ("FD00::1", "must be in canonical form (\"fd00::1\")"),
            ("::ffff:1.2.3.4", "must not be an IPv4-mapped"),
        ] {
            let faults = canonical_ip_faults(text).join("");
            assert!(
                faults.starts_with(why) && faults.is_empty() == why.is_empty(),
                "{faults}"
            );
        }
        for (text, why) in [
            ("10.0.0.0/24", ""),
            ("0.0.0.0/0", ""),
            ("::/0", ""),
            ("fd00::/64", ""),
            ("10.0.0.0", "must be a valid CIDR"),
            (
                "10.0.0.1/24",
                "must not have bits set beyond the prefix length",
            ),
            (
                "10.0.0.0/024",
                "must not have leading 0s in IP or prefix length",
            ),
            ("fd00:0::/64", "must be in canonical form (\"fd00::/64\")"),
        ] {
            let faults = canonical_cidr_faults(text).join("");
            assert!(
                faults.starts_with(why) && faults.is_empty() == why.is_empty(),
                "{faults}"
            );
        }
    }
}
