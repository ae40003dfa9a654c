//! The failures between the daemon and Redis, and what they mean for the
//! caller.

use std::{borrow::Cow, fmt};

use redis::{RedisError, Value};

use super::needs::Lack;
use crate::session::store::StoreError;

/// Why a command has no usable answer. It can be cloned for callers that wait
/// for the same result.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// It was not sent: there is no connection.
    Unreached(String),
    /// It may or may not have taken effect.
    Lost(String),
    /// The server's error message. The command was not executed.
    Refused { code: String, text: String },
    /// The change was made, but it may be lost if the server is lost.
    Unreplicated { replicas: i64, wanted: u32 },
    /// The server is reached, and refuses what the daemon needs.
    Lacking(Lack),
    /// Slots are moving from one server of a cluster to another.
    Moving,
    /// The answer is not one that the command can have.
    Absurd,
}

impl Failure {
    pub(super) fn is_refused_as(&self, codes: &[&str]) -> bool {
        matches!(self, Self::Refused { code, .. } if codes.contains(&code.as_str()))
    }

    /// The server has refused the command. It may still do others.
    pub(super) fn is_refused(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }

    /// Converts it to the error for the store's caller. `key` is the key of the
    /// command.
    pub(super) fn while_doing(self, doing: &'static str, key: &str) -> StoreError {
        match &self {
            Self::Refused { code, .. } if code == "OOM" => StoreError::full(doing, self),
            Self::Refused { code, .. } if code == "WRONGTYPE" => {
                StoreError::unreadable(doing, format!("{key} holds something else: {self}"))
            }
            _ => StoreError::unavailable(doing, self),
        }
    }
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        match error.code() {
            Some(code) => {
                let text = without_arguments(error.detail().unwrap_or_default());
                Self::Refused { code: code.to_owned(), text: text.into_owned() }
            }
            None => Self::Lost(error.to_string()),
        }
    }
}

/// Removes the arguments from an error text. Redis repeats the arguments of an
/// unknown command, and they contain session data.
fn without_arguments(text: &str) -> Cow<'_, str> {
    match text.split_once(", with args beginning with") {
        Some((before, _)) => before.into(),
        None => text.into(),
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreached(why) => write!(f, "redis cannot be reached: {why}"),
            Self::Lost(why) => write!(f, "redis did not answer: {why}"),
            Self::Refused { code, text } => {
                write!(f, "redis refused the command: {code} {text}")?;
                f.write_str(advice(code, text))
            }
            Self::Unreplicated { replicas, wanted } => write!(
                f,
                "the change was made and confirmed by {replicas} replicas, \
                 store.redis.wait_replicas asks for {wanted}"
            ),
            Self::Lacking(lack) => write!(f, "redis refuses what the daemon needs: {lack}"),
            Self::Moving => f.write_str(
                "slots of the cluster are being moved, and the keys in them cannot be scanned; \
                 wait until that is done",
            ),
            Self::Absurd => f.write_str("redis gave an answer that does not fit the command"),
        }
    }
}

impl std::error::Error for Failure {}

/// Advice for a server error, if the message of the error gives none.
fn advice(code: &str, text: &str) -> &'static str {
    match code {
        "READONLY" => {
            "; it is a replica: name the primary, or use redis+sentinel:// or redis+cluster://"
        }
        "NOPERM" => PERMISSIONS,
        // The form of NOPERM inside a script.
        "ERR" if text.contains("can't run this command") => PERMISSIONS,
        "NOAUTH" => "; set the password_file beside its url",
        "OOM" => "; raise maxmemory",
        "MOVED" => "; it is a node of a cluster: use redis+cluster://",
        _ => "",
    }
}

const PERMISSIONS: &str = "; the user needs +get +set +setrange +getrange +pexpire +pttl +del \
     +zadd +zrem +zremrangebylex +zrangebylex +zrandmember +eval +evalsha +time (+wait with wait_replicas, +select with a database, +cluster +asking in a cluster, +scan +info for an export, +cluster|nodes for one of a cluster) on ~KEY_PREFIX:*";

/// Returns the answer, or the error that the server sent in its place.
pub(super) fn answer(value: Value) -> Result<Value, Failure> {
    Ok(value.extract_error()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::store::StoreErrorKind;

    fn refused(line: &[u8]) -> Failure {
        let value = redis::parse_redis_value(line).expect("an answer");
        answer(value).expect_err("an error")
    }

    #[test]
    fn each_refusal_has_its_kind() {
        let kinds = [
            (
                &b"-OOM command not allowed when used memory > 'maxmemory'.\r\n"[..],
                StoreErrorKind::Full,
            ),
            (b"-WRONGTYPE Operation against a key\r\n", StoreErrorKind::Unreadable),
            (
                b"-READONLY You can't write against a read only replica.\r\n",
                StoreErrorKind::Unavailable,
            ),
            (b"-LOADING Redis is loading the dataset in memory\r\n", StoreErrorKind::Unavailable),
            (b"-NOPERM this user has no permissions\r\n", StoreErrorKind::Unavailable),
            (b"-ERR something\r\n", StoreErrorKind::Unavailable),
        ];
        for (line, kind) in kinds {
            let error = refused(line).while_doing("work", "p:e:id");
            assert_eq!(error.kind, kind, "{error}");
        }
    }

    #[test]
    fn arguments_are_not_repeated() {
        let line = b"-ERR unknown command 'SETRANGE', with args beginning with: 'hunter2' \r\n";
        let text = refused(line).to_string();
        assert!(text.contains("unknown command 'SETRANGE'"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}
