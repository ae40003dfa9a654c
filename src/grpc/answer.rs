//! Answers, written straight into the buffer in which they leave.
//!
//! Most of what a daemon does is to copy sessions into answers. A generated message
//! would take a record apart into strings and messages of its own, measure these
//! once for each level, and put them together again. So the response messages of
//! the four operations, and what a pipeline puts round them, are written here by
//! hand. The test below holds them to the generated ones.

use prost::{
    Message,
    encoding::{encode_varint, encoded_len_varint},
};

use super::{convert, fault::Fault, messages::put_prefix, observer::Rpc};
use crate::session::{
    engine::{CookieUpdate, Session},
    id::PublicId,
};

/// What an operation answers.
#[derive(Debug)]
pub struct Answer {
    pub rpc: Rpc,
    /// The state; of a Destroy, how many sessions it ended; of a Write, nothing.
    pub number: u32,
    pub session: Option<Session>,
    pub cookie: CookieUpdate,
}

/// How long the parts of an answer are: what contains others says so before them.
#[derive(Clone, Copy)]
struct Lengths {
    session: usize,
    whole: usize,
}

impl Answer {
    /// Writes the response message of a unary call, behind its prefix.
    pub fn put(&self, out: &mut Vec<u8>) {
        let lengths = self.lengths();
        put_prefix(lengths.whole, out);
        self.put_fields(lengths, out);
    }

    /// Writes a `PipelineResponse`, behind its prefix.
    pub fn put_in_pipeline(&self, sequence: u64, out: &mut Vec<u8>) {
        let lengths = self.lengths();
        let field = match self.rpc {
            Rpc::Resolve => 2,
            Rpc::Touch => 3,
            Rpc::Write => 4,
            Rpc::Destroy => 5,
        };
        put_result(sequence, field, lengths.whole, out);
        self.put_fields(lengths, out);
    }

    fn lengths(&self) -> Lengths {
        let session = self.session.as_ref().map_or(0, |session| self.session_len(session));
        let whole = number_len(self.number.into())
            + self.session.as_ref().map_or(0, |_| nested_len(session))
            + octets_len(self.set_cookie())
            + octets_len(self.token());
        Lengths { session, whole }
    }

    fn put_fields(&self, lengths: Lengths, out: &mut Vec<u8>) {
        // ResolveResponse, TouchResponse, WriteResponse, DestroyResponse.
        let (session, set_cookie) = match self.rpc {
            Rpc::Resolve | Rpc::Touch => (2, 3),
            Rpc::Write => (1, 2),
            Rpc::Destroy => (u8::MAX, 2),
        };
        put_number(1, self.number.into(), out);
        if let Some(found) = &self.session {
            put_head(session, lengths.session, out);
            self.put_session(found, out);
        }
        put_octets(set_cookie, self.set_cookie(), out);
        put_octets(set_cookie + 1, self.token(), out);
    }

    fn set_cookie(&self) -> &[u8] {
        self.cookie.set_cookie.as_ref().map_or(b"", |line| line.expose().as_bytes())
    }

    fn token(&self) -> &[u8] {
        self.cookie.token.as_ref().map_or(b"", |token| token.expose().as_bytes())
    }

    /// Only a Resolve is told the data.
    fn data<'s>(&self, session: &'s Session) -> &'s [u8] {
        match self.rpc {
            Rpc::Resolve => session.record.data.text(),
            Rpc::Touch | Rpc::Write | Rpc::Destroy => b"",
        }
    }

    fn session_len(&self, session: &Session) -> usize {
        octets_len(&[0; PublicId::TEXT_LEN])
            + octets_len(self.data(session))
            + number_len(session.record.version)
            + octets_len(session.record.principal.as_bytes())
            + times(session).into_iter().map(|time| nested_len(time.len())).sum::<usize>()
    }

    fn put_session(&self, session: &Session, out: &mut Vec<u8>) {
        put_octets(1, &session.id.to_text(), out);
        put_octets(2, self.data(session), out);
        put_number(3, session.record.version, out);
        put_octets(4, session.record.principal.as_bytes(), out);
        for (time, field) in times(session).into_iter().zip(5..) {
            put_head(field, time.len(), out);
            put_number(1, time.seconds, out);
            put_number(2, time.nanos, out);
        }
    }
}

/// Writes a `PipelineResponse` that says what went wrong, behind its prefix.
pub fn put_fault_in_pipeline(sequence: u64, fault: Fault, out: &mut Vec<u8>) {
    let error = fault.into_message();
    put_result(sequence, 6, error.encoded_len(), out);
    error.encode_raw(out);
}

/// The head of a `PipelineResponse`, up to a result of so many octets.
fn put_result(sequence: u64, field: u8, len: usize, out: &mut Vec<u8>) {
    put_prefix(number_len(sequence) + nested_len(len), out);
    put_number(1, sequence, out);
    put_head(field, len, out);
}

/// google.protobuf.Timestamp and google.protobuf.Duration, of what is not negative.
struct Time {
    seconds: u64,
    nanos: u64,
}

impl Time {
    fn len(&self) -> usize {
        number_len(self.seconds) + number_len(self.nanos)
    }
}

/// `create_time`, `expire_time` and `duration`.
fn times(session: &Session) -> [Time; 3] {
    let timestamp = |moment| {
        let (seconds, nanos) = convert::seconds_and_nanos(moment);
        Time { seconds, nanos: nanos.into() }
    };
    let duration = session.duration;
    [
        timestamp(session.record.create_time),
        timestamp(session.expire_time),
        Time { seconds: duration.as_secs(), nanos: duration.subsec_nanos().into() },
    ]
}

// The wire format of protobuf, for fields below 16, whose keys are one octet.
// What has the default of its type is left out.

const VARINT: u8 = 0;
const LEN: u8 = 2;

fn put_varint(value: u64, out: &mut Vec<u8>) {
    // Most are so small.
    if value < 0x80 {
        out.push(value as u8);
    } else {
        encode_varint(value, out);
    }
}

fn number_len(value: u64) -> usize {
    if value == 0 { 0 } else { 1 + encoded_len_varint(value) }
}

fn put_number(field: u8, value: u64, out: &mut Vec<u8>) {
    if value != 0 {
        out.push(field << 3 | VARINT);
        put_varint(value, out);
    }
}

fn octets_len(octets: &[u8]) -> usize {
    if octets.is_empty() { 0 } else { nested_len(octets.len()) }
}

fn put_octets(field: u8, octets: &[u8], out: &mut Vec<u8>) {
    if !octets.is_empty() {
        put_head(field, octets.len(), out);
        out.extend_from_slice(octets);
    }
}

/// Of a message that is there, be it empty.
fn nested_len(len: usize) -> usize {
    1 + encoded_len_varint(len as u64) + len
}

fn put_head(field: u8, len: usize, out: &mut Vec<u8>) {
    out.push(field << 3 | LEN);
    put_varint(len as u64, out);
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::{
        grpc::{fault::Reason, wire},
        session::{
            clock::Moment,
            cookie::SetCookie,
            data::Data,
            id::{SessionId, VerifierHash},
            record::{Principal, Record},
            token::{Keyring, Secret},
        },
    };

    /// What the generated code would send of the session.
    fn session(session: &Session) -> wire::Session {
        let duration = session.duration;
        wire::Session {
            data: session.record.data.text().clone(),
            duration: Some(duration.try_into().expect("in range")),
            ..convert::session_without_data(session)
        }
    }

    /// What the generated code would make of the answer.
    fn result(answer: &Answer) -> wire::pipeline_response::Result {
        use wire::pipeline_response::Result as Of;
        let set_cookie: Vec<String> =
            answer.cookie.set_cookie.iter().map(|line| line.expose().to_owned()).collect();
        let token =
            answer.cookie.token.as_ref().map_or(String::new(), |token| token.expose().to_owned());
        let state = answer.number as i32;
        let whole = answer.session.as_ref().map(session);
        let without_data =
            whole.clone().map(|session| wire::Session { data: Default::default(), ..session });
        match answer.rpc {
            Rpc::Resolve => {
                Of::Resolve(wire::ResolveResponse { state, session: whole, set_cookie, token })
            }
            Rpc::Touch => {
                Of::Touch(wire::TouchResponse { state, session: without_data, set_cookie })
            }
            Rpc::Write => {
                Of::Write(wire::WriteResponse { session: without_data, set_cookie, token })
            }
            Rpc::Destroy => {
                Of::Destroy(wire::DestroyResponse { destroyed: answer.number, set_cookie })
            }
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
        let duration = (0..=i64::MAX as u64, 0..1_000_000_000u32)
            .prop_map(|(seconds, nanos)| Duration::new(seconds, nanos));
        (any::<[u8; 12]>(), any::<u64>(), moment(), moment(), duration, principal, data).prop_map(
            |(id, version, create_time, expire_time, duration, principal, data)| {
                let record = Record {
                    verifier: VerifierHash::from_bytes([0; 32]),
                    version,
                    create_time,
                    deadline: expire_time,
                    duration: None,
                    principal: Principal::new(principal.as_bytes()).expect("not too long"),
                    data: Data::from_stored(data.into()).expect("text"),
                };
                let id = PublicId::from_bytes(id);
                Session { id, record: Arc::new(record), expire_time, duration }
            },
        )
    }

    fn any_answer() -> impl Strategy<Value = Answer> {
        let rpc = proptest::sample::select(&Rpc::ALL);
        let session = proptest::option::of(any_session());
        (rpc, any::<u32>(), session, any::<[bool; 2]>()).prop_map(|(rpc, number, session, news)| {
            let id = SessionId::derived(&number.to_be_bytes());
            let keyring = Keyring::new(&[Secret::new([1; 32])]).expect("one secret");
            let has_token = matches!(rpc, Rpc::Resolve | Rpc::Write);
            let cookie = CookieUpdate {
                set_cookie: news[0].then(|| SetCookie::new(format!("session={number}"))),
                token: (news[1] && has_token).then(|| keyring.sign(&id)),
            };
            Answer {
                number: match rpc {
                    Rpc::Resolve | Rpc::Touch => number % 8,
                    Rpc::Write => 0,
                    Rpc::Destroy => number,
                },
                session: session.filter(|_| rpc != Rpc::Destroy),
                rpc,
                cookie,
            }
        })
    }

    proptest! {
        #[test]
        fn an_answer_is_what_the_generated_messages_are(answer in any_answer(), sequence: u64) {
            use wire::pipeline_response::Result as Of;
            let result = result(&answer);
            let expected = match &result {
                Of::Resolve(response) => framed(response),
                Of::Touch(response) => framed(response),
                Of::Write(response) => framed(response),
                Of::Destroy(response) => framed(response),
                Of::Error(_) => unreachable!("an answer is no error"),
            };
            let mut found = Vec::new();
            answer.put(&mut found);
            prop_assert_eq!(&found, &expected);

            for sequence in [sequence, sequence % 300, 0] {
                let response = wire::PipelineResponse { sequence, result: Some(result.clone()) };
                found.clear();
                answer.put_in_pipeline(sequence, &mut found);
                prop_assert_eq!(&found, &framed(&response));
            }
        }
    }

    #[test]
    fn a_fault_is_what_the_generated_message_is() {
        let fault = || Fault::at(Reason::InvalidData, "set", "expected something else");
        let error = wire::pipeline_response::Result::Error(fault().into_message());
        let response = wire::PipelineResponse { sequence: 7, result: Some(error) };
        let mut found = Vec::new();
        put_fault_in_pipeline(7, fault(), &mut found);
        assert_eq!(found, framed(&response));
    }
}
