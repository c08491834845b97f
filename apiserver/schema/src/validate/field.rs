//! Where a fault is, what is wrong there, and how upstream words it.

use serde_json::Value;

use crate::quantity;

/// The kinds of faults that a Status tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A value that something else would have to have.
    NotFound,
    /// Absent or empty.
    Required,
    /// There already.
    Duplicate,
    /// Against a rule.
    Invalid,
    /// Not one of a few values.
    NotSupported,
    /// Not allowed in this place.
    Forbidden,
    /// Too many bytes.
    TooLong,
    /// Too many items.
    TooMany,
    /// Not the client's fault.
    Internal,
    /// Of another type than the schema's.
    TypeInvalid,
}

impl Kind {
    /// As `reason` of a cause.
    pub fn reason(self) -> &'static str {
        match self {
            Kind::NotFound => "FieldValueNotFound",
            Kind::Required => "FieldValueRequired",
            Kind::Duplicate => "FieldValueDuplicate",
            Kind::Invalid => "FieldValueInvalid",
            Kind::NotSupported => "FieldValueNotSupported",
            Kind::Forbidden => "FieldValueForbidden",
            Kind::TooLong => "FieldValueTooLong",
            Kind::TooMany => "FieldValueTooMany",
            Kind::Internal => "InternalError",
            Kind::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Kind::NotFound => "Not found",
            Kind::Required => "Required value",
            Kind::Duplicate => "Duplicate value",
            Kind::Invalid | Kind::TypeInvalid => "Invalid value",
            Kind::NotSupported => "Unsupported value",
            Kind::Forbidden => "Forbidden",
            Kind::TooLong => "Too long",
            Kind::TooMany => "Too many",
            Kind::Internal => "Internal error",
        }
    }
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What sort of fault it is.
    pub kind: Kind,
    /// Where: `spec.containers[0].name`.
    pub path: String,
    /// The bad value as it is shown; `None` where it is not.
    pub value: Option<String>,
    /// The rule in words; may be empty.
    pub detail: String,
}

impl Error {
    /// The text of a cause: everything but the field.
    pub fn message(&self) -> String {
        let mut text = self.kind.words().to_owned();
        for part in self.value.iter().chain(Some(&self.detail)) {
            if !part.is_empty() {
                text.push_str(": ");
                text.push_str(part);
            }
        }
        text
    }
}

/// A place in an object: the names from the root on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    /// From its text.
    pub fn new(text: impl Into<String>) -> Self {
        Path(text.into())
    }

    /// A field of the struct here; dots in `name` lead further down.
    pub fn child(&self, name: &str) -> Path {
        if self.0.is_empty() {
            return Path(name.to_owned());
        }
        let mut text = String::with_capacity(self.0.len() + name.len() + 1);
        text.push_str(&self.0);
        text.push('.');
        text.push_str(name);
        Path(text)
    }

    /// An item of the list here.
    pub fn index(&self, index: usize) -> Path {
        Path(format!("{}[{index}]", self.0))
    }

    /// A value of the map here.
    pub fn key(&self, key: &str) -> Path {
        Path(format!("{}[{key}]", self.0))
    }
}

/// What names a place.
pub trait Place {
    /// The place as a Status shows it.
    fn place(&self) -> &str;
}

impl Place for Path {
    fn place(&self) -> &str {
        &self.0
    }
}

impl Place for Node<'_> {
    fn place(&self) -> &str {
        &self.path.0
    }
}

/// A value and where it is. Absent values are nodes too: `null`.
#[derive(Clone, Debug)]
pub struct Node<'a> {
    /// The value; null when it is absent.
    pub value: &'a Value,
    /// Where it is.
    pub path: Path,
}

impl<'a> Node<'a> {
    /// A whole object.
    pub fn root(value: &'a Value) -> Self {
        Node {
            value,
            path: Path::default(),
        }
    }

    /// A value at a place of the caller's choice.
    pub fn new(value: &'a Value, path: Path) -> Self {
        Node { value, path }
    }

    /// A field; dots in `name` lead further down.
    pub fn get(&self, name: &str) -> Node<'a> {
        let mut value = self.value;
        for part in name.split('.') {
            value = &value[part];
        }
        Node {
            value,
            path: self.path.child(name),
        }
    }

    /// The items of a list.
    pub fn items(&self) -> impl Iterator<Item = Node<'a>> + use<'a, '_> {
        let list = self.value.as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter().enumerate().map(|(i, value)| Node {
            value,
            path: self.path.index(i),
        })
    }

    /// The values of a map with their keys.
    pub fn entries(&self) -> impl Iterator<Item = (&'a str, Node<'a>)> + use<'a, '_> {
        self.value.as_object().into_iter().flatten().map(|(k, v)| {
            let node = Node {
                value: v,
                path: self.path.key(k),
            };
            (k.as_str(), node)
        })
    }

    /// The text; empty when absent.
    pub fn text(&self) -> &'a str {
        self.value.as_str().unwrap_or_default()
    }

    /// The texts of a list.
    pub fn texts(&self) -> Vec<&'a str> {
        let list = self.value.as_array();
        list.into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect()
    }

    /// The number; zero when absent.
    pub fn int(&self) -> i64 {
        self.value.as_i64().unwrap_or_default()
    }

    /// The number, if there is one.
    pub fn number(&self) -> Option<i64> {
        self.value.as_i64()
    }

    /// Whether it is true.
    pub fn flag(&self) -> bool {
        self.value == &Value::Bool(true)
    }

    /// Whether there is a value at all.
    pub fn is_set(&self) -> bool {
        !self.value.is_null()
    }

    /// Absent, or an empty text, list or map.
    pub fn is_empty(&self) -> bool {
        is_blank(self.value)
    }

    /// How many items or entries there are.
    pub fn len(&self) -> usize {
        match self.value {
            Value::Array(list) => list.len(),
            Value::Object(map) => map.len(),
            _ => 0,
        }
    }
}

fn is_blank(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// Equal as upstream's semantic equality has it: an empty list or map is an absent one.
pub fn same(a: &Value, b: &Value) -> bool {
    let empty = |v: &Value| !v.is_string() && is_blank(v);
    match (a, b) {
        _ if empty(a) && empty(b) => true,
        (Value::Object(x), Value::Object(y)) => {
            x.iter()
                .all(|(k, v)| same(v, y.get(k).unwrap_or(&Value::Null)))
                && y.iter().all(|(k, v)| x.contains_key(k) || empty(v))
        }
        (Value::Array(x), Value::Array(y)) => {
            x.len() == y.len() && x.iter().zip(y).all(|(x, y)| same(x, y))
        }
        _ => a == b,
    }
}

/// A bad value as messages show it.
#[derive(Clone, Debug)]
pub struct Shown(pub(super) String);

impl From<&str> for Shown {
    fn from(text: &str) -> Self {
        Shown(quote(text))
    }
}

impl From<&String> for Shown {
    fn from(text: &String) -> Self {
        Shown(quote(text))
    }
}

impl From<i64> for Shown {
    fn from(number: i64) -> Self {
        Shown(number.to_string())
    }
}

impl From<bool> for Shown {
    fn from(flag: bool) -> Self {
        Shown(flag.to_string())
    }
}

impl From<&Value> for Shown {
    fn from(value: &Value) -> Self {
        match value {
            Value::String(text) => Shown(quote(text)),
            other => Shown(escape_html(&other.to_string())),
        }
    }
}

impl From<&Node<'_>> for Shown {
    fn from(node: &Node<'_>) -> Self {
        node.value.into()
    }
}

/// A text in Go's quotes.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\u{b}' => out.push_str("\\v"),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// What Go's JSON encoder escapes besides what has to be.
pub(super) fn escape_html(json: &str) -> String {
    json.replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
}

/// The faults that were found, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Errors {
    /// All of them.
    pub list: Vec<Error>,
}

impl Errors {
    fn push(
        &mut self,
        kind: Kind,
        at: &impl Place,
        value: Option<Shown>,
        detail: impl Into<String>,
    ) {
        self.list.push(Error {
            kind,
            path: at.place().to_owned(),
            value: value.map(|v| v.0),
            detail: detail.into(),
        });
    }

    /// Something has to be there.
    pub fn required(&mut self, at: &impl Place, detail: impl Into<String>) {
        self.push(Kind::Required, at, None, detail);
    }

    /// Something must not be there.
    pub fn forbidden(&mut self, at: &impl Place, detail: impl Into<String>) {
        self.push(Kind::Forbidden, at, None, detail);
    }

    /// A value breaks a rule.
    pub fn invalid(&mut self, at: &impl Place, value: impl Into<Shown>, detail: impl Into<String>) {
        self.push(Kind::Invalid, at, Some(value.into()), detail);
    }

    /// The node's own value breaks a rule.
    pub fn bad(&mut self, node: &Node<'_>, detail: impl Into<String>) {
        self.push(Kind::Invalid, node, Some(node.into()), detail);
    }

    /// A rule is broken by no value in particular.
    pub fn wrong(&mut self, at: &impl Place, detail: impl Into<String>) {
        self.push(Kind::Invalid, at, None, detail);
    }

    /// The same value again.
    pub fn duplicate(&mut self, at: &impl Place, value: impl Into<Shown>) {
        self.push(Kind::Duplicate, at, Some(value.into()), "");
    }

    /// The same value again, with the rule in words.
    pub fn duplicate_of(&mut self, at: &impl Place, value: impl Into<Shown>, detail: &str) {
        self.push(Kind::Duplicate, at, Some(value.into()), detail);
    }

    /// What a name stands for is not there.
    pub fn not_found(
        &mut self,
        at: &impl Place,
        value: impl Into<Shown>,
        detail: impl Into<String>,
    ) {
        self.push(Kind::NotFound, at, Some(value.into()), detail);
    }

    /// More bytes than there may be.
    pub fn too_long(&mut self, at: &impl Place, most: usize) {
        let detail = format!("may not be more than {most} bytes");
        self.push(Kind::TooLong, at, None, detail);
    }

    /// More items than there may be.
    pub fn too_many(&mut self, at: &impl Place, count: usize, most: usize) {
        let shown = Some(Shown(count.to_string()));
        let detail = format!("must have at most {most} items");
        self.push(Kind::TooMany, at, shown, detail);
    }

    /// Not one of the values that there are.
    pub fn not_supported(&mut self, at: &impl Place, value: impl Into<Shown>, supported: &[&str]) {
        let quoted: Vec<String> = supported.iter().map(|s| quote(s)).collect();
        let detail = if quoted.is_empty() {
            String::new()
        } else {
            format!("supported values: {}", quoted.join(", "))
        };
        self.push(Kind::NotSupported, at, Some(value.into()), detail);
    }

    /// What the rule itself stumbled over.
    pub fn internal(&mut self, at: &impl Place, why: impl Into<String>) {
        self.push(Kind::Internal, at, None, why);
    }

    /// A text that breaks rules in these ways.
    pub fn faults(&mut self, at: &impl Place, text: &str, faults: Vec<String>) {
        for fault in faults {
            self.invalid(at, text, fault);
        }
    }

    /// The node's text has to keep a rule.
    pub fn check(&mut self, node: &Node<'_>, rule: fn(&str) -> Vec<String>) {
        self.faults(node, node.text(), rule(node.text()));
    }

    /// The node's text has to be there and keep a rule.
    pub fn check_required(&mut self, node: &Node<'_>, rule: fn(&str) -> Vec<String>) {
        if node.text().is_empty() {
            self.required(node, "");
        } else {
            self.check(node, rule);
        }
    }

    /// The node's text, where there is one, has to keep a rule.
    pub fn check_optional(&mut self, node: &Node<'_>, rule: fn(&str) -> Vec<String>) {
        if !node.text().is_empty() {
            self.check(node, rule);
        }
    }

    /// The node's text has to be there.
    pub fn need(&mut self, node: &Node<'_>) {
        if node.is_empty() {
            self.required(node, "");
        }
    }

    /// The node's text, where it is set, has to be one of these.
    pub fn one_of(&mut self, node: &Node<'_>, supported: &[&str]) {
        if node.is_set() && !supported.contains(&node.text()) {
            self.not_supported(node, node.text(), supported);
        }
    }

    /// The node's text has to be there and one of these.
    pub fn one_of_required(&mut self, node: &Node<'_>, supported: &[&str]) {
        if node.text().is_empty() {
            self.required(node, "");
        } else {
            self.one_of(node, supported);
        }
    }

    /// A number, where there is one, must not be negative.
    pub fn non_negative(&mut self, node: &Node<'_>) {
        if node.int() < 0 {
            self.bad(node, NEGATIVE);
        }
    }

    /// A quantity must not be negative.
    pub fn non_negative_quantity(&mut self, node: &Node<'_>) {
        if quantity::compare(node.text(), "0").is_ok_and(|o| o.is_lt()) {
            self.bad(node, NEGATIVE);
        }
    }

    /// An update may not change the value.
    pub fn immutable(&mut self, new: &Node<'_>, old: &Node<'_>) {
        if !same(new.value, old.value) {
            self.bad(new, IMMUTABLE);
        }
    }
}

/// What is wrong with negative numbers.
pub const NEGATIVE: &str = "must be greater than or equal to 0";
/// What is wrong with a change.
pub const IMMUTABLE: &str = "field is immutable";
