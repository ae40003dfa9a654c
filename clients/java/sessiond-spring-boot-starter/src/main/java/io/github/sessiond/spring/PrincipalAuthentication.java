package io.github.sessiond.spring;

import org.springframework.security.core.Authentication;

/**
 * Says what a principal is to Spring Security whom another application has logged in, in any language. Without a bean of
 * this type, such a user is nobody to Spring Security; {@link io.github.sessiond.client.RequestSession#principal} tells
 * the principal all the same.
 */
@FunctionalInterface
public interface PrincipalAuthentication {
    /**
     * The authentication of a principal.
     *
     * @param principal whom the session belongs to
     * @return the authentication, with the user's authorities; null: nobody
     */
    Authentication authenticate(String principal);
}
