//! Patterns in a trie by token. A subject finds those that match it in as many steps as there are nodes on its ways, however
//! many other patterns there are. Nothing is cached and nothing is allocated when a subject is looked up: a cache of results
//! costs memory for each subject, and each change of a pattern throws much of it away.

use std::collections::{BTreeMap, BTreeSet};

use super::{ANY, REST};
use crate::audit;

/// Patterns, each with those who have it.
#[derive(Clone, Debug)]
pub struct Trie<T> {
    root: Node<T>,
    /// How many pairs of a pattern and one who has it there are.
    len: usize,
}

#[derive(Clone, Debug)]
struct Node<T> {
    /// The nodes behind each token.
    literals: BTreeMap<Box<str>, Box<Node<T>>>,
    /// The node behind `*`.
    any: Option<Box<Node<T>>>,
    /// Those whose pattern ends here.
    here: BTreeSet<T>,
    /// Those whose pattern ends with `>` behind this node.
    rest: BTreeSet<T>,
}

impl<T> Default for Node<T> {
    fn default() -> Node<T> {
        let (here, rest) = (BTreeSet::new(), BTreeSet::new());
        Node { literals: BTreeMap::new(), any: None, here, rest }
    }
}

impl<T> Default for Trie<T> {
    fn default() -> Trie<T> {
        Trie { root: Node::default(), len: 0 }
    }
}

impl<T: Copy + Ord> Trie<T> {
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[cfg(test)]
    pub fn has_no_nodes(&self) -> bool {
        self.root.is_empty()
    }

    /// Adds a pattern. One that is there already stays once.
    pub fn insert(&mut self, pattern: &str, of: T) {
        let mut node = &mut self.root;
        let mut is_rest = false;
        for token in pattern.split('.') {
            audit::step();
            match token {
                REST => is_rest = true,
                ANY => node = node.any.get_or_insert_default(),
                token => {
                    if !node.literals.contains_key(token) {
                        node.literals.insert(token.into(), Box::default());
                    }
                    node = node.literals.get_mut(token).expect("it was added");
                }
            }
        }
        let ends = if is_rest { &mut node.rest } else { &mut node.here };
        self.len += usize::from(ends.insert(of));
    }

    /// Removes a pattern, if it is there.
    pub fn remove(&mut self, pattern: &str, of: T) {
        self.len -= usize::from(self.root.remove(Some(pattern), of));
    }

    /// Calls `found` with each who has a pattern that matches: once for each such pattern.
    pub fn find(&self, subject: &str, found: &mut impl FnMut(T)) {
        self.root.find(Some(subject), found);
    }
}

/// The first token, and what is behind it.
fn split(text: &str) -> (&str, Option<&str>) {
    match text.split_once('.') {
        Some((token, rest)) => (token, Some(rest)),
        None => (text, None),
    }
}

impl<T: Copy + Ord> Node<T> {
    fn is_empty(&self) -> bool {
        self.literals.is_empty()
            && self.any.is_none()
            && self.here.is_empty()
            && self.rest.is_empty()
    }

    /// Removes a pattern behind this node, and the nodes that it needs no more. Returns whether it was there.
    fn remove(&mut self, pattern: Option<&str>, of: T) -> bool {
        audit::step();
        let Some(pattern) = pattern else { return self.here.remove(&of) };
        let (token, behind) = split(pattern);
        match token {
            REST => self.rest.remove(&of),
            ANY => {
                let Some(node) = &mut self.any else { return false };
                let was_there = node.remove(behind, of);
                if node.is_empty() {
                    self.any = None;
                }
                was_there
            }
            token => {
                let Some(node) = self.literals.get_mut(token) else { return false };
                let was_there = node.remove(behind, of);
                if node.is_empty() {
                    self.literals.remove(token);
                }
                was_there
            }
        }
    }

    fn find(&self, subject: Option<&str>, found: &mut impl FnMut(T)) {
        audit::step();
        let mut tell = |all: &BTreeSet<T>| {
            audit::steps(all.len() as u64);
            all.iter().for_each(|of| found(*of));
        };
        let Some(subject) = subject else { return tell(&self.here) };
        tell(&self.rest);
        let (token, behind) = split(subject);
        if let Some(node) = self.literals.get(token) {
            node.find(behind, found);
        }
        if let Some(node) = &self.any {
            node.find(behind, found);
        }
    }
}
