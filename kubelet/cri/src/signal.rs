/// The protocol's stop signals in their published order; the position is the number.
const SIGNALS: [&str; 66] = [
    "",
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGRTMIN",
    "SIGRTMIN+1",
    "SIGRTMIN+2",
    "SIGRTMIN+3",
    "SIGRTMIN+4",
    "SIGRTMIN+5",
    "SIGRTMIN+6",
    "SIGRTMIN+7",
    "SIGRTMIN+8",
    "SIGRTMIN+9",
    "SIGRTMIN+10",
    "SIGRTMIN+11",
    "SIGRTMIN+12",
    "SIGRTMIN+13",
    "SIGRTMIN+14",
    "SIGRTMIN+15",
    "SIGRTMAX-14",
    "SIGRTMAX-13",
    "SIGRTMAX-12",
    "SIGRTMAX-11",
    "SIGRTMAX-10",
    "SIGRTMAX-9",
    "SIGRTMAX-8",
    "SIGRTMAX-7",
    "SIGRTMAX-6",
    "SIGRTMAX-5",
    "SIGRTMAX-4",
    "SIGRTMAX-3",
    "SIGRTMAX-2",
    "SIGRTMAX-1",
    "SIGRTMAX",
];

/// The protocol's number of a stop signal; 0, the runtime's default, for an unknown name.
pub fn stop_signal_number(name: &str) -> i32 {
    let index = SIGNALS.iter().position(|known| *known == name).unwrap_or(0);
    i32::try_from(index).unwrap_or(0)
}

/// The name of a stop signal; `None` for the runtime's default and for unknown numbers.
pub fn stop_signal_name(number: i32) -> Option<&'static str> {
    let index = usize::try_from(number).ok()?;
    SIGNALS.get(index).copied().filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_signals_have_the_published_numbers() {
        for (name, number) in [
            ("SIGTERM", 23),
            ("SIGKILL", 13),
            ("SIGUSR1", 29),
            ("SIGRTMIN", 35),
            ("SIGRTMAX", 65),
        ] {
            assert_eq!(stop_signal_number(name), number);
            assert_eq!(stop_signal_name(number), Some(name));
        }
        assert_eq!(stop_signal_number("SIGNONE"), 0);
        assert_eq!(stop_signal_name(0), None);
    }
}
