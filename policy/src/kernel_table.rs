//! Our table in the kernel: the only netlink of this crate.

use kernel::nftables::{Connection, Error, Transaction};

/// What was observed of the table.
pub(crate) struct KernelTable {
    connection: Connection,
}

impl KernelTable {
    /// Opens netlink in the calling thread's network namespace.
    pub(crate) fn open() -> Result<Self, Error> {
        Ok(Self {
            connection: Connection::open()?,
        })
    }

    /// The generation that this made, if anything was to be done.
    pub(crate) fn apply(&mut self, transaction: &Transaction) -> Result<Option<u32>, Error> {
        self.connection.apply_generation(transaction)
    }
}
