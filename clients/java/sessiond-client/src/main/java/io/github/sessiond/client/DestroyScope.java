package io.github.sessiond.client;

/** Which sessions a destroy ends. */
public enum DestroyScope {
    /** The session of the credential. */
    THIS,
    /** All of the principal's sessions but this one. None if it is anonymous. */
    OTHERS,
    /** All of the principal's sessions. The same as {@link #THIS} if it is anonymous. */
    ALL
}
