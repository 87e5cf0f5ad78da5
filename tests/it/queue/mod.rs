//! The documented behaviour of queues.

mod admission;
mod browse;
mod changing;
mod clock;
mod closing;
mod corners;
mod counts;
mod damage;
mod dead_letter;
mod delay;
mod delay_index;
mod elsewhere;
mod expiry;
mod handling;
mod idle_handles;
mod lease;
mod letting_go;
mod limits;
mod order;
mod pause;
mod priority;
mod redrive;
mod retry;
mod settings;
mod tasks;
mod time_to_live;
mod times;
mod without_handles;
mod worker;

use posthouse::Message;

/// A message with a key, whose payload is a number.
fn keyed(key: &str, n: u64) -> Message<'static> {
    Message::new(n.to_string()).key(key.to_owned())
}
