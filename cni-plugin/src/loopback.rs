//! The plugin `loopback`: the container's `lo` is up.
//!
//! containerd 1.x runs a plugin of this name for every pod beside the network that is configured,
//! and starts no pod without it. A node that has it from elsewhere keeps that one.

use std::path::Path;

use kernel::link::{self, Settings};
use kernel::netlink::Protocol;
use serde::Deserialize;

use crate::config;
use crate::dataplane::open_netns;
use crate::encode;
use crate::environment::{Command, Environment};
use crate::error::{Code, Error};
use crate::result::{CniResult, Interface, Ip};

/// The name under which a runtime looks for it.
pub const PROGRAM: &str = "loopback";
const INTERFACE: &str = "lo";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    prev_result: Option<CniResult>,
}

/// Answers any operation but VERSION.
pub(crate) fn dispatch(environment: &Environment, input: &[u8]) -> Result<Vec<u8>, Error> {
    let config: Config = serde_json::from_slice(input).map_err(|error| {
        Error::new(Code::Decode, "the configuration cannot be read").with_details(error)
    })?;
    let netns = environment.netns.as_deref();
    match environment.command {
        Command::Add => {
            let netns = netns.ok_or_else(missing)?;
            set(netns, true)?;
            let result = config.prev_result.unwrap_or_else(|| loopback(netns));
            encode(&result.for_version(config::version_of(input)))
        }
        Command::Del => {
            // A namespace that is gone took its interface along.
            match netns.map(|netns| set(netns, false)) {
                Some(Err(error)) if !error.is(Code::UnknownContainer) => Err(error),
                _ => Ok(Vec::new()),
            }
        }
        Command::Check => check(netns.ok_or_else(missing)?),
        Command::Status | Command::Gc | Command::Version => Ok(Vec::new()),
    }
}

fn missing() -> Error {
    Error::new(Code::InvalidEnvironment, "CNI_NETNS is missing")
}

fn gone(netns: &Path) -> Error {
    let message = format!("the namespace {} is not there", netns.display());
    Error::new(Code::UnknownContainer, message)
}

fn failed(what: &str) -> impl Fn(kernel::netlink::Error) -> Error + '_ {
    move |error| Error::kernel(what, error)
}

fn set(path: &Path, up: bool) -> Result<(), Error> {
    let netns = open_netns(path)?.ok_or_else(|| gone(path))?;
    let mut socket = netns
        .socket(Protocol::Route)
        .map_err(|error| Error::kernel("cannot enter the container's namespace", error))?;
    let settings = Settings {
        up: Some(up),
        ..Settings::new()
    };
    socket
        .execute(&link::set_by_name(INTERFACE, &settings))
        .map_err(failed("cannot set the loopback interface"))?;
    Ok(())
}

fn check(path: &Path) -> Result<Vec<u8>, Error> {
    let netns = open_netns(path)?.ok_or_else(|| gone(path))?;
    let mut socket = netns
        .socket(Protocol::Route)
        .map_err(|error| Error::kernel("cannot enter the container's namespace", error))?;
    let found =
        link::get(&mut socket, INTERFACE).map_err(failed("cannot read the loopback interface"))?;
    if found.is_some_and(|link| link.up) {
        return Ok(Vec::new());
    }
    Err(Error::new(
        Code::CheckFailed,
        "the loopback interface is not up",
    ))
}

/// The result where no plugin ran before.
fn loopback(netns: &Path) -> CniResult {
    let address = |text: &str| {
        text.parse().ok().map(|address| Ip {
            version: None,
            address,
            gateway: None,
            interface: Some(0),
        })
    };
    CniResult {
        interfaces: vec![Interface {
            name: INTERFACE.to_owned(),
            mac: Some("00:00:00:00:00:00".to_owned()),
            sandbox: Some(netns.display().to_string()),
            ..Interface::default()
        }],
        ips: ["127.0.0.1/8", "::1/128"]
            .into_iter()
            .filter_map(address)
            .collect(),
        ..CniResult::default()
    }
}
