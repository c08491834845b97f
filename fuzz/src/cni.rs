//! What the CNI plugin reads: its configuration, its own state, the answers of the node's agent.

use std::ffi::OsString;

use cni_plugin::config::{self, Config};
use cni_plugin::environment::Environment;
use cni_plugin::pools::Offer;
use cni_plugin::store::{self, State};

/// The first line is `CNI_ARGS`, the rest is standard input.
pub(crate) fn config(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n');
    let (arguments, input) = match end {
        Some(end) => (&data[..end], &data[end + 1..]),
        None => (&[][..], data),
    };
    let arguments = String::from_utf8_lossy(arguments).into_owned();
    let environment = Environment::read(|name| {
        let value = match name {
            "CNI_COMMAND" => "ADD",
            "CNI_CONTAINERID" => "c1",
            "CNI_NETNS" => "/run/netns/c1",
            "CNI_IFNAME" => "eth0",
            "CNI_PATH" => "/opt/cni/bin",
            "CNI_ARGS" => arguments.as_str(),
            _ => return None,
        };
        Some(OsString::from(value))
    });
    let version = config::version_of(input);
    let error = match environment {
        Ok(environment) => match Config::parse(input, &environment) {
            Ok(parsed) => {
                assert_eq!(parsed.raw, input, "other plugins get what came");
                return;
            }
            Err(error) => error,
        },
        Err(error) => error,
    };
    // What is refused is answered with an object that runtimes can read.
    let object = serde_json::to_value(error.object(version)).unwrap_or_default();
    assert!(
        object["code"].is_u64() && object["msg"].is_string(),
        "{object}"
    );
}

/// A file of the state, and a state without its header, whose digest nobody would find by chance.
pub(crate) fn state(data: &[u8]) {
    // Most are no state.
    let _ = store::whole(data);
    let Ok(mut state) = store::parse(data) else {
        return;
    };
    for address in state.used() {
        assert!(state.owner(address).is_some());
    }
    let all: Vec<_> = state.attachments().collect();
    for attachment in all {
        assert!(state.get(&attachment).is_some(), "{attachment:?}");
        state.remove(&attachment);
    }
    assert!(state.used().is_empty());
}

/// What the agent answers about pools.
pub(crate) fn pool_answer(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(offer) = Offer::parse(text) else {
        return;
    };
    let mut state = State::default();
    let full = offer.full(&state);
    // Nothing is in use: whatever is full has no address at all.
    if let Ok(given) = cni_plugin::verbs::choose(&mut state, &offer.sets, &offer.addresses) {
        assert!(full.is_empty(), "{full:?}");
        for address in given {
            assert!(
                offer.sets.iter().any(|set| set.contains(address)),
                "{address}"
            );
        }
    }
}
