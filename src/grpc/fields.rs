//! The bound on the fields of a message, before it is decoded.
//!
//! A field takes two octets on the wire and, decoded, many times as much memory and work:
//! a message of 1 MiB may hold half a million keys to unset. Stepping over them costs a
//! hundredth of decoding them.

use tonic::Status;

use crate::service::{
    fault::{Fault, Reason},
    input,
    observer::OperationKind,
};

/// The most fields that a message of SessionService has, with those of the messages in it.
/// Only `unset` and `session_ids` make it more than twenty, and have a lower bound of their own.
const MAX_FIELDS: usize = 2048;

/// Why a message is not decoded.
#[derive(Debug)]
pub(super) enum Excess {
    /// One field is there too often: a fault of one operation.
    Repeated { sequence: u64, fault: Fault },
    /// No client of the contract makes such a message.
    Fields(Fault),
}

impl From<Excess> for Status {
    fn from(excess: Excess) -> Self {
        match excess {
            Excess::Repeated { fault, .. } | Excess::Fields(fault) => fault.into(),
        }
    }
}

/// Checks the request of a unary call.
pub(super) fn check_operation(kind: OperationKind, message: &[u8]) -> Result<(), Excess> {
    check(level(kind), message)
}

/// Checks a request of a Pipeline.
pub(super) fn check_pipelined(message: &[u8]) -> Result<(), Excess> {
    check(Level::Pipeline, message)
}

fn check(level: Level, message: &[u8]) -> Result<(), Excess> {
    // A field takes at least two octets, so nearly every message need not be counted.
    if message.len() <= 2 * MAX_FIELDS {
        return Ok(());
    }
    let mut found = Found::default();
    found.count(level, message);
    if found.all <= MAX_FIELDS {
        return Ok(());
    }
    let Found { all, unset, session_ids, sequence } = found;
    input::unset_count(unset)
        .and_then(|()| input::session_id_count(session_ids))
        .map_err(|fault| Excess::Repeated { sequence, fault })?;
    let problem = format!("the message has {all} fields, at most {MAX_FIELDS} are taken");
    Err(Excess::Fields(Fault::new(Reason::MalformedMessage, problem)))
}

/// A message whose fields are counted.
#[derive(Clone, Copy)]
enum Level {
    Pipeline,
    Write,
    Destroy,
    /// Resolve, Touch or ListSessions.
    Other,
    /// A message within an operation.
    Leaf,
}

fn level(kind: OperationKind) -> Level {
    match kind {
        OperationKind::Write => Level::Write,
        OperationKind::Destroy => Level::Destroy,
        OperationKind::Resolve | OperationKind::Touch | OperationKind::ListSessions => Level::Other,
    }
}

// The numbers of `proto/sessiond/v1/session_service.proto`; a test compares them.
const SEQUENCE: u64 = 1;
const UNSET: u64 = 4;
const SESSION_IDS: u64 = 4;

impl Level {
    /// The message that a field of this one is.
    fn of_field(self, number: u64) -> Option<Self> {
        Some(match (self, number) {
            (Self::Pipeline, 2 | 3) => Self::Other,
            (Self::Pipeline, 4) => Self::Write,
            (Self::Pipeline, 5) => Self::Destroy,
            // The timeout.
            (Self::Pipeline, 6) => Self::Leaf,
            // The credential, and the duration.
            (Self::Write, 2 | 9) | (Self::Other, 2 | 3) | (Self::Destroy, 2) => Self::Leaf,
            _ => return None,
        })
    }
}

/// What was counted so far.
#[derive(Default)]
struct Found {
    all: usize,
    unset: usize,
    session_ids: usize,
    sequence: u64,
}

impl Found {
    /// Counts until the message makes no sense, which the decoder then says.
    fn count(&mut self, level: Level, mut message: &[u8]) -> Option<()> {
        while !message.is_empty() {
            let key = varint(&mut message)?;
            let number = key >> 3;
            self.all += 1;
            match key & 7 {
                0 => {
                    let value = varint(&mut message)?;
                    if matches!(level, Level::Pipeline) && number == SEQUENCE {
                        self.sequence = value;
                    }
                }
                1 => message = message.get(8..)?,
                2 => {
                    let len = usize::try_from(varint(&mut message)?).ok()?;
                    let (field, rest) = message.split_at_checked(len)?;
                    message = rest;
                    match (level, number) {
                        (Level::Write, UNSET) => self.unset += 1,
                        (Level::Destroy, SESSION_IDS) => self.session_ids += 1,
                        _ => {}
                    }
                    if let Some(level) = level.of_field(number) {
                        self.count(level, field);
                    }
                }
                5 => message = message.get(4..)?,
                // The ends of a group, which holds fields of its own.
                3 | 4 => {}
                _ => return None,
            }
        }
        Some(())
    }
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&octet, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(octet & 0x7f) << shift;
        if octet < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prost::Message;

    use super::*;
    use crate::grpc::pb::{
        Credential, DestroyRequest, PipelineRequest, ResolveRequest, TouchRequest, WriteRequest,
        credential::Kind, pipeline_request::Operation,
    };

    fn write(unset: usize) -> WriteRequest {
        WriteRequest { unset: vec![Bytes::from_static(b"ab"); unset], ..Default::default() }
    }

    fn in_pipeline(operation: Operation) -> Vec<u8> {
        PipelineRequest { sequence: 300, operation: Some(operation), timeout: None }.encode_to_vec()
    }

    #[test]
    fn keys_and_ids_are_counted_wherever_they_are() {
        let found = check_operation(OperationKind::Write, &write(5000).encode_to_vec());
        assert!(matches!(found, Err(Excess::Repeated { .. })), "{found:?}");
        let session_ids = vec![Bytes::from_static(b"ab"); 5000];
        let destroy = DestroyRequest { session_ids, ..Default::default() };
        for (operation, field) in
            [(Operation::Write(write(5000)), "unset"), (Operation::Destroy(destroy), "session_ids")]
        {
            match check_pipelined(&in_pipeline(operation)) {
                Err(Excess::Repeated { sequence: 300, fault }) => {
                    let found = (fault.reason, fault.field);
                    assert_eq!(found, (Reason::InvalidArgument, Some(field)));
                }
                found => panic!("expected too many of {field} in operation 300, found {found:?}"),
            }
        }
    }

    #[test]
    fn a_message_of_many_fields_is_refused_wherever_they_are() {
        let token = Credential { kind: Some(Kind::Token(Bytes::from_static(b"t"))) };
        let credential = Some(Credential::decode(&*token.encode_to_vec().repeat(3000)));
        let credential = credential.map(|decoded| decoded.expect("the last one counts"));
        assert_eq!(credential, Some(token.clone()));
        // A credential of as many fields, in each kind of request.
        let many = token.encode_to_vec().repeat(3000);
        let mut field = vec![2 << 3 | 2];
        prost::encode_length_delimiter(many.len(), &mut field).expect("a vector grows");
        field.extend(many);
        for kind in OperationKind::ALL {
            let found = check_operation(kind, &field);
            assert!(matches!(found, Err(Excess::Fields(_))), "{kind:?}: {found:?}");
        }
        for (number, operation) in [
            (2, Operation::Resolve(ResolveRequest::default())),
            (3, Operation::Touch(TouchRequest::default())),
            (4, Operation::Write(WriteRequest::default())),
            (5, Operation::Destroy(DestroyRequest::default())),
        ] {
            let plain = in_pipeline(operation);
            assert!(plain.contains(&(number << 3 | 2)), "the number of an operation has changed");
            let mut message = vec![number << 3 | 2];
            prost::encode_length_delimiter(field.len(), &mut message).expect("a vector grows");
            message.extend(&field);
            let found = check_pipelined(&message);
            assert!(matches!(found, Err(Excess::Fields(_))), "{number}: {found:?}");
        }
        let unknown = [15 << 3, 1].repeat(3000);
        let found = check_operation(OperationKind::Touch, &unknown);
        assert!(matches!(found, Err(Excess::Fields(_))), "{found:?}");
    }

    #[test]
    fn what_clients_send_is_taken() {
        let large = WriteRequest { set: vec![b'x'; 100_000].into(), ..write(1000) };
        check_operation(OperationKind::Write, &large.encode_to_vec()).expect("1000 keys are taken");
        check_pipelined(&in_pipeline(Operation::Write(large))).expect("in a Pipeline, too");
        let junk = vec![0xff; 10_000];
        check_pipelined(&junk).expect("the decoder says what is wrong with it");
    }
}
