//! `fwc matrix`.

use serde_json::{Value, json};

use crate::fwc::{Run, folder, root, run};

/// The rules and the answer that the documentation shows: blocks of text, in their order.
fn shown() -> Vec<String> {
    let text = std::fs::read_to_string(root().join("docs/guides/matrix.md")).expect("a page");
    let blocks = text.split("```text\n").skip(1);
    let blocks = blocks.map(|block| block.split("```").next().expect("an end").to_owned());
    blocks.collect()
}

fn json_of(run: &Run) -> Value {
    assert_eq!(run.status, 0, "{}", run.err);
    serde_json::from_str(&run.out).expect("JSON")
}

#[test]
fn the_documentation_shows_what_comes_out() {
    let blocks = shown();
    let router = run(
        root(),
        &["matrix", "examples/router/fwc.toml", "--service", "ssh"],
    );
    assert_eq!(router.out, blocks[0], "{}", router.err);
    let folder = folder(&[("rules.v4", &blocks[1])]);
    let rules = ["matrix", "--rules", "rules.v4", "--service", "ssh"];
    let classes = run(folder.path(), &rules);
    assert_eq!(
        classes.out.trim_end(),
        blocks[2].trim_end(),
        "{}",
        classes.err
    );
    assert_eq!(classes.err, "");
    let value = json_of(&run(
        folder.path(),
        &[&rules[..], &["--format", "json"]].concat(),
    ));
    assert_eq!(value["schema"], "fwc.matrix/1");
    assert_eq!(
        value["edges"],
        json!([[1, 1], [1, 2], [2, 1], [2, 2], [3, 2]])
    );
    assert_eq!(
        value["classes"],
        json!([
            [
                "0.0.0.0-9.255.255.255",
                "11.0.0.0-192.168.0.255",
                "192.168.2.0-255.255.255.255"
            ],
            ["10.0.0.0-10.1.2.2", "10.1.2.4-10.255.255.255"],
            ["10.1.2.3"],
            ["192.168.1.0/24"]
        ])
    );
}

const DEVICES: &str = "\
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -i eth1 -p tcp -m tcp --dport 22 -j ACCEPT
-A FORWARD -i eth1 -o eth0 -j ACCEPT
-A FORWARD -i ppp0 -o eth1 -p udp -m udp --sport 53 -j ACCEPT
COMMIT
";

fn devices(arguments: &[&str]) -> Run {
    let folder = folder(&[
        ("x", DEVICES),
        ("devices", "eth1 = 10.0.0.0/8\neth0 = 192.0.2.0/24\n"),
    ]);
    let begin = ["matrix", "--rules", "x", "--family", "ipv4"];
    run(folder.path(), &[&begin[..], arguments].concat())
}

/// Without devices anybody may be anywhere; with them an address is behind its own.
#[test]
fn devices_become_addresses() {
    let free = devices(&["--service", "22/tcp"]);
    assert!(free.out.contains("1 class\n"), "{}", free.out);
    assert!(
        free.err.contains("without `--interfaces FILE` any address"),
        "{}",
        free.err
    );
    let placed = ["--interfaces", "devices", "--format", "json"];
    let value = json_of(&devices(&[&placed[..], &["--service", "22/tcp"]].concat()));
    assert_eq!(value["classes"][1], json!(["10.0.0.0/8"]));
    assert_eq!(value["classes"][2], json!(["192.0.2.0/24"]));
    assert_eq!(value["edges"], json!([[1, 2]]));
    // What no line has may be behind ppp0.
    let udp = ["--service", "4000/udp", "--source-port", "53"];
    let value = json_of(&devices(&[&placed[..], &udp].concat()));
    assert_eq!(value["edges"], json!([[0, 1], [1, 2]]));
    let other = ["--service", "4000/udp", "--source-port", "54-1000"];
    let value = json_of(&devices(&[&placed[..], &other].concat()));
    assert_eq!(value["edges"], json!([[1, 2]]));
}

#[test]
fn this_host_is_reached_on_lo_by_loopback_addresses_only() {
    let run = devices(&[
        "--chain",
        "input",
        "--service",
        "80/tcp",
        "--format",
        "json",
    ]);
    let value = json_of(&run);
    assert_eq!(value["classes"][1], json!(["127.0.0.0/8"]));
    assert_eq!(value["edges"], json!([[1, 0], [1, 1]]));
}

#[test]
fn both_families_of_a_folder() {
    let v6 = "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -s fd00::/8 -j ACCEPT\nCOMMIT\n";
    let folder = folder(&[
        ("rules.v4", "*filter\n:FORWARD DROP [0:0]\nCOMMIT\n"),
        ("rules.v6", v6),
    ]);
    let value = json_of(&run(
        folder.path(),
        &["matrix", "--rules", ".", "--format", "json"],
    ));
    assert_eq!(value["families"], json!(["ipv4", "ipv6", "ipv6"]));
    assert_eq!(value["classes"][0], json!(["0.0.0.0/0"]));
    assert_eq!(value["edges"], json!([[2, 1], [2, 2]]));
    let markdown = run(
        folder.path(),
        &[
            "matrix", "--rules", ".", "--family", "ipv6", "--format", "markdown",
        ],
    );
    assert_eq!(
        markdown.out,
        "### IPv6, FORWARD: any service, state new; 2 classes\n\n\
         | class | addresses | may reach |\n|---|---|---|\n\
         | 0 | `all but fd00::/8` | nobody |\n| 1 | `fd00::/8` | all |\n\n"
    );
}

#[test]
fn a_policy_and_what_it_depends_on() {
    let folder = folder(&[(
        "fwc.toml",
        "version = 1\n[interfaces]\nlan = \"eth1\"\n[zones]\nold = { interfaces = \"lan\", networks = \"10.0.0.0/8\" }\n\
         [services]\nadmin = [\"22/tcp\", \"8443/tcp\"]\n\
         [[rules]]\nfrom = \"old\"\nservice = \"admin\"\nlimit = \"6/minute\"\n",
    )]);
    let table = run(folder.path(), &["matrix", "--service", "admin"]);
    assert_eq!(table.status, 0, "{}", table.err);
    assert_eq!(
        table.out,
        "IPv4, IPv6: admin, state new\n\n  \
         from \\ to  any  lan  old  host\n  \
         any        -    -    -    some* v4, - v6\n  \
         lan        -    -    -    some* v4, - v6\n  \
         old        -    -    -    some*\n  \
         host       yes  yes  yes\n\n\
         * depends on:\n  within 6/min, burst 5, number 1 of INPUT\n"
    );
    let markdown = run(
        folder.path(),
        &["matrix", "--service", "http", "--format", "markdown"],
    );
    assert_eq!(
        markdown.out,
        "### IPv4, IPv6: http, state new\n\n\
         | from \\ to | any | lan | old | host |\n|---|---|---|---|---|\n\
         | any | - | - | - | - |\n| lan | - | - | - | - |\n| old | - | - | - | - |\n\
         | host | yes | yes | yes |  |\n"
    );
    let value = json_of(&run(
        folder.path(),
        &["matrix", "--service", "admin", "--format", "json"],
    ));
    assert_eq!(
        value["classes"],
        json!([["any"], ["lan"], ["old"], ["host"]])
    );
    let old = value["cells"].as_array().expect("cells").iter();
    let mut old = old.filter(|cell| cell["from"] == "old" && cell["to"] == "host");
    let cell = old.next().expect("a cell");
    assert_eq!(
        (&cell["family"], &cell["opens"]),
        (&json!("ipv4"), &json!("some"))
    );
    assert!(old.next().is_none(), "the zone has no address of IPv6");
}

#[test]
fn what_cannot_be_asked() {
    let at = |arguments: &[&str]| devices(arguments);
    for (arguments, status, says) in [
        (&["--service", "shs"][..], 1, "did you mean `ssh`?"),
        (&["--chain", "PREROUTING"], 64, "forward"),
        (&["--state", "open"], 64, "'open'"),
        (&["--source-port", "0"], 64, "use a port from 1 to 65535"),
        (&["--interfaces", "missing"], 1, "cannot read `missing`"),
        (
            &["--interfaces", "x"],
            1,
            "x:1: expected a line such as `eth1 = 10.0.0.0/8",
        ),
        (&["--live"], 64, "--live"),
        (&["fwc.toml"], 64, "POLICY"),
    ] {
        let run = at(arguments);
        assert_eq!(run.status, status, "{arguments:?}: {}", run.err);
        assert!(run.err.contains(says), "{arguments:?}: {}", run.err);
        assert_eq!(run.out, "", "{arguments:?}");
    }
    let policy = run(
        root(),
        &["matrix", "examples/router/fwc.toml", "--chain", "INPUT"],
    );
    assert_eq!(policy.status, 64, "{}", policy.err);
    let broken = folder(&[("rules.v4", "*filter\n-A FORWARD -j\nCOMMIT\n")]);
    let broken = run(broken.path(), &["matrix", "--rules", "rules.v4"]);
    assert_eq!(broken.status, 1);
    assert!(broken.err.contains("rules.v4:2"), "{}", broken.err);
}

/// The port that the world sends to opens the way, not the server's own.
#[test]
fn a_forward_by_the_port_that_arrives() {
    let policy = "version = 1\n[interfaces]\nwan = \"eth0\"\nlan = \"eth1\"\n\
        [[nat]]\ntype = \"dnat\"\nfrom = \"wan\"\nto = \"lan\"\ndestination = \"203.0.113.1\"\n\
        service = \"8080/tcp\"\nto-destination = \"10.0.0.5:80\"\n";
    let folder = folder(&[("fwc.toml", policy)]);
    for (service, opens) in [("8080/tcp", "some"), ("80/tcp", "nothing")] {
        let words = [
            "matrix",
            "--family",
            "ipv4",
            "--format",
            "json",
            "--service",
            service,
        ];
        let run = run(folder.path(), &words);
        assert_eq!(run.status, 0, "{}", run.err);
        let value: serde_json::Value = serde_json::from_str(&run.out).expect("JSON");
        let cells = value["cells"].as_array().expect("cells");
        let cell = cells
            .iter()
            .find(|cell| cell["from"] == "wan" && cell["to"] == "lan");
        assert_eq!(cell.expect("a cell")["opens"], opens, "{service}");
    }
}

/// A mask with holes has too many parts to be classes: the class that it divides names it.
#[test]
fn a_mask_that_divides_a_class_is_named() {
    let text = "*filter\n:FORWARD DROP [0:0]\n\
        -A FORWARD -s 10.0.0.7/255.0.0.255 -d 192.168.0.0/16 -p tcp -m tcp --dport 22 -j ACCEPT\n\
        -A FORWARD -s 172.16.0.0/12 -j ACCEPT\nCOMMIT\n";
    let folder = folder(&[("rules.v4", text)]);
    let matrix = |more: &[&str]| {
        run(
            folder.path(),
            &[&["matrix", "--rules", "rules.v4"], more].concat(),
        )
    };
    let ssh = matrix(&["--service", "ssh"]);
    let class = "\n  1  10.0.0.0/8, divided by 10.0.0.7/255.0.0.255\n";
    assert!(ssh.out.contains(class), "{}", ssh.out);
    assert!(ssh.out.contains("\n  1 may reach 3\n"), "{}", ssh.out);
    assert!(
        ssh.out.contains("\n  A mask divides a class"),
        "{}",
        ssh.out
    );
    let value = json_of(&matrix(&["--service", "ssh", "--format", "json"]));
    assert_eq!(
        value["divided_by"],
        json!([[], ["10.0.0.7/255.0.0.255"], [], []])
    );
    let markdown = matrix(&["--service", "ssh", "--format", "markdown"]).out;
    assert!(markdown.contains("`10.0.0.0/8`, divided by"), "{markdown}");
    // The mask is of another service.
    let http = matrix(&["--service", "http"]);
    assert!(!http.out.contains("divide"), "{}", http.out);
}
