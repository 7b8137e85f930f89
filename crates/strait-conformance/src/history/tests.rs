//! Each promise seen kept, and seen broken by a history made by hand.

use super::*;

fn appended(text: &str, key: &str, offset: u64) -> (&'static str, Did) {
    let did = Did::Appended {
        text: text.into(),
        key: key.into(),
        place: (0, Position::at(offset)),
    };
    ("producer", did)
}

fn delivered(text: &str, attempt: u32, epoch: u64) -> Did {
    Did::Delivered {
        text: text.into(),
        attempt,
        shard: 0,
        epoch,
    }
}

fn handling(text: &str) -> Did {
    Did::Handling { text: text.into() }
}

fn settling(text: &str, end: End, effect: Option<&str>, epoch: u64) -> Did {
    Did::Settling {
        text: text.into(),
        end,
        effect: effect.map(str::to_owned),
        shard: 0,
        epoch,
    }
}

fn settled(text: &str, answer: Answer) -> Did {
    Did::Settled {
        text: text.into(),
        answer,
    }
}

/// Handled and settled at the first attempt.
fn done(text: &str) -> Vec<(&'static str, Did)> {
    vec![
        ("one", delivered(text, 1, 1)),
        ("one", handling(text)),
        ("one", settling(text, End::Done, None, 1)),
        ("one", settled(text, Answer::Applied)),
    ]
}

/// Two messages of a key; the first fails once, then leaves an effect; the second is given up.
fn good() -> (Vec<(&'static str, Did)>, Stored) {
    let mut steps = vec![appended("a", "k", 0), appended("b", "k", 1)];
    for did in [
        delivered("a", 1, 1),
        handling("a"),
        settling("a", End::Retry, Some("effect 1"), 1),
        settled("a", Answer::NotApplied),
        settling("a", End::Retry, None, 1),
        settled("a", Answer::Applied),
        delivered("a", 2, 1),
        handling("a"),
        settling("a", End::Done, Some("effect 2"), 1),
        settled("a", Answer::Applied),
    ] {
        steps.push(("one", did));
    }
    for did in [
        delivered("b", 1, 2),
        handling("b"),
        settling("b", End::Dead, None, 2),
        settled("b", Answer::Applied),
    ] {
        steps.push(("two", did));
    }
    let stored = Stored {
        log: log(&["a", "b"]),
        effects: vec!["effect 2".into()],
        dead: vec![("b".into(), 1)],
        lag: 0,
        max_attempts: 3,
        gap: None,
        lossy: false,
    };
    (steps, stored)
}

fn log(texts: &[&str]) -> BTreeMap<Place, String> {
    let places = (0..).map(|offset| (0, Position::at(offset)));
    places.zip(texts.iter().map(|t| (*t).to_owned())).collect()
}

fn broken(steps: Vec<(&'static str, Did)>, stored: &Stored) -> Vec<Promise> {
    let history = History::new();
    for (who, did) in steps {
        history.add(who, did);
    }
    let found = check(&history.events(), stored);
    let mut promises: Vec<Promise> = found.iter().map(|v| v.promise).collect();
    promises.sort();
    promises.dedup();
    promises
}

#[test]
fn a_good_history_breaks_nothing() {
    let (steps, stored) = good();
    assert_eq!(broken(steps, &stored), []);
    assert_eq!(broken(Vec::new(), &Stored::default()), []);
}

#[test]
fn an_acknowledged_append_is_missing_or_elsewhere() {
    let (steps, mut stored) = good();
    stored.log.remove(&(0, Position::at(1)));
    assert_eq!(broken(steps.clone(), &stored), [Promise::NothingLost]);
    stored.log = log(&["b", "a"]);
    assert_eq!(broken(steps, &stored), [Promise::NothingLost]);
}

#[test]
fn two_appends_are_acknowledged_at_one_place() {
    let mut steps = vec![appended("a", "k", 0), appended("b", "l", 0)];
    steps.extend(done("a"));
    steps.extend(done("b"));
    let stored = Stored {
        log: log(&["a"]),
        ..Stored::default()
    };
    assert_eq!(broken(steps, &stored), [Promise::NothingLost]);
}

#[test]
fn a_message_is_never_delivered_or_never_settled() {
    let stored = Stored {
        log: log(&["a"]),
        ..Stored::default()
    };
    let never = vec![appended("a", "k", 0)];
    assert_eq!(broken(never.clone(), &stored), [Promise::AtLeastOnce]);
    let mut unsettled = vec![appended("a", "k", 0)];
    unsettled.push(("one", delivered("a", 1, 1)));
    assert_eq!(broken(unsettled, &stored), [Promise::AtLeastOnce]);
    let owed = Stored { lag: 1, ..stored };
    assert_eq!(broken(never, &owed), []);
}

#[test]
fn a_message_is_settled_twice() {
    let mut steps = vec![appended("a", "k", 0)];
    steps.extend(done("a"));
    steps.extend([
        ("one", settling("a", End::Done, None, 1)),
        ("one", settled("a", Answer::Applied)),
    ]);
    let stored = Stored {
        log: log(&["a"]),
        ..Stored::default()
    };
    assert_eq!(broken(steps, &stored), [Promise::ExactlyOnce]);
}

#[test]
fn an_effect_is_missing_doubled_left_by_a_refused_unit_or_from_nowhere() {
    let (steps, stored) = good();
    for effects in [
        &[][..],
        &["effect 2", "effect 2"],
        &["effect 1", "effect 2"],
        &["effect 2", "effect 3"],
    ] {
        let stored = Stored {
            effects: effects.iter().map(|e| (*e).to_owned()).collect(),
            ..stored.clone()
        };
        assert_eq!(
            broken(steps.clone(), &stored),
            [Promise::ExactlyOnce],
            "{effects:?}"
        );
    }
}

#[test]
fn an_unknown_outcome_may_have_left_its_effect_or_not() {
    let mut steps = vec![appended("a", "k", 0)];
    steps.extend([
        ("one", delivered("a", 1, 1)),
        ("one", handling("a")),
        ("one", settling("a", End::Done, Some("effect"), 1)),
        ("one", settled("a", Answer::Unknown)),
    ]);
    for effects in [Vec::new(), vec!["effect".to_owned()]] {
        let stored = Stored {
            log: log(&["a"]),
            effects,
            ..Stored::default()
        };
        assert_eq!(broken(steps.clone(), &stored), []);
    }
}

#[test]
fn a_key_is_handled_out_of_order() {
    let mut steps = vec![appended("a", "k", 0), appended("b", "k", 1)];
    let stored = Stored {
        log: log(&["a", "b"]),
        max_attempts: 3,
        ..Stored::default()
    };
    steps.extend(done("b"));
    steps.extend(done("a"));
    assert_eq!(broken(steps, &stored), [Promise::KeyOrder]);

    // Two keys are free.
    let mut steps = vec![appended("a", "k", 0), appended("b", "l", 1)];
    steps.extend(done("b"));
    steps.extend(done("a"));
    assert_eq!(broken(steps, &stored), []);
}

#[test]
fn a_key_goes_on_while_its_message_is_parked() {
    let mut steps = vec![appended("a", "k", 0), appended("b", "k", 1)];
    steps.extend([
        ("one", delivered("a", 1, 1)),
        ("one", handling("a")),
        ("one", settling("a", End::Retry, None, 1)),
        ("one", settled("a", Answer::Applied)),
    ]);
    steps.extend(done("b"));
    steps.extend([
        ("one", delivered("a", 2, 1)),
        ("one", handling("a")),
        ("one", settling("a", End::Done, None, 1)),
        ("one", settled("a", Answer::Applied)),
    ]);
    let stored = Stored {
        log: log(&["a", "b"]),
        max_attempts: 3,
        ..Stored::default()
    };
    assert_eq!(broken(steps, &stored), [Promise::KeyOrder]);
}

#[test]
fn an_answer_seen_late_is_no_disorder() {
    let mut steps = vec![appended("a", "k", 0), appended("b", "k", 1)];
    steps.extend([
        ("one", delivered("a", 1, 1)),
        ("one", handling("a")),
        ("one", settling("a", End::Done, None, 1)),
        // The other member gets `b` before the first one has seen its answer.
        ("two", delivered("b", 1, 2)),
        ("two", handling("b")),
        ("one", settled("a", Answer::Applied)),
        ("two", settling("b", End::Done, None, 2)),
        ("two", settled("b", Answer::Applied)),
    ]);
    let stored = Stored {
        log: log(&["a", "b"]),
        max_attempts: 3,
        ..Stored::default()
    };
    assert_eq!(broken(steps, &stored), []);
}

fn twice(between: Vec<Did>, attempt: u32) -> Vec<Promise> {
    let mut steps = vec![appended("a", "k", 0), ("one", delivered("a", 1, 1))];
    steps.extend(between.into_iter().map(|did| ("one", did)));
    steps.extend([
        ("one", delivered("a", attempt, 1)),
        ("one", handling("a")),
        ("one", settling("a", End::Done, None, 1)),
        ("one", settled("a", Answer::Applied)),
    ]);
    let stored = Stored {
        log: log(&["a"]),
        max_attempts: 9,
        ..Stored::default()
    };
    broken(steps, &stored)
}

#[test]
fn attempts_are_not_counted_or_counted_for_nothing() {
    let dropped = || vec![Did::Dropped { text: "a".into() }];
    let given_back = || vec![Did::GivenBack { text: "a".into() }];
    let settle = |end| vec![settling("a", end, None, 1), settled("a", Answer::Applied)];
    assert_eq!(twice(dropped(), 2), []);
    assert_eq!(twice(dropped(), 1), [Promise::Attempts]);
    assert_eq!(twice(dropped(), 3), [Promise::Attempts]);
    assert_eq!(twice(settle(End::Retry), 2), []);
    assert_eq!(twice(settle(End::Retry), 1), [Promise::Attempts]);
    assert_eq!(twice(settle(End::Release), 1), []);
    assert_eq!(twice(settle(End::Release), 2), [Promise::Attempts]);
    assert_eq!(twice(given_back(), 1), []);
    assert_eq!(twice(given_back(), 2), []);
    // Delivered again while it was out.
    assert_eq!(twice(Vec::new(), 1), [Promise::Attempts]);
    assert_eq!(twice(Vec::new(), 2), [Promise::Attempts]);
}

#[test]
fn a_member_may_find_out_late_that_it_has_lost_a_message() {
    let late = |found_out: bool| {
        let mut steps = vec![appended("a", "k", 0), ("one", delivered("a", 1, 1))];
        steps.push(("two", delivered("a", 2, 2)));
        if found_out {
            steps.push(("one", Did::GivenBack { text: "a".into() }));
        }
        steps.push(("two", handling("a")));
        steps.push(("two", settling("a", End::Done, None, 2)));
        steps.push(("two", settled("a", Answer::Applied)));
        let stored = Stored {
            log: log(&["a"]),
            max_attempts: 9,
            ..Stored::default()
        };
        broken(steps, &stored)
    };
    assert_eq!(late(true), []);
    assert_eq!(late(false), [Promise::Attempts]);
}

/// Over links that fail a delivery may be seen late or never: its attempt counts, and none of before comes again.
#[test]
fn where_deliveries_get_lost_attempts_grow() {
    let seen = |second: (u32, u64), third: (u32, u64)| {
        let mut steps = vec![appended("a", "k", 0), ("one", delivered("a", 1, 1))];
        steps.push(("one", settling("a", End::Retry, None, 1)));
        steps.push(("one", settled("a", Answer::Applied)));
        steps.push(("two", delivered("a", second.0, second.1)));
        steps.push(("two", Did::GivenBack { text: "a".into() }));
        steps.push(("three", delivered("a", third.0, third.1)));
        steps.push(("three", handling("a")));
        steps.push(("three", settling("a", End::Dead, None, third.1)));
        steps.push(("three", settled("a", Answer::Unknown)));
        // One that was on its way for long.
        steps.push(("four", delivered("a", 1, 0)));
        let stored = Stored {
            log: log(&["a"]),
            dead: vec![("a".to_owned(), third.0)],
            max_attempts: 99,
            lossy: true,
            ..Stored::default()
        };
        broken(steps, &stored)
    };
    assert_eq!(seen((2, 2), (5, 3)), []);
    assert_eq!(seen((3, 2), (3, 2)), []);
    // A failure that counted, and its attempt again.
    assert_eq!(seen((1, 2), (2, 3)), [Promise::Attempts]);
    assert_eq!(
        seen((3, 2), (2, 3)),
        [Promise::Attempts, Promise::DeadLetters]
    );
}

#[test]
fn a_dead_letter_is_missing_doubled_wrong_or_invented() {
    let (steps, stored) = good();
    let cases: [&[(&str, u32)]; 5] = [
        &[],
        &[("b", 1), ("b", 1)],
        &[("b", 2)],
        &[("b", 1), ("a", 2)],
        &[("b", 1), ("x", 1)],
    ];
    for dead in cases {
        let stored = Stored {
            dead: dead.iter().map(|(t, n)| ((*t).to_owned(), *n)).collect(),
            ..stored.clone()
        };
        assert_eq!(
            broken(steps.clone(), &stored),
            [Promise::DeadLetters],
            "{dead:?}"
        );
    }
}

#[test]
fn a_message_dies_when_its_attempts_are_over_and_not_before() {
    let mut steps = vec![appended("a", "k", 0), appended("b", "k", 1)];
    for attempt in 1..=2 {
        steps.push(("one", delivered("a", attempt, 1)));
        steps.push(("one", handling("a")));
        steps.push(("one", Did::Dropped { text: "a".into() }));
    }
    steps.extend(done("b"));
    let stored = |max_attempts| Stored {
        log: log(&["a", "b"]),
        dead: vec![("a".into(), 2)],
        max_attempts,
        ..Stored::default()
    };
    assert_eq!(broken(steps.clone(), &stored(2)), []);
    let early = broken(steps, &stored(3));
    assert_eq!(early, [Promise::KeyOrder, Promise::DeadLetters]);
}

#[test]
fn a_zombie_settles() {
    let mut steps = vec![appended("a", "k", 0)];
    steps.extend([
        ("one", delivered("a", 1, 1)),
        ("one", handling("a")),
        ("one", Did::GivenBack { text: "a".into() }),
        ("two", delivered("a", 2, 2)),
        ("one", settling("a", End::Done, None, 1)),
        ("one", settled("a", Answer::Applied)),
    ]);
    let stored = Stored {
        log: log(&["a"]),
        max_attempts: 3,
        ..Stored::default()
    };
    assert_eq!(broken(steps, &stored), [Promise::Fencing]);
}

#[test]
fn a_story_names_the_steps() {
    let (steps, mut stored) = good();
    stored.dead.clear();
    let history = History::new();
    for (who, did) in steps {
        history.add(who, did);
    }
    let found = check(&history.events(), &stored);
    let story = found.iter().map(ToString::to_string).collect::<String>();
    assert!(
        story.contains("`b` was given up, and is no dead letter"),
        "{story}"
    );
    assert!(story.contains("two: settling as Dead"), "{story}");
}

/// Three messages of three keys, of which the first ends last: a gap of 3 allows it, one of 2 does not.
#[test]
fn a_gap_that_is_passed() {
    let mut steps: Vec<_> = ["a", "b", "c"]
        .into_iter()
        .zip(0..)
        .map(|(text, offset)| appended(text, text, offset))
        .collect();
    let [delivery, rest @ ..] = &done("a")[..] else {
        panic!("it has four steps");
    };
    steps.push(delivery.clone());
    steps.extend(done("b"));
    steps.extend(done("c"));
    steps.extend(rest.iter().cloned());
    let mut stored = Stored {
        max_attempts: 3,
        ..Stored::default()
    };
    for (text, offset) in ["a", "b", "c"].into_iter().zip(0..) {
        stored.log.insert((0, Position::at(offset)), text.into());
    }
    stored.gap = Some(3);
    assert_eq!(broken(steps.clone(), &stored), []);
    stored.gap = Some(2);
    assert_eq!(broken(steps, &stored), [Promise::Gap]);
}
