//! What the container runtime has of one pod.

use std::net::IpAddr;

use jiff::Timestamp;

/// Everything of one pod, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    pub sandboxes: Vec<Sandbox>,
    pub containers: Vec<Record>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    pub id: String,
    pub attempt: u32,
    pub ready: bool,
    pub created_at: Timestamp,
    /// Empty for pods in the node's network, and when the runtime did not say.
    pub ips: Vec<IpAddr>,
}

/// One container that the runtime knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub id: String,
    pub name: String,
    pub sandbox_id: String,
    /// How many containers of this name came before it.
    pub attempt: u32,
    /// See [`super::containers::Spec::hash`].
    pub hash: String,
    pub state: State,
    pub created_at: Timestamp,
    pub image: String,
    pub image_ref: String,
    pub log_path: String,
    /// The limits that the runtime reports.
    pub limits: Option<Limits>,
    pub user: Option<User>,
    pub stop_signal: Option<String>,
    pub termination: TerminationMessage,
}

/// Where a container leaves its last words, kept with the container itself so that a new
/// kubelet process finds them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TerminationMessage {
    pub host_path: String,
    pub fallback_to_logs: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    Created,
    Running { started_at: Timestamp },
    Exited(Exit),
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
    pub exit_code: i32,
    pub reason: String,
    pub message: String,
}

/// Limits in the kernel's units; 0 where there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    pub cpu_shares: i64,
    pub cpu_quota: i64,
    pub cpu_period: i64,
    pub memory: i64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    pub uid: i64,
    pub gid: i64,
    pub supplemental_groups: Vec<i64>,
}

impl Record {
    pub fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    /// Whether there may be a process to stop.
    pub fn is_alive(&self) -> bool {
        !matches!(self.state, State::Exited(_))
    }

    pub fn exit(&self) -> Option<&Exit> {
        match &self.state {
            State::Exited(exit) => Some(exit),
            _ => None,
        }
    }

    pub fn started_at(&self) -> Option<Timestamp> {
        match &self.state {
            State::Running { started_at } => Some(*started_at),
            State::Exited(exit) => Some(exit.started_at),
            _ => None,
        }
    }
}

impl Observed {
    pub fn sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.first()
    }

    /// The newest container of a name.
    pub fn newest(&self, name: &str) -> Option<&Record> {
        self.containers.iter().find(|record| record.name == name)
    }

    /// The newest container of a name, if it is in the newest sandbox. What ran in an older
    /// sandbox counts for nothing when the pod starts over.
    pub fn current(&self, name: &str) -> Option<&Record> {
        let sandbox = self.sandbox()?;
        self.newest(name)
            .filter(|record| record.sandbox_id == sandbox.id)
    }

    /// The one before the newest of a name.
    pub fn previous(&self, name: &str) -> Option<&Record> {
        self.containers
            .iter()
            .filter(|record| record.name == name)
            .nth(1)
    }

    pub fn by_id(&self, id: &str) -> Option<&Record> {
        self.containers.iter().find(|record| record.id == id)
    }

    pub fn alive(&self) -> impl Iterator<Item = &Record> {
        self.containers.iter().filter(|record| record.is_alive())
    }

    /// Takes in a sandbox that was just made. A look at the runtime may have been quicker
    /// than the answer to the call that made it: it is one sandbox all the same.
    pub fn add_sandbox(&mut self, sandbox: Sandbox) {
        self.sandboxes.retain(|known| known.id != sandbox.id);
        self.sandboxes.push(sandbox);
        self.sort();
    }

    /// Puts the lists into their order.
    pub fn sort(&mut self) {
        self.sandboxes.sort_by(|a, b| {
            (b.attempt, b.created_at, &b.id).cmp(&(a.attempt, a.created_at, &a.id))
        });
        self.containers.sort_by(|a, b| {
            (b.attempt, b.created_at, &b.id).cmp(&(a.attempt, a.created_at, &a.id))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_that_was_seen_before_its_call_returned_is_there_once() {
        let sandbox = Sandbox {
            id: "s".to_owned(),
            attempt: 0,
            ready: true,
            created_at: Timestamp::UNIX_EPOCH,
            ips: Vec::new(),
        };
        let made = Sandbox {
            ips: vec![IpAddr::from([10, 0, 0, 1])],
            ..sandbox.clone()
        };
        let mut observed = Observed {
            sandboxes: vec![sandbox],
            ..Observed::default()
        };
        observed.add_sandbox(made.clone());
        assert_eq!(observed.sandboxes, [made]);
    }
}
