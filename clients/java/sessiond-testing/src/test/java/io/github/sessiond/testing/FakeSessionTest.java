package io.github.sessiond.testing;

import org.junit.jupiter.api.AfterEach;

class FakeSessionTest extends SessionBehaviours {
    private final World world = World.fake();

    @Override
    World world() {
        return world;
    }

    @AfterEach
    void close() {
        world.close();
    }
}
