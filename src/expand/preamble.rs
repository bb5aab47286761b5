//! Expands the preamble, the lines before the policy's rules. Its contents are decided here, their order in the template.

use super::context::{DhcpContext, IcmpContext, PreambleContext};
use super::hooks::denies;
use crate::net::{Family, Hook};
use crate::policy::{DefaultAction, Icmp, InvalidAction};
use crate::resolve::Plan;

/// The ICMPv6 types that must not be dropped (RFC 4890, section 4.4), without those that hosts do not need, such as
/// redirects (137).
const ICMPV6: [u8; 21] = [
    1, 2, 3, 4, 128, 129, 130, 131, 132, 133, 134, 135, 136, 141, 142, 143, 148, 149, 151, 152, 153,
];
/// The types that only hosts on the same link may send, which a hop limit of 255 proves (RFC 4861, RFC 3122, RFC 3971).
const FROM_THE_LINK: [u8; 8] = [133, 134, 135, 136, 141, 142, 148, 149];
const ICMP: [u8; 4] = [3, 8, 11, 12];
const ECHO: [u8; 3] = [8, 128, 129];
/// The errors: packet too big (2) is what path MTU discovery needs.
const ICMPV6_ERRORS: [u8; 4] = [1, 2, 3, 4];
const ICMP_ERRORS: [u8; 3] = [3, 11, 12];

/// Returns the preamble of a base chain. `accepts` is `true` if rules accept packets there.
pub fn of(plan: &Plan, family: Family, hook: Hook, accepts: bool) -> PreambleContext {
    let defaults = &plan.defaults[family];
    // If rules of other programs follow, fwc leaves INVALID packets to them, and also established connections if no rule of
    // fwc can have accepted one.
    let continues = defaults.actions[hook] == DefaultAction::Continue;
    let mut preamble = PreambleContext {
        loopback: match hook {
            Hook::Input => Some("-i"),
            Hook::Output => Some("-o"),
            Hook::Forward => None,
        }
        .filter(|_| defaults.loopback[hook]),
        established: defaults.established[hook] && (!continues || accepts),
        invalid: match defaults.invalid[hook] {
            InvalidAction::Drop => Some("DROP"),
            InvalidAction::Accept => Some("ACCEPT"),
            InvalidAction::Off => None,
        }
        .filter(|_| !continues),
        dhcp: dhcp(plan, family, hook),
        ..PreambleContext::default()
    };
    icmp(plan, family, hook, &mut preamble);
    preamble
}

fn icmp(plan: &Plan, family: Family, hook: Hook, preamble: &mut PreambleContext) {
    let with_echo = match plan.defaults[family].icmp[hook] {
        Icmp::None => return,
        _ if hook == Hook::Forward => {
            // With `established` these errors are accepted as RELATED already.
            if !preamble.established {
                errors(family, preamble);
            }
            return;
        }
        Icmp::All => {
            preamble.all_icmp = match family {
                Family::V4 => vec!["icmp", "igmp"],
                Family::V6 => vec!["ipv6-icmp"],
            };
            return;
        }
        Icmp::Essential => true,
        Icmp::EssentialNoPing => false,
    };
    let needed = hook == Hook::Input || denies(plan, family, hook);
    if !needed {
        return;
    }
    let types = |all: &[u8]| -> Vec<IcmpContext> {
        let wanted = all.iter().filter(|kind| with_echo || !ECHO.contains(kind));
        wanted
            .map(|kind| IcmpContext {
                kind: *kind,
                hop_limit: FROM_THE_LINK.contains(kind).then_some(255),
                related: false,
            })
            .collect()
    };
    match family {
        Family::V4 => {
            preamble.icmp = types(&ICMP);
            preamble.igmp = true;
        }
        Family::V6 => preamble.icmpv6 = types(&ICMPV6),
    }
}

fn errors(family: Family, preamble: &mut PreambleContext) {
    let related = |kind: &u8| IcmpContext {
        kind: *kind,
        hop_limit: None,
        related: true,
    };
    match family {
        Family::V4 => preamble.icmp = ICMP_ERRORS.iter().map(related).collect(),
        Family::V6 => preamble.icmpv6 = ICMPV6_ERRORS.iter().map(related).collect(),
    }
}

/// Returns the match for DHCP: answers in INPUT, and requests in OUTPUT if it denies. Conntrack does not relate a DHCP
/// answer to its broadcast request, so that it is a new connection.
fn dhcp(plan: &Plan, family: Family, hook: Hook) -> Option<DhcpContext> {
    let (client, server) = match family {
        Family::V4 => (68, 67),
        Family::V6 => (546, 547),
    };
    let answers = DhcpContext {
        // Relays and servers answer from global addresses too (RFC 8415, section 19.3); the client asks from a link-local
        // one.
        destination: (family == Family::V6).then_some("fe80::/10"),
        source_port: server,
        destination_port: client,
    };
    let questions = DhcpContext {
        destination: None,
        source_port: client,
        destination_port: server,
    };
    match hook {
        _ if !plan.defaults[family].dhcp_client[hook] => None,
        Hook::Input => Some(answers),
        Hook::Output if denies(plan, family, hook) => Some(questions),
        Hook::Output | Hook::Forward => None,
    }
}
