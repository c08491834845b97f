//! Macros that the parser leaves alone: comprehensions with two variables, and those on optionals.

use std::collections::HashMap;
use std::sync::Arc;

use kube_cel::cel::common::ast::{CallExpr, Expr, IdedExpr};
use kube_cel::cel::objects::{Key, Map};

use super::interpret::{Interpreter, Locals, Outcome};
use super::values::{as_optional, optional, sorted_keys};
use super::{CelValue, EvaluationError};

/// Evaluates the call if it is a macro.
pub(super) fn expand(
    interpreter: &Interpreter<'_>,
    call: &CallExpr,
    locals: &Locals<'_>,
) -> Option<Outcome> {
    let target = call.target.as_deref()?;
    match (call.func_name.as_str(), call.args.as_slice()) {
        ("optMap" | "optFlatMap", [name, body]) => Some(on_optional(
            interpreter,
            target,
            identifier(name)?,
            body,
            call.func_name == "optMap",
            locals,
        )),
        (
            "all" | "exists" | "existsOne" | "exists_one" | "transformList" | "transformMap"
            | "transformMapEntry",
            [a, b, rest @ ..],
        ) if !rest.is_empty() && rest.len() < 3 => {
            let loops = Loop {
                interpreter,
                target,
                names: (identifier(a)?, identifier(b)?),
                filter: (rest.len() == 2).then(|| &rest[0]),
                body: rest.last()?,
            };
            Some(loops.run(&call.func_name, locals))
        }
        _ => None,
    }
}

fn identifier(expression: &IdedExpr) -> Option<&str> {
    match &expression.expr {
        Expr::Ident(name) => Some(name),
        _ => None,
    }
}

fn on_optional(
    interpreter: &Interpreter<'_>,
    target: &IdedExpr,
    name: &str,
    body: &IdedExpr,
    wraps: bool,
    locals: &Locals<'_>,
) -> Outcome {
    let value = interpreter.value(target, locals)?;
    match as_optional(&value) {
        None => Err(EvaluationError::NoSuchOverload),
        Some(None) => Ok(optional(None)),
        Some(Some(inner)) => {
            let inner = Locals {
                outer: Some(locals),
                bound: vec![(name, inner.clone())],
            };
            let made = interpreter.value(body, &inner)?;
            Ok(if wraps { optional(Some(made)) } else { made })
        }
    }
}

struct Loop<'a> {
    interpreter: &'a Interpreter<'a>,
    target: &'a IdedExpr,
    /// Index and element of a list, or key and value of a map.
    names: (&'a str, &'a str),
    filter: Option<&'a IdedExpr>,
    body: &'a IdedExpr,
}

impl Loop<'_> {
    fn run(&self, name: &str, locals: &Locals<'_>) -> Outcome {
        let range = self.interpreter.value(self.target, locals)?;
        let pairs = pairs(&range)?;
        match name {
            "all" => self.quantify(pairs, false, locals),
            "exists" => self.quantify(pairs, true, locals),
            "existsOne" | "exists_one" => {
                let mut count = 0;
                for (key, value) in pairs {
                    if self.body(key, value, locals)? == CelValue::Bool(true) {
                        count += 1;
                    }
                }
                Ok(CelValue::Bool(count == 1))
            }
            "transformList" => {
                let mut made = Vec::new();
                for (key, value) in pairs {
                    made.extend(self.filtered(key, value, locals)?);
                }
                Ok(CelValue::List(Arc::new(made)))
            }
            "transformMap" => {
                let mut made = HashMap::new();
                for (key, value) in pairs {
                    let name: Key = key
                        .clone()
                        .try_into()
                        .map_err(|_| EvaluationError::NoSuchOverload)?;
                    if let Some(value) = self.filtered(key, value, locals)? {
                        made.insert(name, value);
                    }
                }
                Ok(CelValue::Map(Map {
                    map: Arc::new(made),
                }))
            }
            _ => {
                let mut made: HashMap<Key, CelValue> = HashMap::new();
                for (key, value) in pairs {
                    if let Some(CelValue::Map(map)) = self.filtered(key, value, locals)? {
                        for key in sorted_keys(&map) {
                            let value = map.map.get(&key).cloned().unwrap_or(CelValue::Null);
                            made.insert(key, value);
                        }
                    }
                }
                Ok(CelValue::Map(Map {
                    map: Arc::new(made),
                }))
            }
        }
    }

    fn evaluate(
        &self,
        expression: &IdedExpr,
        key: CelValue,
        value: CelValue,
        locals: &Locals<'_>,
    ) -> Outcome {
        let inner = Locals {
            outer: Some(locals),
            bound: vec![(self.names.0, key), (self.names.1, value)],
        };
        self.interpreter.value(expression, &inner)
    }

    fn body(&self, key: CelValue, value: CelValue, locals: &Locals<'_>) -> Outcome {
        self.evaluate(self.body, key, value, locals)
    }

    /// The body's value where the filter lets it through.
    fn filtered(
        &self,
        key: CelValue,
        value: CelValue,
        locals: &Locals<'_>,
    ) -> Result<Option<CelValue>, EvaluationError> {
        if let Some(filter) = self.filter {
            match self.evaluate(filter, key.clone(), value.clone(), locals)? {
                CelValue::Bool(true) => {}
                CelValue::Bool(false) => return Ok(None),
                _ => return Err(EvaluationError::NoSuchOverload),
            }
        }
        self.body(key, value, locals).map(Some)
    }

    /// `all` ends with the first false, `exists` with the first true; errors count only when
    /// nothing decides.
    fn quantify(
        &self,
        pairs: Vec<(CelValue, CelValue)>,
        decisive: bool,
        locals: &Locals<'_>,
    ) -> Outcome {
        let mut failed = None;
        for (key, value) in pairs {
            match self.body(key, value, locals) {
                Ok(CelValue::Bool(value)) if value == decisive => {
                    return Ok(CelValue::Bool(decisive));
                }
                Ok(CelValue::Bool(_)) => {}
                Ok(_) => failed = Some(EvaluationError::NoSuchOverload),
                Err(EvaluationError::OverBudget) => return Err(EvaluationError::OverBudget),
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(CelValue::Bool(!decisive)), Err)
    }
}

fn pairs(range: &CelValue) -> Result<Vec<(CelValue, CelValue)>, EvaluationError> {
    match range {
        CelValue::List(items) => Ok(items
            .iter()
            .zip(0i64..)
            .map(|(value, at)| (CelValue::Int(at), value.clone()))
            .collect()),
        CelValue::Map(map) => Ok(sorted_keys(map)
            .into_iter()
            .map(|key| {
                let value = map.map.get(&key).cloned().unwrap_or(CelValue::Null);
                (CelValue::from(key), value)
            })
            .collect()),
        _ => Err(EvaluationError::NoSuchOverload),
    }
}
