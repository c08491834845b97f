//! Who a pod is to the API server.

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::site::{Site, idle, job};

const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

fn mounts_a_token(pod: &Value) -> bool {
    let mounts = pod["spec"]["containers"][0]["volumeMounts"].as_array();
    mounts
        .into_iter()
        .flatten()
        .any(|mount| mount["mountPath"] == MOUNT)
}

/// A request with a token alone, sent by this process.
fn answer(site: &Site, path: &str, token: &str) -> anyhow::Result<Value> {
    let server = site
        .cluster
        .kubectl("config view --raw --minify -o jsonpath={.clusters[0].cluster.server}")?
        .success()?;
    let mut curl = cluster_tests::command::command("curl");
    curl.args(["-sk", "--max-time", "20", "-H"])
        .arg(format!("Authorization: Bearer {token}"))
        .arg(format!("{}{path}", server.trim()));
    let text = cluster_tests::command::outcome(&mut curl, None)?.success()?;
    Ok(serde_json::from_str(&text)?)
}

pub(crate) fn tokens_are_mounted_as_pod_and_account_say(site: &Site) -> anyhow::Result<()> {
    let space = site.space("automount")?;
    let accounts = [
        ("default-sa", Value::Null),
        ("mount", json!(true)),
        ("nomount", json!(false)),
    ];
    for (name, automount) in &accounts {
        let account =
            json!({"metadata": {"name": name}, "automountServiceAccountToken": automount});
        space.create("serviceaccounts", &account)?;
    }
    for (account, own) in &accounts {
        for (suffix, asked) in [
            ("defaults", Value::Null),
            ("yes", json!(true)),
            ("no", json!(false)),
        ] {
            let mut pod = idle(&format!("pod-{account}-{suffix}"));
            pod["spec"]["serviceAccountName"] = json!(account);
            pod["spec"]["automountServiceAccountToken"] = asked.clone();
            let made = space.pod(&pod)?;
            let wanted = asked.as_bool().or(own.as_bool()).unwrap_or(true);
            ensure!(mounts_a_token(&made) == wanted, "{}", made["spec"]);
        }
    }
    Ok(())
}

pub(crate) fn the_mounted_token_authenticates_its_pod(site: &Site) -> anyhow::Result<()> {
    let space = site.space("account-token")?;
    let pod = space.start(&idle("caller"))?;
    let read = |file: &str| -> anyhow::Result<String> {
        let line = format!("cat {MOUNT}/{file}");
        space.exec("caller", "main", &line)?.success()
    };
    ensure!(read("namespace")? == "account-token");
    let root = space.get("configmaps/kube-root-ca.crt")?;
    ensure!(read("ca.crt")? == root["data"]["ca.crt"].as_str().unwrap_or_default());
    let token = read("token")?;
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let review = site.create("/apis/authentication.k8s.io/v1/tokenreviews", &review)?;
    let status = &review["status"];
    ensure!(status["authenticated"] == true, "{status}");
    ensure!(
        status["user"]["username"] == "system:serviceaccount:account-token:default",
        "{status}"
    );
    let extra = &status["user"]["extra"];
    ensure!(
        extra["authentication.kubernetes.io/pod-name"] == json!(["caller"]),
        "{extra}"
    );
    ensure!(
        extra["authentication.kubernetes.io/pod-uid"] == json!([pod["metadata"]["uid"]]),
        "{extra}"
    );
    ensure!(
        extra["authentication.kubernetes.io/node-name"] == json!([pod["spec"]["nodeName"]]),
        "{extra}"
    );
    // What is bound to a pod goes with it.
    space.delete("pods/caller?gracePeriodSeconds=0")?;
    space.until_gone("pods/caller")?;
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let review = site.create("/apis/authentication.k8s.io/v1/tokenreviews", &review)?;
    ensure!(
        review["status"]["authenticated"] != true,
        "{}",
        review["status"]
    );
    Ok(())
}

pub(crate) fn projected_tokens_belong_to_their_user(site: &Site) -> anyhow::Result<()> {
    let space = site.space("token-owner")?;
    let cases = [
        ("plain", json!({}), "644 0 0\n"),
        ("user", json!({"runAsUser": 1000}), "600 1000 0\n"),
        (
            "group",
            json!({"runAsUser": 1000, "fsGroup": 10000}),
            "640 1000 10000\n",
        ),
        ("only-group", json!({"fsGroup": 10000}), "640 0 10000\n"),
    ];
    for (name, context, _) in &cases {
        let mut pod = job(
            name,
            "stat -L -c '%a %u %g' /var/run/secrets/tokens/sa-token",
        );
        pod["spec"]["securityContext"] = context.clone();
        pod["spec"]["volumes"] = json!([{"name": "v", "projected": {"sources": [{"serviceAccountToken":
            {"path": "sa-token", "expirationSeconds": 43200}}]}}]);
        pod["spec"]["containers"][0]["volumeMounts"] =
            json!([{"name": "v", "mountPath": "/var/run/secrets/tokens", "readOnly": true}]);
        space.pod(&pod)?;
    }
    for (name, _, wanted) in cases {
        space.ended(name)?;
        let log = space.log(name, "")?;
        ensure!(log == wanted, "{name}: {log}");
    }
    Ok(())
}

/// What an OIDC client in a pod does: the document, the keys, with the pod's own token.
pub(crate) fn the_issuer_is_discovered_with_a_pods_token(site: &Site) -> anyhow::Result<()> {
    let space = site.space("discovery")?;
    space.start(&idle("client"))?;
    let token = space
        .exec("client", "main", &format!("cat {MOUNT}/token"))?
        .success()?;
    let document = answer(site, "/.well-known/openid-configuration", &token)?;
    let issuer = document["issuer"].as_str().context("no issuer")?;
    let keys = document["jwks_uri"].as_str().context("no keys")?;
    ensure!(keys.ends_with("/openid/v1/jwks"), "{keys}");
    let claims = token.split('.').nth(1).context("no JWT")?;
    let claims = base64_url(claims)?;
    let claims: Value = serde_json::from_slice(&claims)?;
    ensure!(claims["iss"] == issuer, "{claims} is not by {issuer}");
    ensure!(
        claims["sub"] == "system:serviceaccount:discovery:default",
        "{claims}"
    );
    ensure!(
        claims["kubernetes.io"]["pod"]["name"] == "client",
        "{claims}"
    );
    let keys = answer(site, "/openid/v1/jwks", &token)?;
    let header: Value =
        serde_json::from_slice(&base64_url(token.split('.').next().unwrap_or(""))?)?;
    let known = keys["keys"].as_array().context("no keys")?;
    ensure!(
        known.iter().any(|key| key["kid"] == header["kid"]),
        "{header} is not of {keys}"
    );
    Ok(())
}

fn base64_url(text: &str) -> anyhow::Result<Vec<u8>> {
    use base64::Engine;
    Ok(base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text)?)
}
