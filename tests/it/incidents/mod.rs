//! Incidents of other systems, tried on this engine. Each test has the name of the incident, says what
//! happened there, and does the same to this engine.

mod brokers;
mod stores;

use posthouse::sim::SimDisk;

use crate::{model::drain, support::open};

fn texts(payloads: &[Vec<u8>]) -> Vec<String> {
    payloads.iter().map(|it| String::from_utf8(it.clone()).unwrap()).collect()
}

/// The messages in queue "q" after a power cut with the least that may survive.
fn after_a_power_cut(disk: &SimDisk) -> Vec<String> {
    let disk = disk.fork(1);
    disk.power_cut_with(&mut |_| 0);
    let engine = open(&disk).unwrap_or_else(|error| panic!("it does not open: {error}"));
    texts(&drain(&engine.queue("q").open().unwrap()))
}
