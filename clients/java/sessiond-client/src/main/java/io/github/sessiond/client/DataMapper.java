package io.github.sessiond.client;

import io.github.sessiond.client.internal.Json;
import tools.jackson.databind.json.JsonMapper;

/**
 * Turns values of a session into JSON and back, with the {@link JsonMapper} of an application: strictly, so that an object
 * without properties, NaN and infinities are refused. Make one, and use it for every request: it keeps what Jackson has
 * found out about classes.
 */
public final class DataMapper {
    /** Jackson with its defaults. */
    public static final DataMapper DEFAULT = new DataMapper(Json.MAPPER);

    final JsonMapper mapper;

    private DataMapper(JsonMapper strict) {
        this.mapper = strict;
    }

    /**
     * A mapper with the settings and modules of another one, which stays as it is.
     *
     * @param mapper the other one
     * @return the mapper
     */
    public static DataMapper of(JsonMapper mapper) {
        return new DataMapper(Json.strict(mapper));
    }
}
