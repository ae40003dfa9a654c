//! Errors: why an operation failed, and whether it may have been applied all the same.

use std::{error::Error as StdError, fmt, sync::Arc, time::Duration};

use http::StatusCode;
use tonic::Code;

/// The result of everything that can fail here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation failed.
///
/// The variant says what a program does about it; [`Error::reason`] says more exactly why.
/// No message has a token, a cookie or data of a session in it.
#[derive(Clone)]
#[non_exhaustive]
pub enum Error {
    /// The daemon or its store is away, or the time is over. It never means that there is no
    /// session. Answer 503 with Retry-After.
    Unavailable(Failure),
    /// Too much at once, in this client or in the daemon. Answer 503 with Retry-After.
    Overloaded(Failure),
    /// Another write came first.
    VersionMismatch(Failure),
    /// The session has ended. Nothing brings it back.
    SessionGone(Failure),
    /// A change with an id from before a login. Answer 409: sent again, the request has the
    /// new cookie.
    Superseded(Failure),
    /// The user has as many sessions as the daemon allows.
    TooManySessions(Failure),
    /// An argument has a value that is not allowed, or the data are not JSON.
    InvalidArgument(Failure),
    /// The data would be larger than the engine's `max_data_bytes`.
    DataTooLarge(Failure),
    /// The stored record is damaged. A destroy or a logout ends it all the same.
    RecordUnreadable(Failure),
    /// The daemon asks for a bearer token, does not know the one that was sent, or asks for
    /// another role.
    Authentication(Failure),
    /// Something is set up wrongly: see the reason. For example, the daemon is too old, or
    /// the address is not that of a daemon.
    Setup(Failure),
}

/// What an [`Error`] is about. Its fields are behind the methods of `Error`.
#[derive(Clone)]
pub struct Failure(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    reason: Reason,
    code: Code,
    applied: Applied,
    retryable: bool,
    retry_after: Option<Duration>,
    field: Option<String>,
    message: String,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// Whether an operation that failed may have changed something all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// Nothing was changed. To send the operation again does no harm.
    No,
    /// It may have been changed.
    Unknown,
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)*) => {
        /// Why an operation failed: the daemon's reasons, and those of this crate.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[doc = $doc])+ $name,)*
        }

        impl Reason {
            /// The name of the reason, as the daemon writes it.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            /// The reason of that name.
            pub(crate) fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($text => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

reasons! {
    /// A field has a value that is not allowed; [`Error::field`] names it.
    InvalidArgument = "INVALID_ARGUMENT",
    /// The data are not what JSON can hold, or have too many keys.
    InvalidData = "INVALID_DATA",
    /// The data would exceed the engine's `max_data_bytes`.
    DataTooLarge = "DATA_TOO_LARGE",
    /// The daemon has no engine of that name.
    UnknownEngine = "UNKNOWN_ENGINE",
    /// The daemon could not decode a message.
    MalformedMessage = "MALFORMED_MESSAGE",
    /// The message is larger than the daemon takes.
    MessageTooLarge = "MESSAGE_TOO_LARGE",
    /// The daemon takes no compressed messages.
    CompressionUnsupported = "COMPRESSION_UNSUPPORTED",
    /// The credential of a write is not live.
    SessionGone = "SESSION_GONE",
    /// `if_version` is stale.
    VersionMismatch = "VERSION_MISMATCH",
    /// The principal has as many sessions as it may have.
    TooManySessions = "TOO_MANY_SESSIONS",
    /// The daemon has too much to do.
    Overloaded = "OVERLOADED",
    /// The store has no room left.
    StoreFull = "STORE_FULL",
    /// The store failed, which says nothing about the session.
    StoreUnavailable = "STORE_UNAVAILABLE",
    /// The daemon stops.
    ShuttingDown = "SHUTTING_DOWN",
    /// The stored record is damaged.
    RecordUnreadable = "RECORD_UNREADABLE",
    /// The daemon asks for a bearer token.
    TokenRequired = "TOKEN_REQUIRED",
    /// The daemon does not know the bearer token.
    TokenUnknown = "TOKEN_UNKNOWN",
    /// The bearer token, or the certificate, has another role than the address asks for.
    RoleRequired = "ROLE_REQUIRED",
    /// The time is over.
    Timeout = "TIMEOUT",
    /// The daemon cannot be reached, or the connection was cut.
    ConnectionFailed = "CONNECTION_FAILED",
    /// More operations at a time than `max_in_flight`.
    InFlightLimit = "IN_FLIGHT_LIMIT",
    /// The client was closed.
    Closed = "CLOSED",
    /// The other side does not speak the protocol of sessiond.
    ProtocolError = "PROTOCOL_ERROR",
    /// The daemon is older than this crate.
    DaemonTooOld = "DAEMON_TOO_OLD",
    /// A change with an id from before a login.
    Superseded = "SUPERSEDED",
    /// The response head was sent already: the browser would not get its cookie.
    HeadSent = "HEAD_SENT",
    /// The handler is not under a session layer.
    NoSessionLayer = "NO_SESSION_LAYER",
    /// A reason that this crate does not know. The message has the daemon's text.
    Unrecognized = "UNRECOGNIZED",
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Reason {
    /// Whether the same call can succeed a moment later.
    fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::Overloaded
                | Self::StoreFull
                | Self::StoreUnavailable
                | Self::ShuttingDown
                | Self::VersionMismatch
                | Self::Timeout
                | Self::ConnectionFailed
                | Self::InFlightLimit
        )
    }
}

impl Error {
    pub(crate) fn new(
        reason: Reason,
        code: Code,
        applied: Applied,
        message: impl Into<String>,
    ) -> Self {
        Self::sort(Inner {
            reason,
            code,
            applied,
            retryable: reason.is_retryable(),
            retry_after: None,
            field: None,
            message: message.into(),
            source: None,
        })
    }

    fn sort(inner: Inner) -> Self {
        let reason = inner.reason;
        let failure = Failure(Arc::new(inner));
        match reason {
            Reason::StoreFull
            | Reason::StoreUnavailable
            | Reason::ShuttingDown
            | Reason::Timeout
            | Reason::ConnectionFailed
            | Reason::Closed => Self::Unavailable(failure),
            Reason::Overloaded | Reason::InFlightLimit => Self::Overloaded(failure),
            Reason::VersionMismatch => Self::VersionMismatch(failure),
            Reason::SessionGone => Self::SessionGone(failure),
            Reason::Superseded => Self::Superseded(failure),
            Reason::TooManySessions => Self::TooManySessions(failure),
            Reason::InvalidArgument | Reason::InvalidData | Reason::UnknownEngine => {
                Self::InvalidArgument(failure)
            }
            Reason::DataTooLarge | Reason::MessageTooLarge => Self::DataTooLarge(failure),
            Reason::RecordUnreadable => Self::RecordUnreadable(failure),
            Reason::TokenRequired | Reason::TokenUnknown | Reason::RoleRequired => {
                Self::Authentication(failure)
            }
            Reason::MalformedMessage
            | Reason::CompressionUnsupported
            | Reason::ProtocolError
            | Reason::DaemonTooOld
            | Reason::HeadSent
            | Reason::NoSessionLayer
            | Reason::Unrecognized => Self::Setup(failure),
        }
    }

    fn inner(&self) -> &Inner {
        match self {
            Self::Unavailable(failure)
            | Self::Overloaded(failure)
            | Self::VersionMismatch(failure)
            | Self::SessionGone(failure)
            | Self::Superseded(failure)
            | Self::TooManySessions(failure)
            | Self::InvalidArgument(failure)
            | Self::DataTooLarge(failure)
            | Self::RecordUnreadable(failure)
            | Self::Authentication(failure)
            | Self::Setup(failure) => &failure.0,
        }
    }

    fn with(&self, change: impl FnOnce(&mut Inner)) -> Self {
        let mut inner = self.inner().clone();
        change(&mut inner);
        Self::sort(inner)
    }

    pub(crate) fn with_applied(self, applied: Applied) -> Self {
        self.with(|inner| inner.applied = applied)
    }

    pub(crate) fn with_reason(self, reason: Reason) -> Self {
        self.with(|inner| {
            inner.reason = reason;
            inner.retryable = reason.is_retryable();
        })
    }

    pub(crate) fn with_retry_after(self, retry_after: Option<Duration>) -> Self {
        self.with(|inner| inner.retry_after = retry_after)
    }

    pub(crate) fn with_field(self, field: impl Into<String>) -> Self {
        self.with(|inner| inner.field = Some(field.into()))
    }

    pub(crate) fn with_source(self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.with(|inner| inner.source = Some(Arc::new(source)))
    }

    /// A repetition would not help, or could do the same a second time.
    pub(crate) fn not_retryable(self) -> Self {
        self.with(|inner| inner.retryable = false)
    }

    pub(crate) fn invalid(field: &str, message: impl fmt::Display) -> Self {
        Self::new(
            Reason::InvalidArgument,
            Code::InvalidArgument,
            Applied::No,
            format!("{field}: {message}"),
        )
        .with_field(field)
    }

    pub(crate) fn invalid_data(message: impl Into<String>) -> Self {
        Self::new(Reason::InvalidData, Code::InvalidArgument, Applied::No, message)
            .with_field("set")
    }

    pub(crate) fn superseded() -> Self {
        Self::new(
            Reason::Superseded,
            Code::Aborted,
            Applied::No,
            "the session id was replaced by a login; send the request again",
        )
    }

    pub(crate) fn gone() -> Self {
        Self::new(
            Reason::SessionGone,
            Code::NotFound,
            Applied::No,
            "the session ended during this request",
        )
    }

    pub(crate) fn closed(applied: Applied) -> Self {
        Self::new(Reason::Closed, Code::Cancelled, applied, "the client is closed")
    }

    /// Why it failed. Act upon it, or upon the variant, not upon the text.
    pub fn reason(&self) -> Reason {
        self.inner().reason
    }

    /// The name of the gRPC code, such as `"UNAVAILABLE"`.
    pub fn code(&self) -> &'static str {
        match self.inner().code {
            Code::Ok => "OK",
            Code::Cancelled => "CANCELLED",
            Code::Unknown => "UNKNOWN",
            Code::InvalidArgument => "INVALID_ARGUMENT",
            Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Code::NotFound => "NOT_FOUND",
            Code::AlreadyExists => "ALREADY_EXISTS",
            Code::PermissionDenied => "PERMISSION_DENIED",
            Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Code::FailedPrecondition => "FAILED_PRECONDITION",
            Code::Aborted => "ABORTED",
            Code::OutOfRange => "OUT_OF_RANGE",
            Code::Unimplemented => "UNIMPLEMENTED",
            Code::Internal => "INTERNAL",
            Code::Unavailable => "UNAVAILABLE",
            Code::DataLoss => "DATA_LOSS",
            Code::Unauthenticated => "UNAUTHENTICATED",
        }
    }

    /// Whether something may have been changed all the same.
    pub fn applied(&self) -> Applied {
        self.inner().applied
    }

    /// Whether the same call can succeed a moment later.
    pub fn is_retryable(&self) -> bool {
        self.inner().retryable
    }

    /// After how long to try again, if that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        self.inner().retry_after
    }

    /// The argument that is at fault, if there is one.
    pub fn field(&self) -> Option<&str> {
        self.inner().field.as_deref()
    }

    /// Whether the daemon or its store is away, or has too much to do: answer 503.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Overloaded(_))
    }

    /// The status to answer with if this error ends a request: 503 while the daemon or its
    /// store is away, 409 for a change with an id from before a login or of a session that
    /// ended, 413, 403, otherwise 500.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Unavailable(_) | Self::Overloaded(_) | Self::VersionMismatch(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Superseded(_) | Self::SessionGone(_) => StatusCode::CONFLICT,
            Self::DataTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooManySessions(_) => StatusCode::FORBIDDEN,
            Self::InvalidArgument(_)
            | Self::RecordUnreadable(_)
            | Self::Authentication(_)
            | Self::Setup(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Seconds for Retry-After; `None` if the answer has none.
    #[cfg(feature = "axum")]
    pub(crate) fn retry_after_seconds(&self) -> Option<u64> {
        let seconds = self.retry_after().unwrap_or_default().as_secs_f64().ceil().max(1.0);
        (self.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(seconds as u64)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner().message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.inner();
        f.debug_struct("Error")
            .field("reason", &inner.reason)
            .field("code", &inner.code)
            .field("applied", &inner.applied)
            .field("retry_after", &inner.retry_after)
            .field("field", &inner.field)
            .field("message", &inner.message)
            .finish()
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Failure").field(&self.0.reason).finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner().source.as_deref().map(|source| source as _)
    }
}
