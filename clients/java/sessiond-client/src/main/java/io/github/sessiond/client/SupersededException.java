package io.github.sessiond.client;

/**
 * A change with an id from before a login. The request was sent before the browser had its new cookie, or the old cookie
 * is replayed. Answer 409: sent again, the request has the new cookie.
 */
public class SupersededException extends SessiondException {
    private static final long serialVersionUID = 1;

    /** Makes an exception. */
    public SupersededException() {
        super("the session id was replaced by a login; send the request again", new Details(Reason.SUPERSEDED, "ABORTED"));
    }

    @Override
    public int httpStatus() {
        return 409;
    }
}
