use super::{Rhythm, Turn, text};
use crate::{
    error::ErrorKind,
    format::schedule::MissedRuns::{self, RunAll, RunOnce, Skip},
    ids::Timestamp,
};
use proptest::prelude::*;

fn at(time: &str) -> Timestamp {
    Timestamp(time.parse::<jiff::Timestamp>().unwrap().as_millisecond() as u64)
}

fn times(cron: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
    let rhythm = Rhythm::parse(cron, zone).unwrap();
    let mut last = at(after);
    let next = || {
        last = rhythm.next(last).unwrap()?;
        Some(text(last).unwrap())
    };
    std::iter::from_fn(next).take(count).collect()
}

#[test]
fn fields_are_as_crontab_has_them_with_seconds_and_years() {
    let after = "2026-11-25T19:27:51.250Z"; // a Wednesday
    let first = |cron| times(cron, "UTC", after, 1).concat();
    assert_eq!(first("* * * * *"), "2026-11-25T19:28:00Z");
    assert_eq!(first("*/5 * * * * *"), "2026-11-25T19:27:55Z");
    assert_eq!(first("* * * * * *"), "2026-11-25T19:27:52Z");
    assert_eq!(first("0 3 * * *"), "2026-11-26T03:00:00Z");
    assert_eq!(first("@daily"), "2026-11-26T00:00:00Z");
    assert_eq!(first("0 9 * * MON-FRI"), "2026-11-26T09:00:00Z");
    assert_eq!(first("0 9 * * 7"), "2026-11-29T09:00:00Z");
    assert_eq!(first("0 9 L * *"), "2026-11-30T09:00:00Z");
    assert_eq!(first("0 0 29 2 *"), "2028-02-29T00:00:00Z");
    // Day of month or day of week, as in crontab.
    assert_eq!(first("0 0 13 * 5"), "2026-11-27T00:00:00Z");
    assert_eq!(times("0 0 0 1 1 * 2027-2028", "UTC", after, 9).len(), 2);
}

/// What users fear most: a run that is left out, or made twice.
#[test]
fn fixed_times_run_once_where_clocks_change() {
    let new_york = |cron, after, count| times(cron, "America/New_York", after, count);
    // 02:30 is left out on March 9th: it is made when the gap ends, at 03:00.
    let spring = new_york("30 2 * * *", "2025-03-08T00:00:00Z", 3);
    assert_eq!(spring, ["2025-03-08T07:30:00Z", "2025-03-09T07:00:00Z", "2025-03-10T06:30:00Z"]);
    // 01:30 comes twice on November 2nd.
    let autumn = new_york("30 1 * * *", "2025-11-01T12:00:00Z", 2);
    assert_eq!(autumn, ["2025-11-02T05:30:00Z", "2025-11-03T06:30:00Z"]);
    // A midnight that is left out, and a gap of half an hour.
    let santiago = times("0 0 * * *", "America/Santiago", "2025-09-06T12:00:00Z", 2);
    assert_eq!(santiago, ["2025-09-07T04:00:00Z", "2025-09-08T03:00:00Z"]);
    let lord_howe = times("15 2 * * *", "Australia/Lord_Howe", "2025-10-04T00:00:00Z", 2);
    assert_eq!(lord_howe, ["2025-10-04T15:30:00Z", "2025-10-05T15:15:00Z"]);
}

/// Samoa crossed the date line, and left out December 30th.
#[test]
fn a_zone_that_leaves_out_a_day_goes_on_with_the_next_day() {
    let apia = |cron| times(cron, "Pacific/Apia", "2011-12-29T09:00:00Z", 3);
    let daily = ["2011-12-29T16:00:00Z", "2011-12-30T16:00:00Z", "2011-12-31T16:00:00Z"];
    assert_eq!(apia("0 6 * * *"), daily, "the 29th, the 31st, the 1st");
    assert_eq!(apia("0 0 * * *")[1], "2011-12-30T10:00:00Z", "the midnight behind the gap");
    assert_eq!(apia("0 6 30 12 *")[0], "2012-12-29T16:00:00Z", "a year later");
    assert_eq!(apia("0 0 6 30 12 * 2011").len(), 0, "that day never came");
    let kiritimati = times("0 6 * * *", "Pacific/Kiritimati", "1994-12-30T00:00:00Z", 2);
    assert_eq!(kiritimati, ["1994-12-30T16:00:00Z", "1994-12-31T16:00:00Z"]);

    let rhythm = Rhythm::parse("0 6 * * *", "Pacific/Apia").unwrap();
    let last = rhythm.last(at("2011-12-30T11:00:00Z")).unwrap().unwrap();
    assert_eq!(text(last).unwrap(), "2011-12-29T16:00:00Z", "the last time before the gap");
}

#[test]
fn intervals_go_on_evenly_where_clocks_change() {
    for start in ["2025-03-09T05:00:00Z", "2025-11-02T03:00:00Z"] {
        for (cron, minutes) in [("*/15 * * * *", 15), ("0 * * * *", 60)] {
            let rhythm = Rhythm::parse(cron, "America/New_York").unwrap();
            let mut time = at(start);
            for _ in 0..20 {
                let next = rhythm.next(time).unwrap().unwrap();
                assert_eq!(next.0 - time.0, minutes * 60_000, "{cron} after {time}");
                time = next;
            }
        }
    }
}

/// What `docs/SCHEDULES.md` says of expressions that name more than one time of day.
#[test]
fn lists_of_times_follow_the_clock() {
    let new_york = |cron, after| times(cron, "America/New_York", after, 2);
    let spring = new_york("30 2,14 * * *", "2025-03-08T20:00:00Z");
    assert_eq!(spring, ["2025-03-09T18:30:00Z", "2025-03-10T06:30:00Z"]);
    let autumn = new_york("30 1,13 * * *", "2025-11-02T00:00:00Z");
    assert_eq!(autumn, ["2025-11-02T05:30:00Z", "2025-11-02T06:30:00Z"]);
}

#[test]
fn what_is_no_expression_is_told() {
    let field = |cron: &str, zone: &str| match Rhythm::parse(cron, zone).map(drop) {
        Ok(()) => "none",
        Err(error) => match error.kind() {
            ErrorKind::InvalidInput { field } => field,
            other => panic!("{other:?}"),
        },
    };
    for cron in [
        "",
        " ",
        "*",
        "* * * *",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * * 13 *",
        "* * * * 8",
        "*/0 * * * *",
        "5-1 * * * *",
        "a b c d e",
        "@reboot",
        "* * * * * * * *",
        "é * * * *",
        "99999999999999999999 * * * *",
        "\u{1F600}",
    ] {
        assert_eq!(field(cron, "UTC"), "cron", "{cron:?}");
    }
    assert_eq!(field(&"* ".repeat(600), "UTC"), "cron");
    for zone in ["", "Europe/Atlantis", "../../etc/passwd", "/etc/localtime", "local"] {
        assert_eq!(field("* * * * *", zone), "time_zone", "{zone:?}");
    }
    assert_eq!(Rhythm::parse("* * * * *", "europe/berlin").unwrap().time_zone(), "Europe/Berlin");
    assert_eq!(Rhythm::parse("* * * * *", "utc").unwrap().time_zone(), "UTC");
}

#[test]
fn what_never_comes_is_found_out() {
    for cron in ["0 0 30 2 *", "0 0 31 4,6,9,11 *", "0 0 0 1 1 * 2020", ", , , , ,"] {
        for zone in ["UTC", "America/New_York"] {
            assert!(times(cron, zone, "2026-11-25T00:00:00Z", 1).is_empty(), "{cron}");
        }
    }
    // A clock that has gone mad.
    let hourly = Rhythm::parse("@hourly", "UTC").unwrap();
    assert!(hourly.next(Timestamp(u64::MAX)).is_err());
    assert!(hourly.next(Timestamp(1 << 62)).is_err());
}

fn turn(cron: &str, planned: &str, missed: MissedRuns, now: &str) -> (Option<String>, String) {
    let rhythm = Rhythm::parse(cron, "Europe/Berlin").unwrap();
    let Turn { run, next } = rhythm.turn(at(planned), missed, at(now)).unwrap();
    (run.map(|run| text(run).unwrap()), text(next.unwrap()).unwrap())
}

fn told(run: Option<&str>, next: &str) -> (Option<String>, String) {
    (run.map(str::to_owned), next.to_owned())
}

#[test]
fn in_time_all_policies_are_the_same() {
    for missed in [RunOnce, RunAll, Skip] {
        for now in ["2026-01-02T11:00:00Z", "2026-01-02T10:59:59.500Z", "2026-01-02T11:00:59Z"] {
            let turned = turn("0 12 * * *", "2026-01-02T11:00:00Z", missed, now);
            assert_eq!(turned, told(Some("2026-01-02T11:00:00Z"), "2026-01-03T11:00:00Z"));
        }
    }
}

#[test]
fn missed_runs_are_made_once_or_all_or_not() {
    // Five days later: the latest of them, and then the next.
    let (planned, now) = ("2026-01-02T11:00:00Z", "2026-01-07T15:00:00Z");
    let turned = |missed| turn("0 12 * * *", planned, missed, now);
    assert_eq!(turned(RunOnce), told(Some("2026-01-07T11:00:00Z"), "2026-01-08T11:00:00Z"));
    assert_eq!(turned(RunAll), told(Some(planned), "2026-01-03T11:00:00Z"));
    assert_eq!(turned(Skip), told(None, "2026-01-08T11:00:00Z"));
    // Late, but for one run only.
    let turned = |missed| turn("0 12 * * *", planned, missed, "2026-01-02T15:00:00Z");
    assert_eq!(turned(RunOnce), told(Some(planned), "2026-01-03T11:00:00Z"));
    assert_eq!(turned(Skip), told(None, "2026-01-03T11:00:00Z"));
    // What runs each second is never much too late.
    let turned = turn("* * * * * *", planned, Skip, now);
    assert_eq!(turned, told(Some("2026-01-07T15:00:00Z"), "2026-01-07T15:00:01Z"));
    // The last time of all.
    let rhythm = Rhythm::parse("0 0 12 1 1 * 2026", "UTC").unwrap();
    let first = at("2026-01-01T12:00:00Z");
    for missed in [RunOnce, RunAll, Skip] {
        let turned = rhythm.turn(first, missed, first).unwrap();
        assert_eq!(turned, Turn { run: Some(first), next: None });
    }
}

#[test]
fn a_clock_that_was_set_back_makes_it_wait() {
    let planned = "2026-01-02T11:00:00Z";
    for now in ["2026-01-02T10:59:58Z", "2025-01-02T11:00:00Z", "1970-01-01T00:00:00Z"] {
        assert_eq!(turn("0 12 * * *", planned, RunOnce, now), told(None, planned));
    }
}

/// Fields of expressions, sound and unsound.
fn field() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => Just("*".to_owned()),
        4 => (0..70_u32).prop_map(|n| n.to_string()),
        2 => (0..60_u32, 0..60_u32).prop_map(|(a, b)| format!("{a}-{b}")),
        2 => (0..40_u32).prop_map(|n| format!("*/{n}")),
        2 => (0..60_u32, 0..60_u32, 0..9_u32).prop_map(|(a, b, n)| format!("{a}-{b}/{n}")),
        1 => (0..32_u32).prop_map(|n| format!("{n}W")),
        1 => (0..9_u32, 0..7_u32).prop_map(|(a, n)| format!("{a}#{n}")),
        1 => (0..9_u32).prop_map(|n| format!("{n}#L")),
        1 => (0..60_u32, 0..60_u32).prop_map(|(a, b)| format!("{a},{b}")),
        1 => prop_oneof!["L", "LW", "MON", "sun-sat", "JAN", r"\?", r"\+MON", "7L"].prop_map(|it| it),
        1 => r"[0-9*/,#LW+?@A-Z-]{0,12}",
        1 => r"\PC{0,4}",
    ]
}

fn expression() -> impl Strategy<Value = String> {
    let any = prop::collection::vec(field(), 0..8).prop_map(|fields| fields.join(" "));
    let minutes = prop_oneof![Just("*".to_owned()), (0..60_u32).prop_map(|n| n.to_string())];
    let daily = (minutes, 0..4_u32).prop_map(|(minute, hour)| format!("{minute} {hour} * * *"));
    prop_oneof![2 => any, 1 => daily]
}

/// Any time, or one shortly before clocks change somewhere.
fn start() -> impl Strategy<Value = u64> {
    let changes = [
        "2025-03-09T07:00:00Z",
        "2025-11-02T06:00:00Z",
        "2025-10-04T15:30:00Z",
        "2025-04-05T15:00:00Z",
        "2025-03-30T01:00:00Z",
        "2025-10-26T01:00:00Z",
    ];
    let near = (prop::sample::select(changes.to_vec()), 0..14_400_000_u64)
        .prop_map(|(change, before)| at(change).0 - before);
    prop_oneof![0..4_000_000_000_000_u64, near]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("POSTHOUSE_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(500),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whatever is given, it is refused, or its times go up, and the way back leads to them.
    #[test]
    fn times_go_up(cron in expression(), zone in 0..4_usize, start in start()) {
        let zone = ["UTC", "America/New_York", "Australia/Lord_Howe", "Europe/Dublin"][zone];
        let Ok(parsed) = super::CronParser::new().parse(&cron) else { return Ok(()) };
        let rhythm = Rhythm { cron: parsed, zone: super::zone(zone).unwrap() };
        let mut time = Timestamp(start);
        for _ in 0..6 {
            let Some(next) = rhythm.next(time).unwrap() else { return Ok(()) };
            prop_assert!(next > time);
            prop_assert_eq!(next.0 % 1000, 0);
            // None was left out in between.
            let last = rhythm.last(Timestamp(next.0 - 1)).unwrap();
            prop_assert!(last.is_none_or(|last| last <= time), "{cron:?} {zone}: {last:?} after {time}");
            prop_assert_eq!(rhythm.last(next).unwrap(), Some(next));
            time = next;
        }
    }
}
