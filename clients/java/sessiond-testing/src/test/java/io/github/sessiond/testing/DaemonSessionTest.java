package io.github.sessiond.testing;

import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.condition.EnabledIf;

@EnabledIf(value = "io.github.sessiond.testing.DaemonProcess#exists", disabledReason = "no daemon: set SESSIOND_BIN")
class DaemonSessionTest extends SessionBehaviours {
    private static World world;

    @BeforeAll
    static void start() {
        world = World.daemon();
    }

    @AfterAll
    static void stop() {
        world.close();
    }

    @Override
    World world() {
        return world;
    }
}
