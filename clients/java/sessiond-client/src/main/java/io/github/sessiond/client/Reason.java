package io.github.sessiond.client;

/** Why an operation failed: the reason that the daemon gives, or one of the client's own. */
public enum Reason {
    /** An argument has a value that is not allowed. */
    INVALID_ARGUMENT,
    /** A value is not JSON, or the data have too many keys or levels. */
    INVALID_DATA,
    /** The data would be larger than the engine's {@code max_data_bytes}. */
    DATA_TOO_LARGE,
    /** The daemon has no engine of that name. */
    UNKNOWN_ENGINE,
    /** The daemon cannot decode the message. */
    MALFORMED_MESSAGE,
    /** The message is larger than the daemon's {@code limits.max_message_bytes}. */
    MESSAGE_TOO_LARGE,
    /** Messages must be sent uncompressed. */
    COMPRESSION_UNSUPPORTED,
    /** The session of a write is not live. */
    SESSION_GONE,
    /** {@code ifVersion} is stale. */
    VERSION_MISMATCH,
    /** The principal has as many sessions as allowed. */
    TOO_MANY_SESSIONS,
    /** The daemon has too much to do. */
    OVERLOADED,
    /** The daemon's store is nearly full. */
    STORE_FULL,
    /** The daemon's store failed, which says nothing about the session. */
    STORE_UNAVAILABLE,
    /** The daemon stops. */
    SHUTTING_DOWN,
    /** The stored record is damaged. */
    RECORD_UNREADABLE,
    /** The daemon asks for a bearer token. */
    TOKEN_REQUIRED,
    /** The daemon does not know the bearer token. */
    TOKEN_UNKNOWN,
    /** The bearer token, or the certificate, does not have the role of this listener. */
    ROLE_REQUIRED,
    /** The time was over. */
    TIMEOUT,
    /** The client's own: the daemon cannot be reached, or the connection was cut. */
    CONNECTION_FAILED,
    /** The client's own: more operations than {@code maxInFlight}. */
    IN_FLIGHT_LIMIT,
    /** The client's own: the client is closed. */
    CLOSED,
    /** The client's own: the other side does not speak the protocol. */
    PROTOCOL_ERROR,
    /** The client's own: the daemon is older than this client. */
    DAEMON_TOO_OLD,
    /** The client's own: a change with an id from before a login. */
    SUPERSEDED,
    /** A reason that is newer than this client; see {@link SessiondException#code()}. */
    OTHER
}
