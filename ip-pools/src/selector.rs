//! Selectors of labels, as Calico writes them: `has(rack) && zone in {'a', 'b'} || !all()`.

use std::collections::BTreeMap;

/// Deeper than anybody nests.
const DEEPEST: usize = 32;

/// A selector that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    All,
    Has(String),
    Equal(String, String),
    NotEqual(String, String),
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Contains(String, String),
    StartsWith(String, String),
    EndsWith(String, String),
    Not(Box<Selector>),
    And(Vec<Selector>),
    Or(Vec<Selector>),
}

/// A text that is no selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the selector {text:?} cannot be read near {near:?}: write for example has(rack) && zone == 'a'"
)]
pub struct NotASelector {
    text: String,
    near: String,
}

/// The labels of an object.
pub type Labels = BTreeMap<String, String>;

impl Selector {
    /// Reads a selector; an empty text selects everything.
    pub fn parse(text: &str) -> Result<Self, NotASelector> {
        let mut parser = Parser { rest: text.trim() };
        if parser.rest.is_empty() {
            return Ok(Self::All);
        }
        let parsed = parser.any(0).filter(|_| parser.rest.is_empty());
        parsed.ok_or_else(|| NotASelector {
            text: text.to_owned(),
            near: parser.rest.chars().take(16).collect(),
        })
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        let value = |key: &String| labels.get(key).map(String::as_str);
        match self {
            Self::All => true,
            Self::Has(key) => labels.contains_key(key),
            Self::Equal(key, wanted) => value(key) == Some(wanted),
            Self::NotEqual(key, other) => value(key) != Some(other),
            Self::In(key, list) => value(key).is_some_and(|own| list.iter().any(|one| one == own)),
            Self::NotIn(key, list) => {
                !value(key).is_some_and(|own| list.iter().any(|one| one == own))
            }
            Self::Contains(key, part) => value(key).is_some_and(|own| own.contains(part)),
            Self::StartsWith(key, part) => value(key).is_some_and(|own| own.starts_with(part)),
            Self::EndsWith(key, part) => value(key).is_some_and(|own| own.ends_with(part)),
            Self::Not(inner) => !inner.matches(labels),
            Self::And(all) => all.iter().all(|own| own.matches(labels)),
            Self::Or(any) => any.iter().any(|own| own.matches(labels)),
        }
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn take(&mut self, token: &str) -> Option<()> {
        self.rest = self.rest.strip_prefix(token)?.trim_start();
        Some(())
    }

    fn any(&mut self, depth: usize) -> Option<Selector> {
        let mut parts = vec![self.all(depth)?];
        while self.take("||").is_some() {
            parts.push(self.all(depth)?);
        }
        match parts.len() {
            1 => parts.pop(),
            _ => Some(Selector::Or(parts)),
        }
    }

    fn all(&mut self, depth: usize) -> Option<Selector> {
        let mut parts = vec![self.one(depth)?];
        while self.take("&&").is_some() {
            parts.push(self.one(depth)?);
        }
        match parts.len() {
            1 => parts.pop(),
            _ => Some(Selector::And(parts)),
        }
    }

    fn one(&mut self, depth: usize) -> Option<Selector> {
        if depth > DEEPEST {
            return None;
        }
        if !self.rest.starts_with("!=") && self.take("!").is_some() {
            return Some(Selector::Not(Box::new(self.one(depth + 1)?)));
        }
        if self.take("(").is_some() {
            let inner = self.any(depth + 1)?;
            self.take(")")?;
            return Some(inner);
        }
        let word = self.word()?;
        match word.as_str() {
            "all" | "global" if self.take("(").is_some() => {
                self.take(")")?;
                return Some(Selector::All);
            }
            "has" if self.take("(").is_some() => {
                let key = self.word()?;
                self.take(")")?;
                return Some(Selector::Has(key));
            }
            _ => {}
        }
        self.comparison(word)
    }

    fn comparison(&mut self, key: String) -> Option<Selector> {
        if self.take("==").is_some() {
            return Some(Selector::Equal(key, self.quoted()?));
        }
        if self.take("!=").is_some() {
            return Some(Selector::NotEqual(key, self.quoted()?));
        }
        match self.word()?.as_str() {
            "in" => Some(Selector::In(key, self.list()?)),
            "not" => {
                (self.word()? == "in").then_some(())?;
                Some(Selector::NotIn(key, self.list()?))
            }
            "contains" => Some(Selector::Contains(key, self.quoted()?)),
            "starts" => {
                (self.word()? == "with").then_some(())?;
                Some(Selector::StartsWith(key, self.quoted()?))
            }
            "ends" => {
                (self.word()? == "with").then_some(())?;
                Some(Selector::EndsWith(key, self.quoted()?))
            }
            _ => None,
        }
    }

    /// The name of a label, or of an operation.
    fn word(&mut self) -> Option<String> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-');
        let end = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest.trim_start();
        (!word.is_empty()).then(|| word.to_owned())
    }

    fn quoted(&mut self) -> Option<String> {
        let quote = self
            .rest
            .chars()
            .next()
            .filter(|c| matches!(c, '\'' | '"'))?;
        let (text, rest) = self.rest.get(1..)?.split_once(quote)?;
        self.rest = rest.trim_start();
        Some(text.to_owned())
    }

    fn list(&mut self) -> Option<Vec<String>> {
        self.take("{")?;
        let mut list = Vec::new();
        while self.take("}").is_none() {
            list.push(self.quoted()?);
            if self.take(",").is_none() {
                self.take("}")?;
                break;
            }
        }
        Some(list)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(text: &str) -> bool {
        let labels = [("rack", "a"), ("fairlead.io/role", "worker")];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
        Selector::parse(text).unwrap().matches(&labels.into())
    }

    #[test]
    fn each_form_selects() {
        let yes = [
            "",
            "all()",
            "has(rack)",
            "rack == 'a'",
            "rack=='a'",
            "rack != \"b\"",
            "zone != 'a'",
            "rack in {'a', 'b'}",
            "rack not in {'b'}",
            "zone not in {'b'}",
            "fairlead.io/role contains 'ork'",
            "fairlead.io/role starts with 'work'",
            "fairlead.io/role ends with \"er\"",
            "!has(zone) && has(rack)",
            "has(zone) || rack == 'a'",
            "has(zone) && has(zone) || has(rack)",
            "!(has(zone) || rack == 'b')",
            "has( rack ) && ( all() )",
        ];
        for text in yes {
            assert!(matches(text), "{text}");
            assert!(!matches(&format!(
                "!({})",
                if text.is_empty() { "all()" } else { text }
            )));
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for text in [
            "rack",
            "rack = 'a'",
            "has()",
            "rack == a",
            "(all()",
            "all() all()",
            "rack in {'a'",
            "&&",
        ] {
            assert!(Selector::parse(text).is_err(), "{text}");
        }
        let deep = format!("{}all(){}", "(".repeat(1000), ")".repeat(1000));
        assert!(Selector::parse(&deep).is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[ -~é]{0,60}") {
            let _ = Selector::parse(&text);
        }
    }
}
