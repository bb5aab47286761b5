//! The stable codes.

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $text:literal,)*) => {
        /// What kind of finding it is. The text of a code never changes once it was released.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code {
            $($(#[doc = $doc])+ $variant,)*
        }

        impl Code {
            /// All codes, in the order of `docs/reference/errors/README.md`.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The code as it is printed.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }

            /// Its page of the documentation, in Markdown: what it means, a wrong policy and a right one.
            pub const fn page(self) -> &'static str {
                match self {
                    $(Self::$variant => include_str!(concat!("../../docs/reference/errors/", $text, ".md")),)*
                }
            }
        }
    };
}

codes! {
    /// The file is not TOML.
    Syntax = "syntax",
    /// A file cannot be read.
    Unreadable = "unreadable",
    /// A policy file can be written by others than root and its owner.
    UnsafeFile = "unsafe-file",
    /// A program of a hook that this machine does not have, or that others can change.
    HookProgram = "hook-program",
    /// The policy does not say its version.
    VersionMissing = "version-missing",
    /// The policy's version is not known.
    VersionUnknown = "version-unknown",
    /// A key that the language does not have.
    UnknownKey = "unknown-key",
    /// A value of the wrong type.
    BadType = "bad-type",
    /// A value that is none of those allowed.
    BadValue = "bad-value",
    /// A key that is needed and not there.
    MissingKey = "missing-key",
    /// Keys that exclude each other.
    Conflict = "conflict",
    /// A list without elements.
    EmptyList = "empty-list",
    /// A name with characters that names do not have.
    BadName = "bad-name",
    /// `any` or `host` as a name of one's own.
    ReservedName = "reserved-name",
    /// One name for two things.
    NameUsedTwice = "name-used-twice",
    /// Two rules with the same name.
    DuplicateRuleName = "duplicate-rule-name",
    /// Text with characters that must not reach iptables or a terminal.
    BadText = "bad-text",
    /// A text that is longer than the kernel keeps.
    TooLong = "too-long",
    /// A log prefix that is longer than the target keeps.
    LogPrefixTooLong = "log-prefix-too-long",
    /// A name that nobody defined.
    UnknownName = "unknown-name",
    /// A service that nobody defined.
    UnknownService = "unknown-service",
    /// A log class that nobody defined.
    UnknownLogClass = "unknown-log-class",
    /// Something that belongs under another key.
    WrongKey = "wrong-key",
    /// A host name; nothing is resolved.
    HostName = "host-name",
    /// Not an address, a prefix or a range.
    BadAddress = "bad-address",
    /// A prefix length that the family does not have, or a netmask.
    BadPrefix = "bad-prefix",
    /// A prefix with host bits set.
    HostBitsSet = "host-bits-set",
    /// An IPv4 address in IPv6 clothes.
    Ipv4Mapped = "ipv4-mapped",
    /// A range that ends before it begins.
    ReversedRange = "reversed-range",
    /// A range from one family to the other.
    MixedFamilies = "mixed-families",
    /// A port that does not exist.
    BadPort = "bad-port",
    /// A service literal that cannot be read.
    BadService = "bad-service",
    /// A protocol that does not exist.
    BadProtocol = "bad-protocol",
    /// `protocol = "icmp"`: its types are meant.
    ProtocolIcmp = "protocol-icmp",
    /// An ICMP type that does not exist.
    BadIcmpType = "bad-icmp-type",
    /// A device name that the kernel does not take.
    BadDevice = "bad-device",
    /// Two interfaces that share a device.
    DevicesOverlap = "devices-overlap",
    /// A rate that cannot be read.
    BadRate = "bad-rate",
    /// A schedule that cannot be read.
    BadSchedule = "bad-schedule",
    /// A date that the kernel cannot count to.
    BadExpiry = "bad-expiry",
    /// A rule past its date.
    Expired = "expired",
    /// A rule that ends within two weeks.
    ExpiresSoon = "expires-soon",
    /// A rule that denies and ends: something opens then.
    ExpiringDeny = "expiring-deny",
    /// A user or group that nobody defined.
    UnknownUser = "unknown-user",
    /// `user` or `group` on a rule that is not from this host.
    UserNotFromHost = "user-not-from-host",
    /// A limit that does not fit the rule's action.
    LimitAction = "limit-action",
    /// `ipset` on a rule that does not say its family.
    IpsetScope = "ipset-scope",
    /// A mark that cannot be read, or that no packet can have.
    BadMark = "bad-mark",
    /// A MAC address that cannot be read.
    BadMac = "bad-mac",
    /// TCP flags that cannot be read, or that no packet can have.
    BadTcpFlags = "bad-tcp-flags",
    /// `mac` on a rule from this host.
    MacFromHost = "mac-from-host",
    /// `tcp-flags` on a rule for other protocols.
    TcpFlagsNotTcp = "tcp-flags-not-tcp",
    /// A mangle entry for packets that nothing can do this to.
    MangleChain = "mangle-chain",
    /// A mangle entry for protocols that nothing can do this to.
    MangleProtocol = "mangle-protocol",
    /// Untracked packets of which nobody knows by which device they leave.
    NotrackPlace = "notrack-place",
    /// A rule for new connections, and packets of none.
    NotrackState = "notrack-state",
    /// Answers that anyone could send.
    NotrackAnswers = "notrack-answers",
    /// A helper at ports of a protocol that it does not read.
    HelperProtocol = "helper-protocol",
    /// An option in a custom rule that says where it stands.
    CustomOption = "custom-option",
    /// A custom rule that iptables would refuse.
    CustomRule = "custom-rule",
    /// A match of iptables for what a key of the policy says.
    MatchHasKey = "match-has-key",
    /// A custom rule after which the policy's own are not asked, and its default neither.
    CustomReturn = "custom-return",
    /// A chain that a custom rule cannot stand in, or that nothing leads to.
    CustomChain = "custom-chain",
    /// Definitions that refer to themselves.
    DefinitionLoop = "definition-loop",
    /// Files that include each other in a circle.
    IncludeLoop = "include-loop",
    /// An include that names no file.
    IncludeNothing = "include-nothing",
    /// More than may be read or made: a pattern over too many files, a rule of too many lines.
    TooLarge = "too-large",
    /// A rule from this host to this host only.
    HostToHost = "host-to-host",
    /// A rule that accepts every packet because no key chooses some.
    AcceptsEverything = "accepts-everything",
    /// A rule that denies every packet because no key chooses some.
    DeniesEverything = "denies-everything",
    /// A rule that no packet can match.
    MatchesNothing = "matches-nothing",
    /// A negation that leaves a whole family open.
    NegationOneFamily = "negation-one-family",
    /// A key that goes with the other mode of `[ownership]`.
    OwnershipMode = "ownership-mode",
    /// A default of forward in shared mode that no packet meets.
    ForwardNoDevices = "forward-no-devices",
    /// `tcp-reset` for something that may not be tcp.
    TcpResetNotTcp = "tcp-reset-not-tcp",
    /// `icmp = "none"` and no rule for neighbour discovery.
    IcmpNone = "icmp-none",
    /// `antispoof` without an interface that has networks.
    AntispoofNoNetworks = "antispoof-no-networks",
    /// `from` of what translates sources, and no networks are known of it.
    NatSourceUnknown = "nat-source-unknown",
    /// A new port, and no service that has ports.
    NatPortWithoutService = "nat-port-without-service",
    /// A range or prefix in the place of one of another size.
    NatSizesDiffer = "nat-sizes-differ",
    /// A rule for both families whose addresses exist in one only.
    OneFamily = "one-family",
    /// An interface that is the loopback device.
    InterfaceLo = "interface-lo",
    /// A rule whose state was decided by the preamble already.
    StateBelowEstablished = "state-below-established",
    /// A list of addresses that is many lines.
    LargeList = "large-list",
    /// A limit with `hits`, for which the kernel keeps few addresses.
    LimitTable = "limit-table",
    /// A list of `recent` that rules of both families use.
    RecentFamilies = "recent-families",
    /// A name that nothing uses.
    UnusedName = "unused-name",
    /// A comment that allows what is not found.
    UnusedAllow = "unused-allow",
    /// A rule from `any` to `any`, which matches only what passes through this host.
    AnyIsForward = "any-is-forward",
    /// Rules about what passes through, and no test of it.
    ForwardUntested = "forward-untested",
    /// A rule or entry that does nothing, because others decide all of its packets.
    Shadowed = "shadowed",
    /// A rule or entry whose removal changes nothing for any packet.
    Redundant = "redundant",
    /// A rule or entry that no real packet can match.
    NeverMatches = "never-matches",
    /// A rule that denies, behind one that accepted some of it.
    Contradiction = "contradiction",
    /// A default that no packet reaches.
    DefaultUnreached = "default-unreached",
    /// A port that is open to everybody and should not be.
    WorldOpen = "world-open",
    /// Rules that do not do what the policy says.
    ProofFailed = "proof-failed",
    /// A test of the policy that does not hold.
    TestFailed = "test-failed",
    /// A test of the policy that no packet fits.
    TestFitsNothing = "test-fits-nothing",
    /// Rules that could not be proven.
    AnalysisGaveUp = "analysis-gave-up",
    /// A template that cannot be used.
    BadTemplate = "bad-template",
    /// A rules file that iptables-restore would refuse.
    BadRules = "bad-rules",
    /// A match or target that fwc does not know.
    UnknownExtension = "unknown-extension",
    /// Something that iptables-nft and iptables-legacy read differently.
    BackendsDiffer = "backends-differ",
    /// A quote in a rules file that is never closed.
    UnclosedQuote = "unclosed-quote",
    /// A text in a rules file that is longer than the kernel keeps.
    TextCut = "text-cut",
}

#[cfg(test)]
mod tests {
    use super::Code;

    #[test]
    fn codes_are_unique_words() {
        let mut seen: Vec<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        seen.sort_unstable();
        assert!(seen.windows(2).all(|pair| pair[0] != pair[1]));
        assert!(seen.iter().all(|code| {
            code.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        }));
    }
}
