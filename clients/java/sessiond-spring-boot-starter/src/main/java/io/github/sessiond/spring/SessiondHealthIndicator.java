package io.github.sessiond.spring;

import io.github.sessiond.client.SessiondClient;
import org.springframework.boot.health.contributor.AbstractHealthIndicator;
import org.springframework.boot.health.contributor.Health;

/** Whether the daemon can be reached. */
final class SessiondHealthIndicator extends AbstractHealthIndicator {
    private final SessiondClient client;

    SessiondHealthIndicator(SessiondClient client) {
        super("sessiond cannot be reached");
        this.client = client;
    }

    @Override
    protected void doHealthCheck(Health.Builder builder) {
        builder.up().withDetail("version", client.describe().version());
    }
}
