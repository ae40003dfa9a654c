package io.github.sessiond.spring;

import java.util.List;
import java.util.function.Function;
import org.springframework.security.authentication.AnonymousAuthenticationToken;
import org.springframework.security.core.Authentication;
import org.springframework.security.core.context.SecurityContext;
import org.springframework.security.core.context.SecurityContextImpl;
import org.springframework.security.jackson.SecurityJacksonModules;
import tools.jackson.databind.JacksonModule;
import tools.jackson.databind.jsontype.BasicPolymorphicTypeValidator;

/** What needs Spring Security: loaded only where it is. */
final class SecuritySupport {
    private final Function<String, Object> authentication;

    SecuritySupport(Function<String, Object> authentication) {
        this.authentication = authentication;
    }

    static List<JacksonModule> modules(ClassLoader loader, BasicPolymorphicTypeValidator.Builder validator) {
        return SecurityJacksonModules.getModules(loader, validator);
    }

    String nameOf(Object context) {
        if (!(context instanceof SecurityContext security) || security.getAuthentication() == null) {
            return null;
        }
        Authentication user = security.getAuthentication();
        return !user.isAuthenticated() || user instanceof AnonymousAuthenticationToken ? null : user.getName();
    }

    Object contextOf(String principal) {
        return authentication != null && authentication.apply(principal) instanceof Authentication user ? new SecurityContextImpl(user) : null;
    }
}
