package io.github.sessiond.client.internal;

import com.google.protobuf.Message;
import io.github.sessiond.client.internal.pb.DestroyRequest;
import io.github.sessiond.client.internal.pb.PipelineRequest;
import io.github.sessiond.client.internal.pb.ResolveRequest;
import io.github.sessiond.client.internal.pb.SessionServiceListSessionsRequest;
import io.github.sessiond.client.internal.pb.TouchRequest;
import io.github.sessiond.client.internal.pb.WriteRequest;
import java.util.concurrent.CompletableFuture;

/** One operation on its way. What is not final is guarded by the lock of the {@link Dispatcher}. */
final class Operation {
    /** What is asked; null: to be told what the daemon is. */
    final Message request;
    /** A repetition does no harm after an unknown outcome. */
    final boolean safe;
    final long sequence;
    final long started;
    final long deadline;
    final CompletableFuture<Object> future = new CompletableFuture<>();

    /** Where it was sent; null: it is queued, or waits for its repetition. */
    Connection connection;
    /** It may have taken effect already. */
    boolean uncertain;
    int retries;
    int cuts;
    boolean done;
    // Neighbours in the list of all operations, which is in the order of the deadlines.
    Operation previous;
    Operation next;

    Operation(Message request, boolean safe, long sequence, long started, long deadline) {
        this.request = request;
        this.safe = safe;
        this.sequence = sequence;
        this.started = started;
        this.deadline = deadline;
    }

    /** The message of the Pipeline; {@code nanos}: how long it may take. */
    PipelineRequest message(long nanos) {
        PipelineRequest.Builder message = PipelineRequest.newBuilder().setSequence(sequence);
        message.getTimeoutBuilder().setSeconds(nanos / 1_000_000_000).setNanos((int) (nanos % 1_000_000_000));
        if (request instanceof ResolveRequest resolve) {
            message.setResolve(resolve);
        } else if (request instanceof TouchRequest touch) {
            message.setTouch(touch);
        } else if (request instanceof WriteRequest write) {
            message.setWrite(write);
        } else if (request instanceof DestroyRequest destroy) {
            message.setDestroy(destroy);
        }
        return message.build();
    }

    String name() {
        if (request == null) {
            return "describe";
        }
        return request instanceof ResolveRequest ? "resolve"
                : request instanceof TouchRequest ? "touch"
                : request instanceof WriteRequest ? "write"
                : request instanceof DestroyRequest ? "destroy" : "list";
    }

    String engine() {
        if (request instanceof ResolveRequest resolve) {
            return resolve.getEngine();
        } else if (request instanceof TouchRequest touch) {
            return touch.getEngine();
        } else if (request instanceof WriteRequest write) {
            return write.getEngine();
        } else if (request instanceof DestroyRequest destroy) {
            return destroy.getEngine();
        }
        return request instanceof SessionServiceListSessionsRequest list ? list.getEngine() : "";
    }
}
