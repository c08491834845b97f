//! Switches of network drivers.

use std::io;
use std::os::fd::AsRawFd;

use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_GTXCSUM: u32 = 0x16;
const ETHTOOL_STXCSUM: u32 = 0x17;

/// A switch could not be read or set.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} of interface {interface}: {source}")]
pub struct Error {
    pub operation: &'static str,
    pub interface: String,
    pub source: io::Error,
}

#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// Whether the device computes the checksums of what it sends. Tunnels over drivers that do
/// it wrongly lose every first packet; software that computes them costs little.
pub fn tx_checksum(interface: &str) -> Result<bool, Error> {
    let mut value = Value {
        command: ETHTOOL_GTXCSUM,
        data: 0,
    };
    call("read the transmit checksum offload", interface, &mut value)?;
    Ok(value.data != 0)
}

pub fn set_tx_checksum(interface: &str, on: bool) -> Result<(), Error> {
    let mut value = Value {
        command: ETHTOOL_STXCSUM,
        data: u32::from(on),
    };
    call("set the transmit checksum offload", interface, &mut value)
}

fn call(operation: &'static str, interface: &str, value: &mut Value) -> Result<(), Error> {
    let fail = |source| Error {
        operation,
        interface: interface.to_owned(),
        source,
    };
    if interface.len() >= libc::IFNAMSIZ {
        return Err(fail(io::Error::from_raw_os_error(libc::ENODEV)));
    }
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .map_err(|errno| fail(errno.into()))?;
    // SAFETY: all bytes zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = std::ptr::from_mut(value).cast();
    // SAFETY: the name ends with a zero byte (its length was checked) and the pointer is to
    // a value of the layout that both commands read and write, which outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
    if result < 0 {
        Err(fail(io::Error::last_os_error()))
    } else {
        Ok(())
    }
}
