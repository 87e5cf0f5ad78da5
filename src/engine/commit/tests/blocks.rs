//! Messages, and blocks of delayed ones, that leave while a thread is about to read them.

use std::{path::Path, sync::Arc, time::Duration};

use super::config;
use crate::{
    Engine, ErrorKind, Message, Queue,
    config::Config,
    disk::sim::SimDisk,
    engine::{commit::alone::Working, core::spill::ReturningBlock},
    ids::Offset,
};

const SECOND: Duration = Duration::from_secs(1);

/// A queue whose blocks are in a segment that is not open.
fn with_blocks(disk: &SimDisk) -> (Engine, Queue) {
    let config = Config { delayed_in_memory: 16, ..config() };
    let open = || {
        let process = Arc::new(disk.process());
        Engine::open_on(process, Path::new("store"), config.clone(), false).expect("it is well")
    };
    let engine = open();
    let queue = engine.queue("q").create().expect("there is space");
    for n in 0..60 {
        let message = Message::new("later").deliver_after((100 + n) * SECOND);
        queue.send(message).expect("there is space");
    }
    engine.checkpoint().expect("there is space");
    engine.close().expect("there is space");
    drop((queue, engine));
    let engine = open();
    let queue = engine.queue("q").open().expect("it is there");
    (engine, queue)
}

/// The first block of the queue, as a thread finds it that is about to read it.
fn found(engine: &Engine, queue: &Queue) -> ReturningBlock {
    let mut core = engine.committer().lock("test");
    let index = &core.consumption(queue.cursor()).expect("it is there").delay_index;
    let (entity, block) = (index.entity.expect("it has blocks"), index.blocks().next());
    let block = block.expect("there is one");
    let source = core.store.locate(entity.log(0), block.offset);
    ReturningBlock { entity, block, source }
}

/// Checkpoints until the segment of a block is gone.
fn remove_segment(engine: &Engine, of: &ReturningBlock) {
    for _ in 0..4 {
        engine.checkpoint().expect("there is space");
    }
    let source = of.source.as_ref().expect("it is there").clone();
    let read = engine.committer().read("test", of.entity.log(0), of.block.offset, source);
    assert_eq!(read.map(drop).map_err(|error| error.kind()), Err(ErrorKind::NotFound));
}

/// That the block was gone passed for the deletion of the message that was looked for, and a browse left that message out.
#[test]
fn a_block_that_came_back_before_it_was_read_names_nothing() {
    let disk = SimDisk::new(1);
    let (engine, queue) = with_blocks(&disk);
    let first = found(&engine, &queue);
    disk.advance(200 * SECOND);
    let mut received = 0;
    while let Some(delivery) = queue.try_receive().expect("it can be read") {
        delivery.ack().expect("it is held");
        received += 1;
    }
    assert_eq!(received, 60);
    remove_segment(&engine, &first);
    let ReturningBlock { entity, block, source } = first;
    let read = engine.committer().read_block("test", entity, block.offset, source);
    assert_eq!(read.expect("that is no error"), None);
}

/// The messages of the next blocks came half a second late.
#[test]
fn a_block_that_is_purged_before_it_is_read_holds_up_no_other_block() {
    let disk = SimDisk::new(1);
    let (engine, queue) = with_blocks(&disk);
    let taken = {
        let mut core = engine.committer().lock("test");
        disk.advance(200 * SECOND);
        let elapsed = engine.committer().elapsed();
        core.take_block(queue.cursor(), elapsed).expect("it is there")
    };
    let taken = taken.expect("it is due");
    assert_eq!(queue.purge().expect("there is space"), 60);
    remove_segment(&engine, &taken);
    engine.committer().bring_back_block(queue.cursor(), taken).expect("that is no error");
    let mut core = engine.committer().lock("test");
    let index = &core.consumption(queue.cursor()).expect("it is there").delay_index;
    assert!(index.is_at_rest() && index.rest() == Duration::ZERO);
}

/// The mover took it for a message that cannot be read for the moment, and rested for a second.
#[test]
fn a_message_that_is_removed_before_it_moves_to_the_dead_letters_holds_up_no_other_one() {
    let disk = SimDisk::new(1);
    let open = || {
        let process = Arc::new(disk.process());
        Engine::open_on(process, Path::new("store"), config(), false).expect("it is well")
    };
    let engine = open();
    let queue = engine.queue("q").create().expect("there is space");
    queue.send_batch(["a", "b"]).expect("there is space");
    for delivery in queue.receive_batch(2, Duration::ZERO).expect("it can be read") {
        delivery.nack_after(SECOND).expect("it is held");
    }
    let filler = engine.queue("filler").create().expect("there is space");
    filler.send_batch((0..100).map(|_| vec![7; 100])).expect("there is space");
    engine.checkpoint().expect("there is space");
    engine.close().expect("there is space");
    drop((queue, filler, engine));
    let engine = open();
    let queue = engine.queue("q").max_attempts(1).create_or_update().expect("there is space");
    let (committer, cursor) = (engine.committer(), queue.cursor());
    disk.advance(SECOND);
    let idle = Working::for_all();
    let (message, info, exhausted) = {
        let mut core = committer.lock("test");
        core.expire(cursor, committer.elapsed(), 2);
        let message = core.next_exhausted().expect("it has come due");
        let exhausted = core.lease_exhausted(message, committer.elapsed());
        let info = Arc::clone(&core.consumption(cursor).expect("it is there").info);
        (message, info, exhausted.expect("it is not on lease"))
    };
    assert!(queue.remove(message.offset).expect("there is space"));
    let other = Offset(1 - message.offset.0);
    engine.queue("filler").open().expect("it is there").purge().expect("there is space");
    for _ in 0..4 {
        engine.checkpoint().expect("there is space");
    }
    let source = exhausted.source.as_ref().expect("it was there").clone();
    let read = committer.read("test", info.log, message.offset, source);
    assert_eq!(read.map(drop).map_err(|error| error.kind()), Err(ErrorKind::NotFound));
    let moved = committer.move_leased(message, &info, 0, exhausted);
    assert!(moved.is_ok(), "{moved:?}");
    drop(idle);
    committer.move_exhausted(1);
    assert_eq!(queue.depth().expect("it is open"), 0);
    let letters = engine.queue("q.dead").open().expect("it is there");
    let letter = letters.browse().expect("it is open").next().expect("it was moved");
    let letter = letter.expect("it can be read").dead_letter().expect("it is one");
    assert_eq!(letter.expect("it is one").offset, other);
}
