//! Kernels without IPv4 or without IPv6: a policy that closes the missing family has nothing to load for it.

use super::error::Error;
use crate::diag::ConcernName;
use crate::live::Concern;
use crate::live::{Host, LiveRule, LiveRuleset};
use crate::net::{Family, PerFamily};

/// Stops if the kernel lacks a family that the policy lets packets of through. A kernel without the family already drops
/// all its packets, so a file that only closes it needs no load.
pub(super) fn check(host: &dyn Host, files: &PerFamily<LiveRuleset>) -> Result<(), Error> {
    let lacking = Family::ALL.into_iter().filter(|family| host.lacks(*family));
    for family in lacking {
        if !closes(&files[family]) {
            return Err(Error::NoFamily(family));
        }
    }
    Ok(())
}

/// Lists the families that the kernel lacks, as findings for the user.
pub(super) fn concerns(host: &dyn Host) -> Vec<Concern> {
    let lacking = Family::ALL.into_iter().filter(|family| host.lacks(*family));
    let concern = |family: Family| Concern {
        name: ConcernName::NoFamily,
        what: format!(
            "this kernel has no {family}; the policy closes {family}, so there is nothing to load for it"
        ),
        advice: "nothing to do now; once the kernel has it, run `fwc apply` again".to_owned(),
    };
    lacking.map(concern).collect()
}

/// Returns `true` if a file accepts no packet of its family except on the loopback device.
pub(super) fn closes(file: &LiveRuleset) -> bool {
    let only_closes = |rule: &LiveRule| {
        let (condition, target) = match rule.spec.split_once("-j ") {
            Some((condition, target)) => (condition.trim(), target),
            None => return false,
        };
        let target = target.split(' ').next().unwrap_or_default();
        match target {
            "ACCEPT" => matches!(condition, "-i lo" | "-o lo"),
            "DROP" | "REJECT" => condition.is_empty(),
            _ => target.starts_with("FWC-") && condition.is_empty(),
        }
    };
    let mut chains = file.all_chains();
    chains.all(|(_, _, chain)| chain.rules.iter().all(only_closes))
}

#[cfg(test)]
mod tests {
    use super::closes;
    use crate::live::LiveRuleset;

    #[test]
    fn only_what_closes_needs_nothing() {
        let closes = |rules: &str| {
            let head = "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT DROP [0:0]\n";
            closes(&LiveRuleset::parse(&format!("{head}{rules}COMMIT\n")).unwrap())
        };
        assert!(closes(""));
        assert!(closes(
            "-A INPUT -i lo -j ACCEPT\n-A OUTPUT -o lo -j ACCEPT\n-A INPUT -j DROP\n"
        ));
        assert!(closes(
            "-A INPUT -j REJECT --reject-with icmp6-port-unreachable\n"
        ));
        for rule in [
            "-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n",
            "-A INPUT -j ACCEPT\n",
            "-A INPUT -s 2001:db8::/32 -j DROP\n",
            "-A INPUT -j LOG\n",
            "-A INPUT -p tcp\n",
        ] {
            assert!(!closes(rule), "{rule}");
        }
    }
}
