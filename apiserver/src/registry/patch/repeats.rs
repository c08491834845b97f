//! Whether JSON has keys that stand twice in one object.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Whether this is JSON, and no object in it has a key twice.
pub(super) fn has_none(body: &[u8]) -> bool {
    serde_json::from_slice::<Distinct>(body).is_ok()
}

struct Distinct;

impl<'de> Deserialize<'de> for Distinct {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_any(Distinct)
    }
}

/// A key, without a copy where it needs none.
#[derive(Deserialize, PartialEq, Eq, Hash)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Visitor<'de> for Distinct {
    type Value = Distinct;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Distinct, A::Error> {
        let mut known = HashSet::new();
        while let Some(key) = map.next_key::<Key<'de>>()? {
            if !known.insert(key) {
                return Err(A::Error::custom("a key stands twice"));
            }
            map.next_value::<Distinct>()?;
        }
        Ok(Distinct)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Distinct, A::Error> {
        while items.next_element::<Distinct>()?.is_some() {}
        Ok(Distinct)
    }

    fn visit_unit<E>(self) -> Result<Distinct, E> {
        Ok(Distinct)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Distinct, E> {
        Ok(Distinct)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Distinct, E> {
        Ok(Distinct)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Distinct, E> {
        Ok(Distinct)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Distinct, E> {
        Ok(Distinct)
    }

    fn visit_str<E>(self, _: &str) -> Result<Distinct, E> {
        Ok(Distinct)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_stand_twice_in_one_object_are_found() {
        for (body, expect) in [
            (
                r#"{"a": [{"b": 1}, {"b": null}], "b": -1.5e3, "c": true}"#,
                true,
            ),
            (r#"{"a": [{"b": 1, "b": 2}]}"#, false),
            ("{\"a\": 1, \"\\u0061\": 2}", false),
            ("a: 1", false),
            ("{", false),
        ] {
            assert_eq!(has_none(body.as_bytes()), expect, "{body}");
        }
    }
}
