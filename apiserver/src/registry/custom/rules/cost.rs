//! The worst that a rule can cost, estimated from the schema before any object is there.
//!
//! The model is that of upstream's estimator: one unit for a name or a selection, a tenth of a unit
//! for each byte of a text that is walked, the product of range and step for a loop. Where a
//! function is not known to cost more, it costs one.
//!
//! Walking the expression beside the schema also shows fields that no object can have.

use kube_cel::cel::common::ast::operators as op;
use kube_cel::cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue,
};
use serde_json::Value;

use super::naming::unescape;
use super::sizes::max_elements;

const TEXT: f64 = 0.1;
const REGEX: f64 = 0.25;
const LIST: u64 = 10;
const MAP: u64 = 30;

/// What an expression costs at most, and what is known of its value.
#[derive(Debug, Clone)]
struct Estimate<'a> {
    cost: u64,
    kind: Kind<'a>,
    size: Option<u64>,
}

#[derive(Debug, Clone)]
enum Kind<'a> {
    /// A value that the schema describes.
    Schema(&'a Value),
    Text,
    /// Numbers, booleans, times: of size one.
    Scalar,
    List(Box<Kind<'a>>),
    Unknown,
}

/// The estimate of a rule, and the first field that it selects although there is none.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Judged {
    pub(super) cost: u64,
    pub(super) undefined: Option<String>,
}

/// Estimates an expression over `self` (and `oldSelf`) of this schema.
pub(super) fn estimate(tree: &IdedExpr, schema: &Value) -> Judged {
    let mut walk = Walk {
        schema,
        bound: Vec::new(),
        undefined: None,
    };
    let cost = walk.visit(tree).cost;
    Judged {
        cost,
        undefined: walk.undefined,
    }
}

struct Walk<'a> {
    schema: &'a Value,
    bound: Vec<(String, Estimate<'a>)>,
    undefined: Option<String>,
}

impl<'a> Estimate<'a> {
    fn of(cost: u64, kind: Kind<'a>) -> Self {
        Estimate {
            cost,
            kind,
            size: None,
        }
    }

    fn sized(self, size: u64) -> Self {
        Estimate {
            size: Some(size),
            ..self
        }
    }

    /// What is not known is not held against a rule: the budget bounds it when it runs.
    fn size(&self) -> u64 {
        match (self.size, &self.kind) {
            (Some(size), _) => size,
            (None, Kind::Schema(schema)) => max_elements(schema),
            (None, _) => 1,
        }
    }

    /// The kind of the elements of a list, of the keys of a map, in a loop.
    fn elements(&self) -> Kind<'a> {
        match &self.kind {
            Kind::List(inner) => (**inner).clone(),
            Kind::Schema(schema) if schema["items"].is_object() => Kind::Schema(&schema["items"]),
            Kind::Schema(schema) if schema["type"] == "object" => Kind::Text,
            _ => Kind::Unknown,
        }
    }

    /// The kind of what an index leads to.
    fn entries(&self) -> Kind<'a> {
        match &self.kind {
            Kind::Schema(schema) if schema["additionalProperties"].is_object() => {
                Kind::Schema(&schema["additionalProperties"])
            }
            _ => self.elements(),
        }
    }

    fn is_text(&self) -> bool {
        match &self.kind {
            Kind::Text => true,
            Kind::Schema(schema) => schema["type"] == "string",
            _ => false,
        }
    }

    fn is_list(&self) -> bool {
        match &self.kind {
            Kind::List(_) => true,
            Kind::Schema(schema) => schema["type"] == "array",
            _ => false,
        }
    }

    /// Whether it is known to be something else than a text or a list.
    fn is_plain(&self) -> bool {
        match &self.kind {
            Kind::Scalar => true,
            Kind::Schema(schema) => {
                matches!(
                    schema["type"].as_str(),
                    Some("integer" | "number" | "boolean")
                )
            }
            _ => false,
        }
    }
}

/// A part of a size, rounded up.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an estimate; what is too large for it saturates"
)]
fn part(size: u64, factor: f64) -> u64 {
    (size as f64 * factor).ceil() as u64
}

impl<'a> Walk<'a> {
    fn visit(&mut self, e: &IdedExpr) -> Estimate<'a> {
        match &e.expr {
            Expr::Literal(literal) => constant(literal),
            Expr::Ident(name) => self.name(name),
            Expr::Select(select) => {
                let operand = self.visit(&select.operand);
                let kind = self.field(&operand, &select.field);
                // A test of presence costs nothing of its own.
                let cost = operand.cost.saturating_add(u64::from(!select.test));
                if select.test {
                    return Estimate::of(operand.cost, Kind::Scalar);
                }
                Estimate::of(cost, kind)
            }
            Expr::Call(call) => self.call(call),
            Expr::List(list) => {
                let mut cost = LIST;
                let mut kind = Kind::Unknown;
                for element in &list.elements {
                    let own = self.visit(element);
                    cost = cost.saturating_add(own.cost);
                    kind = own.kind;
                }
                let size = list.elements.len() as u64;
                Estimate::of(cost, Kind::List(Box::new(kind))).sized(size)
            }
            Expr::Map(map) => self.entries(MAP, map.entries.iter().map(|e| &e.expr)),
            Expr::Struct(object) => self.entries(MAP, object.entries.iter().map(|e| &e.expr)),
            Expr::Comprehension(loops) => self.comprehension(loops),
            Expr::Unspecified => Estimate::of(0, Kind::Unknown),
        }
    }

    fn name(&self, name: &str) -> Estimate<'a> {
        let bound = self.bound.iter().rev().find(|(own, _)| own == name);
        if let Some((_, known)) = bound {
            return Estimate {
                cost: 1,
                ..known.clone()
            };
        }
        match name {
            "self" | "oldSelf" => Estimate::of(1, Kind::Schema(self.schema)),
            _ => Estimate::of(1, Kind::Unknown),
        }
    }

    fn field(&mut self, operand: &Estimate<'a>, name: &str) -> Kind<'a> {
        let Kind::Schema(schema) = operand.kind else {
            return Kind::Unknown;
        };
        if schema["additionalProperties"].is_object() {
            return Kind::Schema(&schema["additionalProperties"]);
        }
        let own = unescape(name);
        let Some(properties) = schema["properties"].as_object() else {
            return Kind::Unknown;
        };
        if let Some(field) = properties.get(&own) {
            return Kind::Schema(field);
        }
        // Every object has these, declared or not.
        let implied = matches!(own.as_str(), "apiVersion" | "kind" | "metadata");
        let open = schema["x-kubernetes-preserve-unknown-fields"] == true;
        if schema["type"] == "object" && !implied && !open && self.undefined.is_none() {
            self.undefined = Some(name.to_owned());
        }
        Kind::Unknown
    }

    fn entries<'e>(
        &mut self,
        base: u64,
        entries: impl Iterator<Item = &'e EntryExpr>,
    ) -> Estimate<'a> {
        let (mut cost, mut count) = (base, 0);
        for entry in entries {
            count += 1;
            match entry {
                EntryExpr::StructField(field) => {
                    cost = cost.saturating_add(self.visit(&field.value).cost);
                }
                EntryExpr::MapEntry(entry) => {
                    cost = cost.saturating_add(self.visit(&entry.key).cost);
                    cost = cost.saturating_add(self.visit(&entry.value).cost);
                }
            }
        }
        Estimate::of(cost, Kind::Unknown).sized(count)
    }

    fn comprehension(&mut self, c: &ComprehensionExpr) -> Estimate<'a> {
        let range = self.visit(&c.iter_range);
        let start = self.visit(&c.accu_init);
        let size = range.size();
        let element = Estimate::of(1, range.elements());
        let collects = matches!(c.accu_init.expr, Expr::List(_));
        let before = self.bound.len();
        self.bound.push((c.accu_var.clone(), start.clone()));
        self.bound.push((c.iter_var.clone(), element.clone()));
        if let Some(second) = &c.iter_var2 {
            let entry = Estimate::of(1, range.entries());
            self.bound.push((second.clone(), entry));
        }
        let condition = self.visit(&c.loop_cond).cost;
        let step = self.visit(&c.loop_step);
        self.bound.truncate(before + 1);
        let result = self.visit(&c.result);
        self.bound.truncate(before);
        let loops = size.saturating_mul(condition.saturating_add(step.cost));
        let cost = [range.cost, start.cost, result.cost, loops]
            .into_iter()
            .fold(0, u64::saturating_add);
        if collects {
            return Estimate::of(cost, Kind::List(Box::new(element.kind))).sized(size);
        }
        Estimate::of(cost, Kind::Scalar)
    }

    fn call(&mut self, call: &CallExpr) -> Estimate<'a> {
        if let Some(made) = self.bound_loop(call) {
            return made;
        }
        let target = call.target.as_deref().map(|t| self.visit(t));
        let args: Vec<Estimate<'a>> = call.args.iter().map(|a| self.visit(a)).collect();
        let before = target
            .iter()
            .chain(&args)
            .fold(0u64, |sum, e| sum.saturating_add(e.cost));
        let made = match (call.func_name.as_str(), args.as_slice()) {
            // Both sides in the worst case, and nothing of its own.
            (op::LOGICAL_AND | op::LOGICAL_OR, _) => Estimate::of(0, Kind::Scalar),
            (op::CONDITIONAL, [_, yes, no]) => {
                let chosen = if yes.size() > no.size() { yes } else { no };
                // Only one of them is evaluated.
                let cost = before - yes.cost.min(no.cost);
                return Estimate {
                    cost,
                    kind: chosen.kind.clone(),
                    size: Some(chosen.size()),
                };
            }
            (op::OPT_SELECT, [operand, _]) => {
                let kind = match &call.args[1].expr {
                    Expr::Literal(LiteralValue::String(name)) => self.field(operand, name.inner()),
                    _ => Kind::Unknown,
                };
                Estimate::of(1, kind)
            }
            (name, _) => function(name, target.as_ref(), &args),
        };
        Estimate {
            cost: before.saturating_add(made.cost),
            ..made
        }
    }

    /// Macros that the parser leaves as calls: the names they bind are their first arguments.
    fn bound_loop(&mut self, call: &CallExpr) -> Option<Estimate<'a>> {
        let names = match (call.func_name.as_str(), call.args.len()) {
            ("optMap" | "optFlatMap", 2) => 1,
            ("all" | "exists" | "existsOne" | "exists_one", 3)
            | ("transformList" | "transformMap" | "transformMapEntry", 3 | 4) => 2,
            _ => return None,
        };
        let range = self.visit(call.target.as_deref()?);
        let before = self.bound.len();
        for (at, arg) in call.args.iter().take(names).enumerate() {
            if let Expr::Ident(name) = &arg.expr {
                let kind = match (names, at) {
                    (1, _) => range.kind.clone(),
                    (_, 0) if range.is_list() => Kind::Scalar,
                    (_, 0) => range.elements(),
                    _ => range.entries(),
                };
                self.bound.push((name.clone(), Estimate::of(1, kind)));
            }
        }
        let bodies = call.args[names..].iter();
        let step = bodies.fold(0u64, |sum, b| sum.saturating_add(self.visit(b).cost));
        self.bound.truncate(before);
        let times = if names == 1 { 1 } else { range.size() };
        let cost = range
            .cost
            .saturating_add(times.saturating_mul(step.saturating_add(3)));
        Some(if names == 1 {
            Estimate::of(cost, Kind::Unknown)
        } else {
            Estimate::of(cost, Kind::List(Box::new(Kind::Unknown))).sized(times)
        })
    }
}

fn constant<'a>(literal: &LiteralValue) -> Estimate<'a> {
    match literal {
        LiteralValue::String(text) => {
            Estimate::of(0, Kind::Text).sized(text.inner().chars().count() as u64)
        }
        LiteralValue::Bytes(bytes) => Estimate::of(0, Kind::Text).sized(bytes.inner().len() as u64),
        _ => Estimate::of(0, Kind::Scalar).sized(1),
    }
}

/// What a function costs beyond its arguments, and what it returns.
fn function<'a>(name: &str, target: Option<&Estimate<'a>>, args: &[Estimate<'a>]) -> Estimate<'a> {
    let one = |kind| Estimate::of(1, kind);
    match (name, target, args) {
        (op::EQUALS | op::NOT_EQUALS, _, [a, b]) => {
            Estimate::of(part(a.size().min(b.size()), TEXT), Kind::Scalar)
        }
        (op::LESS | op::LESS_EQUALS | op::GREATER | op::GREATER_EQUALS, _, [a, b]) => {
            let walked = !a.is_plain() && !b.is_plain() && (a.is_text() || b.is_text());
            let size = a.size().min(b.size());
            Estimate::of(if walked { part(size, TEXT) } else { 1 }, Kind::Scalar)
        }
        (op::ADD, _, [a, b]) => addition(a, b),
        (op::IN, _, [_, b]) => {
            let cost = if b.is_list() { b.size() } else { 1 };
            Estimate::of(cost, Kind::Scalar)
        }
        (op::INDEX | op::OPT_INDEX, _, [a, _]) => one(a.entries()),
        // What an optional value holds is as large as the value that it was made of.
        ("value" | "orValue" | "or" | "sort" | "distinct" | "reverse" | "slice", Some(held), _) => {
            let size = args.iter().map(Estimate::size).fold(held.size(), u64::max);
            one(held.kind.clone()).sized(size)
        }
        ("matches" | "find" | "findAll", Some(text), [pattern, ..]) => {
            let walked = part(text.size().saturating_add(1), TEXT);
            let cost = walked.saturating_mul(part(pattern.size(), REGEX));
            let kind = match name {
                "matches" => Kind::Scalar,
                "find" => Kind::Text,
                _ => Kind::List(Box::new(Kind::Text)),
            };
            let found = Estimate::of(cost, kind);
            if name == "matches" {
                found
            } else {
                found.sized(text.size())
            }
        }
        ("contains", Some(text), [inner]) => {
            let cost = part(text.size(), TEXT).saturating_mul(part(inner.size(), TEXT));
            Estimate::of(cost, Kind::Scalar)
        }
        ("startsWith" | "endsWith", Some(_), [end]) => {
            Estimate::of(part(end.size(), TEXT), Kind::Scalar)
        }
        ("lowerAscii" | "upperAscii" | "trim" | "substring" | "charAt", Some(text), _) => {
            Estimate::of(part(text.size(), TEXT), Kind::Text).sized(text.size())
        }
        ("replace", Some(text), [_, with, ..]) => {
            let size = text.size().saturating_mul(with.size().max(1));
            Estimate::of(part(text.size(), TEXT), Kind::Text).sized(size)
        }
        ("split", Some(text), _) => {
            let made = Estimate::of(part(text.size(), TEXT), Kind::List(Box::new(Kind::Text)));
            made.sized(text.size())
        }
        ("join", Some(list), _) => {
            let inner = Estimate::of(0, list.elements()).size();
            let size = list.size().saturating_mul(inner);
            Estimate::of(part(size, TEXT), Kind::Text).sized(size)
        }
        ("isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf", Some(list), _)
            if list.is_list() =>
        {
            Estimate::of(list.size(), list.elements())
        }
        ("contains" | "equivalent" | "intersects", _, [a, b]) => {
            Estimate::of(a.size().saturating_mul(b.size()), Kind::Scalar)
        }
        ("bytes" | "string", _, [value]) if value.is_text() => {
            Estimate::of(part(value.size(), TEXT), Kind::Text).sized(value.size())
        }
        (
            "url" | "isURL" | "quantity" | "isQuantity" | "ip" | "isIP" | "cidr" | "isCIDR",
            _,
            [value],
        ) => Estimate::of(part(value.size(), TEXT), Kind::Scalar),
        // The conversions of the language itself count as one step, however long the text.
        ("timestamp" | "duration", ..) => one(Kind::Scalar),
        _ => one(Kind::Unknown),
    }
}

fn addition<'a>(a: &Estimate<'a>, b: &Estimate<'a>) -> Estimate<'a> {
    let size = a.size().saturating_add(b.size());
    if a.is_list() || b.is_list() {
        return Estimate::of(1, Kind::List(Box::new(a.elements()))).sized(size);
    }
    if a.is_text() || b.is_text() {
        return Estimate::of(part(size, TEXT), Kind::Text).sized(size);
    }
    Estimate::of(1, Kind::Scalar)
}
