//! The limits of rules' estimated costs, and what is told of a schema that exceeds them.

use serde_json::Value;

use super::cost::estimate;
use super::sizes::most;
use crate::cel::Expression;

/// For one expression.
const EXPRESSION: u64 = 10_000_000;
/// For all expressions of a schema.
const SCHEMA: u64 = 100_000_000;
/// The most expensive ones, which are named when the sum is too much.
const NAMED: usize = 4;

/// How often a node can be there in one object: `None` when the schema does not limit it.
#[derive(Debug, Clone, Copy)]
pub(in crate::registry::custom) struct Limits(Option<u64>);

impl Limits {
    pub(in crate::registry::custom) fn root() -> Self {
        Limits(Some(1))
    }

    /// Of what stands at `below` in a node.
    pub(in crate::registry::custom) fn below(self, schema: &Value, below: &str) -> Self {
        let times = match below {
            "items" => schema["maxItems"].as_u64(),
            "additionalProperties" => schema["maxProperties"].as_u64(),
            _ => Some(1),
        };
        Limits(
            self.0
                .zip(times)
                .map(|(own, times)| own.saturating_mul(times)),
        )
    }
}

/// What the expressions of a schema cost together.
#[derive(Debug, Default)]
pub(in crate::registry::custom) struct TotalCost {
    sum: u64,
    expensive: Vec<(u64, String)>,
}

impl TotalCost {
    /// Counts an expression. The fault is what is wrong with it: it costs too much.
    pub(in crate::registry::custom) fn observe(
        &mut self,
        what: &str,
        path: &str,
        cost: u64,
    ) -> Option<String> {
        self.sum = self.sum.saturating_add(cost);
        self.expensive.push((cost, path.to_owned()));
        self.expensive.sort_by(|(a, _), (b, _)| b.cmp(a));
        self.expensive.truncate(NAMED);
        exceeded(&format!("estimated {what} cost"), cost, EXPRESSION)
    }

    /// The faults of the schema as a whole: path and text. `path` is the schema's.
    pub(in crate::registry::custom) fn faults(self, path: &str) -> Vec<(String, String)> {
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        let Some(whole) = exceeded(what, self.sum, SCHEMA) else {
            return Vec::new();
        };
        let each = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
        let named = self.expensive.into_iter();
        let mut faults: Vec<_> = named.map(|(_, path)| (path, each.to_owned())).collect();
        faults.push((path.to_owned(), whole));
        faults
    }
}

/// What a rule costs at most in one object, and a field that it selects although there is none.
pub(in crate::registry::custom) fn judge(
    rule: &Expression,
    schema: &Value,
    limits: Limits,
) -> (u64, Option<String>) {
    let judged = estimate(rule.tree(), schema);
    let times = limits.0.unwrap_or_else(|| most(schema));
    (judged.cost.saturating_mul(times), judged.undefined)
}

fn exceeded(what: &str, cost: u64, limit: u64) -> Option<String> {
    if cost <= limit {
        return None;
    }
    #[expect(clippy::cast_precision_loss, reason = "a factor for people to read")]
    let factor = cost as f64 / limit as f64;
    let shown = if factor > 100.0 {
        "more than 100x".to_owned()
    } else if factor < 1.5 {
        // No factor of 1.0.
        format!("{factor:.6}x")
    } else {
        format!("{factor:.1}x")
    };
    Some(format!(
        "{what} exceeds budget by factor of {shown} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    ))
}
