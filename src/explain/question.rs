//! The packets that `fwc explain` is asked about.

use std::collections::BTreeSet;

use crate::analysis::{GaveUp, HostSetting, Set, Space};
use crate::net::{Family, Hook, InterfacePattern, PortRange, State};
use crate::resolve::{Endpoint, Plan, PlannedRule};
use crate::verify;

/// The packets that a question is about. A property that is not set may have any value.
#[derive(Clone, Debug)]
pub struct Question {
    /// The keys that rules have too (`from`, `source`, `service`, ...), resolved. `from` and `to` determine the hooks.
    pub packets: PlannedRule,
    /// `true` for packets that arrive with any address of this host as destination (`--destination host`).
    pub for_this_host: bool,
    /// The hooks, in the order of [`Hook::ALL`].
    pub hooks: Vec<Hook>,
    /// The incoming device (`--in`).
    pub in_device: Option<InterfacePattern>,
    /// The outgoing device (`--out`).
    pub out_device: Option<InterfacePattern>,
    /// The source ports (`--source-port`); the service may restrict them further.
    pub source_port: Option<PortRange>,
    /// The connection tracking states.
    pub states: AskedStates,
}

/// The connection tracking states of a question (`--state`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AskedStates {
    /// No `--state`: NEW, or any state if no packet of the question can open a connection.
    Usual,
    /// Every state.
    Any,
    /// These states only.
    These(BTreeSet<State>),
}

/// An error in the options of a question.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuestionError {
    /// `--hook` is not a hook of `--from` and `--to`.
    #[error(
        "--from and --to describe no packets in {0}: `--to host` means INPUT, `--from host` means OUTPUT, all other pairs mean FORWARD"
    )]
    Hook(Hook),
    /// `--in` for packets of OUTPUT.
    #[error("packets from this host have no incoming device: remove --in, or ask about FORWARD")]
    NoInDevice,
    /// `--out` for packets of INPUT.
    #[error(
        "packets to this host have no outgoing device: remove --out, or ask about FORWARD with `--to any` or `--hook forward`"
    )]
    NoOutDevice,
}

/// The hook and devices of the command line, as the user wrote them.
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
    /// Returns the hooks of a question and fills in its `from` and `to`.
    ///
    /// Without `from`, `to` and `--hook` the devices determine the hook: FORWARD if both are given, OUTPUT if only `--out` is,
    /// otherwise INPUT. INPUT is also what a rule without `from` and `to` means.
    ///
    /// # Errors
    ///
    /// If no hook is left that has all of `from`, `to`, the hook and the devices.
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

/// The packet sets of a question at one hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AskedPackets {
    /// The packets as they arrive: real packets that fit everything but `to` and `--out`.
    pub arriving: Set,
    /// The packets that fit `to` and `--out`, as the filter table sees them, that is after DNAT.
    pub ending: Set,
    /// All real packets at the hook, whether they fit or not; without those on `lo` unless `arriving` is on `lo`.
    pub possible: Set,
    /// The setting that a host needs for such packets to occur; `None` if they occur on every host.
    pub only_where: Option<HostSetting>,
    /// `true` if the question names no state and none of its packets can open a connection.
    pub never_new: bool,
}

impl Question {
    /// Returns `true` if the question includes packets of a family.
    pub fn has_family(&self, family: Family) -> bool {
        self.packets.scope.is_none_or(|scope| scope.has(family))
    }

    /// Returns the packet sets at a hook.
    ///
    /// Source, destination and service are those of the packet when it arrives, before any translation; `to` and `--out`
    /// apply after DNAT, because only then does the kernel choose the route.
    ///
    /// # Errors
    ///
    /// If the packet sets become too large.
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
        // Packets of this host to itself are left out unless the question has no others.
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
