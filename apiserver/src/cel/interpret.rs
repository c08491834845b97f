//! The interpreter: a walk over the expression's tree.

use std::collections::HashMap;
use std::sync::Arc;

use kube_cel::cel::common::ast::operators as op;
use kube_cel::cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedEntryExpr, IdedExpr, ListExpr, LiteralValue,
};
use kube_cel::cel::objects::{Key, Map};

use super::values::{as_optional, key, sorted_keys, string, weight};
use super::{Activation, CelValue, EvaluationError, functions, macros, operators};

pub(super) type Outcome = Result<CelValue, EvaluationError>;

/// Names that comprehensions bind, innermost first.
pub(super) struct Locals<'a> {
    pub(super) outer: Option<&'a Locals<'a>>,
    pub(super) bound: Vec<(&'a str, CelValue)>,
}

impl<'a> Locals<'a> {
    fn find(&self, name: &str) -> Option<&CelValue> {
        let own = self.bound.iter().rev().find(|(n, _)| *n == name);
        own.map(|(_, value)| value)
            .or_else(|| self.outer.and_then(|outer| outer.find(name)))
    }

    pub(super) fn set(&mut self, name: &'a str, value: CelValue) {
        match self.bound.iter_mut().find(|(n, _)| *n == name) {
            Some((_, old)) => *old = value,
            None => self.bound.push((name, value)),
        }
    }

    /// Takes a value out, so that it has one owner while it grows.
    fn take(&mut self, name: &str) -> Option<CelValue> {
        let at = self.bound.iter().position(|(n, _)| *n == name)?;
        Some(std::mem::replace(&mut self.bound[at].1, CelValue::Null))
    }
}

const NONE: &Locals<'static> = &Locals {
    outer: None,
    bound: Vec::new(),
};

pub(super) fn evaluate(tree: &IdedExpr, activation: &Activation<'_>) -> Outcome {
    Interpreter { activation }.value(tree, NONE)
}

pub(super) struct Interpreter<'a> {
    pub(super) activation: &'a Activation<'a>,
}

impl Interpreter<'_> {
    pub(super) fn charge(&self, cost: u64) -> Result<(), EvaluationError> {
        self.activation.budget.charge(cost)
    }

    pub(super) fn value(&self, expression: &IdedExpr, locals: &Locals<'_>) -> Outcome {
        self.charge(1)?;
        match &expression.expr {
            Expr::Literal(literal) => Ok(constant(literal)),
            Expr::Ident(name) => self.name(name, locals),
            Expr::Select(select) => {
                if let Some(value) = self.composed(&select.operand, &select.field, locals) {
                    return if select.test {
                        value.map(|_| CelValue::Bool(true))
                    } else {
                        value
                    };
                }
                let operand = self.value(&select.operand, locals)?;
                if select.test {
                    operators::has(&operand, &select.field)
                } else {
                    operators::select(&operand, &select.field)
                }
            }
            Expr::Call(call) => self.call(call, locals),
            Expr::List(list) => self.list(list, locals),
            Expr::Map(map) => self.entries(&map.entries, locals),
            Expr::Struct(object) => self.entries(&object.entries, locals),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension, locals),
            Expr::Unspecified => Err(EvaluationError::NoSuchOverload),
        }
    }

    fn name(&self, name: &str, locals: &Locals<'_>) -> Outcome {
        if let Some(value) = locals.find(name) {
            return Ok(value.clone());
        }
        if let Some(value) = self.activation.variable(name) {
            return Ok(value.clone());
        }
        functions::type_named(name).ok_or_else(|| EvaluationError::NoSuchVariable(name.to_owned()))
    }

    /// `variables.field`
    fn composed(&self, operand: &IdedExpr, field: &str, locals: &Locals<'_>) -> Option<Outcome> {
        match &operand.expr {
            Expr::Ident(name) if locals.find(name).is_some() => None,
            Expr::Ident(name) if name == "variables" => self.activation.composed(field),
            // One variable with a dot in its name.
            Expr::Ident(name) if name == "authorizer" && field == "requestResource" => {
                let value = self.activation.variable("authorizer.requestResource");
                value.cloned().map(Ok)
            }
            _ => None,
        }
    }

    /// Whether the name is bound to a value, so that it is not the first half of a function's.
    pub(super) fn is_value(&self, name: &str, locals: &Locals<'_>) -> bool {
        locals.find(name).is_some() || self.activation.variable(name).is_some()
    }

    fn call(&self, call: &CallExpr, locals: &Locals<'_>) -> Outcome {
        match (call.func_name.as_str(), call.args.as_slice()) {
            (op::LOGICAL_AND, [a, b]) => self.decide(a, b, false, locals),
            (op::LOGICAL_OR, [a, b]) => self.decide(a, b, true, locals),
            (op::CONDITIONAL, [condition, yes, no]) => match self.value(condition, locals)? {
                CelValue::Bool(true) => self.value(yes, locals),
                CelValue::Bool(false) => self.value(no, locals),
                _ => Err(EvaluationError::NoSuchOverload),
            },
            (op::NOT_STRICTLY_FALSE, [a]) => match self.value(a, locals) {
                Ok(CelValue::Bool(false)) => Ok(CelValue::Bool(false)),
                Err(EvaluationError::OverBudget) => Err(EvaluationError::OverBudget),
                _ => Ok(CelValue::Bool(true)),
            },
            (op::LOGICAL_NOT, [a]) => match self.value(a, locals)? {
                CelValue::Bool(value) => Ok(CelValue::Bool(!value)),
                _ => Err(EvaluationError::NoSuchOverload),
            },
            (op::NEGATE, [a]) => operators::negate(self.value(a, locals)?),
            (operator, [a, b]) if is_binary(operator) => {
                let (a, b) = (self.value(a, locals)?, self.value(b, locals)?);
                self.binary(operator, a, b)
            }
            _ => match macros::expand(self, call, locals) {
                Some(value) => value,
                None => functions::call(self, call, locals),
            },
        }
    }

    /// `&&` and `||`: one side may decide although the other has no value.
    fn decide(&self, a: &IdedExpr, b: &IdedExpr, decisive: bool, locals: &Locals<'_>) -> Outcome {
        let first = self.value(a, locals);
        match first {
            Ok(CelValue::Bool(value)) if value == decisive => return Ok(CelValue::Bool(value)),
            Err(EvaluationError::OverBudget) => return first,
            _ => {}
        }
        let second = self.value(b, locals);
        match (first, second) {
            (_, Ok(CelValue::Bool(value))) if value == decisive => Ok(CelValue::Bool(value)),
            (Ok(CelValue::Bool(_)), Ok(CelValue::Bool(value))) => Ok(CelValue::Bool(value)),
            (_, Err(EvaluationError::OverBudget)) => Err(EvaluationError::OverBudget),
            (Err(error), _) | (_, Err(error)) => Err(error),
            _ => Err(EvaluationError::NoSuchOverload),
        }
    }

    fn binary(&self, operator: &str, a: CelValue, b: CelValue) -> Outcome {
        match operator {
            op::EQUALS | op::NOT_EQUALS => {
                self.charge(weight(&a).min(weight(&b)))?;
                Ok(CelValue::Bool((a == b) == (operator == op::EQUALS)))
            }
            op::LESS | op::LESS_EQUALS | op::GREATER | op::GREATER_EQUALS => {
                operators::compare(operator, &a, &b)
            }
            op::IN => {
                self.charge(weight(&b))?;
                operators::contains(&a, &b)
            }
            op::INDEX => operators::index(&a, &b),
            op::OPT_INDEX | op::OPT_SELECT => operators::optional_index(&a, &b),
            _ => {
                self.charge(weight(&a) + weight(&b))?;
                operators::arithmetic(operator, a, b)
            }
        }
    }

    fn list(&self, list: &ListExpr, locals: &Locals<'_>) -> Outcome {
        let mut items = Vec::with_capacity(list.elements.len());
        for (at, element) in list.elements.iter().enumerate() {
            let value = self.value(element, locals)?;
            if !list.optional_indices.contains(&at) {
                items.push(value);
            } else if let Some(inner) = as_optional(&value) {
                items.extend(inner.cloned());
            } else {
                return Err(EvaluationError::NoSuchOverload);
            }
        }
        Ok(CelValue::List(Arc::new(items)))
    }

    /// A map, or an object, which is a map of its fields.
    fn entries(&self, entries: &[IdedEntryExpr], locals: &Locals<'_>) -> Outcome {
        let mut made = HashMap::with_capacity(entries.len());
        for entry in entries {
            let (name, value, is_optional) = match &entry.expr {
                EntryExpr::StructField(field) => (key(&field.field), &field.value, field.optional),
                EntryExpr::MapEntry(entry) => {
                    let name = self.value(&entry.key, locals)?;
                    let name: Key = name
                        .try_into()
                        .map_err(|_| EvaluationError::NoSuchOverload)?;
                    (name, &entry.value, entry.optional)
                }
            };
            let value = self.value(value, locals)?;
            match (is_optional, as_optional(&value)) {
                (true, Some(None)) => {}
                (true, Some(Some(inner))) => {
                    made.insert(name, inner.clone());
                }
                (true, None) => return Err(EvaluationError::NoSuchOverload),
                (false, _) => {
                    made.insert(name, value);
                }
            }
        }
        Ok(CelValue::Map(Map {
            map: Arc::new(made),
        }))
    }

    fn comprehension(&self, c: &ComprehensionExpr, locals: &Locals<'_>) -> Outcome {
        let range = self.value(&c.iter_range, locals)?;
        let start = self.value(&c.accu_init, locals)?;
        let mut inner = Locals {
            outer: Some(locals),
            bound: vec![(c.accu_var.as_str(), start)],
        };
        let decisive = decisive(&c.loop_step);
        let mut failed = None;
        for item in items(&range)? {
            if self.value(&c.loop_cond, &inner)? != CelValue::Bool(true) {
                break;
            }
            inner.set(&c.iter_var, item);
            match self.step(&c.loop_step, &c.accu_var, &mut inner) {
                Ok(()) => {}
                // `all` and `exists` go on: a later element may decide.
                Err(error) if decisive.is_some() && error != EvaluationError::OverBudget => {
                    failed = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        let value = self.value(&c.result, &inner)?;
        match failed {
            Some(error) if decisive.map(CelValue::Bool) != Some(value.clone()) => Err(error),
            _ => Ok(value),
        }
    }

    /// One turn of the loop. A list that grows by an element is not copied for it.
    fn step(
        &self,
        step: &IdedExpr,
        accumulator: &str,
        locals: &mut Locals<'_>,
    ) -> Result<(), EvaluationError> {
        if let Some(Growth { condition, element }) = Growth::of(step, accumulator) {
            if let Some(condition) = condition {
                match self.value(condition, locals)? {
                    CelValue::Bool(true) => {}
                    CelValue::Bool(false) => return Ok(()),
                    _ => return Err(EvaluationError::NoSuchOverload),
                }
            }
            let element = self.value(element, locals)?;
            if let Some(CelValue::List(mut list)) = locals.take(accumulator) {
                Arc::make_mut(&mut list).push(element);
                replace(locals, accumulator, CelValue::List(list));
            }
            return Ok(());
        }
        let next = self.value(step, locals)?;
        replace(locals, accumulator, next);
        Ok(())
    }
}

fn replace(locals: &mut Locals<'_>, name: &str, value: CelValue) {
    if let Some((_, old)) = locals.bound.iter_mut().find(|(n, _)| *n == name) {
        *old = value;
    }
}

/// `@result + [element]`, perhaps under a condition: what `map` and `filter` are made of.
struct Growth<'a> {
    condition: Option<&'a IdedExpr>,
    element: &'a IdedExpr,
}

impl<'a> Growth<'a> {
    fn of(step: &'a IdedExpr, accumulator: &str) -> Option<Self> {
        let Expr::Call(call) = &step.expr else {
            return None;
        };
        match (call.func_name.as_str(), call.args.as_slice()) {
            (op::CONDITIONAL, [condition, yes, no]) if is_name(no, accumulator) => {
                let grown = Growth::of(yes, accumulator)?;
                Some(Growth {
                    condition: Some(condition),
                    ..grown
                })
            }
            (op::ADD, [list, added]) if is_name(list, accumulator) => match &added.expr {
                Expr::List(list) if list.optional_indices.is_empty() => {
                    let [element] = list.elements.as_slice() else {
                        return None;
                    };
                    Some(Growth {
                        condition: None,
                        element,
                    })
                }
                _ => None,
            },
            _ => None,
        }
    }
}

/// The value that ends a quantifier, when the loop is one.
fn decisive(step: &IdedExpr) -> Option<bool> {
    match &step.expr {
        Expr::Call(call) if call.func_name == op::LOGICAL_AND => Some(false),
        Expr::Call(call) if call.func_name == op::LOGICAL_OR => Some(true),
        _ => None,
    }
}

fn is_name(expression: &IdedExpr, name: &str) -> bool {
    matches!(&expression.expr, Expr::Ident(own) if own == name)
}

fn is_binary(operator: &str) -> bool {
    matches!(
        operator,
        op::ADD
            | op::SUBSTRACT
            | op::MULTIPLY
            | op::DIVIDE
            | op::MODULO
            | op::EQUALS
            | op::NOT_EQUALS
            | op::LESS
            | op::LESS_EQUALS
            | op::GREATER
            | op::GREATER_EQUALS
            | op::IN
            | op::INDEX
            | op::OPT_INDEX
            | op::OPT_SELECT
    )
}

/// What a comprehension with one variable goes through: elements, or a map's keys.
fn items(range: &CelValue) -> Result<Vec<CelValue>, EvaluationError> {
    match range {
        CelValue::List(items) => Ok(items.as_ref().clone()),
        CelValue::Map(map) => Ok(sorted_keys(map).into_iter().map(CelValue::from).collect()),
        _ => Err(EvaluationError::NoSuchOverload),
    }
}

fn constant(literal: &LiteralValue) -> CelValue {
    match literal {
        LiteralValue::Boolean(value) => CelValue::Bool(*value.inner()),
        LiteralValue::Bytes(value) => CelValue::Bytes(Arc::new(value.inner().to_vec())),
        LiteralValue::Double(value) => CelValue::Float(*value.inner()),
        LiteralValue::Int(value) => CelValue::Int(*value.inner()),
        LiteralValue::Null => CelValue::Null,
        LiteralValue::String(value) => string(value.inner()),
        LiteralValue::UInt(value) => CelValue::UInt(*value.inner()),
    }
}
