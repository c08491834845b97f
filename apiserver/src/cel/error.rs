//! What can be wrong with an expression, before and while it is evaluated.

/// An expression that cannot be used. The text is what the object's author is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// It does not parse.
    #[error("compilation failed: {0}")]
    Syntax(String),
    /// A name that nothing declares.
    #[error(
        "compilation failed: ERROR: <input>:{line}:{column}: undeclared reference to '{name}' (in container '')\n | {text}\n | {}^",
        ".".repeat(column.saturating_sub(1))
    )]
    Undeclared {
        name: String,
        line: usize,
        column: usize,
        text: String,
    },
    /// A field that an object of this type cannot have.
    #[error(
        "compilation failed: ERROR: <input>:{line}:{column}: undefined field '{name}'\n | {text}\n | {}^",
        ".".repeat(column.saturating_sub(1))
    )]
    UndefinedField {
        name: String,
        line: usize,
        column: usize,
        text: String,
    },
    /// Its value is of another type than is asked for.
    #[error("{}", wrong_type(wanted, got))]
    Type { wanted: Vec<String>, got: String },
    #[error("compilation failed: expression is longer than {limit} bytes")]
    TooLong { limit: usize },
    #[error("compilation failed: expression recursion limit exceeded")]
    TooDeep,
}

fn wrong_type(wanted: &[String], got: &str) -> String {
    match wanted {
        [one] => format!("must evaluate to {one} but got {got}"),
        many => format!("must evaluate to one of [{}]", many.join(" ")),
    }
}

/// Why an expression has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvaluationError {
    #[error("no such key: {0}")]
    NoSuchKey(String),
    #[error("no such overload")]
    NoSuchOverload,
    #[error("no such attribute(s): {0}")]
    NoSuchVariable(String),
    #[error("composited variable \"{name}\" fails to evaluate: {why}")]
    Variable { name: String, why: String },
    #[error("index out of bounds: {0}")]
    OutOfBounds(i64),
    #[error("{0}")]
    Function(String),
    #[error("operation cancelled: actual cost limit exceeded")]
    OverBudget,
    #[error("cel expression evaluates to a value that is not a boolean")]
    NotBoolean,
    #[error("{0} has no form in JSON")]
    NotJson(&'static str),
}

impl EvaluationError {
    /// The same error as that of a composed variable.
    pub(super) fn of_variable(self, expression: &str) -> Self {
        if self == EvaluationError::OverBudget {
            return self;
        }
        EvaluationError::Variable {
            name: expression.to_owned(),
            why: self.to_string(),
        }
    }
}

impl From<kube_cel::cel::ExecutionError> for EvaluationError {
    fn from(error: kube_cel::cel::ExecutionError) -> Self {
        use kube_cel::cel::ExecutionError as E;
        match error {
            E::NoSuchKey(key) => EvaluationError::NoSuchKey(key.to_string()),
            E::DivisionByZero(_) => EvaluationError::Function("division by zero".into()),
            E::RemainderByZero(_) => EvaluationError::Function("modulus by zero".into()),
            E::Overflow(..) => EvaluationError::Function("return error for overflow".into()),
            E::FunctionError { message, .. } => EvaluationError::Function(message),
            E::UndeclaredReference(name) => EvaluationError::NoSuchVariable(name.to_string()),
            _ => EvaluationError::NoSuchOverload,
        }
    }
}
