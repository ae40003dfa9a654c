package io.github.sessiond.client.internal;

import static org.assertj.core.api.Assertions.assertThat;

import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.junit.jupiter.api.Test;

class JsonTest {
    @Test
    void membersKeepTheirOctets() {
        String json = " { \"a\" : 1.50 , \"b\\\"}\":{\"x\":[1,{\"y\":\"],}\\\\\"}]} ,\"c\":\"\\u00e9, {\",\"\":null,\"d\":[ ] } ";
        assertThat(Json.members(json)).containsExactlyEntriesOf(ordered(
                "a", "1.50", "b\"}", "{\"x\":[1,{\"y\":\"],}\\\\\"}]}", "c", "\"\\u00e9, {\"", "", "null", "d", "[ ]"));
        assertThat(Json.members("{}")).isEmpty();
        assertThat(Json.members("")).isEmpty();
    }

    private static Map<String, String> ordered(String... pairs) {
        Map<String, String> map = new java.util.LinkedHashMap<>();
        for (int i = 0; i < pairs.length; i += 2) {
            map.put(pairs[i], pairs[i + 1]);
        }
        return map;
    }

    @Test
    void anObjectIsReadBackByAnyParser() {
        Map<String, Object> data = new TreeMap<>(Map.of("quote\"", "a\\b", "n", 1, "list", List.of(1.5, true)));
        String json = Json.write(data);
        assertThat(Json.MAPPER.readValue(json, Map.class)).isEqualTo(data);
        assertThat(Json.members(json)).containsOnlyKeys("quote\"", "n", "list");
    }

    @Test
    void numbersAreComparedToTheirLastDigit() {
        assertThat(Json.same("0.1", "0.10000000000000000001")).isFalse();
        assertThat(Json.same("9007199254740993", "9007199254740992")).isFalse();
        assertThat(Json.same("{\"a\":[1.5],\"b\":2}", "{\"b\": 2, \"a\": [1.5]}")).isTrue();
    }

    @Test
    void halfSurrogatePairsAreEscapedHoweverManyThereAre() {
        int many = 200_000;
        assertThat(Json.wellFormed("\"" + "\ud83d".repeat(many) + "\ud83d\ude00\udc00\"")).isEqualTo("\"" + "\\ud83d".repeat(many) + "\ud83d\ude00\\udc00\"");
    }

    @Test
    void levelsAreCountedOutsideOfTexts() {
        assertThat(Json.levels("1")).isZero();
        assertThat(Json.levels("{\"a\":[\"[[[\",{}]}")).isEqualTo(3);
    }

    @Test
    void halfASurrogatePairIsEscaped() {
        assertThat(Json.wellFormed("\"\ud83d\ude00 \ud83d \ude00\"")).isEqualTo("\"\ud83d\ude00 \\ud83d \\ude00\"");
        assertThat(Json.isWellFormed("\ud83d\ude00")).isTrue();
        assertThat(Json.isWellFormed("\ude00\ud83d")).isFalse();
    }

    @Test
    void sameValuesAreTheSame() {
        assertThat(Json.same("{\"a\":1, \"b\":2}", "{\"b\":2,\"a\":1}")).isTrue();
        assertThat(Json.same("\"\\u00e9\"", "\"\u00e9\"")).isTrue();
        assertThat(Json.same("1", "2")).isFalse();
    }

    @Test
    void aCookieIsFoundByItsNameOctetByOctet() {
        for (String header : List.of("session=1", "a=b; session=", " \tsession \t=x", "x;session=y", "session2=1; session=2")) {
            assertThat(has(header)).as(header).isTrue();
        }
        for (String header : List.of("", "session", "asession=1", "session2=1", "a=session=1", "a=b session=1", "Session=1")) {
            assertThat(has(header)).as(header).isFalse();
        }
    }

    private static boolean has(String header) {
        return CookieHeader.has(header.getBytes(StandardCharsets.ISO_8859_1), "session");
    }
}
