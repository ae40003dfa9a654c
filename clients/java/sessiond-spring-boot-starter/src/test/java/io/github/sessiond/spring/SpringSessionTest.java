package io.github.sessiond.spring;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.sessiond.client.Reason;
import io.github.sessiond.client.RequestSession;
import io.github.sessiond.client.Session;
import io.github.sessiond.client.SessiondAdmin;
import io.github.sessiond.servlet.SessiondFilter;
import io.github.sessiond.testing.FakeSessiond;
import io.micrometer.core.instrument.MeterRegistry;
import io.micrometer.core.instrument.simple.SimpleMeterRegistry;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpSession;
import java.io.InputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.security.Principal;
import java.time.Duration;
import java.time.Instant;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.springframework.beans.factory.annotation.Autowired;
import org.springframework.boot.SpringBootConfiguration;
import org.springframework.boot.autoconfigure.EnableAutoConfiguration;
import org.springframework.boot.health.contributor.HealthIndicator;
import org.springframework.boot.health.contributor.Status;
import org.springframework.boot.test.context.SpringBootTest;
import org.springframework.boot.test.web.server.LocalServerPort;
import org.springframework.context.annotation.Bean;
import org.springframework.security.config.annotation.web.builders.HttpSecurity;
import org.springframework.security.core.session.SessionRegistry;
import org.springframework.security.core.userdetails.User;
import org.springframework.security.core.userdetails.UserDetails;
import org.springframework.security.core.userdetails.UserDetailsService;
import org.springframework.security.provisioning.InMemoryUserDetailsManager;
import org.springframework.security.web.SecurityFilterChain;
import org.springframework.session.FindByIndexNameSessionRepository;
import org.springframework.session.SessionRepository;
import org.springframework.session.security.SpringSessionBackedSessionRegistry;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.PostMapping;
import org.springframework.web.bind.annotation.RequestParam;
import org.springframework.web.bind.annotation.RestController;

/** An application with Spring Security's own login, concurrent sessions and logout, unchanged. */
@SpringBootTest(webEnvironment = SpringBootTest.WebEnvironment.RANDOM_PORT, properties = "sessiond.trusted-packages=io.github.sessiond.spring")
@Timeout(60)
class SpringSessionTest {
    /** A class of the application. */
    public record Basket(List<String> items, Instant since) {}

    @SpringBootConfiguration
    @EnableAutoConfiguration
    static class Application {
        @Bean
        FakeSessiond fake() {
            return FakeSessiond.create();
        }

        /** The fake's admin service: it knows all sessions. */
        @Bean
        SessiondAdmin admin(FakeSessiond fake) {
            return new SessiondAdmin() {
                @Override
                public List<Session> listSessions(String engine, String principal) {
                    return fake.sessions().stream().filter(session -> principal.equals(session.principal())).toList();
                }

                @Override
                public int revokeSessions(String engine, Collection<String> ids) {
                    return fake.revoke(ids);
                }

                @Override
                public void close() {}
            };
        }

        @Bean
        MeterRegistry meters() {
            return new SimpleMeterRegistry();
        }

        @Bean
        UserDetailsService users() {
            UserDetails ann = User.withUsername("ann").password("{noop}secret").roles("USER").build();
            UserDetails bob = User.withUsername("bob").password("{noop}secret").roles("USER").build();
            return new InMemoryUserDetailsManager(ann, bob);
        }

        @Bean
        PrincipalAuthentication principals(UserDetailsService users) {
            return principal -> {
                UserDetails user = users.loadUserByUsername(principal);
                return org.springframework.security.authentication.UsernamePasswordAuthenticationToken.authenticated(user, null, user.getAuthorities());
            };
        }

        @Bean
        SessionRegistry registry(FindByIndexNameSessionRepository<SessiondSession> repository) {
            return new SpringSessionBackedSessionRegistry<>(repository);
        }

        @Bean
        SecurityFilterChain security(HttpSecurity http, SessionRegistry registry) throws Exception {
            return http
                    .authorizeHttpRequests(requests -> requests.requestMatchers("/private").authenticated().anyRequest().permitAll())
                    .csrf(csrf -> csrf.disable())
                    .formLogin(form -> form.successHandler((request, response, user) -> response.getWriter().write("welcome")))
                    .logout(logout -> logout.logoutSuccessHandler((request, response, user) -> response.getWriter().write("bye")))
                    .sessionManagement(sessions -> sessions.maximumSessions(2).sessionRegistry(registry))
                    .build();
        }

        @Bean
        Pages pages() {
            return new Pages();
        }
    }

    @RestController
    static class Pages {
        @GetMapping("/read")
        String read(HttpServletRequest request, Principal user) {
            HttpSession session = request.getSession(false);
            return (user == null ? "nobody" : user.getName()) + " " + (session == null ? null : session.getAttribute("text"));
        }

        @PostMapping("/set")
        String set(HttpSession session, @RequestParam String text) {
            session.setAttribute("text", text);
            return "set";
        }

        @PostMapping("/basket")
        String basket(HttpSession session) {
            session.setAttribute("basket", new Basket(List.of("tea"), Instant.EPOCH));
            session.setAttribute("number", 5L);
            session.setAttribute("roles", Set.of("admin"));
            return "kept";
        }

        @GetMapping("/basket")
        String kept(HttpSession session) {
            Basket basket = (Basket) session.getAttribute("basket");
            return basket.items() + " " + basket.since() + " " + (Long) session.getAttribute("number") + " " + session.getAttribute("roles");
        }

        @PostMapping("/bad")
        String bad(HttpSession session) {
            session.setAttribute("bad", new Object());
            return "kept";
        }

        @GetMapping("/id")
        String id(HttpSession session) {
            return session.getId();
        }

        @GetMapping("/private")
        String secret(Principal user) {
            return "for " + user.getName();
        }

        @PostMapping("/everywhere")
        String everywhere(RequestSession session) {
            return "ended " + session.logoutEverywhere();
        }

        @PostMapping("/login-elsewhere")
        String elsewhere(HttpServletRequest request) {
            SessiondFilter.session(request).login("bob");
            return "as another language would";
        }
    }

    private final class Browser {
        private final HttpClient http = HttpClient.newHttpClient();
        private String cookie;
        private HttpResponse<String> last;

        String send(String method, String path, String form) throws Exception {
            HttpRequest.Builder request = HttpRequest.newBuilder(URI.create("http://127.0.0.1:" + port + path))
                    .header("Content-Type", "application/x-www-form-urlencoded")
                    .method(method, HttpRequest.BodyPublishers.ofString(form));
            if (cookie != null) {
                request.header("Cookie", cookie);
            }
            last = http.send(request.build(), HttpResponse.BodyHandlers.ofString());
            List<String> lines = last.headers().allValues("Set-Cookie");
            assertThat(lines).as("at most one line").hasSizeLessThanOrEqualTo(1);
            for (String line : lines) {
                assertThat(line).startsWith("session=");
                cookie = line.contains("Max-Age=0") ? null : line.substring(0, line.indexOf(';'));
            }
            return last.body();
        }

        String get(String path) throws Exception {
            return send("GET", path, "");
        }

        String post(String path, String form) throws Exception {
            return send("POST", path, form);
        }

        void login(String user) throws Exception {
            assertThat(post("/login", "username=" + user + "&password=secret")).isEqualTo("welcome");
        }
    }

    @LocalServerPort
    private int port;

    @Autowired
    private FakeSessiond fake;

    @Autowired
    private SessionRepository<?> repository;

    @Autowired
    private MeterRegistry meters;

    @Autowired
    private HealthIndicator sessiondHealthIndicator;

    @AfterEach
    void empty() {
        fake.fail(null);
        fake.revoke(fake.sessions().stream().map(Session::id).toList());
    }

    @Test
    void theRepositoryIsTheDaemons() {
        assertThat(repository).isInstanceOf(SessiondSessionRepository.class);
    }

    @Test
    void thePropertiesTellNoToken() {
        SessiondProperties properties = new SessiondProperties(
                "127.0.0.1:1", "", "secret-token", null, Duration.ofSeconds(1), 1, new SessiondProperties.Tls(false, null, null, null, null), "127.0.0.1:2", "secret-admin", null, List.of());
        assertThat(properties.toString()).contains("127.0.0.1:1").doesNotContain("secret");
    }

    @Test
    void theJarTellsEditorsOfTheProperties() throws Exception {
        String metadata;
        try (InputStream in = SessiondProperties.class.getResourceAsStream("/META-INF/spring-configuration-metadata.json")) {
            metadata = new String(in.readAllBytes(), StandardCharsets.UTF_8);
        }
        assertThat(metadata).contains("\"sessiond.trusted-packages\"", "\"sessiond.tls.server-name\"", "How long an operation may take.");
    }

    @Test
    void readingMakesNoSession() throws Exception {
        Browser browser = new Browser();
        assertThat(browser.get("/read")).isEqualTo("nobody null");
        assertThat(browser.cookie).isNull();
        assertThat(fake.sessions()).isEmpty();
    }

    @Test
    void plainAttributesAreReadByOtherLanguagesAndOthersComeBackAsTheyWere() throws Exception {
        Browser browser = new Browser();
        browser.post("/set", "text=hello");
        assertThat(browser.get("/read")).isEqualTo("nobody hello");
        assertThat(fake.sessions()).singleElement().satisfies(session -> assertThat(session.json()).contains("\"text\":\"hello\""));
        browser.post("/basket", "");
        assertThat(browser.get("/basket")).isEqualTo("[tea] 1970-01-01T00:00:00Z 5 [admin]");
        assertThat(browser.last.headers().allValues("Set-Cookie")).as("nothing to learn").isEmpty();
        browser.post("/bad", "");
        assertThat(browser.last.statusCode()).isEqualTo(500);
    }

    @Test
    void aLoginOfSpringSecurityIsALoginOfTheSession() throws Exception {
        Browser browser = new Browser();
        browser.post("/set", "text=kept");
        String before = browser.cookie;
        String idBefore = browser.get("/id");
        browser.login("ann");
        assertThat(browser.cookie).as("session fixation protection").isNotEqualTo(before);
        assertThat(browser.get("/id")).isNotEqualTo(idBefore).isEqualTo(browser.get("/id"));
        assertThat(browser.get("/read")).isEqualTo("ann kept");
        assertThat(browser.get("/private")).isEqualTo("for ann");
        assertThat(fake.sessions()).singleElement().satisfies(session -> assertThat(session.principal()).isEqualTo("ann"));
        Browser late = new Browser();
        late.cookie = before;
        assertThat(late.get("/read")).isEqualTo("nobody null");
        late.post("/set", "text=late");
        assertThat(late.last.statusCode()).isEqualTo(409);
        assertThat(late.last.body()).as("the error page of the application").contains("409");
        late.post("/login", "username=bob&password=secret");
        assertThat(late.last.statusCode()).as("a login with an id from before one").isEqualTo(409);
        assertThat(late.cookie).isEqualTo(before);
        assertThat(fake.sessions()).as("and nothing was created").singleElement().satisfies(session -> assertThat(session.principal()).isEqualTo("ann"));
        assertThat(browser.post("/logout", "")).isEqualTo("bye");
        assertThat(browser.cookie).isNull();
        assertThat(fake.sessions()).isEmpty();
    }

    @Test
    void anotherUsersLoginDropsWhatTheFirstHad() throws Exception {
        Browser browser = new Browser();
        browser.login("ann");
        browser.post("/set", "text=anns");
        browser.login("bob");
        assertThat(browser.get("/read")).isEqualTo("bob null");
        assertThat(fake.sessions()).singleElement().satisfies(session -> assertThat(session.principal()).isEqualTo("bob"));
    }

    @Test
    void aUserWhoIsLoggedInElsewhereIsKnownHere() throws Exception {
        Browser browser = new Browser();
        browser.post("/login-elsewhere", "");
        assertThat(browser.get("/private")).isEqualTo("for bob");
    }

    @Test
    void concurrentSessionsEndTheOneThatWasIdleForLongest() throws Exception {
        Browser[] browsers = {new Browser(), new Browser(), new Browser()};
        for (Browser browser : browsers) {
            browser.login("ann");
            fake.advance(java.time.Duration.ofMinutes(2));
        }
        assertThat(fake.sessions()).hasSize(2);
        assertThat(browsers[0].get("/read")).isEqualTo("nobody null");
        assertThat(browsers[1].get("/read")).isEqualTo("ann null");
        assertThat(browsers[2].get("/read")).isEqualTo("ann null");
    }

    @Test
    void logoutEverywhereEndsAll() throws Exception {
        Browser here = new Browser();
        Browser there = new Browser();
        here.login("ann");
        there.login("ann");
        assertThat(here.post("/everywhere", "")).isEqualTo("ended 2");
        assertThat(there.get("/private")).as("asked to log in").doesNotContain("for ann");
    }

    @Test
    void anOutageIsA503AndLogsNobodyOut() throws Exception {
        Browser browser = new Browser();
        browser.login("ann");
        fake.fail(Reason.STORE_UNAVAILABLE);
        browser.get("/private");
        assertThat(browser.last.statusCode()).isEqualTo(503);
        assertThat(browser.last.headers().firstValue("Retry-After")).contains("1");
        fake.fail(Reason.STORE_UNAVAILABLE, 100, "write");
        assertThat(browser.post("/set", "text=a")).isNotEqualTo("set");
        assertThat(browser.last.statusCode()).isEqualTo(503);
        fake.fail(null);
        assertThat(browser.get("/private")).isEqualTo("for ann");
    }

    @Test
    void healthAndMeters() throws Exception {
        assertThat(sessiondHealthIndicator.health().getStatus()).isEqualTo(Status.UP);
        new Browser().post("/set", "text=a");
        SessiondMetrics metrics = new SessiondMetrics(new org.springframework.beans.factory.support.StaticListableBeanFactory(Map.of("meters", meters)).getBeanProvider(MeterRegistry.class));
        fake.listen(metrics);
        new Browser().post("/set", "text=a");
        fake.listen(io.github.sessiond.client.SessiondListener.NONE);
        assertThat(meters.get("sessiond.client.operations").tags("operation", "write", "outcome", "SUCCESS").timer().count()).isPositive();
    }
}
