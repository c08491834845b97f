//! The socket to the kernel: one batch at a time, listings, and notices of changes.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::sys::socket::{setsockopt, sockopt};

use super::encode::Batch;
use super::list::{
    ListedChain, ListedElement, ListedRule, ListedSet, ListedTable, listed_chain, listed_elements,
    listed_rule, listed_set, listed_table,
};
use super::object::{Family, Table, Transaction};
use super::wire::{Message, Messages, Writer, be32, find, flags, msg, text};

/// Room for the answers to a batch in which much goes wrong.
const RECEIVE_BUFFER: usize = 4 << 20;
const CHUNK: usize = 256 << 10;
/// `ERESTART` of the kernel's `include/linux/errno.h`: the generation is another one.
const ERESTART: i32 = 85;

/// What can go wrong with nf_tables.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No netlink socket; retrying helps only where resources were short.
    #[error("cannot open a netlink socket to nf_tables: {0}")]
    Open(#[source] io::Error),
    /// The batch could not be sent or its answer not be read; nothing is known to be changed.
    #[error("cannot talk to nf_tables: {0}")]
    Talk(#[source] io::Error),
    /// The kernel refused the batch. Nothing is changed.
    #[error("nf_tables refused {}", summary(.0))]
    Rejected(Vec<Failure>),
    /// The rules changed during every attempt to list them; can be tried again.
    #[error("nf_tables changed during the listing, several times")]
    Interrupted,
}

impl Error {
    /// Whether a listing failed because what was listed does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Talk(error) if error.raw_os_error() == Some(libc::ENOENT))
    }
}

fn summary(failures: &[Failure]) -> String {
    match failures {
        [] => "the batch".to_owned(),
        [only] => only.to_string(),
        [first, rest @ ..] => format!("{first} (and {} more)", rest.len()),
    }
}

/// An operation that the kernel refused.
#[derive(Debug)]
pub struct Failure {
    /// The operation's place in the transaction; `None` for the batch as a whole.
    pub operation: Option<usize>,
    /// The operation as text, shortened.
    pub object: String,
    pub error: io::Error,
    /// What the kernel said besides, where it did.
    pub detail: Option<String>,
}

impl Failure {
    /// The ruleset was of another generation than the batch was for.
    fn is_restart(&self) -> bool {
        self.error.raw_os_error() == Some(ERESTART)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\"{}\": {}", self.object, self.error)?;
        self.detail
            .as_ref()
            .map_or(Ok(()), |detail| write!(f, " ({detail})"))
    }
}

/// A blocking connection to nf_tables of the network namespace in which it was opened.
pub struct Connection {
    socket: Socket,
    sequence: u32,
    send_buffer: usize,
    buffer: Vec<u8>,
}

impl Connection {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open() -> Result<Self, Error> {
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(Error::Open)?;
        socket.bind_auto().map_err(Error::Open)?;
        // Old kernels know neither; then the answers are longer and say less.
        let _ = socket.set_cap_ack(true);
        let _ = socket.set_ext_ack(true);
        let fd = borrowed(&socket);
        if setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            let _ = setsockopt(&fd, sockopt::RcvBuf, &RECEIVE_BUFFER);
        }
        Ok(Self {
            socket,
            sequence: 1,
            send_buffer: 0,
            buffer: vec![0; CHUNK],
        })
    }

    /// Performs the operations, all or none.
    pub fn apply(&mut self, transaction: &Transaction) -> Result<(), Error> {
        if transaction.is_empty() {
            return Ok(());
        }
        self.perform(transaction, None)
    }

    /// Performs the operations, all or none, and tells the generation of the ruleset that this
    /// made, by which the notice of this change is told from those of others; `None` where
    /// there was nothing to do. Does not end while others change the rules without a pause.
    pub fn apply_generation(&mut self, transaction: &Transaction) -> Result<Option<u32>, Error> {
        if transaction.is_empty() {
            return Ok(None);
        }
        loop {
            let before = self.generation()?;
            match self.perform(transaction, Some(before)) {
                // The kernel leaves 0 out, which stands for any.
                Ok(()) => return Ok(Some(before.checked_add(1).unwrap_or(1))),
                Err(Error::Rejected(failures)) if failures.iter().any(Failure::is_restart) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn perform(&mut self, transaction: &Transaction, generation: Option<u32>) -> Result<(), Error> {
        let batch = Batch::encode(&transaction.ops, self.sequence, generation);
        let first = self.sequence;
        self.sequence = batch.acknowledged() + 2;
        self.send(&batch.writer.bytes)?;
        self.outcome(transaction, &batch, first)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        // The whole batch is one datagram, and the kernel keeps 32 bytes for itself.
        let needed = bytes.len() + 4096;
        if needed > self.send_buffer {
            let fd = borrowed(&self.socket);
            if setsockopt(&fd, sockopt::SndBufForce, &needed).is_err() {
                setsockopt(&fd, sockopt::SndBuf, &needed).map_err(|e| Error::Talk(e.into()))?;
            }
            self.send_buffer = needed;
        }
        let kernel = SocketAddr::new(0, 0);
        let sent = self
            .socket
            .send_to(bytes, &kernel, 0)
            .map_err(Error::Talk)?;
        if sent != bytes.len() {
            return Err(Error::Talk(io::ErrorKind::WriteZero.into()));
        }
        Ok(())
    }

    /// Reads the answers to a batch. The kernel has queued all of them when sending returns.
    fn outcome(
        &mut self,
        transaction: &Transaction,
        batch: &Batch,
        first: u32,
    ) -> Result<(), Error> {
        let mut failures = Vec::new();
        let mut acknowledged = false;
        loop {
            let length = match self.receive(libc::MSG_DONTWAIT) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // Answers were lost; those that were read name the failures well enough.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => continue,
                Err(error) => return Err(Error::Talk(error)),
            };
            for message in Messages(&self.buffer[..length]) {
                if message.kind != Message::ERROR || message.sequence < first {
                    continue;
                }
                match message_error(&message) {
                    None => acknowledged |= message.sequence == batch.acknowledged(),
                    Some((error, detail)) => {
                        let operation = batch.operation(message.sequence);
                        let object = operation
                            .and_then(|index| transaction.ops.get(index))
                            .map_or_else(|| "the batch".to_owned(), |op| shorten(&op.to_string()));
                        failures.push(Failure {
                            operation,
                            object,
                            error,
                            detail,
                        });
                    }
                }
            }
        }
        match (failures.is_empty(), acknowledged) {
            (true, true) => Ok(()),
            (true, false) => Err(Error::Talk(io::Error::other(
                "the batch was not acknowledged",
            ))),
            (false, _) => Err(Error::Rejected(failures)),
        }
    }

    fn receive(&mut self, flags: libc::c_int) -> io::Result<usize> {
        loop {
            let mut target = &mut self.buffer[..];
            match self.socket.recv(&mut target, flags) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    /// The tables of all families.
    pub fn tables(&mut self) -> Result<Vec<ListedTable>, Error> {
        self.dump(
            msg::GETTABLE,
            0,
            |_| {},
            |message, out| out.extend(listed_table(message)),
        )
    }

    /// The chains of a table.
    pub fn chains(&mut self, table: &Table) -> Result<Vec<ListedChain>, Error> {
        let family = table.family as u8;
        let mut chains: Vec<ListedChain> = self.dump(
            msg::GETCHAIN,
            family,
            |_| {},
            |message, out| {
                out.extend(listed_chain(message));
            },
        )?;
        chains.retain(|chain| chain.table == *table);
        Ok(chains)
    }

    /// The rules of a table, or of one of its chains. Empty where there is no such table.
    pub fn rules(&mut self, table: &Table, chain: Option<&str>) -> Result<Vec<ListedRule>, Error> {
        let family = table.family as u8;
        let request = |w: &mut Writer| {
            w.str(1, &table.name);
            if let Some(chain) = chain {
                w.str(2, chain);
            }
        };
        self.dump(msg::GETRULE, family, request, |message, out| {
            out.extend(listed_rule(message))
        })
    }

    /// The sets and maps of a table.
    pub fn sets(&mut self, table: &Table) -> Result<Vec<ListedSet>, Error> {
        let family = table.family as u8;
        let request = |w: &mut Writer| w.str(1, &table.name);
        self.dump(msg::GETSET, family, request, |message, out| {
            out.extend(listed_set(message))
        })
    }

    /// The elements of a set or map.
    pub fn elements(&mut self, table: &Table, set: &str) -> Result<Vec<ListedElement>, Error> {
        let family = table.family as u8;
        let request = |w: &mut Writer| {
            w.str(1, &table.name);
            w.str(2, set);
        };
        self.dump(msg::GETSETELEM, family, request, |message, out| {
            // An element that cannot be read is left out.
            let _ = listed_elements(message, out);
        })
    }

    /// The number of the ruleset's generation: it grows with every change by anybody.
    pub fn generation(&mut self) -> Result<u32, Error> {
        let mut writer = Writer::default();
        self.sequence += 1;
        writer.message(msg::GETGEN, flags::REQUEST, self.sequence, 0, |_| {});
        self.send(&writer.bytes)?;
        loop {
            let length = self.receive(0).map_err(Error::Talk)?;
            for message in Messages(&self.buffer[..length]) {
                if message.sequence != self.sequence {
                    continue;
                }
                if message.kind == Message::ERROR {
                    let error = message_error(&message).map(|(error, _)| error);
                    return Err(Error::Talk(
                        error.unwrap_or_else(|| io::Error::other("no answer")),
                    ));
                }
                if let Some(generation) = find(message.attributes(), 1).and_then(be32) {
                    return Ok(generation);
                }
            }
        }
    }

    fn dump<T>(
        &mut self,
        kind: u8,
        family: u8,
        request: impl Fn(&mut Writer),
        mut read: impl FnMut(&Message<'_>, &mut Vec<T>),
    ) -> Result<Vec<T>, Error> {
        for _ in 0..20 {
            let mut writer = Writer::default();
            self.sequence += 1;
            let flags = flags::REQUEST | flags::DUMP;
            writer.message(kind, flags, self.sequence, family, &request);
            self.send(&writer.bytes)?;
            let mut out = Vec::new();
            match self.dumped(|message| read(message, &mut out)) {
                Ok(true) => return Ok(out),
                Ok(false) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::Talk(error)),
            }
        }
        Err(Error::Interrupted)
    }

    /// Reads a listing to its end; `false` where the rules changed during it.
    fn dumped(&mut self, mut each: impl FnMut(&Message<'_>)) -> io::Result<bool> {
        let mut consistent = true;
        loop {
            let length = self.receive(0)?;
            for message in Messages(&self.buffer[..length]) {
                if message.sequence != self.sequence {
                    continue;
                }
                consistent &= message.flags & flags::DUMP_INTR == 0;
                match message.kind {
                    Message::DONE => return Ok(consistent),
                    Message::ERROR => match message_error(&message) {
                        Some((error, _)) => return Err(error),
                        None => return Ok(consistent),
                    },
                    _ => each(&message),
                }
            }
        }
    }
}

fn borrowed(socket: &Socket) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open as long as the socket, which the result borrows.
    unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) }
}

/// The error and the kernel's remark in an `NLMSG_ERROR`; `None` for an acknowledgement.
fn message_error(message: &Message<'_>) -> Option<(io::Error, Option<String>)> {
    let code = i32::from_ne_bytes(message.body.get(..4)?.try_into().ok()?);
    if code == 0 {
        return None;
    }
    // Error code and the header of the message that was refused come first (`NETLINK_CAP_ACK`).
    const ACK_TLVS: u16 = 0x200;
    let detail = (message.flags & ACK_TLVS != 0)
        .then(|| {
            message
                .body
                .get(20..)
                .and_then(|rest| find(rest, 1))
                .map(text)
        })
        .flatten();
    Some((io::Error::from_raw_os_error(-code), detail))
}

fn shorten(text: &str) -> String {
    const MOST: usize = 160;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// A change of the ruleset by some program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The generation that the change made.
    pub generation: u32,
    /// The process that made it.
    pub pid: Option<u32>,
    pub program: Option<String>,
    /// The tables that were touched; `None` where notices were lost, then it may be any.
    pub tables: Option<Vec<Table>>,
}

/// Tells of changes of the ruleset, by whomever.
pub struct Monitor {
    socket: Socket,
    buffer: Vec<u8>,
    touched: Vec<Table>,
    lost: bool,
}

impl Monitor {
    /// Starts to listen, in the calling thread's network namespace.
    pub fn open() -> Result<Self, Error> {
        const GROUP_NFTABLES: u32 = 7;
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(Error::Open)?;
        socket.bind_auto().map_err(Error::Open)?;
        socket.add_membership(GROUP_NFTABLES).map_err(Error::Open)?;
        socket.set_non_blocking(true).map_err(Error::Open)?;
        let _ = setsockopt(&borrowed(&socket), sockopt::RcvBufForce, &RECEIVE_BUFFER);
        Ok(Self {
            socket,
            buffer: vec![0; CHUNK],
            touched: Vec::new(),
            lost: false,
        })
    }

    /// The changes since the last call; empty where there are none. Never blocks: wait until
    /// the descriptor is readable.
    pub fn changes(&mut self) -> Result<Vec<Notice>, Error> {
        let mut notices = Vec::new();
        loop {
            let mut target = &mut self.buffer[..];
            let length = match self.socket.recv(&mut target, 0) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(notices),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.lost = true;
                    notices.push(Notice {
                        generation: 0,
                        pid: None,
                        program: None,
                        tables: None,
                    });
                    continue;
                }
                Err(error) => return Err(Error::Talk(error)),
            };
            for message in Messages(&self.buffer[..length]) {
                if message.nft() == Some(msg::NEWGEN) {
                    let attributes = message.attributes();
                    let touched = std::mem::take(&mut self.touched);
                    let lost = std::mem::take(&mut self.lost);
                    notices.push(Notice {
                        generation: find(attributes, 1).and_then(be32).unwrap_or_default(),
                        pid: find(attributes, 2).and_then(be32),
                        program: find(attributes, 3).map(text),
                        tables: (!lost).then_some(touched),
                    });
                } else if let Some(family) = Family::from_number(message.family())
                    && let Some(name) = find(message.attributes(), 1)
                {
                    let name = name.strip_suffix(&[0]).unwrap_or(name);
                    let known = self
                        .touched
                        .iter()
                        .any(|t| t.family == family && t.name.as_bytes() == name);
                    if !known {
                        self.touched.push(Table::new(family, text(name)));
                    }
                }
            }
        }
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        borrowed(&self.socket)
    }
}
