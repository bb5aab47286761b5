//! Helpers of connection tracking, such as `ftp`, in `[[raw]]` and in services.

use crate::diag::{Code, Diagnostic, Sink, did_you_mean};
use crate::net::{Family, Protocol};
use crate::policy::keys::{Key, Shape};
use crate::policy::reader::CheckedTable;
use crate::source::Located;

/// A conntrack helper: a kernel module that reads a protocol to learn which further connections the two sides agree on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Helper {
    /// The name in the kernel: `ftp`, or `ftp-2121` for a copy on another port.
    name: String,
    kind: usize,
}

/// The key `helper` of services and of raw entries.
pub(super) const HELPER: Key = Key::new(
    "helper",
    Shape::Text(LONGEST as u32),
    "A helper of connection tracking, which reads along: what the two sides agree on is RELATED then.",
)
.example("'ftp'");

/// A helper that the kernel has: its protocols, and whether it exists for IPv6 (`nf_conntrack_*.c` of Linux 6.1).
struct Known {
    name: &'static str,
    protocols: &'static [Protocol],
    in_v6: bool,
}

const fn known(name: &'static str, protocols: &'static [Protocol], in_v6: bool) -> Known {
    Known {
        name,
        protocols,
        in_v6,
    }
}

const TCP: &[Protocol] = &[Protocol::TCP];
const UDP: &[Protocol] = &[Protocol::UDP];
const BOTH: &[Protocol] = &[Protocol::TCP, Protocol::UDP];

const KNOWN: [Known; 11] = [
    known("amanda", UDP, true),
    known("ftp", TCP, true),
    known("irc", TCP, false),
    known("netbios-ns", UDP, false),
    known("pptp", TCP, false),
    known("Q.931", TCP, true),
    known("RAS", UDP, true),
    known("sane", TCP, true),
    known("sip", BOTH, true),
    known("snmp", UDP, false),
    known("tftp", UDP, true),
];

/// The longest name: `NF_CT_HELPER_NAME_LEN` without the final zero.
const LONGEST: usize = 15;

impl Helper {
    /// Parses the name of a helper, or of its copy for another port (`ftp-2121`).
    pub fn parse(name: &str) -> Option<Self> {
        let of = |name: &str| KNOWN.iter().position(|known| known.name == name);
        let kind = of(name).or_else(|| {
            let (before, port) = name.rsplit_once('-')?;
            let plain = !port.starts_with('0') && port.bytes().all(|b| b.is_ascii_digit());
            let port = port.parse::<u16>().ok().filter(|_| plain);
            port.and_then(|_| of(before))
        })?;
        (name.len() <= LONGEST).then(|| Self {
            name: name.to_owned(),
            kind,
        })
    }

    /// Returns the name in the kernel.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns `true` if the helper reads packets of a protocol.
    pub fn reads(&self, protocol: Protocol) -> bool {
        KNOWN[self.kind].protocols.contains(&protocol)
    }

    /// Returns the helper's protocols in words: `tcp and udp`.
    pub fn protocols(&self) -> String {
        let names: Vec<_> = KNOWN[self.kind]
            .protocols
            .iter()
            .map(ToString::to_string)
            .collect();
        names.join(" and ")
    }

    /// Returns `true` if the kernel has the helper for a family.
    pub fn exists(&self, family: Family) -> bool {
        family == Family::V4 || KNOWN[self.kind].in_v6
    }
}

/// Reads `helper` of a service or of a raw entry.
pub(super) fn read_helper(table: CheckedTable<'_>, sink: &mut Sink) -> Option<Located<Helper>> {
    let text = table.text("helper", sink)?;
    let helper = Helper::parse(text.value);
    if helper.is_none() {
        let names = || KNOWN.iter().map(|known| known.name);
        let list: Vec<_> = names().map(|name| format!("`{name}`")).collect();
        let message = format!(
            "no helper of the kernel is called `{}`",
            text.value.escape_debug()
        );
        sink.report(
            Diagnostic::error(Code::BadValue, text.span, message)
                .suggest(did_you_mean(text.value, names()))
                .help(format!(
                    "it is one of {}; `ftp-2121` is the one that the kernel has for that port",
                    list.join(", ")
                )),
        );
    }
    Some(Located::new(helper?, text.span))
}
