//! Random rules. Keys that `resolve` takes together only in some ways are mostly written in those.

use crate::generate::{MATCHES, PORT_LITERALS, Random, Sample};

const ACTIONS: [&str; 6] = ["accept", "accept", "drop", "reject", "log", "continue"];
const STATES: [&str; 5] = ["new", "established", "related", "invalid", "untracked"];
const TCP_SERVICES: [&str; 4] = ["ssh", "22/tcp", "80-90/tcp", "1024-65535/tcp"];

/// The keys of one rule.
struct Keys(Vec<(&'static str, String)>);

impl Keys {
    fn set(&mut self, key: &'static str, value: String) {
        self.0.retain(|(other, _)| *other != key);
        self.0.push((key, value));
    }

    fn one_of(&mut self, random: &mut Random, key: &'static str, words: &[&str]) {
        let word = random.pick(words);
        self.set(key, format!("\"{word}\""));
    }

    fn has(&self, key: &str) -> bool {
        self.0.iter().any(|(other, _)| *other == key)
    }
}

impl Sample {
    /// Writes a rule.
    pub fn rule(
        &mut self,
        random: &mut Random,
        places: &[String],
        groups: &[String],
        services: &[String],
    ) {
        let action = *random.pick(&ACTIONS);
        let mut keys = Keys(Vec::new());
        keys.one_of(random, "action", &[action]);
        self.sides(random, places, groups, &mut keys);
        protocols(random, services, &mut keys);
        left_out(random, places, &mut keys);
        if random.once_in(4) {
            keys.set("state", format!("{:?}", random.some(&STATES, 3)));
        }
        let logs = random.once_in(3);
        if logs {
            let classes: &[&str] = match action {
                "log" => &["true", "\"audit\""],
                _ => &["true", "false", "\"audit\"", "\"denied\""],
            };
            keys.set("log", (*random.pick(classes)).to_owned());
        }
        if action == "reject" && random.once_in(2) {
            let tcp: &[&str] = if keys.has("tcp") { &["tcp-reset"] } else { &[] };
            let others = [
                "default",
                "port-unreachable",
                "admin-prohibited",
                "host-unreachable",
                "host-prohibited",
                "net-prohibited",
                "proto-unreachable",
                "policy-fail",
                "reject-route",
            ];
            keys.one_of(random, "reject-with", &[&others[..], tcp].concat());
        }
        if random.once_in(10) {
            keys.set("enabled", "false".to_owned());
        }
        if random.once_in(5) {
            keys.one_of(random, "stage", &["early", "main"]);
        }
        if random.once_in(4) {
            keys.one_of(random, "order", &["first", "normal", "last"]);
        }
        limits(random, action, logs, &mut keys);
        self.shared_limit(random, action, logs, &mut keys);
        times(random, &mut keys);
        self.people(random, &mut keys);
        before_translation(&mut keys);
        // A rule that decides everything says so.
        let chooses = [
            "from",
            "to",
            "source",
            "destination",
            "service",
            "ipset",
            "mark",
            "mac",
            "tcp-flags",
            "original",
            "match",
            "user",
            "group",
        ];
        if !chooses.iter().any(|key| keys.has(key)) {
            keys.set("from", "\"any\"".to_owned());
        }
        self.line("[[rules]]");
        for (key, value) in keys.0.iter().filter(|(key, _)| *key != "tcp") {
            self.line(&format!("{key} = {value}"));
        }
    }

    /// Writes an entry of `[[mangle]]`.
    pub fn mangle(
        &mut self,
        random: &mut Random,
        places: &[String],
        groups: &[String],
        services: &[String],
    ) {
        let mut keys = Keys(Vec::new());
        self.sides(random, places, groups, &mut keys);
        protocols(random, services, &mut keys);
        if random.once_in(4) {
            keys.set("state", format!("{:?}", random.some(&STATES, 3)));
        }
        times(random, &mut keys);
        let leave = |keys: &mut Keys, key: &str| keys.0.retain(|(other, _)| *other != key);
        let kind = *random.pick(&[
            "clamp-mss",
            "mark",
            "mark",
            "mark",
            "dscp",
            "ttl",
            "classify",
            "tproxy",
            "checksum",
            "drop",
        ]);
        keys.one_of(random, "type", &[kind]);
        let asks_host = |keys: &Keys, key: &str| {
            keys.0
                .iter()
                .any(|(other, value)| *other == key && value.contains("host"))
        };
        if ["clamp-mss", "classify", "checksum"].contains(&kind) && asks_host(&keys, "to") {
            leave(&mut keys, "to");
        }
        match kind {
            "checksum" => {
                for key in ["from", "mac", "tcp-flags", "user", "group"] {
                    leave(&mut keys, key);
                }
                if random.once_in(2) {
                    keys.one_of(random, "from", &["host", "any"]);
                }
                keys.one_of(random, "service", &["53/udp", "67-68/udp"]);
            }
            "drop" => {
                if random.once_in(2) {
                    keys.one_of(random, "mark", &["0x10/0xff", "1", "0x100/0x100"]);
                }
            }
            "clamp-mss" => {
                leave(&mut keys, "tcp-flags");
                if keys.has("service") && !keys.has("tcp") {
                    keys.set("service", "\"80-90/tcp\"".to_owned());
                }
                if random.once_in(2) {
                    keys.set("set", (*random.pick(&["536", "1360"])).to_owned());
                }
            }
            "mark" => match random.below(4) {
                0 => keys.one_of(random, "save", &["0xff", "0x10", "0xffffffff"]),
                1 => keys.one_of(random, "restore", &["0xff", "0x110"]),
                _ => keys.one_of(random, "set", &["0x10/0xff", "1", "0/0x100", "0x100/0x110"]),
            },
            "dscp" => keys.set(
                "set",
                (*random.pick(&["\"ef\"", "\"cs1\"", "0"])).to_owned(),
            ),
            "ttl" => {
                let key = *random.pick(&["set", "increase", "decrease"]);
                keys.set(key, (*random.pick(&["1", "64", "255"])).to_owned());
            }
            "classify" => keys.one_of(random, "set", &["1:10", "ffff:a", "0:0"]),
            _ => {
                leave(&mut keys, "to");
                if asks_host(&keys, "from") {
                    leave(&mut keys, "from");
                }
                for key in ["user", "group", "tcp-flags"] {
                    leave(&mut keys, key);
                }
                let udp = ["80/tcp", "22/tcp", "53/udp"];
                keys.set("service", format!("{:?}", random.some(&udp, 2)));
                keys.set("to-port", "3129".to_owned());
                if random.once_in(3) {
                    keys.set("set", "\"1/1\"".to_owned());
                }
                if random.once_in(3) {
                    keys.one_of(random, "to-address", &["127.0.0.1"]);
                    keys.one_of(random, "scope", &["ipv4"]);
                }
            }
        }
        if random.once_in(8) {
            keys.set("enabled", "false".to_owned());
        }
        self.people(random, &mut keys);
        self.line("[[mangle]]");
        for (key, value) in keys.0.iter().filter(|(key, _)| *key != "tcp") {
            self.line(&format!("{key} = {value}"));
        }
    }

    /// Services with helpers, and rules that accept them.
    pub fn helpers(&mut self, random: &mut Random, places: &[String], groups: &[String]) {
        if !random.once_in(3) {
            return;
        }
        self.line(
            "[services.files]\nports = [\"22/tcp\", \"85-95/tcp\"]\nhelper = \"ftp\"\nicmp = 13",
        );
        self.line("[services.voice]\nports = [\"53/udp\", \"22/tcp\"]\nhelper = \"sip\"");
        self.line("[services.talk]\ninclude = [\"files\", \"voice\", \"ssh\"]");
        for _ in 0..1 + random.below(2) {
            let mut keys = Keys(Vec::new());
            self.sides(random, places, groups, &mut keys);
            let services = random.some(&["files", "voice", "talk", "http"], 2);
            keys.set("service", format!("{services:?}"));
            self.line("[[rules]]");
            for (key, value) in keys.0.iter().filter(|(key, _)| *key != "tcp") {
                self.line(&format!("{key} = {value}"));
            }
        }
    }

    /// Writes an entry of `[[raw]]`.
    pub fn raw(
        &mut self,
        random: &mut Random,
        places: &[String],
        groups: &[String],
        services: &[String],
    ) {
        let mut keys = Keys(Vec::new());
        self.sides(random, places, groups, &mut keys);
        protocols(random, services, &mut keys);
        for key in ["user", "group", "mac", "ipset", "mark", "tcp-flags"] {
            keys.0.retain(|(other, _)| *other != key);
        }
        let asks = |keys: &Keys, key: &str, word: &str| {
            let mut keys = keys.0.iter();
            keys.any(|(other, value)| *other == key && value.contains(word))
        };
        if random.once_in(4) {
            keys.one_of(random, "type", &["drop"]);
            if !keys.has("from") || !asks(&keys, "from", "[\"host\"]") {
                keys.0.retain(|(key, _)| *key != "to");
            }
            let chooses = ["from", "source", "destination", "service"];
            if !chooses.into_iter().any(|key| keys.has(key)) {
                keys.one_of(random, "service", &["22/tcp", "53/udp", "ping"]);
            }
        } else if random.once_in(4) {
            keys.one_of(random, "type", &["helper"]);
            let helpers = [("ftp", "22/tcp"), ("irc", "80/tcp"), ("sip", "53/udp")];
            let (helper, service) = *random.pick(&helpers);
            keys.one_of(random, "helper", &[helper]);
            keys.one_of(random, "service", &[service]);
        } else {
            keys.one_of(random, "type", &["notrack"]);
            if asks(&keys, "from", "host") && random.once_in(2) {
                keys.set("answers", "true".to_owned());
            }
        }
        if random.once_in(8) {
            keys.set("enabled", "false".to_owned());
        }
        times(random, &mut keys);
        self.people(random, &mut keys);
        self.line("[[raw]]");
        for (key, value) in keys.0.iter().filter(|(key, _)| *key != "tcp") {
            self.line(&format!("{key} = {value}"));
        }
    }

    /// What is there for people: a name like no other, with signs that mean something elsewhere, and a comment.
    fn people(&mut self, random: &mut Random, keys: &mut Keys) {
        if random.once_in(4) {
            let number = self.text.len();
            let signs = random.pick(&["", " \\\"'$#", " -j ACCEPT"]);
            keys.set("name", format!("\"the {number}th{signs}\""));
        }
        if random.once_in(6) {
            keys.one_of(random, "comment", &["NET-112", "-j ACCEPT"]);
        }
    }

    /// Where packets come from and go to.
    fn sides(
        &mut self,
        random: &mut Random,
        places: &[String],
        groups: &[String],
        keys: &mut Keys,
    ) {
        if random.once_in(2) {
            keys.set("from", some_places(random, places));
        }
        if random.once_in(2) {
            keys.set("to", some_places(random, places));
        }
        for (key, seldom) in [("source", 2), ("destination", 4)] {
            if !random.once_in(seldom) {
                continue;
            }
            let mut list = self.address_list(random, groups);
            let mut of_masks = Random(random.0.rotate_left(29));
            if of_masks.once_in(8) {
                list.push(self.mask(&mut of_masks));
            }
            let negation = match random.below(4) {
                0 => format!("{{ not = {list:?} }}"),
                1 => format!("\"!{}\"", list[0]),
                _ => {
                    keys.set(key, format!("{list:?}"));
                    continue;
                }
            };
            keys.set(key, negation);
            keys.one_of(random, "scope", &["ipv4", "ipv6", "dual", "dual"]);
        }
        if random.once_in(4) {
            keys.one_of(random, "scope", &["ipv4", "ipv6", "dual"]);
        }
        if random.once_in(12) {
            keys.set("from", "\"host\"".to_owned());
            keys.set("to", "\"any\"".to_owned());
            if random.once_in(2) {
                let users = [
                    "0",
                    "33",
                    "\"web\"",
                    "[0, \"web\", 34]",
                    "\"!33\"",
                    "{ not = [33, 0] }",
                ];
                keys.set("user", (*random.pick(&users)).to_owned());
            }
            if random.once_in(2) {
                let groups = ["5", "\"web\"", "[5, 6]", "\"!web\"", "{ not = [5, 6] }"];
                keys.set("group", (*random.pick(&groups)).to_owned());
            }
        } else if random.once_in(12) {
            keys.0.retain(|(key, _)| *key != "from");
            let macs = [
                "\"02:00:5e:10:00:01\"",
                "[\"02:00:5e:10:00:01\", \"02:00:5e:10:00:02\"]",
                "\"!02:00:5e:10:00:01\"",
                "{ not = [\"02:00:5e:10:00:01\", \"02:00:5e:10:00:03\"] }",
            ];
            keys.set("mac", (*random.pick(&macs)).to_owned());
        }
        if random.once_in(15) {
            let sets = [
                "\"crowdsec\"",
                "\"geo\"",
                "\"!crowdsec\"",
                "{ name = \"geo\", flags = \"dst\" }",
                "{ name = \"!geo\", flags = \"dst,src\" }",
            ];
            keys.set("ipset", (*random.pick(&sets)).to_owned());
            keys.one_of(random, "scope", &["ipv4", "ipv6"]);
        }
        if random.once_in(10) {
            let marks = ["0x10/0xff", "1", "0x100/0x100", "!0x10/0xff", "!0"];
            keys.one_of(random, "mark", &marks);
        }
    }
}

/// Negates `from`, `to` or `service`. With a `scope`, since a zone or service may have nothing in a family.
fn left_out(random: &mut Random, places: &[String], keys: &mut Keys) {
    let before = keys.0.len();
    for key in ["from", "to"] {
        let is_of_host = keys.has("user") || keys.has("group");
        if places.is_empty() || is_of_host || !random.once_in(8) {
            continue;
        }
        let some = random.some(places, 2);
        match random.below(2) {
            0 => keys.set(key, format!("\"!{}\"", some[0])),
            _ => keys.set(key, format!("{{ not = {some:?} }}")),
        }
        keys.set("left out", String::new());
    }
    let service = keys.0.iter().find(|(key, _)| *key == "service");
    if let Some((_, services)) = service.cloned()
        && !keys.has("tcp")
        && random.once_in(4)
    {
        keys.set("service", format!("{{ not = {services} }}"));
        keys.set("left out", String::new());
    }
    if keys.0.len() > before || keys.has("left out") {
        keys.0.retain(|(key, _)| *key != "left out");
        if !keys.has("scope") {
            keys.one_of(random, "scope", &["ipv4", "ipv6", "dual", "dual"]);
        }
    }
}

/// Services, ports, flags; `tcp` is a key of ours: the rule has nothing but tcp.
fn protocols(random: &mut Random, services: &[String], keys: &mut Keys) {
    match random.below(6) {
        0 | 1 => keys.set("service", format!("{:?}", random.some(services, 3))),
        2 => keys.set("service", format!("{:?}", random.some(&PORT_LITERALS, 6))),
        3 => {
            keys.set("service", format!("{:?}", random.some(&TCP_SERVICES, 3)));
            keys.set("tcp", String::new());
        }
        _ => {}
    }
    if (keys.has("tcp") || !keys.has("service")) && random.once_in(6) {
        let flags = [
            "syn/syn,ack,fin,rst",
            "none/all",
            "ack,psh/ack,psh",
            "!syn/syn,ack,fin,rst",
        ];
        keys.one_of(random, "tcp-flags", &flags);
    }
}

impl Sample {
    /// Names a limit that goes with the action, sometimes.
    fn shared_limit(&mut self, random: &Random, action: &str, logs: bool, keys: &mut Keys) {
        // Drawn from numbers of their own: without named limits the policies of a seed stay as they were.
        let mut own = Random(random.0.rotate_left(29));
        if !own.once_in(10) {
            return;
        }
        let (going_on, dropping) = (["passing", "knocks"], ["syn", "all", "tries"]);
        let name = match action {
            "accept" if own.once_in(3) && !(logs && keys.has("connections")) => {
                *own.pick(&going_on)
            }
            "accept" | "continue" => *own.pick(&dropping),
            _ => *own.pick(&going_on),
        };
        keys.set("limit", format!("\"{name}\""));
    }

    /// Writes the limits that rules may name.
    pub fn named_limits(&mut self) {
        self.line(
            "[limits]\n\
             syn = { rate = \"20/minute\", burst = 2, per = \"source\" }\n\
             all = \"6/minute\"\n\
             tries = { hits = 3, within = \"1h\", per = \"source/24/56\", over = \"reject\" }\n\
             passing = { rate = \"100/hour\", burst = 3, over = \"continue\" }\n\
             knocks = { hits = 4, within = \"1h\", per = \"destination\", over = \"continue\" }",
        );
    }
}

fn limits(random: &mut Random, action: &str, logs: bool, keys: &mut Keys) {
    let over: &[&str] = match action {
        "accept" => &["drop", "reject", "continue"],
        "continue" => &["drop", "reject"],
        _ => &["continue"],
    };
    let mut goes_on = false;
    let per = |random: &mut Random| *random.pick(&["", ", per = \"source\""]);
    let parts = [
        "",
        ", per = \"source\"",
        ", per = \"source/24/56\"",
        ", per = \"destination\"",
        ", per = [\"source\", \"destination-port\"]",
        ", per = [\"destination-port\", \"destination/28/120\", \"source/30/126\"]",
    ];
    if random.once_in(8) {
        let rate = *random.pick(&[
            "6/minute",
            "60/minute",
            "100/hour",
            "7/second",
            "10MiB/second",
        ]);
        let burst = *random.pick(&["", ", burst = 2", ", burst = 5", ", burst = 30"]);
        let burst = if rate.contains('B') { "" } else { burst };
        let (per, over) = (*random.pick(&parts), *random.pick(over));
        goes_on = over == "continue";
        let limit = format!("{{ rate = \"{rate}\"{burst}{per}, over = \"{over}\" }}");
        keys.set("limit", limit);
    }
    // Drawn from numbers of their own: without windows the policies of a seed stay as they were.
    let mut own = Random(random.0.rotate_left(23));
    if own.once_in(16) {
        let per = *own.pick(&[
            "source",
            "source",
            "destination",
            "source/24/56",
            "destination/31/127",
        ]);
        let (hits, over) = (*own.pick(&["2", "3", "6", "255"]), *own.pick(over));
        goes_on = over == "continue";
        let limit =
            format!("{{ hits = {hits}, within = \"1h\", per = \"{per}\", over = \"{over}\" }}");
        keys.set("limit", limit);
    }
    if ["accept", "continue"].contains(&action) && random.once_in(8) {
        let max = *random.pick(&["1", "20"]);
        // A rule that logs goes on beyond both or beyond none.
        let over: &[&str] = if logs && goes_on { &["continue"] } else { over };
        let (per, over) = (per(random), *random.pick(over));
        let connections = format!("{{ max = {max}{per}, over = \"{over}\" }}");
        keys.set("connections", connections);
    }
}

fn times(random: &mut Random, keys: &mut Keys) {
    if random.once_in(12) {
        let days = [
            "",
            "days = [\"mon\", \"fri\"]",
            "days = \"sun\"",
            "days = [\"mon\", \"tue\", \"wed\", \"thu\", \"fri\", \"sat\", \"sun\"]",
        ];
        let hours = [
            "",
            "from = \"08:00\", until = \"18:00\"",
            "from = \"22:00\", until = \"06:00\"",
            "from = \"18:30\", until = \"00:00\"",
            "from = \"00:00\", until = \"23:59\"",
        ];
        let zone = ["", "timezone = \"local\""];
        let parts = [
            *random.pick(&days),
            *random.pick(&hours),
            *random.pick(&zone),
        ];
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        let schedule = format!("{{ {} }}", parts.join(", "));
        keys.set("schedule", schedule);
    }
    if random.once_in(12) {
        let day = *random.pick(&["2037-03-31", "2036-12-31"]);
        keys.set("expires", day.to_owned());
    }
}

fn some_places(random: &mut Random, places: &[String]) -> String {
    let mut some: Vec<String> = match places {
        [] => vec!["any".to_owned()],
        _ if random.once_in(3) => vec!["any".to_owned()],
        _ => random.some(places, 3).into_iter().cloned().collect(),
    };
    match random.below(5) {
        0 | 1 => some = vec!["host".to_owned()],
        2 => some.push("host".to_owned()),
        _ => {}
    }
    format!("{some:?}")
}

/// Adds keys about translations to some rules. What the rule has so far chooses them, so that the other random choices of a
/// seed stay what they were.
fn before_translation(keys: &mut Keys) {
    let length: usize = keys.0.iter().map(|(_, value)| value.len()).sum();
    match length % 11 {
        0 => keys.set("match", format!("\"{}\"", MATCHES[0])),
        1 => keys.set("match", format!("\"{}\"", MATCHES[1])),
        // The tests know the first packet of a connection, and no other.
        2 => {
            keys.set("state", "\"new\"".to_owned());
            keys.set(
                "original",
                "{ service = [\"80-90/tcp\", \"53/udp\"] }".to_owned(),
            );
        }
        3 => {
            keys.set("state", "\"new\"".to_owned());
            let value = "{ destination = [\"10.0.0.1-10.0.0.6\", \"2001:db8::/64\"], service = \"22/tcp\" }";
            keys.set("original", value.to_owned());
        }
        4 => {
            keys.set("state", "\"new\"".to_owned());
            let value = "{ destination = { not = [\"10.0.0.1\", \"10.0.0.6\", \"2001:db8::1\"] } }";
            keys.set("original", value.to_owned());
        }
        _ => {}
    }
}
