//! Paths of a group and version, from its resources.

use super::operations::{Body, Operation, Parameter, PathItem, Reply};
use super::parameters::{self, DELETE, LIST, NAME, NAMESPACE, PATCH, PATH, PRETTY, WRITE};
use crate::resources::{Resource, ResourceTable, Subresource};
use crate::types::{Gvk, root as shape};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// Kinds whose deletion answers with the object instead of a `Status`.
const RETURNS_DELETED: [&str; 16] = [
    "persistentvolumeclaims",
    "pods",
    "podtemplates",
    "resourcequotas",
    "serviceaccounts",
    "services",
    "persistentvolumes",
    "deviceclasses",
    "resourceclaims",
    "resourceclaimtemplates",
    "resourceslices",
    "csidrivers",
    "csinodes",
    "storageclasses",
    "volumeattachments",
    "volumeattributesclasses",
];

/// Name of the definition of a kind.
pub(super) fn definition_name(kind: &Gvk) -> String {
    match shape(&kind.group, &kind.version, &kind.kind) {
        Some(own) => own.get().name.to_string(),
        None => {
            let reversed: Vec<&str> = kind.group.split('.').rev().collect();
            format!("{}.{}.{}", reversed.join("."), kind.version, kind.kind)
        }
    }
}

fn title(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect())
}

/// A group's name in identifiers: `RbacAuthorization`.
fn group_title(group: &str) -> String {
    if group.is_empty() {
        return "Core".into();
    }
    group
        .strip_suffix(".k8s.io")
        .unwrap_or(group)
        .split(['.', '-'])
        .map(title)
        .collect()
}

/// A group's name in tags: `rbacAuthorization`.
fn group_tag(group: &str) -> String {
    let own = group_title(group);
    let mut chars = own.chars();
    chars
        .next()
        .map_or_else(String::new, |c| c.to_lowercase().chain(chars).collect())
}

/// A path that only says what there is.
pub(super) fn root(path: &str, id: &str, tag: &str, kind: &str) -> PathItem {
    plain(path, id, tag, Reply::Discovery(format!("{META}{kind}")))
}

/// `/apis/GROUP/`
pub(super) fn group(group: &str) -> PathItem {
    let id = format!("get{}APIGroup", group_title(group));
    root(
        &format!("/apis/{group}/"),
        &id,
        &group_tag(group),
        "APIGroup",
    )
}

/// A path with a GET that is of no kind.
pub(super) fn plain(path: &str, id: &str, tag: &str, reply: Reply) -> PathItem {
    let operation = Operation {
        method: "get",
        id: id.into(),
        tag: tag.into(),
        summary: "describes what is served".into(),
        action: None,
        kind: None,
        parameters: Vec::new(),
        body: Body::None,
        reply,
        codes: &[200],
        custom: false,
    };
    PathItem::new(path.into(), vec![operation])
}

/// Every path of a group and version.
pub(super) fn group_version(
    table: &ResourceTable,
    group: &str,
    version: &str,
) -> Option<Vec<PathItem>> {
    let own = table.group_version(group, version)?;
    let base = if group.is_empty() {
        format!("/api/{version}")
    } else {
        format!("/apis/{group}/{version}")
    };
    let tag = format!("{}_{version}", group_tag(group));
    let id = format!("get{}{}APIResources", group_title(group), title(version));
    let mut items = vec![root(&format!("{base}/"), &id, &tag, "APIResourceList")];
    for resource in &own.resources {
        let custom = resource.shape().is_none();
        let paths = Paths {
            base: &base,
            tag: &tag,
            resource,
            custom,
        };
        items.extend(paths.items());
    }
    items.retain(|i| !i.operations.is_empty());
    Some(items)
}

/// The paths of a resource.
struct Paths<'a> {
    base: &'a str,
    tag: &'a str,
    resource: &'a Resource,
    custom: bool,
}

impl Paths<'_> {
    fn items(&self) -> Vec<PathItem> {
        let r = self.resource;
        let namespaced = r.namespaced();
        let prefix = if namespaced {
            "/namespaces/{namespace}"
        } else {
            ""
        };
        let (base, plural) = (self.base, &r.plural);
        let collection = format!("{base}{prefix}/{plural}");
        let mut items = vec![
            PathItem::new(collection.clone(), self.collection()),
            PathItem::new(format!("{collection}/{{name}}"), self.object()),
        ];
        if namespaced && r.allows("list") {
            items.push(PathItem::new(
                format!("{base}/{plural}"),
                vec![self.list(Span::All)],
            ));
        }
        if r.allows("watch") && !self.custom {
            let watch = format!("{base}/watch{prefix}/{plural}");
            items.push(PathItem::new(
                watch.clone(),
                vec![self.watch(Span::Own, "watchlist")],
            ));
            items.push(PathItem::new(
                format!("{watch}/{{name}}"),
                vec![self.watch(Span::One, "watch")],
            ));
            if namespaced {
                items.push(PathItem::new(
                    format!("{base}/watch/{plural}"),
                    vec![self.watch(Span::All, "watchlist")],
                ));
            }
        }
        for s in &r.subresources {
            let path = format!("{collection}/{{name}}/{}", s.name);
            if s.kind.ends_with("Options") {
                items.push(PathItem::new(path.clone(), self.connect(s, false)));
                if s.name == "proxy" {
                    items.push(PathItem::new(
                        format!("{path}/{{path}}"),
                        self.connect(s, true),
                    ));
                }
            } else {
                items.push(PathItem::new(path, self.subresource(s)));
            }
        }
        items
    }

    /// `readAppsV1NamespacedDeployment` and its like.
    fn id(&self, verb: &str, middle: &str, suffix: &str) -> String {
        let r = self.resource;
        let scope = if r.namespaced() { "Namespaced" } else { "" };
        format!(
            "{verb}{}{}{middle}{scope}{}{suffix}",
            group_title(&r.group),
            title(&r.version),
            r.kind
        )
    }

    fn operation(
        &self,
        method: &'static str,
        id: String,
        action: &'static str,
        extra: &[Parameter],
    ) -> Operation {
        let kind = self.resource.gvk();
        let mut parameters = vec![PRETTY];
        parameters.extend_from_slice(extra);
        if self.resource.namespaced() {
            parameters.push(NAMESPACE);
        }
        Operation {
            method,
            id,
            tag: self.tag.into(),
            summary: format!("{action}: {}", kind.kind),
            action: Some(action),
            parameters,
            body: Body::None,
            reply: Reply::Object(definition_name(&kind)),
            kind: Some(kind),
            codes: &[200],
            custom: self.custom,
        }
    }

    fn collection(&self) -> Vec<Operation> {
        let r = self.resource;
        let mut all = Vec::new();
        if r.allows("list") {
            all.push(self.list(Span::Own));
        }
        if r.allows("create") {
            let object = definition_name(&r.gvk());
            let own = self.operation("post", self.id("create", "", ""), "post", &WRITE);
            all.push(Operation {
                body: Body::Object(object),
                codes: &[200, 201, 202],
                ..own
            });
        }
        if r.allows("deletecollection") {
            let id = self.id("delete", "Collection", "");
            let own = self.operation(
                "delete",
                id,
                "deletecollection",
                &parameters::delete_collection(),
            );
            all.push(Operation {
                body: Body::DeleteOptions,
                reply: Reply::Object(format!("{META}Status")),
                ..own
            });
        }
        all
    }

    fn object(&self) -> Vec<Operation> {
        let r = self.resource;
        let object = definition_name(&r.gvk());
        let with_name = |extra: &[Parameter]| [&[NAME], extra].concat();
        let mut all = Vec::new();
        if r.allows("get") {
            all.push(self.operation("get", self.id("read", "", ""), "get", &with_name(&[])));
        }
        if r.allows("update") {
            let own = self.operation("put", self.id("replace", "", ""), "put", &with_name(&WRITE));
            all.push(Operation {
                body: Body::Object(object.clone()),
                codes: &[200, 201],
                ..own
            });
        }
        if r.allows("patch") {
            let own = self.operation(
                "patch",
                self.id("patch", "", ""),
                "patch",
                &with_name(&PATCH),
            );
            all.push(Operation {
                body: Body::Patch,
                codes: &[200, 201],
                ..own
            });
        }
        if r.allows("delete") {
            let own = self.operation(
                "delete",
                self.id("delete", "", ""),
                "delete",
                &with_name(&DELETE),
            );
            let deleted = !self.custom && RETURNS_DELETED.contains(&r.plural.as_ref());
            let reply = Reply::Object(if deleted {
                object
            } else {
                format!("{META}Status")
            });
            all.push(Operation {
                body: Body::DeleteOptions,
                reply,
                codes: &[200, 202],
                ..own
            });
        }
        all
    }

    fn list(&self, span: Span) -> Operation {
        let r = self.resource;
        let id = match span {
            Span::All => format!(
                "list{}{}{}ForAllNamespaces",
                group_title(&r.group),
                title(&r.version),
                r.kind
            ),
            _ => self.id("list", "", ""),
        };
        let mut own = self.operation("get", id, "list", &LIST);
        if span == Span::All {
            own.parameters.retain(|p| p.name != "namespace");
        }
        let list = Gvk {
            kind: r.list_kind.clone(),
            ..r.gvk()
        };
        Operation {
            reply: Reply::Stream(definition_name(&list)),
            ..own
        }
    }

    fn watch(&self, span: Span, action: &'static str) -> Operation {
        let r = self.resource;
        let id = match span {
            Span::All => format!(
                "watch{}{}{}ListForAllNamespaces",
                group_title(&r.group),
                title(&r.version),
                r.kind
            ),
            Span::Own => self.id("watch", "", "List"),
            Span::One => self.id("watch", "", ""),
        };
        let mut own = self.operation("get", id, action, &LIST);
        match span {
            Span::All => own.parameters.retain(|p| p.name != "namespace"),
            Span::Own => {}
            Span::One => own.parameters.push(NAME),
        }
        Operation {
            reply: Reply::Stream(format!("{META}WatchEvent")),
            ..own
        }
    }

    fn subresource(&self, s: &Subresource) -> Vec<Operation> {
        let r = self.resource;
        let (group, version) = s
            .group_version
            .clone()
            .unwrap_or((r.group.clone(), r.version.clone()));
        let kind = Gvk {
            group,
            version,
            kind: s.kind.clone(),
        };
        let object = definition_name(&kind);
        let suffix = title(&s.name);
        let verb = |name: &str| s.verbs.iter().any(|v| v == name);
        let make = |method, word: &str, action, extra: &[Parameter]| Operation {
            reply: Reply::Object(object.clone()),
            kind: Some(kind.clone()),
            ..self.operation(
                method,
                self.id(word, "", &suffix),
                action,
                &[&[NAME], extra].concat(),
            )
        };
        let mut all = Vec::new();
        if verb("get") {
            let mut own = make(
                "get",
                "read",
                "get",
                &parameters::connection(&r.plural, &s.name),
            );
            if s.name == "log" {
                own.reply = Reply::Log;
            }
            all.push(own);
        }
        if verb("create") {
            let own = make("post", "create", "post", &WRITE);
            all.push(Operation {
                body: Body::Object(object.clone()),
                codes: &[200, 201, 202],
                ..own
            });
        }
        if verb("update") {
            let own = make("put", "replace", "put", &WRITE);
            all.push(Operation {
                body: Body::Object(object.clone()),
                codes: &[200, 201],
                ..own
            });
        }
        if verb("patch") {
            all.push(Operation {
                body: Body::Patch,
                codes: &[200, 201],
                ..make("patch", "patch", "patch", &PATCH)
            });
        }
        all
    }

    /// A connection: its options are a kind, its content is not.
    fn connect(&self, s: &Subresource, with_path: bool) -> Vec<Operation> {
        let r = self.resource;
        let methods: &[&'static str] = if s.name == "proxy" {
            &["delete", "get", "head", "options", "patch", "post", "put"]
        } else {
            &["get", "post"]
        };
        let one = |method: &&'static str| {
            let suffix = format!(
                "{}{}",
                title(&s.name),
                if with_path { "WithPath" } else { "" }
            );
            let mut own = self.operation(
                method,
                self.id("connect", &title(method), &suffix),
                "connect",
                &[NAME],
            );
            own.parameters.retain(|p| *p != PRETTY);
            own.parameters
                .extend(parameters::connection(&r.plural, &s.name));
            if with_path {
                own.parameters.push(PATH);
            }
            own.kind = Some(Gvk {
                kind: s.kind.clone(),
                ..r.gvk()
            });
            Operation {
                reply: Reply::Any,
                ..own
            }
        };
        methods.iter().map(one).collect()
    }
}

/// Of what a list is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Span {
    One,
    Own,
    All,
}
