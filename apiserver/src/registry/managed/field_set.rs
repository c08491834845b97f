//! Sets of fields: a tree in which every node says whether its own path is in the set.
//!
//! The edges are spelled as in `fieldsV1`: `f:NAME`, `k:{"key":"value"}`, `v:VALUE`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// See the module's documentation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSet {
    pub member: bool,
    pub children: BTreeMap<String, FieldSet>,
}

impl FieldSet {
    /// Just this path.
    pub fn leaf() -> Self {
        FieldSet {
            member: true,
            children: BTreeMap::new(),
        }
    }

    pub fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    /// Attaches a subtree unless it is empty.
    pub fn attach(&mut self, edge: String, child: FieldSet) {
        if !child.is_empty() {
            self.children.insert(edge, child);
        }
    }

    pub fn union(mut self, other: &FieldSet) -> FieldSet {
        self.member |= other.member;
        for (edge, child) in &other.children {
            let merged = match self.children.remove(edge) {
                Some(own) => own.union(child),
                None => child.clone(),
            };
            self.children.insert(edge.clone(), merged);
        }
        self
    }

    pub fn difference(mut self, other: &FieldSet) -> FieldSet {
        self.member &= !other.member;
        for (edge, child) in &other.children {
            if let Some(own) = self.children.remove(edge) {
                self.attach(edge.clone(), own.difference(child));
            }
        }
        self
    }

    pub fn intersection(&self, other: &FieldSet) -> FieldSet {
        let mut both = FieldSet {
            member: self.member && other.member,
            ..FieldSet::default()
        };
        for (edge, child) in &self.children {
            if let Some(theirs) = other.children.get(edge) {
                both.attach(edge.clone(), child.intersection(theirs));
            }
        }
        both
    }

    /// Whether the other set has every path of this one.
    pub fn is_within(&self, other: &FieldSet) -> bool {
        (!self.member || other.member)
            && self.children.iter().all(|(edge, child)| {
                let theirs = other.children.get(edge);
                theirs.is_some_and(|theirs| child.is_within(theirs))
            })
    }

    /// Removes the paths and everything below them.
    pub fn without(mut self, paths: &[&[&str]]) -> FieldSet {
        for path in paths {
            self.cut(path);
        }
        self
    }

    fn cut(&mut self, path: &[&str]) {
        match path {
            [] => {}
            [last] => {
                self.children.remove(*last);
            }
            [first, rest @ ..] => {
                if let Some(child) = self.children.get_mut(*first) {
                    child.cut(rest);
                    if child.is_empty() {
                        self.children.remove(*first);
                    }
                }
            }
        }
    }

    /// Every path of the set, as conflicts name them: `.spec.containers[name="c"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut all = Vec::new();
        self.collect_paths("", &mut all);
        all
    }

    fn collect_paths(&self, path: &str, all: &mut Vec<String>) {
        if self.member {
            all.push(path.to_owned());
        }
        for (edge, child) in &self.children {
            child.collect_paths(&format!("{path}{}", spell(edge)), all);
        }
    }

    /// As `fieldsV1`.
    pub fn to_value(&self) -> Value {
        let mut map = Map::new();
        if self.member && !self.children.is_empty() {
            map.insert(".".into(), Value::Object(Map::new()));
        }
        for (edge, child) in &self.children {
            map.insert(edge.clone(), child.to_value());
        }
        Value::Object(map)
    }

    /// From `fieldsV1`; `None` when it is no such thing.
    pub fn from_value(value: &Value) -> Option<FieldSet> {
        let mut root = Self::node(value)?;
        root.member = value.get(".").is_some();
        Some(root)
    }

    fn node(value: &Value) -> Option<FieldSet> {
        let map = value.as_object()?;
        let mut node = FieldSet {
            member: map.is_empty(),
            ..FieldSet::default()
        };
        for (edge, child) in map {
            if edge == "." {
                node.member = true;
            } else {
                edge.get(1..2).filter(|colon| *colon == ":")?;
                node.children.insert(edge.clone(), Self::node(child)?);
            }
        }
        Some(node)
    }
}

/// An edge in a path for people.
fn spell(edge: &str) -> String {
    let (kind, rest) = edge.split_at(edge.len().min(2));
    match kind {
        "f:" => format!(".{rest}"),
        "k:" => {
            let keys: Value = serde_json::from_str(rest).unwrap_or_default();
            let pairs = keys.as_object().into_iter().flatten();
            let spelled: Vec<String> = pairs.map(|(k, v)| format!("{k}={v}")).collect();
            format!("[{}]", spelled.join(","))
        }
        "v:" => format!("[={rest}]"),
        _ => format!("[{rest}]"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(value: Value) -> FieldSet {
        FieldSet::from_value(&value).unwrap()
    }

    #[test]
    fn sets_are_written_as_they_are_read() {
        let value = json!({"f:a": {".": {}, "f:b": {}}, "f:c": {"k:{\"name\":\"x\"}": {".": {}, "f:d": {}}}});
        assert_eq!(set(value.clone()).to_value(), value);
    }

    #[test]
    fn the_operations_work_on_single_paths() {
        let a = set(json!({"f:a": {".": {}, "f:b": {}}, "f:c": {}}));
        let b = set(json!({"f:a": {"f:b": {}}, "f:d": {}}));
        assert_eq!(
            a.clone().difference(&b).to_value(),
            json!({"f:a": {}, "f:c": {}})
        );
        assert_eq!(a.intersection(&b).to_value(), json!({"f:a": {"f:b": {}}}));
        assert!(a.intersection(&b).is_within(&a) && a.intersection(&b).is_within(&b));
        assert!(!a.is_within(&b) && !b.is_within(&a));
        assert_eq!(
            a.union(&b).to_value(),
            json!({"f:a": {".": {}, "f:b": {}}, "f:c": {}, "f:d": {}})
        );
    }

    #[test]
    fn paths_are_spelled_for_people() {
        let a = set(
            json!({"f:spec": {"f:c": {"k:{\"name\":\"x\",\"port\":1}": {"f:d": {}}}, "f:s": {"v:\"y\"": {}}}}),
        );
        assert_eq!(
            a.paths(),
            [".spec.c[name=\"x\",port=1].d", ".spec.s[=\"y\"]"]
        );
    }
}
