//! What a request knows of its session.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    data::{Data, Difference, Text, same},
    types::{Credential, Resolved, SessionInfo, State, Touched, Written},
};

pub(super) struct View {
    pub(super) credential: Credential,
    pub(super) state: State,
    /// Without its data.
    pub(super) info: Option<SessionInfo>,
    /// What is stored, as far as this request knows.
    pub(super) base: Data,
    /// What is not stored yet. `None`: removed.
    pub(super) changes: BTreeMap<String, Option<Text>>,
    /// `base` is what is stored at the version of `info`.
    pub(super) exact: bool,
    pub(super) is_new: bool,
    /// It ended during this request: a logout must not be undone.
    pub(super) ended: bool,
    pub(super) set_cookie: Option<String>,
    pub(super) head_sent: bool,
    /// What a session that this request creates will have.
    pub(super) planned_duration: Option<Duration>,
    pub(super) planned_persistent: Option<bool>,
}

impl Default for View {
    fn default() -> Self {
        Self {
            credential: Credential::NONE,
            state: State::None,
            info: None,
            base: Data::new(),
            changes: BTreeMap::new(),
            exact: false,
            is_new: false,
            ended: false,
            set_cookie: None,
            head_sent: false,
            planned_duration: None,
            planned_persistent: None,
        }
    }
}

impl View {
    /// The text of a key, with what is not stored yet.
    pub(super) fn text(&self, key: &str) -> Option<Text> {
        match self.changes.get(key) {
            Some(change) => change.clone(),
            None => self.base.text(key).cloned(),
        }
    }

    pub(super) fn data(&self) -> Data {
        let mut data = self.base.clone();
        for (key, change) in &self.changes {
            match change {
                Some(text) => data.put(key.clone(), text.clone()),
                None => {
                    data.remove(key);
                }
            }
        }
        data
    }

    /// What a write has to send.
    pub(super) fn difference(&self) -> Difference {
        let mut difference = Difference::default();
        for (key, change) in &self.changes {
            match (change, self.base.text(key)) {
                (None, Some(_)) => difference.unset.push(key.clone()),
                (None, None) => {}
                (Some(text), Some(stored)) if same(stored, text) => {}
                (Some(text), _) => difference.set.put(key.clone(), text.clone()),
            }
        }
        difference
    }

    /// Takes a difference as stored. A handler may have changed more meanwhile: that is not.
    pub(super) fn written(&mut self, difference: &Difference) {
        for (key, text) in difference.set.texts() {
            self.base.put(key.clone(), text.clone());
        }
        for key in &difference.unset {
            self.base.remove(key);
        }
        let base = &self.base;
        self.changes.retain(|key, change| match (change, base.text(key)) {
            (None, stored) => stored.is_some(),
            (Some(text), stored) => stored.is_none_or(|stored| !same(stored, text)),
        });
    }

    /// Takes the result of an update as stored. It has the last word about its keys.
    pub(super) fn updated(&mut self, after: Data, difference: &Difference) {
        for key in difference.keys() {
            self.changes.remove(key);
        }
        self.base = after;
        self.exact = true;
    }

    /// Whether an update has to read the stored data first.
    pub(super) fn needs_reading(&self) -> bool {
        self.info.is_some() && !self.exact
    }

    pub(super) fn resolved(&mut self, found: Resolved) {
        let Some(mut info) = found.session else {
            // A save decides what becomes of the changes.
            let changes = std::mem::take(&mut self.changes);
            self.over(found.state);
            self.changes = changes;
            self.took(found.set_cookie);
            return;
        };
        self.took(found.set_cookie);
        self.take_token(found.token);
        self.base = std::mem::take(&mut info.data);
        (self.state, self.info, self.exact) = (found.state, Some(info), true);
    }

    pub(super) fn wrote(&mut self, written: Written, created: bool) {
        self.took(written.set_cookie);
        self.take_token(written.token);
        if created {
            (self.state, self.is_new, self.exact) = (State::Created, true, true);
        } else {
            let before = self.info.as_ref().map_or(0, |info| info.version);
            self.exact = self.exact && written.session.version == before + 1;
        }
        self.info = Some(written.session);
    }

    /// Returns whether there is a session.
    pub(super) fn touched(&mut self, touched: Touched) -> bool {
        let Some(info) = touched.session else {
            self.over(touched.state);
            return false;
        };
        self.took(touched.set_cookie);
        let before = self.info.as_ref().map_or(0, |info| info.version);
        self.exact = self.exact && info.version == before;
        self.info = Some(info);
        true
    }

    /// There is no session any more. A cookie that would have renewed it does not go out.
    pub(super) fn over(&mut self, state: State) {
        self.state = state;
        (self.info, self.set_cookie) = (None, None);
        (self.exact, self.is_new) = (false, false);
        self.forget();
    }

    /// Drops the data.
    pub(super) fn forget(&mut self) {
        self.base.clear();
        self.changes.clear();
    }

    /// Of several Set-Cookie values the last one counts.
    pub(super) fn took(&mut self, mut set_cookie: Vec<String>) {
        if let Some(last) = set_cookie.pop() {
            self.set_cookie = Some(last);
        }
    }

    /// The browser's header is outdated now, for the rest of the request.
    fn take_token(&mut self, token: Option<String>) {
        if let Some(token) = token {
            self.credential = Credential::token(token);
        }
    }
}
