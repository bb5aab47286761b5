//! Completions and manual pages.

use crate::fwc::{root, run};

#[test]
fn completions_have_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ended = run(root(), &["completions", shell]);
        assert_eq!((ended.status, ended.err.as_str()), (0, ""), "{shell}");
        for word in ["explain", "matrix", "take-over"] {
            assert!(ended.out.contains(word), "{shell}: {word}");
        }
        for hidden in ["__rehearse", "__watch"] {
            assert!(!ended.out.contains(hidden), "{shell} completes {hidden}");
        }
    }
    assert_eq!(run(root(), &["completions", "csh"]).status, 64);
}

#[test]
fn pages_are_manual_pages() {
    let page = run(root(), &["man"]);
    assert_eq!(page.status, 0);
    assert!(page.out.contains(".TH fwc 1"), "{}", page.out);
    assert!(page.out.contains("fwc\\-apply(1)"), "{}", page.out);
    let page = run(root(), &["man", "apply"]);
    assert!(page.out.contains(".TH fwc-apply 1"), "{}", page.out);
    assert!(page.out.contains("\\-\\-take\\-over"), "{}", page.out);
    assert_eq!(run(root(), &["man", "__rehearse"]).status, 64);
}
