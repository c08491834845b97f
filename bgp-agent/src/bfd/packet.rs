//! BFD control packets (RFC 5880, section 4.1).

use crate::wire::reader::Reader;

/// The length without an authentication section.
pub const LENGTH: usize = 24;
const VERSION: u8 = 1;

/// The session's state as a packet says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    AdminDown,
    Down,
    Init,
    Up,
}

impl State {
    fn number(self) -> u8 {
        match self {
            Self::AdminDown => 0,
            Self::Down => 1,
            Self::Init => 2,
            Self::Up => 3,
        }
    }

    fn of(number: u8) -> Self {
        match number & 3 {
            0 => Self::AdminDown,
            1 => Self::Down,
            2 => Self::Init,
            _ => Self::Up,
        }
    }
}

/// Why a session is down (RFC 5880, section 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Diagnostic {
    None,
    TimeExpired,
    NeighbourSaysDown,
    AdminDown,
    Other(u8),
}

impl Diagnostic {
    fn number(self) -> u8 {
        match self {
            Self::None => 0,
            Self::TimeExpired => 1,
            Self::NeighbourSaysDown => 3,
            Self::AdminDown => 7,
            Self::Other(number) => number & 0x1f,
        }
    }

    fn of(number: u8) -> Self {
        match number & 0x1f {
            0 => Self::None,
            1 => Self::TimeExpired,
            3 => Self::NeighbourSaysDown,
            7 => Self::AdminDown,
            other => Self::Other(other),
        }
    }
}

/// Times are in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    pub diagnostic: Diagnostic,
    pub state: State,
    pub poll: bool,
    pub is_final: bool,
    /// Forwarding does not share the fate of the sender's daemon.
    pub independent: bool,
    pub demand: bool,
    pub multiplier: u8,
    pub my_discriminator: u32,
    pub your_discriminator: u32,
    pub desired_min_tx: u32,
    pub required_min_rx: u32,
    pub required_min_echo_rx: u32,
}

impl Packet {
    /// `None` for everything that has to be discarded (RFC 5880, section 6.8.6).
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        let (head, flags, multiplier, length) = (from.u8()?, from.u8()?, from.u8()?, from.u8()?);
        let authenticated = flags & 0x04 != 0;
        let multipoint = flags & 0x01 != 0;
        let length = usize::from(length);
        if head >> 5 != VERSION
            || length < LENGTH
            || length > bytes.len()
            || multiplier == 0
            || authenticated
            || multipoint
        {
            return None;
        }
        let packet = Self {
            diagnostic: Diagnostic::of(head),
            state: State::of(flags >> 6),
            poll: flags & 0x20 != 0,
            is_final: flags & 0x10 != 0,
            independent: flags & 0x08 != 0,
            demand: flags & 0x02 != 0,
            multiplier,
            my_discriminator: from.u32()?,
            your_discriminator: from.u32()?,
            desired_min_tx: from.u32()?,
            required_min_rx: from.u32()?,
            required_min_echo_rx: from.u32()?,
        };
        let starts = matches!(packet.state, State::Down | State::AdminDown);
        let anonymous = packet.your_discriminator == 0 && !starts;
        (packet.my_discriminator != 0 && !anonymous).then_some(packet)
    }

    pub fn encode(&self) -> [u8; LENGTH] {
        let flags = self.state.number() << 6
            | u8::from(self.poll) << 5
            | u8::from(self.is_final) << 4
            | u8::from(self.independent) << 3
            | u8::from(self.demand) << 1;
        let mut bytes = [0; LENGTH];
        bytes[0] = VERSION << 5 | self.diagnostic.number();
        bytes[1] = flags;
        bytes[2] = self.multiplier;
        bytes[3] = 24;
        let words = [
            self.my_discriminator,
            self.your_discriminator,
            self.desired_min_tx,
            self.required_min_rx,
            self.required_min_echo_rx,
        ];
        for (place, word) in bytes[4..].chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet() -> Packet {
        Packet {
            diagnostic: Diagnostic::TimeExpired,
            state: State::Up,
            poll: true,
            is_final: false,
            independent: true,
            demand: false,
            multiplier: 3,
            my_discriminator: 1,
            your_discriminator: 2,
            desired_min_tx: 300_000,
            required_min_rx: 400_000,
            required_min_echo_rx: 0,
        }
    }

    #[test]
    fn a_packet_survives_the_wire() {
        assert_eq!(Packet::decode(&packet().encode()), Some(packet()));
    }

    #[test]
    fn what_has_to_be_discarded_is() {
        let with = |index: usize, value: u8| {
            let mut bytes = packet().encode();
            bytes[index] = value;
            Packet::decode(&bytes)
        };
        assert_eq!(with(0, 0x40), None, "another version");
        assert_eq!(with(2, 0), None, "no multiplier");
        assert_eq!(with(3, 23), None, "too short");
        assert_eq!(with(3, 25), None, "longer than what came");
        assert_eq!(with(1, 0xc4), None, "authentication that was not agreed on");
        assert_eq!(with(1, 0xc1), None, "multipoint");
        assert_eq!(with(7, 0), None, "no discriminator");
        assert_eq!(with(11, 0), None, "up, but for nobody");
        assert_eq!(Packet::decode(&packet().encode()[..23]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_packet_that_encodes_again_or_nothing(
            bytes in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            if let Some(packet) = Packet::decode(&bytes) {
                prop_assert_eq!(Packet::decode(&packet.encode()), Some(packet));
            }
        }
    }
}
