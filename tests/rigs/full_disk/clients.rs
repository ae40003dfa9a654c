//! The clients: they make calls, remember what was acknowledged, and verify it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use sessiond::grpc::pb::{
    DestroyRequest, ResolveRequest, Session, SessionState, TouchRequest, WriteRequest,
    session_service_client::SessionServiceClient,
};
use tonic::{Code, Request, Response, Status, transport::Channel};
use tonic_types::StatusExt;

use crate::{rig::Random, support::browser::token as credential};

type Service = SessionServiceClient<Channel>;

/// A client with no more sessions than this destroys none.
const KEEP: usize = 10;
/// The deadline of each call.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);
/// The time that the network and a busy machine may add.
const LATE: Duration = Duration::from_secs(2);

/// The state of the disk. It decides what clients do and which answers they accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// Free space shrinks; creations may be refused or not.
    Filling,
    /// Less than the floor is free: every creation and every change is refused.
    Full,
    /// No space is free. Any call may fail, with an error of the store.
    Nothing,
    Done,
}

impl Phase {
    fn of(number: u8) -> Self {
        [Self::Filling, Self::Full, Self::Nothing, Self::Done][usize::from(number)]
    }
}

#[derive(Default)]
pub(super) struct Common {
    phase: AtomicU8,
    /// The daemon is being killed: the result of a call without an answer is unknown.
    pub ending: AtomicBool,
    pub created: AtomicU64,
    pub changed: AtomicU64,
    pub destroyed: AtomicU64,
    pub touched: AtomicU64,
    /// Calls refused as STORE_FULL, and calls with other errors of the store.
    pub refused: AtomicU64,
    pub failed: AtomicU64,
    pub longest_micros: AtomicU64,
    pub findings: Mutex<Vec<String>>,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Common {
    fn found(&self, what: String) {
        let mut findings = self.findings.lock().expect("no panic");
        if findings.len() < 20 {
            findings.push(what);
        }
    }

    fn phase(&self) -> Phase {
        Phase::of(self.phase.load(Ordering::SeqCst))
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::SeqCst);
    }

    /// Returns the answer. Records a finding if the answer is not allowed.
    async fn ask<T>(
        &self,
        what: &str,
        takes_space: bool,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Answer<T> {
        let phase = self.phase();
        let asked = Instant::now();
        let answer = tokio::time::timeout(DEADLINE + LATE, call).await;
        let took = asked.elapsed().as_micros() as u64;
        let status = match answer {
            Err(_) => {
                self.found(format!(
                    "{phase:?}: a {what} has no answer {LATE:?} after its deadline"
                ));
                return Answer::Unknown;
            }
            Ok(answer) if self.ending.load(Ordering::SeqCst) && answer.is_err() => {
                return Answer::Ended;
            }
            Ok(answer) => {
                self.longest_micros.fetch_max(took, Ordering::Relaxed);
                match answer {
                    Ok(answer) => return Answer::Done(answer.into_inner()),
                    Err(status) => status,
                }
            }
        };
        let details = status.get_error_details();
        let reason = details.error_info().map_or("", |info| info.reason.as_str());
        match (status.code(), reason) {
            (Code::ResourceExhausted, "STORE_FULL") if takes_space || phase == Phase::Nothing => {
                count(&self.refused);
                Answer::Refused
            }
            (Code::ResourceExhausted, "OVERLOADED") => Answer::Refused,
            (Code::Unavailable, "STORE_UNAVAILABLE") if phase == Phase::Nothing => {
                count(&self.failed);
                Answer::Unknown
            }
            _ => {
                self.found(format!("{phase:?}: a {what} fails: {status:?}"));
                Answer::Unknown
            }
        }
    }
}

enum Answer<T> {
    Done(T),
    /// Nothing was changed.
    Refused,
    /// The change may have been made or not.
    Unknown,
    /// The change may have been made or not, and the daemon has ended.
    Ended,
}

/// A session as it was acknowledged.
struct Kept {
    token: String,
    n: u64,
    len: usize,
    /// A change that was sent and got no clear answer.
    doubt: Option<Doubt>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    Write,
    Destroy,
}

fn text(n: u64, len: usize) -> String {
    let letter = char::from(b'a' + (n % 26) as u8);
    format!(r#"{{"n":{n},"pad":"{}"}}"#, letter.to_string().repeat(len))
}

pub(super) struct Client {
    random: Random,
    kept: Vec<Kept>,
    gone: Vec<String>,
}

impl Client {
    pub(super) fn new(seed: u64, number: u64) -> Self {
        Self { random: Random::stream(seed, number), kept: Vec::new(), gone: Vec::new() }
    }

    /// Forgets all sessions, because the data were removed.
    pub(super) fn forget(&mut self) {
        self.kept.clear();
        self.gone.clear();
    }

    pub(super) async fn work(mut self, address: String, common: Arc<Common>) -> Self {
        let service = connect(&address);
        while common.phase() != Phase::Done && self.step(&service, &common).await {}
        self
    }

    /// Returns false if the daemon has ended.
    async fn step(&mut self, service: &Service, common: &Common) -> bool {
        let filling = common.phase() == Phase::Filling;
        let choice = self.random.below(100);
        let (creates, writes, destroys) = if filling { (40, 70, 75) } else { (10, 20, 25) };
        if self.kept.is_empty() || choice < creates {
            return self.create(service, common).await;
        }
        let at = self.random.index(self.kept.len());
        match choice {
            _ if self.kept[at].doubt.is_some() => self.touch(at, service, common).await,
            _ if choice < writes => self.write(at, service, common).await,
            // Some sessions stay, to be touched.
            _ if choice < destroys && self.kept.len() > KEEP => {
                self.destroy(at, service, common).await
            }
            _ if choice.is_multiple_of(3) => self.resolve(at, service, common).await,
            _ => self.touch(at, service, common).await,
        }
    }

    async fn create(&mut self, service: &Service, common: &Common) -> bool {
        let len = match self.random.below(10) {
            0 => self.random.below(30_000),
            1..4 => self.random.below(4_000),
            _ => self.random.below(300),
        } as usize;
        let write = WriteRequest { set: text(0, len).into(), ..Default::default() };
        let call = service.clone();
        match common.ask("create", true, { call }.write(in_time(write))).await {
            Answer::Done(answer) => {
                count(&common.created);
                self.kept.push(Kept { token: answer.token, n: 0, len, doubt: None });
            }
            Answer::Ended => return false,
            Answer::Refused | Answer::Unknown => {}
        }
        true
    }

    async fn write(&mut self, at: usize, service: &Service, common: &Common) -> bool {
        let kept = &mut self.kept[at];
        let write = WriteRequest {
            credential: credential(kept.token.as_str()),
            set: text(kept.n + 1, kept.len).into(),
            ..Default::default()
        };
        match common.ask("write", true, service.clone().write(in_time(write))).await {
            Answer::Done(_) => {
                count(&common.changed);
                kept.n += 1;
            }
            Answer::Refused => {}
            Answer::Unknown => kept.doubt = Some(Doubt::Write),
            Answer::Ended => {
                kept.doubt = Some(Doubt::Write);
                return false;
            }
        }
        true
    }

    async fn destroy(&mut self, at: usize, service: &Service, common: &Common) -> bool {
        let token = self.kept[at].token.as_str();
        let destroy = DestroyRequest { credential: credential(token), ..Default::default() };
        match common.ask("destroy", false, service.clone().destroy(in_time(destroy))).await {
            Answer::Done(answer) => {
                if answer.destroyed != 1 {
                    common.found("a Destroy found no session".to_owned());
                }
                count(&common.destroyed);
                self.gone.push(self.kept.swap_remove(at).token);
            }
            Answer::Refused => {}
            Answer::Unknown => self.kept[at].doubt = Some(Doubt::Destroy),
            Answer::Ended => {
                self.kept[at].doubt = Some(Doubt::Destroy);
                return false;
            }
        }
        true
    }

    async fn touch(&mut self, at: usize, service: &Service, common: &Common) -> bool {
        let kept = &self.kept[at];
        let touch =
            TouchRequest { credential: credential(kept.token.as_str()), ..Default::default() };
        match common.ask("touch", false, service.clone().touch(in_time(touch))).await {
            Answer::Done(answer) => {
                count(&common.touched);
                let state = answer.state();
                kept.check_state(state, common);
            }
            Answer::Ended => return false,
            Answer::Refused | Answer::Unknown => {}
        }
        true
    }

    async fn resolve(&mut self, at: usize, service: &Service, common: &Common) -> bool {
        let kept = &self.kept[at];
        let resolve =
            ResolveRequest { credential: credential(kept.token.as_str()), ..Default::default() };
        match common.ask("resolve", false, service.clone().resolve(in_time(resolve))).await {
            Answer::Done(answer) => {
                let state = answer.state();
                if kept.check_state(state, common) {
                    kept.check_data(answer.session.as_ref(), common);
                }
            }
            Answer::Ended => return false,
            Answer::Refused | Answer::Unknown => {}
        }
        true
    }

    /// After a restart: checks that all acknowledged sessions are stored and that no others
    /// are. Decides the calls with an unknown result.
    pub(super) async fn verify(mut self, address: String, common: Arc<Common>) -> Self {
        let service = connect(&address);
        for mut kept in std::mem::take(&mut self.kept) {
            let resolve = peek(&kept.token);
            let Answer::Done(answer) =
                common.ask("resolve", false, service.clone().resolve(resolve)).await
            else {
                continue;
            };
            let state = answer.state();
            if kept.doubt == Some(Doubt::Destroy) && state == SessionState::NotFound {
                self.gone.push(kept.token);
                continue;
            }
            if !kept.check_state(state, &common) {
                continue;
            }
            if let Some(n) = kept.check_data(answer.session.as_ref(), &common) {
                kept.n = n;
            }
            kept.doubt = None;
            self.kept.push(kept);
        }
        for token in &self.gone {
            let call = service.clone();
            let answer = common.ask("resolve", false, { call }.resolve(peek(token))).await;
            if let Answer::Done(answer) = answer
                && answer.state() != SessionState::NotFound
            {
                common.found(format!("a destroyed session is back: {:?}", answer.state()));
            }
        }
        self
    }
}

impl Kept {
    fn check_state(&self, state: SessionState, common: &Common) -> bool {
        let is_there = state == SessionState::Active
            || state == SessionState::NotFound && self.doubt == Some(Doubt::Destroy);
        if !is_there {
            let (phase, doubt) = (common.phase(), self.doubt);
            common.found(format!("{phase:?}: a session is {state:?}, unacknowledged: {doubt:?}"));
        }
        state == SessionState::Active
    }

    /// Returns the number of the change that is stored.
    fn check_data(&self, found: Option<&Session>, common: &Common) -> Option<u64> {
        let found = found.expect("an active session");
        let more = u64::from(self.doubt == Some(Doubt::Write));
        let n = (self.n..=self.n + more).find(|n| found.data == text(*n, self.len));
        if n.is_none() {
            common.found(format!(
                "a session with {} changes ({:?} unacknowledged) has version {}, or other data",
                self.n, self.doubt, found.version
            ));
        }
        n
    }
}

fn peek(token: &str) -> Request<ResolveRequest> {
    in_time(ResolveRequest { credential: credential(token), peek: true, ..Default::default() })
}

fn in_time<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request
}

fn connect(address: &str) -> Service {
    let channel = Channel::from_shared(address.to_owned()).expect("an address").connect_lazy();
    SessionServiceClient::new(channel)
}
