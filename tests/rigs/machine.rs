//! The engine and the model side by side, and what one step does to both.

use std::{collections::BTreeMap, sync::Arc};

use proptest::{prop_assert, prop_assert_eq, test_runner::TestCaseError};
use sessiond::session::{
    Session,
    credential::{Absence, Credential},
    engine::{Engine, ResolveOptions},
    id::SessionId,
    principals::{self, OwnSessions, Target},
    record::Principal,
    store::{Store, Swept},
};

use crate::{
    model::{
        Answer, Change, Held, Millis, Model, Rules, Scope, SessionNumber, Shown, TokenNumber, Why,
    },
    names::{Names, options, why},
    rig::{self, COOKIE_NAME, SeededEntropy, TaskClock},
    steps::{DURATIONS, Ends, Guess, KEYS, LABELS, PRINCIPALS, Piece, Request, Step, VALUES, Who},
};

/// Cookies of one name and of a token's shape that an engine looks at.
const MAX_CANDIDATES: usize = 8;

/// The source of the store that a machine tests.
pub(crate) trait World {
    /// Opens the store. Called again after `close`.
    fn open(&mut self) -> Arc<dyn Store>;

    /// Whether the records are kept when the store is closed and opened again.
    fn lasts(&self) -> bool;

    /// Whether expired sessions stay until a cleanup removes them. If not, the store removes
    /// them itself, at a time that the rig does not know.
    fn sweeps(&self) -> bool {
        true
    }

    /// Called after the store was dropped.
    fn close(&mut self) {}
}

/// A token as a browser has it.
struct Token {
    text: String,
    session: SessionNumber,
    number: TokenNumber,
    epoch: u8,
}

/// An engine and the model beside it.
pub(crate) struct Machine<W: World> {
    // Fields are dropped in this order.
    engine: Option<Engine>,
    store: Option<Arc<dyn Store>>,
    world: W,
    rules: Rules,
    entropy: Arc<SeededEntropy>,
    epoch: u8,
    now: Millis,
    model: Model,
    names: Names,
    /// In the order in which browsers received them.
    tokens: Vec<Token>,
    pub answers: Answers,
}

/// How often each kind of answer was given. If nearly all operations were refused, the rig
/// would test little.
pub(crate) type Answers = BTreeMap<&'static str, u32>;

pub(crate) type Outcome = Result<(), TestCaseError>;

impl<W: World> Machine<W> {
    pub(crate) fn new(world: W, rules: Rules, seed: u64) -> Self {
        let mut machine = Self {
            world,
            rules,
            store: None,
            engine: None,
            entropy: SeededEntropy::new(seed),
            epoch: 0,
            now: rig::START,
            model: Model::default(),
            names: Names::default(),
            tokens: Vec::new(),
            answers: Answers::new(),
        };
        machine.open();
        machine
    }

    fn open(&mut self) {
        self.store = Some(self.world.open());
        self.make_engine();
    }

    fn make_engine(&mut self) {
        let store = self.store.as_ref().expect("the store is open");
        let store = Arc::clone(store);
        self.engine =
            Some(rig::engine(&self.rules, self.epoch, store, Arc::clone(&self.entropy) as _));
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("the engine is running")
    }

    async fn at<F: Future>(&self, work: F) -> F::Output {
        TaskClock::at(self.now, work).await
    }

    pub(crate) async fn step(&mut self, step: &Step) -> Outcome {
        match step {
            Step::Create(request) => {
                let change = self.change(request, None);
                let created = self.at(self.engine().create(options(&change))).await;
                let number = self.names.next_session();
                let expected = self.model.create(&self.rules, self.now, number, &change);
                let found = self.names.created(created);
                let is_made = matches!(found, Answer::Created(..) | Answer::Written(..));
                self.agree(expected, found)?;
                if is_made {
                    self.end_idlest(&change, number).await?;
                }
            }
            Step::Resolve { who, peek, create } => {
                let (credential, shown) = self.show(who);
                let resolve = ResolveOptions { peek: *peek, create: *create };
                let engine = self.engine();
                let presented = engine.present(credential.as_credential());
                let resolved = self.at(rig::resolve(engine, &presented, resolve)).await;
                let mut expected = self.model.resolve(&self.rules, self.now, &shown, *peek);
                let creates = |why| *create && why != Why::JustSuperseded;
                if matches!(expected, Answer::Absent(why) if creates(why)) {
                    let change = self.numbered(Change::default());
                    let number = self.names.next_session();
                    expected = self.model.create(&self.rules, self.now, number, &change);
                }
                let found = self.names.found(resolved);
                self.agree(expected, found)?;
            }
            Step::Touch(who, duration) => {
                let duration = duration.map(|at| DURATIONS[at]);
                let (credential, shown) = self.show(who);
                let engine = self.engine();
                let presented = engine.present(credential.as_credential());
                let touched = self.at(rig::touch(engine, &presented, duration)).await;
                let expected = self.model.touch(&self.rules, self.now, &shown, duration);
                let found = self.names.found(touched);
                self.agree(expected, found)?;
            }
            Step::Write(who, request) => {
                let (credential, shown) = self.show(who);
                let change = self.change(request, Some(&shown));
                let engine = self.engine();
                let presented = engine.present(credential.as_credential());
                let written = self.at(engine.write(&presented, options(&change))).await;
                let expected = self.model.write(&self.rules, self.now, &shown, &change);
                let found = self.names.written(written);
                let number = match &found {
                    Answer::Written(view, _) => Some(view.number),
                    _ => None,
                };
                self.agree(expected, found)?;
                if let Some(number) = number {
                    self.end_idlest(&change, number).await?;
                }
            }
            Step::Destroy(who, ends) => {
                let (credential, shown) = self.show(who);
                let scope = match ends {
                    Ends::Scope(scope) => scope.clone(),
                    Ends::Named(sessions) => Scope::Named(self.numbers(sessions)),
                };
                let engine = self.engine();
                let presented = engine.present(credential.as_credential());
                let wanted = match &scope {
                    Scope::This => principals::Scope::This,
                    Scope::Others => principals::Scope::Others,
                    Scope::All => principals::Scope::All,
                    Scope::Named(numbers) => {
                        let ids = numbers.iter().map(|number| self.names.id(*number));
                        principals::Scope::Named(ids.collect())
                    }
                };
                let destroyed = self.at(engine.destroy(&presented, wanted)).await;
                let expected = self.model.destroy(&self.rules, self.now, &shown, scope);
                let found = self.names.destroyed(destroyed);
                self.agree(expected, found)?;
            }
            Step::ListOwn(who, size) => {
                let (credential, shown) = self.show(who);
                let listed = self.list_own(&credential, *size).await;
                let expected = self.model.list_own(&self.rules, self.now, &shown);
                let found = match listed {
                    Ok(sessions) => self.names.listed(&sessions),
                    Err(absence) => Answer::Absent(why(absence)),
                };
                self.agree(expected, found)?;
            }
            Step::List(whose, size) => {
                let principal = PRINCIPALS[*whose];
                let sessions = self.list(principal, *size).await;
                let expected = self.model.list(&self.rules, self.now, principal);
                let found = self.names.listed(&sessions);
                self.agree(expected, found)?;
            }
            Step::Revoke { principal, sessions } => self.revoke(*principal, sessions).await?,
            Step::Cleanup { slice } => self.cleanup(*slice).await?,
            Step::Sweep { slice } => {
                let removed = self.at(self.engine().sweep(*slice)).await.expect("the store works");
                if !self.world.sweeps() {
                    prop_assert_eq!(removed, 0, "expected nothing to sweep");
                    return Ok(());
                }
                let due = self.model.due(self.now);
                prop_assert_eq!(
                    removed,
                    due.len() as u64,
                    "expected a sweep to remove all that is due"
                );
                self.model.sessions.retain(|number, _| !due.contains(number));
            }
            Step::Advance(by) => self.now += by,
            Step::Rotate => {
                self.epoch = self.epoch.saturating_add(1);
                self.make_engine();
            }
            Step::Restart => self.restart().await?,
        }
        if let Some(found) = self.engine().count() {
            let expected = self.model.sessions.len() as u64;
            prop_assert_eq!(found, expected, "sessions stored, found and expected");
        }
        Ok(())
    }

    /// Checks that the answers are equal, and stores what the answer gives the browser.
    fn agree(&mut self, expected: Answer, found: Answer) -> Outcome {
        prop_assert_eq!(&found, &expected, "the answer, found and expected by the model");
        *self.answers.entry(kind_of(&found)).or_default() += 1;
        let (Answer::Active(view, told)
        | Answer::Created(view, told)
        | Answer::Written(view, told)) = found
        else {
            return Ok(());
        };
        if let Some(cookie) = told.cookie {
            let text = self.names.text(cookie.token).to_owned();
            let (session, number, epoch) = (view.number, cookie.token, self.epoch);
            self.tokens.push(Token { text, session, number, epoch });
        }
        Ok(())
    }

    async fn list(&self, principal: &str, size: usize) -> Vec<Session> {
        let principal = Principal::new(principal.as_bytes()).expect("short");
        let (mut sessions, mut after) = (Vec::new(), None);
        loop {
            let page = self.at(self.engine().list(&principal, after, size)).await;
            let page = page.expect("the store works");
            assert!(page.sessions.len() <= size, "expected a page within its limit");
            sessions.extend(page.sessions);
            after = page.next;
            if after.is_none() {
                return sessions;
            }
        }
    }

    async fn list_own(&self, credential: &Offer, size: usize) -> Result<Vec<Session>, Absence> {
        let presented = self.engine().present(credential.as_credential());
        let (mut sessions, mut after) = (Vec::new(), None);
        loop {
            let listed = self.at(self.engine().list_own(&presented, after, size)).await;
            let (current, page) = match listed.expect("the store works") {
                OwnSessions::Live { current, page } => (current, page),
                OwnSessions::Absent(absence) => return Err(absence),
            };
            assert!(page.sessions.len() <= size, "expected a page within its limit");
            sessions.extend(page.sessions);
            after = page.next;
            if after.is_none() {
                let is_there = sessions.iter().any(|session| session.id == current);
                assert!(is_there, "expected the credential's own session among them");
                return Ok(sessions);
            }
        }
    }

    async fn revoke(&mut self, principal: Option<usize>, sessions: &Option<Vec<usize>>) -> Outcome {
        let name = principal.map(|at| PRINCIPALS[at]);
        let whose = name.map(|name| Principal::new(name.as_bytes()).expect("short"));
        let numbers = sessions.as_ref().map(|sessions| self.numbers(sessions));
        let ids = numbers.iter().flatten().map(|number| self.names.id(*number)).collect();
        let target = match (whose, &numbers) {
            (Some(whose), None) => Target::Principal(whose),
            (Some(whose), Some(_)) => Target::SessionsOf(whose, ids),
            (None, _) => Target::Sessions(ids),
        };
        let revoked = self.at(self.engine().revoke(target)).await;
        let numbers = numbers.as_deref();
        let expected = self.model.revoke(&self.rules, self.now, name, numbers);
        let found = self.names.revoked(revoked);
        self.agree(expected, found)
    }

    /// The numbers of sessions that were created.
    fn numbers(&self, sessions: &[usize]) -> Vec<SessionNumber> {
        let made = self.names.next_session();
        let some = sessions.iter().filter(|_| made > 0);
        some.map(|at| *at as SessionNumber % made.max(1)).collect()
    }

    /// After a login that exceeds the limit, the sessions that were idle for longest have
    /// ended. Of two that are equally idle, either one may have.
    async fn end_idlest(&mut self, change: &Change, newest: SessionNumber) -> Outcome {
        let (Some(limit), Some(principal)) = (self.rules.limit, &change.principal) else {
            return Ok(());
        };
        if !limit.end_idlest || principal.is_empty() {
            return Ok(());
        }
        let others = self.model.of(&self.rules, self.now, principal);
        let others: Vec<_> = others
            .filter(|(number, _)| *number != newest)
            .map(|(number, session)| (session.idleness(&self.rules), number))
            .collect();
        let excess = (others.len() + 1).saturating_sub(limit.sessions);
        let (mut gone, mut kept) = (Vec::new(), Vec::new());
        for (idleness, number) in others {
            if self.peek(number).await == Answer::Absent(Why::NotFound) {
                gone.push(idleness);
                self.model.sessions.remove(&number);
            } else {
                kept.push(idleness);
            }
        }
        prop_assert_eq!(gone.len(), excess, "sessions ended for a login, found and expected");
        let (latest, earliest) = (gone.iter().max(), kept.iter().min());
        prop_assert!(
            latest.is_none() || earliest.is_none() || latest <= earliest,
            "ended {gone:?}, kept {kept:?}: expected those idle for longest to end"
        );
        *self.answers.entry("ended for a login").or_default() += excess as u32;
        Ok(())
    }

    /// A slice may remove any of the due sessions. The answer says how many.
    async fn cleanup(&mut self, slice: usize) -> Outcome {
        let swept = self.at(self.engine().cleanup(slice)).await.expect("the store works");
        if !self.world.sweeps() {
            prop_assert_eq!(swept, Swept::default(), "expected nothing to sweep");
            return Ok(());
        }
        let due = self.model.due(self.now);
        let mut gone = Vec::new();
        for number in &due {
            if self.peek(*number).await == Answer::Absent(Why::NotFound) {
                gone.push(*number);
            }
        }
        prop_assert!(swept.examined <= slice, "expected a slice within its limit: {swept:?}");
        prop_assert_eq!(
            swept.removed.len(),
            gone.len(),
            "sessions removed, by the answer and by the store"
        );
        if swept.examined < slice {
            prop_assert_eq!(gone.len(), due.len(), "expected all that was due to be removed");
        }
        self.model.sessions.retain(|number, _| !gone.contains(number));
        let earliest = self.model.sessions.values().map(|session| session.deadline).min();
        prop_assert_eq!(swept.next.is_some(), earliest.is_some(), "whether any session is left");
        let early = swept.next.map(|next| next.unix_millis()) <= earliest;
        prop_assert!(early, "{:?} is after the earliest deadline {earliest:?}", swept.next);
        Ok(())
    }

    /// The engine's answer to the holder of the session's valid token.
    async fn peek(&mut self, number: SessionNumber) -> Answer {
        let current = self.model.sessions[&number].current;
        let token = self.tokens.iter().rfind(|token| token.number == current);
        let text = token.expect("every token was given to a browser").text.clone();
        let engine = self.engine();
        let presented = engine.present(Credential::Token(text.as_bytes()));
        let peek = ResolveOptions { peek: true, create: false };
        let resolved = self.at(rig::resolve(engine, &presented, peek)).await;
        self.names.found(resolved)
    }

    async fn restart(&mut self) -> Outcome {
        if !self.world.lasts() {
            return Ok(());
        }
        // The store goes first, because its end writes the count into the database.
        self.engine = None;
        self.store = None;
        self.world.close();
        self.open();
        self.compare_all().await
    }

    /// Compares every session that exists, and the result of every token that was ever given.
    pub(crate) async fn compare_all(&mut self) -> Outcome {
        for at in 0..self.tokens.len() {
            let who = Who::Token(Piece::Any(at));
            Box::pin(self.step(&Step::Resolve { who, peek: true, create: false })).await?;
        }
        Ok(())
    }

    fn numbered(&self, change: Change) -> Change {
        Change { next_token: self.names.next_token(), ..change }
    }

    fn change(&self, request: &Request, shown: Option<&Shown>) -> Change {
        let version = shown.map(|shown| {
            let found = shown.held.iter().find_map(|held| self.model.sessions.get(&held.session));
            found.map_or(1, |session| session.version)
        });
        self.numbered(Change {
            set: request
                .set
                .iter()
                .map(|&(key, value)| (KEYS[key].to_owned(), VALUES[value].to_owned()))
                .collect(),
            unset: request.unset.iter().map(|&key| KEYS[key].to_owned()).collect(),
            replace: request.replace,
            if_version: version.and_then(|version| match request.if_version {
                Guess::None => None,
                Guess::Current => Some(version),
                Guess::Next => Some(version + 1),
            }),
            roll: request.roll,
            principal: request.principal.map(|at| PRINCIPALS[at].to_owned()),
            duration: request.duration.map(|at| DURATIONS[at]),
            persistent: request.persistent,
            label: request.label.map(|at| LABELS[at].to_owned()),
            next_token: 0,
        })
    }

    /// Returns a credential and what it proves.
    fn show(&self, who: &Who) -> (Offer, Shown) {
        let mut shown = Shown { held: Vec::new(), why: Why::None };
        let offer = match who {
            Who::Nobody => Offer::Nothing,
            Who::Token(piece) => Offer::Token(self.piece(*piece, false, &mut shown)),
            Who::Cookies(pieces) => {
                let mut header = format!("other=1; {COOKIE_NAME}x=2; {COOKIE_NAME}");
                let mut passed_over = shown.clone();
                let mut candidates = 0;
                for piece in pieces {
                    let counts = candidates < MAX_CANDIDATES;
                    let shown = if counts { &mut shown } else { &mut passed_over };
                    let value = self.piece(*piece, true, shown);
                    candidates += usize::from(is_shaped(*piece) && !value.is_empty());
                    header.push_str(&format!(";{COOKIE_NAME}={value}"));
                }
                Offer::Header(header)
            }
        };
        (offer, shown)
    }

    /// Returns the value of one cookie, and adds to `shown` what it proves.
    fn piece(&self, piece: Piece, in_header: bool, shown: &mut Shown) -> String {
        let (token, spelling) = match piece {
            Piece::Newest(at, spelling) => {
                let sessions = &self.model.sessions;
                let session = sessions.keys().nth(at % sessions.len().max(1));
                let newest = |token: &&Token| Some(&token.session) == session;
                (self.tokens.iter().rfind(newest), spelling)
            }
            Piece::Any(at) => (self.tokens.get(at % self.tokens.len().max(1)), 0),
            Piece::Junk(kind) => {
                shown.why = shown.why.max(Why::Invalid);
                return self.junk(kind);
            }
            Piece::Stranger => (None, 0),
        };
        shown.why = shown.why.max(Why::NotFound);
        let Some(token) = token else {
            let stranger = SessionId::generate(SeededEntropy::new(u64::MAX).as_ref());
            return rig::keyring(self.epoch).sign(&stranger).expose().to_owned();
        };
        let outdated = token.epoch != self.epoch;
        shown.held.push(Held { session: token.session, token: token.number, outdated });
        let encoded = || token.text.replace('/', "%2F").replace('+', "%2b");
        match spelling {
            1 => format!("s:{}", token.text),
            2 => encoded(),
            3 => format!("s%3A{}", encoded()),
            // Quotes are part of the header's syntax. A token has none.
            4 if in_header => format!("\"{}\" ", token.text),
            _ => token.text.clone(),
        }
    }

    fn junk(&self, kind: u8) -> String {
        let Some(token) = self.tokens.last() else { return String::new() };
        let (id, signature) = token.text.split_at(SessionId::TEXT_LEN);
        match kind {
            0 => String::new(),
            1 => id.to_owned(),
            2 => format!("{}{signature}", &id[1..]),
            3 => format!("{id}{signature}="),
            // Has the shape of a token.
            FORGED.. => format!("{id}.{}A", "b".repeat(42)),
        }
    }
}

/// The kind of junk that has the shape of a token.
const FORGED: u8 = 4;

fn is_shaped(piece: Piece) -> bool {
    !matches!(piece, Piece::Junk(..FORGED))
}

fn kind_of(answer: &Answer) -> &'static str {
    match answer {
        Answer::Active(..) => "active",
        Answer::Created(..) => "created",
        Answer::Written(..) => "written",
        Answer::Gone => "gone",
        Answer::VersionMismatch { .. } => "version mismatch",
        Answer::TooLarge { .. } => "too large",
        Answer::TooManySessions => "too many sessions",
        Answer::Listed(views) if views.is_empty() => "listed none",
        Answer::Listed(_) => "listed",
        Answer::Revoked(0) => "revoked none",
        Answer::Revoked(_) => "revoked",
        Answer::Destroyed { count: 0, .. } => "destroyed none",
        Answer::Destroyed { .. } => "destroyed",
        Answer::Absent(Why::None) => "none",
        Answer::Absent(Why::Invalid) => "invalid",
        Answer::Absent(Why::NotFound) => "not found",
        Answer::Absent(Why::Superseded) => "superseded",
        Answer::Absent(Why::Expired) => "expired",
        Answer::Absent(Why::JustSuperseded) => "just superseded",
    }
}

/// A credential that owns its text.
enum Offer {
    Nothing,
    Token(String),
    Header(String),
}

impl Offer {
    fn as_credential(&self) -> Credential<'_> {
        match self {
            Self::Nothing => Credential::Absent,
            Self::Token(token) => Credential::Token(token.as_bytes()),
            Self::Header(header) => Credential::CookieHeader(header.as_bytes()),
        }
    }
}
