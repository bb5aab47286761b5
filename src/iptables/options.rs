//! Options and the modules that they belong to, looked up as `getopt_long` does.

use super::matches;
use super::model::{Match, Target};
use super::spec::{Opt, Spec};
use crate::net::Family;

/// The options that belong to no module, with their short forms and whether they have a value.
#[rustfmt::skip]
const GLOBAL: [(&str, char, Value); 37] = [
    ("append", 'A', ONE), ("delete", 'D', ONE), ("check", 'C', ONE), ("insert", 'I', ONE),
    ("replace", 'R', ONE), ("list", 'L', OPTIONAL), ("list-rules", 'S', OPTIONAL), ("flush", 'F', OPTIONAL),
    ("zero", 'Z', OPTIONAL), ("new-chain", 'N', ONE), ("delete-chain", 'X', OPTIONAL),
    ("rename-chain", 'E', ONE), ("policy", 'P', ONE), ("source", 's', ONE), ("destination", 'd', ONE),
    ("src", 's', ONE), ("dst", 'd', ONE), ("protocol", 'p', ONE), ("in-interface", 'i', ONE),
    ("jump", 'j', ONE), ("table", 't', ONE), ("match", 'm', ONE), ("numeric", 'n', NONE),
    ("out-interface", 'o', ONE), ("verbose", 'v', NONE), ("wait", 'w', OPTIONAL),
    ("wait-interval", 'W', OPTIONAL), ("exact", 'x', NONE), ("fragments", 'f', NONE), ("version", 'V', NONE),
    ("help", 'h', OPTIONAL), ("line-numbers", '0', NONE), ("modprobe", 'M', ONE), ("set-counters", 'c', ONE),
    ("goto", 'g', ONE), ("ipv4", '4', NONE), ("ipv6", '6', NONE),
];

const NONE: Value = Value::None;
const ONE: Value = Value::One;
const OPTIONAL: Value = Value::Optional;

/// Whether an option has a value.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Value {
    None,
    One,
    Optional,
}

/// A module that a line loaded, and where its name stands.
pub(super) struct Use {
    pub module: Loaded,
    /// The index of the word with the name.
    pub word: usize,
    /// Where the name begins in its word.
    pub inline: usize,
}

/// What `-m`, `-j` or a protocol loads.
#[derive(Clone, Copy)]
pub(super) enum Loaded {
    Match(&'static Spec<Match>),
    Target(&'static Spec<Target>),
    UnknownMatch,
    UnknownTarget,
}

impl Loaded {
    pub fn options(&self) -> &'static [Opt] {
        match self {
            Self::Match(spec) => spec.options,
            Self::Target(spec) => spec.options,
            Self::UnknownMatch | Self::UnknownTarget => &[],
        }
    }

    pub fn is_known(&self) -> bool {
        matches!(self, Self::Match(_) | Self::Target(_))
    }
}

/// What an option's name stands for.
pub(super) enum Name {
    /// The letter of an option without a module.
    Global(char, Value),
    /// An option of a module: the index of its use, and the option.
    Module(usize, &'static Opt),
}

/// The option of a letter.
pub(super) fn of_letter(letter: char) -> Option<Value> {
    let known = GLOBAL
        .iter()
        .find(|(_, short, _)| *short == letter && letter != '0');
    known.map(|(.., value)| *value)
}

/// The option of a long name, or of the beginning of one when no other begins so. What was loaded last comes first.
pub(super) fn of_name(name: &str, uses: &[Use]) -> Option<Name> {
    // No module has an option whose name is a global one's, so the order of these two does not matter.
    for (index, one) in uses.iter().enumerate().rev() {
        for option in one.module.options() {
            if option.name == name || option.also.contains(&name) {
                return Some(Name::Module(index, option));
            }
        }
    }
    if let Some((_, short, value)) = GLOBAL.iter().find(|(long, ..)| *long == name) {
        return Some(Name::Global(*short, *value));
    }
    let mut found = None;
    for (_, short, value) in GLOBAL.iter().filter(|(long, ..)| long.starts_with(name)) {
        match found {
            None => found = Some(Name::Global(*short, *value)),
            Some(Name::Global(same, _)) if same == *short => {}
            Some(_) => return None,
        }
    }
    for (index, one) in uses.iter().enumerate().rev() {
        for option in one.module.options() {
            if !option.names().any(|known| known.starts_with(name)) {
                continue;
            }
            match found {
                None => found = Some(Name::Module(index, option)),
                Some(Name::Module(other, same)) if other == index && std::ptr::eq(same, option) => {
                }
                Some(_) => return None,
            }
        }
    }
    found
}

/// Whether a match of the family has an option of exactly this name.
pub(super) fn has_option(spec: &Spec<Match>, name: &str) -> bool {
    spec.options
        .iter()
        .any(|option| option.names().any(|known| known == name))
}

/// The match that belongs to a protocol's name, in any case.
pub(super) fn of_protocol(name: &str, family: Family) -> Option<&'static Spec<Match>> {
    match name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => matches::find(&name.to_ascii_lowercase(), family),
        false => matches::find(name, family),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iptables::targets;

    #[test]
    fn no_module_has_an_option_of_a_global_name() {
        let options = matches::all()
            .flat_map(|spec| spec.options)
            .chain(targets::all().flat_map(|spec| spec.options));
        for name in options.flat_map(Opt::names) {
            assert!(!GLOBAL.iter().any(|(long, ..)| *long == name), "{name}");
        }
    }

    #[test]
    fn beginnings_are_enough_where_no_other_option_begins_so() {
        let global = |name| match of_name(name, &[]) {
            Some(Name::Global(letter, _)) => Some(letter),
            _ => None,
        };
        assert_eq!(global("proto"), Some('p'));
        assert_eq!(global("ds"), Some('d'));
        assert_eq!(global("in"), None);
        assert_eq!(global("out"), Some('o'));
        let spec = matches::find("tcp", Family::V4).unwrap();
        let uses = [Use {
            module: Loaded::Match(spec),
            word: 0,
            inline: 0,
        }];
        let option = |name| match of_name(name, &uses) {
            Some(Name::Module(_, option)) => Some(option.name),
            _ => None,
        };
        assert_eq!(option("dpo"), Some("dport"));
        assert_eq!(option("d"), None);
        assert_eq!(option("source-p"), Some("sport"));
    }
}
