//! Tests of maps, slices and shares.

use std::sync;

use super::*;

fn shares() -> (Shares, sync::Weak<Vec<u8>>) {
    let bytes = Arc::new(vec![7; 10]);
    let weak = Arc::downgrade(&bytes);
    (Shares::new(Slice::heap(bytes).narrow(2, 6)), weak)
}

#[test]
fn bytes_live_as_long_as_any_share() {
    let (mut shares, weak) = shares();
    let share = shares.take();
    drop(shares);
    let other = share.clone();
    drop(share);
    assert_eq!((&*other, weak.strong_count()), (&[7; 4][..], 1));
    drop(other);
    assert_eq!(weak.strong_count(), 0);
    let (unused, weak) = self::shares();
    drop(unused);
    assert_eq!(weak.strong_count(), 0);
}

/// What does not fit is refused, and changes nothing.
#[test]
fn what_is_encoded_in_the_map_is_written() {
    let (len, file) = (4 * PAGE_BYTES as u64, tempfile::tempfile().expect("a file"));
    file.set_len(len).expect("room");
    let mut window = MapWindow::open(&file, len, Purpose::Append).expect("a map");
    let put = |window: &mut MapWindow, at: u64, len: usize, byte: u8| {
        let mut fill = |out: &mut [u8]| {
            assert_eq!(out.len(), len);
            out.fill(byte);
        };
        window.write_with(at, len, &mut Vec::new(), &mut fill)
    };
    window.write(0, &[1; 5]).expect("room");
    put(&mut window, 8, 5000, 2).expect("room");
    put(&mut window, 5008, 100, 3).expect("room");
    put(&mut window, 5000, 1, 4).expect_err("that is written already");
    put(&mut window, len - 1, 2, 4).expect_err("it is past the end");
    put(&mut window, u64::MAX, 2, 4).expect_err("there is no such place");
    let expected: Vec<u8> = [vec![2; 5000], vec![3; 100]].concat();
    assert_eq!(window.slice(8, 5100).expect("it is written")[..], expected[..]);
}

#[cfg(unix)]
#[test]
fn pages_that_were_taken_out_of_a_map_are_as_they_were() {
    let file = tempfile::tempfile().expect("a file");
    let len = 64 * PAGE_BYTES;
    file.set_len(len as u64).expect("room");
    let mut window = MapWindow::open(&file, len as u64, Purpose::Append).expect("a map");
    let page = |n: usize| vec![n as u8 + 1; PAGE_BYTES];
    let mut at = 0;
    for round in [20, 21, 40, 63] {
        for n in at..round {
            window.write((n * PAGE_BYTES) as u64, &page(n)).expect("room");
        }
        let held = window.slice(0, round * PAGE_BYTES).expect("written");
        window.written((at * PAGE_BYTES) as u64 + 5).expect("a map").unmap();
        window.written(0).expect("a map").unmap();
        for n in 0..round {
            assert_eq!(held[n * PAGE_BYTES..][..PAGE_BYTES], page(n), "page {n} of {round}");
        }
        at = round;
    }
    let mut read = vec![0; 63 * PAGE_BYTES];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut read, 0).expect("the file has them");
    assert_eq!(read, (0..63).flat_map(page).collect::<Vec<_>>());
}

#[test]
fn shares_are_given_up_by_many_threads() {
    let (mut shares, weak) = shares();
    let hands: Vec<_> = (0..4)
        .map(|_| {
            let taken: Vec<_> = (0..SHARES_AT_ONCE * 2).map(|_| shares.take()).collect();
            std::thread::spawn(move || taken.iter().for_each(|it| assert_eq!(it.len(), 4)))
        })
        .collect();
    assert_eq!(&*shares, &[7; 4]);
    drop(shares);
    hands.into_iter().for_each(|hand| hand.join().expect("it ends"));
    assert_eq!(weak.strong_count(), 0);
}
