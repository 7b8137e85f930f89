//! The history told message by message, and each promise held against it.

use super::*;

/// A settle with its answer, as it concerns one message.
struct Settle<'a> {
    who: &'a str,
    end: End,
    effect: Option<&'a str>,
    answer: Answer,
    /// When it was handed to the engine.
    from: usize,
    shard: u32,
    epoch: u64,
}

/// One message's part of the history.
#[derive(Default)]
struct Message<'a> {
    key: &'a str,
    place: Option<Place>,
    /// The events that name it, by their place in the history.
    events: Vec<usize>,
    settles: Vec<Settle<'a>>,
}

impl Message<'_> {
    /// The settles that end it for good and were applied.
    fn ends(&self) -> impl Iterator<Item = &Settle<'_>> {
        self.settles
            .iter()
            .filter(|s| s.answer == Answer::Applied && matches!(s.end, End::Done | End::Dead))
    }
}

/// The delivery before, and how it may have ended.
struct Last<'a> {
    who: &'a str,
    attempt: u32,
    /// An attempt was spent.
    spent: bool,
    /// None was.
    kept: bool,
}

impl<'a> Last<'a> {
    fn new(who: &'a str, attempt: u32) -> Self {
        Last {
            who,
            attempt,
            spent: false,
            kept: false,
        }
    }

    /// Whether it counted is open.
    fn open(&mut self) {
        (self.spent, self.kept) = (true, true);
    }

    fn settled(&mut self, settle: &Settle<'_>) {
        match (settle.answer, settle.end) {
            (Answer::Applied, End::Retry) => self.spent = true,
            (Answer::Applied, End::Release) => self.kept = true,
            (Answer::Applied, End::Done | End::Dead) => {}
            _ => self.open(),
        }
    }

    fn allows(&self, attempt: u32, lost_unseen: impl Fn() -> bool) -> bool {
        let open = !self.spent && !self.kept && lost_unseen();
        (self.kept || open) && attempt == self.attempt
            || (self.spent || open) && attempt == self.attempt + 1
    }
}

pub(super) struct Tale<'a> {
    events: &'a [Event],
    stored: &'a Stored,
    messages: BTreeMap<&'a str, Message<'a>>,
}

impl<'a> Tale<'a> {
    pub(super) fn new(events: &'a [Event], stored: &'a Stored) -> Self {
        let mut messages: BTreeMap<&str, Message<'_>> = BTreeMap::new();
        let mut open: HashMap<(&str, &str), usize> = HashMap::new();
        for (at, event) in events.iter().enumerate() {
            let text = text_of(&event.did);
            let message = messages.entry(text).or_default();
            message.events.push(at);
            match &event.did {
                Did::Appended { key, place, .. } => {
                    message.key = key;
                    message.place = Some(*place);
                }
                Did::Settling {
                    end,
                    effect,
                    shard,
                    epoch,
                    ..
                } => {
                    open.insert((&event.who, text), message.settles.len());
                    message.settles.push(Settle {
                        who: &event.who,
                        end: *end,
                        effect: effect.as_deref(),
                        answer: Answer::Unknown,
                        from: at,
                        shard: *shard,
                        epoch: *epoch,
                    });
                }
                Did::Settled { answer, .. } => {
                    let settle = open.remove(&(&*event.who, text));
                    if let Some(settle) = settle.and_then(|i| message.settles.get_mut(i)) {
                        settle.answer = *answer;
                    }
                }
                _ => {}
            }
        }
        Tale {
            events,
            stored,
            messages,
        }
    }

    /// What is known of a message, in order, for a story.
    fn story(&self, text: &str) -> String {
        let Some(message) = self.messages.get(text) else {
            return format!("nothing is recorded of `{text}`");
        };
        let steps = message.events.iter().map(|at| {
            let event = &self.events[*at];
            format!("\n    {at}: {}: {}", event.who, told(&event.did))
        });
        steps.collect()
    }

    fn broken(&self, found: &mut Vec<Violation>, promise: Promise, text: &str, what: String) {
        let story = format!("{what}{}", self.story(text));
        found.push(Violation { promise, story });
    }

    pub(super) fn nothing_lost(&self, found: &mut Vec<Violation>) {
        let mut places: HashMap<Place, &str> = HashMap::new();
        for (text, message) in &self.messages {
            let Some(place) = message.place else { continue };
            if let Some(other) = places.insert(place, text) {
                let what = format!("`{text}` and `{other}` were acknowledged at the same place");
                self.broken(found, Promise::NothingLost, text, what);
            }
            let (partition, position) = place;
            let what = match self.stored.log.get(&place) {
                Some(there) if there == text => continue,
                Some(there) => format!(
                    "`{text}` was acknowledged at {partition}/{position}, `{there}` stands there"
                ),
                None => format!(
                    "`{text}` was acknowledged at {partition}/{position}, nothing stands there"
                ),
            };
            self.broken(found, Promise::NothingLost, text, what);
        }
    }

    /// Every acknowledged message was delivered and ended, once.
    pub(super) fn all_ended_once(&self, found: &mut Vec<Violation>) {
        let dead: BTreeSet<&str> = self.stored.dead.iter().map(|(text, _)| &**text).collect();
        for (text, message) in &self.messages {
            if message.place.is_none() {
                continue;
            }
            let ends = message.ends().count();
            let maybe = message.settles.iter().any(|s| s.answer == Answer::Unknown);
            if ends > 1 {
                let what = format!("`{text}` was settled {ends} times");
                self.broken(found, Promise::ExactlyOnce, text, what);
            }
            let delivered = |at: &usize| matches!(self.events[*at].did, Did::Delivered { .. });
            if self.stored.lag == 0 && !message.events.iter().any(delivered) {
                let what = format!("`{text}` was never delivered, and the group owes nothing");
                self.broken(found, Promise::AtLeastOnce, text, what);
            } else if self.stored.lag == 0 && ends == 0 && !maybe && !dead.contains(text) {
                let what = format!("`{text}` was never settled, and the group owes nothing");
                self.broken(found, Promise::AtLeastOnce, text, what);
            }
        }
    }

    /// Effects of applied units stand once, of others never.
    pub(super) fn effects(&self, found: &mut Vec<Violation>) {
        let mut stands: HashMap<&str, usize> = HashMap::new();
        for effect in &self.stored.effects {
            *stands.entry(effect).or_default() += 1;
        }
        for (text, message) in &self.messages {
            for settle in &message.settles {
                let Some(effect) = settle.effect else {
                    continue;
                };
                let times = stands.remove(effect).unwrap_or(0);
                let right = match settle.answer {
                    Answer::Applied => times == 1,
                    Answer::Fenced | Answer::NotApplied => times == 0,
                    Answer::Unknown => times <= 1,
                };
                if !right {
                    let answer = settle.answer;
                    let what = format!(
                        "the effect `{effect}` of a unit that answered {answer:?} stands {times} times"
                    );
                    self.broken(found, Promise::ExactlyOnce, text, what);
                }
            }
        }
        for (effect, times) in stands {
            let story = format!("the effect `{effect}` stands {times} times, and nobody sent it");
            found.push(Violation {
                promise: Promise::ExactlyOnce,
                story,
            });
        }
    }

    pub(super) fn dead_letters(&self, found: &mut Vec<Violation>) {
        let mut letters: HashMap<&str, Vec<u32>> = HashMap::new();
        for (text, attempts) in &self.stored.dead {
            letters.entry(text).or_default().push(*attempts);
        }
        for (text, message) in &self.messages {
            let given_up = message.ends().any(|s| s.end == End::Dead);
            let maybe_given_up = |s: &Settle<'_>| s.end == End::Dead && s.answer == Answer::Unknown;
            let nobody = !given_up && !message.settles.iter().any(maybe_given_up);
            let done = message.ends().any(|s| s.end == End::Done);
            let found_dead = letters.remove(text).unwrap_or_default();
            let attempts = self.attempts_of(message);
            let what = match found_dead[..] {
                [] if given_up => format!("`{text}` was given up, and is no dead letter"),
                [] => continue,
                [_] if done => format!("`{text}` was handled, and is a dead letter"),
                [said] if said != attempts => {
                    format!("the dead letter `{text}` tells {said} attempts, {attempts} were made")
                }
                [_] if nobody && attempts < self.stored.max_attempts => format!(
                    "`{text}` is a dead letter after {attempts} attempts, and nobody gave it up"
                ),
                [_] => continue,
                _ => format!("`{text}` is a dead letter {} times", found_dead.len()),
            };
            self.broken(found, Promise::DeadLetters, text, what);
        }
        for (text, _) in letters {
            let story = format!("the dead letter `{text}` was never delivered to anybody");
            found.push(Violation {
                promise: Promise::DeadLetters,
                story,
            });
        }
    }

    /// The attempt of the last delivery; a late one of before is seen behind it.
    fn attempts_of(&self, message: &Message<'_>) -> u32 {
        let attempts = message.events.iter().map(|at| match self.events[*at].did {
            Did::Delivered { attempt, .. } => attempt,
            _ => 0,
        });
        attempts.max().unwrap_or(0)
    }

    /// The handling of a message begins only when all earlier ones of its key are on their way to their end.
    pub(super) fn key_order(&self, found: &mut Vec<Violation>) {
        let mut keys: BTreeMap<(&str, u32), Vec<(Position, &str)>> = BTreeMap::new();
        for (text, message) in &self.messages {
            if let Some((partition, position)) = message.place {
                let of_key = keys.entry((message.key, partition)).or_default();
                of_key.push((position, text));
            }
        }
        for of_key in keys.values_mut() {
            of_key.sort();
            for pair in of_key.windows(2) {
                let (before, after) = (pair[0].1, pair[1].1);
                let Some(began) = self.first_handling(after) else {
                    continue;
                };
                if self.ending_from(before).is_none_or(|end| end > began) {
                    let what = format!(
                        "`{after}` was handled (step {began}) before `{before}`, which stands before it and has its key, had ended:{}\n  and `{after}`:",
                        self.story(before)
                    );
                    self.broken(found, Promise::KeyOrder, after, what);
                }
            }
        }
    }

    pub(super) fn gap(&self, found: &mut Vec<Violation>) {
        let Some(gap) = self.stored.gap else {
            return;
        };
        let mut logs: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
        for ((partition, _), text) in &self.stored.log {
            logs.entry(*partition).or_default().push(text);
        }
        for log in logs.values() {
            // From this step on everything up to a message may have been at its end.
            let mut all_ended = Vec::with_capacity(log.len());
            for text in log {
                let ended = self.ending_from(text).unwrap_or(usize::MAX);
                all_ended.push(all_ended.last().copied().unwrap_or(0).max(ended));
            }
            for (index, text) in log.iter().enumerate().skip(gap as usize) {
                let bound = index - gap as usize;
                let events = self.messages.get(text).map(|message| &message.events);
                let first = events
                    .into_iter()
                    .flatten()
                    .copied()
                    .find(|at| matches!(self.events[*at].did, Did::Delivered { .. }));
                if let Some(at) = first.filter(|at| all_ended[bound] > *at) {
                    let what = format!(
                        "`{text}` was delivered (step {at}) while one of the messages up to `{}`, {gap} before it, had not ended",
                        log[bound]
                    );
                    self.broken(found, Promise::Gap, text, what);
                }
            }
        }
    }

    fn first_handling(&self, text: &str) -> Option<usize> {
        let message = self.messages.get(text)?;
        let handled = |at: &usize| matches!(self.events[*at].did, Did::Handling { .. });
        message.events.iter().copied().find(handled)
    }

    /// The earliest moment from which a message may have been at its end: its last settle was handed in, or its last
    /// attempt was spent.
    fn ending_from(&self, text: &str) -> Option<usize> {
        let message = self.messages.get(text)?;
        let may_end = |s: &&Settle<'_>| {
            matches!(s.end, End::Done | End::Dead)
                && matches!(s.answer, Answer::Applied | Answer::Unknown)
        };
        let settled = message.settles.iter().filter(may_end).map(|s| s.from).min();
        let mut attempt = 0;
        let spent = message.events.iter().copied().find(|at| {
            match &self.events[*at].did {
                Did::Delivered { attempt: now, .. } => attempt = *now,
                Did::Dropped { .. } | Did::GivenBack { .. } => {
                    return attempt >= self.stored.max_attempts;
                }
                Did::Settling { end, .. } => {
                    return *end == End::Retry && attempt >= self.stored.max_attempts;
                }
                _ => {}
            }
            false
        });
        settled.into_iter().chain(spent).min()
    }

    /// Where deliveries may be lost or late: one under the same or a later epoch is no earlier attempt, and a new one after
    /// a failure that counted.
    fn attempts_grow(&self, found: &mut Vec<Violation>) {
        for (text, message) in &self.messages {
            // Epoch and attempt, and whether that attempt is known to be spent.
            let mut seen: Vec<(u64, u32, bool)> = Vec::new();
            let mut settles = message.settles.iter();
            for at in &message.events {
                match &self.events[*at].did {
                    Did::Delivered { attempt, epoch, .. } => {
                        let too_late = seen.iter().find(|(before, had, spent)| {
                            before <= epoch && attempt < &(had + u32::from(*spent))
                        });
                        if let Some((before, had, _)) = too_late {
                            let what = format!(
                                "`{text}` was delivered as attempt {attempt} under epoch {epoch} (step {at}), after attempt {had} under epoch {before}"
                            );
                            self.broken(found, Promise::Attempts, text, what);
                        }
                        seen.push((*epoch, *attempt, false));
                    }
                    Did::Settling { .. } => {
                        let failed = settles
                            .next()
                            .filter(|s| (s.answer, s.end) == (Answer::Applied, End::Retry));
                        let of_it = |one: &&mut (u64, u32, bool)| {
                            failed.is_some_and(|settle| settle.epoch == one.0)
                        };
                        if let Some(spent) = seen.iter_mut().rev().find(of_it) {
                            spent.2 = true;
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    /// The attempt of a delivery follows from how the one before it ended.
    pub(super) fn attempts(&self, found: &mut Vec<Violation>) {
        if self.stored.lossy {
            return self.attempts_grow(found);
        }
        for (text, message) in &self.messages {
            let mut last: Option<Last<'_>> = None;
            let mut settles = message.settles.iter();
            for (i, at) in message.events.iter().enumerate() {
                let event = &self.events[*at];
                match &event.did {
                    Did::Delivered { attempt, .. } => {
                        let rest = &message.events[i..];
                        let right = last.as_ref().map_or(*attempt == 1, |last| {
                            last.allows(*attempt, || self.gives_back(last.who, rest))
                        });
                        if !right {
                            let was = last.as_ref().map_or(0, |last| last.attempt);
                            let what = format!(
                                "`{text}` was delivered as attempt {attempt} (step {at}), after attempt {was}"
                            );
                            self.broken(found, Promise::Attempts, text, what);
                        }
                        last = Some(Last::new(&event.who, *attempt));
                    }
                    Did::Settling { .. } => {
                        if let (Some(settle), Some(last)) = (settles.next(), &mut last) {
                            last.settled(settle);
                        }
                    }
                    Did::Dropped { .. } => last.iter_mut().for_each(|last| last.spent = true),
                    Did::GivenBack { .. } => last.iter_mut().for_each(Last::open),
                    _ => {}
                }
            }
        }
    }

    /// True when a member finds out only later that it has lost the message.
    fn gives_back(&self, who: &str, rest: &[usize]) -> bool {
        let of_member = |at: &&usize| self.events[**at].who == who;
        let next = rest.iter().find(of_member).map(|at| &self.events[*at].did);
        matches!(next, Some(Did::GivenBack { .. }))
    }

    /// Once another member was seen to have a shard under a later epoch, a settle handed in under an earlier one has no
    /// effect.
    pub(super) fn fencing(&self, found: &mut Vec<Violation>) {
        let mut owners: BTreeMap<u32, Vec<(usize, u64, &str)>> = BTreeMap::new();
        for (at, event) in self.events.iter().enumerate() {
            if let Did::Delivered { shard, epoch, .. } = event.did {
                let of_shard = owners.entry(shard).or_default();
                of_shard.push((at, epoch, &event.who));
            }
        }
        for (text, message) in &self.messages {
            for settle in &message.settles {
                let of_shard = owners.get(&settle.shard).map_or(&[][..], Vec::as_slice);
                let later = of_shard
                    .iter()
                    .take_while(|(at, ..)| *at < settle.from)
                    .find(|(_, epoch, who)| *epoch > settle.epoch && *who != settle.who);
                if let (Some((at, epoch, owner)), Answer::Applied) = (later, settle.answer) {
                    let (own, shard) = (settle.epoch, settle.shard);
                    let what = format!(
                        "`{text}` was settled under epoch {own} of shard {shard}, which {owner} had under epoch {epoch} before (step {at})"
                    );
                    self.broken(found, Promise::Fencing, text, what);
                }
            }
        }
    }
}

fn text_of(did: &Did) -> &str {
    match did {
        Did::Appended { text, .. }
        | Did::Delivered { text, .. }
        | Did::Handling { text }
        | Did::Settling { text, .. }
        | Did::Settled { text, .. }
        | Did::Dropped { text }
        | Did::GivenBack { text } => text,
    }
}

fn told(did: &Did) -> String {
    match did {
        Did::Appended { key, place, .. } => {
            format!("appended at {}/{}, key `{key}`", place.0, place.1)
        }
        Did::Delivered {
            attempt,
            shard,
            epoch,
            ..
        } => format!("delivered, attempt {attempt}, shard {shard} under epoch {epoch}"),
        Did::Handling { .. } => "handling begins".to_owned(),
        Did::Settling { end, effect, .. } => match effect {
            Some(effect) => format!("settling as {end:?} with the effect `{effect}`"),
            None => format!("settling as {end:?}"),
        },
        Did::Settled { answer, .. } => format!("the answer is {answer:?}"),
        Did::Dropped { .. } => "dropped".to_owned(),
        Did::GivenBack { .. } => "given back unsettled".to_owned(),
    }
}
