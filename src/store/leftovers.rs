//! Removes segments that nothing refers to. A crash or a failed checkpoint has left them.

use super::{
    checkpoint::Shared,
    open::{fan_dirs, log_dirs},
};
use crate::{
    disk::is_no_dir,
    error::{Error, Result},
    layout::{Named, former_segment_name, segment_name},
    segment::Segments,
};

/// Looks through all directories of segments.
pub fn sweep(shared: &impl Shared, segments: &Segments) -> Result<()> {
    sweep_former(shared, segments)?;
    let disk = &*segments.disk;
    for (fan, dir) in fan_dirs(disk, &segments.layout)? {
        let failed = |error| Error::io(error, "segments cannot be listed", &dir);
        let names = match disk.list(&dir) {
            Err(error) if is_no_dir(&error) => continue,
            names => names.map_err(failed)?,
        };
        for name in names {
            let stays = match segment_name(&name) {
                Named::Unknown => true,
                Named::Unfinished => false,
                Named::Real(number) => shared.with(|store| store.files.knows(number)),
            };
            if !stays {
                let _ = disk.remove(&dir.join(name));
            }
        }
        if !shared.with(|store| store.files.knows_fan(fan)) {
            // Removing a directory that is not empty fails, as intended.
            let _ = disk.remove_dir(&dir);
        }
    }
    Ok(())
}

/// Looks through the directories that logs had in versions 1 and 2.
fn sweep_former(shared: &impl Shared, segments: &Segments) -> Result<()> {
    let disk = &*segments.disk;
    for (log, dir) in log_dirs(disk, &segments.layout)? {
        let failed = |error| Error::io(error, "segments cannot be listed", &dir);
        let names = match disk.list(&dir) {
            Err(error) if is_no_dir(&error) => continue,
            names => names.map_err(failed)?,
        };
        let Some(known) = shared.with(|store| store.known_segments(log)) else {
            continue;
        };
        for name in names {
            let stays = match former_segment_name(&name) {
                Named::Unknown => true,
                Named::Unfinished => false,
                Named::Real(segment) => known.contains(&segment),
            };
            if !stays {
                let _ = disk.remove(&dir.join(name));
            }
        }
        if known.is_empty() {
            // Removing a directory that is not empty fails, as intended.
            let _ = disk.remove_dir(&dir);
        }
    }
    Ok(())
}
