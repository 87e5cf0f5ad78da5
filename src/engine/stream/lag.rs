//! How far a group is behind, in time: the ages of the first records that are ahead of it.

use std::time::Duration;

use super::{group::Group, reader::Reader, start::Found};
use crate::{error::Result, ids::Timestamp};

impl Group {
    /// For how long the first record that is ahead of the group has waited for it, in the partition where that is longest.
    /// `None` if no record is ahead.
    ///
    /// It counts from the record's timestamp by the time of day, so it follows a clock that is set. A timestamp in the future
    /// counts as no time. [`lag`](Group::lag) counts records.
    ///
    /// It reads the block of one record, in each partition in which a record is ahead.
    ///
    /// ```
    /// use std::time::Duration;
    /// use posthouse::{Message, Timestamp};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").create()?;
    /// let billing = history.group("billing").create()?;
    /// assert_eq!(billing.lag_time()?, None);
    /// let an_hour_ago = Timestamp(Timestamp::now().0 - 3_600_000);
    /// history.append(Message::new("order 1").timestamp(an_hour_ago))?;
    /// assert!(billing.lag_time()? >= Some(Duration::from_secs(3599)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound) if the group was deleted;
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if a record that comes next is damaged: a reader of the group gets the same error;
    /// [`Io`](crate::ErrorKind::Io) if it cannot be read.
    pub fn lag_time(&self) -> Result<Option<Duration>> {
        Ok(self.lag_times()?.into_iter().flatten().max())
    }

    /// As [`lag_time`](Group::lag_time), for each partition.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").partitions(2).create()?;
    /// let billing = history.group("billing").create()?;
    /// history.append("order 1")?;
    /// assert_eq!(billing.lag_times()?.iter().flatten().count(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`lag_time`](Group::lag_time).
    pub fn lag_times(&self) -> Result<Vec<Option<Duration>>> {
        let now = self.engine().committer().disk.now();
        let lags = self.lags()?.into_iter().zip(0..);
        let time = |(lag, partition)| match lag {
            0 => Ok(None),
            _ => Ok(self.first_ahead(partition)?.map(|it| since(it, now))),
        };
        lags.map(time).collect()
    }

    /// The timestamp of the first record that is ahead in a partition. `None` if there is none any more.
    fn first_ahead(&self, partition: u32) -> Result<Option<Timestamp>> {
        let next = Found::Offset(self.committed(partition)?);
        let mut reader = Reader::at(self.shape(), vec![(partition, next)])?;
        Ok(reader.try_read()?.map(|record| record.timestamp()))
    }
}

fn since(time: Timestamp, now: Timestamp) -> Duration {
    Duration::from_millis(now.0.saturating_sub(time.0))
}
