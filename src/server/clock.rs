//! The clock of the sessions, kept by the clocks of the machine.
//!
//! It follows the monotonic clock that counts suspended time. The wall clock may be wrong
//! and may be set at any moment, so it never moves this clock: it gives the offset for
//! showing times, and nothing else. Three rules follow.
//!
//! - A step of the wall clock changes the offset. Times that are shown follow at once, and
//!   no deadline moves.
//! - A restart counts the time since the mark of the database only as far as it is known:
//!   by the monotonic clock within one boot, else by the wall clock if it was synchronized
//!   with a time server at both ends. What is not known is not counted. So a session may live
//!   longer by the time in which no daemon ran, but no wrong clock can end it.
//! - Daemons that share a Redis share its clock instead, and show that.

use std::{
    sync::atomic::{AtomicBool, AtomicI64, Ordering},
    time::Duration,
};

use super::system::LinuxMachine;
use crate::session::clock::{Clock, Evidence, Moment, TimeMark, WallOffset, WallTime};

/// From this difference between two clocks on, a warning is logged.
const WORTH_LOGGING: Duration = Duration::from_secs(1);

/// A wall clock that is off by this much was set. Less than this stays unseen, so that the
/// same moment is always shown as the same time.
const STEP: Duration = Duration::from_millis(500);

/// No clock is right that shows less: 2020-01-01. Where a machine starts in 1970, this leaves
/// room for moments before the first start.
const EARLIEST: u64 = 1_577_836_800_000;

/// Two clocks are read as one if no more than this passes in between.
const SAME_INSTANT: Duration = Duration::from_millis(50);
/// How often that is tried.
const TRIES: u32 = 5;

/// The clocks of a machine.
pub trait Machine: Send + Sync + 'static {
    /// Whatever somebody has set.
    fn wall(&self) -> WallTime;

    /// The time since the machine was booted, suspend included. It never steps.
    fn since_boot(&self) -> Duration;

    /// Names this boot. `None`: the system does not tell.
    fn boot(&self) -> Option<[u8; 16]>;

    /// Whether the wall clock follows a time server.
    fn is_synchronized(&self) -> bool;
}

/// The clock of the sessions of this process.
pub struct SystemClock<M = LinuxMachine> {
    machine: M,
    /// What to add to the milliseconds since boot.
    origin: AtomicI64,
    offset: AtomicI64,
    /// This clock is aligned with that of a store, which has no other time to show.
    follows_store: AtomicBool,
}

impl SystemClock {
    /// Starts at the wall clock of this machine.
    pub fn start() -> Self {
        Self::over(LinuxMachine)
    }
}

impl<M: Machine> SystemClock<M> {
    /// A clock that begins at the wall clock.
    pub fn over(machine: M) -> Self {
        let clock = Self {
            machine,
            origin: AtomicI64::new(0),
            offset: AtomicI64::new(0),
            follows_store: AtomicBool::new(false),
        };
        let (since_boot, wall) = clock.look();
        clock.set(Moment::from_unix_millis(wall.unix_millis().max(EARLIEST)), since_boot);
        let offset = WallOffset::between(clock.at(since_boot), wall);
        clock.offset.store(offset.millis(), Ordering::Relaxed);
        clock
    }

    /// Reads both clocks in the same instant.
    fn look(&self) -> (Duration, WallTime) {
        let mut before = self.machine.since_boot();
        for _ in 1..TRIES {
            let wall = self.machine.wall();
            let after = self.machine.since_boot();
            // The process, or the whole machine, may have been stopped in between.
            if after.saturating_sub(before) <= SAME_INSTANT {
                return (after, wall);
            }
            before = after;
        }
        (before, self.machine.wall())
    }

    fn at(&self, since_boot: Duration) -> Moment {
        let millis = millis_of(since_boot);
        Moment::from_unix_millis(millis.saturating_add_signed(self.origin.load(Ordering::Relaxed)))
    }

    fn set(&self, now: Moment, since_boot: Duration) {
        let origin = now.unix_millis().wrapping_sub(millis_of(since_boot)) as i64;
        self.origin.store(origin, Ordering::Relaxed);
    }

    /// The time that is known to have passed since a mark. `None`: nothing is known.
    pub fn elapsed_since(&self, mark: &TimeMark) -> Option<Duration> {
        let (since_boot, wall) = self.look();
        let here = self.evidence(since_boot, wall);
        mark.evidence.and_then(|then| elapsed(&then, &here))
    }

    /// Moves the clock forward to the wall clock, if it is behind. An operator has said that
    /// the wall clock is right.
    pub fn trust_wall(&self) {
        let (since_boot, wall) = self.look();
        let now = self.at(since_boot).max(Moment::from_unix_millis(wall.unix_millis()));
        self.set(now, since_boot);
        self.offset.store(WallOffset::between(now, wall).millis(), Ordering::Relaxed);
    }

    fn evidence(&self, since_boot: Duration, wall: WallTime) -> Evidence {
        Evidence {
            wall,
            is_synchronized: self.machine.is_synchronized(),
            boot: self.machine.boot(),
            since_boot,
        }
    }
}

impl<M: Machine> Clock for SystemClock<M> {
    fn now(&self) -> Moment {
        self.at(self.machine.since_boot())
    }

    fn wall_offset(&self) -> WallOffset {
        WallOffset::from_millis(self.offset.load(Ordering::Relaxed))
    }

    fn follow(&self, earliest: Moment, latest: Moment) {
        self.follows_store.store(true, Ordering::Relaxed);
        self.offset.store(0, Ordering::Relaxed);
        let now = self.now();
        let correction = match now {
            now if now < earliest => earliest.since(now).as_millis() as i64,
            now if now > latest => -(now.since(latest).as_millis() as i64),
            _ => return,
        };
        if correction.unsigned_abs() >= WORTH_LOGGING.as_millis() as u64 {
            tracing::warn!(
                correction_millis = correction,
                "the system clock differs from the store's clock; continuing with the store's clock"
            );
        }
        self.origin.fetch_add(correction, Ordering::Relaxed);
    }

    fn resume(&self, mark: TimeMark) {
        let (since_boot, wall) = self.look();
        let Some(then) = mark.evidence else {
            // Of a release that trusted the wall clock, as long as it did not go back.
            let now = Moment::from_unix_millis(wall.unix_millis()).max(mark.now);
            self.set(now, since_boot);
            self.follow_wall();
            return;
        };
        let elapsed = elapsed(&then, &self.evidence(since_boot, wall));
        if elapsed.is_none() {
            tracing::warn!(
                "it is not known how long the daemon was stopped: the machine was booted, and its \
                 clock was not synchronized; that time is not counted, and sessions live longer by it"
            );
        }
        self.set(mark.now + elapsed.unwrap_or_default(), since_boot);
        // So the same moment is shown as the same time as before, unless the clock was set.
        self.offset.store(mark.offset.millis(), Ordering::Relaxed);
        self.follow_wall();
    }

    fn mark(&self) -> TimeMark {
        self.follow_wall();
        let (since_boot, wall) = self.look();
        TimeMark {
            now: self.at(since_boot),
            offset: self.wall_offset(),
            evidence: Some(self.evidence(since_boot, wall)),
        }
    }

    fn follow_wall(&self) -> bool {
        if self.follows_store.load(Ordering::Relaxed) {
            return false;
        }
        let (since_boot, wall) = self.look();
        let (before, after) = (self.wall_offset(), WallOffset::between(self.at(since_boot), wall));
        let step = after.millis().saturating_sub(before.millis());
        if step.unsigned_abs() < STEP.as_millis() as u64 {
            return false;
        }
        tracing::warn!(
            step_millis = step,
            "the system clock was set; the times that are shown follow it, and no session ends by it"
        );
        self.offset.store(after.millis(), Ordering::Relaxed);
        true
    }
}

/// The time that is known to have passed since a mark. `None`: nothing is known.
fn elapsed(then: &Evidence, now: &Evidence) -> Option<Duration> {
    let is_same_boot = then.boot.is_some() && then.boot == now.boot;
    if is_same_boot && now.since_boot >= then.since_boot {
        // Each cut to milliseconds, as the clock itself does.
        let millis = millis_of(now.since_boot) - millis_of(then.since_boot);
        return Some(Duration::from_millis(millis));
    }
    let is_known = then.is_synchronized && now.is_synchronized && now.wall >= then.wall;
    is_known.then(|| now.wall.since(then.wall))
}

/// Cut to whole milliseconds, so that the clock is never ahead. Does not use `as_millis`: dividing its 128 bits takes longer than the rest of reading the
/// clock.
fn millis_of(span: Duration) -> u64 {
    span.as_secs().saturating_mul(1000).saturating_add(span.subsec_millis().into())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use proptest::prelude::*;

    use super::*;

    /// What a machine's clocks show. Nothing moves by itself.
    #[derive(Clone, Copy)]
    struct Shown {
        wall: u64,
        since_boot: u64,
        boot: u8,
        is_synchronized: bool,
    }

    #[derive(Clone)]
    struct Fake(Arc<Mutex<Shown>>);

    impl Fake {
        fn new(wall: u64) -> Self {
            let shown = Shown { wall, since_boot: 1_000, boot: 1, is_synchronized: false };
            Self(Arc::new(Mutex::new(shown)))
        }

        fn change(&self, change: impl FnOnce(&mut Shown)) {
            change(&mut self.0.lock().expect("no test panics here"));
        }

        fn shown(&self) -> Shown {
            *self.0.lock().expect("no test panics here")
        }

        fn pass(&self, millis: u64) {
            self.change(|shown| {
                shown.wall += millis;
                shown.since_boot += millis;
            });
        }
    }

    impl Machine for Fake {
        fn wall(&self) -> WallTime {
            WallTime::from_unix_millis(self.shown().wall)
        }

        fn since_boot(&self) -> Duration {
            Duration::from_millis(self.shown().since_boot)
        }

        fn boot(&self) -> Option<[u8; 16]> {
            Some([self.shown().boot; 16])
        }

        fn is_synchronized(&self) -> bool {
            self.shown().is_synchronized
        }
    }

    const START: u64 = 1_800_000_000_000;
    const HOUR: u64 = 3_600_000;

    fn shown(clock: &SystemClock<Fake>) -> u64 {
        clock.wall_offset().wall(clock.now()).unix_millis()
    }

    #[test]
    fn a_step_changes_what_is_shown_and_no_moment() {
        let machine = Fake::new(START);
        let clock = SystemClock::over(machine.clone());
        machine.pass(500);
        assert_eq!(clock.now(), Moment::from_unix_millis(START + 500));
        for ahead in [HOUR as i64, -2 * HOUR as i64, 500] {
            machine.change(|shown| shown.wall = shown.wall.saturating_add_signed(ahead));
            let before = clock.now();
            assert!(clock.follow_wall(), "a step of {ahead} ms is seen");
            assert_eq!(clock.now(), before);
            assert_eq!(shown(&clock), machine.shown().wall);
            assert!(!clock.follow_wall(), "it is seen once");
        }
        machine.change(|shown| shown.wall += 499);
        assert!(!clock.follow_wall(), "so that a moment is always shown as the same time");
    }

    #[test]
    fn within_one_boot_a_restart_counts_what_has_passed_whatever_the_wall_says() {
        let machine = Fake::new(START - 2 * HOUR);
        let clock = SystemClock::over(machine.clone());
        let (began, mark) = (clock.now(), clock.mark());
        for wall in [START, START + 87_600 * HOUR, 0, START] {
            machine.pass(70);
            machine.change(|shown| shown.wall = wall);
            let clock = SystemClock::over(machine.clone());
            clock.resume(mark);
            let passed = machine.shown().since_boot - 1_000;
            assert_eq!(clock.now().since(began), Duration::from_millis(passed));
            assert_eq!(shown(&clock), wall, "the times that are shown are those of the wall");
        }
    }

    #[test]
    fn over_a_boot_the_wall_counts_only_if_it_was_right_at_both_ends() {
        for (marked, started, counted) in
            [(true, true, 5 * HOUR), (true, false, 0), (false, true, 0), (false, false, 0)]
        {
            let machine = Fake::new(START);
            machine.change(|shown| shown.is_synchronized = marked);
            let clock = SystemClock::over(machine.clone());
            let mark = clock.mark();
            machine.change(|shown| {
                *shown = Shown {
                    wall: shown.wall + 5 * HOUR,
                    since_boot: 5_000,
                    boot: 2,
                    is_synchronized: started,
                };
            });
            let clock = SystemClock::over(machine.clone());
            clock.resume(mark);
            assert_eq!(clock.now().since(mark.now), Duration::from_millis(counted));
            assert_eq!(shown(&clock), START + 5 * HOUR);
        }
    }

    #[test]
    fn an_operator_may_trust_the_wall_but_the_clock_does_not_go_back() {
        for (wall, then) in [(START + HOUR, START + HOUR), (START - HOUR, START)] {
            let machine = Fake::new(START);
            let clock = SystemClock::over(machine.clone());
            machine.change(|shown| shown.wall = wall);
            clock.trust_wall();
            assert_eq!((clock.now().unix_millis(), shown(&clock)), (then, wall));
        }
    }

    #[test]
    fn a_mark_of_an_earlier_release_is_trusted_as_it_was_there() {
        for (marked, then) in [(START - HOUR, START), (START + HOUR, START + HOUR)] {
            let machine = Fake::new(START);
            let clock = SystemClock::over(machine);
            let now = Moment::from_unix_millis(marked);
            clock.resume(TimeMark { now, offset: WallOffset::ZERO, evidence: None });
            assert_eq!(clock.now(), Moment::from_unix_millis(then));
            assert_eq!(shown(&clock), START, "what was once wrong is not shown any more");
        }
    }

    #[test]
    fn a_machine_that_starts_in_1970_leaves_room_before_its_first_start() {
        let machine = Fake::new(5);
        let clock = SystemClock::over(machine.clone());
        assert_eq!((clock.now().unix_millis(), shown(&clock)), (EARLIEST, 5));
        machine.change(|shown| shown.wall = START);
        assert!(clock.follow_wall());
        let year = WallTime::from_unix_millis(START - 8_760 * HOUR);
        let moment = clock.wall_offset().moment(year);
        assert_eq!(clock.wall_offset().wall(moment), year, "an import may bring it");
    }

    #[test]
    fn it_follows_the_clock_of_a_store_and_shows_that() {
        let machine = Fake::new(START);
        let clock = SystemClock::over(machine.clone());
        let at = Moment::from_unix_millis;
        for (earliest, latest, then) in [
            (START - 1000, START + 1000, START), // Within the bounds: unchanged.
            (START + 5_000_000, START + 5_000_010, START + 5_000_000),
            (START + 5_000_005, START + 5_000_100, START + 5_000_005),
            (1_000, 1_020, 1_020),
        ] {
            clock.follow(at(earliest), at(latest));
            machine.change(|shown| shown.wall += HOUR);
            assert!(!clock.follow_wall(), "the wall clock of this machine does not matter");
            assert_eq!(clock.now(), at(then), "{earliest} to {latest}");
            assert_eq!(clock.wall_offset(), WallOffset::ZERO);
        }
    }

    #[test]
    fn the_system_clock_starts_at_the_wall_clock_and_advances() {
        let clock = SystemClock::start();
        let earlier = clock.now();
        assert!(earlier > Moment::from_unix_millis(1_700_000_000_000), "{earlier:?}");
        while clock.now() == earlier {}
        assert!(clock.now() > earlier);
        let boot = clock.mark().evidence.expect("there is a machine").boot;
        assert!(boot.is_some_and(|boot| boot != [0; 16]), "Linux names its boots");
    }

    #[derive(Debug, Clone)]
    enum Event {
        Pass(u64),
        /// The wall clock is slowed down or sped up meanwhile.
        Slew(u64, i64),
        Step(i64),
        /// A time server corrects the wall clock.
        Synchronize,
        LookAtWall,
        Mark,
        Touch,
        Restart {
            with_mark: bool,
        },
        /// Or another machine, whose wall clock is wrong.
        Reboot {
            with_mark: bool,
            off: u64,
            wrong_by: i64,
            since_boot: u64,
        },
    }

    fn any_event() -> impl Strategy<Value = Event> {
        let step = || prop_oneof![-2_000i64..2_000, -400_000_000_000i64..400_000_000_000];
        prop_oneof![
            (0..4_000_000u64).prop_map(Event::Pass),
            (0..4_000_000u64, -100_000..100_000i64)
                .prop_map(|(span, more)| Event::Slew(span, more)),
            step().prop_map(Event::Step),
            Just(Event::Synchronize),
            Just(Event::LookAtWall),
            Just(Event::Mark),
            Just(Event::Touch),
            any::<bool>().prop_map(|with_mark| Event::Restart { with_mark }),
            (any::<bool>(), 0..900_000_000u64, step(), 0..900_000_000u64).prop_map(
                |(with_mark, off, wrong_by, since_boot)| Event::Reboot {
                    with_mark,
                    off,
                    wrong_by,
                    since_boot,
                }
            ),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// Whatever happens to the wall clock, a session lives for its duration of real time,
        /// and no longer than that and the time in which nothing was known.
        #[test]
        fn no_session_ends_early(
            wrong_by in -400_000_000_000i64..400_000_000_000,
            duration in 1..4_000_000u64,
            events in proptest::collection::vec(any_event(), 1..40),
        ) {
            let machine = Fake::new(START.saturating_add_signed(wrong_by));
            let mut clock = SystemClock::over(machine.clone());
            let mut kept = clock.mark();
            // What the time really is, and how much of it may go uncounted.
            let (mut real, mut uncounted) = (START, 0);
            let mut touched = real;
            let mut deadline = clock.now() + Duration::from_millis(duration);
            let mut uncounted_then = 0;
            for event in events {
                let before = clock.now();
                match event {
                    Event::Pass(span) => {
                        machine.pass(span);
                        real += span;
                    }
                    Event::Slew(span, more) => {
                        machine.pass(span);
                        machine.change(|shown| {
                            shown.wall = shown.wall.saturating_add_signed(more);
                            shown.is_synchronized = false;
                        });
                        real += span;
                    }
                    Event::Step(step) => machine.change(|shown| {
                        shown.wall = shown.wall.saturating_add_signed(step);
                        shown.is_synchronized = false;
                    }),
                    Event::Synchronize => machine.change(|shown| {
                        shown.wall = real;
                        shown.is_synchronized = true;
                    }),
                    Event::LookAtWall => {
                        clock.follow_wall();
                        let wrong = shown(&clock).abs_diff(machine.shown().wall);
                        prop_assert!(wrong < STEP.as_millis() as u64, "shown {wrong} ms wrong");
                    }
                    Event::Mark => kept = clock.mark(),
                    Event::Touch => {
                        deadline = clock.now() + Duration::from_millis(duration);
                        (touched, uncounted_then) = (real, uncounted);
                    }
                    Event::Restart { with_mark } => {
                        if with_mark {
                            kept = clock.mark();
                        }
                        clock = SystemClock::over(machine.clone());
                        clock.resume(kept);
                        kept = clock.mark();
                    }
                    Event::Reboot { with_mark, off, wrong_by, since_boot } => {
                        if with_mark {
                            kept = clock.mark();
                        }
                        real += off;
                        machine.change(|shown| *shown = Shown {
                            wall: real.saturating_add_signed(wrong_by),
                            since_boot,
                            boot: shown.boot.wrapping_add(1),
                            is_synchronized: wrong_by == 0,
                        });
                        clock = SystemClock::over(machine.clone());
                        clock.resume(kept);
                        // What came after the mark may be uncounted, too.
                        uncounted = real - START;
                        kept = clock.mark();
                    }
                }
                if !matches!(event, Event::Reboot { .. }) {
                    prop_assert!(clock.now() >= before, "the clock went back");
                }
                let has_expired = clock.now() >= deadline;
                prop_assert!(!has_expired || real >= touched + duration, "it ended early");
                if uncounted == uncounted_then {
                    prop_assert!(has_expired || real < touched + duration, "it lived on");
                }
            }
        }
    }
}
