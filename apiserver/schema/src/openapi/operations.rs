//! Operations on paths, before they are written as v2 or v3.

use crate::types::Gvk;

/// Type and place of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    /// `query` or `path`.
    pub(super) place: &'static str,
    /// `string`, `boolean` or `integer`.
    pub(super) kind: &'static str,
    /// Whose option it is, where several have one of that name.
    pub(super) context: &'static str,
}

/// What a request carries.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Body {
    None,
    /// An object of this definition.
    Object(String),
    DeleteOptions,
    Patch,
}

/// What an answer carries.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Reply {
    /// An object.
    Object(String),
    /// A list or an event, possibly streamed.
    Stream(String),
    /// What discovery answers.
    Discovery(String),
    /// `/version`
    Version,
    /// Whatever the other end sends.
    Any,
    /// A pod's log.
    Log,
    /// JSON as text.
    Text,
    /// JSON Web Keys.
    KeySet,
}

/// One method of a path.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    pub(super) method: &'static str,
    pub(super) id: String,
    pub(super) tag: String,
    pub(super) summary: String,
    pub(super) action: Option<&'static str>,
    pub(super) kind: Option<Gvk>,
    pub(super) parameters: Vec<Parameter>,
    pub(super) body: Body,
    pub(super) reply: Reply,
    pub(super) codes: &'static [u16],
    /// Custom resources have no protobuf.
    pub(super) custom: bool,
}

/// A path.
#[derive(Clone, Debug)]
pub(super) struct PathItem {
    pub(super) path: String,
    /// Parameters that every operation has.
    pub(super) parameters: Vec<Parameter>,
    pub(super) operations: Vec<Operation>,
}

impl PathItem {
    /// Takes out what the operations have in common.
    pub(super) fn new(path: String, mut operations: Vec<Operation>) -> Self {
        operations.iter_mut().for_each(|o| o.parameters.sort());
        let all = operations
            .first()
            .map(|o| o.parameters.clone())
            .unwrap_or_default();
        let parameters: Vec<Parameter> = all
            .into_iter()
            .filter(|p| operations.iter().all(|o| o.parameters.contains(p)))
            .collect();
        for operation in &mut operations {
            operation.parameters.retain(|p| !parameters.contains(p));
        }
        Self {
            path,
            parameters,
            operations,
        }
    }

    /// Definitions that it names.
    pub(super) fn definitions(&self) -> Vec<String> {
        self.operations
            .iter()
            .flat_map(Operation::definitions)
            .collect()
    }
}

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

impl Body {
    pub(super) fn definition(&self) -> Option<String> {
        match self {
            Self::None => None,
            Self::Object(name) => Some(name.clone()),
            Self::DeleteOptions => Some(format!("{META}DeleteOptions")),
            Self::Patch => Some(format!("{META}Patch")),
        }
    }
}

impl Reply {
    pub(super) fn definition(&self) -> Option<String> {
        match self {
            Self::Object(name) | Self::Stream(name) | Self::Discovery(name) => Some(name.clone()),
            Self::Version => Some("io.k8s.apimachinery.pkg.version.Info".into()),
            Self::Any | Self::Log | Self::Text | Self::KeySet => None,
        }
    }
}

impl Operation {
    fn definitions(&self) -> Vec<String> {
        self.body
            .definition()
            .into_iter()
            .chain(self.reply.definition())
            .collect()
    }

    /// Media types of the answer, in v2's order.
    pub(super) fn produces(&self) -> Vec<&'static str> {
        const JSON: &str = "application/json";
        const YAML: &str = "application/yaml";
        const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
        match self.reply {
            Reply::Object(_) | Reply::Stream(_) if self.custom => vec![JSON, YAML],
            Reply::Object(_) | Reply::Discovery(_) => vec![JSON, YAML, PROTOBUF],
            Reply::Stream(_) => vec![
                JSON,
                YAML,
                PROTOBUF,
                "application/json;stream=watch",
                "application/vnd.kubernetes.protobuf;stream=watch",
            ],
            Reply::Log => vec!["text/plain", JSON, YAML, PROTOBUF],
            Reply::Any => vec!["*/*"],
            Reply::Version | Reply::Text => vec![JSON],
            Reply::KeySet => vec!["application/jwk-set+json"],
        }
    }

    /// Media types of the request, in v2's order.
    pub(super) fn consumes(&self) -> Vec<&'static str> {
        let json = "application/json-patch+json";
        let merge = "application/merge-patch+json";
        let strategic = "application/strategic-merge-patch+json";
        let apply = "application/apply-patch+yaml";
        match (&self.body, &self.reply) {
            (Body::Patch, _) if self.custom => vec![json, merge, apply],
            (Body::Patch, _) => vec![json, merge, strategic, apply],
            (_, Reply::Discovery(_)) => vec![
                "application/json",
                "application/yaml",
                "application/vnd.kubernetes.protobuf",
            ],
            (_, Reply::Version) => vec!["application/json"],
            (_, Reply::Object(_) | Reply::Stream(_)) if self.custom => {
                vec!["application/json", "application/yaml"]
            }
            _ => vec!["*/*"],
        }
    }
}
