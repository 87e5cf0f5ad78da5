//! Stores whose files verify, but contradict each other.

use std::{path::Path, sync::Arc};

use super::verify::verify_store;
use crate::{
    disk::sim::SimDisk,
    store::tests::checkpoint::{
        changes_about_no_message, with_a_commit_about_no_message, with_a_metalog_about_no_message,
    },
};

fn is_ok(disk: &SimDisk) -> bool {
    let report = verify_store(Arc::new(disk.process()), Path::new("store"));
    report.expect("the store can be read").is_ok()
}

#[test]
fn verify_finds_a_commit_about_messages_that_are_not_there() {
    for change in changes_about_no_message() {
        assert!(!is_ok(&with_a_commit_about_no_message(&change)));
    }
}

#[test]
fn verify_finds_a_metalog_about_messages_that_are_not_there() {
    for says in [false, true] {
        assert_eq!(is_ok(&with_a_metalog_about_no_message(says)), !says);
    }
}
