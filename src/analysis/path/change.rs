//! What became of a packet on its way.

use crate::analysis::GaveUp;
use crate::analysis::behaviour::BaseChain;
use crate::analysis::diagram::Ref;
use crate::analysis::field::Field;
use crate::analysis::space::{Set, Space};
use crate::analysis::translation::Translation;
use crate::analysis::writes::Writes;
use crate::net::State;

/// One of the ends of a connection, translated or not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Exchanged {
    /// Not translated.
    #[default]
    No,
    /// By this rule of the nat table.
    By(Translation),
    /// As it was when the connection began, which no rule of now tells.
    AsBefore,
}

/// What became of a packet on its way, against what it was when it arrived.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Change {
    /// Its destination.
    pub destination: Exchanged,
    /// Its source. No table sees the new one: it is the last thing that happens.
    pub source: Exchanged,
    /// `CT --notrack`: its state is UNTRACKED from then on.
    pub untracked: bool,
    pub(super) address: Address,
    pub(super) port: Port,
    pub(super) mark: Bit,
    /// The device that it leaves by is another choice, which POSTROUTING is the first to see.
    pub(super) rerouted: bool,
    /// What rules have written into it; how it is tracked is said above.
    pub(super) writes: Writes,
}

/// The destination that a packet has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Address {
    #[default]
    Same,
    Is(u128),
    /// [`Field::NewDestination`]
    Chosen,
    /// Of those from `from` to `from + more`: `to` and what comes after.
    Moved {
        from: u128,
        to: u128,
        more: u128,
    },
}

/// The destination port that a packet has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Port {
    #[default]
    Same,
    Is(u16),
    /// [`Field::NewDestinationPort`]
    Chosen,
}

/// Whether `--ctstate DNAT` holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Bit {
    /// As the arriving packet says: of a new connection it never holds.
    #[default]
    Same,
    Yes,
    /// An opaque condition of this number knows.
    If(u32),
}

impl Change {
    /// Whether the destination is another, or may be.
    fn is_elsewhere(&self) -> bool {
        self.address != Address::Same || self.port != Port::Same
    }

    /// The packets, as they arrived, whose mark or connection's mark is another after this change than after the other one.
    pub fn marks_differ(&self, space: &Space, other: &Self) -> Result<Set, GaveUp> {
        space.marks_differ(self.writes.marks, other.writes.marks)
    }

    /// The address that packets have instead of the one that they were sent to, where there is one; `Some(None)`: one of
    /// several.
    pub(super) fn new_address(&self) -> Option<Option<u128>> {
        match self.address {
            Address::Same => None,
            Address::Is(address) => Some(Some(address)),
            Address::Chosen | Address::Moved { .. } => Some(None),
        }
    }

    /// A field's value after the change, by those of the packet that arrived and of what the kernel chose.
    ///
    /// [`Field::Source`] stays: no table sees the new one. So do conditions that are not understood.
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

    /// What a diagram of a base chain says of packets after the change, by what they were before it.
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
                    // The same question about another destination is another question.
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

    /// What the packets of a set are at a base chain after the change; bits of marks that were shifted may be anything.
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
            // Bits that come from elsewhere: what they are then is left open.
            for bit in 0..32 {
                let (packet, connection) = self.writes.marks.keeps(bit);
                if !packet {
                    set = space.whatever(set, Field::Mark(bit))?;
                }
                if !connection {
                    set = space.whatever(set, Field::ConnectionMark(bit))?;
                }
            }
            return Ok(set);
        }
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
        set = space.and(set, space.every(known)?)?;
        set = space.hops_image(set, self.writes.hops)?;
        space.tos_image(set, self.writes.tos)
    }

    /// What becomes of a bit of the packet's mark and the same of the connection's.
    fn bits_after(&self, bit: u8, (packet, connection): (u32, u32)) -> (u32, u32) {
        let marks = self.writes.marks.apply(packet << bit, connection << bit);
        (marks.0 >> bit & 1, marks.1 >> bit & 1)
    }

    fn changes_marks(&self, bit: u8) -> bool {
        BIT_VALUES
            .into_iter()
            .any(|values| self.bits_after(bit, values) != values)
    }

    /// A bit that the packet's mark has then in any case, while the connection's stays.
    fn known_bit(&self, bit: u8) -> Option<u128> {
        let after = BIT_VALUES.map(|values| (values, self.bits_after(bit, values)));
        let (packet, _) = after[0].1;
        let is_known = |(before, after): ((u32, u32), (u32, u32))| after == (packet, before.1);
        after.into_iter().all(is_known).then(|| packet.into())
    }

    /// One bit of both marks: where each of its four values goes.
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

/// What a bit of the packet's mark and the same of the connection's may be.
const BIT_VALUES: [(u32, u32); 4] = [(0, 0), (0, 1), (1, 0), (1, 1)];

/// A field gets the value of the one right behind it, which is nobody's then.
fn moved_to(space: &Space, set: Set, field: Field, from: Field) -> Result<Set, GaveUp> {
    let set = space.whatever(set, field)?;
    space.renamed(set.0, from, field).map(Set)
}

/// What the analysis calls a condition that is asked again, about the destination which a translation gave.
pub fn after_translation(key: &str) -> String {
    format!("{key}, after translation")
}

pub(super) fn untracked() -> u128 {
    crate::analysis::field::state_number(State::Untracked)
}

/// Whether the answer to a question that is not understood may depend on the packet's destination.
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
    // The name may be quoted, with blanks in it; then comes which sides are asked.
    let sides = key.strip_prefix("-m set --match-set ").and_then(|rest| {
        let rest = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?.1,
            None => rest.split_once(' ')?.1,
        };
        rest.split_whitespace().next()
    });
    sides.is_none_or(|sides| sides.split(',').any(|side| side == "dst"))
}
