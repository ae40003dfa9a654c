package io.github.sessiond.spring;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.sessiond.client.InvalidArgumentException;
import java.math.BigDecimal;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Date;
import java.util.EnumMap;
import java.util.EnumSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.CopyOnWriteArrayList;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import org.springframework.security.authentication.UsernamePasswordAuthenticationToken;
import org.springframework.security.core.authority.SimpleGrantedAuthority;
import org.springframework.security.core.context.SecurityContextImpl;
import org.springframework.security.web.csrf.DefaultCsrfToken;
import org.springframework.web.servlet.FlashMap;

/** What attributes become, and which classes stored values can name. */
class AttributesTest {
    enum Color { RED, BLUE }

    record Basket(List<String> items, Color color) {}

    private final Attributes attributes =
            new Attributes(List.of("io.github.sessiond.spring"), getClass().getClassLoader(), null);

    private Object again(Object value) {
        return attributes.read("it", attributes.write("it", value));
    }

    @Test
    void valuesComeBackAsTheyWere() {
        Map<String, Object> map = new LinkedHashMap<>(Map.of("a", 5L));
        EnumMap<Color, Integer> counts = new EnumMap<>(Map.of(Color.RED, 1));
        for (Object value : List.of(
                5L, 'c', new BigDecimal("1.50"), Instant.EPOCH, new Date(5), UUID.randomUUID(), Locale.FRANCE, URI.create("http://a/b"),
                Set.of("admin"), new ArrayList<>(List.of(1, 2L)), map, Color.RED, EnumSet.of(Color.BLUE), counts,
                new Basket(List.of("tea"), Color.BLUE), new CopyOnWriteArrayList<>(List.of(1)))) {
            assertThat(again(value)).as(value.getClass().getName()).isEqualTo(value);
        }
        assertThat((long[]) again(new long[] {1, 2})).containsExactly(1, 2);
        assertThat((Basket[]) again(new Basket[] {new Basket(List.of(), Color.RED)})).hasSize(1);
    }

    @Test
    void aFlashMapKeepsItsPageAndItsEnd() {
        FlashMap flash = new FlashMap();
        flash.put("text", "saved");
        flash.put("number", 5L);
        flash.setTargetRequestPath("/next");
        flash.addTargetRequestParam("page", "1");
        flash.startExpirationPeriod(180);
        FlashMap bare = new FlashMap();
        List<?> found = (List<?>) again(new CopyOnWriteArrayList<>(List.of(flash, bare)));
        assertThat(found).hasOnlyElementsOfType(FlashMap.class).isEqualTo(List.of(flash, bare));
        FlashMap first = (FlashMap) found.get(0);
        assertThat(first.getTargetRequestParams()).isEqualTo(flash.getTargetRequestParams());
        assertThat(first.getExpirationTime()).isEqualTo(flash.getExpirationTime());
        assertThat(((FlashMap) found.get(1)).getExpirationTime()).isEqualTo(-1);
    }

    @Test
    void whatSpringSecurityKeepsComesBack() {
        SecurityContextImpl context = new SecurityContextImpl(UsernamePasswordAuthenticationToken.authenticated(
                "ann", null, List.of(new SimpleGrantedAuthority("ROLE_USER"))));
        assertThat(again(context)).isEqualTo(context);
        DefaultCsrfToken token = new DefaultCsrfToken("X-CSRF-TOKEN", "_csrf", "secret");
        assertThat(((DefaultCsrfToken) again(token)).getToken()).isEqualTo("secret");
    }

    /** Another service that can write into the session must not choose what is made here: this class opens a file. */
    @ParameterizedTest
    @ValueSource(strings = {
        "[\"java.util.Formatter\", FILE]",
        "[\"[Ljava.util.Formatter;\", [FILE]]",
        "[\"java.util.ArrayList<java.util.Formatter>\", [FILE]]",
        "[\"java.util.HashMap<java.lang.String,java.util.Formatter>\", {\"a\": FILE}]",
        "{\"@class\": \"java.util.LinkedHashMap\", \"a\": [\"java.util.Formatter\", FILE]}",
        "{\"@class\": \"org.springframework.web.servlet.FlashMap\", \"values\": [\"java.util.Formatter\", FILE]}",
        "{\"@class\": \"org.springframework.web.servlet.FlashMap\", \"values\": \"text\"}",
        "{\"@class\": \"org.springframework.context.support.FileSystemXmlApplicationContext\", \"configLocation\": FILE}",
    })
    void storedValuesDoNotChooseClasses(String stored, @TempDir Path folder) {
        Path file = folder.resolve("made");
        String text = "{\"@java\":" + stored.replace("FILE", "\"" + file + "\"") + "}";
        assertThatThrownBy(() -> attributes.read("it", text))
                .isInstanceOf(InvalidArgumentException.class)
                .hasMessageContaining("\"it\"")
                .hasMessageContaining("sessiond.trusted-packages");
        assertThat(Files.exists(file)).as("nothing was made").isFalse();
    }

    @Test
    void aClassThatIsNotTrustedIsRefusedWhenItIsSet() {
        Attributes strict = new Attributes(List.of(), getClass().getClassLoader(), null);
        assertThatThrownBy(() -> strict.write("basket", new Basket(List.of(), Color.RED)))
                .isInstanceOf(InvalidArgumentException.class)
                .hasMessageContaining("\"basket\"")
                .hasMessageContaining(Basket.class.getName());
        assertThatThrownBy(() -> attributes.write("bad", new Object())).isInstanceOf(InvalidArgumentException.class);
    }
}
