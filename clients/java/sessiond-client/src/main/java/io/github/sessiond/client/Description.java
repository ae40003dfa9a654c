package io.github.sessiond.client;

import java.util.List;
import java.util.Optional;

/**
 * What the daemon is.
 *
 * @param version its version, such as {@code 0.2.0}
 * @param limits what it accepts
 * @param engines its engines, ordered by name
 */
public record Description(String version, Limits limits, List<Engine> engines) {
    /**
     * Finds an engine.
     *
     * @param name its name; empty: {@code default}
     * @return the engine, or nothing
     */
    public Optional<Engine> engine(String name) {
        String wanted = name.isEmpty() ? "default" : name;
        return engines.stream().filter(engine -> engine.name().equals(wanted)).findFirst();
    }
}
