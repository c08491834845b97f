//! Expressions of CEL, as far as their type can be told without an environment: literals.

use super::field::{Errors, Node};

/// The type of a literal; nothing of other expressions.
fn literal_type(expression: &str) -> Option<&'static str> {
    let text = expression.trim();
    let quoted = |q: char| {
        let inner = text.strip_prefix(q).and_then(|t| t.strip_suffix(q));
        inner.is_some_and(|t| !t.contains(q) && !t.contains('\\'))
    };
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|c| c.is_ascii_digit());
    let number = text.strip_prefix('-').unwrap_or(text);
    match text {
        "true" | "false" => Some("bool"),
        "null" => Some("null_type"),
        _ if quoted('"') || quoted('\'') => Some("string"),
        _ if digits(number) => Some("int"),
        _ if number.strip_suffix('u').is_some_and(digits) => Some("uint"),
        _ if number
            .split_once('.')
            .is_some_and(|(a, b)| digits(a) && digits(b)) =>
        {
            Some("double")
        }
        "[]" => Some("list(dyn)"),
        "{}" => Some("map(dyn, dyn)"),
        _ => None,
    }
}

/// The selector of a device is true or false.
pub(super) fn check_selector(e: &mut Errors, expression: &Node<'_>) {
    if let Some(own) = literal_type(expression.text()).filter(|own| *own != "bool") {
        let why = format!("must evaluate to bool or the unknown type, not {own}");
        e.bad(expression, why);
    }
}
