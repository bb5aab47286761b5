//! What targets write into the header of a packet, and what matches ask of it: hop limit and type of service.

use super::model::{Module, Setting};

/// What `TTL` and `HL` do to the time to live, or hop limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HopChange {
    /// It becomes this.
    Set(u8),
    /// So many more, up to 255.
    Increase(u8),
    /// So many less, down to 0.
    Decrease(u8),
}

impl HopChange {
    /// The hop limit after the change (`ttl_tg` of the kernel's `xt_HL.c`).
    pub fn apply(self, hops: u8) -> u8 {
        match self {
            Self::Set(value) => value,
            Self::Increase(count) => hops.saturating_add(count),
            Self::Decrease(count) => hops.saturating_sub(count),
        }
    }
}

/// The type of service, or traffic class, under a mask. A match holds where `byte & mask` is the value; a target makes it
/// `(byte & !mask) ^ value` (the kernel's `xt_dscp.c` and `xt_DSCP.c`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tos {
    /// The bits.
    pub value: u8,
    /// Those that are meant.
    pub mask: u8,
}

impl Tos {
    /// A class of differentiated services: the upper six bits.
    pub const fn of_class(class: u8) -> Self {
        Self {
            value: class << 2,
            mask: 0xfc,
        }
    }

    /// Reads `0x2e` of `dscp`, `0x10/0x3f` of `tos`.
    fn parse(setting: &str, value: &str) -> Option<Self> {
        let number = |text: &str| u8::from_str_radix(text.strip_prefix("0x")?, 16).ok();
        match setting {
            "dscp" | "set-dscp" => Some(Self::of_class(number(value)?)),
            "tos" | "set-tos" => {
                let (value, mask) = value.split_once('/')?;
                Some(Self {
                    value: number(value)?,
                    mask: number(mask)?,
                })
            }
            _ => None,
        }
    }

    /// What a setting of `-m dscp` or `-m tos` asks, apart from its `!`.
    pub fn asked(setting: &str, value: &str) -> Option<Self> {
        ["dscp", "tos"]
            .contains(&setting)
            .then(|| Self::parse(setting, value))
            .flatten()
    }

    /// The match that asks this, with its setting: `dscp` where it asks for a class, else `tos`.
    pub fn as_match(self, negated: bool) -> Module {
        let Self { value, mask } = self;
        let (name, value) = match mask {
            0xfc => ("dscp", format!("0x{:02x}", value >> 2)),
            _ => ("tos", format!("0x{value:02x}/0x{mask:02x}")),
        };
        let value = value.into();
        Module {
            name,
            settings: vec![Setting {
                name,
                negated,
                value,
            }],
        }
    }
}

impl Module {
    /// What a `DSCP` or `TOS` target writes.
    pub fn written_tos(&self) -> Option<Tos> {
        let name = match self.name {
            "DSCP" => "set-dscp",
            "TOS" => "set-tos",
            _ => return None,
        };
        Tos::parse(name, &self.setting(name)?.value)
    }

    /// What a `TTL` or `HL` target does.
    pub fn hop_change(&self) -> Option<HopChange> {
        if !["TTL", "HL"].contains(&self.name) {
            return None;
        }
        let [change] = &self.settings[..] else {
            return None;
        };
        let count = change.value.parse().ok()?;
        Some(match change.name.split_once('-')?.1 {
            "set" => HopChange::Set(count),
            "inc" => HopChange::Increase(count),
            "dec" => HopChange::Decrease(count),
            _ => return None,
        })
    }

    /// Whether a `CT` or `NOTRACK` target keeps conntrack from the packet; `None` for other targets.
    pub fn untracks(&self) -> Option<bool> {
        match self.name {
            "NOTRACK" => Some(true),
            "CT" => Some(self.setting("notrack").is_some()),
            _ => None,
        }
    }
}
