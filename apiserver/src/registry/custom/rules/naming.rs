//! Names of fields in expressions: what is no identifier is escaped.

/// Words that CEL keeps for itself.
const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

const SIGNS: [(&str, &str); 4] = [
    ("__", "__underscores__"),
    (".", "__dot__"),
    ("-", "__dash__"),
    ("/", "__slash__"),
];

/// The name by which expressions select a field.
pub(super) fn escape(name: &str) -> String {
    if RESERVED.contains(&name) {
        return format!("__{name}__");
    }
    let mut escaped = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(next) = rest.chars().next() {
        match SIGNS.iter().find(|(sign, _)| rest.starts_with(sign)) {
            Some((sign, word)) => {
                escaped.push_str(word);
                rest = &rest[sign.len()..];
            }
            None => {
                escaped.push(next);
                rest = &rest[next.len_utf8()..];
            }
        }
    }
    escaped
}

/// The field that is selected by a name.
pub(super) fn unescape(name: &str) -> String {
    let inner = name.strip_prefix("__").and_then(|n| n.strip_suffix("__"));
    if let Some(word) = inner.filter(|word| RESERVED.contains(word)) {
        return word.to_owned();
    }
    let mut plain = name.to_owned();
    for (sign, word) in &SIGNS[1..] {
        plain = plain.replace(word, sign);
    }
    plain.replace(SIGNS[0].1, SIGNS[0].0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_as_upstream_escapes_them() {
        let check = |name: &str, expect: &str| {
            assert_eq!(escape(name), expect);
            assert_eq!(unescape(expect), name);
        };
        check("plain", "plain");
        check("snake_case", "snake_case");
        check("two__lines", "two__underscores__lines");
        check("a.b-c/d", "a__dot__b__dash__c__slash__d");
        check("namespace", "__namespace__");
    }
}
