//! The CNI plugin of Fairlead: a routed veth pair for each container, its address, its host
//! ports and its limits.
//!
//! # What it owns
//!
//! * interfaces named by [`host_interface_name`] (the host sides of pods) and `flb-...` (limits);
//! * routes with protocol number 204;
//! * the nftables table `inet fairlead-cni`;
//! * `/var/lib/cni/fairlead/<network>/`.
//!
//! # A packet's path
//!
//! A pod has a /32 and a /128 and no neighbour but its gateway, 169.254.1.1 and fe80::1, which
//! is the host's end of the pair. What it sends is checked against its addresses
//! ([`rules`]), then routed by the host. What is sent to it follows the host's route to its
//! address ([`wiring`]).
//!
//! # Order of things
//!
//! [`config`] and [`environment`] make raw input into values; [`ipam`], [`wiring`] and
//! [`rules`] decide; [`state`] and [`store`] remember; [`dataplane`] acts; [`verbs`] put them in order.
//!
//! **Invariants:** an address is used by the attachment that the state names and by no other;
//! a failed ADD leaves nothing behind; DEL succeeds however often it comes; no program is
//! started but the plugins that the configuration names.

pub mod config;
pub mod dataplane;
pub mod delegate;
pub mod environment;
pub mod error;
pub mod flows;
pub mod ipam;
pub mod loopback;
pub mod policy;
pub mod pools;
pub mod result;
pub mod rules;
pub mod state;
pub mod store;
pub mod verbs;
pub mod version;
pub mod wiring;

use std::ffi::{OsStr, OsString};
use std::path::Path;

use serde::{Deserialize, Serialize};

use config::Config;
use environment::{Command, Environment};
use error::{Code, Error};
use verbs::{Call, Deferred};
use version::Version;
pub use wiring::{host_interface_name, is_host_interface};

/// What an invocation writes to standard output, and whether it succeeded.
pub struct Answer {
    pub output: Vec<u8>,
    pub success: bool,
    /// What is left to do when the answer is written.
    pub deferred: Option<Deferred>,
}

/// Which plugin the program is, by the name that it was started under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plugin {
    /// The pod's interface.
    Pods,
    /// [`loopback`], which containerd 1.x wants beside every network.
    Loopback,
}

impl Plugin {
    pub fn named(program: Option<&OsStr>) -> Self {
        let name = program.and_then(|program| Path::new(program).file_name());
        if name == Some(OsStr::new(loopback::PROGRAM)) {
            Self::Loopback
        } else {
            Self::Pods
        }
    }
}

/// Answers one invocation: `variable` gives the environment, `input` is standard input.
pub fn answer(plugin: Plugin, variable: impl Fn(&str) -> Option<OsString>, input: &[u8]) -> Answer {
    let mut deferred = None;
    let outcome = Environment::read(variable).and_then(|environment| match plugin {
        Plugin::Loopback if environment.command != Command::Version => {
            loopback::dispatch(&environment, input)
        }
        Plugin::Loopback | Plugin::Pods => dispatch(&environment, input, &mut deferred),
    });
    match outcome {
        Ok(output) => Answer {
            output,
            success: true,
            deferred,
        },
        Err(error) => {
            let object = error.object(config::version_of(input));
            let output = serde_json::to_vec(&object).unwrap_or_default();
            Answer {
                output,
                success: false,
                deferred,
            }
        }
    }
}

fn dispatch(
    environment: &Environment,
    input: &[u8],
    deferred: &mut Option<Deferred>,
) -> Result<Vec<u8>, Error> {
    if environment.command == Command::Version {
        return versions(input);
    }
    let config = Config::parse(input, environment)?;
    check_version(environment.command, config.version)?;
    let call = Call {
        environment,
        config: &config,
    };
    match environment.command {
        Command::Add => {
            let result = verbs::add(&call)?.for_version(config.version);
            encode(&result)
        }
        Command::Del => {
            *deferred = Some(verbs::del(&call)?);
            Ok(Vec::new())
        }
        Command::Check => verbs::check(&call).map(|()| Vec::new()),
        Command::Status => verbs::status(&call).map(|()| Vec::new()),
        Command::Gc => verbs::gc(&call).map(|()| Vec::new()),
        Command::Version => versions(input),
    }
}

/// CHECK came with 0.4.0, STATUS and GC with 1.1.0.
fn check_version(command: Command, version: Version) -> Result<(), Error> {
    let since = match command {
        Command::Check => Version::V0_4_0,
        Command::Status | Command::Gc => Version::V1_1_0,
        Command::Add | Command::Del | Command::Version => Version::V0_3_0,
    };
    if version >= since {
        return Ok(());
    }
    let message = format!(
        "version {version} of the specification has no {}",
        command.name()
    );
    Err(Error::new(Code::IncompatibleVersion, message)
        .with_details(format!("it came with {since}")))
}

fn versions(input: &[u8]) -> Result<Vec<u8>, Error> {
    #[derive(Deserialize)]
    struct Asked {
        #[serde(rename = "cniVersion")]
        version: Option<String>,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Supported {
        cni_version: String,
        supported_versions: Vec<String>,
    }
    // Old runtimes send nothing at all.
    let asked = serde_json::from_slice::<Asked>(input)
        .ok()
        .and_then(|asked| asked.version);
    encode(&Supported {
        cni_version: asked.unwrap_or_else(|| Version::V1_1_0.to_string()),
        supported_versions: Version::supported(),
    })
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value)
        .map_err(|error| Error::new(Code::Io, "the result cannot be written").with_details(error))
}
