//! From a verified token's claims to a user.

use serde_json::{Value, json};

use super::config::{JwtAuthenticator, Mapping};
use super::{OidcError, UserInfo};
use crate::cel::{Activation, Environment, Expression, from_json, to_json};

const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// How claims are judged and what is made of them.
pub(super) struct Claims {
    rules: Vec<Rule>,
    username: Source,
    groups: Option<Source>,
    uid: Option<Source>,
    extra: Vec<(String, Expression)>,
    user_rules: Vec<(Expression, String)>,
}

enum Rule {
    Equal {
        claim: String,
        value: String,
    },
    Test {
        expression: Expression,
        message: String,
    },
}

enum Source {
    Claim { name: String, prefix: String },
    Expression(Expression),
}

impl Claims {
    pub(super) fn new(config: &JwtAuthenticator) -> Result<Self, String> {
        let of_claims = Environment::new(&["claims"]);
        let compile = |source: &str| compile(source, &of_claims);
        let mappings = &config.claim_mappings;
        let mut rules = Vec::new();
        for rule in &config.claim_validation_rules {
            rules.push(match (rule.claim.is_empty(), rule.expression.is_empty()) {
                (false, true) => Rule::Equal {
                    claim: rule.claim.clone(),
                    value: rule.required_value.clone(),
                },
                (true, false) => Rule::Test {
                    expression: compile(&rule.expression)?,
                    message: rule.message.clone(),
                },
                _ => return Err("a claim validation rule is a claim or an expression".into()),
            });
        }
        let mut extra: Vec<(String, Expression)> = Vec::new();
        for mapping in &mappings.extra {
            check_extra_key(&mapping.key)?;
            if extra.iter().any(|(key, _)| *key == mapping.key) {
                return Err(format!("the extra {:?} is there twice", mapping.key));
            }
            extra.push((mapping.key.clone(), compile(&mapping.value_expression)?));
        }
        let of_user = Environment::new(&["user"]);
        let mut user_rules = Vec::new();
        for rule in &config.user_validation_rules {
            let expression = self::compile(&rule.expression, &of_user)?;
            user_rules.push((expression, rule.message.clone()));
        }
        let username = source("username", &mappings.username, true)?
            .ok_or("claimMappings.username needs a claim or an expression")?;
        check_email(&mappings.username, config)?;
        Ok(Claims {
            rules,
            username,
            groups: source("groups", &mappings.groups, true)?,
            uid: source("uid", &mappings.uid, false)?,
            extra,
            user_rules,
        })
    }

    pub(super) fn user(&self, claims: &Value) -> Result<UserInfo, OidcError> {
        let mut activation = Activation::default();
        activation.set("claims", from_json(claims));
        for rule in &self.rules {
            rule.check(claims, &activation)?;
        }
        let name = self.username.text("username", claims, &activation)?;
        if name.is_empty() {
            return Err(OidcError::Claims("the username is empty".into()));
        }
        let mut user = UserInfo::new(name, Vec::<String>::new());
        if let Some(groups) = &self.groups {
            user.groups = groups.list(claims, &activation)?;
        }
        if let Some(uid) = &self.uid {
            user.uid = uid.text("uid", claims, &activation)?;
        }
        for (key, expression) in &self.extra {
            let values = texts(&evaluate(expression, &activation)?)?;
            if !values.is_empty() {
                user.extra.insert(key.clone(), values);
            }
        }
        if let Some(id) = claims["jti"].as_str().filter(|id| !id.is_empty()) {
            let own = vec![format!("JTI={id}")];
            user.extra.insert(CREDENTIAL_ID.into(), own);
        }
        self.judge(&user)?;
        Ok(user)
    }

    fn judge(&self, user: &UserInfo) -> Result<(), OidcError> {
        let mut activation = Activation::default();
        let shown = json!({"username": user.name, "uid": user.uid, "groups": user.groups,
            "extra": user.extra});
        activation.set("user", from_json(&shown));
        for (expression, message) in &self.user_rules {
            holds(expression, message, &activation)?;
        }
        Ok(())
    }
}

impl Rule {
    fn check(&self, claims: &Value, activation: &Activation<'_>) -> Result<(), OidcError> {
        match self {
            Rule::Equal { claim, value } if claims[claim] == value.as_str() => Ok(()),
            Rule::Equal { claim, .. } => {
                let why = format!("{claim} is not what is required");
                Err(OidcError::Claims(why))
            }
            Rule::Test {
                expression,
                message,
            } => holds(expression, message, activation),
        }
    }
}

impl Source {
    fn text(
        &self,
        what: &str,
        claims: &Value,
        activation: &Activation<'_>,
    ) -> Result<String, OidcError> {
        let wrong = |why: &str| OidcError::Claims(format!("{what}: {why}"));
        match self {
            Source::Claim { name, prefix } => {
                // An address that was not verified is nobody's.
                if what == "username" && name == "email" && claims["email_verified"] == false {
                    return Err(wrong("the email address is not verified"));
                }
                let value = claims[name].as_str();
                let value = value.ok_or_else(|| wrong(&format!("the claim {name} is no text")))?;
                Ok(format!("{prefix}{value}"))
            }
            Source::Expression(expression) => match evaluate(expression, activation)? {
                Value::String(text) => Ok(text),
                _ => Err(wrong("the expression gives no text")),
            },
        }
    }

    fn list(&self, claims: &Value, activation: &Activation<'_>) -> Result<Vec<String>, OidcError> {
        match self {
            Source::Claim { name, prefix } => {
                let groups = texts(&claims[name])?;
                Ok(groups.iter().map(|g| format!("{prefix}{g}")).collect())
            }
            Source::Expression(expression) => texts(&evaluate(expression, activation)?),
        }
    }
}

fn compile(source: &str, environment: &Environment) -> Result<Expression, String> {
    Expression::compile(source, environment).map_err(|e| format!("the expression {source:?}: {e}"))
}

fn source(what: &str, mapping: &Mapping, prefixed: bool) -> Result<Option<Source>, String> {
    match (mapping.claim.is_empty(), mapping.expression.is_empty()) {
        (true, true) => Ok(None),
        (false, true) if prefixed && mapping.prefix.is_none() => Err(format!(
            "claimMappings.{what}.prefix is required with a claim; it may be empty"
        )),
        (false, true) => Ok(Some(Source::Claim {
            name: mapping.claim.clone(),
            prefix: mapping.prefix.clone().unwrap_or_default(),
        })),
        (true, false) if mapping.prefix.is_some() => Err(format!(
            "claimMappings.{what}.prefix goes with a claim alone"
        )),
        (true, false) => {
            let own = compile(&mapping.expression, &Environment::new(&["claims"]))?;
            Ok(Some(Source::Expression(own)))
        }
        (false, false) => Err(format!("claimMappings.{what} is a claim or an expression")),
    }
}

/// An expression that uses the address has to look whether it was verified.
fn check_email(username: &Mapping, config: &JwtAuthenticator) -> Result<(), String> {
    let verified = |text: &str| text.contains("claims.email_verified");
    let uses = username.expression.contains("claims.email")
        && username
            .expression
            .replace("claims.email_verified", "")
            .contains("claims.email");
    let looks = verified(&username.expression)
        || config
            .claim_mappings
            .extra
            .iter()
            .any(|e| verified(&e.value_expression))
        || config
            .claim_validation_rules
            .iter()
            .any(|r| verified(&r.expression));
    if uses && !looks {
        return Err("claims.email_verified must be used together with claims.email".into());
    }
    Ok(())
}

/// Keys are paths below a domain that is not Kubernetes' own.
fn check_extra_key(key: &str) -> Result<(), String> {
    let (domain, path) = key.split_once('/').unwrap_or((key, ""));
    let own = ["k8s.io", "kubernetes.io"];
    let reserved = own
        .iter()
        .any(|o| domain == *o || domain.strip_suffix(o).is_some_and(|d| d.ends_with('.')));
    if path.is_empty() || domain.is_empty() || key != key.to_lowercase() || reserved {
        return Err(format!(
            "the extra {key:?} has to be a path in lower case below a domain of yours"
        ));
    }
    Ok(())
}

fn evaluate(expression: &Expression, activation: &Activation<'_>) -> Result<Value, OidcError> {
    let wrong = |e: crate::cel::EvaluationError| {
        OidcError::Claims(format!("{:?}: {e}", expression.source()))
    };
    to_json(&expression.evaluate(activation).map_err(wrong)?).map_err(wrong)
}

fn holds(
    expression: &Expression,
    message: &str,
    activation: &Activation<'_>,
) -> Result<(), OidcError> {
    match expression.test(activation) {
        Ok(true) => Ok(()),
        Ok(false) if message.is_empty() => {
            let why = format!("{:?} does not hold", expression.source());
            Err(OidcError::Claims(why))
        }
        Ok(false) => Err(OidcError::Claims(message.to_owned())),
        Err(error) => Err(OidcError::Claims(format!(
            "{:?}: {error}",
            expression.source()
        ))),
    }
}

/// A text or a list of them; nothing is an empty list.
fn texts(value: &Value) -> Result<Vec<String>, OidcError> {
    let wrong = || OidcError::Claims("a text or a list of texts is wanted".into());
    match value {
        Value::Null => Ok(Vec::new()),
        Value::String(text) if text.is_empty() => Ok(Vec::new()),
        Value::String(text) => Ok(vec![text.clone()]),
        Value::Array(items) => {
            let texts = items.iter().map(|i| i.as_str().map(str::to_owned));
            let texts = texts.collect::<Option<Vec<_>>>().ok_or_else(wrong)?;
            Ok(texts.into_iter().filter(|t| !t.is_empty()).collect())
        }
        _ => Err(wrong()),
    }
}
