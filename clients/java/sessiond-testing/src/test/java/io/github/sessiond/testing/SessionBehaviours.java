package io.github.sessiond.testing;

import static io.github.sessiond.testing.World.someone;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.sessiond.client.Device;
import io.github.sessiond.client.InvalidArgumentException;
import io.github.sessiond.client.LoginOptions;
import io.github.sessiond.client.RequestSession;
import io.github.sessiond.client.SessionGoneException;
import io.github.sessiond.client.SessionState;
import io.github.sessiond.client.SessiondClient;
import io.github.sessiond.client.SupersededException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.parallel.Execution;
import org.junit.jupiter.api.parallel.ExecutionMode;
import tools.jackson.core.type.TypeReference;

/** One request's view of its session, over the fake and over the real daemon. */
@Execution(ExecutionMode.CONCURRENT)
abstract class SessionBehaviours {
    private static final TypeReference<List<String>> TEXTS = new TypeReference<>() {};

    abstract World world();

    /** A browser: it keeps the cookie of each request. */
    private static final class Browser {
        private final SessiondClient client;
        private String cookie;

        Browser(SessiondClient client) {
            this.client = client;
        }

        RequestSession request() {
            String header = "theme=dark" + (cookie == null ? "" : "; " + cookie);
            return new RequestSession(client, header.getBytes(StandardCharsets.ISO_8859_1));
        }

        void took(RequestSession session) {
            String line = session.setCookie();
            if (line != null) {
                cookie = line.contains("Max-Age=0") ? null : World.header(line);
            }
        }

        Browser twin() {
            Browser twin = new Browser(client);
            twin.cookie = cookie;
            return twin;
        }

        RequestSession visit() {
            RequestSession session = request();
            session.update(data -> {
                data.set("visits", data.get("visits", Integer.class, 0) + 1);
                return null;
            });
            took(session);
            return session;
        }

        void login(String principal) {
            RequestSession session = request();
            session.login(principal);
            took(session);
        }
    }

    private Browser browser() {
        return new Browser(world().client());
    }

    @Test
    void aVisitorHasNoSessionAndReadingMakesNone() {
        Browser browser = browser();
        RequestSession session = browser.request();
        assertThat(session.state()).isEqualTo(SessionState.NONE);
        assertThat(session.data().keys()).isEmpty();
        assertThat(session.id()).isNull();
        assertThat(session.save()).isTrue();
        assertThat(session.setCookie()).isNull();
    }

    @Test
    void whatChangedIsWrittenOnceAlsoDeepInside() {
        Browser browser = browser();
        RequestSession first = browser.request();
        first.data().set("cart", new ArrayList<>(List.of("tea")));
        first.data().set("n", 5_000_000_000L);
        assertThat(first.save()).isTrue();
        assertThat(first.isNew()).isTrue();
        browser.took(first);

        RequestSession second = browser.request();
        assertThat(second.data().get("n", Long.class)).isEqualTo(5_000_000_000L);
        second.data().get("cart", TEXTS).add("milk");
        second.save();
        second.save();
        assertThat(second.info().version()).as("one write").isEqualTo(2);
        assertThat(second.setCookie()).as("nothing to learn").isNull();

        RequestSession third = browser.request();
        assertThat(third.data().get("cart", TEXTS)).containsExactly("tea", "milk");
        third.data().set("cart", List.of("tea", "milk"));
        third.save();
        assertThat(third.info().version()).as("nothing changed").isEqualTo(2);
        third.data().remove("cart");
        third.save();
        assertThat(browser.request().data().keys()).containsExactly("n");
    }

    @Test
    void whatNobodyTouchesKeepsItsOctets() {
        Browser browser = browser();
        RequestSession first = browser.request();
        first.data().setJson("big", "12345678901234567890123");
        first.data().setJson("e", "1.50");
        first.save();
        browser.took(first);
        RequestSession second = browser.request();
        assertThat(second.data().get("e", Double.class)).isEqualTo(1.5);
        second.data().set("other", 1);
        second.save();
        assertThat(browser.request().info().json()).contains("\"big\":12345678901234567890123", "\"e\":1.50");
    }

    @Test
    void parallelUpdatesLoseNothing() {
        Browser browser = browser();
        browser.visit();
        CompletableFuture.allOf(IntStream.range(0, 10).mapToObj(i -> CompletableFuture.runAsync(browser::visit)).toArray(CompletableFuture[]::new)).join();
        assertThat(browser.request().data().get("visits", Integer.class)).isEqualTo(11);
    }

    @Test
    void anUpdateLeavesUnsavedChangesOfOtherKeys() {
        Browser browser = browser();
        browser.visit();
        RequestSession slow = browser.request();
        slow.data().set("theme", "dark");
        slow.data().set("visits", 100);
        browser.visit();
        int visits = slow.update(data -> {
            data.set("visits", data.get("visits", Integer.class) + 1);
            return data.get("visits", Integer.class);
        });
        assertThat(visits).isEqualTo(3);
        assertThat(slow.data().get("theme", String.class)).isEqualTo("dark");
        assertThat(slow.data().get("visits", Integer.class)).isEqualTo(3);
        slow.save();
        RequestSession after = browser.request();
        assertThat(after.data().get("theme", String.class)).isEqualTo("dark");
        assertThat(after.data().get("visits", Integer.class)).isEqualTo(3);
    }

    @Test
    void aLoginKeepsAnAnonymousCartAndDropsAnotherUsers() {
        Browser browser = browser();
        browser.visit();
        String before = browser.cookie;
        String ann = someone();
        RequestSession login = browser.request();
        login.data().set("cart", List.of("tea"));
        login.login(ann, new LoginOptions(true, "Firefox", null));
        browser.took(login);
        assertThat(browser.cookie).isNotEqualTo(before);
        assertThat(login.info().label()).isEqualTo("Firefox");
        RequestSession session = browser.request();
        assertThat(session.principal()).isEqualTo(ann);
        assertThat(session.data().keys()).containsExactlyInAnyOrder("visits", "cart");
        browser.login(someone());
        assertThat(browser.request().data().keys()).isEmpty();
        assertThat(browser.request().info().label()).isEmpty();
    }

    @Test
    void anIdFromBeforeALoginIsNobodysAndEveryChangeIsRefused() {
        Browser late = browser();
        late.visit();
        Browser ann = late.twin();
        ann.login(someone());
        RequestSession session = late.request();
        assertThat(session.isSuperseded()).isTrue();
        assertThat(session.principal()).isNull();
        assertThat(session.data().keys()).isEmpty();
        session.data().set("a", 1);
        assertThatThrownBy(session::save).isInstanceOf(SupersededException.class);
        assertThatThrownBy(() -> session.update(data -> {
            data.set("a", 1);
            return null;
        })).isInstanceOf(SupersededException.class);
        assertThatThrownBy(() -> session.login("x")).isInstanceOf(SupersededException.class);
        assertThatThrownBy(session::create).isInstanceOf(SupersededException.class);
        assertThatThrownBy(session::logoutEverywhere).isInstanceOf(SupersededException.class);
        assertThat(session.setCookie()).isNull();
        assertThat(late.request().logout()).as("a logout ends it all the same").isTrue();
        assertThat(ann.request().isLive()).isFalse();
    }

    @Test
    void aLogoutIsNotUndoneByAParallelRequest() {
        Browser browser = browser();
        browser.visit();
        RequestSession slow = browser.request();
        slow.data().set("theme", "dark");
        RequestSession updates = browser.request();
        updates.load();
        RequestSession creates = browser.request();
        creates.load();
        RequestSession logout = browser.request();
        assertThat(logout.logout()).isTrue();
        assertThat(logout.setCookie()).contains("Max-Age=0");
        assertThat(logout.isLive()).isFalse();
        assertThat(slow.save()).as("the change is dropped").isFalse();
        assertThat(slow.data().keys()).isEmpty();
        assertThatThrownBy(() -> updates.update(data -> {
            data.set("a", 1);
            return null;
        })).isInstanceOf(SessionGoneException.class);
        assertThat(browser.request().isLive()).isFalse();
    }

    @Test
    void afterALogoutTheRequestCanBeginANewSession() {
        Browser browser = browser();
        browser.visit();
        RequestSession session = browser.request();
        String before = session.id();
        session.logout();
        session.data().set("a", 1);
        assertThat(session.save()).isTrue();
        assertThat(session.id()).isNotEqualTo(before);
        assertThat(session.setCookie()).doesNotContain("Max-Age=0");
    }

    @Test
    void devicesAndTheirEnd() {
        SessiondClient client = world().client();
        String ann = someone();
        Browser here = new Browser(client);
        Browser there = new Browser(client);
        Browser away = new Browser(client);
        List.of(here, there, away).forEach(browser -> browser.login(ann));
        List<Device> devices = here.request().devices();
        assertThat(devices).hasSize(3);
        assertThat(devices.stream().filter(Device::current)).singleElement().extracting(Device::id).isEqualTo(here.request().id());
        assertThat(here.request().end(List.of(there.request().id(), "unknown"))).isEqualTo(1);
        assertThat(here.request().logoutOthers()).isEqualTo(1);
        assertThat(away.request().isLive()).isFalse();
        there.login(ann);
        assertThat(here.request().logoutEverywhere()).isEqualTo(2);
        assertThat(there.request().isLive()).isFalse();
    }

    @Test
    void rollAndDisownGiveANewIdAndKeepTheData() {
        Browser browser = browser();
        browser.visit();
        browser.login(someone());
        Browser old = browser.twin();
        RequestSession rolls = browser.request();
        rolls.data().set("extra", 1);
        rolls.roll();
        browser.took(rolls);
        assertThat(old.request().isSuperseded()).isTrue();
        RequestSession disowns = browser.request();
        disowns.disown();
        browser.took(disowns);
        RequestSession after = browser.request();
        assertThat(after.principal()).isNull();
        assertThat(after.data().keys()).containsExactlyInAnyOrder("visits", "extra");
    }

    @Test
    void touchPersistentAndReload() {
        Browser browser = browser();
        RequestSession planned = browser.request();
        planned.setPersistent(false);
        planned.touch(Duration.ofMinutes(5));
        assertThat(planned.create()).isNotNull();
        assertThat(planned.info().duration()).isEqualTo(Duration.ofMinutes(5));
        assertThat(planned.setCookie()).doesNotContain("Max-Age");
        browser.took(planned);
        RequestSession session = browser.request();
        session.setPersistent(true);
        assertThat(session.setCookie()).contains("Max-Age");
        assertThat(session.touch(Duration.ofMinutes(6))).isTrue();
        session.data().set("unsaved", 1);
        assertThat(session.reload()).isTrue();
        assertThat(session.data().keys()).isEmpty();
        assertThat(session.info().duration()).isEqualTo(Duration.ofMinutes(6));
    }

    @Test
    void dataThatAreNotJsonAreRefusedAndNothingIsTold() {
        RequestSession session = browser().request();
        List<Object> cycle = new ArrayList<>();
        cycle.add(cycle);
        Map<String, Object> bad = Map.of(
                "lambda", (Runnable) () -> {},
                "object", new Object(),
                "NaN", Double.NaN,
                "infinity", Float.POSITIVE_INFINITY,
                "cycle", cycle,
                "thread", List.of(Map.of("secret", new Object())));
        bad.forEach((key, value) -> assertThatThrownBy(() -> session.data().set(key, value)).as(key)
                .isInstanceOf(InvalidArgumentException.class)
                .hasMessageContaining("\"" + key + "\"")
                .hasMessageNotContaining("secret"));
        assertThatThrownBy(() -> session.data().set("half \ud83d", 1)).isInstanceOf(InvalidArgumentException.class);
        session.data().set("text", "secret");
        assertThatThrownBy(() -> session.data().get("text", Integer.class)).isInstanceOf(InvalidArgumentException.class).hasMessageNotContaining("secret");
        assertThat(session.data().keys()).containsExactly("text");
    }
}
