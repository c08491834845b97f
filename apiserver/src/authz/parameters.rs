//! Admission policies read objects for their authors: who names a kind or an object as the
//! parameters of a policy has to be allowed to read it.

use serde_json::Value;

use super::Attributes;
use crate::authn::UserInfo;
use crate::registry::Call;
use crate::registry::resource::split_api_version;
use crate::response::{ApiError, Cause};

/// The group of policies and bindings.
pub(super) const GROUP: &str = "admissionregistration.k8s.io";

/// Refuses a policy or binding whose author may not read its parameters. What stays as it was is
/// not asked about again.
pub(super) async fn check(call: &Call, new: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    let spec = |object: &Value, field: &str| object["spec"][field].clone();
    let plural: &str = &call.resource.plural;
    let (field, asked) = match plural {
        "validatingadmissionpolicies" | "mutatingadmissionpolicies" => {
            let kind = spec(new, "paramKind");
            if !kind.is_object() || old.is_some_and(|old| spec(old, "paramKind") == kind) {
                return Ok(());
            }
            let mut asked = of_kind(call, &kind);
            (asked.namespace, asked.name) = ("*".to_owned(), "*".to_owned());
            ("paramKind", asked)
        }
        "validatingadmissionpolicybindings" | "mutatingadmissionpolicybindings" => {
            let reference = spec(new, "paramRef");
            let stays = |old: &Value| {
                spec(old, "paramRef") == reference
                    && spec(old, "policyName") == spec(new, "policyName")
            };
            if !reference.is_object() || old.is_some_and(stays) {
                return Ok(());
            }
            let policies = plural.replace("policybindings", "policies");
            let policy = spec(new, "policyName");
            let name = policy.as_str().unwrap_or_default();
            let policy = call.registry.lookup(GROUP, &policies, "", name);
            let kind = policy.map(|p| spec(&p.value(), "paramKind"));
            let mut asked = of_kind(call, &kind.unwrap_or_default());
            asked.namespace = text(&reference["namespace"]).to_owned();
            asked.name = text(&reference["name"]).to_owned();
            ("paramRef", asked)
        }
        _ => return Ok(()),
    };
    let authorizer = &call.registry.authorizer;
    if authorizer.authorize(&call.user, &asked).await.is_allowed() {
        return Ok(());
    }
    let who = as_go(&call.user);
    let why = if field == "paramKind" {
        let kind = &new["spec"]["paramKind"];
        let (kind, version) = (text(&kind["kind"]), text(&kind["apiVersion"]));
        format!(
            "user {who} must have \"get\" permission on all objects of the referenced paramKind (kind={kind}, apiVersion={version})"
        )
    } else {
        format!("user {who} does not have \"get\" permission on the object referenced by paramRef")
    };
    let fault = Cause::new(
        "FieldValueForbidden",
        format!("Forbidden: {why}"),
        format!("spec.{field}"),
    );
    Err(ApiError::invalid(
        GROUP,
        &call.resource.kind,
        text(&new["metadata"]["name"]),
        vec![fault],
    ))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The question whether the kind may be read; what is not known of it has to be allowed whatever
/// it is.
fn of_kind(call: &Call, kind: &Value) -> Attributes {
    let version = text(&kind["apiVersion"]);
    let mut asked = Attributes::resource("get", "*", "*", "", "");
    asked.api_version = "*".to_owned();
    if version.is_empty() {
        return asked;
    }
    let (group, version) = split_api_version(version);
    (asked.api_group, asked.api_version) = (group.to_owned(), version.to_owned());
    let known = call
        .registry
        .catalog
        .of_kind(group, version, text(&kind["kind"]));
    if let Some(resource) = known {
        asked.resource = resource.plural.to_string();
    }
    asked
}

/// A user as Go prints it.
fn as_go(user: &UserInfo) -> String {
    let extra = user.extra.iter();
    let extra: Vec<String> = extra
        .map(|(key, values)| format!("{key}:[{}]", values.join(" ")))
        .collect();
    format!(
        "&{{{} {} [{}] map[{}]}}",
        user.name,
        user.uid,
        user.groups.join(" "),
        extra.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_printed_as_go_prints_them() {
        let mut user = UserInfo::new("bob", ["devs", "system:authenticated"]);
        user.extra.insert("a".into(), vec!["1".into(), "2".into()]);
        assert_eq!(
            as_go(&user),
            "&{bob  [devs system:authenticated] map[a:[1 2]]}"
        );
    }
}
