package io.github.sessiond.servlet;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.sessiond.client.InvalidArgumentException;
import io.github.sessiond.client.Reason;
import io.github.sessiond.testing.FakeSessiond;
import jakarta.servlet.AsyncContext;
import jakarta.servlet.AsyncEvent;
import jakarta.servlet.AsyncListener;
import jakarta.servlet.DispatcherType;
import jakarta.servlet.http.HttpSession;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.http.HttpResponse;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.atomic.AtomicInteger;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import tools.jackson.core.type.TypeReference;
import tools.jackson.databind.json.JsonMapper;
import tools.jackson.databind.module.SimpleModule;

/** What code that knows only HttpSession sees, in a real container. */
@Timeout(60)
class SessiondFilterTest {
    /** A class of the application. */
    public record User(String name, long number) {}

    @TempDir
    Path folder;

    private FakeSessiond fake;
    private Site site;

    @BeforeEach
    void start() throws Exception {
        fake = FakeSessiond.create();
        site = new Site(SessiondFilter.builder(fake).attribute("user", User.class).attribute("roles", new TypeReference<Set<String>>() {}).build(), folder);
    }

    @AfterEach
    void stop() throws Exception {
        site.close();
    }

    private static List<String> setCookies(HttpResponse<?> response) {
        return response.headers().allValues("Set-Cookie");
    }

    @Test
    void attributesComeBackInTheNextRequestAsTheyWere() throws Exception {
        HttpResponse<String> first = site.ask((request, response) -> {
            HttpSession session = request.getSession();
            assertThat(session.isNew()).isTrue();
            session.setAttribute("text", "hello");
            session.setAttribute("number", 7);
            session.setAttribute("cart", new ArrayList<>(List.of("tea", Map.of("milk", true))));
            session.setAttribute("user", new User("ann", 5));
            session.setAttribute("roles", Set.of("admin"));
            response.getWriter().write("ok");
        });
        assertThat(first.statusCode()).isEqualTo(200);
        assertThat(setCookies(first)).hasSize(1);
        assertThat(first.headers().firstValue("Cache-Control")).contains("no-store");
        HttpResponse<String> second = site.ask((request, response) -> {
            HttpSession session = request.getSession(false);
            assertThat(session.isNew()).isFalse();
            assertThat((String) session.getAttribute("text")).isEqualTo("hello");
            assertThat((Integer) session.getAttribute("number")).isEqualTo(7);
            @SuppressWarnings("unchecked")
            List<Object> cart = (List<Object>) session.getAttribute("cart");
            assertThat(cart).containsExactly("tea", Map.of("milk", true));
            cart.add("more");
            assertThat((User) session.getAttribute("user")).isEqualTo(new User("ann", 5));
            assertThat((Set<?>) session.getAttribute("roles")).isEqualTo(Set.of("admin"));
            assertThat(Collections.list(session.getAttributeNames())).containsExactlyInAnyOrder("text", "number", "cart", "user", "roles");
            session.removeAttribute("text");
            session.setAttribute("number", null);
        });
        assertThat(setCookies(second)).as("nothing to learn").isEmpty();
        site.ask((request, response) -> {
            assertThat(request.getSession().getAttribute("text")).isNull();
            assertThat(request.getSession().getAttribute("number")).isNull();
            assertThat(request.getSession().getAttribute("cart")).as("changed inside").asString().contains("more");
        });
        assertThat(fake.sessions()).singleElement().satisfies(session -> assertThat(session.version()).isEqualTo(2));
    }

    @Test
    void whatJacksonFindsOutAboutClassesIsKeptForAllRequests() throws Exception {
        AtomicInteger mappers = new AtomicInteger();
        SimpleModule counting = new SimpleModule("counting") {
            private static final long serialVersionUID = 1;

            @Override
            public void setupModule(SetupContext context) {
                mappers.incrementAndGet();
                super.setupModule(context);
            }
        };
        JsonMapper mapper = JsonMapper.builder().addModule(counting).build();
        try (Site other = new Site(SessiondFilter.builder(fake).jsonMapper(mapper).build(), folder.resolve("other"))) {
            int before = mappers.get();
            for (int request = 0; request < 3; request++) {
                other.ask((in, out) -> in.getSession().setAttribute("text", "hello"));
            }
            assertThat(mappers.get()).as("mappers that were made").isEqualTo(before);
        }
    }

    /** As another language, or a person, may have written it. */
    @Test
    void aValueIsWrittenOnlyIfItWasChangedInside() throws Exception {
        site.ask((request, response) -> {
            request.getSession();
            SessiondFilter.session(request).data().setJson("cart", "[ 1.50, {\"b\": 1e2} ]");
        });
        site.ask((request, response) -> assertThat(request.getSession().getAttribute("cart")).isEqualTo(List.of(1.5, Map.of("b", 100.0))));
        assertThat(fake.sessions()).singleElement().satisfies(session -> {
            assertThat(session.version()).as("nothing was changed").isEqualTo(1);
            assertThat(session.json()).contains("[ 1.50, {\"b\": 1e2} ]");
        });
        site.ask((request, response) -> {
            @SuppressWarnings("unchecked")
            List<Object> cart = (List<Object>) request.getSession().getAttribute("cart");
            cart.remove(0);
        });
        assertThat(fake.sessions()).singleElement().satisfies(session -> {
            assertThat(session.version()).isEqualTo(2);
            assertThat(session.json()).contains("[{\"b\":100.0}]");
        });
    }

    @Test
    void readingMakesNoSession() throws Exception {
        HttpResponse<String> response = site.ask((request, answer) -> {
            assertThat(request.getSession(false)).isNull();
            assertThat(request.getSession(true).getAttribute("a")).isNull();
            assertThat(request.isRequestedSessionIdValid()).isFalse();
        });
        assertThat(setCookies(response)).isEmpty();
        assertThat(fake.sessions()).isEmpty();
    }

    @Test
    void whatDoesNotComeBackFromJsonIsRefusedWithAHint() throws Exception {
        site.ask((request, response) -> {
            HttpSession session = request.getSession();
            assertThatThrownBy(() -> session.setAttribute("id", 5L))
                    .isInstanceOf(InvalidArgumentException.class)
                    .hasMessageContaining("SessiondFilter.builder(client).attribute(\"id\", Long.class)");
            for (Object value : List.of(new Object(), Set.of("a"), List.of(5L), 1.5f, 'c', new User("a", 1))) {
                assertThatThrownBy(() -> session.setAttribute("bad", value)).isInstanceOf(InvalidArgumentException.class);
            }
            assertThatThrownBy(() -> session.setAttribute("user", "ann")).hasMessageContaining("expected a io.github.sessiond.servlet.SessiondFilterTest$User");
            session.setAttribute("big", 5_000_000_000L);
        });
        site.ask((request, response) -> assertThat((Long) request.getSession().getAttribute("big")).isEqualTo(5_000_000_000L));
    }

    @Test
    void changeSessionIdGivesTheBrowserANewId() throws Exception {
        site.ask((request, response) -> request.getSession().setAttribute("a", 1));
        String before = site.cookie;
        site.ask((request, response) -> assertThat(request.changeSessionId()).isEqualTo(request.getSession().getId()));
        assertThat(site.cookie).isNotEqualTo(before);
        String fresh = site.cookie;
        site.cookie = before;
        HttpResponse<String> late = site.ask((request, response) -> {
            assertThat(request.getSession(false)).as("the old id is nobody's").isNull();
            request.getSession().setAttribute("a", 2);
        });
        assertThat(late.statusCode()).isEqualTo(409);
        assertThat(setCookies(late)).isEmpty();
        site.cookie = fresh;
        site.ask((request, response) -> assertThat(request.getSession(false).getAttribute("a")).isEqualTo(1));
    }

    @Test
    void invalidateEndsTheSessionAndTheRequestCanBeginAnother() throws Exception {
        site.ask((request, response) -> request.getSession().setAttribute("a", 1));
        HttpResponse<String> ended = site.ask((request, response) -> {
            HttpSession session = request.getSession();
            session.setAttribute("b", 1);
            session.invalidate();
            assertThatThrownBy(() -> session.getAttribute("a")).isInstanceOf(IllegalStateException.class);
            assertThat(request.getSession(false)).isNull();
        });
        assertThat(setCookies(ended)).singleElement().asString().contains("Max-Age=0");
        assertThat(fake.sessions()).isEmpty();
        HttpResponse<String> again = site.ask((request, response) -> {
            request.getSession().setAttribute("a", 1);
            request.getSession().invalidate();
            request.getSession().setAttribute("c", 1);
        });
        assertThat(setCookies(again)).hasSize(1);
        assertThat(fake.sessions()).singleElement().satisfies(session -> assertThat(session.json()).isEqualTo("{\"c\":1}"));
    }

    @Test
    void theCookieGoesOutBeforeTheHeadHoweverTheResponseIsWritten() throws Exception {
        List<Site.Page> ways = List.of(
                (request, response) -> {
                    request.getSession().setAttribute("a", 1);
                    response.getWriter().write("x".repeat(100_000));
                },
                (request, response) -> {
                    request.getSession().setAttribute("a", 1);
                    response.getOutputStream().write(new byte[100_000]);
                },
                (request, response) -> {
                    request.getSession().setAttribute("a", 1);
                    response.flushBuffer();
                },
                (request, response) -> {
                    request.getSession().setAttribute("a", 1);
                    response.setContentLength(2);
                    response.getWriter().print("ok");
                    response.getWriter().close();
                },
                (request, response) -> {
                    request.getSession().setAttribute("a", 1);
                    response.sendRedirect("/elsewhere");
                },
                (request, response) -> {
                    request.getSession().setAttribute("a", 1);
                    response.sendError(404);
                });
        for (Site.Page way : ways) {
            site.cookie = null;
            assertThat(setCookies(site.ask(way))).as("way %d", ways.indexOf(way)).hasSize(1);
            site.ask((request, response) -> assertThat(request.getSession().getAttribute("a")).isEqualTo(1));
        }
        HttpResponse<String> own = site.ask((request, response) -> {
            response.addHeader("Set-Cookie", "theme=dark");
            response.setHeader("Cache-Control", "private, max-age=60");
            request.changeSessionId();
            request.changeSessionId();
        });
        assertThat(setCookies(own)).as("the last one of the session's, and the application's own").hasSize(2);
        assertThat(own.headers().firstValue("Cache-Control")).contains("private, max-age=60");
    }

    @Test
    void asynchronousRequestsStoreTheirSessionToo() throws Exception {
        HttpResponse<String> completed = site.ask((request, response) -> {
            AsyncContext async = request.startAsync();
            async.start(() -> {
                request.getSession().setAttribute("a", 1);
                async.complete();
            });
        });
        assertThat(setCookies(completed)).hasSize(1);
        site.ask((request, response) -> {
            if (request.getDispatcherType() == DispatcherType.REQUEST) {
                request.startAsync().dispatch();
            } else {
                request.getSession().setAttribute("b", 2);
            }
        });
        assertThat(fake.sessions()).singleElement().satisfies(session -> assertThat(session.json()).isEqualTo("{\"a\":1,\"b\":2}"));
    }

    @Test
    void aListenerOfAnAsynchronousRequestCanChangeTheSessionAndComplete() throws Exception {
        HttpResponse<String> late = site.ask((request, response) -> {
            AsyncContext async = request.startAsync();
            async.setTimeout(1);
            async.addListener(new AsyncListener() {
                @Override
                public void onTimeout(AsyncEvent event) {
                    request.getSession().setAttribute("late", true);
                    event.getAsyncContext().complete();
                }

                @Override
                public void onComplete(AsyncEvent event) {}

                @Override
                public void onError(AsyncEvent event) {}

                @Override
                public void onStartAsync(AsyncEvent event) {}
            });
        });
        assertThat(setCookies(late)).hasSize(1);
        assertThat(fake.sessions()).singleElement().satisfies(session -> assertThat(session.json()).isEqualTo("{\"late\":true}"));
    }

    @Test
    void anAsynchronousRequestWhoseSessionCannotBeStoredIsA503() throws Exception {
        site.ask((request, response) -> request.getSession().setAttribute("a", 1));
        fake.fail(Reason.STORE_UNAVAILABLE, 1, "write");
        HttpResponse<String> unsaved = site.ask((request, response) -> {
            AsyncContext async = request.startAsync();
            async.start(() -> {
                try {
                    request.getSession().setAttribute("a", 2);
                    response.getWriter().write("saved");
                } catch (IOException failed) {
                    throw new UncheckedIOException(failed);
                } finally {
                    async.complete();
                }
            });
        });
        assertThat(unsaved.statusCode()).as("what could not be stored is not told as stored").isEqualTo(503);
        assertThat(unsaved.headers().firstValue("Retry-After")).contains("1");
        assertThat(unsaved.body()).doesNotContain("saved");
    }

    @Test
    void aResponseThatIsResetKeepsTheCookie() throws Exception {
        HttpResponse<String> response = site.ask((request, answer) -> {
            request.getSession().setAttribute("a", 1);
            // More than a quarter of the buffer: it could be full, so the session is stored. It is not, so a reset is allowed.
            answer.getWriter().write("x".repeat(answer.getBufferSize() / 2));
            answer.reset();
            answer.getWriter().write("another page");
        });
        assertThat(response.body()).isEqualTo("another page");
        assertThat(setCookies(response)).hasSize(1);
        site.ask((request, answer) -> assertThat(request.getSession().getAttribute("a")).isEqualTo(1));
    }

    @Test
    void anOutageIsA503WithRetryAfterAndNeverNobody() throws Exception {
        site.ask((request, response) -> request.getSession().setAttribute("a", 1));
        String cookie = site.cookie;
        fake.fail(Reason.STORE_UNAVAILABLE, 1, "resolve");
        HttpResponse<String> once = site.ask((request, response) -> {
            assertThatThrownBy(() -> request.getSession(false)).hasMessageContaining("STORE_UNAVAILABLE");
            request.getSession(false);
        });
        assertThat(once.statusCode()).as("it is not asked again at once").isEqualTo(503);
        fake.fail(Reason.STORE_UNAVAILABLE);
        HttpResponse<String> away = site.ask((request, response) -> response.getWriter().write("for " + request.getSession(false)));
        assertThat(away.statusCode()).isEqualTo(503);
        assertThat(away.headers().firstValue("Retry-After")).contains("1");
        assertThat(setCookies(away)).isEmpty();
        fake.fail(Reason.STORE_UNAVAILABLE, 1, "write");
        HttpResponse<String> unsaved = site.ask((request, response) -> {
            request.getSession().setAttribute("a", 2);
            response.getWriter().write("saved");
        });
        assertThat(unsaved.statusCode()).as("what could not be stored is not told as stored").isEqualTo(503);
        assertThat(unsaved.body()).doesNotContain("saved");
        fake.fail(null);
        site.cookie = cookie;
        site.ask((request, response) -> assertThat(request.getSession(false).getAttribute("a")).isEqualTo(1));
    }

    @Test
    void whatWasChangedBeforeAnExceptionIsStored() throws Exception {
        site.ask((request, response) -> request.getSession().setAttribute("a", 1));
        HttpResponse<String> failed = site.ask((request, response) -> {
            request.getSession().setAttribute("a", 2);
            throw new IllegalStateException("as a bug would");
        });
        assertThat(failed.statusCode()).isEqualTo(500);
        site.ask((request, response) -> assertThat(request.getSession().getAttribute("a")).isEqualTo(2));
    }

    @Test
    void thePrincipalOfTheSessionIsTheUserOfTheRequest() throws Exception {
        site.ask((request, response) -> {
            assertThat(request.getUserPrincipal()).isNull();
            SessiondFilter.session(request).login("ann");
        });
        site.ask((request, response) -> {
            assertThat(request.getRemoteUser()).isEqualTo("ann");
            request.logout();
            assertThat(request.getUserPrincipal()).isNull();
        });
        assertThat(fake.sessions()).isEmpty();
    }

    @Test
    void timesAndIds() throws Exception {
        site.ask((request, response) -> {
            HttpSession session = request.getSession();
            session.setMaxInactiveInterval(60);
            assertThat(session.getMaxInactiveInterval()).isEqualTo(60);
            assertThat(session.getId()).hasSize(16);
            assertThat(session.getCreationTime()).isPositive().isLessThanOrEqualTo(System.currentTimeMillis());
        });
        site.ask((request, response) -> {
            assertThat(request.isRequestedSessionIdValid()).isTrue();
            assertThat(request.getRequestedSessionId()).isEqualTo(request.getSession().getId());
            assertThat(request.getSession().getMaxInactiveInterval()).isEqualTo(60);
        });
        fake.advance(Duration.ofMinutes(2));
        site.ask((request, response) -> assertThat(request.getSession(false)).as("expired").isNull());
    }

    @Test
    void octetsOfOtherCookiesBreakNothing() throws Exception {
        site.ask((request, response) -> request.getSession().setAttribute("a", 1));
        site.cookie = "x=\"; " + site.cookie + "; y=\u00e9\u00ff";
        site.ask((request, response) -> assertThat(request.getSession(false).getAttribute("a")).isEqualTo(1));
    }
}
