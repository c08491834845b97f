//! The `authorizer` variable: access checks from within expressions.

use std::sync::Arc;

use futures::FutureExt;
use kube_cel::cel::objects::Opaque;

use super::values::string;
use super::{CelValue, EvaluationError};
use crate::authn::{SharedUser, UserInfo, group, user_name};
use crate::authz::{self, Decision};

/// Which methods a question has by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Start,
    Group,
    Ready,
}

/// A question to the authorizer while it is being put together.
#[derive(Clone)]
pub struct Authorizer {
    authorizer: Arc<dyn authz::Authorizer>,
    user: SharedUser,
    question: authz::Attributes,
    stage: Stage,
}

impl Authorizer {
    /// The `authorizer` variable for this user.
    pub fn value(authorizer: Arc<dyn authz::Authorizer>, user: SharedUser) -> CelValue {
        Authorizer {
            authorizer,
            user,
            question: authz::Attributes::default(),
            stage: Stage::Start,
        }
        .wrap()
    }

    /// `authorizer.requestResource`: the question for the resource of the request.
    pub fn request_value(
        authorizer: Arc<dyn authz::Authorizer>,
        user: SharedUser,
        question: authz::Attributes,
    ) -> CelValue {
        Authorizer {
            authorizer,
            user,
            question,
            stage: Stage::Ready,
        }
        .wrap()
    }

    fn wrap(self) -> CelValue {
        CelValue::Opaque(Arc::new(self))
    }

    fn with(&self, stage: Stage, change: impl FnOnce(&mut authz::Attributes)) -> CelValue {
        let mut next = self.clone();
        next.stage = stage;
        change(&mut next.question);
        next.wrap()
    }

    fn check(&self, verb: &str) -> CelValue {
        let mut question = self.question.clone();
        question.verb = verb.to_owned();
        let asked = self.authorizer.authorize(&self.user, &question);
        let decision = match asked.now_or_never() {
            Some(decision) => decision,
            None => self.wait(&question),
        };
        CelValue::Opaque(Arc::new(Answer {
            allowed: decision.is_allowed(),
            reason: decision.reason().to_owned(),
        }))
    }

    /// An authorizer that has to ask somebody: this thread waits for it.
    fn wait(&self, question: &authz::Attributes) -> Decision {
        let handle = tokio::runtime::Handle::current();
        if handle.runtime_flavor() == tokio::runtime::RuntimeFlavor::CurrentThread {
            return Decision::NoOpinion {
                reason: "the authorizer did not answer at once".to_owned(),
            };
        }
        tokio::task::block_in_place(|| {
            handle.block_on(self.authorizer.authorize(&self.user, question))
        })
    }
}

impl std::fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Authorizer").field(&self.question).finish()
    }
}

impl PartialEq for Authorizer {
    fn eq(&self, other: &Self) -> bool {
        self.question == other.question && self.stage == other.stage && self.user == other.user
    }
}

impl Eq for Authorizer {}

impl Opaque for Authorizer {
    fn runtime_type_name(&self) -> &str {
        "kubernetes.authorization.Authorizer"
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Answer {
    allowed: bool,
    reason: String,
}

impl Opaque for Answer {
    fn runtime_type_name(&self) -> &str {
        "kubernetes.authorization.Decision"
    }
}

/// Calls a method of a question or an answer; `None` when the target is neither.
pub(super) fn call(
    name: &str,
    target: Option<&CelValue>,
    args: &[CelValue],
) -> Option<Result<CelValue, EvaluationError>> {
    let Some(CelValue::Opaque(target)) = target else {
        return None;
    };
    if let Some(question) = target.downcast_ref::<Authorizer>() {
        return Some(ask(question, name, args));
    }
    let answer = target.downcast_ref::<Answer>()?;
    Some(match name {
        "allowed" => Ok(CelValue::Bool(answer.allowed)),
        "reason" => Ok(string(answer.reason.clone())),
        "errored" => Ok(CelValue::Bool(false)),
        "error" => Ok(string("")),
        _ => Err(EvaluationError::NoSuchOverload),
    })
}

fn ask(question: &Authorizer, name: &str, args: &[CelValue]) -> Result<CelValue, EvaluationError> {
    let texts: Vec<&str> = args
        .iter()
        .filter_map(|a| match a {
            CelValue::String(text) => Some(text.as_str()),
            _ => None,
        })
        .collect();
    if texts.len() != args.len() {
        return Err(EvaluationError::NoSuchOverload);
    }
    Ok(match (question.stage, name, texts.as_slice()) {
        (Stage::Start, "path", [path]) => {
            question.with(Stage::Ready, |q| q.path = (*path).to_owned())
        }
        (Stage::Start, "group", [group]) => {
            question.with(Stage::Group, |q| q.api_group = (*group).to_owned())
        }
        (Stage::Start, "serviceAccount", [namespace, name]) => {
            let mut next = question.clone();
            next.user = Arc::new(service_account(namespace, name));
            next.wrap()
        }
        (Stage::Group, "resource", [resource]) => question.with(Stage::Ready, |q| {
            q.resource = (*resource).to_owned();
            q.api_version = "*".to_owned();
        }),
        (Stage::Ready, "subresource", [subresource]) => {
            question.with(Stage::Ready, |q| q.subresource = (*subresource).to_owned())
        }
        (Stage::Ready, "namespace", [namespace]) => {
            question.with(Stage::Ready, |q| q.namespace = (*namespace).to_owned())
        }
        (Stage::Ready, "name", [name]) => {
            question.with(Stage::Ready, |q| q.name = (*name).to_owned())
        }
        (Stage::Ready, "fieldSelector" | "labelSelector", [_]) => question.clone().wrap(),
        (Stage::Ready, "check", [verb]) => question.check(verb),
        _ => return Err(EvaluationError::NoSuchOverload),
    })
}

fn service_account(namespace: &str, name: &str) -> UserInfo {
    let all = group::SERVICE_ACCOUNTS;
    UserInfo::new(
        format!("{}{namespace}:{name}", user_name::SERVICE_ACCOUNT_PREFIX),
        [
            all.to_owned(),
            format!("{all}:{namespace}"),
            group::AUTHENTICATED.to_owned(),
        ],
    )
}
