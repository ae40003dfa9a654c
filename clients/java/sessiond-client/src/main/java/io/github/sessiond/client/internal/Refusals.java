package io.github.sessiond.client.internal;

import io.github.sessiond.client.DataTooLargeException;
import io.github.sessiond.client.Description;
import io.github.sessiond.client.Engine;
import io.github.sessiond.client.Reason;
import io.github.sessiond.client.SessiondException;
import io.github.sessiond.client.internal.pb.PipelineRequest;
import java.util.Optional;

/** What the daemon would refuse by ending the stream, for everybody; and data that are too large anyhow. */
final class Refusals {
    /** So much is accepted whatever max_data_bytes is. */
    private static final int ALWAYS_ACCEPTED = 4096;

    private Refusals() {}

    /** Why a message is not sent; null: it is. */
    static SessiondException of(PipelineRequest message, Description description) {
        int size = message.getWrite().getSetBytes().size();
        if (size > ALWAYS_ACCEPTED) {
            Optional<Engine> engine = description.engine(message.getWrite().getEngine());
            if (engine.isPresent() && size > engine.get().maxDataBytes()) {
                return new DataTooLargeException(
                        "the data are larger than max_data_bytes of the engine (" + engine.get().maxDataBytes() + " bytes)",
                        new SessiondException.Details(Reason.DATA_TOO_LARGE, "INVALID_ARGUMENT").field("set"));
            }
        }
        int limit = description.limits().maxMessageBytes();
        if (limit > 0 && message.getSerializedSize() > limit) {
            return new DataTooLargeException(
                    "the message is larger than limits.max_message_bytes of the daemon (" + limit + " bytes)",
                    new SessiondException.Details(Reason.MESSAGE_TOO_LARGE, "INVALID_ARGUMENT"));
        }
        return null;
    }
}
