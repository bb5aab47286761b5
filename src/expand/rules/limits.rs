//! The limits of a rule: rates, windows and numbers of connections.

use std::net::IpAddr;

use super::InHook;
use crate::expand::context::{ConnectionContext, LimitContext, WindowContext};
use crate::expand::own_chains::short_hash;
use crate::net::{Family, address_of};
use crate::policy::{HostPrefix, LimitPer, LimitRate, LimitWindow, Per};
use crate::resolve::{Connections, Limit};

impl InHook<'_> {
    pub(super) fn connections(&self, connections: &Connections) -> ConnectionContext {
        ConnectionContext {
            above: connections.max,
            mask: match connections.per {
                Per::Rule => 0,
                Per::Source => self.source_bits(),
            },
        }
    }

    pub(super) fn limit(&self, limit: &Limit, chain: &str) -> LimitContext {
        let (rate, burst, expire) = match limit.rate {
            // `limit` has a bucket in each rule: what rules share is a table of `hashlimit`, also with one bucket.
            LimitRate::Packets(rate, burst)
                if limit.per == LimitPer::default() && limit.shared.is_none() =>
            {
                return LimitContext::global(rate, burst);
            }
            LimitRate::Packets(rate, burst) => {
                let expire = rate.hashlimit_expiry(burst);
                (rate.of_hashlimit(), Some(burst), expire)
            }
            // A bucket of bytes is full after a second, and iptables keeps it for 15.
            LimitRate::Bytes(rate) => (rate.of_hashlimit(), None, None),
            LimitRate::Window(window) => return self.window(limit, window, chain),
        };
        let source = limit
            .per
            .source
            .map(|one| self.bits(one, self.source_bits()));
        let whole = self.family.bits();
        let destination = limit.per.destination.map(|one| self.bits(one, whole));
        // In the order of `iptables-save`.
        let parts = [
            source.map(|_| "srcip"),
            destination.map(|_| "dstip"),
            limit.per.destination_port.then_some("dstport"),
        ];
        let mode = parts.into_iter().flatten().collect::<Vec<_>>().join(",");
        // The kernel keeps the settings of a hashlimit table as long as the table lives, even if a rule with the same name
        // has other ones: another rate or expiry needs another name.
        let mut identity = format!("{}/{rate}", self.counted_for(limit, chain));
        for number in [burst, source.map(u32::from)].into_iter().flatten() {
            identity += &format!("/{number}");
        }
        if mode != "srcip" {
            identity += &format!("/{mode}/{}", destination.unwrap_or_default());
        }
        if let Some(expire) = expire {
            identity += &format!("/{expire}");
        }
        LimitContext {
            rate: Some(rate),
            burst,
            table: Some(table_name("fwc", limit, identity)),
            mode: Some(mode).filter(|mode| !mode.is_empty()),
            expire,
            mask: source.filter(|bits| *bits != whole),
            destination_mask: destination.filter(|bits| *bits != whole),
            window: None,
        }
    }

    /// Returns the limit of a sliding window.
    ///
    /// A list of `recent` belongs to both families, and its first rule sets the mask of all: each family needs a list of
    /// its own.
    fn window(&self, limit: &Limit, window: LimitWindow, chain: &str) -> LimitContext {
        let (side, bits) = match (limit.per.source, limit.per.destination) {
            (None, Some(prefix)) => ("rdest", self.bits(prefix, self.family.bits())),
            (source, _) => (
                "rsource",
                self.bits(source.unwrap_or(HostPrefix::Host), self.source_bits()),
            ),
        };
        let LimitWindow { hits, within } = window;
        let identity = format!("{}/window/{side}/{bits}", self.counted_for(limit, chain));
        let prefix = match self.family {
            Family::V4 => "fwc4",
            Family::V6 => "fwc6",
        };
        LimitContext {
            rate: None,
            burst: None,
            table: None,
            mode: None,
            expire: None,
            mask: None,
            destination_mask: None,
            window: Some(WindowContext {
                hits,
                seconds: within,
                table: table_name(prefix, limit, identity),
                mask: mask(self.family, bits).to_string(),
                side,
            }),
        }
    }

    /// Returns what the table of a limit counts for: the rule in its chain, or all rules that share the limit.
    fn counted_for(&self, limit: &Limit, chain: &str) -> String {
        match &limit.shared {
            Some(name) => format!("limit {name}"),
            None => format!("{}/{}/{chain}", self.rule.label, self.hook),
        }
    }

    /// Returns the prefix length that is written for this family, or that of one host.
    fn bits(&self, prefix: HostPrefix, host: u8) -> u8 {
        match prefix {
            HostPrefix::Host => host,
            HostPrefix::Only(bits) => bits,
            HostPrefix::Each(bits) => bits[self.family],
        }
    }

    /// Returns the prefix length that stands for one host: an IPv4 address, or a /64 of IPv6, in which a host chooses its
    /// addresses.
    fn source_bits(&self) -> u8 {
        match self.family {
            Family::V4 => 32,
            Family::V6 => 64,
        }
    }
}

/// Returns the name of the table of a limit. It shows the limit's own name, if rules share it.
fn table_name(prefix: &str, limit: &Limit, identity: String) -> String {
    let hash = short_hash(identity);
    match &limit.shared {
        Some(name) => format!("{prefix}-{name}-{hash}"),
        None => format!("{prefix}-{hash}"),
    }
}

/// Returns the mask of a prefix, as an address.
fn mask(family: Family, bits: u8) -> IpAddr {
    let all = family.last_address();
    address_of(family, all - all.checked_shr(bits.into()).unwrap_or(0))
}
