//! Network namespaces: opening, making, entering.
//!
//! A namespace is entered only by a thread that ends afterwards, so no thread of the process
//! ever finds itself in a namespace that it did not expect.

use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{io, panic, thread};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::netlink::{self, Protocol, Socket};

/// Where `ip netns` keeps its names.
pub const RUN_DIR: &str = "/run/netns";

/// Something with a namespace itself failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot open the network namespace {path}: {source}")]
    Open { path: PathBuf, source: io::Error },
    #[error("{path} is no network namespace")]
    NotANamespace { path: PathBuf },
    #[error("cannot make the network namespace {name}: {source}")]
    Create { name: String, source: io::Error },
    #[error("cannot delete the network namespace {name}: {source}")]
    Delete { name: String, source: io::Error },
    #[error("cannot enter the network namespace {path}: {source}")]
    Enter { path: PathBuf, source: io::Error },
}

impl Error {
    /// The namespace is not there (any more).
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::NotANamespace { .. } => true,
            Self::Open { source, .. } => source.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }
}

/// A namespace that is held open: it lives at least as long as this value.
#[derive(Debug)]
pub struct Netns {
    file: File,
    path: PathBuf,
}

/// The identity of a namespace while it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetnsId {
    device: u64,
    inode: u64,
}

impl Netns {
    /// Opens the namespace that a file stands for, such as `/run/netns/x` or `/proc/1/ns/net`.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref().to_owned();
        let open = |source| Error::Open {
            path: path.clone(),
            source,
        };
        let file = File::open(&path).map_err(open)?;
        if !is_namespace(&file) {
            return Err(Error::NotANamespace { path });
        }
        Ok(Self { file, path })
    }

    /// Opens the one of that name.
    pub fn named(name: &str) -> Result<Self, Error> {
        Self::open(Path::new(RUN_DIR).join(name))
    }

    /// The namespace of the calling thread.
    pub fn current() -> Result<Self, Error> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// The namespace of a process.
    pub fn of_process(pid: u32) -> Result<Self, Error> {
        Self::open(format!("/proc/{pid}/ns/net"))
    }

    /// Makes a namespace without a name: it goes away with its last user.
    pub fn anonymous() -> Result<Self, Error> {
        let create = |source| Error::Create {
            name: "(unnamed)".to_owned(),
            source,
        };
        on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| create(errno.into()))?;
            Self::current()
        })
    }

    /// Makes a namespace with a name, as `ip netns add` does; the loopback interface is down.
    pub fn create(name: &str) -> Result<Self, Error> {
        let create = |source| Error::Create {
            name: name.to_owned(),
            source,
        };
        let path = Path::new(RUN_DIR).join(name);
        prepare_run_dir().map_err(create)?;
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(create)?;
        let made = on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let own = "/proc/thread-self/ns/net";
            mount(
                Some(own),
                &path,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
        });
        if let Err(errno) = made {
            let _ = fs::remove_file(&path);
            return Err(create(errno.into()));
        }
        Self::open(path)
    }

    /// Takes the name away; success as well when nobody has it. The namespace itself goes
    /// when its last process, socket or open file does.
    pub fn delete(name: &str) -> Result<(), Error> {
        let path = Path::new(RUN_DIR).join(name);
        let delete = |source| Error::Delete {
            name: name.to_owned(),
            source,
        };
        // Not mounted, or not there: the removal below says what counts.
        let _ = umount2(&path, MntFlags::MNT_DETACH);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(delete(error)),
            _ => Ok(()),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tells namespaces apart, whatever path they were opened by.
    pub fn id(&self) -> io::Result<NetnsId> {
        let metadata = self.file.metadata()?;
        Ok(NetnsId {
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }

    /// Runs the closure on a thread inside the namespace and returns its result. A panic in
    /// it goes on in the caller.
    pub fn run<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> Result<T, Error> {
        on_thread(|| {
            self.enter_this_thread()?;
            Ok(inside())
        })
    }

    /// A netlink socket of this namespace, usable from any thread.
    pub fn socket(&self, protocol: Protocol) -> Result<Socket, SocketError> {
        Ok(self.run(|| Socket::open(protocol))??)
    }

    /// Moves the calling thread into the namespace for good: for threads of one's own.
    pub fn enter_this_thread(&self) -> Result<(), Error> {
        setns(self, CloneFlags::CLONE_NEWNET).map_err(|errno| Error::Enter {
            path: self.path.clone(),
            source: errno.into(),
        })
    }
}

/// No socket in another namespace.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error(transparent)]
    Netns(#[from] Error),
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for Netns {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

fn on_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(value) => value,
        Err(payload) => panic::resume_unwind(payload),
    })
}

fn is_namespace(file: &File) -> bool {
    const NSFS_MAGIC: i64 = 0x6e73_6673;
    nix::sys::statfs::fstatfs(file).is_ok_and(|stat| stat.filesystem_type().0 == NSFS_MAGIC)
}

/// Bind mounts of namespaces have to reach the mount namespaces made from ours, as `ip netns`
/// arranges it: the directory is a shared mount of its own.
fn prepare_run_dir() -> io::Result<()> {
    fs::create_dir_all(RUN_DIR)?;
    let share = || {
        mount(
            None::<&str>,
            RUN_DIR,
            None::<&str>,
            MsFlags::MS_SHARED | MsFlags::MS_REC,
            None::<&str>,
        )
    };
    if share().is_ok() {
        return Ok(());
    }
    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(RUN_DIR), RUN_DIR, None::<&str>, bind, None::<&str>)?;
    Ok(share()?)
}
