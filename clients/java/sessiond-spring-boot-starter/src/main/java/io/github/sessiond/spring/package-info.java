/** Spring Session over the sessiond daemon, configured by Spring Boot with the properties {@code sessiond.*}. */
package io.github.sessiond.spring;
