//! The kernel's notifications about links, addresses, routes and neighbours.
//!
//! They are hints, not state: whoever acts on them reads the state again. When the kernel
//! had to drop some, [`Event::Lost`] says so, and everything has to be looked at.

use std::collections::VecDeque;
use std::io;

use nix::errno::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::address::{self, Address};
use crate::link::{self, Link};
use crate::neighbour::{self, FdbEntry, Neighbour};
use crate::netlink::{self, Frame, Protocol, Socket};
use crate::route::{self, Route};

/// What to be told about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    Links,
    Addresses,
    Routes,
    Rules,
    /// ARP, NDP and forwarding database entries.
    Neighbours,
}

impl Group {
    fn numbers(self) -> &'static [u32] {
        match self {
            Self::Links => &[1],
            Self::Neighbours => &[3],
            Self::Addresses => &[5, 9],
            Self::Routes => &[7, 11],
            Self::Rules => &[8, 19],
        }
    }
}

/// A change that has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    NewLink(Link),
    DeletedLink(Link),
    NewAddress(Address),
    DeletedAddress(Address),
    NewRoute(Route),
    DeletedRoute(Route),
    NewNeighbour(Neighbour),
    DeletedNeighbour(Neighbour),
    NewFdbEntry(FdbEntry),
    DeletedFdbEntry(FdbEntry),
    RulesChanged,
    /// The kernel dropped notifications.
    Lost,
}

/// The subscription could not be made or broke.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Socket(#[from] netlink::Error),
    #[error("cannot subscribe to the kernel's notifications: {0}")]
    Subscribe(io::Error),
    #[error("cannot read the kernel's notifications: {0}")]
    Receive(io::Error),
}

/// A stream of notifications of one network namespace.
pub struct Monitor {
    socket: AsyncFd<Socket>,
    waiting: VecDeque<Event>,
}

impl Monitor {
    /// Subscribes in the calling thread's network namespace. Needs a tokio runtime.
    pub fn open(groups: &[Group]) -> Result<Self, Error> {
        Self::with_socket(Socket::open(Protocol::Route)?, groups)
    }

    /// Subscribes with a socket that may be of another namespace.
    pub fn with_socket(socket: Socket, groups: &[Group]) -> Result<Self, Error> {
        for number in groups.iter().flat_map(|group| group.numbers()) {
            socket.subscribe(*number).map_err(Error::Subscribe)?;
        }
        // SAFETY: the socket owns its descriptor, which stays open and the same until the
        // monitor, which keeps it, is dropped.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }
            .map_err(|error| Error::Subscribe(error.into()))?;
        Ok(Self {
            socket,
            waiting: VecDeque::new(),
        })
    }

    /// Waits for the next event. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Event, Error> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Ok(event);
            }
            let mut guard = self.socket.readable_mut().await.map_err(Error::Receive)?;
            let waiting = &mut self.waiting;
            let each = |frame: Frame<'_>| waiting.extend(decode(&frame));
            match guard.get_inner_mut().take_notifications(each) {
                Ok(true) => {}
                Ok(false) => guard.clear_ready(),
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                    return Ok(Event::Lost);
                }
                Err(error) => return Err(Error::Receive(error)),
            }
        }
    }
}

fn decode(frame: &Frame<'_>) -> Option<Event> {
    let payload = frame.payload;
    Some(match frame.message_type {
        16 => Event::NewLink(link::decode_payload(payload)?),
        17 => Event::DeletedLink(link::decode_payload(payload)?),
        20 => Event::NewAddress(address::decode_payload(payload)?),
        21 => Event::DeletedAddress(address::decode_payload(payload)?),
        24 => Event::NewRoute(route::decode_payload(payload)?),
        25 => Event::DeletedRoute(route::decode_payload(payload)?),
        28 => match neighbour::decode_payload(payload) {
            Some(neighbour) => Event::NewNeighbour(neighbour),
            None => Event::NewFdbEntry(neighbour::decode_fdb(payload)?),
        },
        29 => match neighbour::decode_payload(payload) {
            Some(neighbour) => Event::DeletedNeighbour(neighbour),
            None => Event::DeletedFdbEntry(neighbour::decode_fdb(payload)?),
        },
        32 | 33 => Event::RulesChanged,
        _ => return None,
    })
}
