//! The type table: the shape of every kind as plain data.

mod builtin;
mod structural;
mod text;

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::Value;

pub use builtin::{builtin, named, root};
pub use structural::{custom_root, from_structural};
pub use text::TableError;

/// Group, version and kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gvk {
    /// Empty for the core group.
    pub group: Cow<'static, str>,
    /// For example `v1`.
    pub version: Cow<'static, str>,
    /// For example `Pod`.
    pub kind: Cow<'static, str>,
}

impl Gvk {
    /// From owned or borrowed parts.
    pub fn new(
        group: impl Into<String>,
        version: impl Into<String>,
        kind: impl Into<String>,
    ) -> Self {
        Self {
            group: Cow::Owned(group.into()),
            version: Cow::Owned(version.into()),
            kind: Cow::Owned(kind.into()),
        }
    }

    /// `apiVersion` as objects spell it: `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// From an object's `apiVersion` and `kind`.
    pub fn from_api_version(api_version: &str, kind: &str) -> Self {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        Self::new(group, version, kind)
    }
}

/// What a value can be.
#[derive(Clone, Debug)]
pub enum Type {
    /// A leaf.
    Scalar(Scalar),
    /// An object with known fields.
    Struct(StructRef),
    /// An array.
    List(Arc<List>),
    /// An object with free keys.
    Map(Arc<Map>),
}

/// Leaves, including those whose JSON form is more than one token wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    /// UTF-8 text.
    String,
    /// true or false.
    Bool,
    /// 32 bits, signed.
    Int32,
    /// 64 bits, signed.
    Int64,
    /// A float.
    Double,
    /// Base64 in JSON.
    Bytes,
    /// RFC 3339 with seconds.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    /// A decimal with a suffix: `100m`, `1Gi`.
    Quantity,
    /// A number or a text (ports, percentages).
    IntOrString,
    /// Any object, kept as it came (`runtime.RawExtension`).
    RawExtension,
    /// The set of managed fields of one manager.
    FieldsV1,
    /// Any JSON value (`apiextensions.JSON`).
    Json,
    /// A JSON schema or an array of them.
    SchemaOrArray,
    /// A JSON schema or a boolean.
    SchemaOrBool,
    /// A JSON schema or an array of strings.
    SchemaOrStrings,
    /// Any JSON value of a custom resource whose schema says nothing about it.
    Any,
}

/// How a list's items are told apart by server-side apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListType {
    /// Replaced as a whole.
    Atomic,
    /// Items are their own keys.
    Set,
    /// Items are structs with these key fields.
    Map(Vec<Cow<'static, str>>),
}

/// An array.
#[derive(Clone, Debug)]
pub struct List {
    /// Type of each item.
    pub item: Type,
    /// Merge behaviour; absent where the schema says nothing (as atomic).
    pub list_type: ListType,
    /// Whether the schema says the list type at all (it is published only then).
    pub declared: bool,
    /// What an item that is `null` or absent reads as.
    pub item_default: Option<Value>,
    /// The only values of a (string) item.
    pub item_enum: Vec<Cow<'static, str>>,
    /// Whether an item may be `null` (custom resources).
    pub item_nullable: bool,
}

/// An object with free keys.
#[derive(Clone, Debug)]
pub struct Map {
    /// Type of each value.
    pub value: Type,
    /// Replaced as a whole by server-side apply.
    pub atomic: bool,
    /// What a value that is `null` reads as.
    pub value_default: Option<Value>,
    /// The only values of a (string) value.
    pub value_enum: Vec<Cow<'static, str>>,
    /// Whether a value may be `null` (custom resources).
    pub value_nullable: bool,
}

/// When an encoder writes a field (the Go types of the API decide this upstream).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Present or absent: an explicit zero value is kept.
    Pointer,
    /// The zero value reads as absent and is not written.
    OmitEmpty,
    /// As [`Self::Pointer`], and written as `null` when absent.
    Nil,
    /// Always written: `""`, `0`, `false`, `null` for a list, `{}` for a struct.
    Always,
}

/// Strategic merge patch directives of a field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patch {
    /// Lists are merged by `merge_key`; else they are replaced.
    pub merge: bool,
    /// Keys that the patch does not name are removed (`retainKeys`).
    pub retain_keys: bool,
    /// The field of an item that identifies it.
    pub merge_key: Option<Cow<'static, str>>,
}

/// One field of a struct.
#[derive(Clone, Debug)]
pub struct Field {
    /// JSON name.
    pub name: Cow<'static, str>,
    /// Path of protobuf field numbers: more than one where a message is inlined in JSON,
    /// none where the field has no number that is known.
    pub number: Vec<u16>,
    /// Type.
    pub ty: Type,
    /// When it is written.
    pub presence: Presence,
    /// Required by the schema.
    pub required: bool,
    /// `null` is a value (custom resources).
    pub nullable: bool,
    /// Default that the schema declares.
    pub default: Option<Value>,
    /// Strategic merge.
    pub patch: Patch,
    /// Allowed values of a string.
    pub enumeration: Vec<Cow<'static, str>>,
    /// Go's name of the (string) type, for decoding errors.
    pub go_type: Option<Cow<'static, str>>,
    /// Published words that have no other place: name and value of the extension.
    pub extensions: Vec<(&'static str, &'static str)>,
}

impl Field {
    /// A struct that is merged field by field although its type is atomic.
    pub fn granular(&self) -> bool {
        self.extensions
            .contains(&("x-kubernetes-map-type", "granular"))
    }
}

/// An object with known fields.
#[derive(Clone, Debug, Default)]
pub struct Struct {
    /// Name of the published definition (`io.k8s.api.core.v1.Pod`); for custom resources
    /// the reversed group, version and kind.
    pub name: Cow<'static, str>,
    /// Sorted by name.
    pub fields: Vec<Field>,
    /// Names of the required fields, in the order in which they are published.
    pub required: Vec<Cow<'static, str>>,
    /// The kinds that have this shape.
    pub gvks: Vec<Gvk>,
    /// Replaced as a whole by server-side apply.
    pub atomic: bool,
    /// From a custom resource definition.
    pub custom: bool,
    /// Unknown fields are kept (custom resources).
    pub preserve_unknown: bool,
    /// Whether it embeds a whole object, whose `apiVersion`, `kind` and `metadata` are known.
    pub embedded: bool,
    /// Set for definitions without fields, which are a scalar.
    pub scalar: Option<Scalar>,
    /// `x-kubernetes-unions`, as published.
    pub unions: Option<Value>,
}

impl List {
    /// A list of anything.
    pub fn free() -> Self {
        Self {
            item: Type::Scalar(Scalar::Any),
            list_type: ListType::Atomic,
            declared: false,
            item_default: None,
            item_enum: Vec::new(),
            item_nullable: true,
        }
    }
}

impl Map {
    /// A map of anything.
    pub fn free() -> Self {
        Self {
            value: Type::Scalar(Scalar::Any),
            atomic: false,
            value_default: None,
            value_enum: Vec::new(),
            value_nullable: true,
        }
    }
}

impl Struct {
    /// The field with this JSON name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields
            .binary_search_by(|f| f.name.as_ref().cmp(name))
            .ok()
            .map(|i| &self.fields[i])
    }

    /// The last part of the name: `Pod`.
    pub fn short_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or_default()
    }

    /// Name as a Go error spells it: `v1.Container`.
    pub fn go_name(&self) -> String {
        let mut parts = self.name.rsplit('.');
        let (short, package) = (
            parts.next().unwrap_or_default(),
            parts.next().unwrap_or_default(),
        );
        format!("{package}.{short}")
    }
}

/// A struct of the built-in table, or one that a custom resource defines.
#[derive(Clone, Debug)]
pub enum StructRef {
    /// Index in the built-in table; shapes may be recursive, so it is resolved when used.
    Builtin(u16),
    /// From a structural schema.
    Custom(Arc<Struct>),
}

impl StructRef {
    /// The shape.
    pub fn get(&self) -> &Struct {
        match self {
            Self::Builtin(index) => builtin().get(*index),
            Self::Custom(own) => own,
        }
    }
}

impl Type {
    /// The struct, if it is one.
    pub fn as_struct(&self) -> Option<&Struct> {
        match self {
            Self::Struct(s) => Some(s.get()),
            _ => None,
        }
    }
}
