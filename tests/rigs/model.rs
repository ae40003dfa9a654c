//! The rules of an engine, written a second time and as simply as possible.
//!
//! The model calls no rules of the crate. So if it disagrees with the engine, one of the two is
//! wrong. Times and durations are plain milliseconds; sessions and tokens are plain numbers.

mod change;

use std::collections::BTreeMap;

pub(crate) use self::change::Change;
use self::change::TooLarge;

pub(crate) type Millis = u64;
pub(crate) type SessionNumber = u32;
pub(crate) type TokenNumber = u32;

const AUTO_GRANULARITY_LIMIT: Millis = 60_000;
/// 400 days, in seconds: the longest Max-Age.
const MAX_AGE_LIMIT_SECS: u64 = 34_560_000;

/// The policy of an engine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub duration: Millis,
    /// `None`: 1/64 of the duration, at most a minute.
    pub granularity: Option<Millis>,
    pub absolute: Option<Millis>,
    /// How long a rolled token can still end its session.
    pub roll_grace: Millis,
    pub automatic_touch: bool,
    pub persistent: bool,
    pub max_data_bytes: usize,
    pub limit: Option<Limit>,
}

/// How many sessions a principal may have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    pub sessions: usize,
    /// Otherwise the new login is refused.
    pub end_idlest: bool,
}

impl Rules {
    fn ahead(&self, duration: Millis) -> Millis {
        match self.granularity {
            Some(fixed) => fixed.min(duration),
            None => duration.div_ceil(64).min(AUTO_GRANULARITY_LIMIT),
        }
    }

    fn end(&self, created: Millis) -> Millis {
        self.absolute.map_or(Millis::MAX, |absolute| created + absolute)
    }
}

/// A session that exists. The data are raw JSON texts by key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Session {
    pub version: u64,
    pub principal: String,
    pub data: BTreeMap<String, String>,
    pub own_duration: Option<Millis>,
    pub own_persistence: Option<bool>,
    pub label: String,
    pub created: Millis,
    pub deadline: Millis,
    /// The one token that is valid.
    pub current: TokenNumber,
    /// The earlier tokens, with the time of each roll.
    pub former: Vec<(TokenNumber, Millis)>,
}

/// The most former tokens that a session keeps.
const MAX_FORMER: usize = 4;

impl Session {
    pub(crate) fn duration(&self, rules: &Rules) -> Millis {
        self.own_duration.unwrap_or(rules.duration)
    }

    fn is_persistent(&self, rules: &Rules) -> bool {
        self.own_persistence.unwrap_or(rules.persistent)
    }

    fn last_use(&self, rules: &Rules) -> Millis {
        self.idleness(rules).0.max(self.created)
    }

    fn expires(&self, rules: &Rules) -> Millis {
        self.deadline.min(rules.end(self.created))
    }

    pub(crate) fn is_over(&self, rules: &Rules, now: Millis) -> bool {
        now >= self.expires(rules)
    }

    /// Sessions with the smallest value end first if there are too many.
    pub(crate) fn idleness(&self, rules: &Rules) -> (Millis, Millis) {
        let duration = self.duration(rules);
        (self.deadline.saturating_sub(duration + rules.ahead(duration)), self.created)
    }

    fn far_deadline(&self, rules: &Rules, now: Millis) -> Millis {
        let duration = self.duration(rules);
        (now + duration + rules.ahead(duration)).min(rules.end(self.created))
    }

    /// Moves the deadline if it is earlier than now plus the duration.
    fn slide(&mut self, rules: &Rules, now: Millis) {
        let promised = (now + self.duration(rules)).min(rules.end(self.created));
        if self.deadline < promised {
            self.deadline = self.far_deadline(rules, now);
        }
    }

    fn is_in_grace(rules: &Rules, now: Millis, rolled: Millis) -> bool {
        now < rolled + rules.roll_grace
    }

    /// Whether a Destroy with `token` ends the session.
    fn is_ended_by(&self, rules: &Rules, now: Millis, token: TokenNumber) -> bool {
        let was_valid = |(former, rolled): &(TokenNumber, Millis)| {
            *former == token && Self::is_in_grace(rules, now, *rolled)
        };
        self.current == token || self.former.iter().any(was_valid)
    }

    /// A use, which may set its own duration.
    fn touch(&mut self, rules: &Rules, now: Millis, duration: Option<Millis>) {
        match duration {
            Some(duration) if self.own_duration != Some(duration) => {
                self.own_duration = Some(duration);
                self.deadline = self.far_deadline(rules, now);
            }
            _ => self.slide(rules, now),
        }
    }

    /// Why `token` does not give access to the session.
    fn refuses(&self, rules: &Rules, now: Millis, token: TokenNumber) -> Option<Why> {
        if token != self.current {
            let rolled = self.former.last().map(|(_, rolled)| *rolled);
            let just = rolled.is_some_and(|rolled| Self::is_in_grace(rules, now, rolled));
            let live = !self.is_over(rules, now);
            Some(if just && live { Why::JustSuperseded } else { Why::Superseded })
        } else if self.is_over(rules, now) {
            Some(Why::Expired)
        } else {
            None
        }
    }

    fn write(&mut self, rules: &Rules, now: Millis, change: &Change) -> Result<(), TooLarge> {
        let other_principal =
            change.principal.as_ref().is_some_and(|principal| *principal != self.principal);
        let not_theirs = other_principal && !self.principal.is_empty();
        self.data = change.edited(&self.data, not_theirs, rules)?;
        self.version += 1;
        if let Some(principal) = &change.principal {
            self.principal.clone_from(principal);
        }
        if change.roll || other_principal {
            self.former.retain(|(_, rolled)| Self::is_in_grace(rules, now, *rolled));
            if rules.roll_grace > 0 {
                self.former.push((self.current, now));
            }
            let excess = self.former.len().saturating_sub(MAX_FORMER);
            self.former.drain(..excess);
            self.current = change.next_token;
        }
        self.own_persistence = change.persistent.or(self.own_persistence);
        if let Some(label) = &change.label {
            self.label.clone_from(label);
        }
        self.touch(rules, now, change.duration);
        Ok(())
    }
}

/// Why there is no live session. With several reasons, the greatest one is the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Why {
    None,
    Invalid,
    NotFound,
    Superseded,
    Expired,
    /// Superseded by a roll within `roll_grace`.
    JustSuperseded,
}

/// An authentic token as a client presents it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Held {
    pub session: SessionNumber,
    pub token: TokenNumber,
    /// Signed with an older secret.
    pub outdated: bool,
}

/// What a credential proves.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    pub held: Vec<Held>,
    /// The answer if none of these tokens belongs to a session that exists.
    pub why: Why,
}

/// A session as callers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    pub number: SessionNumber,
    pub version: u64,
    pub principal: String,
    pub data: BTreeMap<String, String>,
    pub created: Millis,
    pub expires: Millis,
    pub duration: Millis,
    pub last_use: Millis,
    pub label: String,
}

/// What the answer tells the browser.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Told {
    pub token: Option<TokenNumber>,
    pub cookie: Option<SetCookie>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SetCookie {
    pub token: TokenNumber,
    /// For persistent cookies only.
    pub max_age_secs: Option<u64>,
}

/// The answer to an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The answer to a Resolve or a Touch.
    Active(View, Told),
    /// The answer to a creation, and to a Resolve that created a session.
    Created(View, Told),
    Absent(Why),
    Written(View, Told),
    Gone,
    VersionMismatch {
        current: u64,
    },
    TooLarge {
        len: usize,
    },
    TooManySessions,
    /// The answer to a List: the sessions found, by number.
    Listed(Vec<View>),
    Revoked(u32),
    Destroyed {
        count: u32,
        cookie: bool,
    },
}

/// Which sessions a Destroy ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scope {
    This,
    Others,
    All,
    Named(Vec<SessionNumber>),
}

/// All sessions of an engine. Destroyed and swept sessions are removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Model {
    pub sessions: BTreeMap<SessionNumber, Session>,
}

impl Model {
    /// Creates session `number`, which must be a new number.
    pub(crate) fn create(
        &mut self,
        rules: &Rules,
        now: Millis,
        number: SessionNumber,
        change: &Change,
    ) -> Answer {
        let data = match change.edited(&BTreeMap::new(), false, rules) {
            Ok(data) => data,
            Err(TooLarge { len }) => return Answer::TooLarge { len },
        };
        if self.has_no_room(rules, now, change, None) {
            return Answer::TooManySessions;
        }
        let mut session = Session {
            version: 1,
            principal: change.principal.clone().unwrap_or_default(),
            data,
            own_duration: change.duration,
            own_persistence: change.persistent,
            label: change.label.clone().unwrap_or_default(),
            created: now,
            deadline: 0,
            current: change.next_token,
            former: Vec::new(),
        };
        session.deadline = session.far_deadline(rules, now);
        let told = told(rules, now, &session, true, true, true);
        let answer = Answer::Created(view(rules, number, &session), told);
        self.sessions.insert(number, session);
        answer
    }

    pub(crate) fn resolve(
        &mut self,
        rules: &Rules,
        now: Millis,
        shown: &Shown,
        peek: bool,
    ) -> Answer {
        self.find(rules, now, shown, rules.automatic_touch && !peek, None)
    }

    pub(crate) fn touch(
        &mut self,
        rules: &Rules,
        now: Millis,
        shown: &Shown,
        duration: Option<Millis>,
    ) -> Answer {
        self.find(rules, now, shown, true, duration)
    }

    fn find(
        &mut self,
        rules: &Rules,
        now: Millis,
        shown: &Shown,
        slide: bool,
        duration: Option<Millis>,
    ) -> Answer {
        let mut why = shown.why;
        for held in &shown.held {
            let Some(session) = self.sessions.get_mut(&held.session) else {
                why = why.max(Why::NotFound);
                continue;
            };
            if let Some(refusal) = session.refuses(rules, now, held.token) {
                why = why.max(refusal);
                continue;
            }
            let before = session.deadline;
            if slide {
                session.touch(rules, now, duration);
            }
            let told = told(rules, now, session, held.outdated, session.deadline != before, false);
            return Answer::Active(view(rules, held.session, session), told);
        }
        Answer::Absent(why)
    }

    pub(crate) fn write(
        &mut self,
        rules: &Rules,
        now: Millis,
        shown: &Shown,
        change: &Change,
    ) -> Answer {
        for held in &shown.held {
            let Some(session) = self.sessions.get(&held.session) else { continue };
            if session.refuses(rules, now, held.token).is_some() {
                continue;
            }
            if self.has_no_room(rules, now, change, Some(session)) {
                return Answer::TooManySessions;
            }
            let session =
                self.sessions.get_mut(&held.session).expect("the session was found above");
            if change.if_version.is_some_and(|version| version != session.version) {
                return Answer::VersionMismatch { current: session.version };
            }
            let was_persistent = session.is_persistent(rules);
            let before = session.deadline;
            if let Err(TooLarge { len }) = session.write(rules, now, change) {
                return Answer::TooLarge { len };
            }
            let new_token = held.outdated || session.current != held.token;
            let moved = session.deadline != before;
            let persistence = session.is_persistent(rules) != was_persistent;
            let told = told(rules, now, session, new_token, moved, persistence);
            return Answer::Written(view(rules, held.session, session), told);
        }
        Answer::Gone
    }

    pub(crate) fn destroy(
        &mut self,
        rules: &Rules,
        now: Millis,
        shown: &Shown,
        scope: Scope,
    ) -> Answer {
        let open = self.open(rules, now, shown);
        let named = |number| match &scope {
            Scope::This => false,
            Scope::Others | Scope::All => true,
            Scope::Named(numbers) => numbers.contains(&number),
        };
        let mut principals: Vec<_> =
            open.iter().map(|number| self.sessions[number].principal.clone()).collect();
        principals.retain(|principal| !principal.is_empty());
        let mut count = self.end(rules, now, |number, session| {
            named(number) && principals.contains(&session.principal) && !open.contains(&number)
        });
        match &scope {
            Scope::This | Scope::All => {}
            Scope::Others => return Answer::Destroyed { count, cookie: false },
            Scope::Named(_) => {
                let own: Vec<_> = open.iter().copied().filter(|number| named(*number)).collect();
                let cookie = !open.is_empty() && own.len() == open.len();
                count += self.end(rules, now, |number, _| own.contains(&number));
                return Answer::Destroyed { count, cookie };
            }
        }
        for held in &shown.held {
            let Some(session) = self.sessions.get(&held.session) else { continue };
            if session.is_ended_by(rules, now, held.token) {
                count += u32::from(!session.is_over(rules, now));
                self.sessions.remove(&held.session);
            }
        }
        Answer::Destroyed { count, cookie: shown.why != Why::None }
    }

    /// The sessions that the credential opens.
    fn open(&self, rules: &Rules, now: Millis, shown: &Shown) -> Vec<SessionNumber> {
        let opens = |held: &&Held| {
            let session = self.sessions.get(&held.session);
            session.is_some_and(|session| session.refuses(rules, now, held.token).is_none())
        };
        let mut open: Vec<_> = shown.held.iter().filter(opens).map(|held| held.session).collect();
        open.sort_unstable();
        open.dedup();
        open
    }

    /// The sessions of the principal of the first session that the credential opens; of an
    /// anonymous one, itself.
    pub(crate) fn list_own(&self, rules: &Rules, now: Millis, shown: &Shown) -> Answer {
        let mut why = shown.why;
        for held in &shown.held {
            let Some(session) = self.sessions.get(&held.session) else {
                why = why.max(Why::NotFound);
                continue;
            };
            match session.refuses(rules, now, held.token) {
                Some(refused) => why = why.max(refused),
                None if session.principal.is_empty() => {
                    let own = view(rules, held.session, session);
                    return Answer::Listed(vec![View { data: BTreeMap::new(), ..own }]);
                }
                None => return self.list(rules, now, &session.principal),
            }
        }
        Answer::Absent(why)
    }

    pub(crate) fn list(&self, rules: &Rules, now: Millis, principal: &str) -> Answer {
        let views = self.of(rules, now, principal).map(|(number, session)| View {
            data: BTreeMap::new(),
            ..view(rules, number, session)
        });
        Answer::Listed(views.collect())
    }

    /// Ends the sessions that match the principal (if one is given) and the numbers (if any are
    /// given).
    pub(crate) fn revoke(
        &mut self,
        rules: &Rules,
        now: Millis,
        principal: Option<&str>,
        numbers: Option<&[SessionNumber]>,
    ) -> Answer {
        Answer::Revoked(self.end(rules, now, |number, session| {
            principal.is_none_or(|principal| session.principal == principal)
                && numbers.is_none_or(|numbers| numbers.contains(&number))
        }))
    }

    /// Returns how many of those were live.
    fn end(
        &mut self,
        rules: &Rules,
        now: Millis,
        meant: impl Fn(SessionNumber, &Session) -> bool,
    ) -> u32 {
        let mut count = 0;
        self.sessions.retain(|number, session| {
            let is_meant = meant(*number, session);
            count += u32::from(is_meant && !session.is_over(rules, now));
            !is_meant
        });
        count
    }

    /// The live sessions of a principal.
    pub(crate) fn of<'m>(
        &'m self,
        rules: &'m Rules,
        now: Millis,
        principal: &'m str,
    ) -> impl Iterator<Item = (SessionNumber, &'m Session)> {
        let sessions = self.sessions.iter().map(|(number, session)| (*number, session));
        sessions.filter(move |(_, session)| {
            session.principal == principal && !session.is_over(rules, now)
        })
    }

    /// Whether a login is refused because its principal has too many sessions.
    fn has_no_room(
        &self,
        rules: &Rules,
        now: Millis,
        change: &Change,
        newest: Option<&Session>,
    ) -> bool {
        let (Some(limit), Some(principal)) = (rules.limit, &change.principal) else { return false };
        let is_its = newest.is_some_and(|session| session.principal == *principal);
        !limit.end_idlest
            && !principal.is_empty()
            && !is_its
            && self.of(rules, now, principal).count() >= limit.sessions
    }

    /// The sessions that a cleanup at `now` may remove.
    pub(crate) fn due(&self, now: Millis) -> Vec<SessionNumber> {
        let due = self.sessions.iter().filter(|(_, session)| session.deadline <= now);
        due.map(|(number, _)| *number).collect()
    }
}

fn view(rules: &Rules, number: SessionNumber, session: &Session) -> View {
    View {
        number,
        version: session.version,
        principal: session.principal.clone(),
        data: session.data.clone(),
        created: session.created,
        expires: session.expires(rules),
        duration: session.duration(rules),
        last_use: session.last_use(rules),
        label: session.label.clone(),
    }
}

/// The browser gets a cookie if the token is new to it, if whether its cookie is persistent
/// has changed, or if its cookies are persistent and the deadline has moved.
fn told(
    rules: &Rules,
    now: Millis,
    session: &Session,
    new_token: bool,
    moved: bool,
    persistence: bool,
) -> Told {
    let persistent = session.is_persistent(rules);
    let later_end = moved && persistent;
    if !new_token && !later_end && !persistence {
        return Told::default();
    }
    let age = session.expires(rules).saturating_sub(now).div_ceil(1000).min(MAX_AGE_LIMIT_SECS);
    let max_age_secs = persistent.then_some(age);
    Told {
        token: new_token.then_some(session.current),
        cookie: Some(SetCookie { token: session.current, max_age_secs }),
    }
}
