use super::{DependentTables, Gap};
use crate::apply::owned::Owned;
use crate::apply::patch;
use crate::iptables::TableName;
use crate::live::LiveRuleset;
use crate::net::{Family, PerFamily};
use crate::policy::Preserve;
use crate::resolve::Ownership;

fn dump(text: &str) -> LiveRuleset {
    LiveRuleset::parse(text).unwrap()
}

fn owned(ownership: &Ownership) -> Owned {
    let files = PerFamily::from_fn(|_| dump("*mangle\nCOMMIT\n*nat\nCOMMIT\n*filter\nCOMMIT\n"));
    Owned::of_files(&files, ownership)
}

/// What is done and seen on the way from `live` to fwc's parts `new`.
fn crossed(ownership: &Ownership, live: &LiveRuleset, new: &str) -> (LiveRuleset, Option<Gap>) {
    let owned = owned(ownership);
    let target = owned.with(Family::V4, live, &dump(new));
    let changed = patch::changed(live, &target, owned.tables(Family::V4));
    let change = DependentTables {
        owned: &owned,
        family: Family::V4,
        live,
        target: &target,
        changed: &changed,
    };
    let (filter, gap) = change.transition();
    (filter.unwrap().ours, gap)
}

/// The same from fwc's parts `old`, where others have these rules in the filter.
fn seen(ownership: &Ownership, others: &str, old: &str, new: &str) -> Option<Gap> {
    let others = dump(&format!("*filter\n{others}COMMIT\n"));
    let live = owned(ownership).with(Family::V4, &others, &dump(old));
    crossed(ownership, &live, new).1
}

fn alone() -> Ownership {
    Ownership::default()
}

fn preserving() -> Ownership {
    Ownership::Exclusive {
        preserve: vec![Preserve::Chain("DOCKER".to_owned())],
    }
}

/// Neither loses nor opens.
const NOTHING: Option<Gap> = None;

const LOSES: Option<Gap> = Some(Gap {
    family: Family::V4,
    is_bridged: true,
    may_open: false,
});

const OPENS: Option<Gap> = Some(Gap {
    family: Family::V4,
    is_bridged: true,
    may_open: true,
});

/// A ruleset that translates port 80 to this port of a server, and lets this port of it through.
fn forwards(translated: u16, open: u16) -> String {
    format!(
        "*nat\n-A PREROUTING -i eth0 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.2:{translated}\nCOMMIT\n*filter\n:FORWARD DROP [0:0]\n-A FORWARD -i eth0 -d 10.0.0.2/32 -p tcp -m tcp --dport {open} -j ACCEPT\nCOMMIT\n"
    )
}

/// The same in shared mode.
fn shared(translated: u16, open: u16) -> String {
    let text = forwards(translated, open);
    let text = text
        .replace("-A ", "-A FWC-")
        .replace(":FORWARD DROP [0:0]\n", "");
    text.replace(
        "*nat\n",
        "*nat\n:FWC-PREROUTING - [0:0]\n-A PREROUTING -j FWC-PREROUTING\n",
    )
    .replace(
        "*filter\n",
        "*filter\n:FWC-FORWARD - [0:0]\n-A FORWARD -j FWC-FORWARD\n",
    )
    .replace(
        "--dport 8080 -j ACCEPT\n",
        "--dport 8080 -j ACCEPT\n-A FWC-FORWARD -i eth0 -o eth1 -j DROP\n",
    )
    .replace(
        "--dport 8081 -j ACCEPT\n",
        "--dport 8081 -j ACCEPT\n-A FWC-FORWARD -i eth0 -o eth1 -j DROP\n",
    )
}

const DOCKER: &str = ":FORWARD DROP [0:0]\n:DOCKER - [0:0]\n-A FORWARD -o docker0 -j DOCKER\n-A FORWARD -i docker0 ! -o docker0 -j ACCEPT\n-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT\n";

#[test]
fn engine_tells_whether_a_filter_opens() {
    // Each translates to what it lets through.
    let alike = |write: fn(u16, u16) -> String| (write(8080, 8080), write(8081, 8081));
    // Each translates to what the other one alone lets through: in between port 80 would be open.
    let turned = |write: fn(u16, u16) -> String| (write(8080, 8081), write(8081, 8080));
    for (ownership, others, write) in [
        (alone(), "", forwards as fn(u16, u16) -> String),
        (preserving(), DOCKER, forwards),
        (Ownership::Shared, "", shared),
        (Ownership::Shared, DOCKER, shared),
    ] {
        let (old, new) = alike(write);
        assert_eq!(
            seen(&ownership, others, &old, &new),
            NOTHING,
            "{ownership:?}"
        );
        let (old, new) = turned(write);
        assert_eq!(seen(&ownership, others, &old, &new), LOSES, "{ownership:?}");
    }
}

/// A copy of a rule has the same conditions as the rule itself, whether somebody understands them or not.
#[test]
fn rates_stay_what_they_are() {
    let limit = |text: String| {
        text.replace("-j ACCEPT\n", "-j FWC-RATE\n")
            .replace("*filter\n", "*filter\n:FWC-RATE - [0:0]\n-A FWC-RATE -m limit --limit 5/min -j ACCEPT\n-A FWC-RATE -j DROP\n")
    };
    for (ownership, others, write) in [
        (alone(), "", forwards as fn(u16, u16) -> String),
        (Ownership::Shared, DOCKER, shared),
    ] {
        let (old, new) = (limit(write(8080, 8080)), limit(write(8081, 8081)));
        assert_eq!(
            seen(&ownership, others, &old, &new),
            NOTHING,
            "{ownership:?}"
        );
    }
    // Where others let in what fwc leaves to them, what comes too often for the old rules would get through.
    let (old, new) = (limit(shared(8080, 8080)), limit(shared(8081, 8081)));
    let open = ":FORWARD ACCEPT [0:0]\n";
    assert_eq!(seen(&Ownership::Shared, open, &old, &new), LOSES);
}

/// What others let through that fwc leaves to them is neither lost nor opened by what fwc changes.
#[test]
fn others_decide_the_rest() {
    let (old, new) = (shared(8080, 8080), shared(8081, 8081));
    let open = ":FORWARD ACCEPT [0:0]\n";
    assert_eq!(seen(&Ownership::Shared, open, &old, &new), NOTHING);
    // fwc begins to forward, and ends it.
    assert_eq!(seen(&Ownership::Shared, DOCKER, "", &new), NOTHING);
    assert_eq!(seen(&Ownership::Shared, DOCKER, &old, ""), NOTHING);
}

/// Somebody's rule before fwc's decides first, until fwc's come first again.
#[test]
fn what_stands_before_fwc_counts() {
    let moved = shared(8080, 8080).replace(
        "-A FORWARD -j FWC-FORWARD\n",
        "-A FORWARD -s 10.0.0.66/32 -j DROP\n-A FORWARD -j FWC-FORWARD\n",
    );
    let (filter, gap) = crossed(&Ownership::Shared, &dump(&moved), &shared(8081, 8081));
    let old = filter.chain(TableName::Filter, "FWC-FORWARD").unwrap();
    // It goes on from the old rules, though their jump stood elsewhere.
    assert!(old.rules[0].spec.contains("--dport 8080"), "{old:?}");
    // To port 8080 of the server itself that host comes in neither, but would by what either of fwc's rules do.
    assert_eq!(gap, LOSES);
}

/// The new mark and the old translation make what neither ruleset makes.
#[test]
fn what_cannot_be_ruled_out_is_told() {
    let with_mark = |text: String, source: &str| {
        let text = text.replace("--dport 8080", "-m mark --mark 0x1 --dport 8080");
        format!(
            "*mangle\n-A PREROUTING -s {source} -i eth0 -j MARK --set-xmark 0x1/0xffffffff\nCOMMIT\n{text}"
        )
    };
    let old = with_mark(forwards(8080, 8080), "192.0.2.1/32");
    let new = with_mark(forwards(8081, 8080), "192.0.2.2/32");
    let new = new.replace(":FORWARD", ":INPUT DROP [0:0]\n:FORWARD");
    assert_eq!(seen(&alone(), "", &old, &new), OPENS);
}
