//! Maps the answers of an engine to the numbers of the model.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use serde_json::value::RawValue;
use sessiond::session::{
    CookieUpdate, Live, Lookup, Session,
    clock::Moment,
    credential::Absence,
    data::Data,
    engine::{Destroyed, WriteOptions},
    error::{Error, Result},
    id::{PublicId, SessionId},
    record::{Label, Principal},
};

use crate::{
    model::{Answer, Change, Millis, SessionNumber, SetCookie, TokenNumber, Told, View, Why},
    rig::COOKIE_NAME,
};

/// Numbers sessions and tokens in the order in which they are seen.
#[derive(Default)]
pub(crate) struct Names {
    sessions: HashMap<PublicId, SessionNumber>,
    /// By the text of the id, because a token with a new signature is the same token.
    tokens: HashMap<String, TokenNumber>,
    /// The text of each token, with its latest signature.
    texts: Vec<String>,
}

impl Names {
    /// The number that the next new session will get.
    pub(crate) fn next_session(&self) -> SessionNumber {
        self.sessions.len() as SessionNumber
    }

    /// The number that the next new token will get.
    pub(crate) fn next_token(&self) -> TokenNumber {
        self.tokens.len() as TokenNumber
    }

    pub(crate) fn token(&mut self, text: &str) -> TokenNumber {
        let next = self.next_token();
        let number = *self.tokens.entry(text[..SessionId::TEXT_LEN].to_owned()).or_insert(next);
        if number == next {
            self.texts.push(String::new());
        }
        text.clone_into(&mut self.texts[number as usize]);
        number
    }

    /// The text of a token, with its latest signature.
    pub(crate) fn text(&self, number: TokenNumber) -> &str {
        &self.texts[number as usize]
    }

    pub(crate) fn found(&mut self, lookup: Result<Lookup>) -> Answer {
        match lookup {
            Ok(Lookup::Live(live)) => self.live(live),
            Ok(Lookup::Absent(absence)) => Answer::Absent(why(absence)),
            Err(error) => refused(error),
        }
    }

    pub(crate) fn created(&mut self, created: Result<Live>) -> Answer {
        created.map_or_else(refused, |live| self.live(live))
    }

    fn live(&mut self, Live { session, cookie, is_new }: Live) -> Answer {
        let (view, told) = (self.view(&session), self.told(cookie));
        if is_new { Answer::Created(view, told) } else { Answer::Active(view, told) }
    }

    pub(crate) fn written(&mut self, written: Result<Live>) -> Answer {
        match written {
            Ok(Live { session, cookie, .. }) => {
                Answer::Written(self.view(&session), self.told(cookie))
            }
            Err(error) => refused(error),
        }
    }

    pub(crate) fn destroyed(&mut self, destroyed: Result<Destroyed>) -> Answer {
        let destroyed = destroyed.expect("a Destroy fails only if the store fails");
        let cookie = destroyed.set_cookie.map(|cookie| cookie.expose().to_owned());
        if let Some(line) = &cookie {
            let deletion = format!("{COOKIE_NAME}=; Max-Age=0; ");
            assert!(line.starts_with(&deletion), "expected a deletion cookie, found {line}");
        }
        Answer::Destroyed { count: destroyed.count, cookie: cookie.is_some() }
    }

    /// All pages of a list.
    pub(crate) fn listed(&mut self, sessions: &[Session]) -> Answer {
        let in_order = sessions.is_sorted_by(|one, next| one.id < next.id);
        assert!(in_order, "expected ids in order, each once");
        let mut views: Vec<_> = sessions.iter().map(|session| self.view(session)).collect();
        views.sort_by_key(|view| view.number);
        Answer::Listed(views)
    }

    pub(crate) fn revoked(&mut self, revoked: Result<u32>) -> Answer {
        Answer::Revoked(revoked.expect("a revocation fails only if the store fails"))
    }

    /// The id of a session that was seen.
    pub(crate) fn id(&self, number: SessionNumber) -> PublicId {
        let seen = self.sessions.iter().find(|(_, seen)| **seen == number);
        *seen.expect("every number belongs to a session").0
    }

    fn view(&mut self, session: &Session) -> View {
        let next = self.next_session();
        let members: std::collections::BTreeMap<String, Box<RawValue>> =
            serde_json::from_slice(session.record.data.text()).expect("the data are JSON");
        let principal = session.record.principal.as_bytes();
        View {
            number: *self.sessions.entry(session.id).or_insert(next),
            version: session.record.version,
            principal: String::from_utf8(principal.to_vec()).expect("a principal is UTF-8"),
            data: members.into_iter().map(|(key, value)| (key, value.get().to_owned())).collect(),
            created: millis(session.record.create_time),
            expires: millis(session.expire_time),
            duration: session.duration.as_millis() as Millis,
            last_use: millis(session.last_use_time),
            label: String::from_utf8(session.record.extension.label.as_bytes().to_vec())
                .expect("a label is UTF-8"),
        }
    }

    fn told(&mut self, notice: CookieUpdate) -> Told {
        Told {
            token: notice.token.map(|token| self.token(token.expose())),
            cookie: notice.set_cookie.map(|line| self.cookie(line.expose())),
        }
    }

    fn cookie(&mut self, line: &str) -> SetCookie {
        let mut parts = line.split("; ");
        let value = parts.next().and_then(|first| first.strip_prefix(COOKIE_NAME));
        let value = value.and_then(|rest| rest.strip_prefix('='));
        let max_age = parts.find_map(|part| part.strip_prefix("Max-Age="));
        SetCookie {
            token: self.token(value.expect("a Set-Cookie line begins with the cookie's name")),
            max_age_secs: max_age.map(|age| age.parse().expect("Max-Age is a number")),
        }
    }
}

pub(crate) fn why(absence: Absence) -> Why {
    match absence {
        Absence::None => Why::None,
        Absence::Invalid => Why::Invalid,
        Absence::NotFound => Why::NotFound,
        Absence::Superseded => Why::Superseded,
        Absence::Expired => Why::Expired,
        Absence::JustSuperseded => Why::JustSuperseded,
    }
}

fn refused(error: Error) -> Answer {
    match error {
        Error::SessionGone => Answer::Gone,
        Error::VersionMismatch { current, .. } => Answer::VersionMismatch { current },
        Error::DataTooLarge { len_bytes, .. } => Answer::TooLarge { len: len_bytes },
        Error::TooManySessions { .. } => Answer::TooManySessions,
        other => panic!("the operations of the rigs cannot give this error: {other:?}"),
    }
}

fn millis(moment: Moment) -> Millis {
    moment.unix_millis()
}

/// A change in the types of the engine.
pub(crate) fn options(change: &Change) -> WriteOptions {
    let members: Vec<_> =
        change.set.iter().map(|(key, value)| format!(" \"{key}\" : {value}")).collect();
    let text = Bytes::from(format!("{{{} }}", members.join(",")));
    WriteOptions {
        set: Data::parse(text).expect("the rigs write JSON"),
        unset: change.unset.clone(),
        replace: change.replace,
        if_version: change.if_version.and_then(std::num::NonZeroU64::new),
        roll: change.roll,
        principal: change
            .principal
            .as_ref()
            .map(|principal| Principal::new(principal.as_bytes()).expect("short")),
        duration: change.duration.map(Duration::from_millis),
        persistent: change.persistent,
        label: change.label.as_ref().map(|label| Label::new(label.as_bytes()).expect("short")),
    }
}
