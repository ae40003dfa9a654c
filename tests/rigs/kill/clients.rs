//! The clients: they make the load, remember what was acknowledged, and verify it.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use sessiond::grpc::pb::{
    DestroyRequest, DestroyScope, ListSessionsRequest, ResolveRequest, ResolveResponse,
    RevokeSessionsRequest, SessionState, WriteRequest, WriteResponse,
    session_admin_service_client::SessionAdminServiceClient,
    session_service_client::SessionServiceClient,
};
use tokio::{
    sync::{OnceCell, watch},
    time::{sleep, timeout},
};
use tonic::{Code, Response, Status, transport::Channel};

use super::{
    Depth,
    model::{Doubt, Gone, Held, Tally, Why},
};
use crate::support::browser::token as credential;

type Service = SessionServiceClient<Channel>;
type Admin = SessionAdminServiceClient<Channel>;

/// The most live sessions of one client; with sixteen clients, a few hundred in all.
const MOST_HELD: usize = 16;
/// The most old tokens that are kept for one session.
const MOST_OLD: usize = 3;
/// How many ended sessions of earlier rounds each round verifies.
const OLDER_GONE: usize = 16;
/// A call takes milliseconds. One without an answer after this time is taken to hang.
const PATIENCE: Duration = Duration::from_secs(30);
/// What a daemon has sent before its end is read within this time.
const PATIENCE_AFTER_THE_END: Duration = Duration::from_secs(5);

fn connect(address: &str) -> Service {
    SessionServiceClient::new(channel(address))
}

fn connect_admin(address: &str) -> Admin {
    SessionAdminServiceClient::new(channel(address))
}

fn channel(address: &str) -> Channel {
    Channel::from_shared(format!("http://{address}")).expect("an address").connect_lazy()
}

/// The state that clients share: sessions to which all of them write at the same time, each
/// client with its own key.
pub(super) struct Common {
    /// The daemon was told to end: the result of a call without an answer is unknown.
    ending: AtomicBool,
    /// It has ended.
    gone: watch::Sender<bool>,
    /// The tokens of these sessions. The first client that needs a session creates it.
    tokens: Vec<OnceCell<String>>,
    /// For each session and client, the value that was sent and the one that was acknowledged.
    sent: Vec<Vec<AtomicU64>>,
    acknowledged: Vec<Vec<AtomicU64>>,
}

const COMMON: usize = 4;

impl Common {
    pub(super) fn new(clients: usize) -> Self {
        let zeros =
            || (0..COMMON).map(|_| (0..clients).map(|_| AtomicU64::new(0)).collect()).collect();
        Self {
            ending: AtomicBool::new(false),
            gone: watch::Sender::new(false),
            tokens: (0..COMMON).map(|_| OnceCell::new()).collect(),
            sent: zeros(),
            acknowledged: zeros(),
        }
    }

    /// Another daemon runs.
    pub(super) fn begins(&self) {
        self.ending.store(false, Ordering::SeqCst);
        self.gone.send_replace(false);
    }

    /// The daemon is about to be told to end.
    pub(super) fn ends(&self) {
        self.ending.store(true, Ordering::SeqCst);
    }

    /// The daemon's process is there no more.
    pub(super) fn gone(&self) {
        self.gone.send_replace(true);
    }

    /// Returns the answer, or `None` if the daemon was told to end and the result of the call
    /// is unknown. Any other error is a violation.
    async fn answered<T>(
        &self,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
        tally: &mut Tally,
    ) -> Option<T> {
        let answer = tokio::select! {
            answer = timeout(PATIENCE, call) => answer,
            () = self.is_long_gone() => return None,
        };
        match answer {
            Ok(Ok(answer)) => Some(answer.into_inner()),
            Ok(Err(status)) => {
                let unknown = matches!(
                    status.code(),
                    Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled
                );
                if status.code() == Code::NotFound {
                    tally.lose(format!("a Write to a live session was answered {status:?}"));
                } else if !(unknown && self.ending.load(Ordering::SeqCst)) {
                    tally.violate(format!("expected an answer, found {status:?}"));
                }
                None
            }
            Err(_) => {
                tally.violate(format!(
                    "expected an answer or an error within {PATIENCE:?} of a daemon that runs"
                ));
                None
            }
        }
    }

    /// Waits until no client can get an answer any more. A call may then be without an error as
    /// well: tokio's channel keeps what is sent into it at the moment in which its receiver is
    /// dropped, and that is how hyper hands a call to a connection.
    async fn is_long_gone(&self) {
        // The sender is `self`.
        let _ = self.gone.subscribe().wait_for(|gone| *gone).await;
        sleep(PATIENCE_AFTER_THE_END).await;
    }

    /// Checks that each key is between the acknowledged and the sent value, and that the
    /// version counts every Write exactly once.
    pub(super) async fn verify(&self, address: &str) -> Tally {
        let (mut tally, service) = (Tally::default(), connect(address));
        for (at, token) in self.tokens.iter().enumerate() {
            let Some(token) = token.get() else { continue };
            let Some(found) = resolve(self, &service, token, &mut tally).await else { continue };
            let Some(session) = found.session.as_ref().filter(|_| is_active(&found)) else {
                tally.lose(format!("common session {at} is {:?}", found.state()));
                continue;
            };
            let data: serde_json::Value =
                serde_json::from_slice(&session.data).expect("data is JSON");
            let mut sum = 0;
            for (client, sent) in self.sent[at].iter().enumerate() {
                let value = data[format!("c{client}")].as_u64().unwrap_or(0);
                let least = self.acknowledged[at][client].load(Ordering::SeqCst);
                let most = sent.load(Ordering::SeqCst);
                if !(least..=most).contains(&value) {
                    let what = format!(
                        "key c{client} of common session {at} is {value}, expected {least} to {most}"
                    );
                    tally.lose(what);
                }
                // The value that was found is the acknowledged value from now on.
                self.acknowledged[at][client].store(value, Ordering::SeqCst);
                sent.store(value, Ordering::SeqCst);
                sum += value;
            }
            if session.version != 1 + sum {
                let version = session.version;
                tally.lose(format!(
                    "common session {at} has version {version}, expected {sum} Writes"
                ));
            }
        }
        tally
    }

    /// Increments the key of a client.
    async fn write(&self, at: usize, client: usize, service: &Service, tally: &mut Tally) -> bool {
        let made = self.tokens[at].get_or_try_init(|| async {
            let set = WriteRequest { set: "{}".into(), ..Default::default() };
            let mut service = service.clone();
            let answer = self.answered(service.write(set), tally).await;
            answer.map(|write| write.token).ok_or(())
        });
        let Ok(token) = made.await else { return false };
        let n = self.sent[at][client].fetch_add(1, Ordering::SeqCst) + 1;
        let set = format!(r#"{{"c{client}":{n}}}"#).into();
        let write =
            WriteRequest { set, credential: credential(token.as_str()), ..Default::default() };
        let done = self.answered(service.clone().write(write), tally).await.is_some();
        if done {
            self.acknowledged[at][client].store(n, Ordering::SeqCst);
            tally.acknowledged += 1;
        }
        done
    }
}

/// The principal of the client with this number.
pub(super) fn principal(client: usize) -> String {
    format!("client {client}")
}

async fn resolve(
    common: &Common,
    service: &Service,
    token: &str,
    tally: &mut Tally,
) -> Option<ResolveResponse> {
    let peek = ResolveRequest { credential: credential(token), peek: true, ..Default::default() };
    tally.resolved += 1;
    common.answered(service.clone().resolve(peek), tally).await
}

fn is_active(found: &ResolveResponse) -> bool {
    found.state() == SessionState::Active
}

pub(super) struct Client {
    number: usize,
    random: StdRng,
    held: Vec<Held>,
    gone: Vec<Gone>,
    /// How many of `gone` have been verified at least once.
    verified: usize,
    made: u64,
}

impl Client {
    pub(super) fn new(number: usize, seed: u64) -> Self {
        let random = StdRng::seed_from_u64(seed);
        Self { number, random, held: Vec::new(), gone: Vec::new(), verified: 0, made: 0 }
    }

    /// Works until the daemon ends.
    pub(super) async fn work(&mut self, common: &Common, address: &str, admin: &str) -> Tally {
        let (mut tally, service, admin) =
            (Tally::default(), connect(address), connect_admin(admin));
        while self.step(common, &service, &admin, &mut tally).await {}
        if !common.ending.load(Ordering::SeqCst) && tally.violations.is_empty() {
            tally.violate("a client stopped, expected it to work until the daemon ends".to_owned());
        }
        tally
    }

    /// Makes one change. Returns false if it was not acknowledged.
    async fn step(
        &mut self,
        common: &Common,
        service: &Service,
        admin: &Admin,
        tally: &mut Tally,
    ) -> bool {
        let choice = self.random.random_range(0..100);
        if choice < 10 {
            let at = self.random.random_range(0..COMMON);
            return common.write(at, self.number, service, tally).await;
        }
        if choice < 15 {
            return self.make_mayfly(common, service, tally).await;
        }
        if self.held.is_empty() || (choice < 40 && self.held.len() < MOST_HELD) {
            return self.create(common, service, tally).await;
        }
        let at = self.random.random_range(0..self.held.len());
        match choice {
            ..65 => self.change(at, false, common, service, tally).await,
            65..80 => self.change(at, true, common, service, tally).await,
            98.. => self.end_all(at, common, service, admin, tally).await,
            _ => self.destroy(at, common, service, tally).await,
        }
    }

    /// The principal of its sessions: of half of them from the beginning, of the others from a
    /// roll on.
    pub(super) fn principal(&self) -> String {
        principal(self.number)
    }

    /// Checks that the list of its principal has every session that belongs to it.
    pub(super) async fn verify_list(&self, admin: &str, tally: &mut Tally) {
        let mut admin = connect_admin(admin);
        let (mut listed, mut page_token) = (Vec::new(), String::new());
        loop {
            let principal = self.principal();
            let request = ListSessionsRequest {
                principal,
                page_size: 1000,
                page_token,
                ..Default::default()
            };
            let page = match admin.list_sessions(request).await {
                Ok(answer) => answer.into_inner(),
                Err(status) => return tally.violate(format!("expected a list, found {status:?}")),
            };
            listed.extend(page.sessions);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        for held in self.held.iter().filter(|held| held.listed) {
            if !listed.iter().any(|session| session.id == held.id()) {
                tally.lose(format!(
                    "session {} is missing in the list of its principal",
                    held.number
                ));
            }
        }
    }

    async fn create(&mut self, common: &Common, service: &Service, tally: &mut Tally) -> bool {
        // Clients must not use equal numbers.
        let number = self.made * 64 + self.number as u64;
        self.made += 1;
        let listed = (number / 64).is_multiple_of(2);
        let write = WriteRequest {
            set: Held::initial(number).into(),
            principal: listed.then(|| self.principal().into()),
            ..Default::default()
        };
        let Some(WriteResponse { token, .. }) =
            common.answered(service.clone().write(write), tally).await
        else {
            // No client has its id, so whether it exists cannot be checked.
            return false;
        };
        let old = Vec::new();
        self.held.push(Held { token, old, number, n: 0, version: 1, listed, doubt: None });
        tally.acknowledged += 1;
        true
    }

    /// Makes a session that expires at once, so that the sweep has work.
    async fn make_mayfly(&mut self, common: &Common, service: &Service, tally: &mut Tally) -> bool {
        let write = WriteRequest {
            set: Held::initial(self.made).into(),
            duration: Some(prost_types::Duration { seconds: 0, nanos: 100_000_000 }),
            ..Default::default()
        };
        common.answered(service.clone().write(write), tally).await.is_some()
    }

    async fn change(
        &mut self,
        at: usize,
        roll: bool,
        common: &Common,
        service: &Service,
        tally: &mut Tally,
    ) -> bool {
        let principal = roll.then(|| self.principal().into());
        let held = &mut self.held[at];
        held.doubt = Some(if roll { Doubt::Roll } else { Doubt::Write });
        let write = WriteRequest {
            credential: credential(held.token.as_str()),
            set: Held::set(held.number, held.n + 1).into(),
            roll,
            principal,
            ..Default::default()
        };
        let Some(answer) = common.answered(service.clone().write(write), tally).await else {
            return false;
        };
        held.doubt = None;
        (held.n, held.version) = (held.n + 1, held.version + 1);
        if roll {
            held.listed = true;
            held.old.push(std::mem::replace(&mut held.token, answer.token));
            if held.old.len() > MOST_OLD {
                held.old.remove(0);
            }
        }
        tally.acknowledged += 1;
        true
    }

    async fn destroy(
        &mut self,
        at: usize,
        common: &Common,
        service: &Service,
        tally: &mut Tally,
    ) -> bool {
        let held = &mut self.held[at];
        held.doubt = Some(Doubt::Destroy);
        let token = held.token.clone();
        let call = || destroy(service, &token, DestroyScope::This);
        let Some(retried) = self.gave_up(call(), common).await else { return false };
        let Some(ended) = common.answered(call(), tally).await else {
            return false;
        };
        let held = self.held.swap_remove(at);
        if ended == 0 && !retried {
            tally.lose(format!("a Destroy did not find session {}", held.number));
        }
        tally.acknowledged += 1;
        self.bury(held, Why::Destroyed);
        true
    }

    /// Returns whether to repeat a call, as a caller does after a timeout. The second answer
    /// must also be correct: what has ended stays ended. `None`: the daemon has ended.
    async fn gave_up<T>(
        &mut self,
        first: impl Future<Output = Result<T, Status>>,
        common: &Common,
    ) -> Option<bool> {
        if !self.random.random_bool(0.3) {
            return Some(false);
        }
        let patience = Duration::from_micros(self.random.random_range(0..4000));
        match timeout(patience, first).await {
            Ok(Err(_)) if common.ending.load(Ordering::SeqCst) => None,
            _ => Some(true),
        }
    }

    /// Ends all sessions of its principal, as an operator or as the owner of the session at
    /// `at`, or all except that one. They include sessions whose id no client knows.
    async fn end_all(
        &mut self,
        at: usize,
        common: &Common,
        service: &Service,
        admin: &Admin,
        tally: &mut Tally,
    ) -> bool {
        let chosen = &self.held[at];
        let scope = match self.random.random_range(0..3) {
            0 if chosen.listed => Some(DestroyScope::All),
            1 if chosen.listed => Some(DestroyScope::Others),
            _ => None,
        };
        let spared = (scope == Some(DestroyScope::Others)).then_some(chosen.number);
        let is_meant = |held: &Held| held.listed && Some(held.number) != spared;
        let (token, principal) = (chosen.token.clone(), self.principal());
        let call = || async {
            match scope {
                Some(scope) => destroy(service, &token, scope).await,
                None => revoke(admin, &principal).await,
            }
        };
        for held in self.held.iter_mut().filter(|held| is_meant(held)) {
            held.doubt = Some(Doubt::Destroy);
        }
        self.regard_rolled_as(Why::RolledOrDestroyed);
        let Some(retried) = self.gave_up(call(), common).await else { return false };
        let Some(count) = common.answered(call(), tally).await else {
            return false;
        };
        let ended: Vec<_> = self.held.extract_if(.., |held| is_meant(held)).collect();
        // The count may be higher: creates without an answer may have succeeded.
        if count < ended.len() as u64 && !retried {
            tally.lose(format!("expected to end {} sessions, ended {count}", ended.len()));
        }
        tally.acknowledged += ended.len() as u64;
        for held in ended {
            self.bury(held, Why::Destroyed);
        }
        self.regard_rolled_as(Why::Destroyed);
        true
    }

    /// Sets the reason of the tokens that a roll ended, and has them verified again.
    fn regard_rolled_as(&mut self, why: Why) {
        let is_rolled = |gone: &mut Gone| gone.why != Why::Destroyed;
        let changed: Vec<_> = self.gone.extract_if(..self.verified, is_rolled).collect();
        self.verified -= changed.len();
        self.gone.extend(changed);
        for gone in self.gone[self.verified..].iter_mut().filter(|gone| gone.why != Why::Destroyed)
        {
            gone.why = why;
        }
    }

    fn bury(&mut self, held: Held, why: Why) {
        // A token from before a roll shows more than the current one.
        let old = held.old.into_iter().map(|token| Gone { token, why });
        self.gone.extend(old);
        self.gone.push(Gone { token: held.token, why });
    }

    /// After a crash: decides the changes with an unknown result, and checks that everything
    /// acknowledged is stored.
    pub(super) async fn verify(&mut self, common: &Common, address: &str, depth: Depth) -> Tally {
        let (mut tally, service) = (Tally::default(), connect(address));
        common.begins();
        for held in std::mem::take(&mut self.held) {
            self.verify_held(held, common, &service, &mut tally).await;
        }
        let first = if depth == Depth::All { 0 } else { self.verified };
        let mut some: Vec<usize> = (first..self.gone.len()).collect();
        let older: Vec<usize> = (0..first).collect();
        some.extend(older.sample(&mut self.random, OLDER_GONE));
        for at in some {
            let gone = &mut self.gone[at];
            let Some(found) = resolve(common, &service, &gone.token, &mut tally).await else {
                continue;
            };
            // The state that is found decides the changes with an unknown result.
            match (gone.why, found.state()) {
                (Why::Destroyed | Why::RolledOrDestroyed, SessionState::NotFound) => {
                    gone.why = Why::Destroyed;
                }
                (Why::Rolled | Why::RolledOrDestroyed, SessionState::Superseded) => {
                    gone.why = Why::Rolled;
                }
                (why, state) => tally.see_back(format!("{state:?} after {why:?}")),
            }
        }
        self.verified = self.gone.len();
        tally
    }

    async fn verify_held(
        &mut self,
        mut held: Held,
        common: &Common,
        service: &Service,
        tally: &mut Tally,
    ) {
        // Half of the Destroys with an unknown result are repeated without a Resolve before.
        if held.doubt == Some(Doubt::Destroy) && self.random.random_bool(0.5) {
            if common
                .answered(destroy(service, &held.token, DestroyScope::This), tally)
                .await
                .is_some()
            {
                tally.acknowledged += 1;
                self.bury(held, Why::Destroyed);
            }
            return;
        }
        let Some(found) = resolve(common, service, &held.token, tally).await else { return };
        match (found.state(), held.doubt, &found.session) {
            (SessionState::Active, _, Some(session)) => {
                if let Err(what) = held.settle(session) {
                    tally.lose(what);
                    return;
                }
            }
            (SessionState::Superseded, Some(Doubt::Roll), _) => {
                return self.bury(held, Why::Rolled);
            }
            (SessionState::NotFound, Some(Doubt::Destroy), _) => {
                let again =
                    common.answered(destroy(service, &held.token, DestroyScope::This), tally).await;
                if again.is_some_and(|again| again != 0) {
                    tally.see_back(format!("session {} between two calls", held.number));
                }
                return self.bury(held, Why::Destroyed);
            }
            (state, doubt, _) => {
                let number = held.number;
                tally.lose(format!("session {number} is {state:?}; unacknowledged: {doubt:?}"));
                return;
            }
        }
        for token in &held.old {
            let Some(found) = resolve(common, service, token, tally).await else { continue };
            if found.state() != SessionState::Superseded {
                let what = format!("an id from before a roll is {:?}", found.state());
                tally.see_back(what);
            }
        }
        self.held.push(held);
    }
}

/// Returns how many sessions it ended.
async fn destroy(
    service: &Service,
    token: &str,
    scope: DestroyScope,
) -> Result<Response<u64>, Status> {
    let scope = scope.into();
    let request = DestroyRequest { credential: credential(token), scope, ..Default::default() };
    let answer = service.clone().destroy(request).await?;
    Ok(answer.map(|ended| ended.destroyed.into()))
}

/// Returns how many sessions it ended.
async fn revoke(admin: &Admin, principal: &str) -> Result<Response<u64>, Status> {
    let principal = principal.to_owned();
    let request = RevokeSessionsRequest { principal, ..Default::default() };
    let answer = admin.clone().revoke_sessions(request).await?;
    Ok(answer.map(|ended| ended.revoked.into()))
}
