//! In which pieces a journal file is zeroed before it is used.
//!
//! Linux keeps a file in memory in *folios*. A write call that fills new blocks makes folios of up to its own size, if the
//! file system can (ext4 from Linux 6.16 on, XFS). A folio is made ready for writes as a whole, and written back as a whole.

/// The size of the pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grain {
    /// A sync after a small commit writes one page.
    Fine,
    /// The first store to a page costs a tenth, and a sync of many pages a third. A sync after a small commit writes a
    /// whole piece.
    Coarse,
}

/// With so many coarse pieces between two syncs, what a sync writes in vain is little.
const PIECES_A_SYNC: u64 = 8;
/// Coarse files go on while there are so many. The two numbers are apart, so that a load between them does not change
/// the kind with each file: used files are filled again only as what they are.
const PIECES_TO_GO_ON: u64 = 2;
/// A coarse file is left early only after so many syncs.
const SYNCS_MIN: u32 = 32;

impl Grain {
    /// The bytes of a piece. Pieces are aligned: the system makes no larger folio of one that is not.
    pub fn bytes(self) -> u64 {
        match self {
            Grain::Fine => 4096,
            Grain::Coarse => 64 << 10,
        }
    }

    /// The grain of the next file, if so many bytes and syncs went into the last one, which should have had this grain.
    pub fn behind(self, filled: u64, syncs: u32) -> Grain {
        let between = filled / u64::from(syncs.max(1));
        let pieces = match self {
            Grain::Fine => PIECES_A_SYNC,
            Grain::Coarse => PIECES_TO_GO_ON,
        };
        let is_coarse = syncs == 0 || between >= pieces * Grain::Coarse.bytes();
        if is_coarse { Grain::Coarse } else { Grain::Fine }
    }

    /// Whether a file of this grain has become the wrong one, because commits are small and synced often: each sync would
    /// write a whole piece, until the file is full. So many bytes and syncs went into it until now.
    pub fn is_too_coarse(self, filled: u64, syncs: u32) -> bool {
        self == Grain::Coarse && syncs >= SYNCS_MIN && filled / u64::from(syncs) < self.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::Grain;

    #[test]
    fn files_that_fill_between_two_syncs_are_coarse_and_those_that_are_synced_often_fine() {
        let file = 8 << 20;
        assert_eq!(Grain::Fine.behind(200 << 10, 0), Grain::Coarse, "no sync at all");
        assert_eq!(Grain::Fine.behind(file, 1), Grain::Coarse);
        assert_eq!(Grain::Fine.behind(file, 16), Grain::Coarse);
        assert_eq!(Grain::Fine.behind(file, 17), Grain::Fine);
        assert_eq!(Grain::Fine.behind(200 << 10, 1), Grain::Fine);
        assert_eq!(Grain::Fine.behind(file, u32::MAX), Grain::Fine);
    }

    #[test]
    fn the_kind_does_not_change_with_each_file_at_any_load() {
        let file = 8 << 20;
        assert_eq!(Grain::Coarse.behind(file, 64), Grain::Coarse);
        assert_eq!(Grain::Coarse.behind(file, 65), Grain::Fine);
        for syncs in 1..200 {
            // One sync more or less in each second file.
            let mut kinds = vec![Grain::Fine];
            for n in 0..20 {
                kinds.push(kinds[n].behind(file, syncs + n as u32 % 2));
            }
            let changes = kinds.windows(2).filter(|pair| pair[0] != pair[1]).count();
            assert!(changes <= 1, "{syncs}: {kinds:?}");
        }
    }

    #[test]
    fn a_coarse_file_is_left_when_its_syncs_become_small() {
        assert!(!Grain::Coarse.is_too_coarse(100, 31), "a few syncs say nothing");
        assert!(Grain::Coarse.is_too_coarse(100, 32));
        assert!(!Grain::Coarse.is_too_coarse(4 << 20, 64), "it has taken much between syncs");
        assert!(Grain::Coarse.is_too_coarse(4 << 20, 65));
        assert!(!Grain::Fine.is_too_coarse(100, 1000), "there is nothing finer");
    }
}
