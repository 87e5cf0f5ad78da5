//! Deliberate bugs that test the tests: `cargo run -p posthouse-crash` must find each of them.
//!
//! They exist only in builds with `--cfg seeded_bugs`, which must have debug assertions. No release build has them. In
//! other builds `seeded!` is `false`, and the compiler removes the code that it guards.

#[cfg(all(seeded_bugs, not(debug_assertions)))]
compile_error!("deliberate bugs are for tests, and never for a release build");

/// Whether a deliberate bug is switched on.
#[cfg(not(seeded_bugs))]
macro_rules! seeded {
    ($bug:ident) => {
        false
    };
}

/// Whether a deliberate bug is switched on.
#[cfg(seeded_bugs)]
macro_rules! seeded {
    ($bug:ident) => {
        $crate::seeded::is_on($crate::seeded::Bug::$bug)
    };
}

#[cfg(seeded_bugs)]
pub use switch::*;

#[cfg(seeded_bugs)]
mod switch {
    use std::sync::atomic::{AtomicUsize, Ordering};

    macro_rules! bugs {
        ($($bug:ident,)*) => {
            /// A deliberate bug. Its name describes the wrong behaviour.
            #[allow(missing_docs)]
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            pub enum Bug { None, $($bug,)* }
            /// All of them.
            pub const ALL: &[Bug] = &[$(Bug::$bug,)*];
        };
    }

    bugs! {
        // Journal.
        SyncIsSkipped, OnlyTheNewestFileIsSynced, FailedSyncIsTriedAgain, PoisonIsForgotten,
        WatermarkClaimsTheTail, WatermarkIsNeverMoved, FrameIsNotVerified, NewFileIsNotSynced, NewNameIsNotSynced, RefilledFileIsNotSynced,
        FilesAreRecycledEarly, PositionsAreUsedAgain, TornTailIsRefused, DamageIsCut,
        RecoveryDoesNotSync, RecoveryBelievesTheCache,
        // Checkpoint, segments, metalog.
        SegmentIsNotSynced, SharedFileIsNotSynced, SegmentNameIsNotSynced, SegmentDirectoryIsNotSynced,
        FileNumberIsUsedAgain, FileIsRemovedWithItsFirstSegment, RewriteForgetsALog,
        DeletionTakesTheFilesOfOthers, AbsorbedPartsGoAtOnce, PartIsNamedElsewhere,

        JournalIsNotSyncedBeforeTheMetalog, MetalogIsNotSynced, MetalogNameIsNotSynced,
        MetalogIsNamedEarly, MetalogBelievesTheCache, OldestMetalogWins,
        SegmentsAreRemovedEarly, DeletedLogsAreRemovedEarly,
        PartFreesWhatIsNotMoved, LaterPartGoesFirst, MergedFilesGoEarly,
        ReplayBeginsTooLate, MovedTooFar, DeadForOneIsDeadForAll,
        AppendsBehindTheFilesEnd, BlockIsNotVerified,
        // State.
        AcksAreNotCaptured, AttemptsAreNotCaptured, DueIsNotCaptured, PrioritiesAreNotCaptured,
        ShelvedIsNotCaptured, BlockComesBackEmpty,
        SettingsAreNotCaptured, SettingsAreNotReplayed,
        ClockIsNotCaptured,
        LivesOfSegmentsAreNotKept, LivesAreLostInRewrites,
        ChangedCursorIsNotListed, ChangedLogIsNotListed, BatchIsNotListed, RestOfTheJournalIsNotListed,
        GroupsAreNotCaptured, TrimIsNotCaptured, DeletionIsNotCaptured, NextOffsetIsOneTooLow,
        // Engine.
        VisibleBeforeDurable, TransactionIsTwoFrames, AckWithoutALease,
        LeaseEndIsNotCounted, CloseBurnsAttempts, LeasedCursorRests, DormantForgetsLeases,
        ExpiredIsDelivered, ExpiresTooEarly, ExpiredIsDroppedWithoutACommit,
        SweepTakesTheLiving, SweepTakesLeasedMessages, SweptLettersAreNotAcked, SweepLeavesTheOthers,
        LettersKeepTheirOldLife, LifeGoesOnWhenRedriven,
        FullQueueDropsTheLivingFirst, ChangedLivesAreNotLookedAt,
        SetClockIsNotCommitted, SkewIsReadAsTheLatest, DelaysFollowTheClock, TwoConsumersAreActive,
        CircleOfLettersIsAccepted,
        RunIsTwoCommits, MissedRunsAreLeftOut,
        RetentionTakesTooMuch, LimitsStayAsTheyWere, UnreadIsNotSpared, ArrivalsAreNotLookedAt,
        OthersGetWhatOneGets, OneAcksForItselfToo, CheckpointForgetsTheOthers,
        RejectedStaysUnacked, KeeperIsFiltered, ChangedFilterIsNotFollowed,
        MatchIsNotCaptured, SeenIsTheLogsEnd, FilterForgottenAtRecovery,
        KeeperIsNotCaptured, LettersOfOthersAreRetained, LateGetsAll, KeeperOutlivesItsLimits, PausedQueuesDeliver, PauseIsNotStored,
        ConflictIsNotSeen, ExpectedEndIsTheVisibleOne,
        TrimmedIsReadBackwards, OlderSegmentsAreNotReadBackwards,
    }

    static ON: AtomicUsize = AtomicUsize::new(Bug::None as usize);

    /// Switches one bug on, and all others off.
    pub fn switch_on(bug: Bug) {
        ON.store(bug as usize, Ordering::SeqCst);
    }

    #[doc(hidden)]
    #[must_use]
    pub fn is_on(bug: Bug) -> bool {
        ON.load(Ordering::Relaxed) == bug as usize
    }
}
