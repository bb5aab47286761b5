//! Random nat entries, mostly such as `resolve` takes.

use fwc::net::Family;

use crate::generate::{Random, Sample};

const TCP: [&str; 4] = ["http", "80/tcp", "22/tcp", "85-95/tcp"];
const WITH_PORTS: [&str; 6] = ["80/tcp", "53/udp", "67-68/udp", "22/tcp", "dns", "500/sctp"];

/// Keys that an entry has already.
#[derive(Default)]
struct Narrowed {
    from: bool,
    scope: bool,
    service: bool,
}

impl Sample {
    /// Writes an entry. `known` are the places of which networks are known.
    pub fn nat(
        &mut self,
        random: &mut Random,
        places: &[String],
        known: &[String],
        groups: &[String],
    ) {
        self.line("[[nat]]");
        if random.once_in(4) {
            let number = self.text.len();
            self.line(&format!("name = \"the {number}th\""));
        }
        if random.once_in(6) {
            self.line("comment = \"NET-112\"");
        }
        if random.once_in(8) {
            self.line("enabled = false");
        }
        match random.below(11) {
            0 | 1 => {
                self.line("type = \"masquerade\"");
                self.choice(random, "random");
                self.ports(random);
                self.keys_of_leaving(random);
            }
            9 => {
                self.line("type = \"no-snat\"");
                self.keys_of_leaving(random);
            }
            10 => {
                self.line("type = \"no-dnat\"");
                let narrowed = self.keys_of_arriving(random);
                return self.rest_of_arriving(random, &narrowed, false, places, groups);
            }
            2 => {
                let (source, with_port) = self.end(random, &["", ":1024-2000", ":7777"], true);
                self.line(&format!("type = \"snat\"\nto-source = {source}"));
                self.choice(random, "random");
                let before = self.text.len();
                self.choice(random, "persistent");
                if !is_range(&source) {
                    self.text.truncate(before);
                }
                match with_port {
                    true => self.service(random, true, &WITH_PORTS),
                    false => self.ports(random),
                }
                self.keys_of_leaving(random);
            }
            3 => {
                self.line("type = \"redirect\"");
                self.choice(random, "random");
                let port = *random.pick(&["80", "23", "\"90\""]);
                self.line(&format!("to-port = {port}"));
                let narrowed = self.keys_of_arriving(random);
                return self.rest_of_arriving(random, &narrowed, true, places, groups);
            }
            4 => {
                let destination = self.twenty_four(random);
                let to = self.twenty_four(random);
                self.line(&format!(
                    "type = \"netmap\"\ndestination = \"{destination}\"\nto = \"{to}\""
                ));
                self.from(random, places);
                return;
            }
            5 => {
                let source = self.twenty_four(random);
                let to = self.twenty_four(random);
                self.line(&format!(
                    "type = \"netmap\"\nsource = \"{source}\"\nto-source = \"{to}\""
                ));
                return self.to(random, places);
            }
            _ => return self.dnat(random, places, known, groups),
        }
        // What leaves.
        if !known.is_empty() && random.once_in(2) {
            let from = random.some(known, 2);
            self.line(&format!("from = {from:?}"));
        }
        self.to(random, places);
        self.addresses(random, "source", groups);
        self.maybe_scope(random);
    }

    /// The source ports to choose from, with a service that has some; or any service, or none.
    fn ports(&mut self, random: &mut Random) {
        let ports = random.once_in(3);
        if ports {
            let ports = *random.pick(&["\"1024-2000\"", "7777"]);
            self.line(&format!("ports = {ports}"));
        }
        self.service(random, ports, &WITH_PORTS);
    }

    fn choice(&mut self, random: &mut Random, key: &str) {
        if random.once_in(5) {
            let on = random.once_in(4);
            self.line(&format!("{key} = {}", !on));
        }
    }

    /// A mark, or a user without `from`: what leaves shows no more.
    fn keys_of_leaving(&mut self, random: &mut Random) {
        if random.once_in(6) {
            let mark = *random.pick(&["\"0x10/0xff\"", "1", "\"0x100/0x100\""]);
            self.line(&format!("mark = {mark}"));
        }
    }

    /// Keys of what arrives: a mark, flags, a set, a MAC address of another host, or an account of this one.
    fn keys_of_arriving(&mut self, random: &mut Random) -> Narrowed {
        let mut narrowed = Narrowed::default();
        match random.below(10) {
            0 => {
                let mark = *random.pick(&["\"0x10/0xff\"", "1", "\"0x100/0x100\""]);
                self.line(&format!("mark = {mark}"));
            }
            1 | 2 => {
                let key = *random.pick(&["user = 33", "user = 0", "group = 5"]);
                self.line(&format!("from = \"host\"\n{key}"));
                narrowed.from = true;
            }
            3 => {
                self.line("from = \"any\"\nmac = \"02:00:5e:10:00:01\"");
                narrowed.from = true;
            }
            4 => {
                self.line("ipset = \"crowdsec\"\nscope = \"ipv4\"");
                narrowed.scope = true;
            }
            5 => {
                self.line("tcp-flags = \"syn/syn,ack\"\nservice = [\"80/tcp\", \"22/tcp\"]");
                narrowed.service = true;
            }
            _ => {}
        }
        narrowed
    }

    /// The rest of an entry for what arrives.
    fn rest_of_arriving(
        &mut self,
        random: &mut Random,
        narrowed: &Narrowed,
        with_port: bool,
        places: &[String],
        groups: &[String],
    ) {
        if !narrowed.service {
            self.service(random, with_port, &WITH_PORTS);
        }
        match narrowed.from {
            true => self.addresses(random, "destination", groups),
            false => self.arriving(random, places, groups),
        }
        if !narrowed.scope {
            self.maybe_scope(random);
        }
    }

    fn dnat(
        &mut self,
        random: &mut Random,
        places: &[String],
        known: &[String],
        groups: &[String],
    ) {
        let is_range = random.once_in(4);
        let ports: &[&str] = match is_range {
            // Of `85-95/tcp`.
            true => &[":80-90", ":85-95", ":80"],
            false => &["", ":80", ":23"],
        };
        let count = 1 + random.below(3);
        let ends: Vec<_> = (0..count).map(|_| self.end(random, ports, false)).collect();
        let with_port = ends.iter().any(|(_, with_port)| *with_port);
        let ends: Vec<&str> = ends.iter().map(|(end, _)| end.as_str()).collect();
        self.line(&format!(
            "type = \"dnat\"\nto-destination = [{}]",
            ends.join(", ")
        ));
        match is_range {
            true => self.line("service = \"85-95/tcp\""),
            false => self.service(random, with_port, &WITH_PORTS),
        }
        if random.once_in(4) {
            self.line("accept = false");
        }
        let before = self.text.len();
        self.choice(random, "random");
        if !ends
            .iter()
            .any(|end| end.contains(":80-90") || end.contains(":85-95"))
        {
            self.text.truncate(before);
        }
        if count == 1 {
            // Backends are single hosts, for which there is nothing to keep.
            let before = self.text.len();
            self.choice(random, "persistent");
            self.text.truncate(before);
        }
        if random.once_in(6) {
            self.line("mark = \"0x10/0xff\"");
        }
        if !known.is_empty() && random.once_in(2) {
            let to = random.pick(known).clone();
            self.line(&format!("hairpin = true\nto = \"{to}\""));
        } else {
            self.to(random, places);
        }
        self.arriving(random, places, groups);
        self.maybe_scope(random);
    }

    fn arriving(&mut self, random: &mut Random, places: &[String], groups: &[String]) {
        self.from(random, places);
        self.addresses(random, "source", groups);
        self.addresses(random, "destination", groups);
    }

    fn from(&mut self, random: &mut Random, places: &[String]) {
        let mut all = vec!["host".to_owned()];
        all.extend(places.iter().cloned());
        if random.once_in(2) {
            let from = random.some(&all, 2);
            self.line(&format!("from = {from:?}"));
        }
    }

    fn to(&mut self, random: &mut Random, places: &[String]) {
        if !places.is_empty() && random.once_in(2) {
            let to = random.some(places, 2);
            self.line(&format!("to = {to:?}"));
        }
    }

    fn addresses(&mut self, random: &mut Random, key: &str, groups: &[String]) {
        if random.once_in(3) {
            let list = self.address_list(random, groups);
            match random.once_in(4) {
                true => self.line(&format!("{key} = {{ not = {list:?} }}")),
                false => self.line(&format!("{key} = {list:?}")),
            }
        }
    }

    fn maybe_scope(&mut self, random: &mut Random) {
        if random.once_in(5) {
            let scope = random.pick(&["ipv4", "ipv6", "dual"]);
            self.line(&format!("scope = \"{scope}\""));
        }
    }

    fn service(&mut self, random: &mut Random, needed: bool, from: &[&str]) {
        if needed || random.once_in(2) {
            let services = match random.once_in(2) {
                true => random.some(&TCP, 2),
                false => random.some(from, 3),
            };
            self.line(&format!("service = {services:?}"));
        }
    }

    /// A new end in TOML, and whether it has ports; of a range where one may be.
    fn end(&mut self, random: &mut Random, ports: &[&str], range: bool) -> (String, bool) {
        let (family, address) = self.host(random);
        let mut text = address.clone();
        if range && random.once_in(3) {
            text = match family {
                Family::V4 => "10.0.0.1-10.0.0.9".to_owned(),
                Family::V6 => "fd00::1-fd00::9".to_owned(),
            };
        }
        let ports = random.pick(ports);
        if family == Family::V6 && !ports.is_empty() {
            text = format!("[{text}]");
        }
        (format!("\"{text}{ports}\""), !ports.is_empty())
    }
}

/// Whether a new end in TOML is a range of addresses.
fn is_range(end: &str) -> bool {
    end.contains("-10.0.0.9") || end.contains("-fd00::9")
}
