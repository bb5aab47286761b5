//! The rulesets that take turns, who else is there, and what is sent meanwhile.

use std::env;
use std::fs;

use fwc::compile::{Deny, Options, compile};
use fwc::files::Access;
use fwc::internals::apply::RulesetFiles;
use fwc::net::{Date, PerFamily};

/// Probes to one place.
pub struct Kind {
    pub name: &'static str,
    pub from: &'static str,
    pub to: &'static str,
    /// Whether all get through, or none; `None` where they may be lost.
    pub passes: Option<bool>,
}

/// Two rulesets that take turns.
pub struct Scene {
    pub name: &'static str,
    pub rulesets: fn() -> [RulesetFiles; 2],
    /// What is there before, in the words of `iptables-save`.
    pub others: &'static str,
    /// What is sent besides [`COMMON`].
    kinds: &'static [Kind],
    /// How many applies, with nft; with legacy a fourth.
    pub applies: usize,
}

impl Scene {
    /// The scene of a name.
    pub fn named(name: &str) -> &'static Self {
        SCENES.iter().find(|scene| scene.name == name).unwrap()
    }

    /// All that is sent.
    pub fn kinds(&self) -> impl Iterator<Item = &'static Kind> {
        COMMON.iter().chain(self.kinds)
    }
}

const ALWAYS: Option<bool> = Some(true);
const NEVER: Option<bool> = Some(false);

const COMMON: &[Kind] = &[
    Kind {
        name: "to the host",
        from: "10.96.0.2",
        to: "10.96.0.1:7000",
        passes: ALWAYS,
    },
    Kind {
        name: "to a closed port",
        from: "10.96.0.2",
        to: "10.96.0.1:7001",
        passes: NEVER,
    },
    Kind {
        name: "to a closed port of the server",
        from: "10.96.0.2",
        to: "10.95.0.2:6002",
        passes: NEVER,
    },
    Kind {
        name: "from a blocked address",
        from: "10.96.0.3",
        to: "10.96.0.1:7000",
        passes: NEVER,
    },
];

/// Forwarded by each ruleset to another port of the server.
const TRANSLATED: Kind = Kind {
    name: "translated",
    from: "10.96.0.2",
    to: "10.96.0.1:5000",
    passes: ALWAYS,
};

/// Translated by one ruleset, and let through by the other one only.
const CROSSED: Kind = Kind {
    name: "translated here and let through there",
    from: "10.96.0.2",
    to: "10.96.0.1:5001",
    passes: NEVER,
};

/// What others decide.
const BANNED: Kind = Kind {
    name: "from an address that others ban",
    from: "10.96.0.4",
    to: "10.96.0.1:7000",
    passes: NEVER,
};

const CONTAINER: Kind = Kind {
    name: "to a container",
    from: "10.96.0.2",
    to: "10.97.0.2:6200",
    passes: ALWAYS,
};

const CLOSED_CONTAINER: Kind = Kind {
    name: "to a closed port of a container",
    from: "10.96.0.2",
    to: "10.97.0.2:6201",
    passes: NEVER,
};

const SCENES: &[Scene] = &[
    Scene {
        name: "alone",
        rulesets: || {
            [
                forwarding(6000, "192.0.2.0/24"),
                forwarding(6001, "198.51.100.0/24"),
            ]
        },
        others: "",
        kinds: &[TRANSLATED],
        applies: 200,
    },
    Scene {
        name: "shared",
        rulesets: || {
            [
                forwarded(SHARED, 6000, "192.0.2.0/24"),
                forwarded(SHARED, 6001, "198.51.100.0/24"),
            ]
        },
        others: OTHERS,
        kinds: &[TRANSLATED, BANNED, CONTAINER, CLOSED_CONTAINER],
        applies: 16,
    },
    Scene {
        name: "preserve",
        rulesets: || {
            [
                forwarded(PRESERVE, 6000, "192.0.2.0/24"),
                forwarded(PRESERVE, 6001, "198.51.100.0/24"),
            ]
        },
        others: OTHERS,
        kinds: &[TRANSLATED, BANNED, CONTAINER, CLOSED_CONTAINER],
        applies: 16,
    },
    Scene {
        name: "crossed in shared mode",
        rulesets: || crossed(SHARED),
        others: OTHERS,
        kinds: &[MAY_BE_LOST, CROSSED, BANNED, CONTAINER, CLOSED_CONTAINER],
        applies: 16,
    },
    Scene {
        name: "crossed beside preserved",
        rulesets: || crossed(PRESERVE),
        others: OTHERS,
        kinds: &[MAY_BE_LOST, CROSSED, BANNED, CONTAINER, CLOSED_CONTAINER],
        applies: 16,
    },
];

/// Forwarded by each ruleset to another port, while the filter in between lets through only what both do.
const MAY_BE_LOST: Kind = Kind {
    passes: None,
    ..TRANSLATED
};

/// fail2ban's ban, and Docker's forwarding to a container.
const OTHERS: &str = "*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A POSTROUTING -s 10.97.0.0/24 ! -o eth2 -j MASQUERADE
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
:f2b-all - [0:0]
-A INPUT -j f2b-all
-A FORWARD -o eth2 -j DOCKER
-A FORWARD -i eth2 ! -o eth2 -j ACCEPT
-A DOCKER -d 10.97.0.2/32 -p udp -m udp --dport 6200 -j ACCEPT
-A f2b-all -s 10.96.0.4/32 -j DROP
-A f2b-all -j RETURN
COMMIT
";

const SHARED: &str = "mode = \"shared\"";
const PRESERVE: &str = "preserve = [\"DOCKER\", \"f2b-*\", { device = \"eth2\" }]";

/// The ruleset that forwards to this port of the server, and blocks this network.
fn forwarding(port: u16, blocked: &str) -> RulesetFiles {
    let nat = format!(
        "*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n-A PREROUTING -i eth0 -p udp -m udp --dport 5000 -j DNAT --to-destination 10.95.0.2:{port}\nCOMMIT\n"
    );
    let v4 = format!(
        "{nat}*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n:to-{port} - [0:0]\n-A INPUT -m set --match-set fwc4-list src -j DROP\n-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A INPUT -p udp -m udp --dport 7000 -j ACCEPT\n-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A FORWARD -j to-{port}\n-A to-{port} -d 10.95.0.2/32 -p udp -m udp --dport {port} -j ACCEPT\nCOMMIT\n"
    );
    let v6 = "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n-A INPUT -i lo -j ACCEPT\nCOMMIT\n";
    let sets = format!(
        "create fwc4-list hash:net family inet maxelem 65536\nadd fwc4-list 10.96.0.3\nadd fwc4-list {blocked}\n"
    );
    RulesetFiles {
        rules: PerFamily {
            v4,
            v6: v6.to_owned(),
        },
        sets: Some(sets),
        ..RulesetFiles::default()
    }
}

fn compiled(text: &str) -> RulesetFiles {
    let path = env::current_dir().unwrap().join("window.toml");
    fs::write(&path, text).unwrap();
    let options = Options {
        access: Access::Read,
        templates: None,
        verify: true,
        deny: &Deny::default(),
        max_lines: None,
        today: Date::constant(2026, 1, 1),
    };
    let compiled = compile(&path, options).result.unwrap();
    RulesetFiles {
        ownership: compiled.plan.ownership.clone(),
        rules: compiled.rendered.texts(),
        sets: compiled.rendered.ipsets,
        after_apply: compiled.plan.after_apply,
        allowed_concerns: compiled.plan.allowed_concerns,
    }
}

/// What both policies of a pair say.
fn policy(ownership: &str, blocked: &str, more: &str) -> RulesetFiles {
    compiled(&format!(
        r#"
version = 1

[ownership]
{ownership}

[defaults]
forward = "drop"

[interfaces]
wan = "eth0"
lan = "eth1"

[addresses]
blocked = {{ include = ["10.96.0.3", "{blocked}"], set = true }}

[[rules]]
source = "blocked"
action = "drop"

[[rules]]
service = "7000/udp"
{more}"#
    ))
}

/// The policy that forwards to this port of the server, and blocks this network.
fn forwarded(ownership: &str, port: u16, blocked: &str) -> RulesetFiles {
    let more = translation(5000, port, true);
    policy(ownership, blocked, &more)
}

fn translation(from: u16, to: u16, accept: bool) -> String {
    format!(
        r#"
[[nat]]
type = "dnat"
scope = "ipv4"
from = "wan"
to = "lan"
service = "{from}/udp"
to-destination = "10.95.0.2:{to}"
accept = {accept}
"#
    )
}

/// One translates to what only the other one lets through.
fn crossed(ownership: &str) -> [RulesetFiles; 2] {
    let one = translation(5000, 6000, true) + &translation(5001, 6003, false);
    let other = translation(5000, 6001, true)
        + r#"
[[rules]]
from = "wan"
to = "lan"
destination = "10.95.0.2"
service = "6003/udp"
"#;
    [one, other].map(|more| policy(ownership, "192.0.2.0/24", &more))
}
