package bench;

import io.github.sessiond.spring.SessiondAutoConfiguration;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpSession;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.boot.data.redis.autoconfigure.DataRedisAutoConfiguration;
import org.springframework.boot.session.autoconfigure.SessionAutoConfiguration;
import org.springframework.boot.session.data.redis.autoconfigure.SessionDataRedisAutoConfiguration;
import org.springframework.context.annotation.Bean;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.PostMapping;
import org.springframework.web.bind.annotation.RestController;
import tools.jackson.core.type.TypeReference;
import tools.jackson.databind.json.JsonMapper;

/** Spring Boot: bare, with Spring Session on Redis (Lettuce), and with sessiond. The handlers are the same. */
@SpringBootApplication
public class App {
    private static final Map<String, List<Class<?>>> WITHOUT = Map.of(
            "bare", List.of(SessiondAutoConfiguration.class, SessionDataRedisAutoConfiguration.class, SessionAutoConfiguration.class, DataRedisAutoConfiguration.class),
            "today", List.of(SessiondAutoConfiguration.class),
            "ours", List.of(SessionDataRedisAutoConfiguration.class, DataRedisAutoConfiguration.class));

    public static void main(String[] arguments) {
        SpringApplication application = new SpringApplication(App.class);
        String without = WITHOUT.get(System.getenv("VARIANT")).stream().map(Class::getName).collect(Collectors.joining(","));
        application.setDefaultProperties(Map.of("spring.autoconfigure.exclude", without));
        application.run(arguments);
    }

    /** What the handlers use. */
    interface Values {
        Object get(HttpServletRequest request, String key);

        void put(HttpServletRequest request, String key, Object value);
    }

    @Bean
    Map<String, Object> data() {
        return new JsonMapper().readValue(Path.of("data.json").toFile(), new TypeReference<>() {});
    }

    @Bean
    Values values(Map<String, Object> data) {
        if ("bare".equals(System.getenv("VARIANT"))) {
            return new Values() {
                @Override
                public Object get(HttpServletRequest request, String key) {
                    return data.get(key);
                }

                @Override
                public void put(HttpServletRequest request, String key, Object value) {}
            };
        }
        return new Values() {
            @Override
            public Object get(HttpServletRequest request, String key) {
                HttpSession session = request.getSession(false);
                return session == null ? null : session.getAttribute(key);
            }

            @Override
            public void put(HttpServletRequest request, String key, Object value) {
                request.getSession().setAttribute(key, value);
            }
        };
    }

    @RestController
    static class Pages {
        private final Values values;
        private final Map<String, Object> data;

        Pages(Values values, Map<String, Object> data) {
            this.values = values;
            this.data = data;
        }

        record Shown(Object user, int items, int count) {}

        @GetMapping("/")
        Shown show(HttpServletRequest request) {
            List<?> cart = (List<?>) values.get(request, "cart");
            return new Shown(values.get(request, "user"), cart == null ? 0 : cart.size(), count(request));
        }

        @PostMapping("/change")
        Shown change(HttpServletRequest request) {
            values.put(request, "count", count(request) + 1);
            return show(request);
        }

        @PostMapping("/begin")
        Shown begin(HttpServletRequest request) {
            Stream.of("user", "theme", "cart", "note").forEach(key -> values.put(request, key, data.get(key)));
            return show(request);
        }

        private int count(HttpServletRequest request) {
            Integer count = (Integer) values.get(request, "count");
            return count == null ? 0 : count;
        }
    }
}
