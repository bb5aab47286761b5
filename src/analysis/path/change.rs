//! The change of a packet between its arrival and a table.

use crate::analysis::GaveUp;
use crate::analysis::behaviour::BaseChain;
use crate::analysis::diagram::Ref;
use crate::analysis::field::Field;
use crate::analysis::space::{Set, Space};
use crate::analysis::translation::Translation;
use crate::analysis::writes::Writes;
use crate::net::State;

/// The translation of one end (source or destination) of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Exchanged {
    /// The end is not translated.
    #[default]
    No,
    /// A rule of the nat table translates it.
    By(Translation),
    /// It is translated as it was when the connection began. The current rules do not tell how: nat only sees the first
    /// packet.
    AsBefore,
}

/// The differences between a packet as a table sees it and as it arrived.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PathChange {
    /// The translation of its destination.
    pub destination: Exchanged,
    /// The translation of its source. It is the last step of the path, so that no table sees the new source.
    pub source: Exchanged,
    /// `true` after `CT --notrack`: the state is UNTRACKED from then on.
    pub untracked: bool,
    pub(super) address: Address,
    pub(super) port: Port,
    pub(super) mark: Bit,
    /// `true` if the packet is routed again, so that it leaves by another device ([`Field::NewOutDevice`]). POSTROUTING
    /// sees it first.
    pub(super) rerouted: bool,
    /// The values that rules wrote into it. The tracking state is in `untracked` instead.
    pub(super) writes: Writes,
}

/// The current destination address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Address {
    #[default]
    Same,
    Is(u128),
    /// A choice of the kernel: [`Field::NewDestination`].
    Chosen,
    /// `NETMAP`: an address between `from` and `from + more` moved to the network that begins at `to`.
    Moved {
        from: u128,
        to: u128,
        more: u128,
    },
}

/// The current destination port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Port {
    #[default]
    Same,
    Is(u16),
    /// A choice of the kernel: [`Field::NewDestinationPort`].
    Chosen,
}

/// The answer to `--ctstate DNAT`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Bit {
    /// As for the arriving packet; it never holds for a new connection.
    #[default]
    Same,
    Yes,
    /// It holds if the opaque condition of this number does.
    If(u32),
}

impl PathChange {
    /// Returns `true` if the destination differs or may differ from the original one.
    fn is_elsewhere(&self) -> bool {
        self.address != Address::Same || self.port != Port::Same
    }

    /// Returns the arriving packets whose mark, or whose connection's mark, differs after the two changes.
    pub fn marks_differ(&self, space: &Space, other: &Self) -> Result<Set, GaveUp> {
        space.marks_differ(self.writes.marks, other.writes.marks)
    }

    /// Returns the new destination address: `None` if it is the original one, `Some(None)` if it is one of several.
    pub(super) fn new_address(&self) -> Option<Option<u128>> {
        match self.address {
            Address::Same => None,
            Address::Is(address) => Some(Some(address)),
            Address::Chosen | Address::Moved { .. } => Some(None),
        }
    }

    /// Returns a field's value after the change, given the values of the arriving packet and the choices of the kernel.
    ///
    /// [`Field::Source`] is the original one, because no table sees the new one. Opaque conditions keep their answers.
    pub fn value(&self, value: impl Fn(Field) -> u128) -> impl Fn(Field) -> u128 {
        let change = self.clone();
        move |field| {
            let word = |field: fn(u8) -> Field| {
                (0..32).fold(0u32, |word, bit| {
                    word | (value(field(bit)) as u32 & 1) << bit
                })
            };
            let marks = || {
                let (packet, connection) = (word(Field::Mark), word(Field::ConnectionMark));
                change.writes.marks.apply(packet, connection)
            };
            match field {
                Field::State if change.untracked => untracked(),
                Field::Destination => match change.address {
                    Address::Same => value(field),
                    Address::Is(address) => address,
                    Address::Chosen => value(Field::NewDestination),
                    Address::Moved { from, to, more } => to + (value(field) - from).min(more),
                },
                Field::DestinationPort => match change.port {
                    Port::Same => value(field),
                    Port::Is(port) => port.into(),
                    Port::Chosen => value(Field::NewDestinationPort),
                },
                Field::OutDevice if change.rerouted => value(Field::NewOutDevice),
                Field::DestinationTranslated => match change.mark {
                    Bit::Same => value(field),
                    Bit::Yes => 1,
                    // A translation to the address and port that a packet already has leaves no `--ctstate DNAT`.
                    Bit::If(number) => value(Field::Opaque(number)),
                },
                Field::HopLimit => {
                    let hops = value(field).min(u8::MAX.into()) as u8;
                    change.writes.hops.apply(hops).into()
                }
                Field::Mark(bit) => (marks().0 >> bit & 1).into(),
                Field::ConnectionMark(bit) => (marks().1 >> bit & 1).into(),
                _ => value(field),
            }
        }
    }

    /// Returns a base chain's diagram, which asks packets after the change, in terms of the packets before it.
    pub(super) fn seen(
        &self,
        space: &Space,
        chain: BaseChain,
        diagram: Ref,
    ) -> Result<Ref, GaveUp> {
        let mut seen = diagram;
        let fields = space.fields_of(seen);
        if self.is_elsewhere() {
            for field in &fields {
                if let Field::Opaque(number) = field
                    && let Some(key) = space.opaque_key(*number)
                    && asks_destination(&key)
                {
                    // The condition may answer differently for the new destination, so it gets another key.
                    let again = space.opaque(&after_translation(&key))?;
                    seen = space.replaced(seen, *field, again)?;
                }
            }
        }
        if self.writes != Writes::SAME {
            seen = space.ask_writes(seen, self.writes)?;
        }
        if fields.contains(&Field::DestinationTranslated) {
            let field = Field::DestinationTranslated;
            seen = match self.mark {
                Bit::Same => seen,
                Bit::Yes => space.fixed(seen, field, 1)?,
                Bit::If(number) => {
                    let condition = space.range(Field::Opaque(number), 1, 1)?;
                    space.replaced(seen, field, condition)?
                }
            };
        }
        seen = match self.port {
            Port::Same => seen,
            Port::Is(port) => space.fixed(seen, Field::DestinationPort, port.into())?,
            Port::Chosen => {
                space.renamed(seen, Field::DestinationPort, Field::NewDestinationPort)?
            }
        };
        seen = match self.address {
            Address::Same => seen,
            Address::Is(address) => space.fixed(seen, Field::Destination, address)?,
            Address::Chosen => space.renamed(seen, Field::Destination, Field::NewDestination)?,
            Address::Moved { from, to, more } => {
                space.shifted(seen, Field::Destination, (from, to, more))?
            }
        };
        if self.untracked {
            seen = space.fixed(seen, Field::State, untracked())?;
        }
        if self.rerouted && chain == BaseChain::Postrouting {
            seen = space.renamed(seen, Field::OutDevice, Field::NewOutDevice)?;
        }
        Ok(seen)
    }

    /// Returns the packets of a set after the change, at a base chain. Bits of shifted marks are left free.
    pub(super) fn image(&self, space: &Space, chain: BaseChain, set: Set) -> Result<Set, GaveUp> {
        let mut set = set;
        if self.rerouted && chain == BaseChain::Postrouting {
            set = moved_to(space, set, Field::OutDevice, Field::NewOutDevice)?;
        }
        set = match self.address {
            Address::Same => set,
            Address::Is(address) => {
                let set = space.whatever(set, Field::Destination)?;
                space.and(set, space.range(Field::Destination, address, address)?)?
            }
            Address::Chosen => moved_to(space, set, Field::Destination, Field::NewDestination)?,
            Address::Moved { from, to, more } => {
                let back = space.shifted(set.0, Field::Destination, (to, from, more))?;
                space.and(Set(back), space.range(Field::Destination, to, to + more)?)?
            }
        };
        set = match self.port {
            Port::Same => set,
            Port::Is(port) => {
                let set = space.whatever(set, Field::DestinationPort)?;
                space.and(set, space.destination_port(port, port)?)?
            }
            Port::Chosen => moved_to(
                space,
                set,
                Field::DestinationPort,
                Field::NewDestinationPort,
            )?,
        };
        if self.untracked {
            set = space.and(
                space.whatever(set, Field::State)?,
                space.states(&[State::Untracked])?,
            )?;
        }
        if self.mark != Bit::Same {
            let yes = match self.mark {
                Bit::If(number) => space.range(Field::Opaque(number), 1, 1)?,
                _ => space.all(),
            };
            let translated = space.range(Field::DestinationTranslated, 1, 1)?;
            let fits = space.ite(yes, translated, space.not(translated)?)?;
            set = space.and(space.whatever(set, Field::DestinationTranslated)?, fits)?;
        }
        if !self.writes.marks.is_bitwise() {
            // A bit that depends on bits of other positions is left free.
            for bit in 0..32 {
                let (packet, connection) = self.writes.marks.keeps(bit);
                if !packet {
                    set = space.whatever(set, Field::Mark(bit))?;
                }
                if !connection {
                    set = space.whatever(set, Field::ConnectionMark(bit))?;
                }
            }
        } else {
            set = self.set_marks(space, set)?;
        }
        set = space.hops_image(set, self.writes.hops)?;
        space.tos_image(set, self.writes.tos)
    }

    /// Returns the packets of a set after mark writes that keep each bit in its position.
    fn set_marks(&self, space: &Space, set: Set) -> Result<Set, GaveUp> {
        let mut set = set;
        let asked = space.support(set);
        let mut known = Vec::new();
        for bit in (0..32).filter(|bit| self.changes_marks(*bit)) {
            match self.known_bit(bit) {
                Some(value) => {
                    if asked.contains(&Field::Mark(bit)) {
                        set = space.whatever(set, Field::Mark(bit))?;
                    }
                    known.push(space.range(Field::Mark(bit), value, value)?);
                }
                None => set = self.marks_image(space, set, bit)?,
            }
        }
        space.and(set, space.every(known)?)
    }

    /// Returns the new values of one bit of both marks.
    fn bits_after(&self, bit: u8, (packet, connection): (u32, u32)) -> (u32, u32) {
        let marks = self.writes.marks.apply(packet << bit, connection << bit);
        (marks.0 >> bit & 1, marks.1 >> bit & 1)
    }

    fn changes_marks(&self, bit: u8) -> bool {
        BIT_VALUES
            .into_iter()
            .any(|values| self.bits_after(bit, values) != values)
    }

    /// Returns the constant that a bit of the packet's mark becomes, if it is one and the connection's bit keeps its
    /// value.
    fn known_bit(&self, bit: u8) -> Option<u128> {
        let after = BIT_VALUES.map(|values| (values, self.bits_after(bit, values)));
        let (packet, _) = after[0].1;
        let is_known = |(before, after): ((u32, u32), (u32, u32))| after == (packet, before.1);
        after.into_iter().all(is_known).then(|| packet.into())
    }

    /// Maps one bit of both marks: each of its four values to the new one.
    fn marks_image(&self, space: &Space, set: Set, bit: u8) -> Result<Set, GaveUp> {
        let (packet, connection) = (Field::Mark(bit), Field::ConnectionMark(bit));
        let mut all = space.none();
        for (p, c) in BIT_VALUES {
            let part = space.with(space.with(set, packet, p.into())?, connection, c.into())?;
            let (p, c) = self.bits_after(bit, (p, c));
            let there = space.and(
                space.range(packet, p.into(), p.into())?,
                space.range(connection, c.into(), c.into())?,
            )?;
            all = space.or(all, space.and(part, there)?)?;
        }
        Ok(all)
    }
}

/// The four values of one bit of both marks: packet, connection.
const BIT_VALUES: [(u32, u32); 4] = [(0, 0), (0, 1), (1, 0), (1, 1)];

/// Gives a field the value of the field right behind it in the order, which then is free.
fn moved_to(space: &Space, set: Set, field: Field, from: Field) -> Result<Set, GaveUp> {
    let set = space.whatever(set, field)?;
    space.renamed(set.0, from, field).map(Set)
}

/// Returns the key of an opaque condition that is asked again after a translation changed the destination.
pub fn after_translation(key: &str) -> String {
    format!("{key}, after translation")
}

pub(super) fn untracked() -> u128 {
    crate::analysis::field::state_number(State::Untracked)
}

/// Returns `true` if the answer to an opaque condition may depend on the packet's destination.
fn asks_destination(key: &str) -> bool {
    const OTHERS: [&str; 13] = [
        "addrtype source ",
        "conntrack ",
        "owner ",
        "physdev ",
        "length ",
        "dscp ",
        "tos ",
        "helper ",
        "devgroup ",
        "tcp option ",
        "-m limit ",
        "-m time ",
        "-m statistic ",
    ];
    if OTHERS.iter().any(|begin| key.starts_with(begin)) {
        return false;
    }
    // The name of the set may be quoted and contain blanks. The directions (`src`, `dst`) follow it.
    let sides = key.strip_prefix("-m set --match-set ").and_then(|rest| {
        let rest = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?.1,
            None => rest.split_once(' ')?.1,
        };
        rest.split_whitespace().next()
    });
    sides.is_none_or(|sides| sides.split(',').any(|side| side == "dst"))
}
