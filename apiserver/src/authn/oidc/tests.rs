use serde_json::json;

use super::claims::Claims;
use super::*;

fn claims(mappings: &str) -> Result<Claims, String> {
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n- issuer: {{url: https://i.example, audiences: [a]}}\n{mappings}"
    );
    Claims::new(&AuthenticationFile::parse(&text)?.jwt[0])
}

#[test]
fn claims_become_a_user_as_the_configuration_says() {
    let own = claims(concat!(
        "  claimMappings:\n",
        "    username: {claim: sub, prefix: 'x:'}\n",
        "    groups: {expression: 'claims.roles.split(\",\")'}\n",
        "    uid: {claim: id}\n",
        "    extra: [{key: example.com/tenant, valueExpression: claims.tenant}]\n",
        "  claimValidationRules: [{claim: hd, requiredValue: example.com}]\n",
        "  userValidationRules: [{expression: \"!user.username.startsWith('system:')\", message: reserved}]\n",
    ))
    .unwrap();
    let token = json!({"sub": "jane", "roles": "dev,ops", "id": "7", "tenant": "t",
        "hd": "example.com", "jti": "j"});
    let user = own.user(&token).unwrap();
    assert_eq!((user.name.as_str(), user.uid.as_str()), ("x:jane", "7"));
    assert_eq!(user.groups, ["dev", "ops"]);
    assert_eq!(user.extra["example.com/tenant"], ["t"]);
    assert_eq!(
        user.extra["authentication.kubernetes.io/credential-id"],
        ["JTI=j"]
    );
    let mut other = token.clone();
    other["hd"] = json!("evil.example");
    assert!(own.user(&other).is_err());
    let mut nameless = token;
    nameless["sub"] = json!(null);
    assert!(own.user(&nameless).is_err());
}

#[test]
fn a_user_that_a_rule_refuses_is_nobody() {
    let own = claims(concat!(
        "  claimMappings: {username: {claim: sub, prefix: ''}}\n",
        "  userValidationRules: [{expression: \"!user.username.startsWith('system:')\", message: reserved}]\n",
    ))
    .unwrap();
    let refused = own.user(&json!({"sub": "system:admin"})).unwrap_err();
    assert_eq!(refused, OidcError::Claims("reserved".into()));
}

#[test]
fn an_unverified_address_is_no_name() {
    let own = claims("  claimMappings: {username: {claim: email, prefix: ''}}\n").unwrap();
    let address = |verified: Value| json!({"email": "j@example.com", "email_verified": verified});
    assert!(own.user(&address(json!(false))).is_err());
    assert!(own.user(&address(json!(true))).is_ok());
    assert!(claims("  claimMappings: {username: {expression: claims.email}}\n").is_err());
}

#[test]
fn mappings_that_cannot_work_are_refused_at_the_start() {
    for mappings in [
        "",
        "  claimMappings: {username: {claim: sub}}\n",
        "  claimMappings: {username: {claim: sub, expression: claims.sub, prefix: ''}}\n",
        "  claimMappings: {username: {expression: 'claims.'}}\n",
        "  claimMappings: {username: {expression: other.sub}}\n",
        "  claimMappings: {username: {claim: s, prefix: ''}, extra: [{key: k8s.io/x, valueExpression: claims.s}]}\n",
    ] {
        assert!(claims(mappings).is_err(), "{mappings}");
    }
}

#[tokio::test]
async fn issuers_are_https_and_not_this_server() {
    let file = |url: &str| {
        let flags = OidcFlags {
            issuer_url: url.into(),
            client_id: "c".into(),
            username_claim: "sub".into(),
            ..OidcFlags::default()
        };
        flags.file().unwrap()
    };
    assert!(Oidc::new(&file("http://i.example"), "https://own").is_err());
    assert!(Oidc::new(&file("https://own"), "https://own").is_err());
    let mut symmetric = file("https://i.example");
    symmetric.jwt[0].algorithms = vec!["HS256".into()];
    assert!(Oidc::new(&symmetric, "https://own").is_err());
}

#[test]
fn whose_token_it_is_stands_in_its_claims() {
    let token = |claims: &str| format!("e30.{}.x", URL_SAFE_NO_PAD.encode(claims));
    assert_eq!(
        claimed_issuer(&token(r#"{"iss":"i"}"#)).as_deref(),
        Some("i")
    );
    assert_eq!(claimed_issuer(&token("[]")), None);
    assert_eq!(claimed_issuer("a.b"), None);
    assert_eq!(claimed_issuer("a.b.c.d"), None);
}
