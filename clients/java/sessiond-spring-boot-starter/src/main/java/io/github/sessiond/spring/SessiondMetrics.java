package io.github.sessiond.spring;

import io.github.sessiond.client.Reason;
import io.github.sessiond.client.SessiondException;
import io.github.sessiond.client.SessiondListener;
import io.micrometer.core.instrument.MeterRegistry;
import java.util.Set;
import java.util.function.Consumer;
import org.springframework.beans.factory.ObjectProvider;

/** Tells Micrometer what the client does. */
final class SessiondMetrics implements SessiondListener {
    private final ObjectProvider<MeterRegistry> registry;

    SessiondMetrics(ObjectProvider<MeterRegistry> registry) {
        this.registry = registry;
    }

    @Override
    public void connected(String address, String version) {
        tell(meters -> meters.counter("sessiond.client.connections", "outcome", "connected").increment());
    }

    @Override
    public void connectFailed(String address, SessiondException error) {
        tell(meters -> meters.counter("sessiond.client.connections", "outcome", error.reason().name()).increment());
    }

    @Override
    public void disconnected(String address, Reason reason, int unanswered) {
        tell(meters -> meters.counter("sessiond.client.disconnections", "reason", reason.name()).increment());
    }

    @Override
    public void finished(Operation operation) {
        String outcome = operation.error() == null ? "SUCCESS" : operation.error().reason().name();
        tell(meters -> meters.timer("sessiond.client.operations", "operation", operation.name(), "outcome", outcome).record(operation.duration()));
    }

    @Override
    public void dropped(String sessionId, Set<String> keys) {
        tell(meters -> meters.counter("sessiond.client.dropped").increment());
    }

    private void tell(Consumer<MeterRegistry> what) {
        registry.ifUnique(what);
    }
}
