//! Label selectors: `app=web,env in (a,b),!off,n>5`, with upstream's error texts.

use crate::authz::SelectorRequirement;
use crate::registry::names;
use crate::response::ApiError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

/// A parsed label selector; all requirements have to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector(Vec<Requirement>);

impl LabelSelector {
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        Parser {
            tokens: tokens(text),
            at: 0,
        }
        .parse()
        .map_err(ApiError::bad_request)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all requirements hold; `value_of` gives the value of a label.
    pub fn matches<'a>(&self, mut value_of: impl FnMut(&str) -> Option<&'a str>) -> bool {
        self.0.iter().all(|r| r.matches(value_of(&r.key)))
    }

    /// As authorization sees them. `>` and `<` have no form there and are left out.
    pub(crate) fn attributes(&self) -> Vec<SelectorRequirement> {
        let spelled = |r: &Requirement| {
            let operator = match r.operator {
                Operator::In => "In",
                Operator::NotIn => "NotIn",
                Operator::Exists => "Exists",
                Operator::DoesNotExist => "DoesNotExist",
                Operator::GreaterThan | Operator::LessThan => return None,
            };
            Some(SelectorRequirement {
                key: r.key.clone(),
                operator: operator.into(),
                values: r.values.clone(),
            })
        };
        self.0.iter().filter_map(spelled).collect()
    }

    /// A `LabelSelector` object (`matchLabels`, `matchExpressions`); null selects nothing.
    pub fn from_value(value: &serde_json::Value) -> Option<Self> {
        let selector = value.as_object()?;
        let mut requirements = Vec::new();
        for (key, value) in selector
            .get("matchLabels")
            .and_then(|m| m.as_object())
            .into_iter()
            .flatten()
        {
            requirements.push(Requirement {
                key: key.clone(),
                operator: Operator::In,
                values: vec![value.as_str()?.to_owned()],
            });
        }
        for expression in selector
            .get("matchExpressions")
            .and_then(|m| m.as_array())
            .into_iter()
            .flatten()
        {
            let operator = match expression["operator"].as_str()? {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                _ => return None,
            };
            let values = expression["values"].as_array().into_iter().flatten();
            requirements.push(Requirement {
                key: expression["key"].as_str()?.to_owned(),
                operator,
                values: values
                    .filter_map(|v| v.as_str().map(str::to_owned))
                    .collect(),
            });
        }
        Some(LabelSelector(requirements))
    }
}

impl Requirement {
    fn matches(&self, label: Option<&str>) -> bool {
        let listed = |v: &str| self.values.iter().any(|x| x == v);
        match self.operator {
            Operator::In => label.is_some_and(listed),
            Operator::NotIn => label.is_none_or(|v| !listed(v)),
            Operator::Exists => label.is_some(),
            Operator::DoesNotExist => label.is_none(),
            Operator::GreaterThan | Operator::LessThan => {
                let number = |v: &str| v.parse::<i64>().ok();
                let (Some(got), Some(limit)) = (
                    label.and_then(number),
                    self.values.first().and_then(|v| number(v)),
                ) else {
                    return false;
                };
                if self.operator == Operator::GreaterThan {
                    got > limit
                } else {
                    got < limit
                }
            }
        }
    }

    fn new(key: &str, operator: Operator, values: Vec<String>) -> Result<Self, String> {
        let mut faults = Vec::new();
        if matches!(operator, Operator::GreaterThan | Operator::LessThan)
            && let Some(v) = values.iter().find(|v| v.parse::<i64>().is_err())
        {
            faults.push(format!(
                "values[0]: Invalid value: {v:?}: for 'Gt', 'Lt' operators, the value must be an integer"
            ));
        }
        for (i, value) in values.iter().enumerate() {
            let wrong = names::label_value_faults(value);
            if !wrong.is_empty() {
                faults.push(format!(
                    "values[{i}][{key}]: Invalid value: {value:?}: {}",
                    wrong.join("; ")
                ));
            }
        }
        match faults.as_slice() {
            [] => Ok(Requirement {
                key: key.into(),
                operator,
                values,
            }),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Identifier(&'a str),
    Symbol(&'a str),
    End,
}

impl Token<'_> {
    fn text(&self) -> &str {
        match self {
            Token::Identifier(text) | Token::Symbol(text) => text,
            Token::End => "",
        }
    }
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    let special = |c: char| matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<');
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let Some(first) = rest.chars().next() else {
            break;
        };
        let length = if special(first) {
            if rest.starts_with("==") || rest.starts_with("!=") {
                2
            } else {
                1
            }
        } else {
            rest.find(|c: char| special(c) || c.is_ascii_whitespace())
                .unwrap_or(rest.len())
        };
        let (token, after) = rest.split_at(length);
        tokens.push(if special(first) {
            Token::Symbol(token)
        } else {
            Token::Identifier(token)
        });
        rest = after;
    }
    tokens
}

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Token<'a> {
        self.tokens.get(self.at).copied().unwrap_or(Token::End)
    }

    fn next(&mut self) -> Token<'a> {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn parse(mut self) -> Result<LabelSelector, String> {
        let mut requirements = Vec::new();
        loop {
            match self.peek() {
                Token::Identifier(_) | Token::Symbol("!") => {
                    let requirement = self
                        .requirement()
                        .map_err(|e| format!("unable to parse requirement: {e}"))?;
                    requirements.push(requirement);
                    match self.next() {
                        Token::End => break,
                        Token::Symbol(",") => match self.peek() {
                            Token::Identifier(_) | Token::Symbol("!") => {}
                            other => {
                                return Err(format!(
                                    "found '{}', expected: identifier after ','",
                                    other.text()
                                ));
                            }
                        },
                        other => {
                            return Err(format!(
                                "found '{}', expected: ',' or 'end of string'",
                                other.text()
                            ));
                        }
                    }
                }
                Token::End => break,
                other => {
                    return Err(format!(
                        "found '{}', expected: !, identifier, or 'end of string'",
                        other.text()
                    ));
                }
            }
        }
        requirements.sort_by(|a: &Requirement, b| a.key.cmp(&b.key));
        Ok(LabelSelector(requirements))
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let mut token = self.next();
        let negated = token == Token::Symbol("!");
        if negated {
            token = self.next();
        }
        let Token::Identifier(key) = token else {
            return Err(format!("found '{}', expected: identifier", token.text()));
        };
        let wrong = names::qualified_name_faults(key);
        if !wrong.is_empty() {
            return Err(format!(
                "<nil>: Invalid value: {key:?}: {}",
                wrong.join("; ")
            ));
        }
        if negated {
            return Requirement::new(key, Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.peek(), Token::End | Token::Symbol(",")) {
            return Requirement::new(key, Operator::Exists, Vec::new());
        }
        let operator = self.next();
        let (operator, is_set) = match operator {
            Token::Identifier("in") => (Operator::In, true),
            Token::Identifier("notin") => (Operator::NotIn, true),
            Token::Symbol("=" | "==") => (Operator::In, false),
            Token::Symbol("!=") => (Operator::NotIn, false),
            Token::Symbol(">") => (Operator::GreaterThan, false),
            Token::Symbol("<") => (Operator::LessThan, false),
            other => {
                return Err(format!(
                    "found '{}', expected: in, notin, =, ==, !=, gt, lt",
                    other.text()
                ));
            }
        };
        let values = if is_set {
            self.set()?
        } else {
            vec![self.exact()?]
        };
        Requirement::new(key, operator, values)
    }

    fn exact(&mut self) -> Result<String, String> {
        match self.peek() {
            Token::End | Token::Symbol(",") => Ok(String::new()),
            Token::Identifier(value) => {
                self.at += 1;
                Ok(value.into())
            }
            other => Err(format!("found '{}', expected: identifier", other.text())),
        }
    }

    fn set(&mut self) -> Result<Vec<String>, String> {
        let open = self.next();
        if open != Token::Symbol("(") {
            return Err(format!("found '{}' expected: '('", open.text()));
        }
        let mut values: Vec<String> = Vec::new();
        // An empty element stands for the empty value: `(a,)` and `()`.
        let mut element = String::new();
        loop {
            match self.next() {
                Token::Identifier(value) if element.is_empty() => element = value.into(),
                Token::Symbol(",") => values.push(std::mem::take(&mut element)),
                Token::Symbol(")") => {
                    values.push(element);
                    values.sort();
                    values.dedup();
                    return Ok(values);
                }
                other => return Err(format!("found '{}', expected: ',' or ')'", other.text())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(selector: &str, labels: &[(&str, &str)], expect: bool) {
        let parsed = LabelSelector::parse(selector).unwrap();
        let got = parsed.matches(|k| labels.iter().find(|(n, _)| *n == k).map(|(_, v)| *v));
        assert_eq!(got, expect, "{selector}");
    }

    fn refused(selector: &str, expect: &str) {
        let error = LabelSelector::parse(selector).unwrap_err();
        assert!(
            error.message().starts_with(expect),
            "{selector}: {}",
            error.message()
        );
    }

    #[test]
    fn every_form_of_requirement_matches() {
        let labels = [("app", "web"), ("n", "7"), ("e", "")];
        for (selector, expect) in [
            ("app=web", true),
            ("app==db", false),
            ("app!=db", true),
            ("none!=x", true),
            ("app in (web, db)", true),
            ("app notin (web)", false),
            ("none notin (a)", true),
            ("app", true),
            ("!app", false),
            ("n>5,n<8", true),
            ("app>5", false),
            ("e=", true),
            ("e in ()", true),
            ("app in (,web)", true),
            ("", true),
            (" app = web ", true),
        ] {
            check(selector, &labels, expect);
        }
    }

    #[test]
    fn mistakes_are_told_as_upstream_tells_them() {
        refused(
            "a===b",
            "unable to parse requirement: found '=', expected: identifier",
        );
        refused("a=b c", "found 'c', expected: ',' or 'end of string'");
        refused("a,", "found '', expected: identifier after ','");
        refused(
            "-a=b",
            "unable to parse requirement: <nil>: Invalid value: \"-a\": name part must",
        );
        refused(
            "a>b",
            "unable to parse requirement: values[0]: Invalid value: \"b\": for 'Gt', 'Lt'",
        );
    }
}
