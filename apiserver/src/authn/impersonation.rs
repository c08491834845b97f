//! Acting as somebody else: `Impersonate-*` headers, pure.

use http::HeaderMap;

use super::service_account::account_groups;
use super::{UserInfo, group, user_name};
use crate::authz::Attributes;

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

/// Whom a request wants to be, and what its real user has to be allowed for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Impersonation {
    pub user: UserInfo,
    pub needs: Vec<Attributes>,
}

/// `None` without such headers; an error's text is for a BadRequest.
pub fn requested(headers: &HeaderMap) -> Result<Option<Impersonation>, String> {
    let text = |name: &str| {
        headers
            .get(name)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default()
    };
    let mut user = UserInfo {
        name: text(USER).to_owned(),
        uid: text(UID).to_owned(),
        groups: headers
            .get_all(GROUP)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .map(str::to_owned)
            .collect(),
        ..UserInfo::default()
    };
    for (name, value) in headers {
        if let (Some(key), Ok(value)) = (name.as_str().strip_prefix(EXTRA), value.to_str()) {
            user.extra
                .entry(unescape(key))
                .or_default()
                .push(value.to_owned());
        }
    }
    if user == UserInfo::default() {
        return Ok(None);
    }
    if user.name.is_empty() {
        return Err(format!(
            "requested {} without impersonating a user name",
            describe(&user)
        ));
    }
    let needs = needs(&user);
    complete(&mut user);
    Ok(Some(Impersonation { user, needs }))
}

/// Takes the headers away, so that nothing behind acts on them again.
pub fn strip(headers: &mut HeaderMap) {
    let names: Vec<_> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("impersonate-"))
        .cloned()
        .collect();
    for name in names {
        headers.remove(name);
    }
}

fn needs(user: &UserInfo) -> Vec<Attributes> {
    let mut needs = Vec::new();
    let ask = |group: &str, resource: &str, namespace: &str, name: &str| {
        Attributes::resource("impersonate", group, resource, namespace, name)
    };
    match user.service_account() {
        Some((namespace, name)) => needs.push(ask("", "serviceaccounts", namespace, name)),
        None => needs.push(ask("", "users", "", &user.name)),
    }
    for name in &user.groups {
        needs.push(ask("", "groups", "", name));
    }
    for (key, values) in &user.extra {
        for value in values {
            let mut need = ask("authentication.k8s.io", "userextras", "", value);
            need.subresource.clone_from(key);
            needs.push(need);
        }
    }
    if !user.uid.is_empty() {
        needs.push(ask("authentication.k8s.io", "uids", "", &user.uid));
    }
    needs
}

/// The groups that such a user always has.
fn complete(user: &mut UserInfo) {
    if user.groups.is_empty()
        && let Some((namespace, _)) = user.service_account()
    {
        user.groups = account_groups(namespace).to_vec();
    }
    let general = if user.name == user_name::ANONYMOUS {
        group::UNAUTHENTICATED
    } else {
        group::AUTHENTICATED
    };
    let has_one = user.is_in(group::AUTHENTICATED) || user.is_in(group::UNAUTHENTICATED);
    if !has_one {
        user.groups.push(general.to_owned());
    }
}

/// Header names cannot hold every letter of a key; clients write the others as `%2f`.
fn unescape(key: &str) -> String {
    let mut out = Vec::with_capacity(key.len());
    let bytes = key.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%')
            .then(|| bytes.get(at + 1..at + 3))
            .flatten()
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.push(escaped.unwrap_or(bytes[at]));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// As upstream's messages print a user.
fn describe(user: &UserInfo) -> String {
    let list = |values: &[String]| {
        let quoted: Vec<String> = values.iter().map(|value| format!("{value:?}")).collect();
        format!("[]string{{{}}}", quoted.join(", "))
    };
    let groups = if user.groups.is_empty() {
        "[]string(nil)".to_owned()
    } else {
        list(&user.groups)
    };
    let extra = if user.extra.is_empty() {
        "map[string][]string(nil)".to_owned()
    } else {
        let pairs: Vec<String> = user
            .extra
            .iter()
            .map(|(key, values)| format!("{key:?}:{}", list(values)))
            .collect();
        format!("map[string][]string{{{}}}", pairs.join(", "))
    };
    format!(
        "&user.DefaultInfo{{Name:{:?}, UID:{:?}, Groups:{groups}, Extra:{extra}}}",
        user.name, user.uid
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, value.parse().unwrap());
        }
        headers
    }

    fn check_groups(pairs: &[(&str, &str)], groups: &[&str]) {
        let found = requested(&headers(pairs)).unwrap().unwrap();
        assert_eq!(found.user.groups, groups, "{pairs:?}");
    }

    #[test]
    fn users_have_the_groups_that_belong_to_them() {
        check_groups(&[("Impersonate-User", "eve")], &["system:authenticated"]);
        check_groups(
            &[
                ("Impersonate-User", "eve"),
                ("Impersonate-Group", "a"),
                ("Impersonate-Group", "b"),
            ],
            &["a", "b", "system:authenticated"],
        );
        check_groups(
            &[("Impersonate-User", "system:serviceaccount:n:s")],
            &[
                "system:serviceaccounts",
                "system:serviceaccounts:n",
                "system:authenticated",
            ],
        );
        check_groups(
            &[("Impersonate-User", "system:anonymous")],
            &["system:unauthenticated"],
        );
    }

    #[test]
    fn everything_that_is_claimed_has_to_be_allowed() {
        let pairs = [
            ("Impersonate-User", "eve"),
            ("Impersonate-Group", "system:masters"),
            ("Impersonate-Uid", "u"),
            ("Impersonate-Extra-Acme.com%2fScope", "s"),
        ];
        let found = requested(&headers(&pairs)).unwrap().unwrap();
        let asked: Vec<String> = found
            .needs
            .iter()
            .map(|need| {
                format!(
                    "{}/{}/{} {}",
                    need.api_group, need.resource, need.subresource, need.name
                )
            })
            .collect();
        assert_eq!(
            asked,
            [
                "/users/ eve",
                "/groups/ system:masters",
                "authentication.k8s.io/userextras/acme.com/scope s",
                "authentication.k8s.io/uids/ u",
            ]
        );
    }

    #[test]
    fn claims_without_a_name_are_refused() {
        let error = requested(&headers(&[("Impersonate-Uid", "x")])).unwrap_err();
        assert_eq!(
            error,
            "requested &user.DefaultInfo{Name:\"\", UID:\"x\", Groups:[]string(nil), \
             Extra:map[string][]string(nil)} without impersonating a user name"
        );
        assert_eq!(requested(&HeaderMap::new()), Ok(None));
    }
}
