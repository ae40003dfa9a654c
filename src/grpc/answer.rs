//! The answers of the four operations, encoded straight into the buffer in which they leave.
//!
//! Most of what a daemon does is to copy sessions into answers. A generated message would
//! take a record apart into strings and messages of its own, measure these once for each
//! level, and put them together again. So the response messages of the four operations,
//! and what a pipeline puts round them, are encoded here by hand. The test below holds
//! them to the generated ones.

use prost::{Message, encoding::encoded_len_varint};

use super::{convert, messages::put_prefix, pb};
use crate::{
    service::{answer::Answer, fault::Fault},
    session::{Live, Lookup, Session, clock::WallTime, cookie::SetCookie, id::PublicId},
};

/// Encodes the response message of a unary call, behind its prefix.
pub(super) fn put(answer: &Answer, out: &mut Vec<u8>) {
    let fields = Fields::of(answer);
    let len = fields.len();
    put_prefix(len, out);
    fields.put(Head::new(), out);
}

/// Encodes a `PipelineResponse`, behind its prefix.
pub(super) fn put_in_pipeline(answer: &Answer, sequence: u64, out: &mut Vec<u8>) {
    let fields = Fields::of(answer);
    fields.put(result_head(sequence, fields.result, fields.len(), out), out);
}

/// What is encoded of an answer, under the field numbers of its message. What is absent
/// or has the default of its type is left out.
struct Fields<'a> {
    /// The field of `PipelineResponse.result`.
    result: u8,
    /// Field 1, where that is a number: a state, or how many sessions were destroyed.
    number: u64,
    session: Option<SessionField<'a>>,
    set_cookie: (u8, &'a [u8]),
    token: Option<(u8, &'a [u8])>,
}

struct SessionField<'a> {
    field: u8,
    session: &'a Session,
    /// Only a Resolve answers with the data.
    data: &'a [u8],
    /// From the version up to the text of the principal.
    version: Version,
    /// From the times up to the text of the label.
    times: Times,
}

impl<'a> Fields<'a> {
    fn of(answer: &'a Answer) -> Self {
        match answer {
            Answer::Resolve(lookup) => {
                let live = live(lookup);
                Self {
                    result: 2,
                    number: state(lookup) as u64,
                    session: live.map(|live| {
                        SessionField::new(2, &live.session, live.session.record.data.text())
                    }),
                    set_cookie: (3, live.map_or(b"", set_cookie)),
                    token: Some((4, live.map_or(b"", token))),
                }
            }
            // A TouchResponse has no place for a token; its Set-Cookie line holds it.
            Answer::Touch(lookup) => {
                let live = live(lookup);
                Self {
                    result: 3,
                    number: state(lookup) as u64,
                    session: live.map(|live| without_data(2, &live.session)),
                    set_cookie: (3, live.map_or(b"", set_cookie)),
                    token: None,
                }
            }
            Answer::Write(live) => Self {
                result: 4,
                number: 0,
                session: Some(without_data(1, &live.session)),
                set_cookie: (2, set_cookie(live)),
                token: Some((3, token(live))),
            },
            Answer::Destroy(destroyed) => Self {
                result: 5,
                number: destroyed.count.into(),
                session: None,
                set_cookie: (2, line(&destroyed.set_cookie)),
                token: None,
            },
        }
    }

    fn len(&self) -> usize {
        number_len(self.number)
            + self.session.as_ref().map_or(0, |session| nested_len(session.len()))
            + octets_len(self.set_cookie.1)
            + self.token.map_or(0, |(_, token)| octets_len(token))
    }

    /// Writes `head`, and the fields behind it.
    fn put(&self, mut head: Head, out: &mut Vec<u8>) {
        head.number(1, self.number);
        match &self.session {
            Some(session) => session.put(head, out),
            None => out.extend_from_slice(head.octets()),
        }
        put_octets(self.set_cookie.0, self.set_cookie.1, out);
        if let Some((field, token)) = self.token {
            put_octets(field, token, out);
        }
    }
}

fn live(lookup: &Lookup) -> Option<&Live> {
    match lookup {
        Lookup::Live(live) => Some(live),
        Lookup::Absent(_) => None,
    }
}

fn state(lookup: &Lookup) -> pb::SessionState {
    match lookup {
        Lookup::Live(Live { is_new: false, .. }) => pb::SessionState::Active,
        Lookup::Live(Live { is_new: true, .. }) => pb::SessionState::Created,
        Lookup::Absent(absence) => convert::absence(*absence),
    }
}

fn without_data(field: u8, session: &Session) -> SessionField<'_> {
    SessionField::new(field, session, b"")
}

fn set_cookie(live: &Live) -> &[u8] {
    line(&live.cookie.set_cookie)
}

fn line(set_cookie: &Option<SetCookie>) -> &[u8] {
    set_cookie.as_ref().map_or(b"", |line| line.expose().as_bytes())
}

fn token(live: &Live) -> &[u8] {
    live.cookie.token.as_ref().map_or(b"", |token| token.expose().as_bytes())
}

impl<'a> SessionField<'a> {
    fn new(field: u8, session: &'a Session, data: &'a [u8]) -> Self {
        let record = &session.record;
        let mut version = Version::new();
        version.number(3, record.version);
        version.head_of(4, record.principal.as_bytes());
        let mut times = Times::new();
        times.timestamp(5, session.create_time());
        times.timestamp(6, session.expire_time());
        let duration = session.duration;
        times.time(7, duration.as_secs(), duration.subsec_nanos());
        times.timestamp(8, session.last_use_time());
        times.head_of(9, record.extension.label.as_bytes());
        Self { field, session, data, version, times }
    }

    fn len(&self) -> usize {
        let record = &self.session.record;
        octets_len(&[0; PublicId::TEXT_LEN])
            + octets_len(self.data)
            + self.version.octets().len()
            + record.principal.as_bytes().len()
            + self.times.octets().len()
            + record.extension.label.as_bytes().len()
    }

    /// Writes `head`, and the session behind it.
    fn put(&self, mut head: Head, out: &mut Vec<u8>) {
        let record = &self.session.record;
        head.head(self.field, self.len());
        let id = self.session.id.to_text();
        head.head(1, id.len());
        head.put(id);
        head.head_of(2, self.data);
        out.extend_from_slice(head.octets());
        out.extend_from_slice(self.data);
        out.extend_from_slice(self.version.octets());
        out.extend_from_slice(record.principal.as_bytes());
        out.extend_from_slice(self.times.octets());
        out.extend_from_slice(record.extension.label.as_bytes());
    }
}

/// Encodes a `PipelineResponse` that says what went wrong, behind its prefix.
pub(super) fn put_fault_in_pipeline(sequence: u64, fault: Fault, out: &mut Vec<u8>) {
    let error = tonic_types::pb::Status::from(fault);
    let head = result_head(sequence, 6, error.encoded_len(), out);
    out.extend_from_slice(head.octets());
    error.encode_raw(out);
}

/// Writes the prefix of a `PipelineResponse`, and returns what comes before a result of `len`
/// octets.
fn result_head(sequence: u64, field: u8, len: usize, out: &mut Vec<u8>) -> Head {
    put_prefix(number_len(sequence) + nested_len(len), out);
    let mut head = Head::new();
    head.number(1, sequence);
    head.head(field, len);
    head
}

// The wire format of protobuf, for fields below 16, whose keys are one octet.
// What has the default of its type is left out.

const VARINT: u8 = 0;
const LEN: u8 = 2;

/// What comes before the data: three numbers, the heads of two messages and of a text, and
/// an id.
type Head = Short<96>;
/// A number, and the head of a text.
type Version = Short<24>;
/// Four times of at most 19 octets, and the head of a text.
type Times = Short<96>;

/// A few short fields, encoded on the stack: a vector looks for room at each octet.
struct Short<const ROOM: usize> {
    octets: [u8; ROOM],
    len: usize,
}

impl<const ROOM: usize> Short<ROOM> {
    fn new() -> Self {
        Self { octets: [0; ROOM], len: 0 }
    }

    fn octets(&self) -> &[u8] {
        &self.octets[..self.len]
    }

    fn put<const N: usize>(&mut self, octets: [u8; N]) {
        self.octets[self.len..self.len + N].copy_from_slice(&octets);
        self.len += N;
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.put([value as u8 | 0x80]);
            value >>= 7;
        }
        self.put([value as u8]);
    }

    fn number(&mut self, field: u8, value: u64) {
        if value != 0 {
            self.put([field << 3 | VARINT]);
            self.varint(value);
        }
    }

    /// The head of a text or a message of so many octets.
    fn head(&mut self, field: u8, len: usize) {
        self.put([field << 3 | LEN]);
        self.varint(len as u64);
    }

    /// The head of a text, if it is not empty.
    fn head_of(&mut self, field: u8, text: &[u8]) {
        if !text.is_empty() {
            self.head(field, text.len());
        }
    }

    fn timestamp(&mut self, field: u8, time: WallTime) {
        let (seconds, nanos) = convert::seconds_and_nanos(time);
        self.time(field, seconds, nanos);
    }

    /// google.protobuf.Timestamp and google.protobuf.Duration, of what is not negative.
    fn time(&mut self, field: u8, seconds: u64, nanos: u32) {
        self.put([field << 3 | LEN, 0]);
        let begin = self.len;
        self.number(1, seconds);
        self.number(2, nanos.into());
        // At most 17, which is one octet.
        self.octets[begin - 1] = (self.len - begin) as u8;
    }
}

fn number_len(value: u64) -> usize {
    if value == 0 { 0 } else { 1 + encoded_len_varint(value) }
}

fn octets_len(octets: &[u8]) -> usize {
    if octets.is_empty() { 0 } else { nested_len(octets.len()) }
}

/// Of a message that is there, be it empty.
fn nested_len(len: usize) -> usize {
    1 + encoded_len_varint(len as u64) + len
}

fn put_octets(field: u8, octets: &[u8], out: &mut Vec<u8>) {
    if !octets.is_empty() {
        let mut head = Short::<12>::new();
        head.head(field, octets.len());
        out.extend_from_slice(head.octets());
        out.extend_from_slice(octets);
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::{
        service::fault::Reason,
        session::{
            CookieUpdate,
            clock::{Moment, WallOffset},
            credential::Absence,
            data::Data,
            engine::Destroyed,
            id::{SessionId, VerifierHash},
            record::{Extension, Label, Principal, Record},
            token::{Keyring, Secret},
        },
    };

    /// What the generated code would send of the session.
    fn session(session: &Session) -> pb::Session {
        let duration = session.duration;
        pb::Session {
            duration: Some(duration.try_into().expect("in range")),
            ..convert::session_without_data(session)
        }
    }

    fn with_data(whole: &Session) -> pb::Session {
        pb::Session { data: whole.record.data.text().clone(), ..session(whole) }
    }

    fn state_of(lookup: &Lookup) -> i32 {
        let state = match lookup {
            Lookup::Live(live) if live.is_new => pb::SessionState::Created,
            Lookup::Live(_) => pb::SessionState::Active,
            Lookup::Absent(Absence::None) => pb::SessionState::None,
            Lookup::Absent(Absence::Invalid) => pb::SessionState::Invalid,
            Lookup::Absent(Absence::NotFound) => pb::SessionState::NotFound,
            Lookup::Absent(Absence::Superseded | Absence::JustSuperseded) => {
                pb::SessionState::Superseded
            }
            Lookup::Absent(Absence::Expired) => pb::SessionState::Expired,
        };
        state.into()
    }

    fn lines(set_cookie: &Option<SetCookie>) -> Vec<String> {
        set_cookie.iter().map(|line| line.expose().to_owned()).collect()
    }

    fn token_of(live: &Live) -> String {
        live.cookie.token.as_ref().map_or(String::new(), |token| token.expose().to_owned())
    }

    /// What the generated code would make of the answer.
    fn result(answer: &Answer) -> pb::pipeline_response::Result {
        use pb::pipeline_response::Result as Of;
        match answer {
            Answer::Resolve(lookup) => Of::Resolve(pb::ResolveResponse {
                state: state_of(lookup),
                session: live(lookup).map(|live| with_data(&live.session)),
                set_cookie: live(lookup).map_or(Vec::new(), |live| lines(&live.cookie.set_cookie)),
                token: live(lookup).map_or(String::new(), token_of),
            }),
            Answer::Touch(lookup) => Of::Touch(pb::TouchResponse {
                state: state_of(lookup),
                session: live(lookup).map(|live| session(&live.session)),
                set_cookie: live(lookup).map_or(Vec::new(), |live| lines(&live.cookie.set_cookie)),
            }),
            Answer::Write(live) => Of::Write(pb::WriteResponse {
                session: Some(session(&live.session)),
                set_cookie: lines(&live.cookie.set_cookie),
                token: token_of(live),
            }),
            Answer::Destroy(destroyed) => Of::Destroy(pb::DestroyResponse {
                destroyed: destroyed.count,
                set_cookie: lines(&destroyed.set_cookie),
            }),
        }
    }

    fn framed(message: &impl Message) -> Vec<u8> {
        let encoded = message.encode_to_vec();
        [&[0], &(encoded.len() as u32).to_be_bytes()[..], &encoded].concat()
    }

    fn any_session() -> impl Strategy<Value = Session> {
        let moment = || any::<u64>().prop_map(Moment::from_unix_millis);
        let data = prop_oneof!["", "[ -~]{1,300}", "[a-zäöü]{16370,16400}"];
        let principal = prop_oneof!["", "[a-zäöü@]{1,128}"];
        let label = prop_oneof!["", "[a-zäöü ]{1,128}"];
        let duration = (0..=i64::MAX as u64, 0..1_000_000_000u32)
            .prop_map(|(seconds, nanos)| Duration::new(seconds, nanos));
        let times = (moment(), moment(), moment(), duration);
        let texts = (principal, label, data);
        (any::<[u8; 12]>(), any::<u64>(), times, texts, any::<i64>()).prop_map(
            |(id, version, times, (principal, label, data), offset)| {
                let (create_time, expire_time, last_use_time, duration) = times;
                let label = Label::new(label.as_bytes()).expect("not too long");
                let record = Record {
                    verifier: VerifierHash::from_bytes([0; 32]),
                    version,
                    create_time,
                    deadline: expire_time,
                    duration: None,
                    principal: Principal::new(principal.as_bytes()).expect("not too long"),
                    data: Data::from_stored(data.into()).expect("text"),
                    extension: Extension { label, ..Extension::default() },
                };
                let id = PublicId::from_bytes(id);
                let offset = WallOffset::from_millis(offset);
                let record = Arc::new(record);
                Session { id, record, expire_time, duration, last_use_time, offset }
            },
        )
    }

    fn any_live() -> impl Strategy<Value = Live> {
        (any_session(), any::<u32>(), any::<[bool; 3]>()).prop_map(
            |(session, number, [is_new, has_line, has_token])| {
                let id = SessionId::derived(&number.to_be_bytes());
                let keyring = Keyring::new(&[Secret::new([1; 32])]).expect("one secret");
                let set_cookie = has_line.then(|| SetCookie::new(format!("session={number}")));
                let token = has_token.then(|| keyring.sign(&id));
                Live { session, cookie: CookieUpdate { set_cookie, token }, is_new }
            },
        )
    }

    fn any_lookup() -> impl Strategy<Value = Lookup> {
        let absence = proptest::sample::select(vec![
            Absence::None,
            Absence::Invalid,
            Absence::NotFound,
            Absence::Superseded,
            Absence::Expired,
            Absence::JustSuperseded,
        ]);
        prop_oneof![any_live().prop_map(Lookup::Live), absence.prop_map(Lookup::Absent)]
    }

    fn any_answer() -> impl Strategy<Value = Answer> {
        let destroyed = any::<(bool, u32, bool)>().prop_map(|(was_live, count, has_line)| {
            let set_cookie = has_line.then(|| SetCookie::new(format!("session={count}")));
            Destroyed { absence: (!was_live).then_some(Absence::None), count, set_cookie }
        });
        prop_oneof![
            any_lookup().prop_map(Answer::Resolve),
            any_lookup().prop_map(Answer::Touch),
            any_live().prop_map(Answer::Write),
            destroyed.prop_map(Answer::Destroy),
        ]
    }

    proptest! {
        #[test]
        fn an_answer_is_what_the_generated_messages_are(answer in any_answer(), sequence: u64) {
            use pb::pipeline_response::Result as Of;
            let result = result(&answer);
            let expected = match &result {
                Of::Resolve(response) => framed(response),
                Of::Touch(response) => framed(response),
                Of::Write(response) => framed(response),
                Of::Destroy(response) => framed(response),
                Of::Error(_) => unreachable!("an answer is no error"),
            };
            let mut found = Vec::new();
            put(&answer, &mut found);
            prop_assert_eq!(&found, &expected);

            for sequence in [sequence, sequence % 300, 0] {
                let response = pb::PipelineResponse { sequence, result: Some(result.clone()) };
                found.clear();
                put_in_pipeline(&answer, sequence, &mut found);
                prop_assert_eq!(&found, &framed(&response));
            }
        }
    }

    #[test]
    fn a_fault_is_what_the_generated_message_is() {
        let fault = || Fault::at(Reason::InvalidData, "set", "expected something else");
        let error = pb::pipeline_response::Result::Error(fault().into());
        let response = pb::PipelineResponse { sequence: 7, result: Some(error) };
        let mut found = Vec::new();
        put_fault_in_pipeline(7, fault(), &mut found);
        assert_eq!(found, framed(&response));
    }
}
