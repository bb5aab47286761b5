//! The operands of `fwc diff`: policies, rules files, folders, git revisions, and the live rules.

use std::fmt;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use crate::net::{Family, PerFamily};

/// One side of a comparison, as named on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operand {
    /// The loaded rules of the network namespace of this process.
    Live,
    /// A policy file.
    Policy(PathBuf),
    /// A file in the format of `iptables-save`, of one family.
    Rules(PathBuf),
    /// A folder with `rules.v4`, `rules.v6` or both, and `ipsets` if there are sets.
    Folder(PathBuf),
    /// A policy, file or folder as it was at a revision of a git repository.
    Revision {
        /// The revision.
        revision: String,
        /// The file or folder; `None` for that of the other side.
        path: Option<PathBuf>,
    },
}

/// The name of the file with the sets, beside rules.v4 and rules.v6.
pub const IPSETS_FILE: &str = "ipsets";

/// The contents of a folder of rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RulesFolder {
    /// The texts of its rules files.
    pub rules: PerFamily<Option<String>>,
    /// Its sets, in the form of `ipset restore`.
    pub sets: Option<String>,
}

/// Why an operand cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OperandError {
    /// `git:` without a revision, or with an empty file name after it.
    #[error(
        "`{0}` does not name a revision: use `git:HEAD~1`, or with a file `git:HEAD~1:fwc.toml`"
    )]
    NoRevision(String),
    /// A folder without rules files.
    #[error("`{}` holds neither rules.v4 nor rules.v6", .0.display())]
    EmptyFolder(PathBuf),
    /// A file whose family is not known.
    #[error(
        "`{}` does not show whether it is for IPv4 or IPv6: add --family ipv4 or --family ipv6", .0.display()
    )]
    FamilyUnknown(PathBuf),
    /// A file cannot be read.
    #[error("cannot read `{}`: {}", .0.display(), .1)]
    Unreadable(PathBuf, io::Error),
}

impl Operand {
    /// Parses a word of the command line. A file named `live` must be written as `./live`.
    pub fn parse(word: &str) -> Result<Self, OperandError> {
        let path = PathBuf::from(word);
        if word == "live" {
            Ok(Self::Live)
        } else if let Some(revision) = word.strip_prefix("git:") {
            let (revision, path) = match revision.split_once(':') {
                Some((revision, path)) => (revision, Some(path)),
                None => (revision, None),
            };
            if revision.is_empty() || path.is_some_and(str::is_empty) {
                return Err(OperandError::NoRevision(word.to_owned()));
            }
            Ok(Self::Revision {
                revision: revision.to_owned(),
                path: path.map(PathBuf::from),
            })
        } else if path.extension().is_some_and(|end| end == "toml") {
            Ok(Self::Policy(path))
        } else if path.is_dir() {
            let holds = |family: Family| path.join(family.rules_file()).exists();
            if Family::ALL.into_iter().any(holds) {
                Ok(Self::Folder(path))
            } else {
                Err(OperandError::EmptyFolder(path))
            }
        } else {
            Ok(Self::Rules(path))
        }
    }
}

impl fmt::Display for Operand {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Live => out.write_str("live"),
            Self::Policy(path) | Self::Rules(path) | Self::Folder(path) => path.display().fmt(out),
            Self::Revision {
                revision,
                path: None,
            } => write!(out, "git:{revision}"),
            Self::Revision {
                revision,
                path: Some(path),
            } => {
                write!(out, "git:{revision}:{}", path.display())
            }
        }
    }
}

/// Reads the files of a folder; one that does not exist is `None`.
pub fn read_folder(folder: &Path) -> Result<RulesFolder, OperandError> {
    let read_if_there = |name: &str| {
        let path = folder.join(name);
        path.exists().then(|| read(&path)).transpose()
    };
    let mut texts = PerFamily::default();
    for family in Family::ALL {
        texts[family] = read_if_there(family.rules_file())?;
    }
    Ok(RulesFolder {
        rules: texts,
        sets: read_if_there(IPSETS_FILE)?,
    })
}

/// Reads a rules file, and finds its family as [`rules_text`] does.
pub fn read_rules(
    path: &Path,
    family: Option<Family>,
) -> Result<PerFamily<Option<String>>, OperandError> {
    rules_text(path, read(path)?, family)
}

/// Returns a text of rules under its family: `family`, else that of the file's extension, else that of the contents.
pub fn rules_text(
    path: &Path,
    text: String,
    family: Option<Family>,
) -> Result<PerFamily<Option<String>>, OperandError> {
    let by_name = || match path.extension()?.to_str()? {
        "v4" => Some(Family::V4),
        "v6" => Some(Family::V6),
        _ => None,
    };
    let family = family
        .or_else(by_name)
        .or_else(|| by_content(&text))
        .ok_or_else(|| OperandError::FamilyUnknown(path.to_owned()))?;
    let mut texts = PerFamily::default();
    texts[family] = Some(text);
    Ok(texts)
}

fn read(path: &Path) -> Result<String, OperandError> {
    fs::read_to_string(path).map_err(|error| OperandError::Unreadable(path.to_owned(), error))
}

/// Returns the family of a text by its contents, such as addresses and ICMP types; `None` if it shows neither or both
/// families.
fn by_content(text: &str) -> Option<Family> {
    let mut found = None;
    for sign in text.lines().filter_map(sign) {
        match found {
            None => found = Some(sign),
            Some(other) if other == sign => {}
            Some(_) => return None,
        }
    }
    found
}

/// Returns the family that a line shows.
fn sign(line: &str) -> Option<Family> {
    if let Some(comment) = line.strip_prefix("# Generated by ") {
        return if comment.starts_with("ip6tables") {
            Some(Family::V6)
        } else if comment.starts_with("iptables") {
            Some(Family::V4)
        } else {
            None
        };
    }
    let mut before = "";
    line.split_ascii_whitespace().find_map(|word| {
        let option = std::mem::replace(&mut before, word);
        match (option, word) {
            ("-p", "icmp") | (_, "--icmp-type") => Some(Family::V4),
            ("-p", "ipv6-icmp" | "icmpv6") | (_, "--icmpv6-type") => Some(Family::V6),
            ("--reject-with", reason) if reason.starts_with("icmp6-") => Some(Family::V6),
            ("--reject-with", reason) if reason.starts_with("icmp-") => Some(Family::V4),
            ("-s" | "-d", address) => {
                let address = address
                    .split_once('/')
                    .map_or(address, |(before, _)| before);
                if address.parse::<Ipv4Addr>().is_ok() {
                    Some(Family::V4)
                } else {
                    address.parse::<Ipv6Addr>().ok().map(|_| Family::V6)
                }
            }
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Operand, OperandError, by_content, read_folder, read_rules};
    use crate::net::Family;

    #[test]
    fn family_by_content() {
        for (text, expected) in [
            (
                "# Generated by ip6tables-nft-save v1.8.9\n",
                Some(Family::V6),
            ),
            ("# Generated by iptables-save v1.8.9\n", Some(Family::V4)),
            ("-A INPUT -s 192.0.2.0/24 -j DROP\n", Some(Family::V4)),
            ("-A INPUT ! -d 2001:db8::/32 -j DROP\n", Some(Family::V6)),
            ("-A INPUT -p ipv6-icmp -j ACCEPT\n", Some(Family::V6)),
            (
                "-A INPUT -j REJECT --reject-with icmp-port-unreachable\n",
                Some(Family::V4),
            ),
            ("-A INPUT -j DROP\n", None),
            (
                "-A INPUT -s 192.0.2.1 -j DROP\n-A INPUT -s ::1 -j DROP\n",
                None,
            ),
        ] {
            assert_eq!(by_content(text), expected, "{text}");
        }
    }

    #[test]
    fn operands_by_their_look() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().to_str().unwrap();
        assert_eq!(Operand::parse("live").unwrap(), Operand::Live);
        assert_eq!(
            Operand::parse("web.toml").unwrap(),
            Operand::Policy("web.toml".into())
        );
        assert_eq!(
            Operand::parse("x.rules").unwrap(),
            Operand::Rules("x.rules".into())
        );
        let git = |path: Option<&str>| Operand::Revision {
            revision: "HEAD~1".to_owned(),
            path: path.map(Into::into),
        };
        assert_eq!(Operand::parse("git:HEAD~1").unwrap(), git(None));
        assert_eq!(
            Operand::parse("git:HEAD~1:a/web.toml").unwrap(),
            git(Some("a/web.toml"))
        );
        for word in ["git:", "git::web.toml", "git:HEAD:"] {
            assert!(matches!(
                Operand::parse(word),
                Err(OperandError::NoRevision(_))
            ));
        }
        assert!(matches!(
            Operand::parse(folder),
            Err(OperandError::EmptyFolder(_))
        ));
        fs::write(root.path().join("rules.v6"), "*filter\nCOMMIT\n").unwrap();
        assert_eq!(
            Operand::parse(folder).unwrap(),
            Operand::Folder(root.path().into())
        );
        let texts = read_folder(root.path()).unwrap().rules;
        assert!(texts.v4.is_none() && texts.v6.is_some());
    }

    #[test]
    fn asked_for_family_wins_over_name() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("x.v4");
        fs::write(&path, "*filter\nCOMMIT\n").unwrap();
        assert!(read_rules(&path, None).unwrap().v4.is_some());
        assert!(read_rules(&path, Some(Family::V6)).unwrap().v6.is_some());
        let plain = root.path().join("x");
        fs::write(&plain, "*filter\nCOMMIT\n").unwrap();
        assert!(matches!(
            read_rules(&plain, None),
            Err(OperandError::FamilyUnknown(_))
        ));
    }
}
