//! Finds out what loads the rules when the machine boots.

use std::fs;
use std::path::Path;

use super::concern::Concern;
use super::preflight::is_first_namespace;
use super::tools;
use crate::diag::ConcernName;
use crate::files::in_folders;

/// The folder in which netfilter-persistent expects rules files.
const PERSISTENT_FOLDER: &str = "/etc/iptables";

/// The rules to be loaded at boot.
#[derive(Clone, Copy, Debug)]
pub struct Kept<'a> {
    /// The folder of the rules files.
    pub folder: &'a Path,
    /// `true` for rules of shared mode, which only fwc loads.
    pub is_shared: bool,
    /// `true` if the rules need ipsets.
    pub has_sets: bool,
}

/// Returns `true` if the concern is that the rules are not loaded at the next boot.
pub fn is_not_loaded(concern: &Concern) -> bool {
    concern.name == ConcernName::NotLoadedAtBoot
}

/// Returns a concern if nothing loads the rules at the next boot. It only knows about machines that systemd boots, and
/// about the first network namespace.
pub fn look(kept: Kept<'_>) -> Option<Concern> {
    let runs_systemd = Path::new("/run/systemd/system").is_dir();
    if !runs_systemd || !is_first_namespace() {
        return None;
    }
    judge(kept, &System)
}

/// The answers of systemd and netfilter-persistent.
trait Boot {
    /// Returns `true` if a unit is started at boot.
    fn is_enabled(&self, unit: &str) -> bool;
    /// Returns the text of a unit with its drop-ins.
    fn text(&self, unit: &str) -> String;
    /// Returns `true` if netfilter-persistent loads ipsets.
    fn loads_sets(&self) -> bool;
}

struct System;

impl Boot for System {
    fn is_enabled(&self, unit: &str) -> bool {
        // `enabled-runtime` is gone after a reboot.
        let state = tools::output("systemctl", &["is-enabled", unit]);
        state.is_some_and(|word| matches!(word.trim(), "enabled" | "alias" | "generated"))
    }

    fn text(&self, unit: &str) -> String {
        tools::output("systemctl", &["cat", unit]).unwrap_or_default()
    }

    fn loads_sets(&self) -> bool {
        let plugins = fs::read_dir("/usr/share/netfilter-persistent/plugins.d");
        let mut plugins = plugins.into_iter().flatten().flatten();
        let is_of_sets = |name: &str| name.contains("ipset");
        in_folders("ipset").is_some()
            && plugins.any(|plugin| plugin.file_name().to_str().is_some_and(is_of_sets))
    }
}

fn judge(kept: Kept<'_>, boot: &dyn Boot) -> Option<Concern> {
    let is_usual = kept.folder == Path::new(PERSISTENT_FOLDER);
    let folder = kept.folder.display();
    let concern = |what: String, advice: String| Concern {
        name: ConcernName::NotLoadedAtBoot,
        what,
        advice,
    };
    if boot.is_enabled("fwc.service") {
        let text = boot.text("fwc.service");
        let is_named = kept.folder.to_str().is_some_and(|path| text.contains(path));
        return (!is_usual && !is_named).then(|| {
            concern(
                format!(
                    "fwc.service does not name {folder}, where these rules are kept: at the next boot it loads what it finds in {PERSISTENT_FOLDER}"
                ),
                format!("`systemctl edit fwc.service`: [Service], Environment=FWC_PERSIST_DIR={folder}"),
            )
        });
    }
    let enable = "`systemctl enable fwc.service` (packaging/fwc.service)".to_owned();
    if !boot.is_enabled("netfilter-persistent.service") {
        return Some(concern(
            "nothing loads these rules at the next boot: neither fwc.service nor netfilter-persistent.service is enabled, so that the host would start without them".to_owned(),
            enable,
        ));
    }
    let why = if kept.is_shared {
        "it does not load rules of shared mode"
    } else if !is_usual {
        "it loads what is in /etc/iptables"
    } else if kept.has_sets && !boot.loads_sets() {
        "without ipset-persistent it does not load the sets that the rules name, so that the rules do not load either"
    } else {
        return None;
    };
    Some(concern(
        format!(
            "nothing loads these rules at the next boot: netfilter-persistent.service is enabled, but {why}"
        ),
        enable,
    ))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Boot, Kept, is_not_loaded, judge};

    #[derive(Default)]
    struct Fake {
        enabled: Vec<&'static str>,
        text: &'static str,
        sets: bool,
    }

    impl Boot for Fake {
        fn is_enabled(&self, unit: &str) -> bool {
            self.enabled
                .iter()
                .any(|one| unit == format!("{one}.service"))
        }

        fn text(&self, _: &str) -> String {
            self.text.to_owned()
        }

        fn loads_sets(&self) -> bool {
            self.sets
        }
    }

    #[test]
    fn somebody_has_to_load_them() {
        let kept = |folder: &'static str, is_shared, has_sets| Kept {
            folder: Path::new(folder),
            is_shared,
            has_sets,
        };
        let usual = kept("/etc/iptables", false, false);
        let shared = kept("/etc/iptables", true, false);
        let sets = kept("/etc/iptables", false, true);
        let elsewhere = kept("/srv/rules", false, false);
        let all = [usual, shared, sets, elsewhere];
        let loaded = |boot: Fake| {
            all.map(|kept| {
                let concern = judge(kept, &boot);
                assert!(concern.iter().all(is_not_loaded));
                concern.is_none()
            })
        };
        assert_eq!(loaded(Fake::default()), [false; 4]);
        let fwc = |text| Fake {
            enabled: vec!["fwc"],
            text,
            ..Fake::default()
        };
        assert_eq!(
            loaded(fwc("ExecStart=fwc recover --boot")),
            [true, true, true, false]
        );
        assert_eq!(
            loaded(fwc("ExecStart=fwc recover --boot --persist-dir /srv/rules")),
            [true; 4]
        );
        let persistent = |sets| Fake {
            enabled: vec!["netfilter-persistent"],
            sets,
            ..Fake::default()
        };
        assert_eq!(loaded(persistent(false)), [true, false, false, false]);
        assert_eq!(loaded(persistent(true)), [true, false, true, false]);
    }
}
