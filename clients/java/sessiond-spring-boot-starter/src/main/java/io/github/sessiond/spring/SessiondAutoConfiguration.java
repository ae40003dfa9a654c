package io.github.sessiond.spring;

import io.github.sessiond.client.RequestSession;
import io.github.sessiond.client.SessiondAdmin;
import io.github.sessiond.client.SessiondClient;
import io.github.sessiond.client.SessiondClientBuilder;
import io.github.sessiond.client.SessiondListener;
import io.github.sessiond.client.TlsOptions;
import io.github.sessiond.servlet.SessiondFilter;
import io.micrometer.core.instrument.MeterRegistry;
import jakarta.servlet.DispatcherType;
import jakarta.servlet.Filter;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.nio.file.Path;
import java.util.EnumSet;
import java.util.List;
import java.util.function.Function;
import org.springframework.beans.factory.ObjectProvider;
import org.springframework.boot.autoconfigure.AutoConfiguration;
import org.springframework.boot.autoconfigure.condition.ConditionalOnClass;
import org.springframework.boot.autoconfigure.condition.ConditionalOnMissingBean;
import org.springframework.boot.autoconfigure.condition.ConditionalOnWebApplication;
import org.springframework.boot.context.properties.EnableConfigurationProperties;
import org.springframework.boot.health.autoconfigure.contributor.ConditionalOnEnabledHealthIndicator;
import org.springframework.boot.health.contributor.HealthIndicator;
import org.springframework.boot.session.autoconfigure.SessionAutoConfiguration;
import org.springframework.boot.web.servlet.FilterRegistrationBean;
import org.springframework.context.ApplicationContext;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Condition;
import org.springframework.context.annotation.ConditionContext;
import org.springframework.context.annotation.Conditional;
import org.springframework.context.annotation.Configuration;
import org.springframework.core.MethodParameter;
import org.springframework.core.type.AnnotatedTypeMetadata;
import org.springframework.session.SessionRepository;
import org.springframework.session.config.annotation.web.http.EnableSpringHttpSession;
import org.springframework.session.web.http.HttpSessionIdResolver;
import org.springframework.session.web.http.SessionRepositoryFilter;
import org.springframework.web.bind.support.WebDataBinderFactory;
import org.springframework.web.context.request.NativeWebRequest;
import org.springframework.web.method.support.HandlerMethodArgumentResolver;
import org.springframework.web.method.support.ModelAndViewContainer;
import org.springframework.web.servlet.config.annotation.WebMvcConfigurer;

/** Puts the daemon's sessions in the place of the container's, through Spring Session. */
@AutoConfiguration(before = SessionAutoConfiguration.class)
@ConditionalOnWebApplication(type = ConditionalOnWebApplication.Type.SERVLET)
@ConditionalOnMissingBean(SessionRepository.class)
@EnableConfigurationProperties(SessiondProperties.class)
@EnableSpringHttpSession
public class SessiondAutoConfiguration {
    /** Everything of this configuration is made by its methods. */
    public SessiondAutoConfiguration() {}

    /**
     * The client.
     *
     * @param properties where the daemon is
     * @param listeners is told what the client does
     * @return the client
     */
    @Bean(destroyMethod = "close")
    @ConditionalOnMissingBean
    public SessiondClient sessiondClient(SessiondProperties properties, ObjectProvider<SessiondListener> listeners) {
        SessiondProperties.Tls tls = properties.tls();
        return builder(properties, properties.address(), properties.token(), properties.tokenFile())
                .engine(properties.engine())
                .maxInFlight(properties.maxInFlight())
                .tls(tls.enabled() ? new TlsOptions(tls.ca(), tls.cert(), tls.key(), tls.serverName()) : null)
                .listener(listeners.getIfAvailable(() -> SessiondListener.NONE))
                .build();
    }

    private static SessiondClientBuilder builder(SessiondProperties properties, String address, String token, Path tokenFile) {
        return SessiondClient.builder(address).token(token).tokenFile(tokenFile).timeout(properties.timeout());
    }

    @Bean
    Attributes sessiondAttributes(SessiondProperties properties, ApplicationContext context) {
        Function<String, Object> authentication = null;
        if (org.springframework.util.ClassUtils.isPresent("org.springframework.security.core.Authentication", context.getClassLoader())) {
            authentication = principal -> {
                PrincipalAuthentication bean = context.getBeanProvider(PrincipalAuthentication.class).getIfAvailable();
                return bean == null ? null : bean.authenticate(principal);
            };
        }
        return new Attributes(properties.trustedPackages(), context.getClassLoader(), authentication);
    }

    /**
     * The repository of Spring Session.
     *
     * @param client the client
     * @param properties where the admin service is
     * @param attributes reads and writes attributes
     * @return the repository
     */
    @Bean
    SessiondSessionRepository sessionRepository(SessiondClient client, ObjectProvider<SessiondAdmin> admin, Attributes attributes) {
        return new SessiondSessionRepository(client, admin.getIfAvailable(), attributes);
    }

    @Bean(destroyMethod = "close")
    @ConditionalOnMissingBean
    @Conditional(OnAdminAddress.class)
    SessiondAdmin sessiondAdmin(SessiondProperties properties) {
        return builder(properties, properties.adminAddress(), properties.adminToken(), properties.adminTokenFile()).buildAdmin();
    }

    static final class OnAdminAddress implements Condition {
        @Override
        public boolean matches(ConditionContext context, AnnotatedTypeMetadata metadata) {
            return !context.getEnvironment().getProperty("sessiond.admin-address", "").isEmpty();
        }
    }

    /** The daemon reads and makes cookies, and the SessiondFilter sends them. */
    @Bean
    HttpSessionIdResolver httpSessionIdResolver() {
        return new HttpSessionIdResolver() {
            @Override
            public List<String> resolveSessionIds(HttpServletRequest request) {
                return request.getHeader("Cookie") == null ? List.of() : List.of(SessiondSessionRepository.OF_REQUEST);
            }

            @Override
            public void setSessionId(HttpServletRequest request, HttpServletResponse response, String sessionId) {}

            @Override
            public void expireSession(HttpServletRequest request, HttpServletResponse response) {}
        };
    }

    @Bean
    FilterRegistrationBean<SessiondFilter> sessiondFilter(SessiondClient client) {
        return before(new SessiondFilter(client), 2);
    }

    @Bean
    FilterRegistrationBean<CurrentSession> sessiondCurrentSession() {
        return before(new CurrentSession(), 1);
    }

    private static <F extends Filter> FilterRegistrationBean<F> before(F filter, int distance) {
        FilterRegistrationBean<F> registration = new FilterRegistrationBean<>(filter);
        registration.setOrder(SessionRepositoryFilter.DEFAULT_ORDER - distance);
        registration.setDispatcherTypes(EnumSet.of(DispatcherType.REQUEST, DispatcherType.ASYNC, DispatcherType.ERROR));
        return registration;
    }

    @Configuration(proxyBeanMethods = false)
    @ConditionalOnClass(WebMvcConfigurer.class)
    static class Arguments {
        /** A handler can take the request's session as an argument. */
        @Bean
        WebMvcConfigurer sessiondArguments() {
            HandlerMethodArgumentResolver resolver = new HandlerMethodArgumentResolver() {
                @Override
                public boolean supportsParameter(MethodParameter parameter) {
                    return parameter.getParameterType() == RequestSession.class;
                }

                @Override
                public Object resolveArgument(
                        MethodParameter parameter, ModelAndViewContainer container, NativeWebRequest request, WebDataBinderFactory factory) {
                    return SessiondFilter.session(request.getNativeRequest(HttpServletRequest.class));
                }
            };
            return new WebMvcConfigurer() {
                @Override
                public void addArgumentResolvers(List<HandlerMethodArgumentResolver> resolvers) {
                    resolvers.add(resolver);
                }
            };
        }
    }

    @Configuration(proxyBeanMethods = false)
    @ConditionalOnClass(MeterRegistry.class)
    static class Metrics {
        @Bean
        @ConditionalOnMissingBean
        SessiondListener sessiondMetrics(ObjectProvider<MeterRegistry> registry) {
            return new SessiondMetrics(registry);
        }
    }

    @Configuration(proxyBeanMethods = false)
    @ConditionalOnClass({HealthIndicator.class, ConditionalOnEnabledHealthIndicator.class})
    static class Health {
        @Bean
        @ConditionalOnEnabledHealthIndicator("sessiond")
        @ConditionalOnMissingBean(name = "sessiondHealthIndicator")
        HealthIndicator sessiondHealthIndicator(SessiondClient client) {
            return new SessiondHealthIndicator(client);
        }
    }
}
