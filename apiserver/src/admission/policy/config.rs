//! Policies and bindings as they are now, compiled once for each change.

use std::sync::Arc;

use parking_lot::RwLock;
use serde_json::Value;

use super::super::conditions::Conditions;
use super::super::matching::{Criteria, GROUP};
use crate::cel::{CompileError, Environment, Expression};
use crate::registry::cache::{Filter, ResourceCache};
use crate::registry::{Cacher, LabelSelector};

/// What differs between validating and mutating policies.
pub(crate) trait Spec: Sized + Send + Sync + 'static {
    /// Whether expressions make objects.
    const CONSTRUCTS: bool;

    /// Compiles what the policy does; each fault with its field.
    fn compile(spec: &Value, environment: &Environment, faults: &mut Faults) -> Self;
}

/// Field and fault of expressions that do not compile.
pub(crate) type Faults = Vec<(String, String, CompileError)>;

/// The expressions of a policy.
pub(crate) struct Compiled<S> {
    pub(super) conditions: Conditions,
    pub(super) variables: Vec<(String, Expression)>,
    pub(super) spec: S,
}

/// One expression of a validating policy.
pub(crate) struct Validation {
    pub(super) expression: Expression,
    pub(super) message: String,
    pub(super) message_expression: Option<Expression>,
    pub(super) reason: Option<String>,
}

pub(crate) struct ValidatingSpec {
    pub(super) validations: Vec<Validation>,
    /// Key and value.
    pub(super) annotations: Vec<(String, Expression)>,
}

pub(crate) enum Mutation {
    /// An object of the fields to set.
    Apply(Expression),
    /// A list of operations.
    Patch(Expression),
}

pub(crate) struct MutatingSpec {
    pub(super) mutations: Vec<Mutation>,
    /// Evaluated again when the object was changed later.
    pub(super) reinvoked: bool,
}

/// A policy with its bindings.
pub(super) struct Policy<S> {
    pub(super) name: String,
    pub(super) criteria: Criteria,
    pub(super) fails_open: bool,
    /// Of the objects that parametrize it.
    pub(super) param_kind: Option<(String, String)>,
    pub(super) compiled: Result<Compiled<S>, String>,
    pub(super) bindings: Vec<Bound>,
}

/// A binding: where a policy is in force, with which parameters and consequences.
pub(super) struct Bound {
    pub(super) name: String,
    pub(super) criteria: Criteria,
    pub(super) params: Option<ParamRef>,
    pub(super) denies: bool,
    pub(super) warns: bool,
    pub(super) audits: bool,
}

pub(super) struct ParamRef {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) selector: Option<LabelSelector>,
    pub(super) must_exist: bool,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn items(value: &Value) -> impl Iterator<Item = (usize, &Value)> {
    value.as_array().into_iter().flatten().enumerate()
}

/// What expressions of a policy may use, besides its variables.
fn environment(spec: &Value, constructs: bool) -> Environment {
    let mut names = vec![
        "object",
        "oldObject",
        "request",
        "authorizer",
        "namespaceObject",
    ];
    if spec["paramKind"].is_object() {
        names.push("params");
    }
    let environment = Environment::new(&names);
    if constructs {
        environment.with_construction()
    } else {
        environment
    }
}

fn compile(
    value: &Value,
    field: String,
    environment: &Environment,
    wanted: Option<&[&str]>,
    faults: &mut Faults,
) -> Option<Expression> {
    let source = value.as_str().unwrap_or_default().trim();
    let made = match wanted {
        Some(wanted) => Expression::compile_to(source, environment, wanted),
        None => Expression::compile(source, environment),
    };
    match made {
        Ok(expression) => Some(expression),
        Err(error) => {
            faults.push((field, source.to_owned(), error));
            None
        }
    }
}

impl Spec for ValidatingSpec {
    const CONSTRUCTS: bool = false;

    fn compile(spec: &Value, environment: &Environment, faults: &mut Faults) -> Self {
        let mut validations = Vec::new();
        for (at, item) in items(&spec["validations"]) {
            let field = |name: &str| format!("spec.validations[{at}].{name}");
            let expression = compile(
                &item["expression"],
                field("expression"),
                environment,
                Some(&["bool"]),
                faults,
            );
            let told = &item["messageExpression"];
            let message_expression = if text(told).is_empty() {
                None
            } else {
                compile(
                    told,
                    field("messageExpression"),
                    environment,
                    Some(&["string"]),
                    faults,
                )
            };
            if let Some(expression) = expression {
                validations.push(Validation {
                    expression,
                    message: text(&item["message"]),
                    message_expression,
                    reason: item["reason"].as_str().map(str::to_owned),
                });
            }
        }
        let mut annotations = Vec::new();
        for (at, item) in items(&spec["auditAnnotations"]) {
            let field = format!("spec.auditAnnotations[{at}].valueExpression");
            if let Some(value) = compile(
                &item["valueExpression"],
                field,
                environment,
                Some(&["string", "null_type"]),
                faults,
            ) {
                annotations.push((text(&item["key"]), value));
            }
        }
        ValidatingSpec {
            validations,
            annotations,
        }
    }
}

impl Spec for MutatingSpec {
    const CONSTRUCTS: bool = true;

    fn compile(spec: &Value, environment: &Environment, faults: &mut Faults) -> Self {
        let mut mutations = Vec::new();
        for (at, item) in items(&spec["mutations"]) {
            let (part, make): (_, fn(Expression) -> Mutation) = match item["patchType"].as_str() {
                Some("JSONPatch") => ("jsonPatch", Mutation::Patch),
                _ => ("applyConfiguration", Mutation::Apply),
            };
            let field = format!("spec.mutations[{at}].{part}.expression");
            let made = compile(&item[part]["expression"], field, environment, None, faults);
            mutations.extend(made.map(make));
        }
        MutatingSpec {
            mutations,
            reinvoked: spec["reinvocationPolicy"] == "IfNeeded",
        }
    }
}

impl<S: Spec> Compiled<S> {
    fn of(spec: &Value, faults: &mut Faults) -> Self {
        let mut environment = environment(spec, S::CONSTRUCTS);
        let conditions = Conditions::compile(&spec["matchConditions"], &environment);
        for (at, condition) in items(&spec["matchConditions"]) {
            let field = format!("spec.matchConditions[{at}].expression");
            compile(
                &condition["expression"],
                field,
                &environment,
                Some(&["bool"]),
                faults,
            );
        }
        environment = environment.composing();
        let mut variables = Vec::new();
        for (at, variable) in items(&spec["variables"]) {
            let field = format!("spec.variables[{at}].expression");
            if let Some(made) = compile(&variable["expression"], field, &environment, None, faults)
            {
                variables.push((text(&variable["name"]), made));
            }
            environment.compose(&text(&variable["name"]));
        }
        Compiled {
            conditions,
            variables,
            spec: S::compile(spec, &environment, faults),
        }
    }
}

/// What does not compile in a policy.
pub(crate) fn faults<S: Spec>(policy: &Value) -> Faults {
    let mut faults = Vec::new();
    Compiled::<S>::of(&policy["spec"], &mut faults);
    faults
}

impl<S: Spec> Policy<S> {
    fn parse(name: &str, policy: &Value, bindings: Vec<Bound>) -> Self {
        let spec = &policy["spec"];
        let kind = &spec["paramKind"];
        let mut faults = Vec::new();
        let compiled = Compiled::of(spec, &mut faults);
        Policy {
            name: name.to_owned(),
            criteria: Criteria::of_policy(&spec["matchConstraints"]),
            fails_open: spec["failurePolicy"] == "Ignore",
            param_kind: kind
                .is_object()
                .then(|| (text(&kind["apiVersion"]), text(&kind["kind"]))),
            compiled: match faults.first() {
                None => Ok(compiled),
                Some((_, _, error)) => Err(error.to_string()),
            },
            bindings,
        }
    }
}

impl Bound {
    fn parse(name: &str, binding: &Value) -> Self {
        let spec = &binding["spec"];
        let reference = &spec["paramRef"];
        let actions = |action: &str| items(&spec["validationActions"]).any(|(_, a)| a == action);
        Bound {
            name: name.to_owned(),
            criteria: Criteria::of_policy(&spec["matchResources"]),
            params: reference.is_object().then(|| ParamRef {
                name: text(&reference["name"]),
                namespace: text(&reference["namespace"]),
                selector: LabelSelector::from_value(&reference["selector"]),
                must_exist: reference["parameterNotFoundAction"] == "Deny",
            }),
            denies: actions("Deny"),
            warns: actions("Warn"),
            audits: actions("Audit"),
        }
    }
}

/// All policies of one kind, those without a binding left out.
pub(super) struct Policies<S> {
    policies: Arc<ResourceCache>,
    bindings: Arc<ResourceCache>,
    parsed: RwLock<Parsed<S>>,
}

/// The revisions of policies and bindings, and what they were.
struct Parsed<S> {
    revisions: (u64, u64),
    policies: Arc<[Policy<S>]>,
}

impl<S: Spec> Policies<S> {
    /// `stem` is the resources' name up to where singular and plural part.
    pub(super) fn of(cacher: &Cacher, stem: &str) -> Self {
        Policies {
            policies: cacher.resource(GROUP, &format!("{stem}ies")),
            bindings: cacher.resource(GROUP, &format!("{stem}ybindings")),
            parsed: RwLock::new(Parsed {
                revisions: (0, 0),
                policies: Arc::new([]),
            }),
        }
    }

    /// In the order of their names.
    pub(super) fn now(&self) -> Arc<[Policy<S>]> {
        let newest = (self.policies.touched(), self.bindings.touched());
        {
            let parsed = self.parsed.read();
            if parsed.revisions == newest {
                return parsed.policies.clone();
            }
        }
        let bindings = self.bindings.list(&Filter::default(), None, 0, 0);
        let policies = self.policies.list(&Filter::default(), None, 0, 0);
        let bound: Vec<Value> = bindings.objects.iter().map(|b| b.value()).collect();
        let mut parsed = Vec::new();
        for policy in &policies.objects {
            let own = bound
                .iter()
                .filter(|b| b["spec"]["policyName"] == policy.name());
            let own: Vec<Bound> = own
                .map(|b| Bound::parse(crate::registry::meta::name(b), b))
                .collect();
            if !own.is_empty() {
                parsed.push(Policy::parse(policy.name(), &policy.value(), own));
            }
        }
        let made: Arc<[Policy<S>]> = parsed.into();
        *self.parsed.write() = Parsed {
            revisions: (policies.revision, bindings.revision),
            policies: made.clone(),
        };
        made
    }
}
