//! The rules of the daemon over a map.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};

use super::{
    EngineOptions,
    cookie::{self, Identity, Verifier, present},
    refusal::Refusal,
};
use crate::{
    data::Data,
    error::{Reason, Result},
    pb::{self, SessionState},
    wire,
};

pub(super) const MAX_KEYS: usize = 4096;
const MAX_LEVELS: usize = 64;
/// So many ids from before a roll a record keeps.
const MAX_FORMER: usize = 4;

/// What is stored of a session.
struct Record {
    verifier: Verifier,
    /// From before the last rolls, the last one first.
    former: Vec<Former>,
    version: u64,
    created: SystemTime,
    deadline: SystemTime,
    /// `None`: that of the engine.
    duration: Option<Duration>,
    principal: String,
    data: Data,
    persistent: Option<bool>,
    label: String,
}

struct Former {
    verifier: Verifier,
    rolled: SystemTime,
}

/// The sessions of one engine, by their public ids.
pub(super) struct Store {
    pub(super) options: EngineOptions,
    key: Vec<u8>,
    records: BTreeMap<String, Record>,
}

/// What a credential leads to.
struct Found {
    /// The id of a live session.
    live: Option<Identity>,
    state: SessionState,
    /// The id was rolled within `roll_grace`.
    just_rolled: bool,
}

impl Store {
    pub(super) fn new(options: EngineOptions) -> Self {
        Self { options, key: cookie::random_key(), records: BTreeMap::new() }
    }

    fn find(&self, credential: Option<&pb::Credential>, now: SystemTime) -> Found {
        let (ids, mut state) = present(credential, &self.options, &self.key);
        let mut just_rolled = false;
        for id in ids {
            let Some(record) = self.records.get(&id.id) else { continue };
            let is_over = now >= record.deadline;
            if record.verifier == id.verifier() {
                if !is_over {
                    let state = SessionState::Active;
                    return Found { live: Some(id), state, just_rolled: false };
                }
                state = SessionState::Expired;
            } else {
                let rolled_lately = record.former.iter().any(|former| self.is_recent(former, now));
                just_rolled |=
                    self.was_just_rolled(record, &id, now) || (!is_over && rolled_lately);
                if state != SessionState::Expired {
                    state = SessionState::Superseded;
                }
            }
        }
        if just_rolled {
            state = SessionState::Superseded;
        }
        Found { live: None, state, just_rolled }
    }

    fn is_recent(&self, former: &Former, now: SystemTime) -> bool {
        former.rolled + self.options.roll_grace > now
    }

    fn was_just_rolled(&self, record: &Record, id: &Identity, now: SystemTime) -> bool {
        let is_it = |former: &Former| former.verifier == id.verifier();
        record.former.iter().any(|former| is_it(former) && self.is_recent(former, now))
    }

    pub(super) fn resolve(
        &mut self,
        request: &pb::ResolveRequest,
        now: SystemTime,
    ) -> Result<pb::ResolveResponse, Refusal> {
        let found = self.find(request.credential.as_ref(), now);
        if let Some(id) = found.live {
            let moved = self.options.automatic_touch && !request.peek && self.slide(&id.id, now);
            return Ok(pb::ResolveResponse {
                state: found.state.into(),
                session: Some(self.session(&id.id, true)),
                set_cookie: self.renewal(&id, moved, now),
                token: String::new(),
            });
        }
        if !request.create || found.just_rolled {
            return Ok(pb::ResolveResponse { state: found.state.into(), ..Default::default() });
        }
        let id = self.create(&pb::WriteRequest::default(), now)?;
        Ok(pb::ResolveResponse {
            state: SessionState::Created.into(),
            session: Some(self.session(&id.id, true)),
            set_cookie: vec![self.cookie(&id, now)],
            token: id.token(&self.key),
        })
    }

    pub(super) fn touch(
        &mut self,
        request: &pb::TouchRequest,
        now: SystemTime,
    ) -> pb::TouchResponse {
        let found = self.find(request.credential.as_ref(), now);
        let Some(id) = found.live else {
            return pb::TouchResponse { state: found.state.into(), ..Default::default() };
        };
        let moved = self.use_it(&id.id, rounded(request.duration), now);
        pb::TouchResponse {
            state: found.state.into(),
            session: Some(self.session(&id.id, false)),
            set_cookie: self.renewal(&id, moved, now),
        }
    }

    pub(super) fn write(
        &mut self,
        request: &pb::WriteRequest,
        now: SystemTime,
    ) -> Result<pb::WriteResponse, Refusal> {
        if request.set.len() > self.options.max_data_bytes.max(4096) {
            return Err(Refusal::new(Reason::DataTooLarge).of("set"));
        }
        if request.credential.is_none() {
            let id = self.create(request, now)?;
            return Ok(pb::WriteResponse {
                session: Some(self.session(&id.id, false)),
                set_cookie: vec![self.cookie(&id, now)],
                token: id.token(&self.key),
            });
        }
        let found = self.find(request.credential.as_ref(), now);
        let id = found.live.ok_or(Refusal::new(Reason::SessionGone))?;
        let record = self.record(&id.id);
        let principal = request.principal.as_ref().filter(|new| **new != record.principal);
        if let Some(principal) = principal {
            self.refuse_one_more(principal, now)?;
        }
        if request.if_version.is_some_and(|version| version != record.version) {
            return Err(Refusal::new(Reason::VersionMismatch));
        }
        let is_foreign = principal.is_some() && !record.principal.is_empty();
        let before = if request.replace || is_foreign { Data::new() } else { record.data.clone() };
        let data = self.edited(before, request)?;

        let was_persistent = self.is_persistent(&id.id);
        let rolls = request.roll || principal.is_some();
        let new = if rolls { id.rolled() } else { id };
        let record = self.records.get_mut(&new.id).expect("it is live");
        record.data = data;
        record.version += 1;
        if rolls {
            let former = Former { verifier: record.verifier, rolled: now };
            record.former.insert(0, former);
            record.former.truncate(MAX_FORMER);
            record.verifier = new.verifier();
        }
        if let Some(principal) = principal {
            record.principal.clone_from(principal);
        }
        if let Some(label) = &request.label {
            record.label.clone_from(label);
        }
        record.persistent = request.persistent.or(record.persistent);
        let changes_owner = principal.is_some();
        let moved = self.use_it(&new.id, rounded(request.duration), now);
        if changes_owner {
            self.end_idlest(&new.id, now);
        }
        let is_persistent = self.is_persistent(&new.id);
        let tells = rolls || is_persistent != was_persistent || (moved && is_persistent);
        Ok(pb::WriteResponse {
            session: Some(self.session(&new.id, false)),
            set_cookie: if tells { vec![self.cookie(&new, now)] } else { vec![] },
            token: if rolls { new.token(&self.key) } else { String::new() },
        })
    }

    pub(super) fn destroy(
        &mut self,
        request: &pb::DestroyRequest,
        now: SystemTime,
    ) -> Result<pb::DestroyResponse, Refusal> {
        if !request.session_ids.iter().all(|id| cookie::is_public(id)) {
            return Err(Refusal::new(Reason::InvalidArgument).of("session_ids"));
        }
        let (ids, absence) = present(request.credential.as_ref(), &self.options, &self.key);
        let is_own = |id: &&Identity| {
            let record = self.records.get(&id.id);
            record.is_some_and(|record| record.verifier == id.verifier() && now < record.deadline)
        };
        let own: BTreeSet<String> = ids.iter().filter(is_own).map(|id| id.id.clone()).collect();
        let principals: BTreeSet<&str> =
            own.iter().map(|id| self.record(id).principal.as_str()).collect();
        let is_theirs = |record: &Record| {
            !record.principal.is_empty() && principals.contains(record.principal.as_str())
        };
        let named: BTreeSet<&str> = request.session_ids.iter().map(String::as_str).collect();
        let scope = request.scope();
        let mut ends: BTreeSet<String> = BTreeSet::new();
        for (id, record) in &self.records {
            let is_mine = own.contains(id);
            let is_meant = if !named.is_empty() {
                named.contains(id.as_str()) && (is_mine || is_theirs(record))
            } else {
                matches!(scope, pb::DestroyScope::Others | pb::DestroyScope::All)
                    && is_theirs(record)
                    && !is_mine
            };
            if is_meant {
                ends.insert(id.clone());
            }
        }
        let spares_own = !named.is_empty() || scope == pb::DestroyScope::Others;
        if !spares_own {
            let ended = ids.iter().filter(|id| {
                self.records.get(&id.id).is_some_and(|record| {
                    record.verifier == id.verifier() || self.was_just_rolled(record, id, now)
                })
            });
            ends.extend(ended.map(|id| id.id.clone()));
        }
        let names_own = !own.is_empty() && own.iter().all(|id| named.contains(id.as_str()));
        let deletes = absence != SessionState::None && (!spares_own || names_own);
        let ended = ends.iter().filter_map(|id| self.records.remove(id));
        Ok(pb::DestroyResponse {
            destroyed: ended.filter(|record| now < record.deadline).count() as u32,
            set_cookie: if deletes { vec![cookie::deletion(&self.options)] } else { vec![] },
        })
    }

    pub(super) fn list(
        &self,
        request: &pb::SessionServiceListSessionsRequest,
        now: SystemTime,
    ) -> pb::SessionServiceListSessionsResponse {
        let found = self.find(request.credential.as_ref(), now);
        let Some(id) = found.live else {
            let state = found.state.into();
            return pb::SessionServiceListSessionsResponse { state, ..Default::default() };
        };
        let principal = &self.record(&id.id).principal;
        let mut ids =
            if principal.is_empty() { vec![id.id.clone()] } else { self.of(principal, now) };
        // By their octets, not by their text.
        ids.sort_by_key(|id| BASE64_URL_SAFE_NO_PAD.decode(id).unwrap_or_default());
        pb::SessionServiceListSessionsResponse {
            state: found.state.into(),
            sessions: ids.iter().map(|id| self.session(id, false)).collect(),
            current_session_id: id.id,
            next_page_token: String::new(),
        }
    }

    /// All live sessions, with their data.
    pub(super) fn sessions(&self, now: SystemTime) -> Vec<pb::Session> {
        let live = self.records.iter().filter(|(_, record)| now < record.deadline);
        live.map(|(id, _)| self.session(id, true)).collect()
    }

    fn create(&mut self, request: &pb::WriteRequest, now: SystemTime) -> Result<Identity, Refusal> {
        let data = self.edited(Data::new(), request)?;
        let principal = request.principal.clone().unwrap_or_default();
        self.refuse_one_more(&principal, now)?;
        let id = Identity::new();
        let record = Record {
            verifier: id.verifier(),
            former: vec![],
            version: 1,
            created: now,
            deadline: now,
            duration: rounded(request.duration),
            principal,
            data,
            persistent: request.persistent,
            label: request.label.clone().unwrap_or_default(),
        };
        let deadline = self.next_deadline(&record, now);
        self.records.insert(id.id.clone(), Record { deadline, ..record });
        self.end_idlest(&id.id, now);
        Ok(id)
    }

    /// The data after a write.
    fn edited(&self, mut data: Data, request: &pb::WriteRequest) -> Result<Data, Refusal> {
        let refused = |reason| Err(Refusal::new(reason).of("set"));
        for key in &request.unset {
            data.remove(key);
        }
        if !request.set.is_empty() {
            let Ok(set) = Data::from_json(&request.set) else {
                return refused(Reason::InvalidData);
            };
            if levels(&request.set) > MAX_LEVELS {
                return refused(Reason::InvalidData);
            }
            for (key, text) in set.texts() {
                data.put(key.clone(), text.clone());
            }
        }
        if data.len() > MAX_KEYS {
            return refused(Reason::InvalidData);
        }
        if data.to_json().len() > self.options.max_data_bytes {
            return refused(Reason::DataTooLarge);
        }
        Ok(data)
    }

    /// A record that is known to be there.
    fn record(&self, id: &str) -> &Record {
        &self.records[id]
    }

    /// The ids of a principal's live sessions.
    fn of(&self, principal: &str, now: SystemTime) -> Vec<String> {
        let theirs = self
            .records
            .iter()
            .filter(|(_, record)| record.principal == principal && now < record.deadline);
        theirs.map(|(id, _)| id.clone()).collect()
    }

    fn refuse_one_more(&self, principal: &str, now: SystemTime) -> Result<(), Refusal> {
        let limit = self.options.max_sessions_per_principal;
        let limit = limit.filter(|_| !principal.is_empty() && !self.options.end_idlest);
        match limit {
            Some(limit) if self.of(principal, now).len() >= limit => {
                Err(Refusal::new(Reason::TooManySessions))
            }
            _ => Ok(()),
        }
    }

    fn end_idlest(&mut self, newest: &str, now: SystemTime) {
        let principal = self.record(newest).principal.clone();
        let Some(limit) = self.options.max_sessions_per_principal else { return };
        if principal.is_empty() || !self.options.end_idlest {
            return;
        }
        let mut others = self.of(&principal, now);
        others.retain(|id| id != newest);
        others.sort_by_key(|id| self.last_use(self.record(id)));
        let more = (others.len() + 1).saturating_sub(limit);
        for id in others.iter().take(more) {
            self.records.remove(id);
        }
    }

    // Lifetimes

    fn idle(&self, record: &Record) -> Duration {
        record.duration.unwrap_or(self.options.duration)
    }

    fn granularity(&self, record: &Record) -> Duration {
        self.options.granularity(self.idle(record))
    }

    /// Not later than the absolute end of the session.
    fn capped(&self, record: &Record, at: SystemTime) -> SystemTime {
        match self.options.absolute_duration {
            Some(absolute) => at.min(record.created + absolute),
            None => at,
        }
    }

    fn next_deadline(&self, record: &Record, now: SystemTime) -> SystemTime {
        self.capped(record, now + self.idle(record) + self.granularity(record))
    }

    fn last_use(&self, record: &Record) -> SystemTime {
        let before = self.idle(record) + self.granularity(record);
        record.deadline.checked_sub(before).map_or(record.created, |used| used.max(record.created))
    }

    /// Moves the deadline if the stored one does not give the session its idle timeout from
    /// now.
    fn slide(&mut self, id: &str, now: SystemTime) -> bool {
        let record = self.record(id);
        if record.deadline >= self.capped(record, now + self.idle(record)) {
            return false;
        }
        let deadline = self.next_deadline(record, now);
        self.records.get_mut(id).expect("it is live").deadline = deadline;
        true
    }

    /// Returns whether the deadline has moved.
    fn use_it(&mut self, id: &str, duration: Option<Duration>, now: SystemTime) -> bool {
        let record = self.records.get_mut(id).expect("it is live");
        if duration.is_none() || duration == record.duration {
            return self.slide(id, now);
        }
        let before = record.deadline;
        record.duration = duration;
        let deadline = self.next_deadline(self.record(id), now);
        self.records.get_mut(id).expect("it is live").deadline = deadline;
        deadline != before
    }

    // Answers

    fn is_persistent(&self, id: &str) -> bool {
        self.record(id).persistent.unwrap_or(self.options.persistent)
    }

    fn cookie(&self, id: &Identity, now: SystemTime) -> String {
        let left = self.record(&id.id).deadline.duration_since(now).unwrap_or_default();
        let age = self.is_persistent(&id.id).then_some(left);
        cookie::set_cookie(&self.options, &id.token(&self.key), age, now)
    }

    fn renewal(&self, id: &Identity, moved: bool, now: SystemTime) -> Vec<String> {
        if moved && self.is_persistent(&id.id) { vec![self.cookie(id, now)] } else { vec![] }
    }

    fn session(&self, id: &str, with_data: bool) -> pb::Session {
        let record = self.record(id);
        pb::Session {
            id: id.to_owned(),
            data: if with_data { record.data.to_json() } else { String::new() },
            version: record.version,
            principal: record.principal.clone(),
            create_time: Some(record.created.into()),
            expire_time: Some(record.deadline.into()),
            duration: Some(wire::on_wire(self.idle(record))),
            last_use_time: Some(self.last_use(record).into()),
            label: record.label.clone(),
        }
    }
}

/// Durations are rounded up to milliseconds once, where they enter.
fn rounded(duration: Option<prost_types::Duration>) -> Option<Duration> {
    let duration = Duration::try_from(duration?).ok()?;
    let millis = duration.as_nanos().div_ceil(1_000_000);
    Some(Duration::from_millis(millis.try_into().unwrap_or(u64::MAX)))
}

/// How deep a valid JSON text is.
fn levels(text: &str) -> usize {
    let (mut deepest, mut level, mut is_quoted) = (0_usize, 0_usize, false);
    let mut octets = text.bytes();
    while let Some(octet) = octets.next() {
        match octet {
            b'\\' if is_quoted => drop(octets.next()),
            b'"' => is_quoted = !is_quoted,
            _ if is_quoted => {}
            b'{' | b'[' => {
                level += 1;
                deepest = deepest.max(level);
            }
            b'}' | b']' => level = level.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}
