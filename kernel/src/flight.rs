//! Packets that are on their way through the kernel.

use std::time::Duration;

/// `MEMBARRIER_CMD_GLOBAL` of `linux/membarrier.h`.
const GLOBAL: libc::c_int = 1;

/// Longer than the kernel holds a packet that it does not queue.
const LONG_ENOUGH: Duration = Duration::from_millis(50);

/// Waits until every packet that is passing the kernel's hooks at the time of the call has
/// passed them, some tens of milliseconds: who changed rules in two places knows then that no
/// packet has seen one of them before its change and will see the other one after it.
///
/// The kernel handles packets in read sections of RCU, and its call `membarrier` waits for all
/// of them to end. A kernel that does not offer it (with processors that no timer interrupts)
/// is given a fixed time.
pub fn wait_for_packets_in_flight() {
    // SAFETY: the call takes numbers only, and touches no memory of this process.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) };
    if result != 0 {
        std::thread::sleep(LONG_ENOUGH);
    }
}
