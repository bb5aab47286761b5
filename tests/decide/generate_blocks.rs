//! Random blocks, made of random rules: some rules take the next ones in.

use crate::generate::{Random, Sample};

const HEADING: &str = "[[rules]]\n";

/// The keys that the block says for all its rules, or that depend on where its packets come from.
const OF_BLOCK: [&str; 8] = [
    "from", "to", "stage", "order", "expires", "user", "group", "mac",
];

impl Sample {
    /// Makes some of the rules blocks, of the rules behind them.
    pub fn blocks(&mut self, random: &mut Random) {
        let text = std::mem::take(&mut self.text);
        let mut parts = text.split(HEADING).peekable();
        self.text.extend(parts.next());
        if text.contains("icmp = \"none\"") {
            // Neighbour discovery stays in a rule of its own, or the policy is refused.
            self.text
                .extend(parts.next().map(|part| HEADING.to_owned() + part));
        }
        let mut depth = 0;
        while let Some(part) = parts.next() {
            let is_block = depth < 3 && random.once_in(4) && parts.peek().is_some();
            let is_last = !is_block && random.once_in(2);
            self.text += &match depth {
                0 => HEADING.to_owned(),
                _ => format!("[[rules{}]]\n", ".rules".repeat(depth)),
            };
            self.text += &with_keys(part, |key| {
                let of_action = ["action", "reject-with"].contains(&key);
                !(is_block && of_action || depth > 0 && OF_BLOCK.contains(&key))
            });
            if is_block {
                depth += 1;
            } else if is_last {
                depth = depth.saturating_sub(1);
            }
        }
        self.finals(random);
    }

    /// Says what becomes of the rest of some blocks.
    fn finals(&mut self, random: &mut Random) {
        let text = std::mem::take(&mut self.text);
        let mut lines = text.lines().peekable();
        let depth = |line: &str| match line.starts_with("[[rules") {
            true => line.matches("rules").count(),
            false => 0,
        };
        while let Some(line) = lines.next() {
            self.line(line);
            let here = depth(line);
            let mut behind = lines.clone().skip_while(|line| !line.starts_with('['));
            if here > 0 && behind.next().is_some_and(|next| depth(next) == here + 1) {
                let end = random.pick(&[
                    "",
                    "finally = \"accept\"",
                    "finally = \"drop\"",
                    "finally = \"reject\"",
                    "finally = \"reject\"\nreject-with = \"host-unreachable\"",
                ]);
                self.line(end);
            }
        }
    }
}

/// The lines of a rule with some keys only, and what follows the rule as it is.
fn with_keys(part: &str, has: impl Fn(&str) -> bool) -> String {
    let mut is_rule = true;
    let mut kept = String::new();
    for line in part.lines() {
        is_rule &= !line.starts_with('[');
        let key = line.split(" = ").next().unwrap_or_default();
        if !is_rule || has(key) {
            kept += line;
            kept.push('\n');
        }
    }
    kept
}
