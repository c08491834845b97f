//! Requests below kubectl: exact bytes in, status and Status out.

use std::path::Path;

use anyhow::Context;
use serde_json::Value;

use crate::command::{command, outcome};

/// The administrator's way into a server, for curl.
pub struct Api {
    directory: tempfile::TempDir,
    url: String,
}

/// What the server answered.
#[derive(Debug, Clone)]
pub struct Answer {
    pub code: u16,
    pub body: Value,
}

impl Answer {
    pub fn reason(&self) -> &str {
        self.body["reason"].as_str().unwrap_or_default()
    }

    /// Whether this is a Status with that code and reason.
    pub fn is_status(&self, code: u16, reason: &str) -> bool {
        self.code == code
            && self.body["kind"] == "Status"
            && self.body["status"] == "Failure"
            && self.body["code"] == code
            && self.reason() == reason
    }
}

impl Api {
    /// Reads the credentials of a kubeconfig.
    pub fn of(kubeconfig: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(kubeconfig)?;
        let config: Value = serde_saphyr::from_str(&text)?;
        let directory = tempfile::tempdir()?;
        let write = |name: &str, data: &Value| -> anyhow::Result<()> {
            let data = data
                .as_str()
                .with_context(|| format!("no {name} in the kubeconfig"))?;
            Ok(std::fs::write(
                directory.path().join(name),
                base64_decode(data)?,
            )?)
        };
        let (cluster, user) = (
            &config["clusters"][0]["cluster"],
            &config["users"][0]["user"],
        );
        write("ca", &cluster["certificate-authority-data"])?;
        write("certificate", &user["client-certificate-data"])?;
        write("key", &user["client-key-data"])?;
        let url = cluster["server"].as_str().context("no server")?.to_owned();
        Ok(Self { directory, url })
    }

    /// A request of the administrator.
    pub fn send(
        &self,
        method: &str,
        path: &str,
        kind: &str,
        body: &[u8],
    ) -> anyhow::Result<Answer> {
        self.send_with_header(method, path, kind, body, None)
    }

    /// As [`Api::send`], with one more header, `Name: value`.
    fn send_with_header(
        &self,
        method: &str,
        path: &str,
        kind: &str,
        body: &[u8],
        header: Option<&str>,
    ) -> anyhow::Result<Answer> {
        let file = |name: &str| self.directory.path().join(name);
        let upload = tempfile::NamedTempFile::new_in(self.directory.path())?;
        std::fs::write(upload.path(), body)?;
        let mut curl = self.curl(path);
        curl.arg("--cert")
            .arg(file("certificate"))
            .arg("--key")
            .arg(file("key"));
        curl.args([
            "-X",
            method,
            "-H",
            &format!("Content-Type: {kind}"),
            "-H",
            "Expect:",
        ]);
        if let Some(header) = header {
            curl.args(["-H", header]);
        }
        if !body.is_empty() {
            curl.arg("--data-binary")
                .arg(format!("@{}", upload.path().display()));
        }
        answer(&mut curl)
    }

    pub fn json(&self, method: &str, path: &str, body: &Value) -> anyhow::Result<Answer> {
        self.send(
            method,
            path,
            "application/json",
            body.to_string().as_bytes(),
        )
    }

    /// A request without a body, with one more header, `Name: value`.
    pub fn with_header(&self, method: &str, path: &str, header: &str) -> anyhow::Result<Answer> {
        self.send_with_header(method, path, "application/json", b"", Some(header))
    }

    /// As [`Api::json`], with one more header, `Name: value`.
    pub fn json_with_header(
        &self,
        method: &str,
        path: &str,
        body: &Value,
        header: &str,
    ) -> anyhow::Result<Answer> {
        let body = body.to_string();
        self.send_with_header(
            method,
            path,
            "application/json",
            body.as_bytes(),
            Some(header),
        )
    }

    pub fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.send("GET", path, "application/json", b"")
    }

    /// A request of somebody without credentials.
    pub fn anonymous(&self, path: &str) -> anyhow::Result<Answer> {
        answer(&mut self.curl(path))
    }

    fn curl(&self, path: &str) -> std::process::Command {
        let mut curl = command("curl");
        curl.args(["-s", "--max-time", "20", "-w", "\n%{http_code}", "--cacert"]);
        curl.arg(self.directory.path().join("ca"))
            .arg(format!("{}{path}", self.url));
        curl
    }
}

fn answer(curl: &mut std::process::Command) -> anyhow::Result<Answer> {
    let text = outcome(curl, None)?;
    let (body, code) = text.stdout.rsplit_once('\n').context("no answer")?;
    let body = serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned()));
    Ok(Answer {
        code: code.trim().parse()?,
        body,
    })
}

fn base64_decode(text: &str) -> anyhow::Result<Vec<u8>> {
    use base64::Engine;
    Ok(base64::engine::general_purpose::STANDARD.decode(text)?)
}
