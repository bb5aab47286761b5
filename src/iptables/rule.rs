//! One command line of a rules file, read as `getopt_long` and iptables' own parser read it.

use std::ops::Range;

use super::argument;
use super::lex::Word;
use super::model::*;
use super::names;
use super::spec::{Arguments, Given, Opt, Place, Problem, Spec, cut, hook};
use super::value::{Interface, Negatable, Network, PortRange};
use super::{matches, targets};
use crate::diag::Code;
use crate::net::Family;

/// What a line tells the tool to do.
#[derive(Debug)]
pub(super) enum Command<'a> {
    /// `-A`
    Append(&'a str),
    /// `-I`, with the position from 1
    Insert(&'a str, usize),
    /// `-R`, with the position from 1
    Replace(&'a str, usize),
    /// `-D` with the position from 1
    DeleteAt(&'a str, usize),
    /// `-D` with the rule
    Delete(&'a str),
    /// `-N`
    NewChain(&'a str),
    /// `-P`
    Policy(&'a str, &'a str),
    /// `-F`, of one chain or all
    Flush(Option<&'a str>),
    /// `-X`, one chain or all
    DeleteChain(Option<&'a str>),
    /// `-E`
    Rename(&'a str, &'a str),
    /// `-Z`, `-L`, `-S`, `-C`, `-V`, `-h`: changes no rule
    Nothing,
}

/// A line that was read.
pub(super) struct Line<'a> {
    pub command: Command<'a>,
    /// Several where an address option lists several addresses.
    pub rules: Vec<Rule>,
    /// The hooks in which the kernel takes the rule.
    pub hooks: u8,
    /// What is fine but worth a word.
    pub remarks: Vec<Remark>,
}

/// A warning.
pub(super) struct Remark {
    pub code: Code,
    pub range: Range<usize>,
    pub message: String,
}

/// What a rule depends on.
pub(super) struct Context<'c> {
    pub family: Family,
    pub table: TableName,
    /// Whether a user-defined chain exists.
    pub has_chain: &'c dyn Fn(&str) -> bool,
    /// Keep matches and targets that are not known, instead of refusing them.
    pub keep_unknown: bool,
}

/// The options that belong to no module, with their short forms and how their values are found.
const GLOBAL: [(&str, char, Value); 36] = [
    ("append", 'A', Value::One),
    ("delete", 'D', Value::One),
    ("check", 'C', Value::One),
    ("insert", 'I', Value::One),
    ("replace", 'R', Value::One),
    ("list", 'L', Value::Optional),
    ("list-rules", 'S', Value::Optional),
    ("flush", 'F', Value::Optional),
    ("zero", 'Z', Value::Optional),
    ("new-chain", 'N', Value::One),
    ("delete-chain", 'X', Value::Optional),
    ("rename-chain", 'E', Value::One),
    ("policy", 'P', Value::One),
    ("source", 's', Value::One),
    ("destination", 'd', Value::One),
    ("src", 's', Value::One),
    ("dst", 'd', Value::One),
    ("protocol", 'p', Value::One),
    ("in-interface", 'i', Value::One),
    ("jump", 'j', Value::One),
    ("table", 't', Value::One),
    ("match", 'm', Value::One),
    ("numeric", 'n', Value::None),
    ("out-interface", 'o', Value::One),
    ("verbose", 'v', Value::None),
    ("wait", 'w', Value::Optional),
    ("wait-interval", 'W', Value::Optional),
    ("exact", 'x', Value::None),
    ("fragments", 'f', Value::None),
    ("version", 'V', Value::None),
    ("help", 'h', Value::Optional),
    ("line-numbers", '0', Value::None),
    ("modprobe", 'M', Value::One),
    ("set-counters", 'c', Value::One),
    ("goto", 'g', Value::One),
    ("ipv4", '4', Value::None),
];

/// Whether an option has a value.
#[derive(Clone, Copy, PartialEq)]
enum Value {
    None,
    One,
    Optional,
}

/// A module that a line loaded.
enum Loaded {
    Match(&'static Spec<Match>),
    Target(&'static Spec<Target>),
    UnknownMatch,
    UnknownTarget,
}

impl Loaded {
    fn options(&self) -> &'static [Opt] {
        match self {
            Self::Match(spec) => spec.options,
            Self::Target(spec) => spec.options,
            Self::UnknownMatch | Self::UnknownTarget => &[],
        }
    }
}

/// A loaded module and where its name stands.
struct Use {
    module: Loaded,
    word: usize,
    /// Where the name begins in its word.
    inline: usize,
    given: Vec<Given>,
    /// For a module that is not known: the words that follow.
    kept: Vec<usize>,
}

/// What an option's name stands for.
enum Name {
    Global(char, Value),
    Module(usize, &'static Opt),
}

struct Reader<'a, 'w, 'c> {
    words: &'a [Word<'w>],
    context: &'c Context<'c>,
    at: usize,
    uses: Vec<Use>,
    sources: Vec<Negatable<Network>>,
    destinations: Vec<Negatable<Network>>,
    in_interface: Option<Negatable<Interface>>,
    out_interface: Option<Negatable<Interface>>,
    protocol: Option<(Negatable<u8>, &'a str)>,
    fragment: Option<bool>,
    counters: Option<Counters>,
    jump: Option<(usize, Target)>,
    seen: Vec<char>,
    command: Option<(usize, Command<'a>)>,
    remarks: Vec<Remark>,
    skipped: bool,
}

/// Reads the words of a line. `Ok(None)`: the line is for the other family.
pub(super) fn read<'a, 'c>(
    words: &'a [Word<'_>],
    context: &'c Context<'c>,
) -> Result<Option<Line<'a>>, Problem> {
    let mut reader = Reader {
        words,
        context,
        at: 0,
        uses: Vec::new(),
        sources: Vec::new(),
        destinations: Vec::new(),
        in_interface: None,
        out_interface: None,
        protocol: None,
        fragment: None,
        counters: None,
        jump: None,
        seen: Vec::new(),
        command: None,
        remarks: Vec::new(),
        skipped: false,
    };
    reader.options()?;
    if reader.skipped {
        return Ok(None);
    }
    reader.finish().map(Some)
}

impl<'a, 'w> Reader<'a, 'w, '_> {
    fn problem<T>(&self, word: usize, message: impl Into<String>) -> Result<T, Problem> {
        let end = self.words.last().map_or(0, |last| last.range.end);
        let range = self
            .words
            .get(word)
            .map_or(end..end, |word| word.range.clone());
        Err(Problem {
            range,
            message: message.into(),
        })
    }

    fn text(&self, word: usize) -> &'a str {
        &self.words[word].text
    }

    fn options(&mut self) -> Result<(), Problem> {
        let mut negated: Option<usize> = None;
        while self.at < self.words.len() && !self.skipped {
            let word = self.at;
            let text = self.text(word);
            if text == "!" {
                if negated.is_some() {
                    return self.problem(word, "multiple consecutive ! not allowed");
                }
                negated = Some(word);
                self.at += 1;
                continue;
            }
            if text == "--" {
                return match word + 1 == self.words.len() {
                    true => Ok(()),
                    false => self.problem(word + 1, "unknown arguments found on commandline"),
                };
            }
            if self.keeps_unknown(text, negated) {
                negated = None;
                continue;
            }
            let not = negated.take().is_some();
            match text.strip_prefix("--") {
                Some(name) => self.long(name, not)?,
                None if text.len() > 1 && text.starts_with('-') => self.short(&text[1..], not)?,
                None => return self.problem(word, format!("bad argument `{text}`")),
            }
        }
        match negated {
            Some(word) if !self.skipped => self.problem(word, "nothing appropriate following !"),
            _ => Ok(()),
        }
    }

    /// Words after a module that is not known are its own, unless they are an option of another.
    fn keeps_unknown(&mut self, text: &'a str, negated: Option<usize>) -> bool {
        let unknown =
            |one: &&mut Use| matches!(one.module, Loaded::UnknownMatch | Loaded::UnknownTarget);
        let word = self.at;
        let own = match text.strip_prefix("--") {
            Some(name) => {
                let name = name.split('=').next().unwrap_or(name);
                let of_protocol = self.protocol_module().is_some_and(|spec| {
                    spec.options
                        .iter()
                        .any(|option| option.names().any(|known| known == name))
                });
                self.resolve(name).is_none() && !of_protocol
            }
            None => !text.starts_with('-') || text.len() == 1,
        };
        let last = self.uses.last_mut().filter(unknown).filter(|_| own);
        let Some(last) = last else { return false };
        last.kept.extend(negated);
        last.kept.push(word);
        self.at += 1;
        true
    }

    /// The option of a long name or of the beginning of one.
    fn resolve(&self, name: &str) -> Option<Name> {
        if let Some((_, short, value)) = GLOBAL.iter().find(|(long, ..)| *long == name) {
            return Some(Name::Global(*short, *value));
        }
        if name == "ipv6" {
            return Some(Name::Global('6', Value::None));
        }
        let loaded = || {
            let uses = self.uses.iter().enumerate().rev();
            uses.flat_map(|(index, one)| one.module.options().iter().map(move |opt| (index, opt)))
        };
        if let Some((index, opt)) = loaded().find(|(_, opt)| opt.names().any(|known| known == name))
        {
            return Some(Name::Module(index, opt));
        }
        let mut found = None;
        for (_, short, value) in GLOBAL.iter().filter(|(long, ..)| long.starts_with(name)) {
            match found {
                None => found = Some(Name::Global(*short, *value)),
                Some(Name::Global(same, _)) if same == *short => {}
                Some(_) => return None,
            }
        }
        for (index, opt) in loaded() {
            if opt.names().any(|known| known.starts_with(name)) {
                match found {
                    None => found = Some(Name::Module(index, opt)),
                    Some(Name::Module(other, same))
                        if other == index && std::ptr::eq(same, opt) => {}
                    Some(_) => return None,
                }
            }
        }
        found
    }

    fn long(&mut self, text: &'a str, negated: bool) -> Result<(), Problem> {
        let word = self.at;
        let (name, has_inline) = match text.split_once('=') {
            Some((name, _)) => (name, true),
            None => (text, false),
        };
        let found = match self.resolve(name) {
            Some(found) => Some(found),
            None => {
                self.load_protocol_module();
                self.resolve(name)
            }
        };
        let inline = if has_inline { 2 + name.len() + 1 } else { 0 };
        match found {
            None => {
                let message = format!("unknown option \"--{name}\"");
                self.problem(word, message)
            }
            Some(Name::Global(short, value)) => self.global(short, value, inline, negated),
            Some(Name::Module(index, opt)) => self.module_option(index, opt, inline, negated),
        }
    }

    fn short(&mut self, letters: &'a str, negated: bool) -> Result<(), Problem> {
        let word = self.at;
        for (index, letter) in letters.char_indices() {
            let known = GLOBAL
                .iter()
                .find(|(_, short, _)| *short == letter && letter != '0');
            let value = match known {
                Some((.., value)) => *value,
                None if letter == '6' => Value::None,
                None => return self.problem(word, format!("unknown option \"-{letter}\"")),
            };
            let rest = index + letter.len_utf8();
            if value == Value::None {
                self.global(letter, value, 0, negated)?;
                self.at = word;
            } else {
                let inline = if rest < letters.len() { 1 + rest } else { 0 };
                return self.global(letter, value, inline, negated);
            }
        }
        self.at = word + 1;
        Ok(())
    }

    /// The match of the protocol that `-p` gave.
    fn protocol_module(&self) -> Option<&'static Spec<Match>> {
        let (protocol, name) = self.protocol?;
        let number = argument::leading_number(name).is_some_and(|(_, rest)| rest.is_empty());
        let name = match number {
            true => names::protocol_name(protocol.value)?,
            false => name,
        };
        matches::find(&name.to_ascii_lowercase(), self.context.family)
    }

    /// Loads the match of the protocol, which an option may belong to although `-m` does not stand there.
    fn load_protocol_module(&mut self) {
        let Some(spec) = self.protocol_module() else {
            return;
        };
        let loaded =
            |one: &Use| matches!(one.module, Loaded::Match(known) if std::ptr::eq(known, spec));
        if !self.uses.iter().any(loaded) {
            self.uses.push(Use {
                module: Loaded::Match(spec),
                word: self.at,
                inline: 0,
                given: Vec::new(),
                kept: Vec::new(),
            });
        }
    }

    /// Takes the words of a module's option.
    fn module_option(
        &mut self,
        index: usize,
        option: &'static Opt,
        inline: usize,
        negated: bool,
    ) -> Result<(), Problem> {
        let word = self.at;
        let values = option.values();
        let first = if inline > 0 || values == 0 {
            word
        } else {
            word + 1
        };
        let after = if values == 0 {
            word + 1
        } else {
            first + values
        };
        if inline > 0 && values == 0 {
            return self.problem(word, format!("option \"--{}\" takes no value", option.name));
        }
        if first >= self.words.len() {
            return self.problem(
                word,
                format!("option \"--{}\" requires an argument", option.name),
            );
        }
        let second = self.words.get(first + 1).map(|second| &*second.text);
        if values == 2 && second.is_none_or(|text| text.starts_with('-') || text.starts_with('!')) {
            return self.problem(word, format!("--{} requires two args", option.name));
        }
        let given = &self.uses[index].given;
        if negated && !option.negatable {
            return self.problem(
                word,
                format!("option \"--{}\" cannot be inverted", option.name),
            );
        }
        if !option.repeats && given.iter().any(|one| std::ptr::eq(one.option, option)) {
            return self.problem(
                word,
                format!("option \"--{}\" can only be used once", option.name),
            );
        }
        let against = |one: &&Given| {
            one.option.excludes.contains(&option.name) || option.excludes.contains(&one.option.name)
        };
        if let Some(other) = given.iter().find(against) {
            let (name, other) = (option.name, other.option.name);
            return self.problem(
                word,
                format!("option \"--{name}\" cannot be used together with \"--{other}\""),
            );
        }
        let protocol = self.protocol.filter(|(protocol, _)| !protocol.negated);
        self.uses[index].given.push(Given {
            option,
            negated,
            first,
            inline,
            protocol: protocol.map(|(protocol, _)| protocol.value),
        });
        self.at = after;
        Ok(())
    }

    /// An option that belongs to no module. Its value is the rest of its word, or the next word; several options
    /// look at the last word again, so that a joined value is not what they see.
    fn global(
        &mut self,
        letter: char,
        value: Value,
        inline: usize,
        negated: bool,
    ) -> Result<(), Problem> {
        let word = self.at;
        let quirk = matches!(letter, 's' | 'd' | 'p' | 'i' | 'o' | 'j') && inline > 0;
        let operand = match value {
            Value::One if inline > 0 => Some((word, if quirk { 0 } else { inline })),
            Value::One => Some((word + 1, 0)),
            _ => None,
        };
        if operand.is_some_and(|(index, _)| index >= self.words.len()) {
            return self.problem(word, format!("option \"-{letter}\" requires an argument"));
        }
        self.at = operand.map_or(word, |(index, _)| index) + 1;
        let (index, from) = operand.unwrap_or((word, 0));
        let text = &self.text(index)[from..];
        if "sdpiojgf".contains(letter) {
            let as_once = if letter == 'g' { 'j' } else { letter };
            if self.seen.contains(&as_once) {
                return self.problem(word, format!("multiple -{as_once} flags not allowed"));
            }
            self.seen.push(as_once);
        }
        let simple = !matches!(letter, 's' | 'd' | 'p' | 'i' | 'o' | 'f');
        if negated && simple && letter != '4' && letter != '6' {
            return self.problem(word, format!("unexpected ! flag before -{letter}"));
        }
        match letter {
            's' | 'd' => self.addresses(letter, index, text, negated),
            'p' => self.read_protocol(index, text, negated),
            'i' | 'o' => self.interface(letter, index, text, negated),
            'f' if self.context.family == Family::V6 => self.problem(word, "unknown option \"-f\""),
            'f' => {
                self.fragment = Some(negated);
                Ok(())
            }
            'm' => self.load_match(index, from, text),
            'j' => self.jump(index, text),
            'g' => self.goto(index, text),
            'c' => self.read_counters(index, text),
            '4' | '6' => {
                let own = match self.context.family {
                    Family::V4 => '4',
                    Family::V6 => '6',
                };
                self.skipped = letter != own;
                Ok(())
            }
            'A' | 'I' | 'D' | 'R' | 'N' | 'P' | 'F' | 'X' | 'E' | 'Z' | 'L' | 'S' | 'C' | 'h'
            | 'V' => self.read_command(letter, word, text),
            'v' | 'M' => Ok(()),
            't' => self.problem(word, "the -t option cannot be used in a rules file"),
            _ => self.problem(word, format!("illegal option `-{letter}` in a rules file")),
        }
    }

    fn addresses(
        &mut self,
        letter: char,
        word: usize,
        text: &str,
        negated: bool,
    ) -> Result<(), Problem> {
        let networks = match argument::networks(text, self.context.family) {
            Ok(networks) => networks,
            Err(message) => return self.problem(word, message),
        };
        if negated && networks.len() > 1 {
            return self.problem(
                word,
                "! not allowed with multiple source or destination IP addresses",
            );
        }
        if negated
            && networks
                .iter()
                .any(|network| network.prefix_length() == Some(0))
        {
            self.remark(
                Code::BackendsDiffer,
                word,
                "`!` and every address: iptables-legacy never matches it, iptables-nft refuses it",
            );
        }
        let terms = networks
            .into_iter()
            .map(|value| Negatable { negated, value })
            .collect();
        match letter {
            's' => self.sources = terms,
            _ => self.destinations = terms,
        }
        Ok(())
    }

    fn read_protocol(&mut self, word: usize, text: &'a str, negated: bool) -> Result<(), Problem> {
        match argument::protocol(text) {
            Ok(0) if negated => self.problem(word, "rule would never match protocol"),
            Ok(value) => {
                self.protocol = Some((Negatable { negated, value }, text));
                Ok(())
            }
            Err(message) => self.problem(word, message),
        }
    }

    fn interface(
        &mut self,
        letter: char,
        word: usize,
        text: &str,
        negated: bool,
    ) -> Result<(), Problem> {
        if text.is_empty() {
            return self.problem(word, "an empty interface name is likely to be undesired");
        }
        if text.len() > 15 {
            return self.problem(
                word,
                format!("interface name `{text}` must be at most 15 bytes"),
            );
        }
        if text == "+" && negated {
            self.remark(Code::BackendsDiffer, word, "`!` and every interface: never matches; iptables-legacy saves it as nothing, iptables-nft keeps it");
        }
        let term = (text != "+" || negated).then(|| Negatable {
            negated,
            value: Interface(text.into()),
        });
        match letter {
            'i' => self.in_interface = term,
            _ => self.out_interface = term,
        }
        Ok(())
    }

    fn remark(&mut self, code: Code, word: usize, message: impl Into<String>) {
        self.remarks.push(Remark {
            code,
            range: self.words[word].range.clone(),
            message: message.into(),
        });
    }

    fn load_match(&mut self, word: usize, inline: usize, name: &str) -> Result<(), Problem> {
        let module = match matches::find(name, self.context.family) {
            Some(spec) => Loaded::Match(spec),
            None if self.context.keep_unknown && !name.is_empty() => {
                self.remark(
                    Code::UnknownExtension,
                    word,
                    format!("the match `{name}` is not known; it is kept as it is"),
                );
                Loaded::UnknownMatch
            }
            None => {
                return self.problem(
                    word,
                    format!("couldn't load match `{name}`: it is not known"),
                );
            }
        };
        self.uses.push(Use {
            module,
            word,
            inline,
            given: Vec::new(),
            kept: Vec::new(),
        });
        Ok(())
    }

    fn jump(&mut self, word: usize, name: &'a str) -> Result<(), Problem> {
        if name.is_empty() || name.len() > 28 || name.contains([' ', '\t', '\n']) {
            return self.problem(word, format!("invalid target name `{name}`"));
        }
        let target = match name {
            "ACCEPT" => Target::Accept,
            "DROP" => Target::Drop,
            "RETURN" => Target::Return,
            "QUEUE" => {
                self.remark(
                    Code::BackendsDiffer,
                    word,
                    "iptables-legacy takes QUEUE, iptables-nft does not; NFQUEUE is for both",
                );
                Target::Queue
            }
            _ => {
                let module = match targets::find(name, self.context.family) {
                    Some(spec) => Some(Loaded::Target(spec)),
                    None if (self.context.has_chain)(name) => None,
                    None if self.context.keep_unknown => {
                        self.remark(
                            Code::UnknownExtension,
                            word,
                            format!("the target `{name}` is not known; it is kept as it is"),
                        );
                        Some(Loaded::UnknownTarget)
                    }
                    None => {
                        let message =
                            format!("chain `{name}` does not exist, and no such target is known");
                        return self.problem(word, message);
                    }
                };
                match module {
                    None => Target::Jump(name.into()),
                    Some(module) => {
                        self.uses.push(Use {
                            module,
                            word,
                            inline: 0,
                            given: Vec::new(),
                            kept: Vec::new(),
                        });
                        Target::None
                    }
                }
            }
        };
        self.jump = Some((word, target));
        Ok(())
    }

    fn goto(&mut self, word: usize, name: &str) -> Result<(), Problem> {
        if !(self.context.has_chain)(name) {
            return self.problem(word, format!("chain `{name}` does not exist"));
        }
        self.jump = Some((word, Target::Goto(name.into())));
        Ok(())
    }

    fn read_counters(&mut self, word: usize, text: &str) -> Result<(), Problem> {
        let (packets, bytes) = match text.split_once(',') {
            Some((packets, bytes)) => (packets, bytes),
            None => match self.words.get(self.at) {
                Some(next) if !next.text.starts_with(['-', '!']) => {
                    self.at += 1;
                    (text, &*next.text)
                }
                _ => return self.problem(word, "-c requires packet and byte counter"),
            },
        };
        match (packets.parse(), bytes.parse()) {
            (Ok(packets), Ok(bytes)) => {
                self.counters = Some(Counters { packets, bytes });
                Ok(())
            }
            _ => self.problem(word, "-c requires packet and byte counter"),
        }
    }

    /// The word at the reader, when it is no option.
    fn operand(&mut self) -> Option<&'a str> {
        let text = self.words.get(self.at).map(|word| &*word.text)?;
        let plain = !text.starts_with(['-', '!']);
        plain.then(|| {
            self.at += 1;
            text
        })
    }

    fn read_command(&mut self, letter: char, word: usize, text: &'a str) -> Result<(), Problem> {
        if let Some((other, _)) = &self.command {
            let other = self.text(*other);
            return self.problem(word, format!("cannot use -{letter} with {other}"));
        }
        let numbered = |reader: &mut Self| {
            let text = reader.words.get(reader.at).map(|word| &*word.text);
            let number = text
                .and_then(|text| text.parse::<usize>().ok())
                .filter(|number| *number > 0);
            reader.at += usize::from(number.is_some());
            number
        };
        let command = match letter {
            'A' => Command::Append(text),
            'I' => Command::Insert(text, numbered(self).unwrap_or(1)),
            'D' => match numbered(self) {
                Some(number) => Command::DeleteAt(text, number),
                None => Command::Delete(text),
            },
            'R' => match numbered(self) {
                Some(number) => Command::Replace(text, number),
                None => return self.problem(word, "-R requires a chain and a number"),
            },
            'N' => Command::NewChain(text),
            'P' => match self.operand() {
                Some(policy) => Command::Policy(text, policy),
                None => return self.problem(word, "-P requires a chain and a policy"),
            },
            'E' => match self.operand() {
                Some(name) => Command::Rename(text, name),
                None => return self.problem(word, "-E requires old-chain-name and new-chain-name"),
            },
            'F' => Command::Flush(self.operand()),
            'X' => Command::DeleteChain(self.operand()),
            _ => {
                self.operand();
                Command::Nothing
            }
        };
        self.command = Some((word, command));
        Ok(())
    }

    fn finish(mut self) -> Result<Line<'a>, Problem> {
        let Some((word, command)) = self.command.take() else {
            return self.problem(self.words.len(), "no command specified");
        };
        let specification = matches!(
            command,
            Command::Append(_)
                | Command::Insert(..)
                | Command::Replace(..)
                | Command::Delete(_)
                | Command::Nothing
        );
        if !specification {
            if let Some(letter) = self.seen.first() {
                return self.problem(
                    word,
                    format!("illegal option `-{letter}` with this command"),
                );
            }
            return Ok(Line {
                command,
                rules: Vec::new(),
                hooks: hook::ALL,
                remarks: self.remarks,
            });
        }
        let chain = match command {
            Command::Append(chain) | Command::Delete(chain) => chain,
            Command::Insert(chain, _) | Command::Replace(chain, _) => chain,
            _ => "",
        };
        if self.in_interface.is_some() && matches!(chain, "OUTPUT" | "POSTROUTING") {
            return self.problem(word, format!("can't use -i with {chain}"));
        }
        if self.out_interface.is_some() && matches!(chain, "INPUT" | "PREROUTING") {
            return self.problem(word, format!("can't use -o with {chain}"));
        }
        let mut hooks = hook::ALL;
        let head = 4 + usize::from(self.fragment.is_some());
        let mut conditions = Vec::with_capacity((self.uses.len() + 2).min(head + self.uses.len()));
        conditions.extend(self.in_interface.take().map(Match::InInterface));
        conditions.extend(self.out_interface.take().map(Match::OutInterface));
        if let Some((protocol, _)) = self.protocol.filter(|(protocol, _)| protocol.value != 0) {
            conditions.push(Match::Protocol(protocol));
        }
        conditions.extend(self.fragment.map(|negated| Match::Fragment { negated }));
        let (jump, mut target) = self.jump.take().unwrap_or((word, Target::None));
        let uses = std::mem::take(&mut self.uses);
        for one in &uses {
            match &one.module {
                Loaded::Match(spec) => {
                    let made = self.make(spec.name, spec.options, spec.make, one)?;
                    self.check_place(&spec.place, one, &mut hooks)?;
                    hooks &= self.check_match(&made, one)?;
                    self.remark_comment(&made, one);
                    conditions.extend(self.as_loaded(made, one, &conditions));
                }
                Loaded::Target(spec) => {
                    target = self.make(spec.name, spec.options, spec.make, one)?;
                    self.check_place(&spec.place, one, &mut hooks)?;
                    self.check_target(spec.name, &target, &conditions, jump)?;
                }
                Loaded::UnknownMatch => conditions.push(Match::Unknown(self.unknown(one))),
                Loaded::UnknownTarget => target = Target::Unknown(self.unknown(one)),
            }
        }
        Ok(Line {
            command,
            rules: self.expand(conditions, target),
            hooks,
            remarks: self.remarks,
        })
    }

    /// The rules of a line: one for each pair of a source and a destination.
    fn expand(&self, conditions: Vec<Match>, target: Target) -> Vec<Rule> {
        // A network that holds everything is no condition; negated it holds nothing and is kept.
        let every =
            |term: &Negatable<Network>| !term.negated && term.value.prefix_length() == Some(0);
        let terms = |terms: &[Negatable<Network>]| -> Vec<Option<Negatable<Network>>> {
            match terms {
                [] => vec![None],
                terms => terms
                    .iter()
                    .map(|term| (!every(term)).then_some(*term))
                    .collect(),
            }
        };
        let (sources, destinations) = (terms(&self.sources), terms(&self.destinations));
        let last = sources.len() * destinations.len() - 1;
        let mut rest = Some((conditions, target));
        let mut rules = Vec::with_capacity(last + 1);
        for (index, pair) in sources
            .iter()
            .flat_map(|s| destinations.iter().map(move |d| (s, d)))
            .enumerate()
        {
            let Some((mut matches, target)) = (if index == last {
                rest.take()
            } else {
                rest.clone()
            }) else {
                break;
            };
            let addresses = pair
                .0
                .map(Match::Source)
                .into_iter()
                .chain(pair.1.map(Match::Destination));
            matches.splice(0..0, addresses);
            rules.push(Rule {
                matches,
                target,
                counters: self.counters,
                line: 0,
            });
        }
        rules
    }

    fn unknown(&self, one: &Use) -> Box<Unknown> {
        Box::new(Unknown {
            name: self.text(one.word)[one.inline..].into(),
            arguments: one
                .kept
                .iter()
                .map(|&word| self.text(word).into())
                .collect(),
        })
    }

    fn make<T>(
        &self,
        name: &'static str,
        options: &'static [Opt],
        make: fn(&Arguments<'_, '_>) -> Result<T, Problem>,
        one: &Use,
    ) -> Result<T, Problem> {
        let arguments = Arguments {
            words: self.words,
            given: &one.given,
            family: self.context.family,
            range: self.words[one.word].range.clone(),
            name,
        };
        for option in options.iter().filter(|option| option.required) {
            if !arguments.has(option.name) {
                return Err(
                    arguments.missing(format!("option \"--{}\" must be specified", option.name))
                );
            }
        }
        for given in &one.given {
            let needs = given.option.needs;
            if !needs.is_empty() && !arguments.has(needs) {
                let message = format!(
                    "option \"--{}\" also requires \"--{needs}\"",
                    given.option.name
                );
                return Err(arguments.problem(given, message));
            }
        }
        make(&arguments)
    }

    fn check_place(&self, place: &Place, one: &Use, hooks: &mut u8) -> Result<(), Problem> {
        *hooks &= place.hooks;
        let table = self.context.table;
        if !place.tables.is_empty() && !place.tables.contains(&table) {
            let name = &self.text(one.word)[one.inline..];
            let message = format!("`{name}` does not load in the table {}", table.as_str());
            return self.problem(one.word, message);
        }
        Ok(())
    }

    /// What the kernel asks of a match: its protocol. Returns the hooks that are left.
    fn check_match(&mut self, made: &Match, one: &Use) -> Result<u8, Problem> {
        let (wanted, loose): (u8, bool) = match made {
            Match::Tcp(_) => (6, true),
            Match::Udp(_) => (17, true),
            Match::Sctp(..) => (132, false),
            Match::Dccp(..) => (33, false),
            Match::Icmp(_) if self.context.family == Family::V4 => (1, false),
            Match::Icmp(_) => (58, false),
            Match::AddressType(types) => {
                return Ok(match types.limit {
                    None => hook::ALL,
                    Some(Direction::In) => hook::PREROUTING | hook::INPUT | hook::FORWARD,
                    Some(Direction::Out) => hook::FORWARD | hook::OUTPUT | hook::POSTROUTING,
                });
            }
            Match::Other(module) => match module.name {
                "esp" => (50, false),
                "ah" if self.context.family == Family::V4 => (51, false),
                "ipcomp" => (108, false),
                "tcpmss" | "osf" => (6, false),
                "mh" => (135, false),
                "ecn"
                    if module
                        .settings
                        .iter()
                        .any(|one| one.name.starts_with("ecn-tcp")) =>
                {
                    (6, false)
                }
                "policy" => {
                    return Ok(
                        match module.setting("dir").is_some_and(|dir| &*dir.value == "in") {
                            true => hook::PREROUTING | hook::INPUT | hook::FORWARD,
                            false => hook::FORWARD | hook::OUTPUT | hook::POSTROUTING,
                        },
                    );
                }
                "physdev" => {
                    let out = ["physdev-out", "physdev-is-out"]
                        .iter()
                        .any(|name| module.setting(name).is_some());
                    let bridged = module
                        .setting("physdev-is-bridged")
                        .is_some_and(|one| !one.negated);
                    return Ok(if out && !bridged {
                        hook::ALL & !hook::OUTPUT
                    } else {
                        hook::ALL
                    });
                }
                _ => return Ok(hook::ALL),
            },
            _ => return Ok(hook::ALL),
        };
        let right = self
            .protocol
            .filter(|(protocol, _)| protocol.value == wanted);
        let name = names::protocol_name(wanted).unwrap_or_default();
        match right {
            None => self.problem(one.word, format!("this match requires `-p {name}`")),
            Some((protocol, _)) if protocol.negated && !loose => self.problem(
                one.word,
                format!("this match requires `-p {name}` without `!`"),
            ),
            Some((protocol, _)) => {
                if protocol.negated {
                    self.remark(Code::BackendsDiffer, one.word, format!("ports of a protocol that is not {name}: iptables-legacy refuses it, iptables-nft compares whatever stands there"));
                }
                Ok(hook::ALL)
            }
        }
    }

    /// The match as iptables-nft loads it, and a word where iptables-legacy would not. `None`: nothing is left of it.
    fn as_loaded(&mut self, made: Match, one: &Use, before: &[Match]) -> Option<Match> {
        let range = self.words[one.word].range.clone();
        let mut tell = |message: &str| {
            self.remarks.push(Remark {
                code: Code::BackendsDiffer,
                range: range.clone(),
                message: message.into(),
            });
        };
        let again = match made {
            Match::Tcp(_) => before.iter().any(|one| matches!(one, Match::Tcp(_))),
            Match::Udp(_) => before.iter().any(|one| matches!(one, Match::Udp(_))),
            _ => false,
        };
        if again {
            tell(
                "a second match of the same protocol: iptables-nft saves the ports of the last one only",
            );
        }
        let every_port = |port: &Option<Negatable<PortRange>>| {
            port.is_some_and(|port| port.negated && port.value == PortRange::ALL)
        };
        let (ports, bare) = match &made {
            Match::Tcp(tcp) if tcp.option.is_none() => (tcp.ports, tcp.flags.is_none()),
            Match::Udp(ports) => (*ports, true),
            _ => return Some(made),
        };
        let left = Ports {
            source: ports.source.filter(|_| !every_port(&ports.source)),
            destination: ports
                .destination
                .filter(|_| !every_port(&ports.destination)),
        };
        if left == ports {
            return Some(made);
        }
        tell(
            "`!` and every port: iptables-legacy never matches it, iptables-nft matches every packet of the protocol",
        );
        match made {
            _ if bare && left == Ports::default() => None,
            Match::Tcp(tcp) => Some(Match::Tcp(Tcp { ports: left, ..tcp })),
            _ => Some(Match::Udp(left)),
        }
    }

    fn remark_comment(&mut self, made: &Match, one: &Use) {
        let long = one.given.iter().find(|given| {
            let text = &self.words[given.first].text;
            matches!(made, Match::Comment(_)) && cut(text, 255).len() < text.len()
        });
        if let Some(given) = long {
            self.remark(
                Code::TextCut,
                given.first,
                "a comment has at most 255 bytes; the rest is cut off",
            );
        }
    }

    /// What the kernel asks of a target.
    fn check_target(
        &mut self,
        name: &str,
        target: &Target,
        conditions: &[Match],
        word: usize,
    ) -> Result<(), Problem> {
        let protocols: &[u8] = match (name, target) {
            (_, Target::Reject(Reject::TcpReset)) => &[6],
            ("TCPMSS" | "SYNPROXY" | "ECN" | "TCPOPTSTRIP", _) => &[6],
            ("TPROXY", _) => &[6, 17],
            _ => &[],
        };
        let fits = |(protocol, _): (Negatable<u8>, &str)| {
            !protocol.negated && protocols.contains(&protocol.value)
        };
        if !protocols.is_empty() && !self.protocol.is_some_and(fits) {
            return self.problem(
                word,
                format!(
                    "`{name}` requires `-p tcp`{}",
                    if protocols.len() > 1 {
                        " or `-p udp`"
                    } else {
                        ""
                    }
                ),
            );
        }
        let differs = match name {
            "TCPMSS" => {
                let syn = |one: &Match| matches!(one, Match::Tcp(tcp) if tcp.flags.is_some_and(|test| !test.negated && test.value.set.0 & 2 != 0));
                (!conditions.iter().any(syn))
                    .then_some("TCPMSS without `--syn`: iptables-legacy refuses it")
            }
            "TRACE" if self.context.table != TableName::Raw => {
                Some("TRACE outside the table raw: iptables-legacy refuses it")
            }
            _ => None,
        };
        if let Some(message) = differs {
            self.remark(Code::BackendsDiffer, word, message);
        }
        let cut_prefix = matches!(target, Target::Log(_));
        let options = self.words.iter().enumerate().skip(word);
        let prefix =
            options.filter(|(_, one)| one.text.len() > 2 && "--log-prefix".starts_with(&*one.text));
        let long = prefix
            .map(|(index, _)| index + 1)
            .find(|&index| self.words.get(index).is_some_and(|one| one.text.len() > 29));
        if let Some(index) = long.filter(|_| cut_prefix) {
            self.remark(
                Code::LogPrefixTooLong,
                index,
                "a log prefix has at most 29 bytes; the rest is cut off",
            );
        }
        Ok(())
    }
}
