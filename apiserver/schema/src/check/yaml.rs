//! YAML bodies as trees. Of equal keys the last wins, and the others are told with their lines.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::{DuplicateKeyPolicy, Spanned};

use super::MAX_NESTING;
use super::request::yaml_error;

/// A document.
#[derive(Debug, Default, PartialEq)]
pub struct Document {
    /// What it says.
    pub value: Value,
    /// `line N: key "..." already set in map`
    pub repeated: Vec<String>,
}

impl Document {
    /// Go's error about the repeated keys.
    pub fn strict_error(&self) -> Option<String> {
        (!self.repeated.is_empty())
            .then(|| format!("yaml: unmarshal errors:\n  {}", self.repeated.join("\n  ")))
    }
}

/// Reads a document; the error is Go's.
pub fn read_yaml(text: &str) -> Result<Document, String> {
    // Reading walks down the stack, with more than twenty KiB a level where the compiler does
    // not optimize.
    let options = serde_saphyr::options! {
        duplicate_keys: DuplicateKeyPolicy::LastWins,
        budget: serde_saphyr::budget! { max_depth: MAX_NESTING },
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|e| match e.without_snippet() {
        serde_saphyr::Error::Budget { breach, .. }
            if format!("{breach:?}").starts_with("Depth") =>
        {
            "exceeded max depth".into()
        }
        e => yaml_error(&e.to_string()),
    })
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_any(Tree)
    }
}

struct Tree;

fn leaf<E>(value: impl Into<Value>) -> Result<Document, E> {
    Ok(Document {
        value: value.into(),
        repeated: Vec::new(),
    })
}

impl<'de> Visitor<'de> for Tree {
    type Value = Document;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Document, E> {
        leaf(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Document, E> {
        leaf(Value::Null)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Document, E> {
        leaf(v)
    }

    fn visit_i64<E>(self, v: i64) -> Result<Document, E> {
        leaf(v)
    }

    fn visit_u64<E>(self, v: u64) -> Result<Document, E> {
        leaf(v)
    }

    fn visit_f64<E>(self, v: f64) -> Result<Document, E> {
        leaf(Number::from_f64(v).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, v: &str) -> Result<Document, E> {
        leaf(v)
    }

    fn visit_string<E>(self, v: String) -> Result<Document, E> {
        leaf(v)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut input: A) -> Result<Document, A::Error> {
        let (mut items, mut repeated) = (Vec::new(), Vec::new());
        while let Some(item) = input.next_element::<Document>()? {
            items.push(item.value);
            repeated.extend(item.repeated);
        }
        Ok(Document {
            value: items.into(),
            repeated,
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut input: A) -> Result<Document, A::Error> {
        let (mut map, mut repeated) = (Map::new(), Vec::new());
        while let Some(key) = input.next_key::<Spanned<String>>()? {
            if map.contains_key(&key.value) {
                let line = key.referenced.line();
                repeated.push(format!(
                    "line {line}: key {:?} already set in map",
                    key.value
                ));
            }
            let value = input.next_value::<Document>()?;
            map.insert(key.value, value.value);
            repeated.extend(value.repeated);
        }
        Ok(Document {
            value: map.into(),
            repeated,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_last_of_equal_keys_wins_and_the_others_are_told() {
        let text = "a: 1\nb:\n  c: v\n  d: [1, {e: 1, e: 2}]\n  c: w\n1: true\n";
        let read = read_yaml(text).expect("valid YAML");
        assert_eq!(
            read.value,
            json!({"a": 1, "b": {"c": "w", "d": [1, {"e": 2}]}, "1": true})
        );
        assert_eq!(
            read.strict_error().as_deref(),
            Some(
                "yaml: unmarshal errors:\n  line 4: key \"e\" already set in map\n  line 5: key \"c\" already set in map"
            )
        );
        assert_eq!(read_yaml("a: b").expect("valid").strict_error(), None);
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |levels: usize| format!("{}1{}", "{a: ".repeat(levels), "}".repeat(levels));
        let thread = std::thread::Builder::new().stack_size(8 << 20);
        let reader = thread.spawn(move || {
            assert!(read_yaml(&nested(100)).is_ok());
            let refused = Err("exceeded max depth".to_owned());
            assert_eq!(read_yaml(&nested(101)), refused);
            for levels in [2000, 20_000] {
                assert!(read_yaml(&nested(levels)).is_err(), "{levels}");
            }
        });
        reader.expect("a thread").join().expect("no panic");
    }
}
