//! The syntax of names, keys, values and other short texts, with upstream's wording of what is
//! wrong. Every function answers with all faults; none when the text is right.

const NAME_PART: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_KEY: &str = "a valid label key must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const SUBDOMAIN_UNDERSCORE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')";
const WILDCARD: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
const HTTP_HEADER: &str = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
const ENVIRONMENT: &str = "a valid environment variable name must consist only of printable ASCII characters other than '='";
const PERCENT: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
const C_IDENTIFIER: &str = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')";

fn bytes(most: usize) -> String {
    format!("must be no more than {most} bytes")
}

fn characters(most: usize) -> String {
    format!("must be no more than {most} characters")
}

/// `([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]`
fn is_name_part(text: &str) -> bool {
    let b = text.as_bytes();
    !b.is_empty()
        && b[0].is_ascii_alphanumeric()
        && b[b.len() - 1].is_ascii_alphanumeric()
        && b.iter()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
}

/// `[a-z0-9]([-a-z0-9]*[a-z0-9])?`
fn is_dns_label(text: &str) -> bool {
    let b = text.as_bytes();
    let plain = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    !b.is_empty()
        && plain(&b[0])
        && plain(&b[b.len() - 1])
        && b.iter().all(|c| plain(c) || *c == b'-')
}

/// `_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?`
fn is_underscore_label(text: &str) -> bool {
    let b = text.strip_prefix('_').unwrap_or(text).as_bytes();
    let plain = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    !b.is_empty()
        && plain(&b[0])
        && plain(&b[b.len() - 1])
        && b.iter().all(|c| plain(c) || matches!(c, b'-' | b'_'))
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_dns_label)
}

fn when(wrong: bool, fault: impl Into<String>) -> impl Iterator<Item = String> {
    wrong.then(|| fault.into()).into_iter()
}

/// A label or annotation key, or any other qualified name.
pub fn qualified_name_faults(name: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let part = match name.split('/').collect::<Vec<_>>().as_slice() {
        [part] => *part,
        [prefix, part] => {
            if prefix.is_empty() {
                faults.push("prefix part must be non-empty".into());
            } else {
                faults.extend(when(
                    prefix.len() > 253,
                    format!("prefix part {}", bytes(253)),
                ));
                faults.extend(when(
                    !is_subdomain(prefix),
                    format!("prefix part {SUBDOMAIN}"),
                ));
            }
            *part
        }
        _ => return vec![LABEL_KEY.into()],
    };
    if part.is_empty() {
        faults.push("name part must be non-empty".into());
    } else if part.len() > 63 {
        faults.push(format!("name part {}", bytes(63)));
    }
    faults.extend(when(!is_name_part(part), NAME_PART));
    faults
}

/// A label's value.
pub fn label_value_faults(value: &str) -> Vec<String> {
    let long = when(value.len() > 63, bytes(63));
    long.chain(when(!value.is_empty() && !is_name_part(value), LABEL_VALUE))
        .collect()
}

pub use super::address::canonical_ip_faults;

/// A DNS subdomain (most objects' names).
pub fn subdomain_faults(name: &str) -> Vec<String> {
    let long = when(name.len() > 253, characters(253));
    long.chain(when(!is_subdomain(name), SUBDOMAIN)).collect()
}

/// A DNS subdomain in which underscores may be.
pub fn underscore_subdomain_faults(name: &str) -> Vec<String> {
    let right = name.split('.').all(is_underscore_label);
    let long = when(name.len() > 253, characters(253));
    long.chain(when(!right, SUBDOMAIN_UNDERSCORE)).collect()
}

/// `*.` and a DNS subdomain.
pub fn wildcard_faults(name: &str) -> Vec<String> {
    let right = name.strip_prefix("*.").is_some_and(is_subdomain);
    let long = when(name.len() > 253, characters(253));
    long.chain(when(!right, WILDCARD)).collect()
}

/// A DNS label (namespaces).
pub fn label_faults(name: &str) -> Vec<String> {
    let mut faults: Vec<String> = when(name.len() > 63, characters(63)).collect();
    if !is_dns_label(name) {
        let dotted = is_subdomain(name);
        faults.push(
            if dotted {
                "must not contain dots"
            } else {
                LABEL
            }
            .into(),
        );
    }
    faults
}

/// A DNS-1035 label.
pub fn label_1035_faults(name: &str) -> Vec<String> {
    let right = is_dns_label(name) && name.as_bytes()[0].is_ascii_lowercase();
    let long = when(name.len() > 63, characters(63));
    long.chain(when(!right, LABEL_1035)).collect()
}

/// A name that only has to be one segment of a path (RBAC).
pub fn path_segment_faults(name: &str) -> Vec<String> {
    if name == "." || name == ".." {
        return vec![format!("may not be '{name}'")];
    }
    ["/", "%"]
        .iter()
        .filter(|c| name.contains(**c))
        .map(|c| format!("may not contain '{c}'"))
        .collect()
}

fn parent_faults(text: &str) -> impl Iterator<Item = String> {
    match text {
        "." | ".." => Some(format!("must not be '{text}'")),
        _ if text.starts_with("..") => Some("must not start with '..'".to_owned()),
        _ => None,
    }
    .into_iter()
}

/// A key of a ConfigMap or Secret.
pub fn config_key_faults(key: &str) -> Vec<String> {
    let right = !key.is_empty()
        && key
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'));
    when(key.len() > 253, characters(253))
        .chain(when(!right, CONFIG_KEY))
        .chain(parent_faults(key))
        .collect()
}

/// The name of an environment variable.
pub fn environment_faults(name: &str) -> Vec<String> {
    let right = |c: char| matches!(c, ' '..='~') && c != '=';
    when(
        name.is_empty(),
        "environment variable name must be non-empty",
    )
    .chain(when(!name.chars().all(right), ENVIRONMENT))
    .collect()
}

/// The name of an HTTP header.
pub fn http_header_faults(name: &str) -> Vec<String> {
    let right = !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
    when(!right, HTTP_HEADER).collect()
}

/// The name of a port.
pub fn port_name_faults(name: &str) -> Vec<String> {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    let charset = !name.is_empty() && name.bytes().all(plain);
    let letter = name.bytes().any(|c| c.is_ascii_lowercase());
    when(name.len() > 15, characters(15))
        .chain(when(
            !charset,
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
        ))
        .chain(when(!letter, "must contain at least one letter (a-z)"))
        .chain(when(
            name.contains("--"),
            "must not contain consecutive hyphens",
        ))
        .chain(when(
            name.starts_with('-') || name.ends_with('-'),
            "must not begin or end with a hyphen",
        ))
        .collect()
}

/// A percentage.
pub fn percent_faults(text: &str) -> Vec<String> {
    let digits = text.strip_suffix('%').unwrap_or_default();
    let right = !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit());
    when(!right, PERCENT).collect()
}

/// An identifier of C.
pub fn c_identifier_faults(text: &str) -> Vec<String> {
    let head = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let right = head && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_');
    when(!right, C_IDENTIFIER).collect()
}

/// `must be between LOW and HIGH, inclusive`
pub fn between(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

/// Whether a number is a port's.
pub fn is_port(number: i64) -> bool {
    (1..=65535).contains(&number)
}
