use proptest::prelude::*;

use super::{
    super::{record::*, wire::*},
    batter,
};
use crate::{ids::Timestamp, message::Message};

/// A record that owns its parts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Owned {
    pub timestamp: u64,
    pub key: Option<Vec<u8>>,
    pub subject: Option<String>,
    pub headers: Vec<(String, Vec<u8>)>,
    pub payload: Vec<u8>,
}

impl Owned {
    pub fn message(&self) -> Message<'_> {
        let mut message = Message::new(&self.payload).timestamp(Timestamp(self.timestamp));
        if let Some(key) = &self.key {
            message = message.key(key);
        }
        if let Some(subject) = &self.subject {
            message = message.subject(subject);
        }
        for (name, value) in &self.headers {
            message = message.header(name.as_str(), value);
        }
        message
    }

    pub fn of(bytes: &[u8], spans: &RecordSpans) -> Owned {
        let header = |(name, value): (&str, &[u8])| (name.to_owned(), value.to_vec());
        Owned {
            timestamp: spans.timestamp.0,
            key: spans.key(bytes).map(<[u8]>::to_vec),
            subject: Headers::new(spans.headers(bytes)).subject().map(str::to_owned),
            headers: Headers::new(spans.headers(bytes)).map(header).collect(),
            payload: spans.payload(bytes).to_vec(),
        }
    }
}

pub fn any_record() -> impl Strategy<Value = Owned> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..40);
    let header = ("\\PC{1,6}", prop::collection::vec(any::<u8>(), 0..8));
    let timestamp = prop_oneof![3 => Just(1000u64), 2 => 900..1100u64, 1 => any::<u64>()];
    let subject = prop::option::weighted(0.3, "[a-z.]{1,9}");
    let headers = prop::collection::vec(header, 0..3);
    (timestamp, prop::option::of(bytes()), subject, headers, bytes()).prop_map(
        |(timestamp, key, subject, headers, payload)| Owned {
            timestamp,
            key,
            subject,
            headers,
            payload,
        },
    )
}

fn put(record: &Owned, base: u64) -> Vec<u8> {
    let message = record.message();
    let parts = RecordParts::of(&message, Timestamp(0));
    let mut out = Vec::new();
    parts.put(&mut out, Timestamp(base));
    out
}

#[test]
fn the_least_record_has_two_bytes() {
    let record = Owned { timestamp: 5, ..Owned::default() };
    assert_eq!(put(&record, 5), [0, 0]);
    let spans = take_record(&[0, 0], 0, Timestamp(5)).unwrap();
    assert_eq!(Owned::of(&[0, 0], &spans), record);
    assert_eq!(spans.end(), 2);
}

#[test]
fn an_empty_key_is_a_key() {
    let record = Owned { key: Some(Vec::new()), ..Owned::default() };
    let bytes = put(&record, 0);
    assert_eq!(bytes, [2, 0, 0]);
    let spans = take_record(&bytes, 0, Timestamp(0)).unwrap();
    assert_eq!(spans.key(&bytes), Some(&[][..]));
}

#[test]
fn timestamps_go_both_ways_and_around() {
    let edges = [0, 1, 1000, u64::MAX / 2, u64::MAX / 2 + 1, u64::MAX - 1, u64::MAX];
    for base in edges {
        for timestamp in edges {
            let record = Owned { timestamp, ..Owned::default() };
            let bytes = put(&record, base);
            let spans = take_record(&bytes, 0, Timestamp(base)).unwrap();
            assert_eq!(spans.timestamp, Timestamp(timestamp), "{timestamp} from {base}");
        }
    }
    let near = Owned { timestamp: 999, ..Owned::default() };
    assert_eq!(put(&near, 1000), [1, 1, 0], "a step back is as short as one forward");
}

#[test]
fn what_has_no_meaning_is_refused() {
    let refused: [&[u8]; 8] = [
        &[8, 0], // An unknown flag.
        &[0x10, 0],
        &[0xFF, 0, 0, 0, 0, 0],
        &[1, 0, 0], // A timestamp that is the base.
        &[4, 0, 0], // Headers of no length.
        &[0, 1],    // A payload that is not there.
        &[2, 1, 0], // A key that is not there.
        &[],
    ];
    for bytes in refused {
        assert!(take_record(bytes, 0, Timestamp(0)).is_err(), "{bytes:?}");
    }
}

#[test]
fn lengths_that_only_fit_one_by_one_are_refused() {
    // Key, headers and payload of three bytes each, but five bytes are left.
    let bytes = [6, 3, 3, 3, 1, 2, 3, 4, 5];
    assert!(take_record(&bytes, 0, Timestamp(0)).is_err());
}

#[test]
fn a_record_begun_behind_the_end_is_none() {
    for at in [2, 3, usize::MAX] {
        assert!(take_record(&[0, 0], at, Timestamp(0)).is_err());
    }
}

#[test]
fn damaged_headers_end_early() {
    let headers = |bytes: &'static [u8]| Headers::new(bytes).collect::<Vec<_>>();
    assert_eq!(headers(&[1, b'a', 1, b'b']), [("a", &b"b"[..])]);
    assert_eq!(headers(&[1, b'a', 1, b'b', 9]), [("a", &b"b"[..])]);
    assert_eq!(headers(&[1, 0xFF, 1, b'b']), [], "a name that is no text");
    assert_eq!(headers(&[1, b'a']), []);
    assert_eq!(headers(&[0, 0]), [], "one without a name is the engine's");
    assert_eq!(headers(&[0, 1, 9, 1, b'a', 0]), [("a", &b""[..])]);
    assert_eq!(Headers::new(&[0, 1, 9, 1, b'a', 0]).note(), Some(&[9][..]));
    assert_eq!(Headers::new(&[1, b'a', 0, 0, 1, 9]).note(), None, "it stands first");
    assert_eq!(Headers::new(&[0, 9]).note(), None);
}

#[test]
fn the_weight_is_what_the_application_put_in() {
    let record = Owned {
        key: Some(vec![1; 3]),
        headers: vec![("ab".into(), vec![2; 4])],
        payload: vec![3; 5],
        ..Owned::default()
    };
    let message = record.message();
    assert_eq!(RecordParts::of(&message, Timestamp(0)).weight(), 3 + (1 + 2 + 1 + 4) + 5);
}

proptest! {
    #[test]
    fn any_record_there_and_back(
        record in any_record(), base: u64, before: Vec<u8>,
    ) {
        let encoded = put(&record, base);
        let mut bytes = before.clone();
        bytes.extend_from_slice(&encoded);
        let spans = take_record(&bytes, before.len(), Timestamp(base)).unwrap();
        prop_assert_eq!(Owned::of(&bytes, &spans), record);
        prop_assert_eq!(spans.end(), bytes.len());

        let mut again = Vec::new();
        RecordParts::stored(&bytes, &spans).put(&mut again, Timestamp(base));
        prop_assert_eq!(again, encoded, "from bytes as from a message");
    }

    #[test]
    fn hostile_records_are_refused_or_lie_within(record in any_record(), base: u64) {
        batter(&put(&record, base), |bytes| {
            if let Ok(spans) = take_record(bytes, 0, Timestamp(base)) {
                let _ = Owned::of(bytes, &spans);
                assert!(spans.end() <= bytes.len());
            }
        });
    }

    #[test]
    fn a_record_has_one_encoding(bytes in prop::collection::vec(any::<u8>(), 0..24), base: u64) {
        if let Ok(spans) = take_record(&bytes, 0, Timestamp(base)) {
            let mut again = Vec::new();
            RecordParts::stored(&bytes, &spans).put(&mut again, Timestamp(base));
            prop_assert_eq!(&again[..], &bytes[..spans.end()]);
            prop_assert!(again.len() > varint_len(spans.payload(&bytes).len() as u64));
        }
    }
}
