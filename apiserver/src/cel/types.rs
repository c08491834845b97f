//! The type of an expression's value, as far as the expression itself tells it.
//!
//! Names are those of upstream's checker. Where the type depends on more than is known here,
//! nothing is said.

use kube_cel::cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue};

const DYNAMIC: &str = "dyn";

/// Operators and functions whose value is of one type, whatever they are given.
const RESULTS: [(&str, &[&str]); 12] = [
    (
        "bool",
        &[
            "_==_",
            "_!=_",
            "_<_",
            "_<=_",
            "_>_",
            "_>=_",
            "_&&_",
            "_||_",
            "!_",
            "@in",
            "_in_",
            "@not_strictly_false",
            "has",
            "all",
            "exists",
            "existsOne",
            "exists_one",
            "startsWith",
            "endsWith",
            "matches",
            "bool",
            "isURL",
            "isIP",
            "isCIDR",
            "isQuantity",
            "isSemver",
            "isSorted",
            "isInteger",
            "isGreaterThan",
            "isLessThan",
            "allowed",
            "errored",
            "hasValue",
            "containsIP",
            "containsCIDR",
        ],
    ),
    (
        "int",
        &[
            "size",
            "int",
            "lastIndexOf",
            "indexOf",
            "compareTo",
            "sign",
            "asInteger",
            "getHours",
            "getMinutes",
            "getSeconds",
            "getMilliseconds",
            "getFullYear",
            "getMonth",
            "getDate",
            "getDayOfMonth",
            "getDayOfWeek",
            "getDayOfYear",
            "prefixLength",
        ],
    ),
    ("uint", &["uint"]),
    ("double", &["double", "asApproximateFloat"]),
    ("bytes", &["bytes"]),
    (
        "string",
        &[
            "string",
            "lowerAscii",
            "upperAscii",
            "replace",
            "substring",
            "trim",
            "join",
            "charAt",
            "find",
            "getScheme",
            "getHost",
            "getHostname",
            "getPort",
            "getEscapedPath",
        ],
    ),
    ("list(string)", &["split", "findAll"]),
    ("google.protobuf.Duration", &["duration"]),
    ("google.protobuf.Timestamp", &["timestamp"]),
    ("kubernetes.Quantity", &["quantity"]),
    ("kubernetes.URL", &["url"]),
    (DYNAMIC, &["dyn"]),
];

/// Operators whose value is of the type of what they are given.
const KEEP: [&str; 6] = ["_+_", "_-_", "_*_", "_/_", "_%_", "-_"];
const ARITHMETIC: [&str; 6] = ["int", "uint", "double", "string", "bytes", "dyn"];

/// The type of the value; `dynamic` are the variables that can be anything.
pub(super) fn of(tree: &IdedExpr, dynamic: &[&str]) -> Option<String> {
    Types {
        dynamic,
        accumulator: None,
    }
    .of(tree)
}

struct Types<'a> {
    dynamic: &'a [&'a str],
    /// What a loop adds to, with its type.
    accumulator: Option<(&'a str, String)>,
}

impl Types<'_> {
    fn of(&self, tree: &IdedExpr) -> Option<String> {
        let named = |name: &str| Some(name.to_owned());
        match &tree.expr {
            Expr::Literal(literal) => named(match literal {
                LiteralValue::Boolean(_) => "bool",
                LiteralValue::Bytes(_) => "bytes",
                LiteralValue::Double(_) => "double",
                LiteralValue::Int(_) => "int",
                LiteralValue::Null => "null_type",
                LiteralValue::String(_) => "string",
                LiteralValue::UInt(_) => "uint",
            }),
            Expr::Ident(name) => match &self.accumulator {
                Some((own, ty)) if own == name => Some(ty.clone()),
                _ => self
                    .dynamic
                    .contains(&name.as_str())
                    .then(|| DYNAMIC.to_owned()),
            },
            Expr::Select(select) if select.test => named("bool"),
            Expr::Select(select) => self.of(&select.operand).filter(|ty| ty == DYNAMIC),
            Expr::List(list) => {
                let items = list.elements.iter().map(|item| self.of(item));
                Some(format!("list({})", common(items)?))
            }
            Expr::Map(map) => {
                let entries = map.entries.iter().filter_map(|entry| match &entry.expr {
                    EntryExpr::MapEntry(entry) => Some(entry),
                    EntryExpr::StructField(_) => None,
                });
                let keys = common(entries.clone().map(|entry| self.of(&entry.key)))?;
                let values = common(entries.map(|entry| self.of(&entry.value)))?;
                Some(format!("map({keys}, {values})"))
            }
            Expr::Struct(object) => named(object.type_name.trim_start_matches('.')),
            Expr::Call(call) => self.call(call),
            Expr::Comprehension(all) => {
                let own = self.of(&all.accu_init)?;
                let inner = Types {
                    dynamic: self.dynamic,
                    accumulator: Some((&all.accu_var, own)),
                };
                // What a list has in it depends on what the loop is over.
                inner.of(&all.result).filter(|ty| ty == "bool")
            }
            Expr::Unspecified => None,
        }
    }

    fn call(&self, call: &CallExpr) -> Option<String> {
        let name = call.func_name.as_str();
        let given = call.target.as_deref().into_iter().chain(&call.args);
        match name {
            "_?_:_" => {
                let [_, yes, no] = call.args.as_slice() else {
                    return None;
                };
                let (yes, no) = (self.of(yes)?, self.of(no)?);
                return (yes == no).then_some(yes);
            }
            "_[_]" => {
                let ty = self.of(call.args.first()?)?;
                return (ty == DYNAMIC).then_some(ty);
            }
            _ if KEEP.contains(&name) => {
                let types: Option<Vec<String>> = given.map(|arg| self.of(arg)).collect();
                let types = types?;
                let known = types.iter().find(|ty| *ty != DYNAMIC).or(types.first())?;
                let same = types.iter().all(|ty| ty == known || ty == DYNAMIC);
                return (same && ARITHMETIC.contains(&known.as_str())).then(|| known.clone());
            }
            _ => {}
        }
        let known = RESULTS.iter().find(|(_, names)| names.contains(&name));
        known.map(|(ty, _)| (*ty).to_owned())
    }
}

/// The type that all have; `dyn` of none.
fn common(types: impl Iterator<Item = Option<String>>) -> Option<String> {
    let types: Option<Vec<String>> = types.collect();
    match types?.as_slice() {
        [] => Some(DYNAMIC.to_owned()),
        [first, rest @ ..] => rest.iter().all(|ty| ty == first).then(|| first.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Environment, Expression};

    #[test]
    fn types_are_told_as_far_as_the_expression_tells_them() {
        let environment = Environment::new(&["object", "self"]);
        for (source, expect) in [
            ("1", Some("int")),
            ("-1.5", Some("double")),
            ("null", Some("null_type")),
            ("[1, 2]", Some("list(int)")),
            ("{}", Some("map(dyn, dyn)")),
            ("object.a.b", Some("dyn")),
            ("self.a", None),
            ("has(object.a)", Some("bool")),
            ("object.a == 1 || object.b in [1]", Some("bool")),
            ("object.a.all(x, x > 1)", Some("bool")),
            ("object.a.exists_one(x, x > 1)", Some("bool")),
            ("'a' + string(object.b)", Some("string")),
            ("'a' + object.b", Some("string")),
            ("object.a ? 1 : 2", Some("int")),
            ("object.a ? 1 : 'b'", None),
            ("size(object.a)", Some("int")),
            ("object.a.map(x, x)", None),
            ("duration('1s')", Some("google.protobuf.Duration")),
        ] {
            let made = Expression::compile(source, &environment);
            let own = made.ok().and_then(|e| super::of(e.tree(), &["object"]));
            assert_eq!(own.as_deref(), expect, "{source}");
        }
    }
}
