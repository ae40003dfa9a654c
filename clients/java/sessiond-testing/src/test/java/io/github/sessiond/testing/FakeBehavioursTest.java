package io.github.sessiond.testing;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.sessiond.client.Reason;
import io.github.sessiond.client.RequestSession;
import io.github.sessiond.client.UnavailableException;
import java.nio.charset.StandardCharsets;
import java.util.Map;
import org.junit.jupiter.api.Nested;
import org.junit.jupiter.api.Test;

class FakeBehavioursTest {
    @Nested
    class OfTheClient extends Behaviours {
        private final World world = World.fake();

        @Override
        World world() {
            return world;
        }
    }

    @Nested
    class OfTheSession extends SessionBehaviours {
        private final World world = World.fake();

        @Override
        World world() {
            return world;
        }
    }

    @Test
    void aLogoutThatFailsMakesNobodyOfNobody() {
        FakeSessiond fake = FakeSessiond.create();
        String cookie = fake.cookie("ann", Map.of("a", 1));
        RequestSession session = new RequestSession(fake, cookie.getBytes(StandardCharsets.ISO_8859_1));
        fake.fail(Reason.STORE_UNAVAILABLE, 1, "destroy");
        assertThatThrownBy(session::logout).isInstanceOf(UnavailableException.class);
        assertThat(session.principal()).as("she is still logged in").isEqualTo("ann");
        session.data().set("a", 2);
        session.save();
        assertThat(fake.sessions()).as("no session was made beside hers").hasSize(1);
        assertThat(session.logout()).isTrue();
    }
}
