//! CEL rules of a custom resource's schema: compiled once, judged with every write.
//!
//! A rule stands at a node of the schema and sees the values there as `self`, and on updates what
//! was there before as `oldSelf`. All rules of one object share a budget.

mod cost;
mod limits;
mod naming;
mod sizes;

use std::collections::BTreeMap;

use serde_json::Value;

use crate::cel::{Activation, CelValue, Environment, EvaluationError, Expression, typed_text};
use crate::response::Cause;

pub(super) use self::limits::{Limits, TotalCost, judge};

const RULES: &str = "x-kubernetes-validations";
/// The longest message that an expression may make, in bytes.
const MAX_MESSAGE: usize = 5 * 1024;

/// The rules of one node of a schema and below.
#[derive(Debug, Default)]
pub(super) struct Rules {
    own: Vec<Rule>,
    properties: BTreeMap<String, Rules>,
    items: Option<Box<Rules>>,
    entries: Option<Box<Rules>>,
}

#[derive(Debug)]
struct Rule {
    rule: Expression,
    message: String,
    message_expression: Option<Expression>,
    reason: String,
    field_path: String,
    /// `oldSelf` is an optional value, and the rule holds for creations too.
    optional_old: bool,
    is_transition: bool,
}

/// What expressions of a schema see.
pub(super) fn environment() -> Environment {
    Environment::new(&["self", "oldSelf"])
}

impl Rules {
    /// `None` where there are no rules. What does not compile was refused with the definition.
    pub(super) fn compile(schema: &Value) -> Option<Self> {
        let listed = schema[RULES].as_array().into_iter().flatten();
        let properties = schema["properties"].as_object().into_iter().flatten();
        let below = |schema: &Value| {
            let made = schema.is_object().then(|| Rules::compile(schema))?;
            made.map(Box::new)
        };
        let rules = Rules {
            own: listed.filter_map(Rule::compile).collect(),
            properties: properties
                .filter_map(|(name, own)| Some((name.clone(), Rules::compile(own)?)))
                .collect(),
            items: below(&schema["items"]),
            entries: below(&schema["additionalProperties"]),
        };
        let empty = rules.own.is_empty()
            && rules.properties.is_empty()
            && rules.items.is_none()
            && rules.entries.is_none();
        (!empty).then_some(rules)
    }

    /// What the rules find wrong with an object.
    pub(super) fn check(
        &self,
        schema: &Value,
        new: &Value,
        old: Option<&Value>,
        causes: &mut Vec<Cause>,
    ) {
        let mut judge = Judge {
            activation: Activation::default(),
            causes,
        };
        // Whoever is out of budget has been told so.
        let _ = judge.node(self, schema, new, old, "");
    }
}

impl Rule {
    fn compile(declared: &Value) -> Option<Self> {
        let text = |key: &str| declared[key].as_str().unwrap_or_default().to_owned();
        let rule = Expression::compile(&text("rule"), &environment()).ok()?;
        let message = text("messageExpression");
        Some(Rule {
            is_transition: rule.mentions("oldSelf"),
            rule,
            message: text("message").trim().to_owned(),
            message_expression: (!message.is_empty())
                .then(|| Expression::compile(&message, &environment()).ok())
                .flatten(),
            reason: text("reason"),
            field_path: text("fieldPath"),
            optional_old: declared["optionalOldSelf"] == true,
        })
    }

    /// As upstream names a rule in messages.
    fn shown(&self) -> &str {
        if self.message.is_empty() {
            self.rule.source().trim()
        } else {
            &self.message
        }
    }
}

struct Judge<'a, 'c> {
    activation: Activation<'a>,
    causes: &'c mut Vec<Cause>,
}

/// Nothing more is evaluated for this object.
struct OutOfBudget;

impl Judge<'_, '_> {
    fn node(
        &mut self,
        rules: &Rules,
        schema: &Value,
        new: &Value,
        old: Option<&Value>,
        path: &str,
    ) -> Result<(), OutOfBudget> {
        if new.is_null() {
            return Ok(());
        }
        self.own(rules, schema, new, old, path)?;
        let within = |key: &str| {
            let old = old.and_then(|o| o.get(key));
            new.get(key).map(|new| (new, old))
        };
        for (name, below) in &rules.properties {
            if let Some((new, old)) = within(name) {
                let path = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                self.node(below, &schema["properties"][name], new, old, &path)?;
            }
        }
        if let (Some(below), Some(map)) = (&rules.entries, new.as_object()) {
            for (key, new) in map {
                let old = old.and_then(|o| o.get(key));
                let path = format!("{path}[{key}]");
                self.node(below, &schema["additionalProperties"], new, old, &path)?;
            }
        }
        if let (Some(below), Some(items)) = (&rules.items, new.as_array()) {
            for (i, new) in items.iter().enumerate() {
                let old = same_item(schema, new, old);
                let path = format!("{path}[{i}]");
                self.node(below, &schema["items"], new, old, &path)?;
            }
        }
        Ok(())
    }

    fn own(
        &mut self,
        rules: &Rules,
        schema: &Value,
        new: &Value,
        old: Option<&Value>,
        path: &str,
    ) -> Result<(), OutOfBudget> {
        if rules.own.is_empty() {
            return Ok(());
        }
        self.activation.set("self", value(schema, new));
        let before = old.map(|old| value(schema, old));
        for rule in &rules.own {
            if rule.is_transition && before.is_none() && !rule.optional_old {
                continue;
            }
            // What an update leaves alone is not held against it.
            if !rule.is_transition && old == Some(new) {
                continue;
            }
            let seen = match (&before, rule.optional_old) {
                (known, true) => Some(crate::cel::optional(known.clone())),
                (Some(known), false) => Some(known.clone()),
                (None, false) => None,
            };
            match seen {
                Some(seen) => self.activation.set("oldSelf", seen),
                None => self.activation.unset("oldSelf"),
            }
            self.rule(rule, path)?;
        }
        Ok(())
    }

    fn rule(&mut self, rule: &Rule, path: &str) -> Result<(), OutOfBudget> {
        match rule.rule.evaluate(&self.activation) {
            Ok(CelValue::Bool(true)) => Ok(()),
            Ok(_) => {
                let cause = self.refusal(rule, path);
                self.causes.push(cause);
                Ok(())
            }
            Err(error) => {
                let shown = rule.shown();
                let (text, done) = match error {
                    EvaluationError::OverBudget => (
                        format!(
                            "'{error}': no further validation rules will be run due to call cost exceeds limit for rule: {shown}"
                        ),
                        Err(OutOfBudget),
                    ),
                    EvaluationError::NoSuchOverload => (
                        format!(
                            "'{error}': call arguments did not match a supported operator, function or macro signature for rule: {shown}"
                        ),
                        Ok(()),
                    ),
                    _ => (format!("{error} evaluating rule: {shown}"), Ok(())),
                };
                let text = format!("Invalid value: {text}");
                self.causes
                    .push(Cause::new("FieldValueInvalid", text, field(path)));
                done
            }
        }
    }

    fn refusal(&self, rule: &Rule, path: &str) -> Cause {
        let default = if rule.message.is_empty() {
            format!("failed rule: {}", rule.shown())
        } else {
            rule.message.clone()
        };
        let message = self.message(rule).unwrap_or(default);
        let path = field(&pointed(path, &rule.field_path)).to_owned();
        let (reason, text) = match rule.reason.as_str() {
            "FieldValueForbidden" => ("FieldValueForbidden", format!("Forbidden: {message}")),
            "FieldValueRequired" => ("FieldValueRequired", format!("Required value: {message}")),
            "FieldValueDuplicate" => ("FieldValueDuplicate", format!("Duplicate value: {message}")),
            _ => ("FieldValueInvalid", format!("Invalid value: {message}")),
        };
        Cause::new(reason, text, path)
    }

    /// What the message's expression says, if it says something that can be shown.
    fn message(&self, rule: &Rule) -> Option<String> {
        let made = rule.message_expression.as_ref()?.evaluate(&self.activation);
        let Ok(CelValue::String(text)) = made else {
            return None;
        };
        let text = text.trim();
        let usable = !text.is_empty() && !text.contains('\n') && text.len() <= MAX_MESSAGE;
        usable.then(|| text.to_owned())
    }
}

fn field(path: &str) -> &str {
    if path.is_empty() { "<nil>" } else { path }
}

/// The path of a rule with the one that it names below it: `.a.b` or `['c-d']`.
fn pointed(path: &str, below: &str) -> String {
    let below = below.replace("['", "[").replace("']", "]");
    let joined = format!("{path}{below}");
    joined.trim_start_matches('.').to_owned()
}

/// The item of the old list that this one was: told by keys, in lists that have them.
fn same_item<'o>(schema: &Value, item: &Value, old: Option<&'o Value>) -> Option<&'o Value> {
    if schema["x-kubernetes-list-type"] != "map" {
        return None;
    }
    let keys = schema["x-kubernetes-list-map-keys"].as_array()?;
    let same = |other: &&Value| {
        keys.iter()
            .filter_map(Value::as_str)
            .all(|key| other[key] == item[key])
    };
    old?.as_array()?.iter().find(same)
}

/// A value as expressions see it: fields by their escaped names, texts of some formats as what
/// they stand for.
fn value(schema: &Value, json: &Value) -> CelValue {
    match json {
        Value::Object(map) => {
            let entries = &schema["additionalProperties"];
            let properties = schema["properties"].as_object();
            crate::cel::map(map.iter().map(|(name, inner)| {
                match properties.and_then(|p| p.get(name)) {
                    Some(own) => (naming::escape(name), value(own, inner)),
                    None if entries.is_object() => (name.clone(), value(entries, inner)),
                    None => (naming::escape(name), crate::cel::from_json(inner)),
                }
            }))
        }
        Value::Array(items) => {
            let own = &schema["items"];
            crate::cel::list(items.iter().map(|item| value(own, item)))
        }
        Value::Number(number) if schema["type"] == "number" => {
            CelValue::Float(number.as_f64().unwrap_or(f64::NAN))
        }
        Value::String(text) => schema["format"]
            .as_str()
            .and_then(|format| typed_text(format, text))
            .unwrap_or_else(|| crate::cel::from_json(json)),
        other => crate::cel::from_json(other),
    }
}

#[cfg(test)]
mod tests;
