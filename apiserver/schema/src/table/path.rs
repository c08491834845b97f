//! The JSON paths of printer columns: `.a.b`, `['a']`, `[0]`, `[*]`, `..a`, `[?(@.a=="b")]`.

use serde_json::Value;

/// A path that does not parse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid JSON path {0:?}")]
pub struct PathError(pub String);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    All,
    Descend(String),
    Filter {
        path: Vec<Step>,
        operator: String,
        literal: Value,
    },
}

/// A parsed path.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(Vec<Step>);

impl JsonPath {
    /// Parses a path as a custom resource definition says it.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        let own = text.trim().trim_start_matches('{').trim_end_matches('}');
        steps(own.trim_start_matches(['$', '@']))
            .map(Self)
            .ok_or_else(|| PathError(text.to_owned()))
    }

    /// Every value that the path leads to.
    pub fn find<'a>(&self, root: &'a Value) -> Vec<&'a Value> {
        find(&self.0, root)
    }
}

fn find<'a>(steps: &[Step], root: &'a Value) -> Vec<&'a Value> {
    let mut found = vec![root];
    for step in steps {
        found = found.into_iter().flat_map(|v| apply(step, v)).collect();
    }
    found
}

fn apply<'a>(step: &Step, value: &'a Value) -> Vec<&'a Value> {
    match step {
        Step::Field(name) => value.get(name).into_iter().collect(),
        Step::Index(i) => {
            let Some(list) = value.as_array() else {
                return Vec::new();
            };
            let at = if *i < 0 { list.len() as i64 + i } else { *i };
            usize::try_from(at)
                .ok()
                .and_then(|at| list.get(at))
                .into_iter()
                .collect()
        }
        Step::All => children(value),
        Step::Descend(name) => {
            let mut own: Vec<&Value> = value.get(name).into_iter().collect();
            own.extend(children(value).into_iter().flat_map(|c| apply(step, c)));
            own
        }
        Step::Filter {
            path,
            operator,
            literal,
        } => children(value)
            .into_iter()
            .filter(|c| holds(&find(path, c), operator, literal))
            .collect(),
    }
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(list) => list.iter().collect(),
        Value::Object(map) => map.values().collect(),
        _ => Vec::new(),
    }
}

fn holds(found: &[&Value], operator: &str, literal: &Value) -> bool {
    let Some(first) = found.first() else {
        return false;
    };
    let order = match (first, literal) {
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
        _ => (**first == *literal).then_some(std::cmp::Ordering::Equal),
    };
    match operator {
        "" => true,
        "==" => order.is_some_and(|o| o.is_eq()),
        "!=" => !order.is_some_and(|o| o.is_eq()),
        "<" => order.is_some_and(|o| o.is_lt()),
        ">" => order.is_some_and(|o| o.is_gt()),
        "<=" => order.is_some_and(|o| o.is_le()),
        ">=" => order.is_some_and(|o| o.is_ge()),
        _ => false,
    }
}

fn steps(mut text: &str) -> Option<Vec<Step>> {
    let mut out = Vec::new();
    while !text.is_empty() {
        if let Some(rest) = text.strip_prefix("..") {
            let (name, rest) = name(rest);
            out.push(Step::Descend(name));
            text = rest;
        } else if let Some(rest) = text.strip_prefix('.') {
            if rest.starts_with('[') || rest.is_empty() {
                text = rest;
                continue;
            }
            let (name, rest) = name(rest);
            if name.is_empty() {
                return None;
            }
            out.push(if name == "*" {
                Step::All
            } else {
                Step::Field(name)
            });
            text = rest;
        } else if let Some(rest) = text.strip_prefix('[') {
            let end = closing(rest)?;
            out.push(bracket(rest[..end].trim())?);
            text = &rest[end + 1..];
        } else {
            let (name, rest) = name(text);
            if name.is_empty() {
                return None;
            }
            out.push(Step::Field(name));
            text = rest;
        }
    }
    Some(out)
}

/// A field's name up to the next `.` or `[`; a backslash keeps either in it.
fn name(text: &str) -> (String, &str) {
    let (mut out, mut chars) = (String::new(), text.char_indices());
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => out.extend(chars.next().map(|(_, c)| c)),
            '.' | '[' => return (out, &text[at..]),
            c => out.push(c),
        }
    }
    (out, "")
}

/// The bracket that ends what was opened, quotes and inner brackets aside.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0, None);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(at),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn bracket(text: &str) -> Option<Step> {
    if text == "*" {
        return Some(Step::All);
    }
    if let Some(inner) = text.strip_prefix("?(").and_then(|t| t.strip_suffix(')')) {
        let inner = inner.trim().strip_prefix('@')?;
        let operators = ["==", "!=", "<=", ">=", "<", ">"];
        let split = operators
            .iter()
            .filter_map(|o| inner.find(o).map(|at| (at, *o)))
            .min();
        let Some((at, operator)) = split else {
            return Some(Step::Filter {
                path: steps(inner.trim())?,
                operator: String::new(),
                literal: Value::Null,
            });
        };
        let literal = literal(inner[at + operator.len()..].trim());
        return Some(Step::Filter {
            path: steps(inner[..at].trim())?,
            operator: operator.into(),
            literal,
        });
    }
    let quoted = |q: char| text.strip_prefix(q).and_then(|t| t.strip_suffix(q));
    if let Some(name) = quoted('\'').or(quoted('"')) {
        return Some(Step::Field(name.into()));
    }
    text.parse().ok().map(Step::Index)
}

fn literal(text: &str) -> Value {
    let quoted = |q: char| text.strip_prefix(q).and_then(|t| t.strip_suffix(q));
    match quoted('\'').or(quoted('"')) {
        Some(own) => own.into(),
        None => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_lead_to_values() {
        let object = json!({"spec": {"size": 3, "a.b": "dot", "list": [{"t": "x", "n": 1}, {"t": "y", "n": 2}]},
                            "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        for (path, expect) in [
            (".spec.size", json!([3])),
            ("spec.size", json!([3])),
            ("{.spec.size}", json!([3])),
            (".spec['a.b']", json!(["dot"])),
            (r".spec.a\.b", json!(["dot"])),
            (".spec.list[1].t", json!(["y"])),
            (".spec.list[-1].t", json!(["y"])),
            (".spec.list[*].n", json!([1, 2])),
            ("..n", json!([1, 2])),
            (
                ".status.conditions[?(@.type==\"Ready\")].status",
                json!(["True"]),
            ),
            (".status.conditions[?(@.type=='No')].status", json!([])),
            (".spec.list[?(@.n>1)].t", json!(["y"])),
            (".nothing.at.all", json!([])),
        ] {
            let own = JsonPath::parse(path).expect(path);
            assert_eq!(json!(own.find(&object)), expect, "{path}");
        }
        assert!(JsonPath::parse(".a[").is_err());
        assert!(JsonPath::parse(".a[x]").is_err());
    }
}
