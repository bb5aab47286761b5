//! Which packets are asked about.

use std::collections::BTreeSet;

use crate::analysis::{GaveUp, HostSetting, Set, Space};
use crate::net::{Family, Hook, InterfacePattern, PortRange, State};
use crate::resolve::{Endpoint, Plan, PlannedRule};
use crate::verify;

/// Packets that somebody asks about. What is not said is free.
#[derive(Clone, Debug)]
pub struct Question {
    /// The keys that rules have, resolved. `from` and `to` say at which hooks the packets are.
    pub packets: PlannedRule,
    /// They arrive for an address of this host, whichever it is: `--destination host`.
    pub for_this_host: bool,
    /// The hooks, in the order of [`Hook::ALL`].
    pub hooks: Vec<Hook>,
    /// The device that they come in by.
    pub in_device: Option<InterfacePattern>,
    /// The device that they leave by.
    pub out_device: Option<InterfacePattern>,
    /// Their source ports, besides those of the service.
    pub source_port: Option<PortRange>,
    /// Their connections' states.
    pub states: AskedStates,
}

/// Which states are asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AskedStates {
    /// Nothing was said: new connections; where no packet of the kind can open one, any.
    Usual,
    /// Every state.
    Any,
    /// These.
    These(BTreeSet<State>),
}

/// Why there is no question.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuestionError {
    /// The hook is none of those that from and to mean.
    #[error(
        "--from and --to are about no packet in {0}: to `host` is INPUT, from `host` is OUTPUT, all others are FORWARD"
    )]
    Hook(Hook),
    /// No packet at the hooks came in by a device.
    #[error("a packet from this host came in by no device: leave --in out, or ask about FORWARD")]
    NoInDevice,
    /// No packet at the hooks leaves by a device.
    #[error(
        "a packet to this host leaves by no device: leave --out out, or ask about FORWARD with `--to any` or --hook forward"
    )]
    NoOutDevice,
}

/// Devices and hook as they were said.
#[derive(Clone, Debug, Default)]
pub struct AskedHook {
    /// `--hook`
    pub hook: Option<Hook>,
    /// `--in`
    pub in_device: Option<InterfacePattern>,
    /// `--out`
    pub out_device: Option<InterfacePattern>,
}

impl AskedHook {
    /// The hooks of a question, and `from` and `to` filled in. Where neither is said the devices say it: both FORWARD, the
    /// one to leave by OUTPUT, otherwise a packet is to this host, as in rules.
    pub fn hooks(&self, packets: &mut PlannedRule) -> Result<Vec<Hook>, QuestionError> {
        let (comes, leaves) = (self.in_device.is_some(), self.out_device.is_some());
        if packets.from.is_none() && packets.to.is_none() {
            let hook = self.hook.unwrap_or(match (comes, leaves) {
                (true, true) => Hook::Forward,
                (false, true) => Hook::Output,
                (_, false) => Hook::Input,
            });
            let (from, to) = match hook {
                Hook::Input => (Endpoint::Any, Endpoint::Host),
                Hook::Forward => (Endpoint::Any, Endpoint::Any),
                Hook::Output => (Endpoint::Host, Endpoint::Any),
            };
            packets.from = Some(vec![from]);
            packets.to = Some(vec![to]);
        }
        let forwards = leaves || self.hook == Some(Hook::Forward);
        if packets.to.is_none() && forwards {
            packets.to = Some(vec![Endpoint::Any]);
        }
        let meant = verify::hooks(packets);
        let mut hooks = meant.clone();
        if let Some(hook) = self.hook {
            hooks.retain(|other| *other == hook);
            if hooks.is_empty() {
                return Err(QuestionError::Hook(hook));
            }
        }
        if comes {
            hooks.retain(|hook| *hook != Hook::Output);
            if hooks.is_empty() {
                return Err(QuestionError::NoInDevice);
            }
        }
        if leaves {
            hooks.retain(|hook| *hook != Hook::Input);
            if hooks.is_empty() {
                return Err(QuestionError::NoOutDevice);
            }
        }
        Ok(hooks)
    }
}

/// The packets of a question at a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AskedPackets {
    /// What they are when they arrive: packets that a kernel can show.
    pub arriving: Set,
    /// What they are when they come to the filter table: where they go.
    pub ending: Set,
    /// Every packet that a kernel can show and that is spoken of.
    pub possible: Set,
    /// The setting that a host needs to have such packets; `None` if it needs none.
    pub only_where: Option<HostSetting>,
    /// Nothing was said of the state, and no such packet opens a connection.
    pub never_new: bool,
}

impl Question {
    /// Whether the question may be about packets of a family.
    pub fn has_family(&self, family: Family) -> bool {
        self.packets.scope.is_none_or(|scope| scope.has(family))
    }

    /// The packets at a hook. Source, destination and service are those of a packet that arrives; `to` is where it ends up.
    pub fn asked(&self, plan: &Plan, space: &Space, hook: Hook) -> Result<AskedPackets, GaveUp> {
        let valid = space.valid(hook.into())?;
        let mut all = vec![verify::arriving(plan, &self.packets, space, hook)?];
        if self.for_this_host {
            all.push(verify::for_this_host(space)?);
        }
        if let Some(device) = &self.in_device {
            all.push(space.in_device(device.as_str())?);
        }
        if let Some(ports) = self.source_port {
            all.push(space.source_port(ports.first, ports.last)?);
        }
        let mut ending = verify::ending(plan, &self.packets, space, hook)?;
        if let Some(device) = &self.out_device {
            ending = space.and(ending, space.out_device(device.as_str())?)?;
        }
        let meant = space.every(all)?;
        let mut packets = space.and(meant, valid)?;
        let mut possible = valid;
        let mut only_where = None;
        if packets == space.none() {
            only_where = space.only_where(hook.into(), meant)?;
            if let Some(setting) = only_where {
                possible = space.valid_where(hook.into(), setting)?;
                packets = space.and(meant, possible)?;
            }
        }
        // What this host sends to itself is a question of its own.
        let looped = space.or(space.in_device("lo")?, space.out_device("lo")?)?;
        let others = space.minus(packets, looped)?;
        let names_lo = |device: &InterfacePattern| device.as_str() == "lo";
        if others != space.none() && !self.out_device.as_ref().is_some_and(names_lo) {
            packets = others;
            possible = space.minus(possible, looped)?;
        }
        let states = match &self.states {
            AskedStates::Any => space.all(),
            AskedStates::Usual => space.states(&[State::New])?,
            AskedStates::These(states) => {
                let states: Vec<_> = states.iter().copied().collect();
                space.states(&states)?
            }
        };
        let in_state = space.and(packets, states)?;
        let never_new = self.states == AskedStates::Usual
            && in_state == space.none()
            && packets != space.none();
        Ok(AskedPackets {
            arriving: if never_new { packets } else { in_state },
            ending,
            possible,
            only_where,
            never_new,
        })
    }
}
