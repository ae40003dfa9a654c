/**
 * A client of the sessiond daemon, and one request's view of its session.
 *
 * <p>Make one {@link io.github.sessiond.client.SessiondClient} for each process and share it. In a web application use
 * {@link io.github.sessiond.client.RequestSession} through an adapter: {@code sessiond-servlet} or
 * {@code sessiond-spring-boot-starter}.
 */
package io.github.sessiond.client;
