use super::*;

fn config(router_id: u8, passive: bool) -> Config {
    Config {
        local_as: 64512,
        peer_as: 64512,
        router_id: Ipv4Addr::new(10, 0, 0, router_id),
        hold_time: 90,
        connect_retry: Duration::from_secs(5),
        passive,
        families: Family::ALL.to_vec(),
        restart_time: 120,
        restarting: false,
        add_path: None,
        long_lived: 0,
    }
}

/// Two sessions that talk to each other over perfect connections.
struct Pair {
    ends: [Session; 2],
    now: Instant,
    next: u64,
    /// For each end: the number of a connection there, and that at the other end.
    wires: Vec<(usize, ConnectionId, ConnectionId)>,
    events: [Vec<&'static str>; 2],
    reachable: bool,
}

impl Pair {
    fn new(a: Config, b: Config) -> Self {
        Self {
            ends: [Session::new(a), Session::new(b)],
            now: Instant::now(),
            next: 0,
            wires: Vec::new(),
            events: [Vec::new(), Vec::new()],
            reachable: true,
        }
    }

    fn input(&mut self, end: usize, input: Input) {
        let outputs = self.ends[end].process(input, self.now);
        let mut pending: Vec<(usize, Output)> = outputs.into_iter().map(|o| (end, o)).collect();
        while !pending.is_empty() {
            let (end, output) = pending.remove(0);
            for (end, input) in self.output(end, output) {
                let outputs = self.ends[end].process(input, self.now);
                pending.extend(outputs.into_iter().map(|output| (end, output)));
            }
        }
    }

    fn output(&mut self, end: usize, output: Output) -> Vec<(usize, Input)> {
        let other = 1 - end;
        let peer_of = |wires: &[(usize, ConnectionId, ConnectionId)], id| {
            wires
                .iter()
                .find(|(own, own_id, _)| *own == end && *own_id == id)
                .map(|wire| wire.2)
        };
        match output {
            Output::Connect if self.reachable => {
                let (here, there) = (ConnectionId(self.next), ConnectionId(self.next + 1));
                self.next += 2;
                self.wires.push((end, here, there));
                self.wires.push((other, there, here));
                vec![
                    (end, Input::Connected(here, Side::Outbound)),
                    (other, Input::Connected(there, Side::Inbound)),
                ]
            }
            Output::Connect => vec![(end, Input::ConnectFailed)],
            Output::Send(id, message) => peer_of(&self.wires, id)
                .map(|peer| (other, Input::Received(peer, message)))
                .into_iter()
                .collect(),
            Output::Close(id) => {
                let peer = peer_of(&self.wires, id);
                self.wires
                    .retain(|(_, own, theirs)| *own != id && *theirs != id);
                peer.map(|peer| (other, Input::Closed(peer)))
                    .into_iter()
                    .collect()
            }
            Output::Established(..) => {
                self.events[end].push("up");
                Vec::new()
            }
            Output::Down(_) => {
                self.events[end].push("down");
                Vec::new()
            }
            Output::Routes(_) | Output::Refresh(..) => Vec::new(),
        }
    }

    fn states(&self) -> [State; 2] {
        [self.ends[0].state(), self.ends[1].state()]
    }

    fn advance(&mut self, by: Duration) {
        let end_time = self.now + by;
        while let Some(due) = self.ends.iter().filter_map(Session::timeout).min() {
            if due > end_time {
                break;
            }
            self.now = due.max(self.now);
            for end in [0, 1] {
                if self.ends[end].timeout().is_some_and(|at| at <= self.now) {
                    self.input(end, Input::Timeout);
                }
            }
        }
        self.now = end_time;
    }
}

const UP: [State; 2] = [State::Established, State::Established];

#[test]
fn a_session_comes_up_and_stays_up() {
    let mut pair = Pair::new(config(1, false), config(2, true));
    pair.input(1, Input::Start);
    assert_eq!(pair.ends[1].state(), State::Active);
    pair.input(0, Input::Start);
    assert_eq!(pair.states(), UP);
    pair.advance(Duration::from_secs(3600));
    assert_eq!(pair.states(), UP);
    assert_eq!(pair.events, [["up"], ["up"]]);
}

#[test]
fn a_collision_leaves_one_connection() {
    for (a, b) in [(1, 2), (2, 1)] {
        let mut pair = Pair::new(config(a, false), config(b, false));
        // Both connect before either hears of the other.
        let first = pair.ends[0].process(Input::Start, pair.now);
        let second = pair.ends[1].process(Input::Start, pair.now);
        for (end, outputs) in [(0, first), (1, second)] {
            for output in outputs {
                for (end, input) in pair.output(end, output) {
                    pair.input(end, input);
                }
            }
        }
        pair.advance(Duration::from_secs(30));
        assert_eq!(pair.states(), UP);
        assert_eq!(pair.wires.len(), 2, "one connection, seen from both ends");
    }
}

#[test]
fn silence_ends_the_session_and_it_comes_back() {
    let mut pair = Pair::new(config(1, false), config(2, true));
    pair.input(1, Input::Start);
    pair.input(0, Input::Start);
    // Nothing crosses any more, and nobody is told.
    pair.wires.clear();
    pair.reachable = false;
    pair.advance(Duration::from_secs(91));
    assert_eq!(pair.events, [["up", "down"], ["up", "down"]]);
    pair.reachable = true;
    pair.advance(Duration::from_secs(61));
    assert_eq!(pair.states(), UP);
}

#[test]
fn a_wrong_as_or_our_own_identifier_is_refused() {
    let mut wrong = config(2, true);
    wrong.local_as = 65000;
    let mut pair = Pair::new(config(1, false), wrong);
    pair.input(1, Input::Start);
    pair.input(0, Input::Start);
    assert!(pair.events.iter().all(Vec::is_empty));
    let mut pair = Pair::new(config(1, false), config(1, true));
    pair.input(1, Input::Start);
    pair.input(0, Input::Start);
    assert!(pair.events.iter().all(Vec::is_empty));
}

#[test]
fn a_peer_that_opens_and_says_nothing_is_dropped() {
    let mut session = Session::new(config(1, true));
    let now = Instant::now();
    session.process(Input::Start, now);
    session.process(Input::Connected(ConnectionId(1), Side::Inbound), now);
    assert_eq!(session.state(), State::OpenSent);
    assert_eq!(session.timeout(), Some(now + OPEN_WAIT));
    let outputs = session.process(Input::Timeout, now + OPEN_WAIT);
    assert!(outputs.contains(&Output::Close(ConnectionId(1))));
    assert_eq!(session.state(), State::Active);
}

#[test]
fn a_second_connection_of_an_established_peer_means_a_restart() {
    let mut pair = Pair::new(config(1, true), config(2, true));
    pair.input(0, Input::Start);
    pair.input(1, Input::Start);
    pair.ends[1].config.passive = false;
    pair.input(1, Input::Start);
    assert_eq!(pair.states(), UP);
    let mut fresh = config(2, false);
    fresh.restarting = true;
    pair.ends[1] = Session::new(fresh);
    pair.input(1, Input::Start);
    assert_eq!(pair.states(), UP);
    assert_eq!(pair.events[0], ["up", "down", "up"]);
}

#[test]
fn an_update_before_the_session_is_up_is_an_error() {
    let mut session = Session::new(config(1, true));
    let now = Instant::now();
    session.process(Input::Start, now);
    let id = ConnectionId(1);
    session.process(Input::Connected(id, Side::Inbound), now);
    let outputs = session.process(Input::Received(id, Message::Update(Box::default())), now);
    let told = Output::Send(id, Message::Notification(Notification::FSM_ERROR));
    assert_eq!(outputs, [told, Output::Close(id)]);
}

#[test]
fn stop_tells_the_peer_and_does_not_come_back() {
    let mut pair = Pair::new(config(1, false), config(2, true));
    pair.input(1, Input::Start);
    pair.input(0, Input::Start);
    pair.input(0, Input::Stop(Notification::ADMINISTRATIVE_SHUTDOWN));
    pair.advance(Duration::from_secs(600));
    assert_eq!(pair.states(), [State::Idle, State::Active]);
}
