//! What targets write into the IP header, and what matches ask of it: the hop limit and the type of service.

use super::model::{Module, ModuleOption, Ruleset, Target};

/// A change of the time to live (`TTL`) or the hop limit (`HL`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HopChange {
    /// Set it to this value.
    Set(u8),
    /// Add this number, up to 255.
    Increase(u8),
    /// Subtract this number, down to 0.
    Decrease(u8),
}

impl HopChange {
    /// Returns the hop limit after the change (`ttl_tg` of the kernel's `xt_HL.c`).
    pub fn apply(self, hops: u8) -> u8 {
        match self {
            Self::Set(value) => value,
            Self::Increase(count) => hops.saturating_add(count),
            Self::Decrease(count) => hops.saturating_sub(count),
        }
    }
}

/// A value and a mask of the type of service (IPv4) or traffic class (IPv6). A match holds where `byte & mask == value`; a
/// target makes the byte `(byte & !mask) ^ value` (the kernel's `xt_dscp.c` and `xt_DSCP.c`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tos {
    /// The value.
    pub value: u8,
    /// The bits that are compared or changed.
    pub mask: u8,
}

impl Tos {
    /// Returns a class of differentiated services (DSCP), which is the upper six bits.
    pub const fn of_class(class: u8) -> Self {
        Self {
            value: class << 2,
            mask: 0xfc,
        }
    }

    /// Parses the value of a setting: `0x2e` of `dscp`, `0x10/0x3f` of `tos`.
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

    /// Returns what a setting of `-m dscp`, `-m tos` or `-m ecn` asks, apart from its `!`.
    pub fn asked(module: &str, setting: &str, value: &str) -> Option<Self> {
        match (module, setting) {
            ("dscp", "dscp") | ("tos", "tos") => Self::parse(setting, value),
            // Of both families it is the lowest two bits (`match_ip` and `match_ipv6` of xt_ecn.c).
            ("ecn", "ecn-ip-ect") => Some(Self {
                value: value.parse().ok()?,
                mask: 0x03,
            }),
            _ => None,
        }
    }

    /// Returns the match that asks this, as the module with its setting: `dscp` for a class, else `tos`.
    pub fn as_match(self, negated: bool) -> Module {
        let Self { value, mask } = self;
        let (name, value) = match mask {
            0xfc => ("dscp", format!("0x{:02x}", value >> 2)),
            _ => ("tos", format!("0x{value:02x}/0x{mask:02x}")),
        };
        let value = value.into();
        Module {
            name,
            settings: vec![ModuleOption {
                name,
                negated,
                value,
            }],
        }
    }
}

impl Ruleset {
    /// Returns `true` if a rule of PREROUTING, or of a chain that it leads to, may leave a hop limit of 1 or 0. The kernel does not
    /// forward such a packet (`ip_forward`, `ip6_forward`): it answers "time exceeded".
    pub fn may_end_hops(&self) -> bool {
        let mut rules = self.tables.iter().flat_map(|table| {
            let chains = table.reached_from("PREROUTING").into_iter();
            chains.flat_map(move |chain| &table.chains[chain].rules)
        });
        rules.any(|rule| {
            let change = match &rule.target {
                Target::Other(module) => module.hop_change(),
                _ => None,
            };
            matches!(
                change,
                Some(HopChange::Set(0 | 1) | HopChange::Decrease(1..))
            )
        })
    }
}

impl Module {
    /// Returns what a `DSCP` or `TOS` target writes; `None` for another target.
    pub fn written_tos(&self) -> Option<Tos> {
        let name = match self.name {
            "DSCP" => "set-dscp",
            "TOS" => "set-tos",
            _ => return None,
        };
        Tos::parse(name, &self.setting(name)?.value)
    }

    /// Returns how a `TTL` or `HL` target changes the hop limit; `None` for another target.
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

    /// Returns whether a `CT` or `NOTRACK` target makes the packet untracked; `None` for another target.
    pub fn untracks(&self) -> Option<bool> {
        match self.name {
            "NOTRACK" => Some(true),
            "CT" => Some(self.setting("notrack").is_some()),
            _ => None,
        }
    }
}
