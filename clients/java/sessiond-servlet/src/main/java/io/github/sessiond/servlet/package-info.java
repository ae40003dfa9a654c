/**
 * {@code HttpSession} over the sessiond daemon: {@link io.github.sessiond.servlet.SessiondFilter} for Jakarta Servlet 6.
 */
package io.github.sessiond.servlet;
