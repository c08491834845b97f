//! A blocking netlink socket: requests, batches and dumps, with errors that say what failed.
//!
//! The kernel handles rtnetlink, generic netlink and nfnetlink requests inside the `send`
//! call, so the answers are in the socket's queue when it returns. That is why a batch needs
//! no second thread and why a blocking socket costs no more than an asynchronous one.

mod attributes;
mod error;
mod framing;

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use netlink_packet_core::Emitable;
use nix::errno::Errno;

pub use attributes::{Attribute, AttributeIter, Attributes, other, other_value, parse};
pub use error::{Error, ignore_not_found};
pub use framing::Frame;
use framing::Meaning;

pub const NLM_F_REQUEST: u16 = 0x01;
pub const NLM_F_ACK: u16 = 0x04;
pub const NLM_F_ECHO: u16 = 0x08;
pub const NLM_F_REPLACE: u16 = 0x100;
pub const NLM_F_EXCL: u16 = 0x200;
pub const NLM_F_CREATE: u16 = 0x400;
pub const NLM_F_APPEND: u16 = 0x800;
pub const NLM_F_DUMP: u16 = 0x300;

/// Requests sent in one system call: their acknowledgements must fit into the receive buffer.
const CHUNK_MESSAGES: usize = 256;
const CHUNK_BYTES: usize = 128 * 1024;
const DUMP_ATTEMPTS: usize = 20;
/// Large enough for the largest datagram that the kernel builds for a dump.
const RECEIVE_BUFFER: usize = 64 * 1024;
const SOCKET_RECEIVE_BUFFER: usize = 4 * 1024 * 1024;

/// Which part of the kernel a socket talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    Route,
    Netfilter,
    Generic,
}

impl Protocol {
    fn number(self) -> isize {
        match self {
            Self::Route => netlink_sys::protocols::NETLINK_ROUTE,
            Self::Netfilter => netlink_sys::protocols::NETLINK_NETFILTER,
            Self::Generic => netlink_sys::protocols::NETLINK_GENERIC,
        }
    }
}

/// One message to the kernel, with the words that an error about it uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// A verb and a kind, such as "create link".
    pub operation: &'static str,
    /// Which one, such as "eth0".
    pub object: String,
    pub message_type: u16,
    /// `NLM_F_REQUEST` is added when it is sent.
    pub flags: u16,
    pub payload: Vec<u8>,
}

impl Request {
    pub fn new(
        operation: &'static str,
        object: impl ToString,
        message_type: u16,
        flags: u16,
        payload: Vec<u8>,
    ) -> Self {
        Self {
            operation,
            object: object.to_string(),
            message_type,
            flags,
            payload,
        }
    }

    /// The same with a message of one of the `netlink-packet-*` crates.
    pub fn of(
        operation: &'static str,
        object: impl ToString,
        message_type: u16,
        flags: u16,
        message: &impl Emitable,
    ) -> Self {
        let mut payload = vec![0; message.buffer_len()];
        message.emit(&mut payload);
        Self::new(operation, object, message_type, flags, payload)
    }

    fn refused(&self, errno: Errno, message: Option<&str>) -> Error {
        Error::Refused {
            operation: self.operation,
            object: self.object.clone(),
            errno,
            message: message.map(str::to_owned),
        }
    }

    fn send_error(&self, source: io::Error) -> Error {
        Error::Send {
            operation: self.operation,
            object: self.object.clone(),
            source,
        }
    }

    fn receive_error(&self, source: io::Error) -> Error {
        Error::Receive {
            operation: self.operation,
            object: self.object.clone(),
            source,
        }
    }

    /// The answer is not what the protocol promises.
    pub fn decode_error(&self, reason: impl ToString) -> Error {
        Error::Decode {
            operation: self.operation,
            object: self.object.clone(),
            reason: reason.to_string(),
        }
    }
}

/// A message that the kernel sent as an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub message_type: u16,
    pub flags: u16,
    pub payload: Vec<u8>,
}

/// A blocking netlink socket of the network namespace in which it was opened.
pub struct Socket {
    socket: netlink_sys::Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open(protocol: Protocol) -> Result<Self, Error> {
        let number = protocol.number();
        let socket = Self::open_raw(number).map_err(|source| Error::Open {
            protocol: number,
            source,
        })?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: Vec::with_capacity(RECEIVE_BUFFER),
        })
    }

    /// A socket for links, addresses, routes, neighbours, rules and queueing disciplines.
    pub fn route() -> Result<Self, Error> {
        Self::open(Protocol::Route)
    }

    fn open_raw(number: isize) -> io::Result<netlink_sys::Socket> {
        let mut socket = netlink_sys::Socket::new(number)?;
        socket.bind_auto()?;
        socket.connect(&netlink_sys::SocketAddr::new(0, 0))?;
        // Errors without a copy of the request, but with the kernel's own words.
        socket.set_cap_ack(true)?;
        socket.set_ext_ack(true)?;
        let _ = socket.set_netlink_get_strict_chk(true);
        force_buffer(&socket, nix::libc::SO_RCVBUFFORCE, SOCKET_RECEIVE_BUFFER);
        Ok(socket)
    }

    /// Lets one message of up to `bytes` be sent; needs CAP_NET_ADMIN.
    pub fn set_send_buffer(&self, bytes: usize) {
        force_buffer(&self.socket, nix::libc::SO_SNDBUFFORCE, bytes);
    }

    /// Receives the multicast messages of the group from now on.
    pub fn subscribe(&self, group: u32) -> io::Result<()> {
        self.socket.add_membership(group)
    }

    /// Sends one request and waits for its acknowledgement.
    pub fn execute(&mut self, request: &Request) -> Result<(), Error> {
        self.batch(std::slice::from_ref(request))?
            .pop()
            .unwrap_or(Ok(()))
    }

    /// Sends all requests with as few system calls as possible. The kernel handles them in
    /// order, and a failed one does not stop those behind it. The inner results are in the
    /// order of the requests; the outer error means that the exchange itself broke.
    pub fn batch(&mut self, requests: &[Request]) -> Result<Vec<Result<(), Error>>, Error> {
        let mut results = Vec::with_capacity(requests.len());
        let mut rest = requests;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |request: &&Request| {
                bytes += request.payload.len() + framing::HEADER;
                bytes <= CHUNK_BYTES
            };
            let count = rest
                .iter()
                .take(CHUNK_MESSAGES)
                .take_while(fits)
                .count()
                .max(1);
            let (chunk, later) = rest.split_at(count);
            self.chunk(chunk, &mut results)?;
            rest = later;
        }
        Ok(results)
    }

    /// As [`Socket::batch`], with the first error as the result. Everything is attempted.
    pub fn execute_all(&mut self, requests: &[Request]) -> Result<(), Error> {
        self.batch(requests)?.into_iter().collect()
    }

    /// Sends one request that is answered by data and returns the data.
    pub fn query(&mut self, request: &Request) -> Result<Vec<Reply>, Error> {
        let first = self.send(std::slice::from_ref(request), NLM_F_ACK)?;
        let mut replies = Vec::new();
        self.collect(request, first, &mut replies).map(|_| replies)
    }

    /// Reads all objects of a kind; starts again when the kernel's state changed meanwhile.
    pub fn dump(&mut self, request: &Request) -> Result<Vec<Reply>, Error> {
        for _ in 0..DUMP_ATTEMPTS {
            let first = self.send(std::slice::from_ref(request), NLM_F_DUMP)?;
            let mut replies = Vec::new();
            if self.collect(request, first, &mut replies)? == Consistency::Whole {
                return Ok(replies);
            }
        }
        Err(Error::Interrupted {
            operation: request.operation,
            object: request.object.clone(),
        })
    }

    /// Sends the requests, with their own flags, in one message of which the kernel makes
    /// one transaction (nfnetlink). Returns the errors that it reported, by the index of the
    /// request; none means that the transaction was committed. Requests that carry
    /// `NLM_F_ECHO` put what the kernel made of them into `echoes`.
    pub fn transaction(
        &mut self,
        requests: &[Request],
        echoes: &mut Vec<Reply>,
    ) -> Result<Vec<(usize, Error)>, Error> {
        let Some(opening) = requests.first() else {
            return Ok(Vec::new());
        };
        let first = self.send(requests, 0)?;
        let mut errors = Vec::new();
        while self.receive_waiting(opening)? {
            for frame in framing::frames(&self.buffer) {
                let index = frame.sequence.wrapping_sub(first) as usize;
                let Some(request) = requests.get(index) else {
                    continue;
                };
                match frame.meaning() {
                    Meaning::Refused { errno, message } => {
                        errors.push((index, request.refused(errno, message)));
                    }
                    Meaning::Data => echoes.push(reply(&frame)),
                    Meaning::Finished | Meaning::Nothing => {}
                }
            }
        }
        Ok(errors)
    }

    fn chunk(
        &mut self,
        requests: &[Request],
        results: &mut Vec<Result<(), Error>>,
    ) -> Result<(), Error> {
        let Some(opening) = requests.first() else {
            return Ok(());
        };
        let first = self.send(requests, NLM_F_ACK)?;
        let mut answers: Vec<Option<Result<(), Error>>> = requests.iter().map(|_| None).collect();
        let mut open = requests.len();
        while open > 0 {
            self.receive(opening)?;
            for frame in framing::frames(&self.buffer) {
                let index = frame.sequence.wrapping_sub(first) as usize;
                let (Some(request), Some(answer)) = (requests.get(index), answers.get_mut(index))
                else {
                    continue;
                };
                let result = match frame.meaning() {
                    Meaning::Finished => Ok(()),
                    Meaning::Refused { errno, message } => Err(request.refused(errno, message)),
                    Meaning::Data | Meaning::Nothing => continue,
                };
                if answer.replace(result).is_none() {
                    open -= 1;
                }
            }
        }
        results.extend(answers.into_iter().flatten());
        Ok(())
    }

    /// Sends the requests as one message; returns the first one's sequence number.
    fn send(&mut self, requests: &[Request], flags: u16) -> Result<u32, Error> {
        let first = self.sequence.wrapping_add(1);
        let length = requests
            .iter()
            .map(|r| r.payload.len() + framing::HEADER + 4)
            .sum();
        let mut bytes = Vec::with_capacity(length);
        for request in requests {
            self.sequence = self.sequence.wrapping_add(1);
            let flags = request.flags | flags | NLM_F_REQUEST;
            framing::append(
                &mut bytes,
                request.message_type,
                flags,
                self.sequence,
                &request.payload,
            );
        }
        loop {
            match self.socket.send(&bytes, 0) {
                Ok(_) => return Ok(first),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(requests[0].send_error(error)),
            }
        }
    }

    /// Reads until the request's acknowledgement or the end of its dump.
    fn collect(
        &mut self,
        request: &Request,
        sequence: u32,
        replies: &mut Vec<Reply>,
    ) -> Result<Consistency, Error> {
        let mut consistency = Consistency::Whole;
        loop {
            self.receive(request)?;
            for frame in framing::frames(&self.buffer) {
                if frame.sequence != sequence {
                    continue;
                }
                if frame.interrupted() {
                    consistency = Consistency::Torn;
                }
                match frame.meaning() {
                    Meaning::Finished => return Ok(consistency),
                    Meaning::Refused { errno, message } => {
                        return Err(request.refused(errno, message));
                    }
                    Meaning::Data => replies.push(reply(&frame)),
                    Meaning::Nothing => {}
                }
            }
        }
    }

    fn receive(&mut self, request: &Request) -> Result<(), Error> {
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(request.receive_error(error)),
            }
        }
    }

    /// Takes a datagram that waits in the queue; false when there is none.
    fn receive_waiting(&mut self, request: &Request) -> Result<bool, Error> {
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, nix::libc::MSG_DONTWAIT) {
                Ok(_) => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(request.receive_error(error)),
            }
        }
    }

    /// Takes a datagram of a subscribed group without waiting and hands its messages over.
    /// `Ok(false)` when there is none; `ENOBUFS` when the kernel had to drop some.
    pub fn take_notifications(&mut self, mut each: impl FnMut(Frame<'_>)) -> io::Result<bool> {
        self.buffer.clear();
        match self.socket.recv(&mut self.buffer, nix::libc::MSG_DONTWAIT) {
            Ok(_) => {
                framing::frames(&self.buffer).for_each(&mut each);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(error),
        }
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Consistency {
    Whole,
    Torn,
}

fn reply(frame: &Frame<'_>) -> Reply {
    Reply {
        message_type: frame.message_type,
        flags: frame.flags,
        payload: frame.payload.to_vec(),
    }
}

/// Without the right to exceed the system's limit the default size stays.
fn force_buffer(socket: &netlink_sys::Socket, option: i32, bytes: usize) {
    let value = i32::try_from(bytes).unwrap_or(i32::MAX);
    // SAFETY: the descriptor is open and the option's value is an int that outlives the call.
    unsafe {
        nix::libc::setsockopt(
            socket.as_raw_fd(),
            nix::libc::SOL_SOCKET,
            option,
            (&raw const value).cast(),
            size_of::<i32>() as nix::libc::socklen_t,
        );
    }
}
