package io.github.sessiond.testing;

import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Nested;
import org.junit.jupiter.api.condition.EnabledIf;

@EnabledIf(value = "io.github.sessiond.testing.DaemonProcess#exists", disabledReason = "no daemon: set SESSIOND_BIN")
class DaemonBehavioursTest {
    private static World world;

    @BeforeAll
    static void start() {
        world = World.daemon();
    }

    @AfterAll
    static void stop() {
        world.close();
    }

    @Nested
    class OfTheClient extends Behaviours {
        @Override
        World world() {
            return world;
        }
    }

    @Nested
    class OfTheSession extends SessionBehaviours {
        @Override
        World world() {
            return world;
        }
    }
}
