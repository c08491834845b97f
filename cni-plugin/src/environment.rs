//! The environment variables that a runtime sets.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use kernel::MacAddress;

use crate::error::{Code, Error};

/// The operation that the runtime wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Command {
    Add,
    Del,
    Check,
    Status,
    Gc,
    Version,
}

impl Command {
    pub fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Status => "STATUS",
            Self::Gc => "GC",
            Self::Version => "VERSION",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [
            Self::Add,
            Self::Del,
            Self::Check,
            Self::Status,
            Self::Gc,
            Self::Version,
        ]
        .into_iter()
        .find(|command| command.name() == text)
    }

    /// The variables without which the operation means nothing.
    fn required(self) -> &'static [&'static str] {
        match self {
            Self::Add | Self::Check => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"],
            Self::Del => &["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"],
            Self::Status | Self::Gc => &["CNI_PATH"],
            Self::Version => &[],
        }
    }
}

/// The environment of one invocation, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    pub command: Command,
    pub container_id: String,
    pub netns: Option<PathBuf>,
    pub ifname: String,
    pub arguments: Arguments,
    /// Where other plugins are.
    pub path: Vec<PathBuf>,
}

/// `CNI_ARGS`, the older way to give parameters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Arguments {
    pub ips: Vec<String>,
    pub mac: Option<MacAddress>,
    pub pod_namespace: Option<String>,
    pub pod_name: Option<String>,
    pub pod_uid: Option<String>,
}

impl Environment {
    /// Reads the variables by the given function.
    pub fn read(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, Error> {
        let text = |name: &str| -> Result<String, Error> {
            variable(name)
                .unwrap_or_default()
                .into_string()
                .map_err(|_| invalid(format!("{name} is not valid UTF-8")))
        };
        let command = text("CNI_COMMAND")?;
        if command.is_empty() {
            return Err(invalid(
                "required environment variables [CNI_COMMAND] are missing",
            ));
        }
        let command = Command::parse(&command)
            .ok_or_else(|| invalid(format!("CNI_COMMAND {command:?} is not known")))?;
        let mut missing = Vec::new();
        for name in command.required() {
            if text(name)?.is_empty() {
                missing.push(*name);
            }
        }
        if !missing.is_empty() {
            let missing = missing.join(",");
            return Err(invalid(format!(
                "required environment variables [{missing}] are missing"
            )));
        }
        let netns = variable("CNI_NETNS")
            .filter(|path| !path.is_empty())
            .map(PathBuf::from);
        let path = variable("CNI_PATH").unwrap_or_default();
        let environment = Self {
            command,
            container_id: text("CNI_CONTAINERID")?,
            netns,
            ifname: text("CNI_IFNAME")?,
            arguments: Arguments::parse(&text("CNI_ARGS")?)?,
            path: std::env::split_paths(&path).collect(),
        };
        environment.check_names()?;
        Ok(environment)
    }

    fn check_names(&self) -> Result<(), Error> {
        let id = &self.container_id;
        if !id.is_empty() && !is_identifier(id) {
            return Err(invalid(format!(
                "CNI_CONTAINERID {id:?} has characters that are not allowed"
            )));
        }
        let name = &self.ifname;
        let strange = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
        let dots = name == "." || name == "..";
        if name.len() > kernel::link::MAX_NAME || dots || name.contains(strange) {
            return Err(invalid(format!(
                "CNI_IFNAME {name:?} is no name for an interface"
            )));
        }
        Ok(())
    }
}

/// Letters, digits, `_`, `.` and `-`, starting with a letter or digit: container ids and
/// network names.
pub fn is_identifier(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes
        .next()
        .is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Code::InvalidEnvironment, message)
}

impl Arguments {
    fn parse(text: &str) -> Result<Self, Error> {
        let mut pairs = BTreeMap::new();
        for pair in text.split(';').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair
                .split_once('=')
                .ok_or_else(|| invalid(format!("CNI_ARGS: {pair:?} is not KEY=VALUE")))?;
            pairs.insert(key, value);
        }
        let ignore_unknown = match pairs.remove("IgnoreUnknown") {
            None | Some("0" | "false" | "no") => false,
            Some("1" | "true" | "yes") => true,
            Some(other) => {
                return Err(invalid(format!(
                    "CNI_ARGS: IgnoreUnknown={other} is not true or false"
                )));
            }
        };
        let mut arguments = Self::default();
        let mut unknown = Vec::new();
        for (key, value) in pairs {
            let owned = || Some(value.to_owned()).filter(|value| !value.is_empty());
            match key {
                "IP" => arguments.ips = value.split(',').map(str::to_owned).collect(),
                "MAC" => {
                    let mac = value.parse();
                    arguments.mac =
                        Some(mac.map_err(|error| invalid(format!("CNI_ARGS: MAC: {error}")))?);
                }
                "K8S_POD_NAMESPACE" => arguments.pod_namespace = owned(),
                "K8S_POD_NAME" => arguments.pod_name = owned(),
                "K8S_POD_UID" => arguments.pod_uid = owned(),
                "K8S_POD_INFRA_CONTAINER_ID" => {}
                _ => unknown.push(key),
            }
        }
        if !unknown.is_empty() && !ignore_unknown {
            return Err(invalid(format!(
                "CNI_ARGS: unknown arguments [{}]",
                unknown.join(",")
            )));
        }
        Ok(arguments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Environment, Error> {
        Environment::read(|name| {
            pairs
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).into())
        })
    }

    const ADD: [(&str, &str); 5] = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "abc"),
        ("CNI_NETNS", "/run/netns/x"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/opt/cni/bin:/usr/lib/cni"),
    ];

    fn with<'a>(name: &'a str, value: &'a str) -> Vec<(&'a str, &'a str)> {
        let mut pairs: Vec<_> = ADD.into_iter().filter(|(key, _)| *key != name).collect();
        pairs.push((name, value));
        pairs
    }

    #[test]
    fn a_complete_environment_is_read() {
        let read = read(&with(
            "CNI_ARGS",
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;X=y;IP=10.0.0.1;MAC=02:00:00:00:00:01",
        ))
        .unwrap();
        assert_eq!(read.command, Command::Add);
        assert_eq!(read.path.len(), 2);
        assert_eq!(read.arguments.pod_name.as_deref(), Some("b"));
        assert_eq!(read.arguments.ips, ["10.0.0.1"]);
    }

    #[test]
    fn missing_variables_are_named() {
        let error = read(&[("CNI_COMMAND", "ADD"), ("CNI_IFNAME", "eth0")]).unwrap_err();
        assert_eq!(error.code, 4);
        assert!(
            error
                .message
                .contains("[CNI_CONTAINERID,CNI_NETNS,CNI_PATH]"),
            "{error}"
        );
        assert!(read(&[]).unwrap_err().message.contains("CNI_COMMAND"));
        assert!(read(&[("CNI_COMMAND", "VERSION")]).is_ok());
        assert!(
            read(&with("CNI_COMMAND", "FROB"))
                .unwrap_err()
                .message
                .contains("FROB")
        );
    }

    #[test]
    fn bad_values_are_refused_by_name() {
        for (name, value) in [
            ("CNI_CONTAINERID", "../x"),
            ("CNI_CONTAINERID", "-x"),
            ("CNI_IFNAME", "a/b"),
            ("CNI_IFNAME", "."),
            ("CNI_IFNAME", "eth 0"),
            ("CNI_IFNAME", "sixteen-letters-"),
            ("CNI_ARGS", "X=y"),
            ("CNI_ARGS", "nonsense"),
            ("CNI_ARGS", "MAC=zz"),
        ] {
            let error = read(&with(name, value)).unwrap_err();
            assert!(
                error.code == 4 && error.message.contains(name),
                "{name}={value}: {error}"
            );
        }
    }
}
