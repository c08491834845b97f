//! Faults on request: a node that loses its power, a link that drops everything.

use std::time::Duration;

use crate::error::LabError;
use crate::inspect::place_process;
use crate::state::{LabState, Lock};
use crate::{down, launch, network};

const PATIENCE: Duration = Duration::from_secs(20);

/// Ends everything on a node at once, as a power failure does. Its disk stays.
pub fn stop(lab: &str, node: &str) -> Result<(), LabError> {
    let _lock = Lock::take(lab)?;
    let mut state = LabState::load(lab)?;
    let process = match place_process(&state, node) {
        Err(LabError::Stopped { .. }) => None,
        other => Some(other?),
    };
    if let Some(process) = process {
        process.kill(PATIENCE).map_err(|source| LabError::Remove {
            what: format!("process {}", process.pid),
            source,
        })?;
    }
    down::end_processes(lab, Some(node))?;
    network::remove_place(lab, node)?;
    down::remove_cgroups(lab, Some(node))?;
    state.places.remove(node);
    state.save()?;
    Ok(())
}

/// Starts a stopped node again, with what it had on disk. One that runs is fine.
pub fn start(lab: &str, node: &str, fairlead: &std::path::Path) -> Result<(), LabError> {
    {
        let _lock = Lock::take(lab)?;
        let state = LabState::load(lab)?;
        match place_process(&state, node) {
            Ok(_) => return Ok(()),
            Err(LabError::Stopped { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    // What a place that died by itself left behind.
    stop(lab, node)?;
    let _lock = Lock::take(lab)?;
    let mut state = LabState::load(lab)?;
    let topology = state.topology.clone();
    let place = topology.place(node).expect("the place was found above");
    network::create_place(&topology, place)?;
    state
        .places
        .insert(node.to_owned(), launch::start(lab, node, fairlead)?);
    state.save()?;
    Ok(())
}

/// Drops all frames between two places.
pub fn cut(lab: &str, from: &str, to: &str) -> Result<(), LabError> {
    change_link(lab, from, to, network::Link::Cut)
}

/// Lets frames between two places pass again.
pub fn heal(lab: &str, from: &str, to: &str) -> Result<(), LabError> {
    change_link(lab, from, to, network::Link::Whole)
}

fn change_link(lab: &str, from: &str, to: &str, link: network::Link) -> Result<(), LabError> {
    let _lock = Lock::take(lab)?;
    let state = LabState::load(lab)?;
    for node in [from, to] {
        match place_process(&state, node) {
            Ok(_) | Err(LabError::Stopped { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    network::set_link(&state.topology, from, to, link)?;
    Ok(())
}
