//! Looks up options by name, as `getopt_long` does: in iptables itself and in the modules that the line has loaded so far.

use super::matches;
use super::model::{Match, Target};
use super::spec::{ModuleSpec, Opt};
use crate::net::Family;

/// The options of iptables itself, with their letters and whether they take a value.
#[rustfmt::skip]
const GLOBAL: [(&str, char, OptionArity); 37] = [
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

const NONE: OptionArity = OptionArity::None;
const ONE: OptionArity = OptionArity::One;
const OPTIONAL: OptionArity = OptionArity::Optional;

/// The number of values that an option takes.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum OptionArity {
    None,
    One,
    Optional,
}

/// A match or target that a line has loaded, and the place of its name.
pub(super) struct Use {
    pub module: LoadedModule,
    /// The index of the word with the name.
    pub word: usize,
    /// The byte at which the name begins in that word (`-mtcp`, `--match=tcp`).
    pub inline: usize,
}

/// A match or target that `-m`, `-j` or a protocol has loaded.
#[derive(Clone, Copy)]
pub(super) enum LoadedModule {
    Match(&'static ModuleSpec<Match>),
    Target(&'static ModuleSpec<Target>),
    UnknownMatch,
    UnknownTarget,
}

impl LoadedModule {
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

/// The option that a name means.
pub(super) enum OptionKey {
    /// An option of iptables itself: its letter.
    Global(char, OptionArity),
    /// An option of a module: the index of the module in the line, and the option.
    Module(usize, &'static Opt),
}

/// Returns the option of a letter. `--line-numbers` has no letter; the table has `0` for it.
pub(super) fn of_letter(letter: char) -> Option<OptionArity> {
    let known = GLOBAL
        .iter()
        .find(|(_, short, _)| *short == letter && letter != '0');
    known.map(|(.., value)| *value)
}

/// Returns the option of a long name, or of the beginning of one if no other option begins so. The module that was loaded
/// last comes first.
pub(super) fn of_name(name: &str, uses: &[Use]) -> Option<OptionKey> {
    // No module has an option whose name is a global one's, so the order of these two does not matter.
    for (index, one) in uses.iter().enumerate().rev() {
        for option in one.module.options() {
            if option.name == name || option.also.contains(&name) {
                return Some(OptionKey::Module(index, option));
            }
        }
    }
    if let Some((_, short, value)) = GLOBAL.iter().find(|(long, ..)| *long == name) {
        return Some(OptionKey::Global(*short, *value));
    }
    // Some names, such as `--dport` of `tcp` and `udp`, are in several modules. An exact name goes to the module that was
    // loaded last; a beginning must be unambiguous over all modules.
    let mut found = None;
    for (_, short, value) in GLOBAL.iter().filter(|(long, ..)| long.starts_with(name)) {
        match found {
            None => found = Some(OptionKey::Global(*short, *value)),
            Some(OptionKey::Global(same, _)) if same == *short => {}
            Some(_) => return None,
        }
    }
    for (index, one) in uses.iter().enumerate().rev() {
        for option in one.module.options() {
            if !option.names().any(|known| known.starts_with(name)) {
                continue;
            }
            match found {
                None => found = Some(OptionKey::Module(index, option)),
                Some(OptionKey::Module(other, same))
                    if other == index && std::ptr::eq(same, option) => {}
                Some(_) => return None,
            }
        }
    }
    found
}

/// Returns `true` if a match has an option of exactly this name.
pub(super) fn has_option(spec: &ModuleSpec<Match>, name: &str) -> bool {
    spec.options
        .iter()
        .any(|option| option.names().any(|known| known == name))
}

/// Returns the match of a protocol name in `-p`, in upper or lower case. `-p tcp` allows `--dport` without `-m tcp`.
pub(super) fn of_protocol(name: &str, family: Family) -> Option<&'static ModuleSpec<Match>> {
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
            Some(OptionKey::Global(letter, _)) => Some(letter),
            _ => None,
        };
        assert_eq!(global("proto"), Some('p'));
        assert_eq!(global("ds"), Some('d'));
        assert_eq!(global("in"), None);
        assert_eq!(global("out"), Some('o'));
        let spec = matches::find("tcp", Family::V4).unwrap();
        let uses = [Use {
            module: LoadedModule::Match(spec),
            word: 0,
            inline: 0,
        }];
        let option = |name| match of_name(name, &uses) {
            Some(OptionKey::Module(_, option)) => Some(option.name),
            _ => None,
        };
        assert_eq!(option("dpo"), Some("dport"));
        assert_eq!(option("d"), None);
        assert_eq!(option("source-p"), Some("sport"));
    }
}
