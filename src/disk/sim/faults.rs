//! Faults of a simulated disk: calls that fail, a full disk, slow syncs.

use std::{io, ops::Range, path::Path, time::Duration};

use super::{
    SimDisk,
    world::{Fault, FileId, World},
};

impl SimDisk {
    /// Makes all calls fail from a step on, as if the power had gone, until [`power_cut`](Self::power_cut) or
    /// [`kill`](Self::kill). Steps are counted from 1; see [`steps`](Self::steps).
    ///
    /// ```
    /// use posthouse::{Options, sim::SimDisk};
    ///
    /// let disk = SimDisk::new(7);
    /// let options = Options::new().sim(&disk);
    /// let payments = options.open("store")?.queue("payments").create()?;
    /// disk.stop_at_step(disk.steps() + 1); // the next step fails
    /// assert!(payments.send("charge order 1").is_err());
    /// disk.power_cut();
    /// assert_eq!(options.open("store")?.queue("payments").open()?.depth()?, 0);
    /// # Ok::<(), posthouse::Error>(())
    /// ```
    pub fn stop_at_step(&self, step: u64) {
        self.world().stop_at = Some(step);
    }

    /// Makes one call fail, or with `for_good` all calls from that one on.
    ///
    /// Calls are counted from 0, over the whole life of the disk: see [`calls`](Self::calls). `error` is the
    /// number of the error in the operating system: 5 for a device error (EIO), 28 for a full disk (ENOSPC). See
    /// also [`heal`](Self::heal).
    ///
    /// ```
    /// use posthouse::{ErrorKind, Options, sim::SimDisk};
    ///
    /// let disk = SimDisk::new(7);
    /// disk.fail_call(disk.calls(), 5, true); // all calls fail from now on
    /// let error = Options::new().sim(&disk).open("store").unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Io);
    /// ```
    pub fn fail_call(&self, call: u64, error: i32, for_good: bool) {
        let only_syncs = false;
        self.world().fault = Some(Fault { call, only_syncs, error, for_good });
    }

    /// Makes one sync of a file fail: 0 for the next one, 1 for the one after it. `error` is the number of the
    /// error in the operating system.
    ///
    /// As on a real system, the data of the failed sync counts as clean afterwards, and a power cut loses it.
    ///
    /// ```
    /// use posthouse::{ErrorKind, Options, sim::SimDisk};
    ///
    /// let disk = SimDisk::new(7);
    /// let engine = Options::new().sim(&disk).open("store")?;
    /// let payments = engine.queue("payments").create()?;
    /// disk.fail_sync(0, 5);
    /// assert_eq!(payments.send("charge order 1").unwrap_err().kind(), ErrorKind::Poisoned);
    /// # Ok::<(), posthouse::Error>(())
    /// ```
    pub fn fail_sync(&self, which: u64, error: i32) {
        let mut world = self.world();
        let call = world.syncs + which;
        world.fault = Some(Fault { call, only_syncs: true, error, for_good: false });
    }

    /// The call that a fault has hit last, in words: `"write"`, `"sync a file"`, `"sync a directory"`. `None` if
    /// no call was made to fail.
    ///
    /// ```
    /// use posthouse::{Options, sim::SimDisk};
    ///
    /// let disk = SimDisk::new(7);
    /// let payments = Options::new().sim(&disk).open("store")?.queue("payments").create()?;
    /// disk.fail_sync(0, 5);
    /// assert!(payments.send("charge order 1").is_err());
    /// assert_eq!(disk.failed_call(), Some("sync a file"));
    /// # Ok::<(), posthouse::Error>(())
    /// ```
    #[must_use]
    pub fn failed_call(&self) -> Option<&'static str> {
        self.world().failed
    }

    /// Makes some bytes of a file unreadable, as bad sectors are: calls that read any of them fail with a device error
    /// (EIO) until [`heal`](Self::heal). Maps read them all the same: on a real disk that would end the process, so test with
    /// [`IoMode::Calls`](crate::IoMode::Calls). Without such a file it does nothing.
    ///
    /// ```
    /// use posthouse::{ErrorKind, IoMode, Options, sim::SimDisk};
    ///
    /// let disk = SimDisk::new(7);
    /// let options = Options::new().io(IoMode::Calls).sim(&disk);
    /// let payments = options.open("store")?.queue("payments").create()?;
    /// payments.send("charge order 1")?;
    /// for file in disk.files() {
    ///     disk.set_unreadable(&file, 0..u64::MAX);
    /// }
    /// assert_eq!(payments.try_receive().unwrap_err().kind(), ErrorKind::Io);
    /// disk.heal();
    /// assert!(payments.try_receive()?.is_some());
    /// # Ok::<(), posthouse::Error>(())
    /// ```
    pub fn set_unreadable(&self, path: &Path, bytes: Range<u64>) {
        let mut world = self.world();
        if let Ok(file) = world.find(path) {
            world.unreadable.push((file, bytes));
        }
    }

    /// Ends the fault that [`fail_call`](Self::fail_call) or [`fail_sync`](Self::fail_sync) has set, and makes all bytes
    /// readable again.
    ///
    /// ```
    /// use posthouse::{Options, sim::SimDisk};
    ///
    /// let disk = SimDisk::new(7);
    /// disk.fail_call(disk.calls(), 5, true);
    /// assert!(Options::new().sim(&disk).open("store").is_err());
    /// disk.heal();
    /// assert!(Options::new().sim(&disk).open("store").is_ok());
    /// ```
    pub fn heal(&self) {
        let mut world = self.world();
        world.fault = None;
        world.unreadable.clear();
    }

    /// Sets the size of the disk in bytes. Writes that need more fail as on a full disk. `None` removes the
    /// limit.
    ///
    /// See also [`bytes_used`](Self::bytes_used).
    ///
    /// ```
    /// use posthouse::{ErrorKind, Options, sim::SimDisk};
    ///
    /// let disk = SimDisk::new(7);
    /// disk.set_capacity(Some(4096));
    /// let error = Options::new().sim(&disk).open("store").unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::DiskFull);
    /// ```
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.world().capacity = bytes;
    }

    /// Sets which unsynced names a power cut may keep: with `true` any subset of them, with `false` the first
    /// few. Names are created, renamed and removed. The default is `false`.
    ///
    /// ```
    /// use posthouse::{Options, sim::SimDisk};
    ///
    /// let disk = SimDisk::new(7);
    /// disk.set_pessimal(true);
    /// let options = Options::new().sim(&disk);
    /// options.open("store")?.queue("payments").create()?;
    /// disk.power_cut();
    /// assert_eq!(options.open("store")?.queues()?, ["payments"]);
    /// # Ok::<(), posthouse::Error>(())
    /// ```
    pub fn set_pessimal(&self, pessimal: bool) {
        self.world().pessimal = pessimal;
    }

    /// Sets how long each sync of a file takes: 0 by default.
    ///
    /// Both clocks of the disk move on by that time. In real time a sync then takes up to a millisecond, so that
    /// other threads go on.
    ///
    /// ```
    /// use std::time::Duration;
    /// use posthouse::{Options, sim::SimDisk};
    ///
    /// let disk = SimDisk::new(7);
    /// disk.set_sync_time(Duration::from_millis(8));
    /// let engine = Options::new().sim(&disk).open("store")?;
    /// let payments = engine.queue("payments").create()?;
    /// payments.send("charge order 1")?; // takes 8 ms by the disk's clocks
    /// # Ok::<(), posthouse::Error>(())
    /// ```
    pub fn set_sync_time(&self, time: Duration) {
        self.world().sync_time = time;
    }
}

/// The error of a device, on Linux and others.
const EIO: i32 = 5;

impl World {
    /// Fails if a call cannot read some of these bytes.
    pub(super) fn check_readable(&self, file: FileId, at: u64, len: usize) -> io::Result<()> {
        let end = at.saturating_add(len as u64);
        let is_hit =
            |(of, bytes): &(FileId, Range<u64>)| *of == file && bytes.start < end && at < bytes.end;
        if self.unreadable.iter().any(is_hit) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        Ok(())
    }
}
