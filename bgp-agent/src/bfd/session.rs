//! The state machine (RFC 5880, section 6.2 and 6.8).

use std::time::{Duration, Instant};

use super::packet::{Diagnostic, Packet, State};
use super::{SLOW, Settings};

/// A change that the protocol behind is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Up,
    /// The path to the peer is broken.
    Down,
    /// The peer's operator ended BFD: that says nothing about the path (RFC 5882, section 3.2).
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    Send(Packet),
    Changed(Change),
}

/// What the peer said last.
#[derive(Debug, Clone, Copy)]
struct Remote {
    discriminator: u32,
    min_rx: Duration,
    state: State,
    demand: bool,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Session {
    settings: Settings,
    discriminator: u32,
    state: State,
    diagnostic: Diagnostic,
    remote: Option<Remote>,
    /// The peer's packets are at most that far apart, times the peer's multiplier.
    detection: Option<Duration>,
    expires: Option<Instant>,
    next: Instant,
    /// New timers are being agreed on.
    polling: bool,
    /// Different for each packet, so that daemons do not fall into step (section 6.8.7).
    jitter: u32,
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

impl Session {
    /// `discriminator`: different for each session of the machine, not zero.
    pub fn new(settings: Settings, discriminator: u32, now: Instant) -> Self {
        Self {
            settings,
            discriminator,
            state: State::Down,
            diagnostic: Diagnostic::None,
            remote: None,
            detection: None,
            expires: None,
            next: now,
            polling: false,
            jitter: discriminator,
        }
    }

    pub fn state(&self) -> State {
        self.state
    }

    pub fn discriminator(&self) -> u32 {
        self.discriminator
    }

    /// When [`Session::tick`] is wanted.
    pub fn timeout(&self) -> Instant {
        self.expires.map_or(self.next, |at| at.min(self.next))
    }

    /// Our packets are that far apart, before jitter.
    fn interval(&self) -> Duration {
        let wanted = match self.state {
            State::Up => self.settings.transmit,
            _ => self.settings.transmit.max(SLOW),
        };
        let asked = self.remote.map_or(Duration::ZERO, |remote| remote.min_rx);
        wanted.max(asked)
    }

    fn schedule(&mut self, now: Instant) {
        // 75 to 100 percent; at most 90 with a multiplier of one.
        self.jitter = self
            .jitter
            .wrapping_mul(1_664_525)
            .wrapping_add(1_013_904_223);
        let most = if self.settings.multiplier == 1 {
            15
        } else {
            25
        };
        let percent = 75 + (self.jitter >> 16) % (most + 1);
        self.next = now + self.interval() * percent / 100;
    }

    fn packet(&self, is_final: bool) -> Packet {
        let transmit = match self.state {
            State::Up => self.settings.transmit,
            _ => self.settings.transmit.max(SLOW),
        };
        Packet {
            diagnostic: self.diagnostic,
            state: self.state,
            poll: self.polling && !is_final,
            is_final,
            // Routes stay in the kernel when this process ends.
            independent: true,
            demand: false,
            multiplier: self.settings.multiplier,
            my_discriminator: self.discriminator,
            your_discriminator: self.remote.map_or(0, |remote| remote.discriminator),
            desired_min_tx: micros(transmit),
            required_min_rx: micros(self.settings.receive),
            required_min_echo_rx: 0,
        }
    }

    pub fn tick(&mut self, now: Instant) -> Vec<Output> {
        let mut out = Vec::new();
        if self.expires.is_some_and(|at| at <= now) {
            self.expires = None;
            self.remote = None;
            if matches!(self.state, State::Init | State::Up) {
                self.go(State::Down, Diagnostic::TimeExpired, &mut out);
            }
        }
        if self.next <= now {
            if self.may_send() {
                out.push(Output::Send(self.packet(false)));
            }
            self.schedule(now);
        }
        out
    }

    /// A peer that asks for none gets none; in demand mode only polls (section 6.8.7).
    fn may_send(&self) -> bool {
        let quiet = |remote: Remote| {
            let both_up = self.state == State::Up && remote.state == State::Up;
            remote.min_rx.is_zero() || (remote.demand && both_up && !self.polling)
        };
        !self.remote.is_some_and(quiet)
    }

    /// A packet of the peer (section 6.8.6).
    pub fn received(&mut self, packet: &Packet, now: Instant) -> Vec<Output> {
        let mut out = Vec::new();
        self.remote = Some(Remote {
            discriminator: packet.my_discriminator,
            min_rx: Duration::from_micros(packet.required_min_rx.into()),
            state: packet.state,
            demand: packet.demand,
        });
        if packet.is_final {
            self.polling = false;
        }
        let theirs = Duration::from_micros(packet.desired_min_tx.into());
        let apart = theirs.max(self.settings.receive);
        let detection = apart * u32::from(packet.multiplier);
        self.detection = Some(detection);
        self.expires = Some(now + detection);
        self.step(packet.state, &mut out);
        if packet.poll {
            out.push(Output::Send(self.packet(true)));
        }
        // A state that has changed is told soon.
        if out.iter().any(|own| matches!(own, Output::Changed(_)))
            || self.next > now + self.interval()
        {
            self.schedule(now);
            self.next = self.next.min(now + Duration::from_millis(10));
        }
        out
    }

    fn step(&mut self, theirs: State, out: &mut Vec<Output>) {
        if self.state == State::AdminDown {
            return;
        }
        match (self.state, theirs) {
            (State::Down, State::AdminDown) => {}
            (_, State::AdminDown) => {
                self.go(State::Down, Diagnostic::NeighbourSaysDown, out);
                // It says nothing about the path.
                for own in out.iter_mut() {
                    if *own == Output::Changed(Change::Down) {
                        *own = Output::Changed(Change::Ended);
                    }
                }
            }
            (State::Down, State::Down) => self.go(State::Init, Diagnostic::None, out),
            (State::Down | State::Init, State::Init) | (State::Init, State::Up) => {
                self.go(State::Up, Diagnostic::None, out);
            }
            (State::Up, State::Down) => self.go(State::Down, Diagnostic::NeighbourSaysDown, out),
            _ => {}
        }
    }

    fn go(&mut self, state: State, diagnostic: Diagnostic, out: &mut Vec<Output>) {
        let before = std::mem::replace(&mut self.state, state);
        self.diagnostic = diagnostic;
        match (before, state) {
            (_, State::Up) => {
                // The timers become faster: the peer has to agree (section 6.8.3).
                self.polling = true;
                out.push(Output::Changed(Change::Up));
            }
            (State::Up, _) => {
                self.polling = false;
                out.push(Output::Changed(Change::Down));
            }
            _ => {}
        }
    }

    /// The last packet of a session that is ended on purpose.
    pub fn end(&mut self) -> Packet {
        self.state = State::AdminDown;
        self.diagnostic = Diagnostic::AdminDown;
        self.polling = false;
        self.packet(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two sessions and the link between them.
    struct Link {
        ends: [Session; 2],
        now: Instant,
        cut: bool,
        changes: [Vec<Change>; 2],
        sent: usize,
    }

    impl Link {
        fn new(a: Settings, b: Settings) -> Self {
            let now = Instant::now();
            Self {
                ends: [Session::new(a, 1, now), Session::new(b, 2, now)],
                now,
                cut: false,
                changes: [vec![], vec![]],
                sent: 0,
            }
        }

        fn handle(&mut self, end: usize, outputs: Vec<Output>) {
            for output in outputs {
                match output {
                    Output::Changed(change) => self.changes[end].push(change),
                    Output::Send(packet) => {
                        self.sent += 1;
                        if !self.cut {
                            let packet = Packet::decode(&packet.encode()).unwrap();
                            let other = 1 - end;
                            let outputs = self.ends[other].received(&packet, self.now);
                            self.handle(other, outputs);
                        }
                    }
                }
            }
        }

        fn advance(&mut self, by: Duration) {
            let end = self.now + by;
            loop {
                let due = self.ends[0].timeout().min(self.ends[1].timeout());
                if due > end {
                    break;
                }
                self.now = due;
                for index in [0, 1] {
                    if self.ends[index].timeout() <= self.now {
                        let outputs = self.ends[index].tick(self.now);
                        self.handle(index, outputs);
                    }
                }
            }
            self.now = end;
        }
    }

    fn every(milliseconds: u64) -> Settings {
        Settings {
            transmit: Duration::from_millis(milliseconds),
            receive: Duration::from_millis(milliseconds),
            multiplier: 3,
        }
    }

    #[test]
    fn a_session_comes_up_and_a_cut_is_noticed_within_the_detection_time() {
        let mut link = Link::new(every(100), every(200));
        link.advance(Duration::from_secs(3));
        assert_eq!(link.changes, [[Change::Up], [Change::Up]]);
        link.cut = true;
        // The slower of the two, three times.
        link.advance(Duration::from_millis(601));
        let flapped = [Change::Up, Change::Down];
        assert_eq!(link.changes, [flapped, flapped]);
        link.cut = false;
        link.advance(Duration::from_secs(4));
        assert_eq!(link.changes[0].last(), Some(&Change::Up));
    }

    #[test]
    fn a_session_that_stays_up_sends_as_often_as_agreed() {
        let mut link = Link::new(every(100), every(100));
        link.advance(Duration::from_secs(5));
        link.sent = 0;
        link.advance(Duration::from_secs(10));
        // Two directions, each between 75 and 100 milliseconds apart.
        assert!((200..=268).contains(&link.sent), "{}", link.sent);
        assert_eq!(link.changes[0].len(), 1);
    }

    #[test]
    fn a_session_that_is_not_up_sends_once_a_second_at_most() {
        let mut link = Link::new(every(50), every(50));
        link.cut = true;
        link.advance(Duration::from_secs(10));
        assert!(link.sent <= 28, "{}", link.sent);
    }

    #[test]
    fn the_end_on_purpose_is_no_broken_path() {
        let mut link = Link::new(every(100), every(100));
        link.advance(Duration::from_secs(3));
        let last = link.ends[0].end();
        let now = link.now;
        let outputs = link.ends[1].received(&last, now);
        assert!(outputs.contains(&Output::Changed(Change::Ended)));
        assert_eq!(link.ends[1].state(), State::Down);
    }

    #[test]
    fn a_peer_that_says_down_is_believed_at_once() {
        let mut link = Link::new(every(100), every(100));
        link.advance(Duration::from_secs(3));
        let mut packet = link.ends[0].packet(false);
        packet.state = State::Down;
        let now = link.now;
        let outputs = link.ends[1].received(&packet, now);
        assert!(outputs.contains(&Output::Changed(Change::Down)));
    }
}
