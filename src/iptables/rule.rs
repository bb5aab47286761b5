//! Reads one command line of a rules file as the parser of iptables does.

use std::ops::Range;

use super::argument;
use super::extensions::Extensions;
use super::lex::Word;
use super::model::*;
use super::names;
use super::options::{self, LoadedModule, OptionArity, OptionKey, Use};
use super::spec::{Given, ModuleSpec, Opt, Problem};
use super::value::{Interface, Negatable, Network};
use super::{matches, targets};
use crate::diag::Code;
use crate::net::{Family, Protocol};

/// The command of a line.
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
    /// `-Z`, `-L`, `-S`, `-C`, `-V`, `-h`: changes no rule, and so does not matter here
    Nothing,
}

/// A line that was read: its command, and its rules.
pub(super) struct RuleLine<'a> {
    pub command: Command<'a>,
    /// The rule of the command; `None` for a command without one.
    pub rule: Option<Rule>,
    /// Further rules, if an address option lists several addresses.
    pub more: Vec<Rule>,
    /// The hooks in which the kernel accepts the rule.
    pub hooks: u8,
    /// Warnings about the line.
    pub remarks: Vec<Remark>,
}

/// A warning with its place.
pub(super) struct Remark {
    pub code: Code,
    pub range: Range<usize>,
    pub message: String,
}

/// The surroundings that decide how the words of a rule are read.
pub(super) struct Context<'c> {
    pub family: Family,
    pub table: TableName,
    /// Returns `true` if the table has a user-defined chain of this name.
    pub has_chain: &'c dyn Fn(&str) -> bool,
    /// What to do with matches and targets that are not known.
    pub extensions: Extensions<'c>,
}

/// Buffers that are used again for each line, so that most lines are read without an allocation.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) uses: Vec<Use>,
    pub(super) given: Vec<Given>,
    /// The words that follow a module that is not known: the index of the module, and the index of the word.
    pub(super) kept: Vec<(usize, usize)>,
}

/// The addresses of `-s` or `-d`; mostly one.
#[derive(Default)]
pub(super) struct AddressTerms {
    pub(super) first: Option<Negatable<Network>>,
    pub(super) more: Vec<Negatable<Network>>,
}

impl AddressTerms {
    pub(super) fn iter(&self) -> impl Iterator<Item = Option<Negatable<Network>>> {
        std::iter::once(self.first)
            .chain(self.more.iter().copied().map(Some))
            .map(|term| {
                // A network of all addresses is no condition and is not printed. Negated it matches nothing, and is kept.
                term.filter(|term| term.negated || term.value.prefix_length() != Some(0))
            })
    }
}

/// The words of a line, and what was read from them so far.
pub(super) struct RuleReader<'a, 'w, 'c> {
    pub(super) words: &'a [Word<'w>],
    pub(super) context: &'c Context<'c>,
    pub(super) scratch: &'c mut Scratch,
    pub(super) at: usize,
    pub(super) sources: AddressTerms,
    pub(super) destinations: AddressTerms,
    pub(super) in_interface: Option<Negatable<Interface>>,
    pub(super) out_interface: Option<Negatable<Interface>>,
    pub(super) protocol: Option<(Negatable<u8>, &'a str)>,
    pub(super) fragment: Option<bool>,
    pub(super) counters: Option<Counters>,
    pub(super) target: Target,
    /// The index of the word after `-j` or `-g`.
    pub(super) jump: usize,
    /// The options of iptables itself that were given, as bits by letter.
    pub(super) seen: u64,
    pub(super) command: Option<(usize, Command<'a>)>,
    pub(super) remarks: Vec<Remark>,
    pub(super) skipped: bool,
}

/// Reads the words of a line. Returns `Ok(None)` if the line has `-4` or `-6` for the other family: the tool skips it.
pub(super) fn read<'a, 'c>(
    words: &'a [Word<'_>],
    context: &'c Context<'c>,
    scratch: &'c mut Scratch,
) -> Result<Option<RuleLine<'a>>, Problem> {
    scratch.uses.clear();
    scratch.given.clear();
    scratch.kept.clear();
    let mut reader = RuleReader {
        words,
        context,
        scratch,
        at: 0,
        sources: AddressTerms::default(),
        destinations: AddressTerms::default(),
        in_interface: None,
        out_interface: None,
        protocol: None,
        fragment: None,
        counters: None,
        target: Target::None,
        jump: 0,
        seen: 0,
        command: None,
        remarks: Vec::new(),
        skipped: false,
    };
    reader.options()?;
    match reader.skipped {
        true => Ok(None),
        false => reader.finish().map(Some),
    }
}

impl<'a> RuleReader<'a, '_, '_> {
    pub(super) fn problem<T>(&self, word: usize, message: impl Into<String>) -> Result<T, Problem> {
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

    pub(super) fn remark(&mut self, code: Code, word: usize, message: impl Into<String>) {
        self.remarks.push(Remark {
            code,
            range: self.words[word].range.clone(),
            message: message.into(),
        });
    }

    pub(super) fn text(&self, word: usize) -> &'a str {
        &self.words[word].text
    }

    /// Reads all words, each `!` together with the option behind it.
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
            if self.keeps(text, negated) {
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

    /// Takes the next word if it belongs to an unknown module before it: every word does that is not an option of iptables
    /// or of a known module. Returns `true` if it was taken.
    fn keeps(&mut self, text: &'a str, negated: Option<usize>) -> bool {
        let index = match self.scratch.uses.last() {
            Some(last) if !last.module.is_known() => self.scratch.uses.len() - 1,
            _ => return false,
        };
        let own = match text.strip_prefix("--") {
            Some(name) => {
                let name = name.split('=').next().unwrap_or(name);
                let of_protocol = self
                    .protocol_module()
                    .is_some_and(|spec| options::has_option(spec, name));
                options::of_name(name, &self.scratch.uses).is_none() && !of_protocol
            }
            None => !text.starts_with('-') || text.len() == 1,
        };
        if own {
            self.scratch.kept.extend(negated.map(|word| (index, word)));
            self.scratch.kept.push((index, self.at));
            self.at += 1;
        }
        own
    }

    /// Reads a long option, with or without `=value`.
    fn long(&mut self, text: &'a str, negated: bool) -> Result<(), Problem> {
        let (name, inline) = match text.find('=') {
            Some(index) => (&text[..index], 2 + index + 1),
            None => (text, 0),
        };
        let found = options::of_name(name, &self.scratch.uses).or_else(|| {
            self.load_protocol_module();
            options::of_name(name, &self.scratch.uses)
        });
        match found {
            None => self.problem(self.at, format!("unknown option \"--{name}\"")),
            Some(OptionKey::Global(letter, value)) => self.global(letter, value, inline, negated),
            Some(OptionKey::Module(index, option)) => {
                self.module_option(index, option, inline, negated)
            }
        }
    }

    /// Reads a word of short options. The first one with a value takes the rest of the word.
    fn short(&mut self, letters: &'a str, negated: bool) -> Result<(), Problem> {
        let word = self.at;
        for (index, letter) in letters.char_indices() {
            let Some(value) = options::of_letter(letter) else {
                return self.problem(word, format!("unknown option \"-{letter}\""));
            };
            let rest = index + letter.len_utf8();
            if value != OptionArity::None {
                let inline = if rest < letters.len() { 1 + rest } else { 0 };
                return self.global(letter, value, inline, negated);
            }
            self.global(letter, value, 0, negated)?;
            // `global` moves to the word behind an option; the next letter is still in this one.
            self.at = word;
        }
        self.at = word + 1;
        Ok(())
    }

    /// Returns the match of the protocol that `-p` gave. By number, the tool uses the name of /etc/protocols.
    fn protocol_module(&self) -> Option<&'static ModuleSpec<Match>> {
        let (protocol, name) = self.protocol?;
        let number = argument::leading_number(name).is_some_and(|(_, rest)| rest.is_empty());
        let name = match number {
            true => names::protocol_name(protocol.value)?,
            false => name,
        };
        options::of_protocol(name, self.context.family)
    }

    /// Loads the match of the protocol, as the tool does for an option that it does not know: `-p tcp --dport 22` needs no
    /// `-m tcp`.
    fn load_protocol_module(&mut self) {
        let Some(spec) = self.protocol_module() else {
            return;
        };
        let loaded = |one: &Use| matches!(one.module, LoadedModule::Match(known) if std::ptr::eq(known, spec));
        if !self.scratch.uses.iter().any(loaded) {
            self.load(LoadedModule::Match(spec), self.at, 0);
        }
    }

    /// Adds a module to those of the line.
    fn load(&mut self, module: LoadedModule, word: usize, inline: usize) {
        self.scratch.uses.push(Use {
            module,
            word,
            inline,
        });
    }

    /// Reads an option of a module with its values, and checks it against the options that were given before.
    fn module_option(
        &mut self,
        module: usize,
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
        if values == 2 && second.is_none_or(|text| text.starts_with(['-', '!'])) {
            return self.problem(word, format!("--{} requires two args", option.name));
        }
        if negated && !option.negatable {
            return self.problem(
                word,
                format!("option \"--{}\" cannot be inverted", option.name),
            );
        }
        for other in self
            .scratch
            .given
            .iter()
            .filter(|other| other.module == module)
        {
            if std::ptr::eq(other.option, option) && !option.repeats {
                return self.problem(
                    word,
                    format!("option \"--{}\" can only be used once", option.name),
                );
            }
            let (one, other) = (option, other.option);
            if one.excludes.contains(&other.name) || other.excludes.contains(&one.name) {
                let message = format!(
                    "option \"--{}\" cannot be used together with \"--{}\"",
                    one.name, other.name
                );
                return self.problem(word, message);
            }
        }
        self.scratch.given.push(Given {
            module,
            option,
            negated,
            first,
            inline,
            protocol: self.protocol.map(|(protocol, _)| protocol),
        });
        self.at = if values == 0 {
            word + 1
        } else {
            first + values
        };
        Ok(())
    }

    /// Reads an option of iptables itself. Its value is the rest of its word, or the next word.
    ///
    /// The tool takes the value of `-s`, `-d`, `-p`, `-i`, `-o` and `-j` from the last word that it has read, also where
    /// the value is the rest of a word: of `-s10.0.0.1` it takes the whole word. So does this.
    fn global(
        &mut self,
        letter: char,
        value: OptionArity,
        inline: usize,
        negated: bool,
    ) -> Result<(), Problem> {
        let word = self.at;
        let (index, from) = match (value, inline) {
            (OptionArity::One, 0) => (word + 1, 0),
            (OptionArity::One, _) if matches!(letter, 's' | 'd' | 'p' | 'i' | 'o' | 'j') => {
                (word, 0)
            }
            (OptionArity::One, inline) => (word, inline),
            _ => (word, 0),
        };
        if index >= self.words.len() {
            return self.problem(word, format!("option \"-{letter}\" requires an argument"));
        }
        if value != OptionArity::None {
            self.at = index + 1;
        }
        let text = &self.text(index)[from..];
        // The letters of options that may be given once. `-j` and `-g` count as one.
        if "sdpiojgf".contains(letter) {
            let once = if letter == 'g' { 'j' } else { letter };
            let bit = 1 << (once as u32 - 'a' as u32);
            if self.seen & bit != 0 {
                return self.problem(word, format!("multiple -{once} flags not allowed"));
            }
            self.seen |= bit;
        }
        if negated && !"sdpiof46".contains(letter) {
            return self.problem(word, format!("unexpected ! flag before -{letter}"));
        }
        match letter {
            's' | 'd' => self.addresses(letter, index, text, negated),
            'p' => self.read_protocol(index, text, negated),
            'i' | 'o' => self.interface(letter, index, text, negated),
            'f' if self.context.family == Family::V6 => self.problem(word, "unknown option \"-f\""),
            'f' => {
                self.fragment = Some(negated);
                self.at = word + 1;
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
                self.at = word + 1;
                Ok(())
            }
            'A' | 'I' | 'D' | 'R' | 'N' | 'P' | 'F' | 'X' | 'E' | 'Z' | 'L' | 'S' | 'C' | 'h'
            | 'V' => {
                self.at = index + 1;
                self.read_command(letter, word, text)
            }
            'v' | 'M' => {
                self.at = index + 1;
                Ok(())
            }
            't' => self.problem(word, "the -t option cannot be used in a rules file"),
            _ => self.problem(word, format!("illegal option `-{letter}` in a rules file")),
        }
    }

    /// Reads the addresses of `-s` or `-d`. A list gives one rule for each address; the tool refuses a list with `!`.
    fn addresses(
        &mut self,
        letter: char,
        word: usize,
        text: &str,
        negated: bool,
    ) -> Result<(), Problem> {
        let mut addresses = AddressTerms::default();
        let mut rest = Some(text);
        while let Some(items) = rest {
            let comma = items.bytes().position(|byte| byte == b',');
            let item = &items[..comma.unwrap_or(items.len())];
            rest = comma.map(|index| &items[index + 1..]);
            let value = match argument::network(item.trim_matches([' ', '\t']), self.context.family)
            {
                Ok(value) => value,
                Err(message) => return self.problem(word, message),
            };
            let term = Negatable { negated, value };
            match addresses.first {
                None => addresses.first = Some(term),
                Some(_) if negated => {
                    return self.problem(
                        word,
                        "! not allowed with multiple source or destination IP addresses",
                    );
                }
                Some(_) => addresses.more.push(term),
            }
            if negated && value.prefix_length() == Some(0) {
                let message = "`!` and every address: iptables-legacy never matches it, iptables-nft refuses it";
                self.remark(Code::BackendsDiffer, word, message);
            }
        }
        match letter {
            's' => self.sources = addresses,
            _ => self.destinations = addresses,
        }
        Ok(())
    }

    /// Reads the protocol of `-p`.
    fn read_protocol(&mut self, word: usize, text: &'a str, negated: bool) -> Result<(), Problem> {
        match argument::protocol(text) {
            Ok(0) if negated => self.problem(word, "rule would never match protocol"),
            Ok(value) => {
                if value == Protocol::AH.0 && self.context.family == Family::V6 {
                    // `ipv6_find_hdr` of ip6_tables skips the header, `meta l4proto` of nf_tables does not.
                    let message = "in IPv6, iptables-nft compares `-p` with the authentication header, iptables-legacy with the \
                        protocol behind it; `-m ah` matches the header with both";
                    self.remark(Code::BackendsDiffer, word, message);
                }
                self.protocol = Some((Negatable { negated, value }, text));
                Ok(())
            }
            Err(message) => self.problem(word, message),
        }
    }

    /// Reads the device of `-i` or `-o`. `+` alone is no condition and is not printed.
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
            let message = "`!` and every interface never matches; iptables-legacy saves it as nothing, iptables-nft keeps it";
            self.remark(Code::BackendsDiffer, word, message);
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

    /// Loads the match of `-m`.
    fn load_match(&mut self, word: usize, inline: usize, name: &str) -> Result<(), Problem> {
        let module = match matches::find(name, self.context.family) {
            Some(spec) => LoadedModule::Match(spec),
            None if self.context.extensions.keeps_match(name) => {
                let message = format!("the match `{name}` is not known; it is kept as it is");
                self.remark(Code::UnknownExtension, word, message);
                LoadedModule::UnknownMatch
            }
            None => {
                return self.problem(
                    word,
                    format!("couldn't load match `{name}`: it is not known"),
                );
            }
        };
        self.load(module, word, inline);
        Ok(())
    }

    /// Reads the target of `-j`. A target of iptables comes before a chain of the same name.
    fn jump(&mut self, word: usize, name: &'a str) -> Result<(), Problem> {
        if name.is_empty() || name.len() > 28 || name.contains([' ', '\t', '\n']) {
            return self.problem(word, format!("invalid target name `{name}`"));
        }
        self.jump = word;
        self.target = match name {
            "ACCEPT" => Target::Accept,
            "DROP" => Target::Drop,
            "RETURN" => Target::Return,
            "QUEUE" => {
                let message =
                    "iptables-legacy takes QUEUE, iptables-nft does not; NFQUEUE is for both";
                self.remark(Code::BackendsDiffer, word, message);
                Target::Queue
            }
            _ => match targets::find(name, self.context.family) {
                Some(spec) => {
                    self.load(LoadedModule::Target(spec), word, 0);
                    Target::None
                }
                None if (self.context.has_chain)(name) => Target::Jump(name.into()),
                None if self.keeps_target(word, name) => {
                    let message = format!("the target `{name}` is not known; it is kept as it is");
                    self.remark(Code::UnknownExtension, word, message);
                    self.load(LoadedModule::UnknownTarget, word, 0);
                    Target::None
                }
                None => {
                    let message =
                        format!("chain `{name}` does not exist, and no such target is known");
                    return self.problem(word, message);
                }
            },
        };
        Ok(())
    }

    /// Returns `true` if a target that is not known is kept. Options behind it, or a name that an extension elsewhere has,
    /// tell it from a chain that does not exist.
    fn keeps_target(&self, word: usize, name: &str) -> bool {
        match self.context.extensions {
            Extensions::KnownOnly => false,
            Extensions::KeepUnknown => true,
            Extensions::Declared { targets, .. } => targets.contains(&name),
            Extensions::KeepPlausible => {
                let mut rest = self.words.iter().skip(word + 1);
                let is_option = |text: &str| text.starts_with("--");
                names::OTHER_TARGETS.contains(&name) || rest.any(|word| is_option(&word.text))
            }
        }
    }

    /// Reads the chain of `-g`.
    fn goto(&mut self, word: usize, name: &str) -> Result<(), Problem> {
        if !(self.context.has_chain)(name) {
            return self.problem(word, format!("chain `{name}` does not exist"));
        }
        self.target = Target::Goto(name.into());
        self.jump = word;
        Ok(())
    }

    /// Reads the counters of `-c`: two words, or one with a comma.
    fn read_counters(&mut self, word: usize, text: &str) -> Result<(), Problem> {
        let numbers = match text.split_once(',') {
            Some(numbers) => Some(numbers),
            None => self.operand().map(|bytes| (text, bytes)),
        };
        let read = numbers.and_then(|(packets, bytes)| {
            Some(Counters {
                packets: packets.parse().ok()?,
                bytes: bytes.parse().ok()?,
            })
        });
        match read {
            None => self.problem(word, "-c requires packet and byte counter"),
            counters => {
                self.counters = counters;
                Ok(())
            }
        }
    }

    /// Takes the next word if it is not an option.
    fn operand(&mut self) -> Option<&'a str> {
        let text = self.words.get(self.at).map(|word| &*word.text)?;
        let plain = !text.starts_with(['-', '!']);
        self.at += usize::from(plain);
        plain.then_some(text)
    }

    /// Takes the next word if it is the number of a rule.
    fn position(&mut self) -> Option<usize> {
        let text = self.words.get(self.at).map(|word| &*word.text);
        let number = text
            .and_then(|text| text.parse().ok())
            .filter(|number| *number > 0);
        self.at += usize::from(number.is_some());
        number
    }

    /// Reads the operands of a command.
    fn read_command(&mut self, letter: char, word: usize, text: &'a str) -> Result<(), Problem> {
        if let Some((other, _)) = &self.command {
            let other = self.text(*other);
            return self.problem(word, format!("cannot use -{letter} with {other}"));
        }
        let command = match letter {
            'A' => Command::Append(text),
            'I' => Command::Insert(text, self.position().unwrap_or(1)),
            'D' => match self.position() {
                Some(number) => Command::DeleteAt(text, number),
                None => Command::Delete(text),
            },
            'R' => match self.position() {
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
}
