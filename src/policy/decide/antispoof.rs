//! Decides `antispoof`, which comes before everything else, for arriving packets.

use super::{Circumstance, Evaluation, addresses, is_closed, places};
use crate::net::Hook;

impl Evaluation<'_> {
    /// Returns `true` if the source belongs to the networks of another interface. If networks overlap, the longest prefix
    /// decides.
    ///
    /// Packets from an IPsec tunnel are let through: they arrive by the device of the tunnel's packets, with a source
    /// from behind it.
    pub(super) fn is_spoofed(&self) -> bool {
        let written = self.default_key(|keys| keys.antispoof.as_ref());
        let on = written.is_some_and(|on| *on) && !is_closed(self.policy, self.packet.family);
        let Some(device) = self.packet.in_device.as_deref() else {
            return false;
        };
        if !on || self.packet.hook == Hook::Output || device == "lo" {
            return false;
        }
        // A longer prefix has fewer addresses.
        let mut nearest: Option<u128> = None;
        let mut is_behind = false;
        for interface in self.policy.interfaces.iter() {
            for network in &interface.value.networks {
                if !addresses::within(&network.value, self.packet.source) {
                    continue;
                }
                let size = network.value.last - network.value.first;
                let here = interface.value.devices.iter();
                let here = here.map(|pattern| &pattern.value);
                let here = here
                    .into_iter()
                    .any(|pattern| places::is_named(pattern, device));
                if nearest.is_none_or(|nearest| size < nearest) {
                    (nearest, is_behind) = (Some(size), here);
                } else if nearest == Some(size) {
                    is_behind |= here;
                }
            }
        }
        nearest.is_some() && !is_behind && !(self.holds)(Circumstance::FromIpsec)
    }
}
