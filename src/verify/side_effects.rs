//! Effects on a packet beside its verdict, read from the policy and from the targets of rules.

use std::fmt;
use std::net::IpAddr;

use super::logging::{LogLine, is_log};
use crate::iptables::{MarkMask, Module, Rule, Target};
use crate::net::{Family, MarkMatch};
use crate::policy::{HopLimitChange, MangleChange, Proxy};

/// An effect on a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SideEffect {
    /// A change of `[[mangle]]`.
    Change(MangleChange),
    /// `notrack` of `[[raw]]`: connection tracking ignores the packet.
    NoTrack,
    /// A connection tracking helper of `[[raw]]`, by name.
    Helper(String),
    /// `antispoof`, or an entry of `[[raw]]` or `[[mangle]]` that drops.
    Drop,
    /// A log line of an entry.
    Log(LogLine),
    /// A target that no policy produces, as `iptables-save` prints it.
    Strange(String),
}

impl SideEffect {
    /// Returns `true` if the effect twice in a row is the same as once.
    pub fn is_idempotent(&self) -> bool {
        !matches!(
            self,
            Self::Change(MangleChange::HopLimit(
                HopLimitChange::Increase(_) | HopLimitChange::Decrease(_)
            )) | Self::Log(_)
                | Self::Strange(_)
        )
    }

    /// Removes repetitions that change nothing: several lines of one rule may give a packet the same effect.
    pub fn once(effects: impl IntoIterator<Item = Self>) -> Vec<Self> {
        let mut all: Vec<Self> = effects.into_iter().collect();
        all.dedup_by(|next, one| next == one && one.is_idempotent());
        all
    }

    /// Returns the effect of a rule; `None` if it leaves the packet as it is. Translations are compared by themselves.
    pub fn of_rule(rule: &Rule, family: Family) -> Option<Self> {
        if let Target::Nat(_) = rule.target {
            return None;
        }
        let line = LogLine::of_rule(rule, family).filter(|_| is_log(&rule.target));
        match line {
            Some(line) => Some(Self::Log(line)),
            None => Self::of_target(&rule.target),
        }
    }

    /// Returns the effect of a target; `None` if it leaves the packet as it is.
    pub fn of_target(target: &Target) -> Option<Self> {
        let strange = || {
            let text = target.to_text();
            Self::Strange(text.strip_prefix("-j ").unwrap_or(&text).to_owned())
        };
        Some(match target {
            Target::None | Target::Jump(_) | Target::Goto(_) | Target::Return | Target::Accept => {
                return None;
            }
            Target::Drop => Self::Drop,
            Target::Mark(MarkMask { value, mask }) => {
                Self::Change(MangleChange::SetMark(MarkMatch {
                    value: *value,
                    mask: *mask,
                }))
            }
            Target::Other(module) if module.name == "CT" => match module.settings.as_slice() {
                [one] if one.name == "notrack" => Self::NoTrack,
                [one] if one.name == "helper" => Self::Helper(one.value.to_string()),
                _ => strange(),
            },
            Target::Other(module) => change(module).map_or_else(strange, Self::Change),
            _ => strange(),
        })
    }
}

fn change(module: &Module) -> Option<MangleChange> {
    let setting = |name: &str| module.setting(name).map(|one| &*one.value);
    let hex = |text: &str| u32::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    Some(match module.name {
        "TCPMSS" => MangleChange::ClampMss(match setting("set-mss") {
            Some(size) => Some(size.parse().ok()?),
            None => setting("clamp-mss-to-pmtu").map(|_| None)?,
        }),
        "CONNMARK" => {
            let mask = hex(setting("nfmask")?)?;
            if hex(setting("ctmask")?)? != mask {
                return None;
            }
            match setting("save-mark") {
                Some(_) => MangleChange::SaveMark(mask),
                None => MangleChange::RestoreMark(mask),
            }
        }
        "DSCP" => MangleChange::Dscp(hex(setting("set-dscp")?)?.try_into().ok()?),
        "TTL" | "HL" => {
            let count = |word: &str| {
                let name = format!("{}-{word}", module.name.to_ascii_lowercase());
                setting(&name)?.parse().ok()
            };
            MangleChange::HopLimit(match (count("set"), count("inc"), count("dec")) {
                (Some(count), ..) => HopLimitChange::Set(count),
                (_, Some(count), _) => HopLimitChange::Increase(count),
                (.., Some(count)) => HopLimitChange::Decrease(count),
                _ => return None,
            })
        }
        "CLASSIFY" => {
            let (major, minor) = setting("set-class")?.split_once(':')?;
            let number = |text: &str| u16::from_str_radix(text, 16).ok();
            MangleChange::Classify(number(major)?, number(minor)?)
        }
        "TPROXY" => {
            let address: IpAddr = setting("on-ip")?.parse().ok()?;
            let (value, mask) = setting("tproxy-mark")?.split_once('/')?;
            let (value, mask) = (hex(value)?, hex(mask)?);
            MangleChange::Proxy(Proxy {
                port: setting("on-port")?.parse().ok()?,
                address: Some(address).filter(|address| !address.is_unspecified()),
                mark: Some(MarkMatch { value, mask }).filter(|_| (value, mask) != (0, 0)),
            })
        }
        "CHECKSUM" => setting("checksum-fill").map(|_| MangleChange::Checksum)?,
        _ => return None,
    })
}

impl fmt::Display for SideEffect {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Change(change) => write!(out, "{}", words(*change)),
            Self::NoTrack => out.write_str("do not track"),
            Self::Helper(name) => write!(out, "assign the helper {name}"),
            Self::Drop => out.write_str("drop"),
            Self::Log(line) => write!(out, "log with the prefix `{}`", line.prefix),
            Self::Strange(text) => out.write_str(text),
        }
    }
}

fn words(change: MangleChange) -> String {
    match change {
        MangleChange::ClampMss(None) => "clamp the segment size to the path".to_owned(),
        MangleChange::ClampMss(Some(size)) => format!("clamp the segment size to {size}"),
        MangleChange::SetMark(mark) => format!("set the mark {mark}"),
        MangleChange::SaveMark(mask) => format!("save the mark under {mask:#x}"),
        MangleChange::RestoreMark(mask) => format!("restore the mark under {mask:#x}"),
        MangleChange::Dscp(class) => format!("set the DSCP {class}"),
        MangleChange::HopLimit(HopLimitChange::Set(count)) => format!("set the hop limit {count}"),
        MangleChange::HopLimit(HopLimitChange::Increase(count)) => {
            format!("increase the hop limit by {count}")
        }
        MangleChange::HopLimit(HopLimitChange::Decrease(count)) => {
            format!("decrease the hop limit by {count}")
        }
        MangleChange::Classify(major, minor) => format!("classify as {major:x}:{minor:x}"),
        MangleChange::Proxy(proxy) => format!("hand to the proxy at port {}", proxy.port),
        MangleChange::Checksum => "fill the checksum".to_owned(),
        MangleChange::Drop => "drop".to_owned(),
    }
}
