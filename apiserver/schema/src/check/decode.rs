//! One pass over a JSON text (or value) beside its shape.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Map, Number, Value};

use super::go::{embedded, go_type};
use super::{DecodeError, scalars};
use crate::quantity;
use crate::types::{Field, List, Map as MapType, Presence, Scalar, Struct, StructRef, Type, named};

const JSON_SCHEMA: &str =
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
/// Upstream stops to collect after this many.
const MAX_STRICT: usize = 100;

#[derive(Debug)]
enum Segment {
    Field(Cow<'static, str>),
    /// A Go struct that is inlined in JSON: it shows in type errors only.
    Embedded(&'static str),
    Key(String),
    Index(usize),
}

/// What a pass collects.
#[derive(Debug, Default)]
pub(super) struct Context {
    pub(super) strict: Vec<String>,
    /// The first error that does not end the pass.
    pub(super) saved: Option<DecodeError>,
    /// The error that ended the pass.
    pub(super) abort: Option<DecodeError>,
    path: Vec<Segment>,
    structs: Vec<Cow<'static, str>>,
}

impl Context {
    fn report(&mut self, what: &str, name: &str) {
        if self.strict.len() >= MAX_STRICT {
            return;
        }
        let mut path = String::new();
        for segment in &self.path {
            match segment {
                Segment::Field(n) => push(&mut path, n),
                Segment::Key(n) => push(&mut path, n),
                Segment::Index(i) => {
                    let _ = write!(path, "[{i}]");
                }
                Segment::Embedded(_) => {}
            }
        }
        push(&mut path, name);
        self.strict.push(format!("{what} field \"{path}\""));
    }

    /// Go's words for a value that does not fit.
    fn mismatch(&self, what: &str, go_type: &str) -> DecodeError {
        let Some(own) = self.structs.last() else {
            return DecodeError::Type(format!(
                "json: cannot unmarshal {what} into Go value of type {go_type}"
            ));
        };
        let mut path = String::new();
        for segment in &self.path {
            match segment {
                Segment::Field(n) => push(&mut path, n),
                Segment::Embedded(n) => push(&mut path, n),
                Segment::Key(_) | Segment::Index(_) => {}
            }
        }
        DecodeError::Type(format!(
            "json: cannot unmarshal {what} into Go struct field {own}.{path} of type {go_type}"
        ))
    }
}

fn push(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}

/// One value and what it should be.
pub(super) struct Node<'c, 't> {
    cx: &'c mut Context,
    ty: &'t Type,
    field: Option<&'t Field>,
    /// Whether Go's struct rules hold (built-in kinds).
    typed: bool,
}

impl<'c, 't> Node<'c, 't> {
    pub(super) fn root(cx: &'c mut Context, ty: &'t Type) -> Self {
        let typed = matches!(ty, Type::Struct(StructRef::Builtin(_)));
        Self {
            cx,
            ty,
            field: None,
            typed,
        }
    }

    fn child<'a>(&'a mut self, ty: &'a Type, field: Option<&'a Field>) -> Node<'a, 'a> {
        let typed = match ty {
            Type::Struct(StructRef::Builtin(_)) => true,
            _ => self.typed,
        };
        Node {
            cx: self.cx,
            ty,
            field,
            typed,
        }
    }

    fn mismatch<E: serde::de::Error>(self, what: &str, loose: Value) -> Result<Option<Value>, E> {
        if !self.typed {
            return Ok(Some(loose));
        }
        let go = match self.ty {
            Type::Scalar(Scalar::IntOrString) => "int32".into(),
            Type::Scalar(Scalar::Time | Scalar::MicroTime) => "string".into(),
            ty => go_type(ty, self.field),
        };
        let error = self.cx.mismatch(what, &go);
        match self.ty {
            // Types with their own decoding end the pass.
            Type::Scalar(Scalar::Quantity) => {
                self.abort(quantity::QuantityError::Format.to_string())
            }
            Type::Scalar(Scalar::IntOrString | Scalar::Time | Scalar::MicroTime) => {
                self.cx.abort = Some(error);
                Err(E::custom(""))
            }
            _ => {
                self.cx.saved.get_or_insert(error);
                Ok(None)
            }
        }
    }

    fn abort<E: serde::de::Error>(self, message: String) -> Result<Option<Value>, E> {
        self.cx.abort = Some(DecodeError::Leaf(message));
        Err(E::custom(""))
    }

    fn leaf<E: serde::de::Error>(self, result: Result<String, String>) -> Result<Option<Value>, E> {
        match result {
            Ok(text) => Ok(Some(text.into())),
            Err(message) => self.abort(message),
        }
    }

    fn text<E: serde::de::Error>(self, text: Cow<'_, str>) -> Result<Option<Value>, E> {
        if !self.typed {
            return Ok(Some(text.into_owned().into()));
        }
        match self.ty {
            Type::Scalar(Scalar::Quantity) => {
                self.leaf(quantity::canonical(&text).map_err(|e| e.to_string()))
            }
            Type::Scalar(Scalar::Time) => self.leaf(scalars::time(&text)),
            Type::Scalar(Scalar::MicroTime) => self.leaf(scalars::micro_time(&text)),
            Type::Scalar(Scalar::Bytes) => match scalars::bytes(&text) {
                Ok(text) => Ok(Some(text.into())),
                Err(message) => {
                    self.cx.saved.get_or_insert(DecodeError::Leaf(message));
                    Ok(None)
                }
            },
            Type::Scalar(
                Scalar::String
                | Scalar::IntOrString
                | Scalar::RawExtension
                | Scalar::Json
                | Scalar::Any
                | Scalar::FieldsV1,
            ) => Ok(Some(text.into_owned().into())),
            _ => self.mismatch("string", Value::Null),
        }
    }

    fn integer<E: serde::de::Error>(self, number: i128) -> Result<Option<Value>, E> {
        let value = i64::try_from(number).map_or_else(|_| Value::from(number as f64), Value::from);
        if !self.typed {
            return Ok(Some(value));
        }
        let (low, high) = match self.ty {
            Type::Scalar(Scalar::Int32 | Scalar::IntOrString) => {
                (i128::from(i32::MIN), i128::from(i32::MAX))
            }
            Type::Scalar(Scalar::Int64) => (i128::from(i64::MIN), i128::from(i64::MAX)),
            Type::Scalar(
                Scalar::Double
                | Scalar::Json
                | Scalar::Any
                | Scalar::RawExtension
                | Scalar::FieldsV1,
            ) => {
                return Ok(Some(value));
            }
            Type::Scalar(Scalar::Quantity) => {
                return self
                    .leaf(quantity::canonical(&number.to_string()).map_err(|e| e.to_string()));
            }
            _ => return self.mismatch("number", value),
        };
        if (low..=high).contains(&number) {
            return Ok(Some(value));
        }
        self.mismatch(&format!("number {number}"), value)
    }

    fn struct_map<'de, A: MapAccess<'de>>(
        &mut self,
        shape: &Struct,
        mut input: A,
    ) -> Result<Option<Value>, A::Error> {
        let typed = !shape.custom;
        let mut out = Map::new();
        let mut seen = 0u128;
        self.cx.structs.push(shape.go_struct());
        while let Some(key) = input.next_key::<String>()? {
            let Ok(at) = shape.fields.binary_search_by(|f| f.name.as_ref().cmp(&key)) else {
                self.unknown_field(shape, key, &mut out, &mut input)?;
                continue;
            };
            let field = &shape.fields[at];
            let bit = 1u128.checked_shl(at as u32).unwrap_or(0);
            if seen & bit != 0 {
                self.cx.report("duplicate", &key);
            }
            seen |= bit;
            let depth = self.cx.path.len();
            if typed && field.number.len() > 1 {
                self.cx.path.extend(
                    embedded(shape.short_name())
                        .iter()
                        .map(|n| Segment::Embedded(n)),
                );
            }
            self.cx.path.push(Segment::Field(field.name.clone()));
            let node = Node {
                typed,
                ..self.child(&field.ty, Some(field))
            }
            .retyped();
            let value = input.next_value_seed(node)?;
            self.cx.path.truncate(depth);
            match value {
                Some(v) if !(typed && field.presence == Presence::OmitEmpty && is_empty(&v)) => {
                    out.insert(key, v);
                }
                _ => {
                    out.remove(&key);
                }
            }
        }
        self.cx.structs.pop();
        Ok(Some(Value::Object(out)))
    }

    fn unknown_field<'de, A: MapAccess<'de>>(
        &mut self,
        shape: &Struct,
        key: String,
        out: &mut Map<String, Value>,
        input: &mut A,
    ) -> Result<(), A::Error> {
        if !shape.preserve_unknown {
            self.cx.report("unknown", &key);
            return input.next_value::<IgnoredAny>().map(|_| ());
        }
        if out.contains_key(&key) {
            self.cx.report("duplicate", &key);
        }
        self.cx.path.push(Segment::Key(key.clone()));
        let any = Type::Scalar(Scalar::Any);
        let value = input.next_value_seed(Node {
            cx: self.cx,
            ty: &any,
            field: None,
            typed: false,
        })?;
        self.cx.path.pop();
        out.extend(value.map(|v| (key, v)));
        Ok(())
    }

    fn free_map<'de, A: MapAccess<'de>>(
        &mut self,
        map: &MapType,
        mut input: A,
    ) -> Result<Option<Value>, A::Error> {
        let mut out = Map::new();
        while let Some(key) = input.next_key::<String>()? {
            if out.contains_key(&key) {
                self.cx.report("duplicate", &key);
            }
            self.cx.path.push(Segment::Key(key.clone()));
            let field = self.field;
            let value = input.next_value_seed(self.child(&map.value, field))?;
            self.cx.path.pop();
            let zero = || {
                if self.typed {
                    zero(&map.value)
                } else {
                    Value::Null
                }
            };
            out.insert(key, value.unwrap_or_else(zero));
        }
        Ok(Some(Value::Object(out)))
    }

    fn list<'de, A: SeqAccess<'de>>(
        &mut self,
        list: &List,
        mut input: A,
    ) -> Result<Option<Value>, A::Error> {
        let mut out = Vec::new();
        loop {
            self.cx.path.push(Segment::Index(out.len()));
            let field = self.field;
            let item = input.next_element_seed(self.child(&list.item, field))?;
            self.cx.path.pop();
            let Some(item) = item else { break };
            out.push(item.unwrap_or_else(|| {
                if self.typed {
                    zero(&list.item)
                } else {
                    Value::Null
                }
            }));
        }
        Ok(Some(Value::Array(out)))
    }
}

impl Node<'_, '_> {
    /// A built-in struct inside of a custom one follows Go's rules.
    fn retyped(mut self) -> Self {
        self.typed |= matches!(self.ty, Type::Struct(StructRef::Builtin(_)));
        self
    }
}

/// What a `null` item of a list or map of a built-in kind reads as.
fn zero(ty: &Type) -> Value {
    match ty {
        Type::Struct(_) => Value::Object(Map::new()),
        Type::Scalar(Scalar::String | Scalar::Bytes) => "".into(),
        Type::Scalar(Scalar::Quantity) => "0".into(),
        Type::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::Double | Scalar::IntOrString) => {
            0.into()
        }
        Type::Scalar(Scalar::Bool) => false.into(),
        _ => Value::Null,
    }
}

/// Whether an encoder that omits empty values would leave it out.
pub(crate) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_, '_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Self::Value, D::Error> {
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_, '_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(if self.typed { None } else { Some(Value::Null) })
    }

    fn visit_bool<E: serde::de::Error>(self, v: bool) -> Result<Self::Value, E> {
        match self.ty {
            Type::Scalar(
                Scalar::Bool
                | Scalar::Json
                | Scalar::Any
                | Scalar::RawExtension
                | Scalar::SchemaOrBool
                | Scalar::FieldsV1,
            ) => Ok(Some(v.into())),
            _ => self.mismatch("bool", v.into()),
        }
    }

    fn visit_i64<E: serde::de::Error>(self, v: i64) -> Result<Self::Value, E> {
        self.integer(v.into())
    }

    fn visit_u64<E: serde::de::Error>(self, v: u64) -> Result<Self::Value, E> {
        self.integer(v.into())
    }

    fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<Self::Value, E> {
        let value = Number::from_f64(v).map_or(Value::Null, Value::Number);
        match self.ty {
            Type::Scalar(
                Scalar::Double
                | Scalar::Json
                | Scalar::Any
                | Scalar::RawExtension
                | Scalar::FieldsV1,
            ) => Ok(Some(value)),
            Type::Scalar(Scalar::Quantity) if self.typed => {
                self.leaf(quantity::canonical(&v.to_string()).map_err(|e| e.to_string()))
            }
            Type::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::IntOrString) => {
                self.mismatch(&format!("number {value}"), value)
            }
            _ => self.mismatch("number", value),
        }
    }

    fn visit_str<E: serde::de::Error>(self, v: &str) -> Result<Self::Value, E> {
        self.text(Cow::Borrowed(v))
    }

    fn visit_string<E: serde::de::Error>(self, v: String) -> Result<Self::Value, E> {
        self.text(Cow::Owned(v))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, input: A) -> Result<Self::Value, A::Error> {
        let free = List::free();
        match self.ty {
            Type::List(list) => self.list(list, input),
            Type::Scalar(Scalar::Any | Scalar::Json | Scalar::RawExtension | Scalar::FieldsV1) => {
                Node {
                    typed: false,
                    ..self
                }
                .list(&free, input)
            }
            Type::Scalar(Scalar::SchemaOrArray) => {
                let list = List {
                    item: schema_type(),
                    ..free
                };
                self.list(&list, input)
            }
            Type::Scalar(Scalar::SchemaOrStrings) => {
                let list = List {
                    item: Type::Scalar(Scalar::String),
                    ..free
                };
                self.list(&list, input)
            }
            _ if !self.typed => self.list(&free, input),
            _ => {
                let mut input = input;
                while input.next_element::<IgnoredAny>()?.is_some() {}
                self.mismatch("array", Value::Null)
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(mut self, input: A) -> Result<Self::Value, A::Error> {
        let free = MapType::free();
        match self.ty {
            Type::Struct(shape) => self.struct_map(shape.get(), input),
            Type::Map(map) => self.free_map(map, input),
            Type::Scalar(Scalar::Any | Scalar::Json | Scalar::RawExtension | Scalar::FieldsV1) => {
                Node {
                    typed: false,
                    ..self
                }
                .free_map(&free, input)
            }
            Type::Scalar(
                Scalar::SchemaOrArray | Scalar::SchemaOrBool | Scalar::SchemaOrStrings,
            ) => match schema_type().as_struct() {
                Some(shape) => self.struct_map(shape, input),
                None => Err(A::Error::custom("no schema type")),
            },
            _ if !self.typed => self.free_map(&free, input),
            _ => {
                let mut input = input;
                while input.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                self.mismatch("object", Value::Null)
            }
        }
    }
}

fn schema_type() -> Type {
    named(JSON_SCHEMA).map_or(Type::Scalar(Scalar::Any), Type::Struct)
}
