//! Functions: those with a meaning or a cost of their own, and the way to all others.

use std::sync::Arc;

use kube_cel::KubeCelExt;
use kube_cel::cel::common::ast::{CallExpr, Expr, IdedExpr};
use kube_cel::cel::objects::Opaque;
use kube_cel::cel::{Context, Value};

use super::interpret::{Interpreter, Locals, Outcome};
use super::values::{as_optional, optional, string, weight};
use super::{CelValue, EvaluationError, authorizer};

/// What stands before the dot in functions that are not called on a value.
pub(super) const PREFIXES: [&str; 9] = [
    "base64",
    "format",
    "ip",
    "jsonpatch",
    "lists",
    "math",
    "optional",
    "sets",
    "strings",
];

const TYPES: [&str; 10] = [
    "bool",
    "bytes",
    "double",
    "int",
    "list",
    "map",
    "null_type",
    "string",
    "type",
    "uint",
];

/// A type as a value: `type(x) == string`.
#[derive(Debug, PartialEq, Eq)]
struct TypeName(String);

impl Opaque for TypeName {
    fn runtime_type_name(&self) -> &str {
        "type"
    }
}

pub(super) fn type_named(name: &str) -> Option<CelValue> {
    TYPES.contains(&name).then(|| type_value(name))
}

fn type_value(name: &str) -> CelValue {
    CelValue::Opaque(Arc::new(TypeName(name.to_owned())))
}

fn type_of(value: &CelValue) -> CelValue {
    let name = match value {
        CelValue::List(_) => "list",
        CelValue::Map(_) => "map",
        CelValue::Int(_) => "int",
        CelValue::UInt(_) => "uint",
        CelValue::Float(_) => "double",
        CelValue::String(_) => "string",
        CelValue::Bytes(_) => "bytes",
        CelValue::Bool(_) => "bool",
        CelValue::Duration(_) => "google.protobuf.Duration",
        CelValue::Timestamp(_) => "google.protobuf.Timestamp",
        CelValue::Opaque(opaque) => opaque.runtime_type_name(),
        CelValue::Null => "null_type",
        CelValue::Function(..) => "function",
    };
    type_value(name)
}

pub(super) fn call(interpreter: &Interpreter<'_>, call: &CallExpr, locals: &Locals<'_>) -> Outcome {
    let (name, target) = match call.target.as_deref() {
        None => (call.func_name.clone(), None),
        Some(target) => match &target.expr {
            Expr::Ident(prefix)
                if PREFIXES.contains(&prefix.as_str()) && !interpreter.is_value(prefix, locals) =>
            {
                (format!("{prefix}.{}", call.func_name), None)
            }
            _ => (
                call.func_name.clone(),
                Some(interpreter.value(target, locals)?),
            ),
        },
    };
    let mut args = Vec::with_capacity(call.args.len());
    for arg in &call.args {
        args.push(interpreter.value(arg, locals)?);
    }
    interpreter.charge(cost(&name, target.as_ref(), &args))?;
    if let Some(outcome) = authorizer::call(&name, target.as_ref(), &args) {
        return outcome;
    }
    if let Some(outcome) = own(&name, target.as_ref(), &args) {
        return outcome;
    }
    let made = delegate(&name, target, args)?;
    interpreter.charge(weight(&made))?;
    Ok(made)
}

/// What a call costs before it happens.
fn cost(name: &str, target: Option<&CelValue>, args: &[CelValue]) -> u64 {
    let weights: Vec<u64> = target.into_iter().chain(args).map(weight).collect();
    let sum: u64 = weights.iter().sum();
    match (name, target, args) {
        ("lists.range", _, [CelValue::Int(count)]) => u64::try_from(*count).unwrap_or(0),
        ("replace", Some(CelValue::String(text)), [_, CelValue::String(with), ..]) => {
            (text.len() as u64 + 1) * (with.len() as u64 + 1) / 16
        }
        ("join", Some(CelValue::List(items)), args) => {
            let between = match args {
                [CelValue::String(text)] => text.len() as u64,
                _ => 0,
            };
            deep(items) + items.len() as u64 * (between + 1) / 16
        }
        ("format", _, [CelValue::List(items)]) => sum + deep(items),
        // These compare each with each.
        ("distinct" | "sort", Some(CelValue::List(items)), _) => {
            let count = items.len() as u64;
            count * count / 8
        }
        (name, ..) if name.starts_with("sets.") => {
            1 + weights.iter().map(|w| w * 4 + 1).product::<u64>() / 8
        }
        _ => sum,
    }
}

fn deep(items: &[CelValue]) -> u64 {
    items.iter().map(weight).sum()
}

fn own(name: &str, target: Option<&CelValue>, args: &[CelValue]) -> Option<Outcome> {
    Some(match (name, target, args) {
        ("dyn", None, [value]) => Ok(value.clone()),
        ("type", None, [value]) => Ok(type_of(value)),
        ("size", Some(CelValue::String(text)), []) | ("size", None, [CelValue::String(text)]) => {
            let count = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
            Ok(CelValue::Int(count))
        }
        ("bool", None, [CelValue::Bool(value)]) => Ok(CelValue::Bool(*value)),
        ("bool", None, [CelValue::String(text)]) => truth(text),
        ("string", None, [CelValue::Bool(value)]) => Ok(string(value.to_string())),
        ("optional.none", None, []) => Ok(optional(None)),
        ("optional.of", None, [value]) => Ok(optional(Some(value.clone()))),
        ("optional.ofNonZeroValue", None, [value]) => {
            Ok(optional(Some(value.clone()).filter(|v| !is_zero(v))))
        }
        ("hasValue", Some(value), []) => {
            with_optional(value, |inner| Ok(CelValue::Bool(inner.is_some())))
        }
        ("value", Some(value), []) => with_optional(value, |inner| {
            inner
                .cloned()
                .ok_or_else(|| EvaluationError::Function("optional.none() dereference".to_owned()))
        }),
        ("orValue", Some(value), [other]) => {
            with_optional(value, |inner| Ok(inner.unwrap_or(other).clone()))
        }
        ("or", Some(value), [other]) => with_optional(value, |inner| {
            Ok(if inner.is_some() { value } else { other }.clone())
        }),
        _ => return None,
    })
}

fn with_optional(value: &CelValue, f: impl FnOnce(Option<&CelValue>) -> Outcome) -> Outcome {
    as_optional(value).map_or(Err(EvaluationError::NoSuchOverload), f)
}

fn truth(text: &str) -> Outcome {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(CelValue::Bool(true)),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(CelValue::Bool(false)),
        _ => Err(EvaluationError::Function(format!(
            "type conversion error from 'string' to 'bool': {text:?}"
        ))),
    }
}

fn is_zero(value: &CelValue) -> bool {
    match value {
        CelValue::Null => true,
        CelValue::Bool(value) => !value,
        CelValue::Int(value) => *value == 0,
        CelValue::UInt(value) => *value == 0,
        CelValue::Float(value) => *value == 0.0,
        CelValue::String(text) => text.is_empty(),
        CelValue::Bytes(bytes) => bytes.is_empty(),
        CelValue::List(items) => items.is_empty(),
        CelValue::Map(map) => map.map.is_empty(),
        _ => false,
    }
}

/// What a text of a schema's format stands for: a time, a duration or bytes. `None` for other
/// formats and for texts that do not have theirs.
pub(crate) fn typed_text(format: &str, text: &str) -> Option<CelValue> {
    let (function, text) = match format {
        "date-time" => ("timestamp", text.to_owned()),
        "date" => ("timestamp", format!("{text}T00:00:00Z")),
        "duration" => ("duration", text.to_owned()),
        "byte" => ("base64.decode", text.to_owned()),
        _ => return None,
    };
    delegate(function, None, vec![string(text)]).ok()
}

thread_local! {
    /// All functions of the crates; made once for each thread.
    static LIBRARY: Context<'static> = Context::default().with_all();
}

const ARGUMENTS: [&str; 8] = ["a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7"];
const TARGET: &str = "t";

/// Calls a function of the crates with values.
fn delegate(name: &str, target: Option<CelValue>, args: Vec<CelValue>) -> Outcome {
    if args.len() > ARGUMENTS.len() {
        return Err(EvaluationError::NoSuchOverload);
    }
    let named = |name: &str| IdedExpr {
        id: 0,
        expr: Expr::Ident(name.to_owned()),
    };
    LIBRARY.with(|library| {
        let mut scope = library.new_inner_scope();
        let call = CallExpr {
            func_name: name.to_owned(),
            target: target.is_some().then(|| Box::new(named(TARGET))),
            args: ARGUMENTS[..args.len()].iter().map(|n| named(n)).collect(),
        };
        if let Some(target) = target {
            scope.add_variable_from_value(TARGET, target);
        }
        for (name, value) in ARGUMENTS.iter().zip(args) {
            scope.add_variable_from_value(*name, value);
        }
        let call = IdedExpr {
            id: 0,
            expr: Expr::Call(call),
        };
        Ok(Value::resolve(&call, &scope)?)
    })
}
