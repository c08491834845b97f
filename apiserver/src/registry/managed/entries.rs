//! `metadata.managedFields`: one entry per manager, operation, version and subresource.

use serde_json::{Value, json};

use super::field_set::FieldSet;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Apply,
    Update,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        }
    }
}

/// What one manager owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub manager: String,
    pub operation: Operation,
    pub api_version: String,
    pub subresource: String,
    pub time: String,
    pub set: FieldSet,
}

impl Entry {
    /// Whether both stand for the same manager. An applier has one entry whatever version it uses.
    pub fn is_of(&self, other: &Entry) -> bool {
        self.manager == other.manager
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }

    /// As conflicts name it.
    pub fn describe(&self) -> String {
        let mut text = Value::from(self.manager.as_str()).to_string();
        if !self.subresource.is_empty() {
            text = format!(
                "{text} with subresource {}",
                Value::from(self.subresource.as_str())
            );
        }
        if self.operation == Operation::Update {
            text = format!("{text} using {}", self.api_version);
        }
        text
    }
}

/// How many updating managers are told apart.
const MAX_UPDATERS: usize = 10;

/// All entries; `None` when the field is absent or cannot be read.
pub fn decode(object: &Value) -> Option<Vec<Entry>> {
    let list = object["metadata"]["managedFields"].as_array()?;
    list.iter().map(entry).collect()
}

/// `[{}]`, with which a client forgets all managers.
pub fn is_reset(object: &Value) -> bool {
    match object["metadata"]["managedFields"]
        .as_array()
        .map(Vec::as_slice)
    {
        Some([one]) => one.as_object().is_some_and(|entry| {
            entry
                .values()
                .all(|v| v.is_null() || v.as_str().is_some_and(str::is_empty))
        }),
        _ => false,
    }
}

fn entry(value: &Value) -> Option<Entry> {
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    if text("fieldsType") != "FieldsV1" || text("apiVersion").is_empty() {
        return None;
    }
    let operation = match value["operation"].as_str()? {
        "Apply" => Operation::Apply,
        "Update" => Operation::Update,
        _ => return None,
    };
    let set = match &value["fieldsV1"] {
        Value::Null => FieldSet::default(),
        fields => {
            let mut set = FieldSet::from_value(fields)?;
            // The root is never a field.
            set.member = false;
            set
        }
    };
    Some(Entry {
        manager: text("manager"),
        operation,
        api_version: text("apiVersion"),
        subresource: text("subresource"),
        time: text("time"),
        set,
    })
}

/// Puts the entries into the object, in upstream's order.
pub fn encode(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|e| !e.set.is_empty());
    cap(&mut entries);
    entries.sort_by(|a, b| {
        (
            a.operation,
            &a.time,
            &a.manager,
            &a.api_version,
            &a.subresource,
        )
            .cmp(&(
                b.operation,
                &b.time,
                &b.manager,
                &b.api_version,
                &b.subresource,
            ))
    });
    let metadata = crate::registry::meta::of_mut(object);
    if entries.is_empty() {
        metadata.remove("managedFields");
        return;
    }
    let list: Vec<Value> = entries.iter().map(to_value).collect();
    metadata.insert("managedFields".into(), list.into());
}

fn to_value(entry: &Entry) -> Value {
    let mut value = json!({
        "manager": entry.manager,
        "operation": entry.operation.name(),
        "apiVersion": entry.api_version,
        "fieldsType": "FieldsV1",
        "fieldsV1": entry.set.to_value(),
    });
    if !entry.time.is_empty() {
        value["time"] = entry.time.as_str().into();
    }
    if !entry.subresource.is_empty() {
        value["subresource"] = entry.subresource.as_str().into();
    }
    value
}

/// The oldest of too many updaters become one.
fn cap(entries: &mut Vec<Entry>) {
    let mut updaters: Vec<Entry> = Vec::new();
    entries.retain(|e| {
        let updater = e.operation == Operation::Update;
        if updater {
            updaters.push(e.clone());
        }
        !updater
    });
    updaters.sort_by(|a, b| a.time.cmp(&b.time));
    let surplus = updaters.len().saturating_sub(MAX_UPDATERS);
    let mut ancient: Vec<Entry> = Vec::new();
    if surplus > 0 {
        // One more goes, since what takes their place counts as well.
        for old in updaters.drain(..=surplus) {
            match ancient
                .iter_mut()
                .find(|a| a.api_version == old.api_version)
            {
                Some(same) => {
                    same.set = std::mem::take(&mut same.set).union(&old.set);
                    same.time = old.time;
                }
                None => ancient.push(Entry {
                    manager: "ancient-changes".into(),
                    subresource: String::new(),
                    ..old
                }),
            }
        }
    }
    entries.extend(ancient);
    entries.extend(updaters);
}

/// Whether two objects differ in nothing but the times of their entries.
pub fn same_but_times(old: &Value, new: &Value) -> bool {
    const UNCOMPARED: &[&str] = &["managedFields", "resourceVersion"];
    equal_but(old, new, &["metadata"])
        && equal_but(&old["metadata"], &new["metadata"], UNCOMPARED)
        && same_entries(old, new)
}

/// Whether two objects differ in nothing but the version of their resource.
pub(super) fn equal_but_version(a: &Value, b: &Value) -> bool {
    equal_but(a, b, &["metadata"])
        && equal_but(&a["metadata"], &b["metadata"], &["resourceVersion"])
}

/// Whether two maps agree in everything but these keys.
fn equal_but(old: &Value, new: &Value, uncompared: &[&str]) -> bool {
    let compared = |value: &Value| {
        let keys = value.as_object().into_iter().flat_map(|map| map.keys());
        keys.filter(|key| !uncompared.contains(&key.as_str()))
            .count()
    };
    let pairs = old.as_object().into_iter().flatten();
    compared(old) == compared(new)
        && pairs
            .filter(|(key, _)| !uncompared.contains(&key.as_str()))
            .all(|(key, value)| new.get(key) == Some(value))
}

/// Whether the same entries stand there, in any order, whenever they were written.
fn same_entries(old: &Value, new: &Value) -> bool {
    fn entries(object: &Value) -> &[Value] {
        let list = object["metadata"]["managedFields"].as_array();
        list.map(Vec::as_slice).unwrap_or_default()
    }
    let (old, new) = (entries(old), entries(new));
    let mut left: Vec<&Value> = new.iter().collect();
    old.len() == new.len()
        && old.iter().all(|entry| {
            let found = left
                .iter()
                .position(|other| equal_but(entry, other, &["time"]));
            found.map(|at| left.remove(at)).is_some()
        })
}
