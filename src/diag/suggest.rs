//! Suggestions for misspelt names.

use std::cmp::Reverse;

/// Longer texts are not compared: they are not misspelt names, and the comparison takes quadratic time.
const LONGEST: usize = 100;

/// Returns the name of `known` that is most similar to `wrong`, if it is similar enough.
pub fn did_you_mean<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if wrong.len() > LONGEST {
        return None;
    }
    let known: Vec<&str> = known.into_iter().collect();
    let same = known.iter().find(|name| name.eq_ignore_ascii_case(wrong));
    if let Some(same) = same {
        return Some(same);
    }
    let length = wrong.chars().count();
    let allowed = (length / 3).max(1);
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(wrong, name), name))
        .filter(|(distance, name)| *distance <= allowed || is_plural(wrong, name))
        // Of three letters another first one makes another word: `wan` is not `lan`.
        .filter(|(_, name)| length > 3 || common_start(wrong, name) > 0)
        .min_by_key(|(distance, name)| (*distance, Reverse(common_start(wrong, name)), *name))
        .map(|(_, name)| name)
}

fn common_start(one: &str, other: &str) -> usize {
    let pairs = one.chars().zip(other.chars());
    pairs.take_while(|(a, b)| a == b).count()
}

fn is_plural(one: &str, other: &str) -> bool {
    one.strip_suffix('s') == Some(other) || other.strip_suffix('s') == Some(one)
}

#[cfg(test)]
mod tests {
    use super::did_you_mean;

    #[test]
    fn near_names_only() {
        assert_eq!(
            did_you_mean("htps", ["ftps", "ssh", "http", "https"]),
            Some("https")
        );
        assert_eq!(
            did_you_mean("forwad", ["forward", "output"]),
            Some("forward")
        );
        assert_eq!(did_you_mean("zzz", ["ssh", "http"]), None);
        assert_eq!(did_you_mean("wan", ["lan"]), None);
        assert_eq!(did_you_mean("SSH", ["http", "ssh"]), Some("ssh"));
        assert_eq!(did_you_mean("x", []), None);
        let long = "x".repeat(101);
        assert_eq!(did_you_mean(&long, [&*long]), None);
    }
}
