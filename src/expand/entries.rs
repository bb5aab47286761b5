//! Lines of entries of `[[nat]]`, `[[mangle]]` and `[[raw]]` that log, that leave packets out by a negated key, or whose
//! `match` counts. One line cannot say any of these for several lines, so that the entry gets chains of its own.

use std::collections::HashSet;

use super::context::{LimitContext, LineContext, LogContext};
use crate::expand::own_chains::OwnChains;
use crate::net::Family;
use crate::resolve::{LogClass, Plan, PlannedRule};

/// An entry in one base chain.
pub struct EntryChains<'a> {
    /// Its keys: the name, the comment and the label of its chains.
    pub packets: &'a PlannedRule,
    /// The base chain.
    pub chain: &'a str,
    /// The class in which it logs its packets here.
    pub log: Option<&'a LogClass>,
}

/// Lines of an entry for packets that go the same way.
pub struct EntryPart {
    /// The lines, with their targets.
    pub lines: Vec<LineContext>,
    /// Lines without a target, for the packets that the negated keys leave out.
    pub exceptions: Vec<LineContext>,
    /// The matches of iptables that count each time that they are asked.
    pub counting: Option<String>,
}

impl EntryPart {
    /// Returns `true` if its lines say all of it.
    pub fn is_plain(&self) -> bool {
        self.exceptions.is_empty() && self.counting.is_none()
    }
}

/// Returns the matches of a rule or entry in a family, if one of them counts.
pub fn counting(packets: &PlannedRule, family: Family) -> Option<String> {
    let matches = packets.matches.as_ref();
    let matches = matches.filter(|matches| matches.counts)?;
    matches.texts[family].clone()
}

/// Returns the log class of an entry.
pub fn log_of<'p>(plan: &'p Plan, packets: &PlannedRule) -> Option<&'p LogClass> {
    packets.log.map(|class| &plan.log_classes[class])
}

impl EntryChains<'_> {
    /// Returns the lines of the base chain, and adds the chains that they jump to. Each packet is logged and counted once,
    /// whatever lines and parts it fits.
    pub fn place(&self, parts: Vec<EntryPart>, own: &mut OwnChains) -> Vec<LineContext> {
        let mut parts = parts;
        parts.retain(|part| !part.lines.is_empty());
        let counting = parts.first().and_then(|part| part.counting.clone());
        let is_shared = parts.iter().all(|part| part.counting == counting);
        if is_shared && parts.iter().all(|part| part.exceptions.is_empty()) {
            let lines = parts.into_iter().flat_map(|part| part.lines).collect();
            let exceptions = Vec::new();
            return self.place_part(
                EntryPart {
                    lines,
                    exceptions,
                    counting,
                },
                own,
            );
        }
        if self.log.is_none() && !(is_shared && counting.is_some()) {
            // What two parts do to the same packet is the same as once.
            let mut placed = Vec::new();
            for part in parts {
                placed.extend(self.place_part(part, own));
            }
            return placed;
        }
        match <[EntryPart; 1]>::try_from(parts) {
            Ok([part]) => self.place_part(part, own),
            Err(parts) => self.place_parts(&parts, counting.filter(|_| is_shared), own),
        }
    }

    fn place_part(&self, part: EntryPart, own: &mut OwnChains) -> Vec<LineContext> {
        let EntryPart {
            mut lines,
            exceptions,
            counting,
        } = part;
        let is_plain = exceptions.is_empty() && counting.is_none() && self.log.is_none();
        if is_plain || lines.is_empty() {
            return lines;
        }
        if let ([line], true) = (&mut lines[..], exceptions.is_empty()) {
            match (&counting, self.log) {
                (None, Some(class)) => return vec![logging(class, line), line.clone()],
                (Some(counting), None) => {
                    line.matches = Some(counting.clone());
                    return lines;
                }
                (Some(_), Some(_)) | (None, None) => {}
            }
        }
        let name = own.name_for(self.chain, self.packets, &lines);
        let everything = everything(&lines);
        let actions = actions(&lines);
        let ends = lines.iter().all(|line| line.change.is_none());
        let mut rest: Vec<_> = self
            .log
            .map(|class| logging(class, &everything))
            .into_iter()
            .collect();
        rest.extend(actions);
        let may_return = counting.is_some() || !exceptions.is_empty() || !ends;
        if let Some(counting) = counting {
            rest = self.counted(counting, rest, format!("{name}-DO"), own);
        }
        let mut body: Vec<_> = exceptions
            .into_iter()
            .map(|line| jump(line, "RETURN", false))
            .collect();
        body.extend(rest);
        own.add(&name, self.packets, body);
        let entering = matching(&lines);
        if entering.len() == 1 || !may_return {
            let jumps = entering.into_iter().map(|line| jump(line, &name, false));
            return jumps.collect();
        }
        // The first line that matches enters the chain by `-g`, which returns to the base chain and so skips the other lines.
        let any = format!("{name}-ANY");
        let jumps = entering.into_iter().map(|line| jump(line, &name, true));
        own.add(&any, self.packets, jumps.collect());
        vec![jump(everything, &any, false)]
    }

    /// Returns one line that asks matches that count, and leads to some lines.
    fn counted(
        &self,
        counting: String,
        lines: Vec<LineContext>,
        chain: String,
        own: &mut OwnChains,
    ) -> Vec<LineContext> {
        let matches = Some(counting);
        if let [only] = &lines[..] {
            return vec![LineContext {
                matches,
                ..only.clone()
            }];
        }
        let everything = everything(&lines);
        own.add(&chain, self.packets, lines);
        vec![LineContext {
            matches,
            ..jump(everything, &chain, false)
        }]
    }

    /// Places parts that share a log, or matches that count (`shared`). A packet that one part leaves out is asked of the next
    /// one; the others skip them.
    fn place_parts(
        &self,
        parts: &[EntryPart],
        shared: Option<String>,
        own: &mut OwnChains,
    ) -> Vec<LineContext> {
        let lines: Vec<_> = parts.iter().flat_map(|part| part.lines.clone()).collect();
        let name = own.name_for(self.chain, self.packets, &lines);
        let everything = everything(&lines);
        let mut body: Vec<_> = self
            .log
            .map(|class| logging(class, &everything))
            .into_iter()
            .collect();
        body.extend(actions(&lines));
        let has_shared = shared.is_some();
        if let Some(shared) = shared {
            body = self.counted(shared, body, format!("{name}-M"), own);
        }
        let done = format!("{name}-DO");
        own.add(&done, self.packets, body);
        let mut following: Option<String> = None;
        let mut entering: Vec<LineContext> = Vec::new();
        for (number, part) in parts.iter().enumerate().rev() {
            let asks = format!("{name}-{number}");
            let mut body = Vec::new();
            let skip = |line: LineContext| match &following {
                Some(next) => jump(line, next, true),
                None => jump(line, "RETURN", false),
            };
            body.extend(part.exceptions.iter().cloned().map(skip));
            let counting = part.counting.clone().filter(|_| !has_shared);
            let continues = counting.is_some() && following.is_some();
            body.push(LineContext {
                matches: counting,
                ..jump(everything.clone(), &done, true)
            });
            if continues {
                body.push(skip(everything.clone()));
            }
            own.add(&asks, self.packets, body);
            let mut own_lines: Vec<_> = matching(&part.lines)
                .into_iter()
                .map(|line| jump(line, &asks, true))
                .collect();
            own_lines.append(&mut entering);
            entering = own_lines;
            if number > 0 {
                let next = format!("{name}-R{number}");
                own.add(&next, self.packets, entering.clone());
                following = Some(next);
            }
        }
        let any = format!("{name}-ANY");
        own.add(&any, self.packets, entering);
        vec![jump(everything, &any, false)]
    }
}

/// Returns a line that logs the packets of a line.
fn logging(class: &LogClass, line: &LineContext) -> LineContext {
    LineContext {
        limit: LimitContext::of_log(class),
        log: Some(LogContext::new(class)),
        ..jump(line.clone(), "", false)
    }
}

/// Returns a line with the packets of a line, and another target.
fn jump(line: LineContext, target: &str, goto: bool) -> LineContext {
    LineContext {
        target: target.to_owned(),
        goto,
        nat: None,
        change: None,
        ..line
    }
}

/// Returns a line for every packet, with the comment and the origin of some lines.
fn everything(lines: &[LineContext]) -> LineContext {
    let first = lines.first();
    LineContext {
        comment: first.and_then(|line| line.comment.clone()),
        origin: first.map_or_else(String::new, |line| line.origin.clone()),
        ..LineContext::default()
    }
}

/// Returns lines for the packets of some lines, each once and without a target.
fn matching(lines: &[LineContext]) -> Vec<LineContext> {
    let plain = lines.iter().map(|line| jump(line.clone(), "", false));
    unique(plain)
}

/// Returns the lines that do what some lines do, for packets that match one of these.
fn actions(lines: &[LineContext]) -> Vec<LineContext> {
    let does = |line: &LineContext| format!("{}\n{:?}\n{:?}", line.target, line.nat, line.change);
    let differ = lines.windows(2).any(|two| does(&two[0]) != does(&two[1]));
    if differ {
        // What is done depends on the line.
        return lines.to_vec();
    }
    let alone = lines.iter().map(|line| {
        // iptables takes a new port, a proxy, a helper and a segment size only on a line with a protocol.
        let change = line.change.as_ref();
        let needs_flags = change.is_some_and(|change| change.target == "TCPMSS");
        let needs_protocol = line.nat.is_some()
            || needs_flags
            || change.is_some_and(|change| change.target == "TPROXY" || change.helper.is_some());
        LineContext {
            protocol: line.protocol.clone().filter(|_| needs_protocol),
            tcp_flags: line.tcp_flags.clone().filter(|_| needs_flags),
            target: line.target.clone(),
            nat: line.nat.clone(),
            change: line.change.clone(),
            comment: line.comment.clone(),
            origin: line.origin.clone(),
            ..LineContext::default()
        }
    });
    unique(alone)
}

fn unique(lines: impl Iterator<Item = LineContext>) -> Vec<LineContext> {
    let mut known = HashSet::new();
    lines.filter(|line| known.insert(line.identity())).collect()
}
