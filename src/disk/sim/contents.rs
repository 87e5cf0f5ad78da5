//! The files of a simulated disk, and counts of its work.

use std::path::{Path, PathBuf};

use super::SimDisk;

impl SimDisk {
    /// How many steps the disk has made: stores, syncs, and changes of names and lengths.
    ///
    /// ```
    /// use posthouse::{Options, sim::SimDisk};
    ///
    /// let disk = SimDisk::new(7);
    /// let engine = Options::new().sim(&disk).open("store")?;
    /// let payments = engine.queue("payments").create()?;
    /// let before = disk.steps();
    /// payments.send("charge order 1")?;
    /// assert!(disk.steps() > before);
    /// # Ok::<(), posthouse::Error>(())
    /// ```
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.world().steps
    }

    /// How many calls were made that can fail. See [`fail_call`](Self::fail_call).
    ///
    /// ```
    /// use posthouse::sim::SimDisk;
    ///
    /// assert_eq!(SimDisk::new(7).calls(), 0);
    /// ```
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.world().calls
    }

    /// How many files were synced, over the whole life of the disk. See [`fail_sync`](Self::fail_sync).
    ///
    /// ```
    /// use posthouse::{Options, sim::SimDisk};
    ///
    /// let disk = SimDisk::new(7);
    /// let payments = Options::new().sim(&disk).open("store")?.queue("payments").create()?;
    /// let before = disk.syncs();
    /// payments.send("charge order 1")?;
    /// assert_eq!(disk.syncs() - before, 1);
    /// # Ok::<(), posthouse::Error>(())
    /// ```
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.world().syncs
    }

    /// How many bytes the files take up now, in pages of 4 KiB.
    ///
    /// ```
    /// use posthouse::{Options, sim::SimDisk};
    ///
    /// let disk = SimDisk::new(7);
    /// let engine = Options::new().sim(&disk).open("store")?;
    /// assert_eq!(disk.bytes_used() % 4096, 0);
    /// disk.set_capacity(Some(disk.bytes_used())); // the disk is full now
    /// # Ok::<(), posthouse::Error>(())
    /// ```
    #[must_use]
    pub fn bytes_used(&self) -> u64 {
        self.world().bytes_used()
    }

    /// How many bytes were written to files whose path contains `part`, over the whole life of the disk.
    ///
    /// ```
    /// use posthouse::{Options, sim::SimDisk};
    ///
    /// let disk = SimDisk::new(7);
    /// let engine = Options::new().sim(&disk).open("store")?;
    /// engine.queue("payments").create()?.send(vec![0; 1000])?;
    /// assert!(disk.bytes_written("store") >= 1000);
    /// # Ok::<(), posthouse::Error>(())
    /// ```
    #[must_use]
    pub fn bytes_written(&self, part: &str) -> u64 {
        self.world().bytes_written(part)
    }

    /// How many bytes were read through calls, over the whole life of the disk. Reads of mapped files do not
    /// count.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.world().bytes_read
    }

    /// The paths of all files, sorted.
    ///
    /// ```
    /// use posthouse::{Options, sim::SimDisk};
    ///
    /// let disk = SimDisk::new(7);
    /// let engine = Options::new().sim(&disk).open("store")?;
    /// assert!(disk.files().iter().all(|path| path.starts_with("store")));
    /// # Ok::<(), posthouse::Error>(())
    /// ```
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        self.world().files()
    }

    /// The content of a file. `None` if there is no such file.
    ///
    /// ```
    /// use posthouse::{Options, sim::SimDisk};
    ///
    /// let disk = SimDisk::new(7);
    /// let engine = Options::new().sim(&disk).open("store")?;
    /// for path in disk.files() {
    ///     println!("{}: {} bytes", path.display(), disk.content(&path).expect("it is there").len());
    /// }
    /// # Ok::<(), posthouse::Error>(())
    /// ```
    #[must_use]
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        self.world().content(path)
    }

    /// Replaces the content of a file, durably: to plant damage. `None` removes the file.
    ///
    /// ```
    /// use posthouse::{Options, sim::SimDisk};
    ///
    /// let disk = SimDisk::new(7);
    /// let options = Options::new().sim(&disk);
    /// let engine = options.open("store")?;
    /// engine.queue("payments").create()?.send("charge order 1")?;
    /// engine.close()?;
    /// for path in disk.files() {
    ///     let zeros = vec![0; disk.content(&path).expect("it is there").len()];
    ///     disk.plant(&path, Some(zeros));
    /// }
    /// assert!(!options.verify("store")?.is_ok());
    /// # Ok::<(), posthouse::Error>(())
    /// ```
    pub fn plant(&self, path: &Path, content: Option<Vec<u8>>) {
        self.world().plant(path, content);
    }
}
