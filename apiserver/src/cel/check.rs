//! Names that an expression may use: what is not declared is refused when the expression is
//! written, not when it is first needed.

use std::collections::BTreeSet;

use kube_cel::cel::common::ast::{EntryExpr, Expr, IdedExpr};

use super::CompileError;
use super::functions::{PREFIXES, type_named};

/// What is declared.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    variables: Vec<&'static str>,
    /// Names below `variables`.
    composed: BTreeSet<String>,
    /// Whether there is `variables`.
    composes: bool,
    /// `Object{...}` and `JSONPatch{...}` can be made.
    constructs: bool,
}

impl Environment {
    pub fn new(variables: &[&'static str]) -> Self {
        Environment {
            variables: variables.to_vec(),
            ..Environment::default()
        }
    }

    /// Variables that can be of any type.
    pub(super) fn dynamic(&self) -> &'static [&'static str] {
        &["object", "oldObject", "params"]
    }

    /// Declares `variables`, in which nothing is yet.
    #[must_use]
    pub fn composing(mut self) -> Self {
        self.composes = true;
        self
    }

    /// Declares `variables.NAME`.
    pub fn compose(&mut self, name: &str) {
        self.composes = true;
        self.composed.insert(name.to_owned());
    }

    /// Also lets objects and patches be made.
    #[must_use]
    pub fn with_construction(mut self) -> Self {
        self.constructs = true;
        self
    }
}

/// Functions besides the operators, whose names begin with a sign.
const FUNCTIONS: &[&str] = &[
    "add",
    "all",
    "allowed",
    "asApproximateFloat",
    "asInteger",
    "base64.decode",
    "base64.encode",
    "bool",
    "bytes",
    "charAt",
    "check",
    "cidr",
    "compareTo",
    "contains",
    "containsCIDR",
    "containsIP",
    "distinct",
    "double",
    "duration",
    "dyn",
    "endsWith",
    "error",
    "errored",
    "exists",
    "existsOne",
    "exists_one",
    "family",
    "fieldSelector",
    "filter",
    "find",
    "findAll",
    "first",
    "flatten",
    "format",
    "format.byte",
    "format.date",
    "format.datetime",
    "format.dns1035Label",
    "format.dns1035LabelPrefix",
    "format.dns1123Label",
    "format.dns1123LabelPrefix",
    "format.dns1123Subdomain",
    "format.dns1123SubdomainPrefix",
    "format.labelValue",
    "format.named",
    "format.qualifiedName",
    "format.uri",
    "format.uuid",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getEscapedPath",
    "getFullYear",
    "getHost",
    "getHostname",
    "getHours",
    "getMilliseconds",
    "getMinutes",
    "getMonth",
    "getPort",
    "getQuery",
    "getScheme",
    "getSeconds",
    "group",
    "has",
    "hasValue",
    "indexOf",
    "int",
    "ip",
    "ip.isCanonical",
    "isCIDR",
    "isGlobalUnicast",
    "isGreaterThan",
    "isIP",
    "isInteger",
    "isLessThan",
    "isLinkLocalMulticast",
    "isLinkLocalUnicast",
    "isLoopback",
    "isQuantity",
    "isSemver",
    "isSorted",
    "isURL",
    "isUnspecified",
    "join",
    "jsonpatch.escapeKey",
    "labelSelector",
    "last",
    "lastIndexOf",
    "lists.range",
    "lowerAscii",
    "major",
    "map",
    "masked",
    "matches",
    "math.abs",
    "math.bitAnd",
    "math.bitNot",
    "math.bitOr",
    "math.bitShiftLeft",
    "math.bitShiftRight",
    "math.bitXor",
    "math.ceil",
    "math.floor",
    "math.greatest",
    "math.isFinite",
    "math.isInf",
    "math.isNaN",
    "math.least",
    "math.round",
    "math.sign",
    "math.sqrt",
    "math.trunc",
    "max",
    "min",
    "minor",
    "name",
    "namespace",
    "optFlatMap",
    "optMap",
    "optional.none",
    "optional.of",
    "optional.ofNonZeroValue",
    "or",
    "orValue",
    "patch",
    "path",
    "prefixLength",
    "quantity",
    "reason",
    "replace",
    "resource",
    "reverse",
    "semver",
    "serviceAccount",
    "sets.contains",
    "sets.equivalent",
    "sets.intersects",
    "sign",
    "size",
    "slice",
    "sort",
    "split",
    "startsWith",
    "string",
    "strings.quote",
    "sub",
    "subresource",
    "substring",
    "sum",
    "timestamp",
    "transformList",
    "transformMap",
    "transformMapEntry",
    "trim",
    "type",
    "uint",
    "upperAscii",
    "url",
    "validate",
    "value",
];

const BINDING: [&str; 9] = [
    "all",
    "exists",
    "existsOne",
    "exists_one",
    "transformList",
    "transformMap",
    "transformMapEntry",
    "optMap",
    "optFlatMap",
];

pub(super) fn check(
    tree: &IdedExpr,
    source: &str,
    environment: &Environment,
) -> Result<(), CompileError> {
    let mut walk = Walk {
        environment,
        bound: Vec::new(),
    };
    walk.visit(tree)
        .map_err(|name| match name.strip_prefix("variables.") {
            Some(field) => CompileError::undefined_field(field, source),
            None => undeclared(&name, source),
        })
}

/// Whether a name is used as a variable anywhere in the tree.
pub(super) fn mentions(tree: &IdedExpr, name: &str) -> bool {
    let below: Vec<&IdedExpr> = match &tree.expr {
        Expr::Ident(own) => return own == name,
        Expr::Struct(object) => of_entries(object.entries.iter().map(|e| &e.expr)),
        Expr::Map(map) => of_entries(map.entries.iter().map(|e| &e.expr)),
        Expr::Select(select) => vec![&select.operand],
        Expr::Call(call) => {
            let target = call.target.as_deref();
            target.into_iter().chain(&call.args).collect()
        }
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Comprehension(c) => vec![
            &c.iter_range,
            &c.accu_init,
            &c.loop_cond,
            &c.loop_step,
            &c.result,
        ],
        Expr::Literal(_) | Expr::Unspecified => Vec::new(),
    };
    below.into_iter().any(|tree| mentions(tree, name))
}

fn of_entries<'a>(entries: impl Iterator<Item = &'a EntryExpr>) -> Vec<&'a IdedExpr> {
    entries
        .flat_map(|entry| match entry {
            EntryExpr::StructField(field) => vec![&field.value],
            EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
        })
        .collect()
}

/// Where the name stands in the source, for the message; of a function, where its arguments begin.
fn undeclared(name: &str, source: &str) -> CompileError {
    let is_function = name.ends_with('(');
    let name = name.trim_end_matches('(');
    let last = name.rsplit('.').next().unwrap_or(name);
    let (line, mut column, text) = place(last, source);
    if is_function {
        column += last.chars().count();
    }
    CompileError::Undeclared {
        name: name.to_owned(),
        line,
        column: column + 1,
        text,
    }
}

impl CompileError {
    /// A field that is selected of an object that has none of that name.
    pub(crate) fn undefined_field(name: &str, source: &str) -> Self {
        // What is pointed at is the dot before it.
        let (line, column, text) = place(name, source);
        CompileError::UndefinedField {
            name: name.to_owned(),
            line,
            column,
            text,
        }
    }
}

/// Line (from 1), column (from 0) and text of the line where a word stands first.
fn place(last: &str, source: &str) -> (usize, usize, String) {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let at = source
        .match_indices(last)
        .map(|(at, _)| at)
        .find(|at| {
            let before = source[..*at].chars().next_back();
            let after = source[at + last.len()..].chars().next();
            !before.is_some_and(word) && !after.is_some_and(word)
        })
        .unwrap_or_default();
    let line_start = source[..at].rfind('\n').map_or(0, |n| n + 1);
    let line = source[..at].matches('\n').count() + 1;
    let text = source[line_start..].lines().next().unwrap_or_default();
    let column = source[line_start..at].chars().count();
    (line, column, text.to_owned())
}

struct Walk<'a> {
    environment: &'a Environment,
    bound: Vec<String>,
}

impl Walk<'_> {
    /// The error is the name that is not declared.
    fn visit(&mut self, expression: &IdedExpr) -> Result<(), String> {
        match &expression.expr {
            Expr::Ident(name) => self.name(name),
            Expr::Select(select) => {
                if let Expr::Ident(name) = &select.operand.expr
                    && name == "variables"
                    && self.environment.composes
                {
                    return if self.environment.composed.contains(&select.field) {
                        Ok(())
                    } else {
                        Err(format!("variables.{}", select.field))
                    };
                }
                self.visit(&select.operand)
            }
            Expr::Call(call) => self.call(call),
            Expr::List(list) => list.elements.iter().try_for_each(|e| self.visit(e)),
            Expr::Map(map) => map.entries.iter().try_for_each(|e| self.entry(&e.expr)),
            Expr::Struct(object) => {
                let name = object.type_name.trim_start_matches('.');
                let root = name.split('.').next().unwrap_or_default();
                if !self.environment.constructs || !matches!(root, "Object" | "JSONPatch") {
                    return Err(name.to_owned());
                }
                object.entries.iter().try_for_each(|e| self.entry(&e.expr))
            }
            Expr::Comprehension(c) => {
                self.visit(&c.iter_range)?;
                self.visit(&c.accu_init)?;
                self.bound.push(c.iter_var.clone());
                self.bound.push(c.accu_var.clone());
                self.visit(&c.loop_cond)?;
                self.visit(&c.loop_step)?;
                self.visit(&c.result)?;
                self.bound.truncate(self.bound.len() - 2);
                Ok(())
            }
            Expr::Literal(_) | Expr::Unspecified => Ok(()),
        }
    }

    fn name(&self, name: &str) -> Result<(), String> {
        let known = self.environment.variables.contains(&name)
            || self.bound.iter().any(|bound| bound == name)
            || type_named(name).is_some();
        if known { Ok(()) } else { Err(name.to_owned()) }
    }

    fn entry(&mut self, entry: &EntryExpr) -> Result<(), String> {
        match entry {
            EntryExpr::StructField(field) => self.visit(&field.value),
            EntryExpr::MapEntry(entry) => {
                self.visit(&entry.key)?;
                self.visit(&entry.value)
            }
        }
    }

    fn call(&mut self, call: &kube_cel::cel::common::ast::CallExpr) -> Result<(), String> {
        let mut name = call.func_name.clone();
        if let Some(target) = call.target.as_deref() {
            match &target.expr {
                Expr::Ident(prefix)
                    if PREFIXES.contains(&prefix.as_str()) && self.name(prefix).is_err() =>
                {
                    name = format!("{prefix}.{name}");
                }
                _ => self.visit(target)?,
            }
        }
        let operator = !name.starts_with(|c: char| c.is_ascii_alphabetic());
        if !operator && !FUNCTIONS.contains(&name.as_str()) {
            return Err(format!("{name}("));
        }
        let names = match (BINDING.contains(&name.as_str()), name.as_str()) {
            (true, "optMap" | "optFlatMap") => 1,
            (true, _) => 2,
            (false, _) => 0,
        };
        let before = self.bound.len();
        for arg in call.args.iter().take(names) {
            if let Expr::Ident(name) = &arg.expr {
                self.bound.push(name.clone());
            }
        }
        for arg in call.args.iter().skip(names) {
            self.visit(arg)?;
        }
        self.bound.truncate(before);
        Ok(())
    }
}
