//! What the packet engine cannot hold is answered in part: the answer says so, and claims nothing that was not looked at.

use serde_json::Value;

use crate::fwc::{Run, folder, run};

/// So little that the rules of [`tangled`] are too many, and one with each condition by itself is not.
const LITTLE: &str = "0.01";
const CLIENTS: u32 = 16;

/// Rules of which each asks for a text and a number, the texts first: together they ask 2^16 combinations.
fn tangled(last: &str) -> String {
    let mut rules = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n".to_owned();
    let text = |client: u32| format!("-m string --string client{client} --algo kmp");
    for client in 0..CLIENTS {
        rules += &format!("-A FORWARD {} -j LOG\n", text(client));
    }
    for client in 0..CLIENTS {
        let target = match client == CLIENTS - 1 {
            true => last,
            false => "ACCEPT",
        };
        let number = format!("-m u32 --u32 \"4>>16={client}\"");
        rules += &format!(
            "-A FORWARD -s 10.0.0.0/8 {} {number} -j {target}\n",
            text(client)
        );
    }
    rules + "COMMIT\n"
}

fn json(run: &Run) -> Value {
    serde_json::from_str(&run.out).unwrap_or_else(|error| panic!("{error}: {}", run.err))
}

const SAID: &str = "partial answer: ";

#[test]
fn a_partial_explanation_says_so_and_leaves_no_rule_out() {
    let folder = folder(&[("rules.v4", &tangled("ACCEPT"))]);
    let explain = |more: &[&str]| {
        let asked = ["explain", "--rules", "rules.v4", "--hook", "forward"];
        run(folder.path(), &[&asked, more].concat())
    };
    let text = explain(&["--budget", LITTLE]);
    assert_eq!(text.status, 0, "{}", text.err);
    assert!(text.err.starts_with(SAID), "{}", text.err);
    assert!(
        text.out.contains("\n  ACCEPT\n") && text.out.contains("\n  DROP\n"),
        "{}",
        text.out
    );
    let value = json(&explain(&["--budget", LITTLE, "--format", "json"]));
    assert_eq!(value["partial"], true);
    let parts = value["parts"].as_array().unwrap();
    let accepted = parts.iter().find(|part| part["verdict"] == "accept");
    let rules = accepted.unwrap()["rules"].as_array().unwrap();
    assert_eq!(rules.len(), CLIENTS as usize);
    // One client alone is no trouble, whatever is allowed.
    let whole = explain(&["--source", "192.0.2.7", "--format", "json"]);
    assert_eq!((whole.status, whole.err.as_str()), (0, ""));
    assert_eq!(json(&whole)["partial"], false);
}

#[test]
fn a_partial_matrix_says_so_and_leaves_no_edge_out() {
    let folder = folder(&[("rules.v4", &tangled("ACCEPT"))]);
    let matrix = |budget: &str| {
        let asked = ["matrix", "--rules", "rules.v4", "--format", "json"];
        run(folder.path(), &[&asked[..], &["--budget", budget]].concat())
    };
    let (partial, whole) = (matrix(LITTLE), matrix("1"));
    assert_eq!((partial.status, whole.status), (0, 0), "{}", partial.err);
    assert!(partial.err.starts_with(SAID), "{}", partial.err);
    assert_eq!(whole.err, "");
    let (partial, whole) = (json(&partial), json(&whole));
    assert_eq!(partial["partial"], true);
    assert_eq!(whole["partial"], false);
    assert_eq!(whole["edges"].as_array().unwrap().len(), 2, "{whole}");
    assert_eq!(
        (&partial["classes"], &partial["edges"]),
        (&whole["classes"], &whole["edges"])
    );
}

/// The rules that differ are said, and nothing is proven of packets that nobody compared.
#[test]
fn a_partial_difference_proves_nothing() {
    let ssh = "*filter\n:INPUT DROP [0:0]\nCOMMIT\n".to_owned();
    let open = ssh.replace(
        "COMMIT",
        "-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\nCOMMIT",
    );
    let folder = folder(&[
        ("a/rules.v4", &tangled("ACCEPT")),
        ("b/rules.v4", &tangled("DROP")),
        ("a/rules.v6", &ssh),
        ("b/rules.v6", &open),
    ]);
    let diff = |more: &[&str]| {
        let asked = ["diff", "a", "b", "--budget", LITTLE];
        run(folder.path(), &[&asked, more].concat())
    };
    let text = diff(&[]);
    assert_eq!(text.status, 2, "{}", text.err);
    assert!(
        text.err.starts_with("partial answer: IPv4: "),
        "{}",
        text.err
    );
    // IPv6 is compared all the same.
    let summary = "\n2 rules changed; packets of IPv6: 1 opened; packets of IPv4 not compared\n";
    assert!(text.out.contains(summary), "{}", text.out);
    assert!(text.out.contains("opened in INPUT"), "{}", text.out);
    assert!(text.out.contains("-j ACCEPT -> -j DROP"), "{}", text.out);
    let alone = diff(&["--family", "ipv4"]);
    assert!(
        alone
            .out
            .starts_with("1 rule changed; packets of IPv4 not compared\n"),
        "{}",
        alone.out
    );
    for form in ["text", "markdown"] {
        let out = diff(&["--format", form]).out;
        assert!(!out.contains("proven"), "{out}");
    }
    let value = json(&diff(&["--format", "json"]));
    assert_eq!(value["different"], true);
    assert_eq!(value["packets"]["complete"], false);
    assert_eq!(
        value["packets"]["not_compared"],
        serde_json::json!(["ipv4"])
    );
    assert_eq!(value["packets"]["changes"].as_array().unwrap().len(), 1);
    // Where packets are all that was asked for there is no answer.
    let packets = diff(&["--packets"]);
    assert_eq!(packets.status, 1, "{}", packets.out);
    assert!(packets.err.contains("gave up"), "{}", packets.err);
}

#[test]
fn a_budget_is_a_number_above_zero() {
    let folder = folder(&[("rules.v4", "*filter\nCOMMIT\n")]);
    for word in ["0", "-1", "many", "inf", "NaN", "1e9"] {
        let budget = format!("--budget={word}");
        let matrix = run(folder.path(), &["matrix", "--rules", "rules.v4", &budget]);
        assert_eq!(matrix.status, 64, "{word}: {}", matrix.err);
        assert!(
            matrix.err.contains("use a number above 0"),
            "{}",
            matrix.err
        );
    }
}
