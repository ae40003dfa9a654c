package shop;

import io.github.sessiond.servlet.SessiondFilter;
import io.github.sessiond.spring.PrincipalAuthentication;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Map;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.boot.web.server.servlet.context.ServletWebServerInitializedEvent;
import org.springframework.context.annotation.Bean;
import org.springframework.context.event.EventListener;
import org.springframework.http.MediaType;
import org.springframework.security.authentication.AuthenticationProvider;
import org.springframework.security.authentication.BadCredentialsException;
import org.springframework.security.authentication.UsernamePasswordAuthenticationToken;
import org.springframework.security.config.annotation.web.builders.HttpSecurity;
import org.springframework.security.core.Authentication;
import org.springframework.security.web.SecurityFilterChain;
import tools.jackson.databind.json.JsonMapper;

/** A small shop: visits, a cart, a flash message, login, devices. sessiond owns the sessions. */
@SpringBootApplication
public class Shop {
    public static void main(String[] arguments) {
        SpringApplication.run(Shop.class, arguments);
    }

    /** Spring Security's own login and logout, which answer with JSON. */
    @Bean
    SecurityFilterChain security(HttpSecurity http, JsonMapper json) throws Exception {
        return http
                .authorizeHttpRequests(requests -> requests.anyRequest().permitAll())
                // The shop's forms have no field for a token. The session cookie is SameSite=Lax.
                .csrf(csrf -> csrf.disable())
                .formLogin(form -> form
                        .loginPage("/login")
                        .usernameParameter("user")
                        .successHandler((request, response, user) -> {
                            response.setContentType(MediaType.APPLICATION_JSON_VALUE);
                            json.writeValue(response.getOutputStream(), Map.of("user", user.getName()));
                        })
                        .failureHandler((request, response, failure) -> {
                            response.setStatus(400);
                            response.setContentType(MediaType.APPLICATION_JSON_VALUE);
                            response.getWriter().write("{}");
                        }))
                .logout(logout -> logout
                        // Also with an id from just before a login, which is nobody's to Spring.
                        .addLogoutHandler((request, response, user) -> SessiondFilter.session(request).logout())
                        .logoutSuccessHandler((request, response, user) -> {
                            response.setContentType(MediaType.APPLICATION_JSON_VALUE);
                            response.getWriter().write("{}");
                        }))
                .build();
    }

    /** A real application checks a password here. */
    @Bean
    AuthenticationProvider users() {
        return new AuthenticationProvider() {
            @Override
            public Authentication authenticate(Authentication given) {
                String user = given.getName();
                if (user.isEmpty() || user.getBytes(StandardCharsets.UTF_8).length > 256) {
                    throw new BadCredentialsException("no such user");
                }
                return UsernamePasswordAuthenticationToken.authenticated(user, null, List.of());
            }

            @Override
            public boolean supports(Class<?> type) {
                return type == UsernamePasswordAuthenticationToken.class;
            }
        };
    }

    /** A user who has logged in at another application on the same daemon is one of ours. */
    @Bean
    PrincipalAuthentication principals() {
        return principal -> UsernamePasswordAuthenticationToken.authenticated(principal, null, List.of());
    }

    @EventListener
    void listening(ServletWebServerInitializedEvent event) {
        System.out.println("listening on http://127.0.0.1:" + event.getWebServer().getPort());
    }
}
