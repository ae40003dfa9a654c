//! Places: how many connections a listener may have, and who makes room when all places are
//! taken.
//!
//! A newcomer gets a free place. If there is none, the connection makes room that has been
//! idle for longest, of the peer that has most. It gets a GOAWAY and is closed. A peer may
//! displace its own connections, and those of a peer that has more than it has itself. So
//! behind a proxy, where all come from one address, the longest idle one goes; and a peer that
//! takes all places cannot keep out the others. A connection with an open call is never
//! displaced. If only such ones are left, a peer without a connection gets one of some spare
//! places, and the others wait.

use std::{
    cmp::Reverse,
    collections::HashMap,
    future::{Future, poll_fn},
    net::{IpAddr, Ipv6Addr},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until},
};

/// Connections to all TCP addresses of `listen.admin` together, and as many to its unix
/// sockets. Operators need few.
pub(super) const ADMIN_PLACES: usize = 32;
/// Places beyond the limit, for peers that have no connection.
const SPARE_PLACES: usize = 16;
/// Accepted connections that wait for a place. Of more, one is closed: the last one of the
/// peer that has most.
const MAX_WAITING: usize = 32;

/// A client that sends one call after the other is idle between them, for less than this.
/// Younger silence counts only for a newcomer that has waited for as long.
const IDLE: Duration = Duration::from_millis(250);
/// How long a displaced connection may take to close, and to finish a call that crossed the
/// GOAWAY.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(250);
const LAST_CALL_TIMEOUT: Duration = Duration::from_millis(600);
/// How often [`Places::make_room`] should be called while somebody waits.
pub(super) const ROUND: Duration = Duration::from_millis(50);

/// How often the log says that all places are taken.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Who has a connection, as far as shares go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Peer {
    /// An IPv4 address, or the first 64 bits of an IPv6 address: a host gets as many.
    Host(IpAddr),
    /// A process on this machine, by its number if that is known.
    Process(Option<i32>),
}

impl From<IpAddr> for Peer {
    fn from(address: IpAddr) -> Self {
        Self::Host(match address.to_canonical() {
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
            v4 => v4,
        })
    }
}

/// The places of some listeners. A clone is another handle.
#[derive(Clone)]
pub(super) struct Places(Arc<Shared>);

struct Shared {
    /// As in the configuration.
    listener: &'static str,
    most: usize,
    started: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: HashMap<u64, Arc<Connected>>,
    next_number: u64,
    /// The connections of each peer, without those that leave.
    of_peer: HashMap<Peer, Arc<AtomicUsize>>,
    /// Connections that were told to leave and are still open.
    leaving: usize,
    waiting: Vec<Waiting>,
    told: Option<Instant>,
}

struct Waiting {
    peer: Peer,
    since: Instant,
    place: oneshot::Sender<Place>,
}

/// An open connection, as its places know it.
struct Connected {
    peer: Peer,
    of_peer: Arc<AtomicUsize>,
    started: Instant,
    calls: AtomicUsize,
    /// When it had no open call for the last time, in ms after `started`.
    idle_since: AtomicU64,
    leaving: AtomicBool,
    waker: AtomicWaker,
}

/// A connection's place, until dropped.
pub(super) struct Place {
    places: Arc<Shared>,
    number: u64,
    connected: Arc<Connected>,
}

/// What a newcomer gets.
pub(super) enum Admission {
    Now(Place),
    /// Later, or never if this is closed. While somebody waits, call [`Places::make_room`]
    /// once in a [`ROUND`].
    Later(oneshot::Receiver<Place>),
}

impl Places {
    pub(super) fn new(listener: &'static str, most: usize) -> Self {
        let (started, state) = (Instant::now(), Mutex::default());
        Self(Arc::new(Shared { listener, most, started, state }))
    }

    /// The number of open connections.
    pub(super) fn open(&self) -> usize {
        self.0.state.lock().open.len()
    }

    pub(super) fn admit(&self, peer: Peer) -> Admission {
        let (sender, receiver) = oneshot::channel();
        {
            let mut state = self.0.state.lock();
            if state.open.len() < self.0.most && state.waiting.is_empty() {
                return Admission::Now(self.0.place(&mut state, peer));
            }
            self.0.tell(&mut state);
            if state.waiting.len() >= MAX_WAITING && !state.make_one_give_up(peer) {
                return Admission::Later(receiver);
            }
            state.waiting.push(Waiting { peer, since: Instant::now(), place: sender });
        }
        self.make_room();
        Admission::Later(receiver)
    }

    /// Lets connections leave, one for each newcomer that waits.
    pub(super) fn make_room(&self) {
        let now = Instant::now();
        let mut granted = Vec::new();
        {
            let mut state = self.0.state.lock();
            state.waiting.retain(|waiting| !waiting.place.is_closed());
            state.sort_waiting();
            // The first ones get the places of those that are leaving already.
            let mut at = state.leaving;
            while let Some(&Waiting { peer, since, .. }) = state.waiting.get(at) {
                let idle = if now - since < IDLE { IDLE } else { Duration::ZERO };
                if let Some(displaced) = state.longest_idle(peer, now, idle) {
                    state.displace(&displaced);
                    at += 1;
                } else if state.open.len() < self.0.most + SPARE_PLACES && state.count(peer) == 0 {
                    let waiting = state.waiting.remove(at);
                    granted.push((waiting.place, self.0.place(&mut state, peer)));
                } else {
                    at += 1;
                }
            }
        }
        // Not under the lock, which a place takes if nobody wants it.
        for (waiting, place) in granted {
            let _ = waiting.send(place);
        }
    }
}

impl Shared {
    fn place(self: &Arc<Self>, state: &mut State, peer: Peer) -> Place {
        let of_peer = Arc::clone(state.of_peer.entry(peer).or_default());
        of_peer.fetch_add(1, Ordering::Relaxed);
        let connected = Arc::new(Connected {
            peer,
            of_peer,
            started: self.started,
            calls: AtomicUsize::new(0),
            idle_since: AtomicU64::new(millis_since(self.started)),
            leaving: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        });
        let number = state.next_number;
        state.next_number += 1;
        state.open.insert(number, Arc::clone(&connected));
        Place { places: Arc::clone(self), number, connected }
    }

    /// Gives free places to those that wait.
    fn settle(self: &Arc<Self>) {
        loop {
            let (waiting, place) = {
                let mut state = self.state.lock();
                if state.waiting.is_empty() || state.open.len() >= self.most {
                    return;
                }
                state.sort_waiting();
                let waiting = state.waiting.remove(0);
                let place = self.place(&mut state, waiting.peer);
                (waiting.place, place)
            };
            let _ = waiting.send(place);
        }
    }

    fn tell(&self, state: &mut State) {
        if state.told.is_some_and(|told| told.elapsed() < LOG_INTERVAL) {
            return;
        }
        state.told = Some(Instant::now());
        tracing::warn!(
            listener = self.listener,
            limit = self.most,
            "every place for a connection is taken; idle connections make room for new ones"
        );
    }
}

impl State {
    fn count(&self, peer: Peer) -> usize {
        self.of_peer.get(&peer).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// First those of the peers that have fewest connections, and then who came first.
    fn sort_waiting(&mut self) {
        let Self { waiting, of_peer, .. } = self;
        waiting.sort_by_key(|Waiting { peer, since, .. }| {
            (of_peer.get(peer).map_or(0, |count| count.load(Ordering::Relaxed)), *since)
        });
    }

    /// The connection that makes room for one of `newcomer`.
    fn longest_idle(&self, newcomer: Peer, now: Instant, idle: Duration) -> Option<Arc<Connected>> {
        let own = self.count(newcomer);
        let candidates = self.open.iter().filter_map(|(number, connected)| {
            let since = connected.idle_since()?;
            let count = connected.of_peer.load(Ordering::Relaxed);
            let may = connected.peer == newcomer || count > own;
            // Of those that became idle in the same millisecond, the one that came first.
            (may && now.saturating_duration_since(since) >= idle)
                .then_some(((count, Reverse((since, *number))), connected))
        });
        candidates.max_by_key(|(key, _)| *key).map(|(_, connected)| Arc::clone(connected))
    }

    fn displace(&mut self, connected: &Connected) {
        connected.leaving.store(true, Ordering::Release);
        self.leaving += 1;
        self.forget(connected);
        connected.waker.wake();
    }

    /// A connection counts for its peer no more.
    fn forget(&mut self, connected: &Connected) {
        if connected.of_peer.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.of_peer.remove(&connected.peer);
        }
    }

    /// Closes the last newcomer of the peer that has most. False if that is `newcomer`.
    fn make_one_give_up(&mut self, newcomer: Peer) -> bool {
        let mut waiting: HashMap<Peer, usize> = HashMap::from([(newcomer, 1)]);
        for other in &self.waiting {
            *waiting.entry(other.peer).or_default() += 1;
        }
        let most = waiting
            .into_iter()
            .max_by_key(|&(peer, waiting)| (self.count(peer) + waiting, peer == newcomer));
        let Some((peer, _)) = most.filter(|(peer, _)| *peer != newcomer) else { return false };
        let last = self.waiting.iter().enumerate().filter(|(_, waiting)| waiting.peer == peer);
        if let Some((at, _)) = last.max_by_key(|(_, waiting)| waiting.since) {
            self.waiting.remove(at);
        }
        true
    }
}

impl Connected {
    /// Since when it could make room; `None`: it has an open call, or is leaving.
    fn idle_since(&self) -> Option<Instant> {
        if self.leaving.load(Ordering::Relaxed) || self.calls.load(Ordering::Acquire) > 0 {
            return None;
        }
        Some(self.started + Duration::from_millis(self.idle_since.load(Ordering::Relaxed)))
    }
}

fn millis_since(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX)
}

impl Place {
    /// For whoever serves the connection.
    pub(super) fn handle(&self) -> PlaceHandle {
        PlaceHandle(Arc::clone(&self.connected))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        {
            let mut state = self.places.state.lock();
            if let Some(connected) = state.open.remove(&self.number) {
                match connected.leaving.load(Ordering::Relaxed) {
                    true => state.leaving -= 1,
                    false => state.forget(&connected),
                }
            }
        }
        self.places.settle();
    }
}

/// A connection that has a place: tells when calls begin and end, and learns when it must
/// leave. A clone is another handle.
#[derive(Clone)]
pub(super) struct PlaceHandle(Arc<Connected>);

impl PlaceHandle {
    /// A call begins. It is open until what is returned is dropped.
    pub(super) fn call_begins(&self) -> OpenCall {
        self.0.calls.fetch_add(1, Ordering::Relaxed);
        OpenCall(Arc::clone(&self.0))
    }

    /// Serves the connection; cut off if it was displaced and does not close in time.
    pub(super) async fn until_displaced(&self, serving: impl Future<Output = ()>) {
        let mut serving = pin!(serving);
        let mut late = None;
        poll_fn(|cx| {
            self.0.waker.register(cx.waker());
            if serving.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            if !self.is_leaving() {
                return Poll::Pending;
            }
            let (told, timer) = late.get_or_insert_with(|| {
                let told = Instant::now();
                (told, Box::pin(sleep_until(told + LEAVE_TIMEOUT)))
            });
            while timer.as_mut().poll(cx).is_ready() {
                let (reached, last) = (timer.deadline(), *told + LAST_CALL_TIMEOUT);
                if self.0.calls.load(Ordering::Acquire) == 0 || reached >= last {
                    return Poll::Ready(());
                }
                timer.as_mut().reset(last.min(reached + LEAVE_TIMEOUT / 10));
            }
            Poll::Pending
        })
        .await;
    }

    /// True if the connection should send a GOAWAY and close.
    /// [`until_displaced`](Self::until_displaced) polls again when that changes.
    pub(super) fn is_leaving(&self) -> bool {
        self.0.leaving.load(Ordering::Acquire)
    }
}

/// An open call of a connection, until dropped.
pub(super) struct OpenCall(Arc<Connected>);

impl Drop for OpenCall {
    fn drop(&mut self) {
        // First, so that the connection is never idle since long ago.
        self.0.idle_since.store(millis_since(self.0.started), Ordering::Relaxed);
        self.0.calls.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn peer(number: u8) -> Peer {
        IpAddr::from([192, 0, 2, number]).into()
    }

    fn now(admission: Admission) -> Place {
        match admission {
            Admission::Now(place) => place,
            Admission::Later(_) => panic!("expected a free place"),
        }
    }

    fn later(admission: Admission) -> oneshot::Receiver<Place> {
        match admission {
            Admission::Later(place) => place,
            Admission::Now(_) => panic!("expected every place to be taken"),
        }
    }

    fn leaves(place: &Place) -> bool {
        place.handle().is_leaving()
    }

    async fn pass(time: Duration) {
        tokio::time::advance(time).await;
    }

    #[test]
    fn a_host_is_one_peer() {
        let of = |text: &str| Peer::from(text.parse::<IpAddr>().expect("an address"));
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_one_of_the_peer_with_most_makes_room() {
        let places = Places::new("grpc", 4);
        let single = now(places.admit(peer(1)));
        let mut hog = Vec::new();
        for _ in 0..3 {
            pass(IDLE).await;
            hog.push(now(places.admit(peer(2))));
        }
        pass(IDLE).await;
        drop(hog[0].handle().call_begins());
        pass(IDLE).await;
        let mut newcomer = later(places.admit(peer(3)));
        assert!(!leaves(&single), "its peer has fewer");
        assert_eq!([0, 1, 2].map(|at| leaves(&hog[at])), [false, true, false]);
        assert!(newcomer.try_recv().is_err(), "the place is not free yet");
        drop(hog.remove(1));
        newcomer.try_recv().expect("the place of the one that left");
    }

    #[tokio::test(start_paused = true)]
    async fn of_those_that_are_equally_idle_the_first_one_makes_room() {
        let places = Places::new("grpc", 8);
        let hog: Vec<_> = (0..8).map(|_| now(places.admit(peer(1)))).collect();
        pass(IDLE).await;
        let _newcomers = [2, 3, 4].map(|number| later(places.admit(peer(number))));
        let found: Vec<_> = hog.iter().map(leaves).collect();
        assert_eq!(found, [true, true, true, false, false, false, false, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_call_keeps_its_place_and_the_rest_get_spare_ones() {
        let places = Places::new("grpc", 2);
        let busy: Vec<_> = (0..2).map(|_| now(places.admit(peer(1)))).collect();
        let calls: Vec<_> = busy.iter().map(|place| place.handle().call_begins()).collect();
        pass(IDLE * 4).await;
        let mut more = later(places.admit(peer(1)));
        assert!(more.try_recv().is_err(), "it has its share and nothing is idle");
        let spare = later(places.admit(peer(2))).try_recv().expect("a spare place");
        assert!(!busy.iter().any(leaves));
        assert_eq!(places.open(), 3);
        drop((calls, spare));
        places.make_room();
        assert!(more.try_recv().is_err() && !busy.iter().any(leaves), "a call has just ended");
        pass(IDLE).await;
        places.make_room();
        assert_eq!(busy.iter().filter(|place| leaves(place)).count(), 1);
        drop(busy);
        let _place = more.try_recv().expect("a free place");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_displaced_for_a_peer_that_has_as_many() {
        let places = Places::new("grpc", 2);
        let (one, two) = (now(places.admit(peer(1))), now(places.admit(peer(2))));
        pass(IDLE).await;
        let _call = one.handle().call_begins();
        let mut another = later(places.admit(peer(1)));
        assert!(!leaves(&two), "expected no change between peers with one connection each");
        assert!(another.try_recv().is_err(), "expected it to wait");
    }

    #[tokio::test(start_paused = true)]
    async fn a_newcomer_waits_a_moment_for_silence() {
        let places = Places::new("grpc", 1);
        let active = now(places.admit(peer(1)));
        let _newcomer = later(places.admit(peer(1)));
        assert!(!leaves(&active), "it may be between two calls");
        pass(IDLE / 2).await;
        drop(active.handle().call_begins());
        places.make_room();
        assert!(!leaves(&active));
        pass(IDLE / 2).await;
        places.make_room();
        assert!(leaves(&active), "expected room after a moment, whatever the pauses are");
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_least_is_served_first_and_the_greediest_gives_up() {
        let places = Places::new("grpc", 3);
        let held: Vec<_> = (0..3).map(|_| now(places.admit(peer(1)))).collect();
        let calls: Vec<_> = held.iter().map(|place| place.handle().call_begins()).collect();
        let spare: Vec<_> = (0..SPARE_PLACES as u8)
            .map(|number| later(places.admit(peer(100 + number))).try_recv().expect("a spare one"))
            .collect();
        let mut greedy: Vec<_> = (0..MAX_WAITING).map(|_| later(places.admit(peer(1)))).collect();
        let refused = later(places.admit(peer(1)));
        assert!(refused.now_or_never().is_some_and(|place| place.is_err()), "too many of one peer");
        let mut other = later(places.admit(peer(2)));
        let last = greedy.pop().expect("some").now_or_never();
        assert!(last.is_some_and(|place| place.is_err()), "the last one of the greedy peer");
        drop((calls, spare));
        drop(held);
        let _first = other.try_recv().expect("expected the one with least to be first");
        let _second = greedy[0].try_recv().expect("then the others in their order");
        let _third = greedy[1].try_recv().expect("then the others in their order");
        assert!(greedy[2].try_recv().is_err(), "there are three places");
    }

    #[tokio::test(start_paused = true)]
    async fn a_displaced_connection_is_cut_if_it_does_not_close() {
        let places = Places::new("grpc", 1);
        let place = now(places.admit(peer(1)));
        pass(IDLE).await;
        let started = Instant::now();
        let handle = place.handle();
        let serving = async {
            poll_fn(|_| if handle.is_leaving() { Poll::Ready(()) } else { Poll::Pending }).await;
            std::future::pending::<()>().await;
        };
        let _newcomer = later(places.admit(peer(1)));
        handle.until_displaced(serving).await;
        let took = started.elapsed();
        assert!((LEAVE_TIMEOUT..LAST_CALL_TIMEOUT).contains(&took), "{took:?}");
        let _call = handle.call_begins();
        let started = Instant::now();
        handle.until_displaced(std::future::pending()).await;
        assert!(started.elapsed() >= LAST_CALL_TIMEOUT, "a call may end");
    }
}
