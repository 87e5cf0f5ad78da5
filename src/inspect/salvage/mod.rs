//! Salvage: the parts of a damaged store that verify are copied into a new store.
//!
//! The old store is only read. The new store's metalog is written last, and the store exists once
//! its metalog exists. Until then a directory of a log that cannot exist keeps the new store from
//! being opened as an empty one. So after a crash the new store is absent, or refused, or complete.

mod copy;
mod report;

use std::{collections::BTreeSet, path::Path, sync::Arc};

pub use self::report::{Consumer, Lost, Renamed, SalvageReport};
use roaring::RoaringTreemap;

use self::{
    copy::{Copying, free_untimed, queue_of_delay_index},
    report::SalvageReport as Report,
};
use super::{
    survey::{self, Nameless, Survey},
    verify::{self, offsets},
};
use crate::{
    config::Config,
    disk::Disk,
    error::{Error, Result},
    format::{
        entity::{Entity, EntityKind, Retention},
        meta::{CursorState, MetaEntry},
    },
    ids::{EntityId, LogId, OffsetRange, StoreId},
    journal::Journal,
    metalog::MetaWriter,
    segment::Output,
    store::{LogName, Opening, Space, State},
};

/// No log has this number.
const NO_LOG: LogId = LogId(0);

/// Copies the sound part of the store at `from` into a new store at `to`, with a new id. The caller
/// holds both locks, and has checked that `to` is empty.
///
/// # Errors
///
/// `NotFound` if there is no store at `from`; `Corrupt` if nothing in it can be read at all;
/// `UnsupportedVersion`; `DiskFull`; input or output errors.
pub fn salvage_store(
    disk: &Arc<dyn Disk>,
    from: &Path,
    to: &Path,
    config: Config,
    id: StoreId,
) -> Result<SalvageReport> {
    let mut survey = survey::survey_store(Arc::clone(disk), from)?;
    let mut report = Report { problems: verify::problems(&survey), ..Report::default() };
    verify::count(&survey, &mut report.read)?;
    mend_dead_letters(&mut survey);
    mend_limits(&mut survey);
    report.renamed = mend_names(&mut survey);
    let target = Opening::new(Arc::clone(disk), to, config)?;
    let marker = target.layout.log_dir(NO_LOG);
    let segments_dir = target.layout.segments_dir();
    let failed = |error| Error::io(error, "the new store cannot be begun", &marker);
    disk.create_dir(&marker).map_err(failed)?;
    disk.sync_dir(&segments_dir).map_err(failed)?;
    target.make_place_durable()?;

    let mut entries: Vec<MetaEntry> =
        survey.state.catalog.all().cloned().map(MetaEntry::Entity).collect();
    let timed: BTreeSet<EntityId> =
        survey.state.catalog.all().filter_map(queue_of_delay_index).collect();
    report.entities = (entries.len() - timed.len()) as u64;
    let mut out = Output::new(target.segments(id), target.config.segment_bytes, 1, false);
    for log in verify::logs(&survey) {
        Copying::new(&mut out, log).copy(&mut survey, &mut report, &mut entries)?;
    }
    out.sync()?;
    verify::drop_repeated(&mut report.problems);
    let queues: Vec<EntityId> = survey.state.catalog.all().map(|entity| entity.id).collect();
    for queue in queues.into_iter().filter(|id| !timed.contains(id)) {
        free_untimed(&mut survey, queue, &RoaringTreemap::new());
    }
    put_cursors(&mut survey.state, &mut entries);
    entries.extend(survey.state.clock.map(MetaEntry::Clock));
    say_what_is_uncertain(&survey, &mut report);

    let journal = Journal::create(target.supply(id))?;
    let mut meta = MetaWriter::create(&target.place(), id, 1)?;
    for entry in &entries {
        meta.put(entry)?;
    }
    let (tail, next_id) = (journal.tail(), next_id(&survey));
    meta.commit(tail, tail, next_id)?;
    // A failure is harmless: the first checkpoint removes the directory.
    let _ = disk.remove_dir(&marker);
    let _ = disk.sync_dir(&segments_dir);
    Ok(report)
}

/// Clears what no engine writes: dead letters that go in a circle, or to a queue that does not exist. Both come of old
/// settings beside newer ones.
fn mend_dead_letters(survey: &mut Survey) {
    let catalog = &mut survey.state.catalog;
    let mut cleared = catalog.stray_dead_letters();
    for circle in catalog.circles_of_dead_letters() {
        let is_old = |id: &&EntityId| survey.old_settings.contains(id);
        cleared.extend(circle.iter().find(is_old).or(circle.first()));
    }
    for id in cleared {
        catalog.clear_dead_letters(id);
        survey.old_settings.insert(id);
    }
}

/// Takes the limits from streams of which these may be old, or whose groups may have them keep more: the first checkpoint of
/// the new store would have records leave that the old store kept.
fn mend_limits(survey: &mut Survey) {
    let lacks_groups = survey.may_lack_entities
        || survey.nameless.iter().any(|it| matches!(it, Nameless::Lost(_)));
    let old = &survey.old_settings;
    let is_old = |group: &&Entity| match group.kind {
        EntityKind::Group { keeps_unread, .. } => {
            let may_be_behind = group.cursors().any(|(cursor, _)| survey.is_uncertain(cursor));
            old.contains(&group.id) || keeps_unread && may_be_behind
        }
        _ => false,
    };
    let of_old: BTreeSet<EntityId> =
        survey.state.catalog.all().filter(is_old).filter_map(Entity::parent).collect();
    let limited = survey.state.catalog.all().filter(|it| {
        let is_limited = matches!(it.kind, EntityKind::Stream { retention: Some(_), .. });
        let is_kept = it.keeper().is_some() && old.contains(&it.id);
        is_limited && (lacks_groups || old.contains(&it.id) || of_old.contains(&it.id)) || is_kept
    });
    for entity in limited.cloned().collect::<Vec<_>>() {
        let kind = match entity.kind {
            EntityKind::Topic { .. } => {
                EntityKind::Topic { retention: Some(Retention::of_everything()) }
            }
            _ => EntityKind::Stream { partitions: entity.partitions(), retention: None },
        };
        survey.old_settings.insert(entity.id);
        survey.state.catalog.insert(Entity { kind, ..entity });
    }
}

/// Gives other names to entities whose names newer ones have: their deletion was lost.
fn mend_names(survey: &mut Survey) -> Vec<Renamed> {
    let catalog = &mut survey.state.catalog;
    let mut names: BTreeSet<Arc<str>> = catalog.all().map(|it| Arc::clone(&it.name)).collect();
    let mut renamed = Vec::new();
    for id in catalog.twins() {
        let Some(twin) = catalog.get(id).cloned() else { continue };
        let noun = Space::of(&twin.kind).noun();
        let mut name = survey::invented_name(noun, id);
        while !names.insert(name.as_str().into()) {
            name.push('x');
        }
        let formerly = Some(twin.name.to_string());
        renamed.push(Renamed { noun, name: name.clone(), formerly });
        catalog.insert(Entity { name: name.into(), ..twin });
    }
    renamed
}

fn put_cursors(state: &mut State, entries: &mut Vec<MetaEntry>) {
    let mut cursors: Vec<_> = state.cursors.values_mut().collect();
    cursors.sort_unstable_by_key(|cursor| cursor.id);
    for cursor in cursors {
        let (id, floor, seen) = (cursor.id, cursor.floor(), cursor.seen());
        entries.push(MetaEntry::Cursor(CursorState { cursor: id, floor, seen }));
        entries.extend(cursor.capture_chunks().into_iter().map(MetaEntry::Chunk));
    }
}

fn next_id(survey: &Survey) -> EntityId {
    let lost = survey.nameless.iter().map(|it| match it {
        Nameless::Named(entity) => entity.end_of_ids(),
        Nameless::Lost(cursor) => cursor.entity().plus(1),
    });
    lost.fold(survey.state.catalog.next_id, EntityId::max)
}

fn say_what_is_uncertain(survey: &Survey, report: &mut Report) {
    for nameless in &survey.nameless {
        match nameless {
            Nameless::Named(entity) if survey.state.catalog.get(entity.id).is_some() => {
                let noun = Space::of(&entity.kind).noun();
                report.renamed.push(Renamed {
                    noun,
                    name: entity.name.to_string(),
                    formerly: None,
                });
            }
            Nameless::Named(_) => {}
            Nameless::Lost(cursor) => report.lost_consumers.push(cursor.0),
        }
    }
    report.may_lack_entities = survey.may_lack_entities;
    report.clock_is_uncertain = survey.clock_is_uncertain;
    let old = survey.old_settings.iter().filter_map(|id| survey.state.catalog.get(*id));
    report.old_settings.extend(old.map(|entity| consumer(survey, entity)));
    for entity in survey.state.catalog.all() {
        // Nobody receives from the keeper of a topic.
        let consumes = entity.keeper().is_none();
        if consumes && entity.cursors().any(|(cursor, _)| survey.is_uncertain(cursor)) {
            let queue = queue_of_delay_index(entity).and_then(|id| survey.state.catalog.get(id));
            let consumer = consumer(survey, queue.unwrap_or(entity));
            if !report.uncertain.contains(&consumer) {
                report.uncertain.push(consumer);
            }
        }
    }
}

fn consumer(survey: &Survey, entity: &Entity) -> Consumer {
    let parent = entity.parent().and_then(|parent| survey.state.catalog.get(parent));
    Consumer {
        noun: Space::of(&entity.kind).noun(),
        name: entity.name.to_string(),
        parent: parent.map(|parent| parent.name.to_string()),
    }
}

/// Whether acks of the log may be lost, so that unacked messages may have been acked.
fn acks_may_be_lost(survey: &Survey, log: LogId) -> bool {
    let cursors = survey.state.logs.get(&log).map(|log| &log.cursors);
    cursors.into_iter().flatten().any(|cursor| survey.is_uncertain(*cursor))
}

fn lost(log: LogName, ranges: &[OffsetRange], is_certain: bool) -> Option<Lost> {
    let offsets = offsets(ranges);
    (!offsets.is_empty()).then_some(Lost { log, offsets, is_certain })
}
