//! Field selectors: `metadata.name=x,status.phase!=Running`.

use std::borrow::Cow;

use crate::response::ApiError;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    field: String,
    equal: bool,
    value: String,
}

/// A parsed field selector; all terms have to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector(Vec<Term>);

impl FieldSelector {
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let mut terms = Vec::new();
        for part in split_terms(text) {
            if part.is_empty() {
                continue;
            }
            let (field, equal, value) = split_term(part).ok_or_else(|| {
                ApiError::bad_request(format!(
                    "invalid selector: '{text}'; can't understand '{part}'"
                ))
            })?;
            terms.push(Term {
                field: field.into(),
                equal,
                value: unescape(value)?,
            });
        }
        Ok(FieldSelector(terms))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// (field, must be equal, value) of each term.
    pub fn requirements(&self) -> impl Iterator<Item = (&str, bool, &str)> {
        self.0
            .iter()
            .map(|t| (t.field.as_str(), t.equal, t.value.as_str()))
    }

    /// Whether all terms hold; `value_of` gives a field's text, empty when it is absent.
    pub fn matches<'a>(&self, mut value_of: impl FnMut(&str) -> &'a str) -> bool {
        self.0
            .iter()
            .all(|t| (value_of(&t.field) == t.value) == t.equal)
    }

    /// As [`Self::matches`], for texts that are made when asked for.
    pub fn holds(&self, mut value_of: impl FnMut(&str) -> String) -> bool {
        self.0
            .iter()
            .all(|t| (value_of(&t.field) == t.value) == t.equal)
    }

    /// Takes the terms out whose field `chosen` names.
    pub fn split_off(&mut self, mut chosen: impl FnMut(&str) -> bool) -> FieldSelector {
        let (taken, kept) = std::mem::take(&mut self.0)
            .into_iter()
            .partition(|t| chosen(&t.field));
        self.0 = kept;
        FieldSelector(taken)
    }

    /// The value that the field must have, when a term says so.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|t| t.equal && t.field == field)
            .map(|t| t.value.as_str())
    }

    /// Adds the term `field=value`.
    pub fn require(&mut self, field: &str, value: &str) {
        self.0.push(Term {
            field: field.into(),
            equal: true,
            value: value.into(),
        });
    }

    /// Gives fields other names (aliases) and refuses unknown ones.
    pub fn rename(
        &mut self,
        mut name: impl FnMut(&str) -> Result<Cow<'static, str>, ApiError>,
    ) -> Result<(), ApiError> {
        for term in &mut self.0 {
            let known = name(&term.field)?;
            if known != term.field {
                term.field = known.into_owned();
            }
        }
        Ok(())
    }
}

/// Splits at commas that no backslash precedes.
fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    for (i, _) in term.char_indices() {
        let rest = &term[i..];
        for (op, equal) in [("!=", false), ("==", true), ("=", true)] {
            if let Some(value) = rest.strip_prefix(op) {
                return Some((&term[..i], equal, value));
            }
        }
    }
    None
}

fn unescape(value: &str) -> Result<String, ApiError> {
    if !value.contains(['\\', ',', '=']) {
        return Ok(value.into());
    }
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(e @ ('\\' | ',' | '=')) => out.push(e),
                Some(e) => {
                    return Err(ApiError::bad_request(format!(
                        "invalid field selector: invalid escape sequence in value: \\{e}"
                    )));
                }
                None => {
                    return Err(ApiError::bad_request(
                        "invalid field selector: invalid escape sequence in value: \\",
                    ));
                }
            },
            ',' | '=' => {
                return Err(ApiError::bad_request(format!(
                    "invalid field selector: unescaped character in value: {c}"
                )));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(selector: &str, value: &str, expect: bool) {
        let selector = FieldSelector::parse(selector).unwrap();
        let got = selector.matches(|f| if f == "a.b" { value } else { "" });
        assert_eq!(got, expect, "{selector:?} on {value:?}");
    }

    #[test]
    fn terms_compare_with_the_empty_text_when_a_field_is_absent() {
        check("a.b=x", "x", true);
        check("a.b==x", "y", false);
        check("a.b!=x", "", true);
        check("a.b=", "", true);
        check("a.b=x,c!=", "x", false);
        check("a.b=x\\,y", "x,y", true);
        check("", "z", true);
    }

    #[test]
    fn a_term_without_operator_is_refused() {
        let message = FieldSelector::parse("a.b").unwrap_err();
        assert_eq!(
            message.message(),
            "invalid selector: 'a.b'; can't understand 'a.b'"
        );
    }
}
