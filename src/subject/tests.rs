use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

#[test]
fn what_is_a_subject_and_what_a_pattern() {
    for (text, is_subject, is_pattern) in [
        ("orders", true, true),
        ("orders.eu.created", true, true),
        ("größe.ü", true, true),
        ("$SYS.a-b_c/d", true, true),
        ("orders.*", false, true),
        ("*", false, true),
        ("*.*.created", false, true),
        (">", false, true),
        ("orders.>", false, true),
        ("*.>", false, true),
        ("orders.>.created", false, false),
        (">.>", false, false),
        ("orders.eu*", false, false),
        ("orders.**", false, false),
        ("orders.>>", false, false),
        ("orders.a>", false, false),
        ("", false, false),
        (".", false, false),
        ("orders.", false, false),
        (".orders", false, false),
        ("orders..eu", false, false),
        ("orders eu", false, false),
        ("orders.\t", false, false),
        ("orders\n", false, false),
        ("orders\u{0}", false, false),
        ("orders\u{a0}eu", false, false),
    ] {
        assert_eq!(check_subject(text).is_ok(), is_subject, "{text:?}");
        assert_eq!(check_pattern(text).is_ok(), is_pattern, "{text:?}");
    }
    assert!(check_subject(&"x".repeat(SUBJECT_BYTES_MAX)).is_ok());
    assert!(check_subject(&"x".repeat(SUBJECT_BYTES_MAX + 1)).is_err());
    let tokens = |count: usize| vec!["x"; count].join(".");
    assert!(check_pattern(&tokens(TOKENS_MAX)).is_ok());
    assert!(check_pattern(&tokens(TOKENS_MAX + 1)).is_err());
}

/// The rules, as one would write them down.
fn matches(pattern: &[&str], subject: &[&str]) -> bool {
    match (pattern, subject) {
        ([], []) => true,
        ([">"], [_, ..]) => true,
        (["*", pattern @ ..], [_, subject @ ..]) => matches(pattern, subject),
        ([token, pattern @ ..], [same, subject @ ..]) => token == same && matches(pattern, subject),
        _ => false,
    }
}

fn is_match(pattern: &str, subject: &str) -> bool {
    let pattern: Vec<&str> = pattern.split('.').collect();
    let subject: Vec<&str> = subject.split('.').collect();
    matches(&pattern, &subject)
}

fn found(trie: &Trie<u32>, subject: &str) -> Vec<u32> {
    let mut all = Vec::new();
    trie.find(subject, &mut |of| all.push(of));
    all.sort_unstable();
    all
}

#[test]
fn patterns_match_as_in_nats() {
    let mut trie = Trie::default();
    let patterns = ["orders.eu.created", "orders.*.created", "orders.>", ">", "*", "orders", "*.*"];
    patterns.iter().zip(0..).for_each(|(pattern, of)| trie.insert(pattern, of));
    for (subject, expected) in [
        ("orders.eu.created", &[0, 1, 2, 3][..]),
        ("orders.us.created", &[1, 2, 3]),
        ("orders.eu", &[2, 3, 6]),
        ("orders", &[3, 4, 5]),
        ("orders.eu.created.late", &[2, 3]),
        ("payments", &[3, 4]),
    ] {
        assert_eq!(found(&trie, subject), expected, "{subject}");
    }
    // A name of a topic may have empty tokens.
    assert_eq!(found(&trie, "orders."), [2, 3, 6]);
    patterns.iter().zip(0..).for_each(|(pattern, of)| trie.remove(pattern, of));
    assert!(trie.is_empty());
    assert!(trie.has_no_nodes());
}

fn subject() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c", "aa"]), 1..5)
        .prop_map(|tokens| tokens.join("."))
}

fn pattern() -> impl Strategy<Value = String> {
    let token = prop::sample::select(vec!["a", "b", "c", "aa", "*"]);
    (prop::collection::vec(token, 0..5), any::<bool>()).prop_map(|(mut tokens, rest)| {
        if rest || tokens.is_empty() {
            tokens.push(">");
        }
        tokens.join(".")
    })
}

proptest! {
    #[test]
    fn a_trie_finds_what_matches(
        patterns in prop::collection::vec((pattern(), 0..8u32, any::<bool>()), 0..40),
        subjects in prop::collection::vec(subject(), 1..20),
    ) {
        let (mut trie, mut plain) = (Trie::default(), BTreeSet::new());
        for (pattern, of, is_added) in &patterns {
            if *is_added {
                trie.insert(pattern, *of);
                plain.insert((pattern.clone(), *of));
            } else {
                trie.remove(pattern, *of);
                plain.remove(&(pattern.clone(), *of));
            }
        }
        for subject in &subjects {
            let matching = plain.iter().filter(|(pattern, _)| is_match(pattern, subject));
            let mut expected: Vec<u32> = matching.map(|(_, of)| *of).collect();
            expected.sort_unstable();
            prop_assert_eq!(found(&trie, subject), expected, "{}", subject);
        }
        prop_assert_eq!(trie.is_empty(), plain.is_empty());
        plain.iter().for_each(|(pattern, of)| trie.remove(pattern, *of));
        prop_assert!(trie.has_no_nodes());
    }
}
