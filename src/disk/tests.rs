//! All interleavings of a map's writer with its readers, also when the writer begins again at the front.
//! `RUSTFLAGS="--cfg loom" cargo test --release --lib interleavings`

use loom::thread;

use super::{Purpose, Slice, Window, map::MapWindow};

/// Tries all schedules with at most three preemptions.
fn check(act: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(act);
}

const LEN: usize = 4;

/// A file for all executions of one test. Other tests run at the same time. Bytes that an earlier execution left in it are
/// above the frontier.
fn file() -> std::fs::File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(LEN as u64).unwrap();
    file
}

fn window(file: &std::fs::File) -> MapWindow {
    MapWindow::open(file, LEN as u64, Purpose::Append).unwrap()
}

/// A reader that sees the frontier sees the bytes below it, as they were written.
#[test]
fn interleavings_of_the_frontier() {
    let file = file();
    check(move || {
        let mut window = window(&file);
        let region = window.region();
        let readers = [(); 2].map(|()| {
            let region = region.clone();
            thread::spawn(move || {
                let mut before = 0;
                for _ in 0..2 {
                    let end = region.frontier();
                    assert!(end >= before, "the frontier goes back");
                    let expected: Vec<u8> = (0..end as u8).map(|at| at + 1).collect();
                    let bytes = Slice::mapped(&region, 0, end).unwrap();
                    assert_eq!(*bytes, expected[..]);
                    before = end;
                }
            })
        });
        for part in 0..2 {
            window.write(part, &[part as u8 + 1]).unwrap();
        }
        readers.into_iter().for_each(|it| it.join().unwrap());
    });
}

/// A map begins again only when no slice of it is alive, so no slice sees the new bytes.
#[test]
fn interleavings_of_reuse_with_readers() {
    let file = file();
    check(move || {
        let mut window = window(&file);
        window.write(0, &[1; 4]).unwrap();
        let readers = [0, 2].map(|at| {
            let slice = window.slice(at, 2).unwrap();
            thread::spawn(move || {
                assert_eq!(*slice, [1; 2]);
                let part = slice.clone().narrow(1, 2);
                drop(slice);
                assert_eq!(*part, [1; 1]);
            })
        });
        let again = window.reuse();
        if again {
            window.write(0, &[2; 4]).unwrap();
        } else {
            assert!(window.write(0, &[2; 4]).is_err(), "it may not be written again");
        }
        readers.into_iter().for_each(|it| it.join().unwrap());
        assert!(again || window.reuse(), "all have let go of it");
    });
}
