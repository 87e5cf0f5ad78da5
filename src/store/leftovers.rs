//! Removes segments that nothing refers to. A crash or a failed checkpoint has left them.

use super::{checkpoint::Shared, open::log_dirs};
use crate::{
    disk::is_no_dir,
    error::{Error, Result},
    layout::{Named, segment_name},
    segment::Segments,
};

/// Looks through the directories of all logs.
pub fn sweep(shared: &impl Shared, segments: &Segments) -> Result<()> {
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
            let stays = match segment_name(&name) {
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
