package io.github.sessiond.client;

/** Whether an operation that failed may have changed something all the same. */
public enum Applied {
    /** Nothing was changed. */
    NO,
    /** Nobody knows. */
    UNKNOWN
}
