//! The errors that each system call can have.

use super::Harm;

/// The calls that are made to fail, and how.
pub type Harms = &'static [(&'static str, &'static [Harm])];

pub const KILL: &[Harm] = &[Harm::Kill];

pub const KILLS: Harms = &[
    ("mkdir", KILL),
    ("openat", KILL),
    ("flock", KILL),
    ("pread64", KILL),
    ("pwrite64", KILL),
    ("fdatasync", KILL),
    ("fsync", KILL),
    ("rename", KILL),
    ("unlink", KILL),
    ("mmap", KILL),
    ("ftruncate", KILL),
    ("write", KILL),
];

pub const EIO: Harm = Harm::Fail("EIO");

pub const ENOSPC: Harm = Harm::Fail("ENOSPC");

pub const EMFILE: Harm = Harm::Fail("EMFILE");

pub const ENOMEM: Harm = Harm::Fail("ENOMEM");

pub const EINTR: Harm = Harm::Fail("EINTR");

pub const FAILURES: Harms = &[
    ("mkdir", &[EIO, ENOSPC, ENOMEM]),
    ("openat", &[EIO, ENOSPC, EMFILE, ENOMEM, EINTR]),
    ("flock", &[EIO, ENOMEM]),
    ("pread64", &[EIO, ENOMEM, EINTR]),
    ("pwrite64", &[EIO, ENOSPC, ENOMEM, EINTR]),
    ("fdatasync", &[EIO, ENOSPC, ENOMEM, EINTR]),
    ("fsync", &[EIO, ENOSPC, ENOMEM, EINTR]),
    ("rename", &[EIO, ENOSPC, ENOMEM]),
    ("unlink", &[EIO, ENOMEM]),
    ("mmap", &[ENOMEM]),
    ("madvise", &[ENOMEM]),
    ("ftruncate", &[EIO, ENOSPC]),
    ("statx", &[EIO, ENOMEM]),
    ("getdents64", &[EIO, ENOMEM]),
    ("statfs", &[EIO]),
    ("clone3", &[Harm::Fail("EAGAIN")]),
];

pub const FAILURES_FOR_GOOD: Harms = &[
    ("openat", &[Harm::FailForGood("EMFILE"), Harm::FailForGood("EIO")]),
    ("pread64", &[Harm::FailForGood("EIO")]),
    ("pwrite64", &[Harm::FailForGood("ENOSPC"), Harm::FailForGood("EIO")]),
    ("fdatasync", &[Harm::FailForGood("ENOSPC"), Harm::FailForGood("EIO")]),
    ("fsync", &[Harm::FailForGood("EIO")]),
    ("rename", &[Harm::FailForGood("EIO")]),
    ("unlink", &[Harm::FailForGood("EIO")]),
    ("mmap", &[Harm::FailForGood("ENOMEM")]),
];

pub const FAILURES_TO_GO_ON_FROM: Harms = &[
    ("fdatasync", &[EIO, ENOSPC]),
    ("fsync", &[EIO, ENOSPC]),
    ("pwrite64", &[EIO, ENOSPC]),
    ("openat", &[EMFILE]),
    ("rename", &[EIO]),
];
