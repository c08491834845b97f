//! From nothing to a cluster whose nodes are all Ready.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::LabError;
use crate::image::import::{self, Runtime};
use crate::launch::{self, Settings};
use crate::ready::{self, Wanted};
use crate::runtime::{self, Programs};
use crate::state::{self, ALL_LABS, Directories, LabState, Lock};
use crate::topology::{self, IpFamily, LabNumber, Place, SERVER, Topology};
use crate::{down, network};

const SERVER_PATIENCE: Duration = Duration::from_secs(60);
const RUNTIME_PATIENCE: Duration = Duration::from_secs(60);
const NODE_PATIENCE: Duration = Duration::from_secs(120);

/// A lab to be made.
#[derive(Debug, Clone)]
pub struct Options {
    pub name: String,
    pub nodes: u16,
    pub family: IpFamily,
    pub settings: Settings,
    /// Archives that every node gets; the sandbox's image has to be among them.
    pub images: PathBuf,
    /// Leave everything where it is when something fails, to look at it.
    pub keep_on_failure: bool,
    /// How many times longer than usual everything may take, as on an emulated machine.
    pub slow: u32,
}

impl Options {
    fn patience(&self, usual: Duration) -> Duration {
        usual * self.slow.max(1)
    }
}

/// Something that was done, with the time since the start.
pub type Progress<'a> = &'a mut dyn FnMut(Duration, &str);

/// Makes the lab and returns the path of its kubeconfig.
pub fn run(options: &Options, progress: Progress<'_>) -> Result<PathBuf, LabError> {
    check(options)?;
    let lock = Lock::take(&options.name)?;
    if let Ok(state) = LabState::load(&options.name)
        && state.complete
    {
        return Err(LabError::Exists {
            name: options.name.clone(),
        });
    }
    // What an earlier attempt left behind.
    down::remove(&options.name)?;
    let result = make(options, progress);
    if result.is_err() && !options.keep_on_failure {
        down::remove(&options.name)?;
        lock.remove(&options.name);
        down::after_last()?;
    }
    result
}

fn check(options: &Options) -> Result<(), LabError> {
    topology::check_name(&options.name)?;
    if !nix::unistd::geteuid().is_root() {
        return Err(LabError::NotRoot);
    }
    let pause = options.images.join("pause.tar");
    if !pause.exists() {
        return Err(LabError::NoImage { path: pause });
    }
    if options.settings.proxy == "ipvs" {
        // Its nodes would end by themselves, one after the other.
        kernel::ipvs::Ipvs::open()?;
    }
    let advice = "install it with `apt-get install containerd runc`";
    for program in ["containerd", "ctr", "runc"] {
        if !is_installed(&options.settings.runtime, program) {
            return Err(LabError::NoProgram {
                program: program.to_owned(),
                advice,
            });
        }
    }
    Ok(())
}

fn is_installed(programs: &Programs, name: &str) -> bool {
    let path = programs.path(name);
    path.is_absolute()
        || programs
            .search_path()
            .split(':')
            .any(|place| Path::new(place).join(&path).exists())
}

fn make(options: &Options, progress: Progress<'_>) -> Result<PathBuf, LabError> {
    let start = Instant::now();
    let mut tell = |text: &str| progress(start.elapsed(), text);
    let mut lab = allocate(options)?;
    let topology = lab.topology.clone();
    network::create_switch(&topology)?;
    network::translate(&topology)?;
    for place in &topology.places {
        network::create_place(&topology, place)?;
        launch::prepare(&topology, place, &options.settings)?;
        let process = launch::start(&options.name, &place.name, &options.settings.fairlead)?;
        lab.places.insert(place.name.clone(), process);
        lab.save()?;
    }
    let nodes: Vec<&Place> = topology.nodes().collect();
    tell(&format!(
        "network and {} places, server at {}",
        nodes.len() + 1,
        topology.server_url()
    ));

    let images = archives(&options.images)?;
    for image in &images {
        launch::publish(&options.name, image)?;
    }
    thread::scope(|scope| {
        let loads: Vec<_> = nodes
            .iter()
            .map(|node| scope.spawn(|| load_all(&lab, &node.name, options, &images)))
            .collect();
        let join = wait_for_server(&topology, options.patience(SERVER_PATIENCE))?;
        for node in &nodes {
            launch::admit(&options.name, &node.name, &join)?;
        }
        tell("control plane ready");
        let wanted = match options.settings.network.as_str() {
            "none" => Wanted::Registered,
            _ => Wanted::Ready,
        };
        ready::wait(
            &topology,
            wanted,
            options.patience(NODE_PATIENCE),
            &mut |node| tell(&format!("{node} {wanted:?}")),
        )?;
        for load in loads {
            load.join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok::<_, LabError>(())
    })?;
    let names: Vec<_> = images
        .iter()
        .filter_map(|image| image.file_stem()?.to_str())
        .collect();
    tell(&format!("images on every node: {}", names.join(", ")));
    lab.complete = true;
    lab.save()?;
    Ok(Directories::of(&options.name).kubeconfig())
}

/// Picks a range that nobody uses and writes the lab down.
fn allocate(options: &Options) -> Result<LabState, LabError> {
    let lock = Lock::take(ALL_LABS)?;
    let in_use = network::ranges_in_use()?;
    let number = LabNumber::free(&state::taken_numbers(), &in_use).ok_or(LabError::NoRange)?;
    let topology = Topology::new(&options.name, number, options.family, options.nodes);
    let lab = LabState {
        topology,
        places: Default::default(),
        complete: false,
    };
    lab.save()?;
    state::remember_settings(&network::enable_forwarding(&lab.topology)?)?;
    lock.remove(ALL_LABS);
    Ok(lab)
}

/// The archives of a directory, smallest first: the sandbox's image is needed soonest.
fn archives(directory: &Path) -> Result<Vec<PathBuf>, LabError> {
    let entries = fs::read_dir(directory).map_err(LabError::file(directory))?;
    let mut archives: Vec<(u64, PathBuf)> = entries
        .flatten()
        .map(|entry| (entry.metadata().map_or(0, |data| data.len()), entry.path()))
        .filter(|(_, path)| path.extension().is_some_and(|extension| extension == "tar"))
        .filter(|(_, path)| {
            path.file_name()
                .is_some_and(|name| !name.to_string_lossy().starts_with('.'))
        })
        .collect();
    archives.sort();
    Ok(archives.into_iter().map(|(_, path)| path).collect())
}

/// Waits until the server answers, writes the kubeconfig for this machine and returns the
/// arguments with which a node joins.
fn wait_for_server(topology: &Topology, patience: Duration) -> Result<Vec<String>, LabError> {
    let directories = Directories::of(&topology.lab);
    let data = directories.place(SERVER).join("var-lib/fairlead");
    let (admin, join) = (data.join("admin.kubeconfig"), data.join("join-command"));
    let start = Instant::now();
    while !(admin.exists() && join.exists()) {
        if start.elapsed() > patience {
            return Err(timeout(
                "the server is not up",
                patience,
                topology,
                SERVER,
                "server",
            ));
        }
        thread::sleep(Duration::from_millis(10));
    }
    let text = fs::read_to_string(&admin).map_err(LabError::file(&admin))?;
    let text = with_server(&text, &topology.server_url());
    state::write_private(&directories.kubeconfig(), text.as_bytes())?;
    ready::wait_for_api(topology, patience)?;
    let line = fs::read_to_string(&join).map_err(LabError::file(&join))?;
    Ok(line.split_whitespace().skip(2).map(str::to_owned).collect())
}

/// The kubeconfig with another server address.
fn with_server(kubeconfig: &str, url: &str) -> String {
    let mut text = String::new();
    for line in kubeconfig.lines() {
        match line.find("server:") {
            Some(at) => text.push_str(&format!("{}server: {url}\n", &line[..at])),
            None => text.push_str(&format!("{line}\n")),
        }
    }
    text
}

pub(crate) fn timeout(
    what: &str,
    after: Duration,
    topology: &Topology,
    place: &str,
    role: &str,
) -> LabError {
    let place = Directories::of(&topology.lab).place(place);
    let last_line = |log: &Path| {
        let text = fs::read(log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        text.lines().last().map(str::to_owned)
    };
    // A program that wrote nothing was perhaps not started: process 1 says why.
    let logs = [
        place.join(format!("var-log/fairlead/{role}.log")),
        place.join("init.log"),
    ];
    let said = logs
        .iter()
        .find_map(|log| Some((log.clone(), last_line(log)?)));
    let (log, last) = said.unwrap_or_else(|| (logs[0].clone(), "(empty)".to_owned()));
    LabError::Timeout {
        what: what.to_owned(),
        after,
        log,
        last,
    }
}

fn load_all(
    lab: &LabState,
    node: &str,
    options: &Options,
    images: &[PathBuf],
) -> Result<(), LabError> {
    let runtime = runtime_of(lab, node, &options.settings.runtime)?;
    let patience = options.patience(RUNTIME_PATIENCE);
    let start = Instant::now();
    while std::os::unix::net::UnixStream::connect(&runtime.socket).is_err() {
        if start.elapsed() > patience {
            let what = format!("containerd of {node} does not answer");
            return Err(timeout(&what, patience, &lab.topology, node, "containerd"));
        }
        thread::sleep(Duration::from_millis(20));
    }
    for image in images {
        import::load(&runtime, image)?;
    }
    Ok(())
}

/// A node's containerd, reached from this machine.
pub(crate) fn runtime_of(
    lab: &LabState,
    node: &str,
    programs: &Programs,
) -> Result<Runtime, LabError> {
    let stopped = || LabError::Stopped {
        lab: lab.topology.lab.clone(),
        node: node.to_owned(),
    };
    let process = lab
        .places
        .get(node)
        .filter(|process| process.is_alive())
        .ok_or_else(stopped)?;
    let socket = format!("/proc/{}/root{}", process.pid, runtime::SOCKET);
    Ok(Runtime {
        ctr: programs.path("ctr"),
        socket: socket.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_servers_address_changes_in_a_kubeconfig() {
        let before = "clusters:\n- cluster:\n    server: https://127.0.0.1:6443\n  name: a\n";
        let after = "clusters:\n- cluster:\n    server: https://10.0.0.2:6443\n  name: a\n";
        assert_eq!(with_server(before, "https://10.0.0.2:6443"), after);
    }

    #[test]
    fn archives_come_smallest_first_and_unfinished_ones_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        for (name, size) in [
            ("nginx.tar", 9),
            ("pause.tar", 1),
            (".x.tar", 1),
            ("notes.txt", 1),
        ] {
            fs::write(directory.path().join(name), vec![0; size]).unwrap();
        }
        let names: Vec<_> = archives(directory.path())
            .unwrap()
            .into_iter()
            .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(names, ["pause.tar", "nginx.tar"]);
    }
}
