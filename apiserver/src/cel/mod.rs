//! CEL for admission: match conditions, policies and mutations.
//!
//! Expressions are parsed by the `cel` crate and interpreted here, because admission needs what
//! its own interpreter does not have: a bound on the work that an expression may cause, object
//! construction (`Object.spec{...}`, `JSONPatch{...}`), variables that are computed when they are
//! first used, comprehensions with two variables, and selections on what is absent being errors.
//! Functions that do not touch any of this are those of the crates `cel` and `kube_cel`.
//!
//! **Invariant:** every loop and everything that makes a value larger is charged to the
//! [`Budget`], so that no expression runs for long or takes much memory.

mod authorizer;
mod check;
mod depth;
mod error;
mod functions;
mod interpret;
mod macros;
mod operators;
mod types;
mod values;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use kube_cel::cel::common::ast::IdedExpr;
use kube_cel::cel::parser::Parser;

pub use authorizer::Authorizer;
pub use check::Environment;
pub use error::{CompileError, EvaluationError};
pub(crate) use functions::typed_text;
pub use kube_cel::cel::Value as CelValue;
pub use values::{from_json, to_json};
pub(crate) use values::{list, object as map, optional};

/// The longest expression that is read.
const MAX_SOURCE: usize = 64 * 1024;

/// Memory that a parser may use for its stack; most of it is never touched.
const PARSER_STACK: usize = 256 << 20;

/// What all expressions of one request may cost together, in evaluated nodes.
const REQUEST_BUDGET: u64 = 5_000_000;
/// What one expression may cost.
const EXPRESSION_BUDGET: u64 = 1_000_000;

/// A parsed and checked expression.
#[derive(Debug)]
pub struct Expression {
    source: String,
    tree: IdedExpr,
}

impl Expression {
    /// Parses an expression that may use what the environment declares.
    pub fn compile(source: &str, environment: &Environment) -> Result<Self, CompileError> {
        if source.len() > MAX_SOURCE {
            return Err(CompileError::TooLong { limit: MAX_SOURCE });
        }
        if !depth::is_bounded(source) {
            return Err(CompileError::TooDeep);
        }
        let tree = on_large_stack(|| {
            let tree = Parser::default()
                .enable_optional_syntax(true)
                .parse(source)
                .map_err(|errors| {
                    // Upstream sets the lines off.
                    CompileError::Syntax(errors.to_string().replace("\n| ", "\n | "))
                })?;
            check::check(&tree, source, environment)?;
            Ok(tree)
        })
        .unwrap_or(Err(CompileError::TooDeep))?;
        Ok(Expression {
            source: source.to_owned(),
            tree,
        })
    }

    pub fn source(&self) -> &str {
        &self.source
    }

    pub(crate) fn tree(&self) -> &IdedExpr {
        &self.tree
    }

    /// As [`Expression::compile`], of an expression whose value has to be of one of these types.
    pub fn compile_to(
        source: &str,
        environment: &Environment,
        wanted: &[&str],
    ) -> Result<Self, CompileError> {
        let made = Self::compile(source, environment)?;
        match types::of(&made.tree, environment.dynamic()) {
            Some(got) if !wanted.contains(&got.as_str()) => Err(CompileError::Type {
                wanted: wanted.iter().map(|w| (*w).to_owned()).collect(),
                got,
            }),
            _ => Ok(made),
        }
    }

    /// The type of the value where the expression tells it, in upstream's words.
    pub(crate) fn value_type(&self) -> Option<String> {
        types::of(&self.tree, &[])
    }

    /// Whether the name is used as a variable.
    pub fn mentions(&self, name: &str) -> bool {
        check::mentions(&self.tree, name)
    }

    /// The value of the expression.
    pub fn evaluate(&self, activation: &Activation<'_>) -> Result<CelValue, EvaluationError> {
        activation.budget.begin();
        interpret::evaluate(&self.tree, activation)
    }

    /// The value of an expression that has to be a boolean.
    pub fn test(&self, activation: &Activation<'_>) -> Result<bool, EvaluationError> {
        match self.evaluate(activation)? {
            CelValue::Bool(value) => Ok(value),
            _ => Err(EvaluationError::NotBoolean),
        }
    }
}

/// The parser needs much of the stack for each level of nesting; expressions are compiled rarely.
/// `None` when there is no memory for a thread.
pub(crate) fn on_large_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Option<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("cel-parser".into())
            .stack_size(PARSER_STACK)
            .spawn_scoped(scope, work)
            .ok()?;
        thread.join().ok()
    })
}

/// What is left of the work that the expressions of a request may cause.
#[derive(Debug)]
pub struct Budget {
    request: Cell<u64>,
    expression: Cell<u64>,
}

impl Default for Budget {
    fn default() -> Self {
        Budget {
            request: Cell::new(REQUEST_BUDGET),
            expression: Cell::new(EXPRESSION_BUDGET),
        }
    }
}

impl Budget {
    fn begin(&self) {
        self.expression
            .set(EXPRESSION_BUDGET.min(self.request.get()));
    }

    fn charge(&self, cost: u64) -> Result<(), EvaluationError> {
        let (request, expression) = (self.request.get(), self.expression.get());
        self.request.set(request.saturating_sub(cost));
        self.expression.set(expression.saturating_sub(cost));
        if cost > request || cost > expression {
            return Err(EvaluationError::OverBudget);
        }
        Ok(())
    }
}

/// The variables that expressions see.
#[derive(Default)]
pub struct Activation<'a> {
    variables: BTreeMap<&'static str, CelValue>,
    /// `variables.NAME`, in their order; each may use those before it.
    composed: &'a [(String, Expression)],
    known: RefCell<BTreeMap<String, Result<CelValue, EvaluationError>>>,
    budget: Budget,
}

impl<'a> Activation<'a> {
    pub fn set(&mut self, name: &'static str, value: CelValue) {
        self.variables.insert(name, value);
    }

    pub fn unset(&mut self, name: &'static str) {
        self.variables.remove(name);
    }

    /// Gives the expressions behind `variables`; what was computed of others is forgotten.
    pub fn compose(&mut self, variables: &'a [(String, Expression)]) {
        self.composed = variables;
        self.known = RefCell::default();
    }

    fn variable(&self, name: &str) -> Option<&CelValue> {
        self.variables.get(name)
    }

    /// A composed variable, computed when it is first asked for.
    fn composed(&self, name: &str) -> Option<Result<CelValue, EvaluationError>> {
        if let Some(known) = self.known.borrow().get(name) {
            return Some(known.clone());
        }
        let (_, expression) = self.composed.iter().find(|(n, _)| n == name)?;
        let value = interpret::evaluate(&expression.tree, self)
            .map_err(|error| error.of_variable(expression.source()));
        self.known
            .borrow_mut()
            .insert(name.to_owned(), value.clone());
        Some(value)
    }
}

#[cfg(test)]
mod tests;
