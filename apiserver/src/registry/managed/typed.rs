//! Walking values beside their schema: field sets, comparison, merging, removal.
//!
//! These are the operations of structured merge. A value is a leaf (scalars, atomic lists and
//! maps), a struct or granular map, a keyed list or a set.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use schema::types::{List, ListType, Scalar, Struct, StructRef, Type};
use serde_json::{Map, Value};

use super::field_set::FieldSet;

/// A type as structured merge sees it.
enum Node<'a> {
    Leaf,
    Fields(&'a Struct),
    Entries(&'a Type),
    /// Its items are told apart by keys, or by themselves when there are none.
    Items(&'a List, &'a [Cow<'static, str>]),
    /// Nothing is known: maps are granular, the rest are leaves.
    Free,
}

static FREE: Type = Type::Scalar(Scalar::Any);

fn node(ty: &Type) -> Node<'_> {
    match ty {
        Type::Scalar(Scalar::Any) => Node::Free,
        Type::Scalar(_) => Node::Leaf,
        Type::Struct(shape) => struct_node(shape.get()),
        Type::Map(map) if map.atomic => Node::Leaf,
        Type::Map(map) => Node::Entries(&map.value),
        Type::List(list) => match &list.list_type {
            ListType::Atomic => Node::Leaf,
            ListType::Set => Node::Items(list, &[]),
            ListType::Map(keys) => Node::Items(list, keys),
        },
    }
}

fn struct_node(shape: &Struct) -> Node<'_> {
    if shape.atomic || shape.scalar.is_some() {
        Node::Leaf
    } else {
        Node::Fields(shape)
    }
}

impl<'a> Node<'a> {
    /// Whether the value is walked into at all.
    fn is_leaf_for(&self, value: &Value) -> bool {
        match self {
            Node::Leaf => true,
            Node::Free | Node::Fields(_) | Node::Entries(_) => {
                !value.is_object() && !value.is_null()
            }
            Node::Items(..) => !value.is_array() && !value.is_null(),
        }
    }

    /// The type of a field or entry, and whether the schema declares it by name.
    fn entry(&self, key: &str) -> Option<(&'a Type, bool)> {
        match self {
            Node::Fields(shape) => match shape.field(key) {
                Some(field) => Some((&field.ty, true)),
                None if shape.preserve_unknown => Some((&FREE, false)),
                None => None,
            },
            Node::Entries(ty) => Some((ty, false)),
            Node::Free => Some((&FREE, false)),
            _ => None,
        }
    }
}

/// Why an applied object does not fit its schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {what}")]
pub struct TypedError {
    pub path: String,
    pub what: String,
}

fn edge(key: &str) -> String {
    format!("f:{key}")
}

/// The edge to an item of a keyed list or set.
fn item_edge(list: &List, keys: &[Cow<'static, str>], item: &Value) -> Option<String> {
    if keys.is_empty() {
        return Some(format!("v:{item}"));
    }
    let shape = list.item.as_struct();
    let mut found = BTreeMap::new();
    for key in keys {
        let value = item.get(key.as_ref()).filter(|v| !v.is_null()).cloned();
        let default = || {
            shape
                .and_then(|s| s.field(key))
                .and_then(|f| f.default.clone())
        };
        if let Some(value) = value.or_else(default) {
            found.insert(key.as_ref(), value);
        }
    }
    if found.is_empty() {
        return None;
    }
    serde_json::to_string(&found)
        .ok()
        .map(|keys| format!("k:{keys}"))
}

/// The edges of a list's items; those without or with a repeated one are told by position.
fn item_edges(list: &List, keys: &[Cow<'static, str>], items: &[Value]) -> Vec<String> {
    let edges = items.iter().enumerate();
    edges
        .map(|(i, item)| item_edge(list, keys, item).unwrap_or_else(|| format!("i:{i}")))
        .collect()
}

/// Every field of a value.
pub(crate) fn field_set(root: &StructRef, value: &Value) -> FieldSet {
    let mut set = set_of(&struct_node(root.get()), value);
    set.member = false;
    set
}

fn set_of(node: &Node<'_>, value: &Value) -> FieldSet {
    if node.is_leaf_for(value) {
        return FieldSet::leaf();
    }
    let mut set = FieldSet::default();
    match (node, value) {
        (Node::Items(list, keys), Value::Array(items)) => {
            for (edge, item) in item_edges(list, keys, items).into_iter().zip(items) {
                let mut child = set_of(&self::node(&list.item), item);
                child.member = true;
                set.attach(edge, child);
            }
        }
        (_, Value::Object(map)) => {
            for (key, value) in map {
                let Some((ty, declared)) = node.entry(key) else {
                    continue;
                };
                let mut child = set_of(&self::node(ty), value);
                let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                child.member |= empty || !declared;
                set.attach(edge(key), child);
            }
        }
        _ => {}
    }
    set
}

/// How one value became another.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Comparison {
    pub added: FieldSet,
    pub modified: FieldSet,
    pub removed: FieldSet,
}

impl Comparison {
    fn attach(&mut self, edge: &str, child: Comparison) {
        for (set, child) in [
            (&mut self.added, child.added),
            (&mut self.modified, child.modified),
            (&mut self.removed, child.removed),
        ] {
            if !child.is_empty() {
                set.children.insert(edge.to_owned(), child);
            }
        }
    }
}

pub(crate) fn compare(root: &StructRef, old: &Value, new: &Value) -> Comparison {
    compare_nodes(&struct_node(root.get()), Some(old), Some(new))
}

fn compare_nodes(node: &Node<'_>, old: Option<&Value>, new: Option<&Value>) -> Comparison {
    let mut result = Comparison::default();
    let is_empty = |v: Option<&Value>| match v {
        None | Some(Value::Null) => true,
        Some(Value::Array(items)) => items.is_empty(),
        Some(Value::Object(map)) => map.is_empty(),
        Some(_) => false,
    };
    let leaf = old.is_some_and(|v| node.is_leaf_for(v))
        || new.is_some_and(|v| node.is_leaf_for(v))
        || (is_empty(old) && is_empty(new));
    if leaf {
        match (old, new) {
            (None, Some(_)) => result.added.member = true,
            (Some(_), None) => result.removed.member = true,
            (Some(old), Some(new)) => result.modified.member = old != new,
            (None, None) => {}
        }
        return result;
    }
    match node {
        Node::Items(list, keys) => compare_items(list, keys, old, new, &mut result),
        _ => compare_entries(node, old, new, &mut result),
    }
    result.added.member = old.is_none();
    result.removed.member = new.is_none();
    result
}

fn compare_entries(
    node: &Node<'_>,
    old: Option<&Value>,
    new: Option<&Value>,
    result: &mut Comparison,
) {
    let old = old.and_then(Value::as_object);
    let new = new.and_then(Value::as_object);
    let before = old.into_iter().flatten();
    for (key, value) in before {
        let other = new.and_then(|m| m.get(key));
        if other == Some(value) {
            continue;
        }
        let Some((ty, _)) = node.entry(key) else {
            continue;
        };
        result.attach(
            &edge(key),
            compare_nodes(&self::node(ty), Some(value), other),
        );
    }
    for (key, value) in new.into_iter().flatten() {
        if old.is_some_and(|m| m.contains_key(key)) {
            continue;
        }
        let Some((ty, _)) = node.entry(key) else {
            continue;
        };
        result.attach(
            &edge(key),
            compare_nodes(&self::node(ty), None, Some(value)),
        );
    }
}

fn compare_items<'v>(
    list: &List,
    keys: &[Cow<'static, str>],
    old: Option<&'v Value>,
    new: Option<&'v Value>,
    result: &mut Comparison,
) {
    let grouped = |v: Option<&'v Value>| {
        let items = v.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let mut grouped: BTreeMap<String, Vec<&'v Value>> = BTreeMap::new();
        for (edge, item) in item_edges(list, keys, items).into_iter().zip(items) {
            grouped.entry(edge).or_default().push(item);
        }
        grouped
    };
    let (old, new) = (grouped(old), grouped(new));
    let edges: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let node = self::node(&list.item);
    for edge in edges {
        let (before, after) = (old.get(edge), new.get(edge));
        if before == after {
            continue;
        }
        let single = |v: Option<&Vec<&Value>>| v.is_none_or(|items| items.len() == 1);
        let compared = if single(before) && single(after) {
            compare_nodes(&node, before.map(|v| v[0]), after.map(|v| v[0]))
        } else {
            // Repeated items are compared as a whole.
            let all = |v: Option<&Vec<&Value>>| {
                v.map(|items| items.iter().map(|item| (*item).clone()).collect::<Value>())
            };
            compare_nodes(&Node::Leaf, all(before).as_ref(), all(after).as_ref())
        };
        result.attach(edge, compared);
    }
}

/// `config` merged into `live`: what it says wins, what it does not mention stays.
pub(crate) fn merge(root: &StructRef, live: &Value, config: &Value) -> Value {
    merge_nodes(&struct_node(root.get()), live, config)
}

fn merge_nodes(node: &Node<'_>, live: &Value, config: &Value) -> Value {
    if node.is_leaf_for(live) || node.is_leaf_for(config) {
        return config.clone();
    }
    match (node, live, config) {
        (Node::Items(list, keys), Value::Array(live), Value::Array(config)) => {
            merge_items(list, keys, live, config)
        }
        (_, Value::Object(live), Value::Object(config)) => {
            let mut merged = live.clone();
            for (key, value) in config {
                let slot = merged.get(key);
                let new = match (slot, node.entry(key)) {
                    (Some(old), Some((ty, _))) => merge_nodes(&self::node(ty), old, value),
                    _ => value.clone(),
                };
                merged.insert(key.clone(), new);
            }
            Value::Object(merged)
        }
        _ => config.clone(),
    }
}

/// The applied order leads; live items that are not applied keep their places between.
fn merge_items(list: &List, keys: &[Cow<'static, str>], live: &[Value], config: &[Value]) -> Value {
    let (left, right) = (item_edges(list, keys, live), item_edges(list, keys, config));
    let find = |edges: &[String], edge: &String| edges.iter().position(|e| e == edge);
    let mut shared = right.iter().filter(|e| left.contains(e)).peekable();
    let node = self::node(&list.item);
    let mut merged: BTreeSet<&String> = BTreeSet::new();
    let mut out = Vec::with_capacity(live.len() + config.len());
    let (mut l, mut r) = (0, 0);
    while l < left.len() || r < right.len() {
        if l < left.len() && r < right.len() {
            if left[l] == right[r] {
                merged.insert(&right[r]);
                out.push(merge_nodes(&node, &live[l], &config[r]));
                shared.next_if(|s| **s == right[r]);
                l += 1;
                r += 1;
                continue;
            }
            if right.contains(&left[l]) && shared.peek().is_some_and(|s| **s != left[l]) {
                l += 1;
                continue;
            }
        }
        if l < left.len() {
            if !right.contains(&left[l]) {
                out.push(live[l].clone());
                l += 1;
                continue;
            }
            if merged.contains(&left[l]) {
                l += 1;
                continue;
            }
        }
        if r < right.len() {
            merged.insert(&right[r]);
            out.push(match find(&left, &right[r]) {
                Some(at) => merge_nodes(&node, &live[at], &config[r]),
                None => config[r].clone(),
            });
            shared.next_if(|s| **s == right[r]);
            r += 1;
        }
    }
    Value::Array(out)
}

/// The value without the fields and items of the set.
pub(crate) fn remove(root: &StructRef, value: &Value, set: &FieldSet) -> Value {
    remove_nodes(&struct_node(root.get()), value, set).unwrap_or_else(|| Value::Object(Map::new()))
}

/// `None` when nothing is left of a value that had something.
fn remove_nodes(node: &Node<'_>, value: &Value, set: &FieldSet) -> Option<Value> {
    if set.children.is_empty() || node.is_leaf_for(value) {
        return Some(value.clone());
    }
    match (node, value) {
        (Node::Items(list, keys), Value::Array(items)) => {
            let mut kept = Vec::with_capacity(items.len());
            for (edge, item) in item_edges(list, keys, items).iter().zip(items) {
                match set.children.get(edge) {
                    Some(below) if below.member => {}
                    Some(below) => kept.extend(remove_nodes(&self::node(&list.item), item, below)),
                    None => kept.push(item.clone()),
                }
            }
            (!kept.is_empty() || items.is_empty()).then_some(Value::Array(kept))
        }
        (_, Value::Object(map)) => {
            let mut kept = Map::new();
            for (key, value) in map {
                match set.children.get(&edge(key)) {
                    Some(below) if below.member => {}
                    Some(below) => {
                        let ty = node.entry(key).map_or(&FREE, |(ty, _)| ty);
                        if let Some(rest) = remove_nodes(&self::node(ty), value, below) {
                            kept.insert(key.clone(), rest);
                        }
                    }
                    None => {
                        kept.insert(key.clone(), value.clone());
                    }
                }
            }
            (!kept.is_empty() || map.is_empty()).then_some(Value::Object(kept))
        }
        _ => Some(value.clone()),
    }
}

/// The set with every struct field that has something below it made a member.
pub(crate) fn with_named_fields(root: &StructRef, set: &FieldSet) -> FieldSet {
    named(&struct_node(root.get()), set)
}

fn named(node: &Node<'_>, set: &FieldSet) -> FieldSet {
    let mut out = FieldSet {
        member: set.member,
        ..FieldSet::default()
    };
    for (edge, child) in &set.children {
        let (ty, declared) = match (node, edge.strip_prefix("f:")) {
            (Node::Items(list, _), _) => (&list.item, false),
            (_, Some(key)) => node.entry(key).unwrap_or((&FREE, false)),
            _ => (&FREE, false),
        };
        let mut inner = named(&self::node(ty), child);
        inner.member |= declared;
        out.children.insert(edge.clone(), inner);
    }
    out
}

/// Whether an applied object fits its schema.
pub(crate) fn check(root: &StructRef, value: &Value) -> Result<(), TypedError> {
    check_node(&Type::Struct(root.clone()), value, "")
}

fn check_node(ty: &Type, value: &Value, path: &str) -> Result<(), TypedError> {
    let fault = |what: String| {
        Err(TypedError {
            path: path.to_owned(),
            what,
        })
    };
    if value.is_null() {
        return Ok(());
    }
    match ty {
        Type::Struct(shape) if shape.get().scalar.is_none() => {
            let Value::Object(map) = value else {
                return fault(format!("expected map, got {}", go_value(value)));
            };
            let shape = shape.get();
            for (key, value) in map {
                let below = format!("{path}.{key}");
                match shape.field(key) {
                    Some(field) => check_node(&field.ty, value, &below)?,
                    None if shape.preserve_unknown => {}
                    None => {
                        return Err(TypedError {
                            path: below,
                            what: "field not declared in schema".into(),
                        });
                    }
                }
            }
            Ok(())
        }
        Type::Map(map) => {
            let Value::Object(entries) = value else {
                return fault(format!("expected map, got {}", go_value(value)));
            };
            entries.iter().try_for_each(|(key, value)| {
                check_node(&map.value, value, &format!("{path}.{key}"))
            })
        }
        Type::List(list) => {
            let Value::Array(items) = value else {
                return fault(format!("expected list, got {}", go_value(value)));
            };
            check_items(list, items, path)
        }
        Type::Scalar(scalar) => match (scalar, value) {
            (Scalar::String, Value::String(_)) => Ok(()),
            (Scalar::String, other) => fault(format!("expected string, got {}", go_value(other))),
            (Scalar::Bool, Value::Bool(_)) => Ok(()),
            (Scalar::Bool, other) => fault(format!("expected boolean, got {}", go_value(other))),
            (Scalar::Int32 | Scalar::Int64 | Scalar::Double, Value::Number(_)) => Ok(()),
            (Scalar::Int32 | Scalar::Int64 | Scalar::Double, other) => fault(format!(
                "expected numeric (int or float), got {}",
                go_type(other)
            )),
            _ => Ok(()),
        },
        Type::Struct(_) => Ok(()),
    }
}

fn check_items(list: &List, items: &[Value], path: &str) -> Result<(), TypedError> {
    let keys: Option<&[Cow<'static, str>]> = match &list.list_type {
        ListType::Atomic => None,
        ListType::Set => Some(&[]),
        ListType::Map(keys) => Some(keys),
    };
    let mut seen = BTreeSet::new();
    for (i, item) in items.iter().enumerate() {
        let mut below = format!("{path}[{i}]");
        if let Some(keys) = keys {
            let Some(edge) = item_edge(list, keys, item) else {
                let shown: Vec<String> = keys.iter().map(|k| format!("{k:?}")).collect();
                let what = format!(
                    "element {i}: associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
                    shown.join(" ")
                );
                return Err(TypedError {
                    path: path.to_owned(),
                    what,
                });
            };
            let spelled = FieldSet {
                member: false,
                children: BTreeMap::from([(edge.clone(), FieldSet::leaf())]),
            };
            let spelled = spelled.paths().pop().unwrap_or_default();
            if !seen.insert(edge) {
                let what = format!("duplicate entries for key {spelled}");
                return Err(TypedError {
                    path: path.to_owned(),
                    what,
                });
            }
            below = format!("{path}{spelled}");
        }
        check_node(&list.item, item, &below)?;
    }
    Ok(())
}

/// A value as Go prints it in such messages.
fn go_value(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("&{{[{}]}}", join(items.iter().map(plain))),
        Value::Object(map) => {
            format!(
                "&{{map[{}]}}",
                join(map.iter().map(|(k, v)| format!("{k}:{}", plain(v))))
            )
        }
        other => format!("&{{{}}}", plain(other)),
    }
}

fn join(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(" ")
}

/// A value as Go's `%v` prints it.
pub(in crate::registry) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "<nil>".into(),
        Value::Array(items) => format!("[{}]", join(items.iter().map(plain))),
        Value::Object(map) => format!(
            "map[{}]",
            join(map.iter().map(|(k, v)| format!("{k}:{}", plain(v))))
        ),
        other => other.to_string(),
    }
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "string",
        Value::Bool(_) => "bool",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
        _ => "float64",
    }
}
