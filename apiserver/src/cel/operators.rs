//! Arithmetic, comparison, membership and selection on values.

use std::cmp::Ordering;

use kube_cel::cel::objects::Key;

use super::values::{as_optional, optional};
use super::{CelValue, EvaluationError};

type Outcome = Result<CelValue, EvaluationError>;

pub(super) fn arithmetic(operator: &str, a: CelValue, b: CelValue) -> Outcome {
    Ok(match operator {
        "_+_" => (a + b)?,
        "_-_" => (a - b)?,
        "_*_" => (a * b)?,
        "_/_" => divide(a, b)?,
        _ => (a % b)?,
    })
}

fn divide(a: CelValue, b: CelValue) -> Outcome {
    if let (CelValue::Int(i64::MIN), CelValue::Int(-1)) = (&a, &b) {
        return Err(EvaluationError::Function(
            "return error for overflow".into(),
        ));
    }
    Ok((a / b)?)
}

pub(super) fn compare(operator: &str, a: &CelValue, b: &CelValue) -> Outcome {
    let order = a.partial_cmp(b).ok_or(EvaluationError::NoSuchOverload)?;
    Ok(CelValue::Bool(match operator {
        "_<_" => order == Ordering::Less,
        "_<=_" => order != Ordering::Greater,
        "_>_" => order == Ordering::Greater,
        _ => order != Ordering::Less,
    }))
}

pub(super) fn negate(value: CelValue) -> Outcome {
    Ok(match value {
        CelValue::Int(value) => CelValue::Int(
            value
                .checked_neg()
                .ok_or_else(|| EvaluationError::Function("return error for overflow".into()))?,
        ),
        CelValue::Float(value) => CelValue::Float(-value),
        CelValue::Duration(value) => CelValue::Duration(-value),
        _ => return Err(EvaluationError::NoSuchOverload),
    })
}

pub(super) fn contains(item: &CelValue, container: &CelValue) -> Outcome {
    Ok(CelValue::Bool(match container {
        CelValue::List(items) => items.contains(item),
        CelValue::Map(map) => key_of(item).is_some_and(|key| map.get(&key).is_some()),
        _ => return Err(EvaluationError::NoSuchOverload),
    }))
}

fn key_of(value: &CelValue) -> Option<Key> {
    match value {
        CelValue::Int(value) => Some(Key::Int(*value)),
        CelValue::UInt(value) => Some(Key::Uint(*value)),
        CelValue::Bool(value) => Some(Key::Bool(*value)),
        CelValue::String(value) => Some(Key::String(value.clone())),
        #[expect(clippy::cast_possible_truncation, reason = "whole numbers only")]
        CelValue::Float(value) if value.fract() == 0.0 => Some(Key::Int(*value as i64)),
        _ => None,
    }
}

/// `value[index]`
pub(super) fn index(value: &CelValue, index: &CelValue) -> Outcome {
    if let Some(inner) = as_optional(value) {
        return match inner {
            Some(inner) => optional_index(inner, index),
            None => Ok(optional(None)),
        };
    }
    match value {
        CelValue::List(items) => {
            let Some(Key::Int(at)) = key_of(index).map(signed) else {
                return Err(EvaluationError::NoSuchOverload);
            };
            let found = usize::try_from(at).ok().and_then(|at| items.get(at));
            found.cloned().ok_or(EvaluationError::OutOfBounds(at))
        }
        CelValue::Map(map) => {
            let key = key_of(index).ok_or(EvaluationError::NoSuchOverload)?;
            let found = map.get(&key).cloned();
            found.ok_or_else(|| EvaluationError::NoSuchKey(key.to_string()))
        }
        _ => Err(EvaluationError::NoSuchOverload),
    }
}

fn signed(key: Key) -> Key {
    match key {
        Key::Uint(value) => i64::try_from(value).map_or(Key::Uint(value), Key::Int),
        key => key,
    }
}

/// `value[?index]` and `value.?field`
pub(super) fn optional_index(value: &CelValue, at: &CelValue) -> Outcome {
    match as_optional(value) {
        Some(None) => return Ok(optional(None)),
        Some(Some(inner)) => return optional_index(inner, at),
        None => {}
    }
    match index(value, at) {
        Ok(found) => Ok(optional(Some(found))),
        Err(EvaluationError::NoSuchKey(_) | EvaluationError::OutOfBounds(_)) => Ok(optional(None)),
        Err(error) => Err(error),
    }
}

/// `value.field`
pub(super) fn select(value: &CelValue, field: &str) -> Outcome {
    match as_optional(value) {
        Some(None) => return Ok(optional(None)),
        Some(Some(inner)) => {
            return match select(inner, field) {
                Ok(found) => Ok(optional(Some(found))),
                Err(EvaluationError::NoSuchKey(_)) => Ok(optional(None)),
                Err(error) => Err(error),
            };
        }
        None => {}
    }
    match value {
        CelValue::Map(map) => {
            let key = super::values::key(field);
            let found = map.map.get(&key).cloned();
            found.ok_or_else(|| EvaluationError::NoSuchKey(field.to_owned()))
        }
        _ => Err(EvaluationError::NoSuchKey(field.to_owned())),
    }
}

/// `has(value.field)`
pub(super) fn has(value: &CelValue, field: &str) -> Outcome {
    if let Some(inner) = as_optional(value) {
        return inner.map_or(Ok(CelValue::Bool(false)), |inner| has(inner, field));
    }
    match value {
        CelValue::Map(map) => Ok(CelValue::Bool(
            map.map.contains_key(&super::values::key(field)),
        )),
        _ => Err(EvaluationError::NoSuchOverload),
    }
}
