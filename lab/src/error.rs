//! What can go wrong with a lab.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::image::import::ImportError;
use crate::network::NetworkError;
use crate::place::PlaceError;
use crate::state::StateError;
use crate::topology::NameError;

/// Why a command on a lab failed. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    #[error("a lab needs root: run it with sudo")]
    NotRoot,
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("the lab {name:?} is up; `fairlead lab down {name}` removes it")]
    Exists { name: String },
    #[error("no free range is left for another lab: remove one with `fairlead lab down`")]
    NoRange,
    #[error("there is no {program}: {advice}")]
    NoProgram {
        program: String,
        advice: &'static str,
    },
    #[error("Services by ipvs: {0}; or take another --proxy")]
    NoIpvs(#[from] kernel::ipvs::Error),
    #[error("there is no {}; build the images with `fairlead image build`", path.display())]
    NoImage { path: PathBuf },
    #[error("the lab {lab:?} has no node {node:?}; it has {}", known.join(", "))]
    NoSuchPlace {
        lab: String,
        node: String,
        known: Vec<String>,
    },
    #[error("{node} is stopped; `fairlead lab start {lab} {node}` starts it")]
    Stopped { lab: String, node: String },
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error("{place} did not start: {detail}")]
    Launch { place: String, detail: String },
    #[error(transparent)]
    Import(#[from] ImportError),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{what} after {} s; the last line of {} is: {last}", after.as_secs(), log.display())]
    Timeout {
        what: String,
        after: Duration,
        log: PathBuf,
        last: String,
    },
    #[error("the cluster's API: {0}")]
    Api(String),
    #[error("cannot remove {what}: {source}; try `fairlead lab down` again")]
    Remove { what: String, source: io::Error },
}

impl LabError {
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}
