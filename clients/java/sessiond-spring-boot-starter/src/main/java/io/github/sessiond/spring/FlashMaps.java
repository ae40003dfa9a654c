package io.github.sessiond.spring;

import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.springframework.web.servlet.FlashMap;
import tools.jackson.core.JsonGenerator;
import tools.jackson.core.JsonParser;
import tools.jackson.core.JsonToken;
import tools.jackson.core.type.WritableTypeId;
import tools.jackson.databind.DeserializationContext;
import tools.jackson.databind.JacksonModule;
import tools.jackson.databind.SerializationContext;
import tools.jackson.databind.ValueDeserializer;
import tools.jackson.databind.ValueSerializer;
import tools.jackson.databind.jsontype.TypeSerializer;
import tools.jackson.databind.module.SimpleModule;

/**
 * Flash attributes of Spring MVC. To Jackson they are a map, and the page that they are for and their end would be lost.
 * Loaded only where Spring MVC is.
 */
final class FlashMaps {
    private FlashMaps() {}

    static JacksonModule module() {
        return new SimpleModule("sessiond-flash-maps").addSerializer(FlashMap.class, new Writer()).addDeserializer(FlashMap.class, new Reader());
    }

    private static final class Writer extends ValueSerializer<FlashMap> {
        @Override
        public void serialize(FlashMap flash, JsonGenerator out, SerializationContext context) {
            out.writeStartObject(flash);
            members(flash, out, context);
            out.writeEndObject();
        }

        @Override
        public void serializeWithType(FlashMap flash, JsonGenerator out, SerializationContext context, TypeSerializer types) {
            WritableTypeId type = types.writeTypePrefix(out, context, types.typeId(flash, JsonToken.START_OBJECT));
            members(flash, out, context);
            types.writeTypeSuffix(out, context, type);
        }

        private static void members(FlashMap flash, JsonGenerator out, SerializationContext context) {
            Map<String, List<String>> parameters = new LinkedHashMap<>(flash.getTargetRequestParams());
            out.writeStringProperty("path", flash.getTargetRequestPath());
            out.writeNumberProperty("expires", flash.getExpirationTime());
            out.writeName("parameters");
            context.writeValue(out, parameters);
            out.writeName("values");
            context.writeValue(out, new HashMap<>(flash));
        }
    }

    private static final class Reader extends ValueDeserializer<FlashMap> {
        @Override
        public FlashMap deserialize(JsonParser in, DeserializationContext context) {
            FlashMap flash = new FlashMap();
            if (in.currentToken() == JsonToken.START_OBJECT) {
                in.nextToken();
            }
            for (; in.currentToken() == JsonToken.PROPERTY_NAME; in.nextToken()) {
                String name = in.currentName();
                JsonToken value = in.nextToken();
                switch (name) {
                    case "path" -> flash.setTargetRequestPath(value == JsonToken.VALUE_NULL ? null : in.getString());
                    case "expires" -> flash.setExpirationTime(in.getLongValue());
                    case "parameters" -> parameters(context.readValue(in, Object.class)).forEach((key, all) ->
                            all.forEach(one -> flash.addTargetRequestParam(key, one)));
                    case "values" -> context.<Map<String, Object>>readValue(in, context.constructType(Object.class)).forEach(flash::put);
                    default -> in.skipChildren();
                }
            }
            return flash;
        }

        @SuppressWarnings("unchecked")
        private static Map<String, List<String>> parameters(Object read) {
            return (Map<String, List<String>>) read;
        }
    }
}
